//! The rows of a step: shared out to threads, and computed a strip of pixels at a time.
use std::mem::take;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use graph::Shape;

use super::profile::{Activity, Clock};
use super::workspace::Codes;
use crate::float::{Compute, Finish, FloatOp, Memory, Pixels};
use crate::kernels::{
    AnyKernel, ConvCall, Largest, PlanesCall, QuantizeCall, Residual, Rows, SLACK, STRIP, Target, Task, WinogradCall,
};
use crate::layout::Layout;
use crate::plan::{Added, CodesView, EMITS, IntConv, Patches, Plan, Step, StepOp, WinogradConv};

/// The codes and scales of each integer form.
pub(super) type Emitted<'a> = [Option<(&'a mut [u8], &'a mut [f32])>; EMITS];

/// What a step writes, of some rows.
pub(super) struct Out<'a> {
    /// The value as floats.
    pub rows: Option<&'a mut [f32]>,
    pub emits: Emitted<'a>,
    pub scratch: &'a mut [f32],
    pub unpacked: &'a mut [u8],
    /// Room for codes and scales between the source and the step.
    pub band: Room<'a>,
    /// Room for codes and scales of a strip's patches.
    pub patches: Room<'a>,
}

/// Room for codes and scales.
type Room<'a> = (&'a mut [u8], &'a mut [f32]);

/// A step and what it reads.
pub(super) struct Work<'a> {
    pub plan: &'a Plan,
    /// The step that makes the input of this one as it runs.
    pub source: Option<&'a Step>,
    pub step: &'a Step,
    pub kernel: &'a AnyKernel,
    pub memory: Memory<'a>,
    pub codes: &'a [Codes],
    pub emits: &'a [CodesView],
    /// The largest magnitude of the value, where a form of it has one scale.
    pub largest: Option<f32>,
    /// The bits of the largest magnitude that was made, where the step notes it.
    pub noted: &'a AtomicU32,
    pub clock: Option<&'a Clock>,
}

/// Consecutive output pixels, and where they go.
struct Strip<'a, 'b> {
    first: usize,
    /// Room for the number of an input pixel for each of them.
    pixels: &'a mut [u32],
    out: &'a mut [f32],
    stride: usize,
    unpacked: &'a mut [u8],
    patches: &'a mut Room<'b>,
}

/// Some rows of a step's input, the first of which is row `first` of all, borders included.
#[derive(Clone, Copy)]
struct Band<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    first: usize,
}

/// Joins what is known of two shares of the values of a source and a step.
pub(super) fn both(a: [bool; 2], b: [bool; 2]) -> [bool; 2] {
    [a[0] & b[0], a[1] & b[1]]
}

impl Work<'_> {
    /// Runs rows in up to `parts` parts at the same time; returns whether all values of the source, and of the step, are finite.
    pub fn split(&self, rows: Range<usize>, mut out: Out<'_>, parts: usize) -> [bool; 2] {
        // Tiles of Winograd's algorithm have two rows.
        let two = if matches!(self.step.op, StepOp::Winograd(_)) { 2 } else { 1 };
        let half = rows.len() / 2 / two * two;
        if parts < 2 || half == 0 {
            return match (self.source, &self.step.op) {
                (Some(source), StepOp::Conv(conv)) => self.bands(source, conv, rows, &mut out),
                _ => [true, self.rows(rows.clone(), rows.start, &mut out, None)],
            };
        }
        let [low, high] = self.halves(half, out, parts);
        let middle = rows.start + half;
        let (first, second) = rayon::join(
            || self.split(rows.start..middle, low, parts / 2),
            || self.split(middle..rows.end, high, parts - parts / 2),
        );
        both(first, second)
    }

    /// Runs rows of this step and those of `source` that they read, a band at a time; returns as [`Work::split`].
    fn bands(&self, source: &Step, conv: &IntConv, rows: Range<usize>, out: &mut Out<'_>) -> [bool; 2] {
        let (view, [stride, _]) = (&conv.input, conv.stride);
        let (layout, kept) = (self.plan.layout(view), view.band.unwrap_or(conv.reach));
        let size = [view.width * layout.bytes, view.width * layout.scales];
        let ([pad, _], above) = (view.pad, conv.origin / view.width);
        let (codes, scales) = (take(&mut out.band.0), take(&mut out.band.1));
        for row in 0..kept {
            for border in [0..view.pad[1], view.width - view.pad[1]..view.width] {
                clear(layout, view.width, row, border, (&mut *codes, &mut *scales));
            }
        }
        let makes = Work { step: source, source: None, emits: &source.emits, ..*self };
        let (mut finite, mut have, mut y) = ([true; 2], 0..0, rows.start);
        while y < rows.end {
            let end = rows.end.min(y + (kept - conv.reach) / stride + 1);
            let needs = y * stride + above..(end - 1) * stride + above + conv.reach;
            // What is there already moves to the top.
            let there = have.start.max(needs.start)..have.end.max(needs.start);
            // The first band of a part has nothing yet, wherever it begins.
            let from = if there.is_empty() { 0 } else { needs.start - have.start };
            codes.copy_within(from * size[0]..(from + there.len()) * size[0], 0);
            scales.copy_within(from * size[1]..(from + there.len()) * size[1], 0);
            let image = |row: usize| row.clamp(pad, pad + view.height);
            let made = image(there.end)..image(needs.end);
            for row in (there.end..made.start).chain(made.end..needs.end) {
                clear(layout, view.width, row - needs.start, 0..view.width, (&mut *codes, &mut *scales));
            }
            let at = made.start - needs.start;
            let mut emits = Emitted::default();
            emits[0] = Some((&mut codes[at * size[0]..], &mut scales[at * size[1]..]));
            let (scratch, unpacked) = (&mut *out.scratch, &mut *out.unpacked);
            let patches = (&mut *out.patches.0, &mut *out.patches.1);
            let mut band = Out { rows: None, emits, scratch, unpacked, band: Default::default(), patches };
            finite[0] &= makes.rows(made.start - pad..made.end - pad, made.start - pad, &mut band, None);
            let band = Band { codes: &*codes, scales: &*scales, first: needs.start };
            finite[1] &= self.rows(y..end, rows.start, out, Some(band));
            (have, y) = (needs, end);
        }
        finite
    }

    /// Splits what is written into that of the first `half` rows and that of the others.
    fn halves<'o>(&self, half: usize, out: Out<'o>, parts: usize) -> [Out<'o>; 2] {
        let mut emits: [Emitted<'_>; 2] = Default::default();
        for (i, slices) in out.emits.into_iter().enumerate() {
            let Some((codes, scales)) = slices else { continue };
            let (layout, pixels) = (self.plan.layout(&self.emits[i]), half * self.emits[i].width);
            let (codes, scales) =
                (codes.split_at_mut(pixels * layout.bytes), scales.split_at_mut(pixels * layout.scales));
            emits[0][i] = Some((codes.0, scales.0));
            emits[1][i] = Some((codes.1, scales.1));
        }
        let stride = self.step.dest.map_or(0, |view| view.stride);
        let values = out.rows.map(|rows| rows.split_at_mut(half * self.step.shape.width * stride));
        let rows = values.map_or((None, None), |(low, high)| (Some(low), Some(high)));
        let scratch = out.scratch.split_at_mut(out.scratch.len() / parts * (parts / 2));
        let unpacked = out.unpacked.split_at_mut(out.unpacked.len() / parts * (parts / 2));
        let room = |(codes, scales): Room<'o>| {
            let codes = codes.split_at_mut(codes.len() / parts * (parts / 2));
            let scales = scales.split_at_mut(scales.len() / parts * (parts / 2));
            [(codes.0, scales.0), (codes.1, scales.1)]
        };
        let ([low_band, high_band], [low_patches, high_patches]) = (room(out.band), room(out.patches));
        let [low, high] = emits;
        let (low_rows, high_rows) = rows;
        [
            Out {
                rows: low_rows,
                emits: low,
                scratch: scratch.0,
                unpacked: unpacked.0,
                band: low_band,
                patches: low_patches,
            },
            Out {
                rows: high_rows,
                emits: high,
                scratch: scratch.1,
                unpacked: unpacked.1,
                band: high_band,
                patches: high_patches,
            },
        ]
    }

    /// Runs rows, a strip at a time; returns whether all values are finite. What is written begins with row `top`.
    fn rows(&self, rows: Range<usize>, top: usize, out: &mut Out<'_>, band: Option<Band<'_>>) -> bool {
        let Self { step, kernel, .. } = self;
        if let StepOp::Winograd(conv) = &step.op {
            return self.winograd(conv, rows, top, out);
        }
        let shape = step.shape;
        let Out { rows: values, emits, scratch, unpacked, patches, .. } = out;
        let (start, end) = (top * shape.width, rows.end * shape.width);
        let planes_only = values.is_none() && self.planes_only();
        let at_once = self.rounds_at_once().filter(|_| values.is_none());
        let there = self.there().filter(|_| values.is_none());
        let mut pixels = [0u32; STRIP];
        let mut finite = true;
        let mut first = rows.start * shape.width;
        while first < end {
            let pixels = &mut pixels[..(end - first).min(step.strip)];
            let (out, stride): (&mut [f32], usize) = match (&mut *values, step.dest) {
                (Some(rows), Some(view)) => (&mut rows[(first - start) * view.stride + view.offset..], view.stride),
                _ => (&mut **scratch, shape.channels),
            };
            if let (Some(conv), [emit, ..], Some((codes, scales))) = (at_once, self.emits, &mut emits[0]) {
                let mut to = [0u32; STRIP];
                let to = &mut to[..pixels.len()];
                walk(first - start, shape.width, to, 1, |y| y * emit.width + emit.pad[1]);
                let (layout, width, scratch) = (self.plan.layout(emit), emit.width, out);
                let target = Target { layout, width, pixels: to, codes, values: scales, scratch };
                finite &= self.time(Activity::Convolve, || {
                    let call = self.call(conv, first, pixels, band, patches);
                    kernel.conv_to_values(&call, unpacked, target)
                });
                first += pixels.len();
                continue;
            }
            if !planes_only && there.is_none() {
                finite &= self.compute(Strip { first, pixels, out: &mut *out, stride, unpacked, patches }, band);
                self.note(Rows { data: out, stride }, pixels.len());
            }
            for (emit, slices) in self.emits.iter().zip(&mut *emits) {
                let Some((codes, scales)) = slices else { continue };
                let layout = self.plan.layout(emit);
                let largest = self.largest.filter(|_| layout.whole);
                walk(first - start, shape.width, pixels, 1, |y| y * emit.width + emit.pad[1]);
                if planes_only {
                    let (image, area) = (self.memory.image, shape.height * shape.width);
                    let call = PlanesCall { layout, image, area, first, pixels, largest };
                    self.time(Activity::Round, || kernel.quantize_planes(&call, codes, scales));
                } else {
                    let x = match there {
                        Some(rows) => Rows { data: &rows.data[first * rows.stride..], ..rows },
                        None => Rows { data: out, stride },
                    };
                    let call = QuantizeCall { layout, x, width: emit.width, pixels, largest };
                    self.time(Activity::Round, || kernel.quantize(&call, codes, scales));
                }
            }
            first += pixels.len();
        }
        finite
    }

    /// Runs rows of a convolution by Winograd's algorithm, an even number at a time; returns as [`Work::rows`].
    fn winograd(&self, conv: &WinogradConv, rows: Range<usize>, top: usize, out: &mut Out<'_>) -> bool {
        let Self { step, kernel, .. } = self;
        let Shape { width, channels, .. } = step.shape;
        let Out { rows: values, emits, scratch, patches, .. } = out;
        let input = &self.codes[conv.input.slot];
        // Any pixel of the image has its scale, but those of the border.
        let [above, left] = conv.input.pad;
        let scale = input.scales[above * conv.input.width + left];
        let (mut finite, codes) = (true, conv.input.pixels(1) * conv.weights.channels);
        for y in rows.clone().step_by(step.strip / width) {
            let some = rows.end.min(y + step.strip / width) - y;
            let (first, count) = (y * width, some * width);
            let (out, stride): (&mut [f32], usize) = match (&mut *values, step.dest) {
                (Some(rows), Some(view)) => (&mut rows[(y - top) * width * view.stride + view.offset..], view.stride),
                _ => (&mut **scratch, channels),
            };
            let call = WinogradCall {
                weights: &conv.weights,
                codes: &input.codes[..codes],
                width: conv.input.width,
                origin: conv.origin + y * conv.input.width,
                size: [some, width],
                scale,
                residual: self.residual(conv.residual, first),
                clamp: conv.clamp,
            };
            finite &= self.time(Activity::Convolve, || kernel.winograd(&call, patches.0, out, stride));
            if !step.posts.is_empty() {
                let pixels = Pixels { shape: step.shape, first, count, out: &mut *out, stride };
                let work = Finish { posts: &step.posts, memory: &self.memory, pixels };
                finite &= self.time(Activity::Float, || kernel.run(work));
            }
            self.note(Rows { data: out, stride }, count);
            let mut pixels = [0u32; STRIP];
            for (emit, slices) in self.emits.iter().zip(&mut *emits) {
                let Some((codes, scales)) = slices else { continue };
                let layout = self.plan.layout(emit);
                for at in (0..count).step_by(STRIP) {
                    let pixels = &mut pixels[..STRIP.min(count - at)];
                    walk(first + at - top * width, width, pixels, 1, |y| y * emit.width + emit.pad[1]);
                    let x = Rows { data: &out[at * stride..], stride };
                    let call = QuantizeCall { layout, x, width: emit.width, pixels, largest: None };
                    self.time(Activity::Round, || kernel.quantize(&call, codes, scales));
                }
            }
        }
        finite
    }

    /// Tells whether this is an image of few channels that is rounded straight from its planes: every form allows it, and nobody
    /// reads it as floats.
    fn planes_only(&self) -> bool {
        matches!(self.step.op, StepOp::Float(FloatOp::Image))
            && self.step.posts.is_empty()
            && self.emits.iter().all(|emit| PlanesCall::fits(self.plan.layout(emit)))
    }

    /// Notes the largest magnitude of some pixels that were made.
    fn note(&self, rows: Rows<'_>, pixels: usize) {
        if self.step.notes {
            let work = || largest(self.kernel, rows, pixels, self.step.shape.channels);
            // The bits of floats that are not negative are in their order.
            self.noted.fetch_max(self.time(Activity::Round, work).to_bits(), Ordering::Relaxed);
        }
    }

    /// Returns the rows of a value that is only rounded: the step that made it found all of them finite.
    fn there(&self) -> Option<Rows<'_>> {
        match self.step.op {
            StepOp::Float(FloatOp::Copy(view)) if self.step.posts.is_empty() => Some(self.memory.rows(view)),
            _ => None,
        }
    }

    /// Returns the step's convolution if its outputs are nothing but the input of a depthwise layer.
    fn rounds_at_once(&self) -> Option<&IntConv> {
        match (&self.step.op, self.emits) {
            (StepOp::Conv(conv), [emit]) if self.step.posts.is_empty() && self.plan.layout(emit).depthwise => {
                Some(&**conv).filter(|conv| conv.before.is_none() && conv.residual.is_none())
            }
            _ => None,
        }
    }

    /// Computes a strip as floats; returns whether all values are finite.
    fn compute(&self, mut strip: Strip<'_, '_>, band: Option<Band<'_>>) -> bool {
        let Self { step, kernel, memory, .. } = self;
        let mut finite = true;
        match &step.op {
            StepOp::Conv(conv) => {
                if let Some(before) = &conv.before {
                    finite &= self.conv(before, &mut strip, None);
                }
                finite &= self.conv(conv, &mut strip, band);
            }
            StepOp::Winograd(_) => unreachable!("its rows are computed two at a time"),
            StepOp::Float(op) => {
                let pixels = self.pixels(&mut strip);
                finite &= self.time(Activity::Float, || kernel.run(Compute { op, memory, pixels }));
            }
        }
        if !step.posts.is_empty() {
            let pixels = self.pixels(&mut strip);
            finite &= self.time(Activity::Float, || kernel.run(Finish { posts: &step.posts, memory, pixels }));
        }
        finite
    }

    /// Calls `work`, and counts its time where that is asked for.
    fn time<T>(&self, activity: Activity, work: impl FnOnce() -> T) -> T {
        Clock::time(self.clock, activity, work)
    }

    /// Returns a strip as the pixels of a float operation.
    fn pixels<'o>(&self, strip: &'o mut Strip<'_, '_>) -> Pixels<'o> {
        let Strip { first, stride, .. } = *strip;
        Pixels { shape: self.step.shape, first, count: strip.pixels.len(), out: strip.out, stride }
    }

    /// Computes a strip of a convolution; returns whether all values are finite.
    fn conv(&self, conv: &IntConv, strip: &mut Strip<'_, '_>, band: Option<Band<'_>>) -> bool {
        self.time(Activity::Convolve, || {
            let call = self.call(conv, strip.first, strip.pixels, band, strip.patches);
            self.kernel.conv(&call, strip.unpacked, strip.out, strip.stride)
        })
    }

    /// Returns what a kernel is asked for of a convolution: outputs from `start` on, as many as `pixels`, which are filled. The
    /// input is in its slot or in a band, or is copied to patches there is `room` for.
    fn call<'c>(
        &'c self,
        conv: &'c IntConv,
        start: usize,
        pixels: &'c mut [u32],
        band: Option<Band<'c>>,
        room: &'c mut Room<'_>,
    ) -> ConvCall<'c> {
        let slot = &self.codes[conv.input.slot];
        let band = band.unwrap_or(Band { codes: &slot.codes, scales: &slot.scales, first: 0 });
        let Band { codes, scales, first } = band;
        let ([sy, sx], width) = (conv.stride, conv.input.width);
        let (shape, input_height) = (self.step.shape, conv.input.height);
        // Images lie below each other; only layers without a border run several at once.
        walk(start, shape.width, pixels, sx, |y| {
            let (image, y) = (y / shape.height, y % shape.height);
            conv.origin + (image * input_height + y * sy - first) * width
        });
        let layout = self.plan.layout(&conv.input);
        let (layout, codes, scales) = match &conv.patches {
            None => (layout, codes, scales),
            Some(patches) => {
                // Any pixel of the image has its scale, but those of the border.
                let [top, left] = conv.input.pad;
                room.1[..pixels.len()].fill(scales[(top * width + left) * layout.scales]);
                let to = &mut *room.0;
                self.kernel.run(Gather { from: patches, codes, each: layout.bytes, pixels, to });
                pixels.iter_mut().zip(0..).for_each(|(pixel, i)| *pixel = i);
                (self.plan.patch_layout(patches), &*room.0, &*room.1)
            }
        };
        ConvCall {
            weights: &conv.weights,
            layout,
            codes,
            scales,
            width,
            pixels,
            taps: &conv.taps,
            panels: 0..conv.weights.panels.len(),
            residual: self.residual(conv.residual, start),
            clamp: conv.clamp,
        }
    }

    /// Returns what is added to outputs from `start` on.
    fn residual(&self, added: Option<Added>, start: usize) -> Residual<'_> {
        match added {
            None => Residual::None,
            Some(Added::Dest) => Residual::Output,
            Some(Added::View(view)) => {
                let rows = self.memory.rows(view);
                Residual::Rows(Rows { data: &rows.data[start * rows.stride..], ..rows })
            }
        }
    }
}

/// Copies patches together: the codes that each of `pixels`, of `each` bytes, is the first of. More is copied than they have: the next
/// run takes its place, or weights of 0 meet it.
struct Gather<'a> {
    from: &'a Patches,
    codes: &'a [u8],
    each: usize,
    pixels: &'a [u32],
    to: &'a mut [u8],
}

impl Task for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const COPIED: usize = 32;
        const { assert!(COPIED <= SLACK) };
        let Self { from, codes, each, pixels, to } = self;
        for (i, &pixel) in pixels.iter().enumerate() {
            for (k, &run) in from.runs.iter().enumerate() {
                let (read, write) = (pixel as usize * each + run, i * from.bytes + k * from.run);
                for at in (0..from.run).step_by(COPIED) {
                    to[write + at..][..COPIED].copy_from_slice(&codes[read + at..][..COPIED]);
                }
            }
        }
    }
}

/// Returns the largest magnitude of the first pixels of some rows, all of which are finite.
pub(super) fn largest(kernel: &AnyKernel, rows: Rows<'_>, pixels: usize, channels: usize) -> f32 {
    if rows.stride == channels {
        return kernel.run(Largest(&rows.data[..pixels * channels]));
    }
    (0..pixels).map(|i| kernel.run(Largest(rows.pixel(i, channels)))).fold(0.0, f32::max)
}

/// Writes zeros to some pixels of a row of an integer activation.
pub(super) fn clear(
    layout: &Layout,
    width: usize,
    row: usize,
    pixels: Range<usize>,
    (codes, scales): (&mut [u8], &mut [f32]),
) {
    // A row has one line of scales, or of a depthwise layer's values one for each panel.
    let lines = if layout.depthwise { layout.lines() } else { 1 };
    let each = layout.scales / lines;
    let of = |line: usize, each: usize| (line * width + pixels.start) * each..(line * width + pixels.end) * each;
    codes[of(row, layout.bytes)].fill(layout.zero());
    for line in row * lines..(row + 1) * lines {
        scales[of(line, each)].fill(0.0);
    }
}

/// Fills `pixels` with consecutive pixels of rows of `width`, the first one of row `y` at `row(y)`, the others `step` on.
fn walk(first: usize, width: usize, mut pixels: &mut [u32], step: usize, row: impl Fn(usize) -> usize) {
    let (mut y, mut x) = (first / width, first % width);
    while !pixels.is_empty() {
        let (here, rest) = pixels.split_at_mut((width - x).min(pixels.len()));
        let mut next = (row(y) + x * step) as u32;
        for pixel in here {
            *pixel = next;
            next = next.wrapping_add(step as u32);
        }
        (y, x, pixels) = (y + 1, 0, rest);
    }
}
