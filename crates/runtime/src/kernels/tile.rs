//! Dense convolutions, for every instruction set: the sums of some pixels by one or two panels in registers, and the loops
//! over pixels and panels around them.
use std::marker::PhantomData;

use super::end::{End, Noted, Values};
use super::lanes::{Lanes, Sums};
use super::{ConvCall, STRIP, Task, Wants, depthwise, winograd};
use crate::layout::LANES;
use crate::pack::{Packed, Segment};

/// An instruction set. Its functions may be called only where the CPU has the instructions, and all but `vectorize` are
/// `#[inline(always)]`, so that they are compiled for what calls them.
pub(super) trait Isa: Copy + Send + Sync {
    /// Sixteen floats.
    type Floats: Lanes;
    /// Sixteen integers.
    type Sums: Sums<Floats = Self::Floats>;
    /// [`Kernel::WANTS`](super::Kernel::WANTS).
    const WANTS: Wants = Wants::USUAL;
    /// The most pixels of a tile.
    const ROWS: usize;
    /// The most pixels of a tile that unpacks its weights.
    const NIBBLE_ROWS: usize = Self::ROWS;
    /// The number of pixels of a tile by two panels where `ROWS` leave one over: a tile of one takes about as long as one of
    /// many.
    const MORE_ROWS: usize = Self::ROWS;
    /// The number of pixels of the last tile where `ROWS` leave one over, for the same reason.
    const LAST_ROWS: usize = Self::ROWS;
    /// The most panels of a tile.
    const PANELS: usize = 1;
    /// Whether it adds in 16 bits, see [`fitting`](crate::pack::Fields::fitting).
    const SATURATES: bool = false;
    /// The number of pixels from which on 4-bit weights are unpacked once, not in each tile.
    const UNPACKED_FROM: usize = usize::MAX;
    /// The most pixels of a depthwise tile.
    const DEPTHWISE_ROWS: usize = 4;

    /// Makes the value, or `None` where the CPU lacks an instruction.
    fn detect() -> Option<Self>;

    /// Runs a task that was compiled for this instruction set.
    unsafe fn vectorize<T: Task>(task: T) -> T::Output;

    /// Adds the dot products of a segment, each times its lane's level where `F::LEVELS`, that of its step where `F::EACH`, to the
    /// sums of `R` pixels by `P` panels.
    unsafe fn multiply<F: Form, const R: usize, const P: usize>(sums: &mut [[Self::Sums; P]; R], run: &Run<R>);

    /// Asks for a line of floats that is read soon.
    #[inline(always)]
    unsafe fn ask(_: *const f32) {}

    /// Computes a call by Winograd's algorithm.
    unsafe fn winograd(run: winograd::Run<'_>) -> bool {
        run.call.plain(run.out, run.stride)
    }
}

/// What the weights of a tile are like, known when it is compiled.
pub(super) trait Form {
    /// Two-level scales: a channel's, applied last.
    const TWO: bool = false;
    /// Two-level scales whose factors are apart from the weights.
    const LEVELS: bool = false;
    /// With `LEVELS`, one tap whose segments are steps of one sum, as those of a patch of an image are.
    const EACH: bool = false;
    /// Weights are in nibbles.
    const NIBBLES: bool = false;
    /// Each tap is one segment of one step, as up to four channels of an image are.
    const ONE: bool = false;
    /// A step with `ONE` may not fit sums of 16 bits, where these are all that the instruction set has.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only AVX2 adds in 16 bits"))]
    const WIDE: bool = false;
    /// The number of groups that share a panel, see [`panel_groups`](crate::pack::Fields::panel_groups).
    const GROUPS: usize = 1;
    /// Whether inputs are signed, where that is known.
    const SIGNED: Option<bool> = None;
}

/// A byte a weight.
pub(super) struct Bytes<const TWO: bool, const SIGNED: bool>;
/// Two weights a byte.
pub(super) struct Nibbles;
/// A byte a weight, and up to four channels of signed inputs.
pub(super) struct Stem<const TWO: bool, const WIDE: bool>;
/// A byte a weight, to be multiplied by a factor, and up to four channels of signed inputs.
pub(super) struct StemLevels;
/// A byte a weight, to be multiplied by a factor.
pub(super) struct Levels;
/// A byte a weight, to be multiplied by its step's factor.
pub(super) struct EachLevel;
/// A byte a weight, and panels of several groups.
pub(super) struct Shared<const GROUPS: usize>;
/// A byte a weight, and taps of one step, whose sums start from 0.
pub(super) struct Step<const TWO: bool>;
/// A byte a weight, to be multiplied by a factor, and taps of one step, whose sums start from 0.
pub(super) struct StepLevels;

impl<const TWO: bool, const SIGNED: bool> Form for Bytes<TWO, SIGNED> {
    const TWO: bool = TWO;
    const SIGNED: Option<bool> = Some(SIGNED);
}
impl<const GROUPS: usize> Form for Shared<GROUPS> {
    const GROUPS: usize = GROUPS;
}
impl Form for Nibbles {
    const NIBBLES: bool = true;
}
impl Form for StemLevels {
    const TWO: bool = true;
    const LEVELS: bool = true;
    const ONE: bool = true;
    const SIGNED: Option<bool> = Some(true);
}
impl<const TWO: bool, const WIDE: bool> Form for Stem<TWO, WIDE> {
    const TWO: bool = TWO;
    const ONE: bool = true;
    const WIDE: bool = WIDE;
    const SIGNED: Option<bool> = Some(true);
}
impl<const TWO: bool> Form for Step<TWO> {
    const TWO: bool = TWO;
    const ONE: bool = true;
    const SIGNED: Option<bool> = Some(false);
}
impl Form for StepLevels {
    const TWO: bool = true;
    const LEVELS: bool = true;
    const ONE: bool = true;
    const SIGNED: Option<bool> = Some(false);
}
impl Form for Levels {
    const TWO: bool = true;
    const LEVELS: bool = true;
}
impl Form for EachLevel {
    const TWO: bool = true;
    const LEVELS: bool = true;
    const EACH: bool = true;
}

/// The codes and weights of a segment, at one tap.
pub(super) struct Run<const R: usize> {
    /// Each pixel's codes; the segment's begin at byte `at`.
    pub codes: [*const u8; R],
    pub at: usize,
    /// The panel's weights, a line a step, or a line for two; those of the next panel are `next` bytes behind.
    pub weights: *const u8,
    pub next: usize,
    pub steps: usize,
    /// The levels of the panel's lanes where there are levels; those of the next panel are `next_levels` integers behind.
    pub levels: *const i32,
    pub next_levels: usize,
    /// What may be asked for meanwhile, `ahead_step` bytes a step.
    pub ahead: *const u8,
    pub ahead_step: usize,
    /// The number of steps whose sums of two products fit 16 bits, see [`fitting`](crate::pack::Fields::fitting).
    pub fitting: usize,
    /// How far behind the codes of the panel's first group those of each fourth of its lanes are.
    pub shares: [usize; 4],
}

impl<const R: usize> Run<R> {
    /// Returns the codes and weights of pixel `r` alone.
    #[inline(always)]
    fn of(&self, r: usize) -> Run<1> {
        let &Self { at, weights, next, steps, levels, next_levels, ahead, ahead_step, fitting, shares, .. } = self;
        Run {
            codes: [self.codes[r]],
            at,
            weights,
            next,
            steps,
            levels,
            next_levels,
            ahead,
            ahead_step,
            fitting,
            shares,
        }
    }
}

/// The number of bytes of weights that stay in a near cache.
const NEAR: usize = 32 * 1024;

/// Where the pixels of a call lie: the first byte of their codes, and the first of their scales.
struct Spots {
    codes: [usize; STRIP],
    scales: [usize; STRIP],
}

impl Spots {
    fn new(call: &ConvCall<'_>) -> Self {
        let mut spots = Self { codes: [0; STRIP], scales: [0; STRIP] };
        for (i, &pixel) in call.pixels.iter().enumerate() {
            spots.codes[i] = pixel as usize * call.layout.bytes;
            spots.scales[i] = pixel as usize * call.layout.scales;
        }
        spots
    }
}

/// The outputs of a call, which is checked first.
pub(super) struct Conv<'a, I> {
    pub call: &'a ConvCall<'a>,
    pub unpacked: &'a mut [u8],
    pub out: &'a mut [f32],
    pub stride: usize,
    /// Where outputs go in place of `out`, if they are rounded at once.
    pub values: Option<&'a Values>,
    pub isa: PhantomData<I>,
}

impl<I: Isa> Task for Conv<'_, I> {
    /// Whether all outputs were finite before their limits, and what [`Noted::bits`] gives of them.
    type Output = (bool, (u32, u32));

    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { call, unpacked, out, stride, values, .. } = self;
        call.check(out, stride);
        let w = call.weights;
        if w.depthwise {
            return (depthwise::conv::<I::Floats>(call, I::DEPTHWISE_ROWS, out, stride), (0, 0));
        }
        let (spots, fitting, count) = (Spots::new(call), w.fitting, call.pixels.len());
        let wide = I::SATURATES && fitting == 0;
        let one_step = w.segments.len() == 1 && w.segments[0].steps == 1;
        // Few pixels unpack weights in registers; many share what is unpacked once.
        let bytes = w.unpacked_bytes();
        let few = count < I::UNPACKED_FROM || unpacked.len() < I::PANELS * bytes + 64;
        let in_registers = w.nibbles && !w.two_level() && few;
        let shares = w.panel_groups > 1;
        let step = one_step && w.start.is_empty() && !in_registers && !wide && !shares;
        let stem = step || one_step && !w.start.is_empty() && !shares;
        let first = w.segments[0];
        let each = w.taps == 1 && !w.nibbles && w.segments.iter().all(|s| s.steps == 1 && s.scale == first.scale);
        // SAFETY: this is compiled for, and runs on, CPUs with the instructions.
        let mut noted = unsafe { Noted::<I::Floats>::nothing() };
        let mut panel = call.panels.start;
        while panel < call.panels.end {
            // Two panels at once where they read the same channels.
            let pair =
                I::PANELS > 1 && panel + 1 < call.panels.end && w.panels[panel].group == w.panels[panel + 1].group;
            let panels = if pair { 2 } else { 1 };
            let (mut weights, mut next) = (w.weights[panel * w.panel_bytes..].as_ptr(), w.panel_bytes);
            if w.nibbles && !in_registers {
                for p in 0..panels {
                    unpack(w, panel + p, &mut unpacked[p * bytes..]);
                }
                (weights, next) = (unpacked.as_ptr(), bytes);
            }
            let more = pair && !stem && !in_registers && count % I::ROWS == 1 && count.is_multiple_of(I::MORE_ROWS);
            let most = if in_registers {
                I::NIBBLE_ROWS
            } else if more {
                I::MORE_ROWS
            } else {
                I::ROWS
            };
            // The next panels' weights, if there are any, and they come from far.
            let (next_panel, last) = (panel + panels, (panel + 2 * panels).min(call.panels.end));
            let ahead = match next_panel < last && w.weights.len() > NEAR {
                true => &w.weights[next_panel * w.panel_bytes..last * w.panel_bytes],
                false => &w.weights[..0],
            };
            let mut first = 0;
            while first < count {
                let left = count - first;
                let one_over =
                    I::LAST_ROWS > I::ROWS && most == I::ROWS && !stem && left > I::ROWS && left % I::ROWS == 1;
                let (rows, tiles) = match left {
                    _ if one_over && left > I::LAST_ROWS => (I::ROWS, left / I::ROWS - 1),
                    _ if one_over => (I::LAST_ROWS, 1),
                    _ => (left.min(most), left / left.min(most)),
                };
                let out = out.as_mut_ptr();
                let spots = &spots;
                let tile =
                    Tile { call, panel, first, tiles, weights, next, ahead, spots, fitting, out, stride, values };
                noted = match w.two_level() {
                    false if I::WANTS.shared_panels && w.panel_groups == 2 => {
                        tile.run::<I, Shared<2>>(rows, pair, noted)
                    }
                    false if I::WANTS.shared_panels && w.panel_groups == 4 => {
                        tile.run::<I, Shared<4>>(rows, pair, noted)
                    }
                    true if I::WANTS.factors_apart && !w.levels.is_empty() && step => {
                        tile.run::<I, StepLevels>(rows, pair, noted)
                    }
                    true if step => tile.run::<I, Step<true>>(rows, pair, noted),
                    false if step => tile.run::<I, Step<false>>(rows, pair, noted),
                    true if I::WANTS.factors_apart && !w.levels.is_empty() && stem => {
                        tile.run::<I, StemLevels>(rows, pair, noted)
                    }
                    true if I::WANTS.factors_apart && !w.levels.is_empty() && each => {
                        tile.run::<I, EachLevel>(rows, pair, noted)
                    }
                    true if I::WANTS.factors_apart && !w.levels.is_empty() => tile.run::<I, Levels>(rows, pair, noted),
                    false if in_registers => tile.run::<I, Nibbles>(rows, pair, noted),
                    true if stem && wide => tile.run::<I, Stem<true, true>>(rows, pair, noted),
                    false if stem && wide => tile.run::<I, Stem<false, true>>(rows, pair, noted),
                    true if stem => tile.run::<I, Stem<true, false>>(rows, pair, noted),
                    false if stem => tile.run::<I, Stem<false, false>>(rows, pair, noted),
                    true if w.start.is_empty() => tile.run::<I, Bytes<true, false>>(rows, pair, noted),
                    true => tile.run::<I, Bytes<true, true>>(rows, pair, noted),
                    false if w.start.is_empty() => tile.run::<I, Bytes<false, false>>(rows, pair, noted),
                    false => tile.run::<I, Bytes<false, true>>(rows, pair, noted),
                };
                first += rows * tiles;
            }
            panel += panels;
        }
        // SAFETY: as above.
        unsafe { (noted.finite(), noted.bits()) }
    }
}

/// Writes a panel's nibbles as bytes; a line more than they take may be written.
#[inline(always)]
pub(super) fn unpack(w: &Packed, panel: usize, to: &mut [u8]) {
    let mut from = w.weights[panel * w.panel_bytes..].as_chunks::<64>().0.iter();
    let mut at = 0;
    for _ in 0..w.taps {
        for segment in &w.segments {
            let lines = segment.steps.div_ceil(2);
            for (packed, to) in to[at..]
                .as_chunks_mut::<128>()
                .0
                .iter_mut()
                .take(lines)
                .zip(from.by_ref())
                .map(|(to, packed)| (packed, to))
            {
                // Not in place: the compiler needs to know that no line overlaps another.
                let (packed, mut bytes) = (*packed, [0; 128]);
                for i in 0..64 {
                    // From four bits of two's complement to eight.
                    bytes[i] = ((packed[i] & 15) ^ 8).wrapping_sub(8);
                    bytes[64 + i] = ((packed[i] >> 4) ^ 8).wrapping_sub(8);
                }
                *to = bytes;
            }
            at += 64 * segment.steps;
        }
    }
}

/// Pixels from `first` on, in `tiles` tiles, and one or two panels from `panel` on, of a checked call.
#[derive(Clone, Copy)]
struct Tile<'a> {
    call: &'a ConvCall<'a>,
    panel: usize,
    first: usize,
    tiles: usize,
    /// The panel's weights, and the distance of the next one's.
    weights: *const u8,
    next: usize,
    /// What is read next, and asked for meanwhile.
    ahead: &'a [u8],
    spots: &'a Spots,
    fitting: usize,
    out: *mut f32,
    stride: usize,
    values: Option<&'a Values>,
}

impl<'a> Tile<'a> {
    /// Computes tiles of `rows` pixels, by two panels where `pair`; returns `noted` with their outputs.
    #[inline(always)]
    fn run<I: Isa, F: Form>(self, rows: usize, pair: bool, noted: Noted<I::Floats>) -> Noted<I::Floats> {
        match rows {
            7 if I::MORE_ROWS >= 7 => self.sized::<I, F, 7>(pair, noted),
            6 if I::ROWS >= 6 => self.sized::<I, F, 6>(pair, noted),
            5 if I::ROWS >= 5 || I::LAST_ROWS >= 5 => self.sized::<I, F, 5>(pair, noted),
            4 if I::ROWS >= 4 => self.sized::<I, F, 4>(pair, noted),
            3 if I::ROWS >= 3 => self.sized::<I, F, 3>(pair, noted),
            2 => self.sized::<I, F, 2>(pair, noted),
            _ => self.sized::<I, F, 1>(pair, noted),
        }
    }

    #[inline(always)]
    fn sized<I: Isa, F: Form, const R: usize>(self, pair: bool, noted: Noted<I::Floats>) -> Noted<I::Floats> {
        // SAFETY: only tasks that run on CPUs with the instructions make tiles.
        unsafe {
            if I::PANELS > 1 && pair {
                I::vectorize(Tiles::<I, F, R, 2> { tile: self, noted, form: PhantomData })
            } else {
                I::vectorize(Tiles::<I, F, R, 1> { tile: self, noted, form: PhantomData })
            }
        }
    }
}

/// Tiles of `R` pixels by `P` panels.
struct Tiles<'a, I: Isa, F, const R: usize, const P: usize> {
    tile: Tile<'a>,
    noted: Noted<I::Floats>,
    form: PhantomData<F>,
}

impl<I: Isa, F: Form, const R: usize, const P: usize> Task for Tiles<'_, I, F, R, P> {
    type Output = Noted<I::Floats>;

    /// Integer sums of a segment and float sums of all, both in registers. What stands between two tiles is kept short: the
    /// next one's multiplications wait behind it.
    #[inline(always)]
    fn run(self) -> Noted<I::Floats> {
        let Self {
            tile: Tile { call, panel, tiles, next, spots, fitting, out, stride, values, .. }, mut noted, ..
        } = self;
        let w = call.weights;
        let group = w.panels[panel].group;
        let (bytes, floats) = (call.layout.bytes, call.layout.scales);
        let (taps, segments): (&[u32], &[Segment]) = (call.taps, &w.segments);
        let next_scales = w.taps * segments.len() * LANES;
        let signed = F::SIGNED.unwrap_or(!w.start.is_empty());
        // SAFETY: the CPU has the instructions, or there would be no tile. `ConvCall::check` held for every pixel, tap, panel,
        // segment, output and residual row. After an odd number of steps in nibbles a segment's last codes are multiplied
        // by weights of 0, and `SLACK` bytes follow the last pixel.
        unsafe {
            let all_codes = call.codes.as_ptr().add(group * w.group_bytes);
            let all_scales = call.scales.as_ptr().add(group * w.group_scales);
            let all_alpha = w.alpha.as_ptr().wrapping_add(panel * next_scales);
            let all_start = w.start.as_ptr().wrapping_add(panel * next_scales);
            let all_levels = w.levels.as_ptr().wrapping_add(panel * next_scales);
            let quarters = w.quarters(panel, call.layout.groups);
            let shares = quarters.map(|quarter| (quarter - group) * w.group_bytes);
            let scale_shares = quarters.map(|quarter| (quarter - group) * w.group_scales);
            let end = End::<I::Floats, P>::new(call, panel, out, stride, values);
            let ahead_range = self.tile.ahead.as_ptr_range();
            let mut ahead = ahead_range.start;
            for tile in 0..tiles {
                let first = self.tile.first + tile * R;
                end.ask::<I, R>(first + R);
                let ahead_step = if ahead < ahead_range.end { 32 } else { 0 };
                let scale_at = spots.scales.as_ptr().add(first);
                let mut codes = [all_codes; R];
                for r in 0..R {
                    codes[r] = all_codes.add(*spots.codes.as_ptr().add(first + r));
                }
                let mut sums = [[I::Floats::splat(0.0); P]; R];
                let mut dots = [[I::Sums::zero(); P]; R];
                let rows = Rows {
                    codes,
                    scales: scale_at,
                    next,
                    next_scales,
                    fitting,
                    ahead_step,
                    signed,
                    shares,
                    scale_shares,
                };
                let (weights, alpha, start, levels) = (self.tile.weights, all_alpha, all_start, all_levels);
                let mut cursor = Cursor { at: 0, weights, alpha, start, levels, ahead, fresh: true };
                if F::EACH {
                    cursor.at = *taps.get_unchecked(0) as usize * bytes;
                    let scales = all_scales.add(*taps.get_unchecked(0) as usize * floats);
                    let segment = Segment { steps: segments.len(), ..*segments.get_unchecked(0) };
                    rows.add::<I, F, P>(&mut cursor, Segment { last: true, ..segment }, scales, &mut sums, &mut dots);
                } else if !F::ONE
                    && let (&[tap], &[segment]) = (taps, segments)
                {
                    // Apart, so that sums need no registers yet.
                    cursor.at = tap as usize * bytes;
                    let scales = all_scales.add(tap as usize * floats);
                    rows.add::<I, F, P>(&mut cursor, segment, scales, &mut sums, &mut dots);
                } else {
                    for &tap in taps {
                        cursor.at = tap as usize * bytes;
                        let scales = all_scales.add(tap as usize * floats);
                        for i in 0..if F::ONE { 1 } else { segments.len() } {
                            let segment = match F::ONE {
                                true => Segment { steps: 1, scale: 0, last: true },
                                false => *segments.get_unchecked(i),
                            };
                            rows.add::<I, F, P>(&mut cursor, segment, scales, &mut sums, &mut dots);
                        }
                    }
                }
                ahead = cursor.ahead;
                noted = end.store(first, sums, noted);
            }
        }
        noted
    }
}

/// The pixels of a tile, and the distances between what is read.
struct Rows<const R: usize> {
    /// Each pixel's codes, and where its scales begin.
    codes: [*const u8; R],
    scales: *const usize,
    next: usize,
    next_scales: usize,
    fitting: usize,
    ahead_step: usize,
    signed: bool,
    /// [`Run::shares`], and the same of scales.
    shares: [usize; 4],
    scale_shares: [usize; 4],
}

/// What is read next: the byte of codes, and what is of the tile's first panel.
struct Cursor {
    at: usize,
    weights: *const u8,
    alpha: *const f32,
    start: *const i32,
    levels: *const i32,
    ahead: *const u8,
    /// Whether sums begin with the next segment.
    fresh: bool,
}

impl<const R: usize> Rows<R> {
    /// Adds a segment to the integer sums, and these to the float sums where they are whole.
    #[inline(always)]
    unsafe fn add<I: Isa, F: Form, const P: usize>(
        &self,
        cursor: &mut Cursor,
        Segment { steps, scale, last }: Segment,
        scales: *const f32,
        sums: &mut [[I::Floats; P]; R],
        dots: &mut [[I::Sums; P]; R],
    ) {
        let &Self { codes, next, next_scales, fitting, ahead_step, shares, .. } = self;
        let &mut Cursor { at, weights, alpha, start, levels, ahead, fresh } = cursor;
        // SAFETY: of the caller.
        unsafe {
            // With levels, segments that share a scale share their sums.
            if !F::LEVELS {
                *dots = [[I::Sums::zero(); P]; R];
            }
            if self.signed && (!F::LEVELS || fresh) {
                for p in 0..P {
                    let start = I::Sums::load(start.add(p * next_scales));
                    let start = if F::ONE { start.biased() } else { start };
                    for r in 0..R {
                        dots[r][p] = start;
                    }
                }
            }
            let next_levels = next_scales;
            let run = Run { codes, at, weights, next, steps, levels, next_levels, ahead, ahead_step, fitting, shares };
            if !F::ONE {
                I::multiply::<F, R, P>(dots, &run);
            }
            if last || !F::LEVELS {
                let mut factors = [I::Floats::splat(0.0); P];
                if !F::TWO {
                    for p in 0..P {
                        factors[p] = I::Floats::load(alpha.add(p * next_scales));
                    }
                }
                for r in 0..R {
                    if F::ONE {
                        // Pixel by pixel: its integer sums are used at once.
                        let mut dot = [dots[r]];
                        I::multiply::<F, 1, P>(&mut dot, &run.of(r));
                        dots[r] = dot[0];
                    }
                    let s = scales.add(*self.scales.add(r) + scale);
                    let s = match F::GROUPS {
                        1 => I::Floats::splat(*s),
                        _ => I::Floats::quarters(self.scale_shares.map(|share| *s.add(share))),
                    };
                    for p in 0..P {
                        let factor = if F::TWO { s } else { factors[p].mul(s) };
                        let dot = if F::ONE && self.signed { dots[r][p].biased_floats() } else { dots[r][p].floats() };
                        sums[r][p] = factor.mul_add::<false>(dot, sums[r][p]);
                    }
                }
            }
            if F::LEVELS && last {
                *dots = [[I::Sums::zero(); P]; R];
            }
            *cursor = Cursor {
                at: at + 4 * steps,
                weights: weights.add(64 * if F::NIBBLES { steps.div_ceil(2) } else { steps }),
                alpha: alpha.wrapping_add(LANES),
                start: start.wrapping_add(LANES),
                levels: levels.wrapping_add(LANES),
                ahead: ahead.wrapping_add(ahead_step * steps),
                fresh: last,
            };
        }
    }
}
