//! Runs a program's steps: rows are shared out to threads, strips of pixels stay in cache until they are rounded.
use rayon::prelude::*;

use crate::Error;
use crate::buffer::Buffer;
use crate::float::{Compute, Finish, FloatOp, Memory, Pixels, Source};
use crate::kernels::{AnyKernel, ConvCall, PlanesCall, QuantizeCall, Residual, Rows, SLACK, STRIP};
use crate::layout::Layout;
use crate::plan::{Added, CodeSize, CodesView, EMITS, IntConv, Plan, Program, Step, StepOp};

/// An integer slot.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    pub codes: Buffer<u8>,
    pub scales: Buffer<f32>,
}

/// The slots of a program, for a number of images.
#[derive(Debug)]
pub(crate) struct Workspace {
    floats: Vec<Buffer<f32>>,
    codes: Vec<Codes>,
    /// Rows of steps whose value nobody reads as floats, one strip for each part of the rows.
    scratch: Buffer<f32>,
    /// Panels of weights, unpacked, for each part.
    unpacked: Buffer<u8>,
    parts: usize,
}

impl Workspace {
    /// For `images` images at a time, each step in up to `parts` parts.
    ///
    /// # Errors
    /// [`Error::Allocation`]. How much it is, [`Program::bytes`] tells.
    pub fn new(program: &Program, images: usize, parts: usize) -> Result<Self, Error> {
        let no_memory = || Error::Allocation { bytes: program.bytes(images, parts) };
        let floats = |n: usize| n.checked_mul(images).and_then(Buffer::try_new).ok_or_else(no_memory);
        let codes = |size: &CodeSize| {
            let bytes = size.bytes.checked_mul(images).and_then(|n| n.checked_add(SLACK));
            Ok(Codes { codes: bytes.and_then(Buffer::try_new).ok_or_else(no_memory)?, scales: floats(size.scales)? })
        };
        Ok(Self {
            floats: program.floats.iter().map(|&n| floats(n)).collect::<Result<_, _>>()?,
            codes: program.codes.iter().map(codes).collect::<Result<_, Error>>()?,
            scratch: program.scratch.checked_mul(parts).and_then(Buffer::try_new).ok_or_else(no_memory)?,
            unpacked: program.unpacked.checked_mul(parts).and_then(Buffer::try_new).ok_or_else(no_memory)?,
            parts,
        })
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        let codes = self.codes.iter().map(|c| c.codes.bytes() + c.scales.bytes());
        self.floats.iter().map(Buffer::bytes).chain(codes).sum::<usize>() + self.scratch.bytes() + self.unpacked.bytes()
    }
}

/// What a run reads beside its slots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    pub rows: &'a [f32],
    pub image: &'a [f32],
}

/// Called after each step with its index.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(usize);

/// Runs all steps on `images` images, up to the first one that gives a value that is not finite.
pub(crate) fn run(
    plan: &Plan,
    program: &Program,
    kernel: &AnyKernel,
    workspace: &mut Workspace,
    given: Given<'_>,
    images: usize,
    mut observer: Option<Observer<'_>>,
) -> Result<(), Error> {
    for (index, step) in program.steps.iter().enumerate() {
        let rows = step.shape.height * images;
        let slot = step.dest.map(|view| match view.source {
            Source::Slot(slot) => slot,
            Source::Row => unreachable!("the body's rows are copied when it ends"),
        });
        // What a step writes is taken out, so that the rest can be read.
        let mut dest = slot.map(|slot| std::mem::take(&mut workspace.floats[slot]));
        let mut taken: [Codes; EMITS] = Default::default();
        let mut scratch = std::mem::take(&mut workspace.scratch);
        let mut unpacked = std::mem::take(&mut workspace.unpacked);
        let mut finite = true;
        for first in (0..step.emits.len().max(1)).step_by(EMITS) {
            let emits = &step.emits[first.min(step.emits.len())..(first + EMITS).min(step.emits.len())];
            let mut out = Out {
                rows: dest.as_deref_mut(),
                emits: Default::default(),
                scratch: &mut scratch,
                unpacked: &mut unpacked,
            };
            for ((emit, taken), out) in emits.iter().zip(&mut taken).zip(&mut out.emits) {
                *taken = std::mem::take(&mut workspace.codes[emit.slot]);
                let layout = &plan.layouts[emit.layout];
                clear_borders(emit, layout, images, taken);
                let (start, len) = (emit.pad[0] * emit.width, rows * emit.width);
                *out = Some((
                    &mut taken.codes[start * layout.bytes..(start + len) * layout.bytes],
                    &mut taken.scales[start * layout.scales..(start + len) * layout.scales],
                ));
            }
            let task = Task {
                plan,
                step,
                kernel,
                memory: Memory { floats: &workspace.floats, rows: given.rows, image: given.image },
                codes: &workspace.codes,
                emits,
            };
            finite &= task.split(0..rows, out, workspace.parts);
            for (emit, taken) in emits.iter().zip(&mut taken) {
                workspace.codes[emit.slot] = std::mem::take(taken);
            }
        }
        workspace.scratch = scratch;
        workspace.unpacked = unpacked;
        if let (Some(slot), Some(dest)) = (slot, dest) {
            workspace.floats[slot] = dest;
        }
        if !finite {
            return Err(Error::NonFinite { step: step.name.clone() });
        }
        if let Some(observer) = &mut observer {
            observer(index);
        }
    }
    Ok(())
}

/// Zeros around an integer activation: the slot held something else before.
fn clear_borders(emit: &CodesView, layout: &Layout, images: usize, codes: &mut Codes) {
    let ([py, px], width, zero) = (emit.pad, emit.width, layout.zero());
    let rows = emit.height * images;
    let mut clear = |pixels: std::ops::Range<usize>| {
        codes.codes[pixels.start * layout.bytes..pixels.end * layout.bytes].fill(zero);
        codes.scales[pixels.start * layout.scales..pixels.end * layout.scales].fill(0.0);
    };
    clear(0..py * width);
    clear((py + rows) * width..(2 * py + rows) * width);
    if px > 0 {
        for row in py..py + rows {
            clear(row * width..row * width + px);
            clear((row + 1) * width - px..(row + 1) * width);
        }
    }
}

/// Codes and scales of each integer form.
type Emitted<'a> = [Option<(&'a mut [u8], &'a mut [f32])>; EMITS];

/// What a step writes, of some rows.
struct Out<'a> {
    /// The value as floats.
    rows: Option<&'a mut [f32]>,
    emits: Emitted<'a>,
    scratch: &'a mut [f32],
    unpacked: &'a mut [u8],
}

struct Task<'a> {
    plan: &'a Plan,
    step: &'a Step,
    kernel: &'a AnyKernel,
    memory: Memory<'a>,
    codes: &'a [Codes],
    emits: &'a [CodesView],
}

impl Task<'_> {
    /// Runs rows in up to `parts` parts at the same time; whether all values are finite.
    fn split(&self, rows: std::ops::Range<usize>, out: Out<'_>, parts: usize) -> bool {
        let half = rows.len() / 2;
        if parts < 2 || half == 0 {
            return self.rows(rows, out);
        }
        let mut emits: [Emitted<'_>; 2] = Default::default();
        for (i, slices) in out.emits.into_iter().enumerate() {
            let Some((codes, scales)) = slices else { continue };
            let (layout, pixels) = (&self.plan.layouts[self.emits[i].layout], half * self.emits[i].width);
            let (codes, scales) =
                (codes.split_at_mut(pixels * layout.bytes), scales.split_at_mut(pixels * layout.scales));
            emits[0][i] = Some((codes.0, scales.0));
            emits[1][i] = Some((codes.1, scales.1));
        }
        let stride = self.step.dest.map_or(0, |view| view.stride);
        let values = out.rows.map(|rows| rows.split_at_mut(half * self.step.shape.width * stride));
        let (first, second) = values.map_or((None, None), |(a, b)| (Some(a), Some(b)));
        let (low, high) = out.scratch.split_at_mut(out.scratch.len() / parts * (parts / 2));
        let (low_bytes, high_bytes) = out.unpacked.split_at_mut(out.unpacked.len() / parts * (parts / 2));
        let [low_emits, high_emits] = emits;
        let middle = rows.start + half;
        let (first, second) = rayon::join(
            || {
                self.split(
                    rows.start..middle,
                    Out { rows: first, emits: low_emits, scratch: low, unpacked: low_bytes },
                    parts / 2,
                )
            },
            || {
                self.split(
                    middle..rows.end,
                    Out { rows: second, emits: high_emits, scratch: high, unpacked: high_bytes },
                    parts - parts / 2,
                )
            },
        );
        first && second
    }

    fn rows(&self, rows: std::ops::Range<usize>, out: Out<'_>) -> bool {
        let Self { step, kernel, memory, .. } = self;
        let width = step.shape.width;
        let Out { rows: mut values, mut emits, scratch, unpacked } = out;
        let (start, end) = (rows.start * width, rows.end * width);
        let mut pixels = [0u32; STRIP];
        let mut finite = true;
        let mut first = start;
        while first < end {
            let count = (end - first).min(step.strip);
            let only_codes = values.is_none() && step.posts.is_empty();
            if only_codes && self.planes(first, start, count, &mut pixels, &mut emits) {
                first += count;
                continue;
            }
            let (out, stride): (&mut [f32], usize) = match (&mut values, step.dest) {
                (Some(rows), Some(view)) => (&mut rows[(first - start) * view.stride + view.offset..], view.stride),
                _ => (&mut *scratch, step.shape.channels),
            };
            match &step.op {
                StepOp::Conv(conv) => {
                    if let Some(before) = &conv.before {
                        finite &= self.conv(before, first, &mut pixels[..count], unpacked, out, stride);
                    }
                    finite &= self.conv(conv, first, &mut pixels[..count], unpacked, out, stride);
                }
                StepOp::Float(op) => {
                    let pixels = Pixels { shape: step.shape, first, count, out: &mut *out, stride };
                    finite &= kernel.run(Compute { op, memory, pixels });
                }
            }
            if !step.posts.is_empty() {
                let pixels = Pixels { shape: step.shape, first, count, out: &mut *out, stride };
                finite &= kernel.run(Finish { posts: &step.posts, memory, pixels });
            }
            for (emit, slices) in self.emits.iter().zip(&mut emits) {
                let Some((codes, scales)) = slices else { continue };
                let layout = &self.plan.layouts[emit.layout];
                let pixels = &mut pixels[..count];
                walk(first - start, width, pixels, 1, |y| y * emit.width + emit.pad[1]);
                let call = QuantizeCall { layout, x: Rows { data: out, stride }, pixels };
                kernel.quantize(&call, codes, scales);
            }
            first += count;
        }
        finite
    }

    /// Rounds an image of few channels straight from its planes, where every form allows it.
    fn planes(&self, first: usize, start: usize, count: usize, pixels: &mut [u32], emits: &mut Emitted<'_>) -> bool {
        let layouts = || self.emits.iter().map(|e| &self.plan.layouts[e.layout]);
        if !matches!(self.step.op, StepOp::Float(FloatOp::Image)) || !layouts().all(PlanesCall::fits) {
            return false;
        }
        let shape = self.step.shape;
        for (emit, slices) in self.emits.iter().zip(emits) {
            let Some((codes, scales)) = slices else { continue };
            let (layout, pixels) = (&self.plan.layouts[emit.layout], &mut pixels[..count]);
            walk(first - start, shape.width, pixels, 1, |y| y * emit.width + emit.pad[1]);
            let area = shape.height * shape.width;
            let call = PlanesCall { layout, image: self.memory.image, area, first, pixels };
            self.kernel.quantize_planes(&call, codes, scales);
        }
        true
    }

    fn conv(
        &self,
        conv: &IntConv,
        first: usize,
        pixels: &mut [u32],
        unpacked: &mut [u8],
        out: &mut [f32],
        stride: usize,
    ) -> bool {
        let ([sy, sx], width) = (conv.stride, conv.input.width);
        let (shape, input_height) = (self.step.shape, conv.input.height);
        // Images lie below each other; only layers without a border run several at once.
        walk(first, shape.width, pixels, sx, |y| {
            let (image, y) = (y / shape.height, y % shape.height);
            conv.origin + (image * input_height + y * sy) * width
        });
        let slot = &self.codes[conv.input.slot];
        let call = ConvCall {
            weights: &conv.weights,
            layout: &self.plan.layouts[conv.input.layout],
            codes: &slot.codes,
            scales: &slot.scales,
            pixels,
            taps: &conv.taps,
            panels: 0..conv.weights.panels.len(),
            residual: match conv.residual {
                None => Residual::None,
                Some(Added::Dest) => Residual::Output,
                Some(Added::View(view)) => {
                    let rows = self.memory.rows(view);
                    Residual::Rows(Rows { data: &rows.data[first * rows.stride..], ..rows })
                }
            },
            clamp: conv.clamp,
        };
        self.kernel.conv(&call, unpacked, out, stride)
    }
}

/// Fills `pixels` with consecutive pixels of rows of `width`, the first one of row `y` at `row(y)`, the others `step` on.
fn walk(first: usize, width: usize, mut pixels: &mut [u32], step: usize, row: impl Fn(usize) -> usize) {
    let (mut y, mut x) = (first / width, first % width);
    while !pixels.is_empty() {
        let (here, rest) = pixels.split_at_mut((width - x).min(pixels.len()));
        let start = row(y) + x * step;
        for (i, pixel) in here.iter_mut().enumerate() {
            *pixel = (start + i * step) as u32;
        }
        (y, x, pixels) = (y + 1, 0, rest);
    }
}

/// Copies what leaves the body to an image's row, channel by channel.
pub(crate) fn cross(plan: &Plan, workspace: &Workspace, row: &mut [f32]) {
    let memory = Memory { floats: &workspace.floats, rows: &[], image: &[] };
    for &(view, at) in &plan.crossing {
        let (rows, area) = (memory.rows(view), view.shape.height * view.shape.width);
        for pixel in 0..area {
            for c in 0..view.shape.channels {
                row[at + c * area + pixel] = rows.data[pixel * rows.stride + c];
            }
        }
    }
}

/// Copies the output, one row an image; what the body makes lies channel by channel already.
pub(crate) fn output(plan: &Plan, workspace: &Workspace, rows: &[f32], logits: &mut [f32]) {
    let memory = Memory { floats: &workspace.floats, rows, image: &[] };
    let source = memory.rows(plan.output);
    for (i, logits) in logits.chunks_exact_mut(plan.outputs).enumerate() {
        logits.copy_from_slice(&source.data[i * source.stride..][..logits.len()]);
    }
}

/// Runs `run` on each image and row with a workspace of its own, in parallel. The error is the first image's that has one.
pub(crate) fn each_image(
    workspaces: &mut [Workspace],
    images: &[f32],
    image: usize,
    rows: &mut [f32],
    row: usize,
    run: impl Fn(&mut Workspace, &[f32], &mut [f32]) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let count = images.len() / image;
    let share = count.div_ceil(workspaces.len());
    let shares = images.par_chunks(share * image).zip(rows.par_chunks_mut(share * row));
    let part = |(workspace, (images, rows)): (&mut Workspace, (&[f32], &mut [f32]))| {
        images
            .chunks_exact(image)
            .zip(rows.chunks_exact_mut(row))
            .try_for_each(|(image, row)| run(workspace, image, row))
    };
    workspaces.par_iter_mut().zip(shares).map(part).reduce(|| Ok(()), Result::and)
}
