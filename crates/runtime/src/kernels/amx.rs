//! AMX: tiles of 16 pixels by 16 outputs, four at a time, with AVX-512 for everything else.
//!
//! A tile of codes `[16 pixels, 4 steps]` times a tile of weights `[steps, 16 outputs, 4]`, which is how packed weights
//! lie, is 16 x 16 integer sums of a chunk of up to 16 steps. After each segment they are stored, and scaled into float
//! sums while the next segment's are made.
use std::arch::asm;
use std::arch::x86_64::*;

use super::avx512::Avx512Vnni;
use super::end::{End, Noted};
use super::tile::{Isa, unpack};
use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, SLACK, STRIP, Task, Wants};
use crate::layout::LANES;

/// The number of rows of a tile: pixels, or steps.
const ROWS: usize = 16;
/// The number of bytes of a tile's row.
const LINE: usize = 64;
/// The fewest pixels of a tile that is loaded from where they lie, where others could fill it: gaps between them take less
/// time than copies.
const DENSE: usize = 12;
/// The most tiles that the pixels of a strip take.
const SPOTS: usize = STRIP.div_ceil(DENSE) + 1;

/// The kernel of CPUs with AMX-INT8 and what [`Avx512Vnni`] needs, where the system lets this process use it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amx(Avx512Vnni);

/// Tells whether the CPU has AMX-TILE and AMX-INT8, with tiles of the size used here, and the system saves their state.
fn cpu_has_tiles() -> bool {
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: register 0 is there where XSAVE is enabled.
        unsafe { _xgetbv(0) }
    }
    if !is_x86_feature_detected!("xsave") || __cpuid(0).eax < 0x1d {
        return false;
    }
    // SAFETY: the CPU has XSAVE, and the system enabled it.
    let state = unsafe { enabled() } >> 17 & 3;
    let features = __cpuid_count(7, 0).edx >> 24 & 3;
    let palette = __cpuid_count(0x1d, 1);
    let (row, tiles, rows) = (palette.ebx & 0xffff, palette.ebx >> 16, palette.ecx & 0xffff);
    state == 3 && features == 3 && row as usize == LINE && tiles == 8 && rows as usize == ROWS
}

/// Asks the system for tiles, for all threads of this process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: this system call reads and writes no memory of the process.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

impl Kernel for Amx {
    /// Long strips: each unpacks the weights again.
    const WANTS: Wants = Wants { tile: 16, fewest: 64, strip: 128 * 1024, long_strip: 256 * 1024, ..Wants::USUAL };

    fn new() -> Option<Self> {
        let vnni = Avx512Vnni::new()?;
        (cpu_has_tiles() && permitted()).then_some(Self(vnni))
    }

    fn conv(&self, call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) -> bool {
        call.check(out, stride);
        if pays(call) && fits(call, unpacked) {
            self.0.run(Conv { tiles: &mut Hardware, call, unpacked, out, stride })
        } else {
            self.0.conv(call, unpacked, out, stride)
        }
    }

    fn quantize(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        self.0.quantize(call, codes, scales);
    }

    fn quantize_planes(&self, call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        self.0.quantize_planes(call, codes, scales);
    }

    fn run<T: Task>(&self, task: T) -> T::Output {
        self.0.run(task)
    }
}

/// Tells whether tiles are faster than vectors: a tile takes its time however few pixels and steps it has.
fn pays(call: &ConvCall<'_>) -> bool {
    let segments = &call.weights.segments;
    call.pixels.len() >= ROWS / 2 && segments.iter().map(|s| s.steps).sum::<usize>() >= ROWS / 2 * segments.len()
}

/// Tells whether [`Conv`] can run the call: it is not depthwise, and there is room for its weights as bytes.
fn fits(call: &ConvCall<'_>, unpacked: &[u8]) -> bool {
    let w = call.weights;
    !w.depthwise && (!w.nibbles || unpacked.len() >= 2 * w.unpacked_bytes() + LINE)
}

/// The tile instructions that are used here, on registers named by number.
trait Tiles {
    /// Gives the registers their shapes; they hold zeros.
    unsafe fn configure(&mut self, config: &[u8; 64]);
    /// Gives the registers back.
    unsafe fn release(&mut self);
    /// Fills register `T` with zeros.
    unsafe fn zero<const T: u8>(&mut self);
    /// Loads register `T`, rows `stride` bytes apart.
    unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize);
    /// Stores register `T`, rows `stride` bytes apart.
    unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize);
    /// Adds to `D` the products of `A`, unsigned bytes, and `B`, signed ones.
    unsafe fn dot<const D: u8, const A: u8, const B: u8>(&mut self);
}

/// The CPU's tiles. The compiler uses none itself, so they keep their values between instructions.
#[derive(Debug)]
struct Hardware;

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn configure(&mut self, config: &[u8; 64]) {
        // SAFETY: the CPU has tiles, and `config` is valid, by the caller.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config, options(nostack, preserves_flags, readonly)) }
    }

    #[inline(always)]
    unsafe fn release(&mut self) {
        // SAFETY: the CPU has tiles.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
    }

    #[inline(always)]
    unsafe fn zero<const T: u8>(&mut self) {
        // SAFETY: the register has a shape, by the caller.
        unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags, nomem)) }
    }

    #[inline(always)]
    unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: the register has a shape and the rows can be read, by the caller.
        unsafe {
            asm!("tileloadd tmm{t}, [{from} + {stride}*1]", t = const T, from = in(reg) from, stride = in(reg) stride,
                options(nostack, preserves_flags, readonly));
        }
    }

    #[inline(always)]
    unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: the register has a shape and the rows can be written, by the caller.
        unsafe {
            asm!("tilestored [{to} + {stride}*1], tmm{t}", t = const T, to = in(reg) to, stride = in(reg) stride,
                options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn dot<const D: u8, const A: u8, const B: u8>(&mut self) {
        // SAFETY: the registers have shapes that fit, by the caller.
        unsafe {
            asm!("tdpbusd tmm{d}, tmm{a}, tmm{b}", d = const D, a = const A, b = const B,
                options(nostack, preserves_flags, nomem));
        }
    }
}

/// Returns the shapes of the registers for chunks of `steps`: 0 to 3 for sums, pixels by panels, 4 and 5 for codes, 6 and 7 for
/// weights.
fn config(steps: usize) -> [u8; 64] {
    let mut config = [0; 64];
    config[0] = 1;
    for (tile, [rows, bytes]) in
        [[ROWS, LINE]; 4].into_iter().chain([[ROWS, 4 * steps]; 2]).chain([[steps, LINE]; 2]).enumerate()
    {
        config[16 + 2 * tile] = bytes as u8;
        config[48 + tile] = rows as u8;
    }
    config
}

/// Some outputs whose pixels fill a tile.
#[derive(Debug, Clone, Copy, Default)]
struct Spot {
    /// The first output, and how many there are.
    first: usize,
    count: usize,
    /// The number of pixels from row to row; 0 where codes and scales are copied, row by row.
    distance: usize,
    /// The row of each output.
    rows: [u8; ROWS],
}

impl Spot {
    /// Takes output `first` and those after it, as many as a tile holds. The last tap is `reach` pixels from the first.
    fn new(call: &ConvCall<'_>, reach: usize, first: usize) -> Self {
        let pixels = &call.pixels[first..call.pixels.len().min(first + ROWS)];
        let distance = pixels.get(1).map_or(1, |next| next.saturating_sub(pixels[0])) as usize;
        let mut rows = std::array::from_fn(|i| i as u8);
        let mut count = 1;
        while count < pixels.len() {
            let row = match pixels[count].checked_sub(pixels[count - 1]).map(|step| step as usize) {
                Some(step) if step == distance => usize::from(rows[count - 1]) + 1,
                Some(step) if distance > 0 && step % distance == 0 => usize::from(rows[count - 1]) + step / distance,
                _ => ROWS,
            };
            if row >= ROWS {
                break;
            }
            rows[count] = row as u8;
            count += 1;
        }
        // All rows are read, also those without an output.
        let last = pixels[0] as usize + (ROWS - 1) * distance + reach;
        let inside = (last + 1) * call.layout.bytes + SLACK <= call.codes.len()
            && (last + 1) * call.layout.scales <= call.scales.len();
        if inside && (count == pixels.len() || count >= DENSE) {
            Self { first, count, distance, rows }
        } else {
            Self { first, count: pixels.len(), distance: 0, rows: std::array::from_fn(|i| i as u8) }
        }
    }
}

/// Memory for what does not stay in registers; all of it stays in the first-level cache.
#[repr(C, align(64))]
struct Scratch {
    /// The integer sums of this segment and the one before: `[2, 4 tiles, 16, 16]`.
    dots: [[[i32; ROWS * LANES]; 4]; 2],
    /// The float sums, `[4 tiles, 16, 16]`.
    sums: [[f32; ROWS * LANES]; 4],
    /// The codes and weights of a chunk that cannot be loaded from where they lie.
    codes: [[u8; ROWS * LINE]; 2],
    weights: [[u8; ROWS * LINE]; 2],
    /// The scales of this segment and the one before.
    scales: [[[f32; ROWS]; 2]; 2],
}

/// The outputs of a checked call that [`fits`].
struct Conv<'a, T> {
    tiles: &'a mut T,
    call: &'a ConvCall<'a>,
    unpacked: &'a mut [u8],
    out: &'a mut [f32],
    stride: usize,
}

impl<T: Tiles> Task for Conv<'_, T> {
    /// Whether all outputs were finite before their limits.
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { tiles, call, unpacked, out, stride } = self;
        let w = call.weights;
        let mut spots = [Spot::default(); SPOTS];
        let (mut first, mut count) = (0, 0);
        let reach = call.taps.iter().max().map_or(0, |&tap| tap as usize);
        while first < call.pixels.len() {
            spots[count] = Spot::new(call, reach, first);
            first += spots[count].count;
            count += 1;
        }
        // Chunks of the longest segment, as even as can be: 28 steps are 14 and 14.
        let longest = w.segments.iter().map(|s| s.steps).max().unwrap_or(1);
        let steps = longest.div_ceil(longest.div_ceil(ROWS));
        let mut scratch = Scratch {
            dots: [[[0; _]; _]; _],
            sums: [[0.0; _]; _],
            codes: [[0; _]; _],
            weights: [[0; _]; _],
            scales: [[[0.0; _]; _]; _],
        };
        // SAFETY: the configuration is valid; the tiles are released below.
        unsafe { tiles.configure(&config(steps)) };
        // SAFETY: tasks like this one run only where the CPU has AVX-512.
        let mut noted = unsafe { Noted::<__m512>::nothing() };
        let mut panel = call.panels.start;
        while panel < call.panels.end {
            // Two panels at once where they read the same channels.
            let pair = panel + 1 < call.panels.end && w.panels[panel].group == w.panels[panel + 1].group;
            let (mut weights, mut next) = (w.weights[panel * w.panel_bytes..].as_ptr(), w.panel_bytes);
            if w.nibbles {
                let bytes = w.unpacked_bytes();
                for p in 0..if pair { 2 } else { 1 } {
                    unpack(w, panel + p, &mut unpacked[p * bytes..]);
                }
                (weights, next) = (unpacked.as_ptr(), bytes);
            }
            let block = Block { call, panel, weights, next, out: out.as_mut_ptr(), stride, steps };
            let (pairs, rest) = spots[..count].split_at(count / 2 * 2);
            // SAFETY: `call` was checked; spots, panels and chunks lie in it.
            noted = unsafe {
                if pair {
                    noted = block.run::<T, 2, 2>(tiles, pairs, &mut scratch, noted);
                    block.run::<T, 1, 2>(tiles, rest, &mut scratch, noted)
                } else {
                    noted = block.run::<T, 2, 1>(tiles, pairs, &mut scratch, noted);
                    block.run::<T, 1, 1>(tiles, rest, &mut scratch, noted)
                }
            };
            panel += if pair { 2 } else { 1 };
        }
        // SAFETY: they were configured.
        unsafe { tiles.release() };
        // SAFETY: as above.
        unsafe { noted.finite() }
    }
}

/// One or two panels of a checked call.
struct Block<'a> {
    call: &'a ConvCall<'a>,
    panel: usize,
    /// The panel's weights, in bytes, and the distance of the next one's.
    weights: *const u8,
    next: usize,
    out: *mut f32,
    stride: usize,
    /// The number of steps of a chunk.
    steps: usize,
}

impl Block<'_> {
    /// Computes tiles of pixels, `R` at a time, by `P` panels; returns `noted` with their outputs.
    unsafe fn run<T: Tiles, const R: usize, const P: usize>(
        &self,
        tiles: &mut T,
        spots: &[Spot],
        scratch: &mut Scratch,
        noted: Noted<__m512>,
    ) -> Noted<__m512> {
        // SAFETY: of the caller.
        unsafe { Avx512Vnni::vectorize(Part::<T, R, P> { block: self, tiles, spots, scratch, noted }) }
    }
}

/// Tiles of pixels, `R` at a time, by `P` panels.
struct Part<'a, T, const R: usize, const P: usize> {
    block: &'a Block<'a>,
    tiles: &'a mut T,
    spots: &'a [Spot],
    scratch: &'a mut Scratch,
    noted: Noted<__m512>,
}

impl<T: Tiles, const R: usize, const P: usize> Task for Part<'_, T, R, P> {
    type Output = Noted<__m512>;

    #[inline(always)]
    fn run(self) -> Noted<__m512> {
        let Self { block, tiles, spots, scratch, mut noted } = self;
        let Block { call, panel, next, out, stride, steps, .. } = *block;
        let w = call.weights;
        let group = w.panels[panel].group;
        let (bytes, floats) = (call.layout.bytes, call.layout.scales);
        let next_scales = w.taps * w.segments.len() * LANES;
        let two_level = w.two_level();
        let Scratch { dots, sums, codes: code_rows, weights: weight_rows, scales: scale_rows } = scratch;
        // Calls a macro with each pixel tile, panel and register of their sums.
        macro_rules! each {
            ($do:ident) => {
                $do!(0, 0, 0);
                if P == 2 {
                    $do!(0, 1, 1);
                }
                if R == 2 {
                    $do!(1, 0, 2);
                }
                if R == 2 && P == 2 {
                    $do!(1, 1, 3);
                }
            };
        }
        // SAFETY: `ConvCall::check` held for every pixel, tap, panel and segment, and `Spot::new` for rows without an
        // output. A chunk's codes may go on behind its segment, where weights are 0: `SLACK` bytes follow the last pixel.
        unsafe {
            let all_codes = call.codes.as_ptr().add(group * w.group_bytes);
            let all_scales = call.scales.as_ptr().add(group * w.group_scales);
            let alpha = w.alpha.as_ptr().wrapping_add(panel * next_scales);
            let start = w.start.as_ptr().wrapping_add(panel * next_scales);
            let ends: [_; P] = std::array::from_fn(|p| End::<__m512, 1>::new(call, panel + p, out, stride, None));
            let mut half = 0;
            // Not a closure, which would be compiled for any CPU.
            macro_rules! end {
                ($before:expr) => {
                    noted = match (two_level, $before.first) {
                        (true, true) => $before.end::<true, true, P>(&ends, next_scales, &dots[1 - half], sums, noted),
                        (true, false) => {
                            $before.end::<true, false, P>(&ends, next_scales, &dots[1 - half], sums, noted)
                        }
                        (false, true) => {
                            $before.end::<false, true, P>(&ends, next_scales, &dots[1 - half], sums, noted)
                        }
                        (false, false) => {
                            $before.end::<false, false, P>(&ends, next_scales, &dots[1 - half], sums, noted)
                        }
                    }
                };
            }
            // The segment before, whose integer sums are in the other half of `dots`. The last one of some pixels ends among
            // the multiplications of the next ones.
            let mut before: Option<Before<'_, R>> = None;
            for spots in spots.chunks_exact(R) {
                let spots: &[Spot; R] = spots.try_into().expect("chunks of this size");
                let pixel = |r: usize, i: usize| *call.pixels.get_unchecked(spots[r].first + i) as usize;
                let codes: [_; R] = std::array::from_fn(|r| all_codes.add(pixel(r, 0) * bytes));
                let distance: [usize; R] = std::array::from_fn(|r| (spots[r].distance * floats).max(1));
                let (mut weights, mut alpha, mut start) = (block.weights, alpha, start);
                let mut first = true;
                for &tap in call.taps {
                    let tap = tap as usize;
                    let mut at = tap * bytes;
                    for segment in &w.segments {
                        macro_rules! begin {
                            ($r:literal, $p:literal, $t:literal) => {
                                if w.start.is_empty() {
                                    tiles.zero::<$t>();
                                } else {
                                    // The same row 16 times.
                                    tiles.load::<$t>(start.add($p * next_scales).cast(), 0);
                                }
                            };
                        }
                        each!(begin);
                        let mut left = segment.steps;
                        while left > 0 {
                            let here = left.min(steps);
                            let mut lines: [_; P] = std::array::from_fn(|p| weights.add(p * next));
                            if here < steps {
                                for p in 0..P {
                                    copy_lines(lines[p], here, &mut weight_rows[p]);
                                    lines[p] = weight_rows[p].as_ptr();
                                }
                            }
                            macro_rules! load_codes {
                                ($r:literal, $t:literal) => {
                                    if spots[$r].distance > 0 {
                                        tiles.load::<$t>(codes[$r].add(at), spots[$r].distance * bytes);
                                    } else {
                                        for i in 0..spots[$r].count {
                                            let from = all_codes.add(pixel($r, i) * bytes + at);
                                            let to = code_rows[$r].as_mut_ptr().add(LINE * i);
                                            _mm512_storeu_si512(to.cast(), _mm512_loadu_si512(from.cast()));
                                        }
                                        tiles.load::<$t>(code_rows[$r].as_ptr(), LINE);
                                    }
                                };
                            }
                            load_codes!(0, 4);
                            tiles.load::<6>(lines[0], LINE);
                            tiles.dot::<0, 4, 6>();
                            if P == 2 {
                                tiles.load::<7>(lines[P - 1], LINE);
                                tiles.dot::<1, 4, 7>();
                            }
                            if R == 2 {
                                load_codes!(1, 5);
                                tiles.dot::<2, 5, 6>();
                                if P == 2 {
                                    tiles.dot::<3, 5, 7>();
                                }
                            }
                            weights = weights.add(LINE * here);
                            at += 4 * here;
                            left -= here;
                        }
                        let scales: [_; R] = std::array::from_fn(|r| {
                            let from = all_scales.add(tap * floats + segment.scale);
                            if spots[r].distance > 0 {
                                return from.add(pixel(r, 0) * floats);
                            }
                            let to = &mut scale_rows[half][r];
                            for i in 0..spots[r].count {
                                to[i] = *from.add(pixel(r, i) * floats);
                            }
                            to.as_ptr()
                        });
                        macro_rules! store {
                            ($r:literal, $p:literal, $t:literal) => {
                                tiles.store::<$t>(dots[half][$t].as_mut_ptr().cast(), LINE);
                                if !first && let Some(before) = &before {
                                    before.add::<$r>(two_level, $p * next_scales, &dots[1 - half][$t], &mut sums[$t]);
                                }
                            };
                        }
                        each!(store);
                        if first && let Some(before) = &before {
                            end!(before);
                        }
                        before = Some(Before { spots, scales, distance, alpha, first });
                        first = false;
                        half = 1 - half;
                        alpha = alpha.wrapping_add(LANES);
                        start = start.wrapping_add(LANES);
                    }
                }
            }
            if let Some(before) = &before {
                end!(before);
            }
        }
        noted
    }
}

/// A segment of `R` tiles of pixels whose integer sums were stored.
struct Before<'a, const R: usize> {
    spots: &'a [Spot; R],
    /// The scale of each tile's first row, and how far the next row's is behind it.
    scales: [*const f32; R],
    distance: [usize; R],
    /// The scales of the first panel's lanes.
    alpha: *const f32,
    /// Whether it is the first one of its outputs, whose float sums are 0.
    first: bool,
}

impl<const R: usize> Before<'_, R> {
    /// Adds the integer sums of tile `r`, scaled, to its float sums.
    #[inline(always)]
    unsafe fn add<const TILE: usize>(
        &self,
        two_level: bool,
        panel: usize,
        dots: &[i32; ROWS * LANES],
        sums: &mut [f32; ROWS * LANES],
    ) {
        let (alpha, scales, distance) = (self.alpha.wrapping_add(panel), self.scales[TILE], self.distance[TILE]);
        // SAFETY: of the caller.
        unsafe {
            match (two_level, self.first) {
                (true, true) => add::<true, true>(dots, sums, alpha, scales, distance),
                (true, false) => add::<true, false>(dots, sums, alpha, scales, distance),
                (false, true) => add::<false, true>(dots, sums, alpha, scales, distance),
                (false, false) => add::<false, false>(dots, sums, alpha, scales, distance),
            }
        }
    }

    /// Ends the outputs whose last segment this is; returns `noted` with them.
    #[inline(always)]
    unsafe fn end<const TWO: bool, const FIRST: bool, const P: usize>(
        &self,
        ends: &[End<__m512, 1>; P],
        next_scales: usize,
        dots: &[[i32; ROWS * LANES]; 4],
        sums: &[[f32; ROWS * LANES]; 4],
        mut noted: Noted<__m512>,
    ) -> Noted<__m512> {
        // SAFETY: of the caller.
        unsafe {
            for r in 0..R {
                let Spot { first, count, rows, .. } = &self.spots[r];
                for p in 0..P {
                    let (dots, sums) = (&dots[2 * r + p], &sums[2 * r + p]);
                    let alpha = self.alpha.wrapping_add(p * next_scales);
                    let alpha = if TWO { _mm512_setzero_ps() } else { _mm512_loadu_ps(alpha) };
                    // Not a closure, which would be compiled for any CPU.
                    macro_rules! sum {
                        ($i:expr) => {{
                            let row = usize::from(rows[$i]);
                            [scaled::<TWO, FIRST>(dots, sums, row, alpha, *self.scales[r].add(row * self.distance[r]))]
                        }};
                    }
                    let fours = count / 4 * 4;
                    for i in (0..fours).step_by(4) {
                        noted = ends[p].store(first + i, [sum!(i), sum!(i + 1), sum!(i + 2), sum!(i + 3)], noted);
                    }
                    for i in fours..*count {
                        noted = ends[p].store(first + i, [sum!(i)], noted);
                    }
                }
            }
        }
        noted
    }
}

/// Returns a row's float sums with its integer sums, scaled.
#[inline(always)]
unsafe fn scaled<const TWO: bool, const FIRST: bool>(
    dots: &[i32; ROWS * LANES],
    sums: &[f32; ROWS * LANES],
    row: usize,
    alpha: __m512,
    scale: f32,
) -> __m512 {
    // SAFETY: of the caller: a tile has 16 rows.
    unsafe {
        let s = _mm512_set1_ps(scale);
        let factor = if TWO { s } else { _mm512_mul_ps(alpha, s) };
        let dot = _mm512_cvtepi32_ps(_mm512_loadu_si512(dots.as_ptr().add(row * LANES).cast()));
        let sum = if FIRST { _mm512_setzero_ps() } else { _mm512_loadu_ps(sums.as_ptr().add(row * LANES)) };
        _mm512_fmadd_ps(factor, dot, sum)
    }
}

/// Copies some lines of weights to a chunk and fills it up with zeros.
#[inline(always)]
unsafe fn copy_lines(from: *const u8, lines: usize, to: &mut [u8; ROWS * LINE]) {
    for i in 0..ROWS {
        // SAFETY: of the caller; a chunk has 16 lines.
        unsafe {
            let line = if i < lines { _mm512_loadu_si512(from.add(LINE * i).cast()) } else { _mm512_setzero_si512() };
            _mm512_storeu_si512(to.as_mut_ptr().add(LINE * i).cast(), line);
        }
    }
}

/// Adds a segment's integer sums, scaled, to the float sums. Row `i`'s scale is `scales[i * distance]`.
#[inline(always)]
unsafe fn add<const TWO: bool, const FIRST: bool>(
    dots: &[i32; ROWS * LANES],
    sums: &mut [f32; ROWS * LANES],
    alpha: *const f32,
    scales: *const f32,
    distance: usize,
) {
    // SAFETY: of the caller: a panel's scales, and one of each row.
    unsafe {
        let alpha = if TWO { _mm512_setzero_ps() } else { _mm512_loadu_ps(alpha) };
        let mut scales = scales;
        for row in 0..ROWS {
            let sum = scaled::<TWO, FIRST>(dots, sums, row, alpha, *scales);
            _mm512_storeu_ps(sums.as_mut_ptr().add(row * LANES), sum);
            scales = scales.wrapping_add(distance);
        }
    }
}

#[cfg(test)]
mod tests {
    use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize};
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::Buffer;
    use crate::kernels::Residual;
    use crate::kernels::scalar::Scalar;
    use crate::layout::{LayerInput, Layout, Whole};
    use crate::pack::{Integers, Packed, Packing, Scale};

    /// The tile instructions in plain loops, with the limits of palette 1: what the CPU refuses panics.
    struct Plain {
        configured: bool,
        shapes: [[usize; 2]; 8],
        tiles: [[[u8; LINE]; ROWS]; 8],
        dots: usize,
    }

    const ZEROS: [[u8; LINE]; ROWS] = [[0; LINE]; ROWS];

    impl Plain {
        fn new() -> Self {
            Self { configured: false, shapes: [[0; 2]; 8], tiles: [ZEROS; 8], dots: 0 }
        }

        fn shape(&self, t: u8) -> [usize; 2] {
            assert!(self.configured && self.shapes[t as usize] != [0, 0], "register {t} has no shape");
            self.shapes[t as usize]
        }
    }

    impl Tiles for Plain {
        unsafe fn configure(&mut self, config: &[u8; 64]) {
            assert!(config[0] == 1 && config[1..16].iter().all(|&x| x == 0));
            assert!(config[32..48].iter().chain(&config[56..]).all(|&x| x == 0));
            for t in 0..8 {
                let bytes = u16::from_le_bytes([config[16 + 2 * t], config[17 + 2 * t]]) as usize;
                let rows = config[48 + t] as usize;
                assert!(rows <= ROWS && bytes <= LINE && (rows == 0) == (bytes == 0));
                self.shapes[t] = [rows, bytes];
            }
            self.tiles = [ZEROS; 8];
            self.configured = true;
        }

        unsafe fn release(&mut self) {
            assert!(std::mem::take(&mut self.configured));
        }

        unsafe fn zero<const T: u8>(&mut self) {
            self.shape(T);
            self.tiles[T as usize] = ZEROS;
        }

        unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize) {
            let [rows, bytes] = self.shape(T);
            self.tiles[T as usize] = ZEROS;
            for row in 0..rows {
                // SAFETY: of the caller.
                let from = unsafe { std::slice::from_raw_parts(from.add(row * stride), bytes) };
                self.tiles[T as usize][row][..bytes].copy_from_slice(from);
            }
        }

        unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize) {
            let [rows, bytes] = self.shape(T);
            for row in 0..rows {
                // SAFETY: of the caller.
                let to = unsafe { std::slice::from_raw_parts_mut(to.add(row * stride), bytes) };
                to.copy_from_slice(&self.tiles[T as usize][row][..bytes]);
            }
        }

        unsafe fn dot<const D: u8, const A: u8, const B: u8>(&mut self) {
            let ([rows, bytes], [a_rows, a_bytes], [b_rows, b_bytes]) = (self.shape(D), self.shape(A), self.shape(B));
            assert!(D != A && A != B && B != D);
            assert!(rows == a_rows && bytes == b_bytes && a_bytes == 4 * b_rows && bytes % 4 == 0);
            let [a, b] = [self.tiles[A as usize], self.tiles[B as usize]];
            for (d, a) in self.tiles[D as usize].iter_mut().zip(&a).take(rows) {
                for (lane, d) in d[..bytes].chunks_exact_mut(4).enumerate() {
                    let product = |k: usize| i32::from(a[k]) * i32::from(b[k / 4][4 * lane + k % 4] as i8);
                    let sum = i32::from_le_bytes((&*d).try_into().unwrap());
                    d.copy_from_slice(&(0..a_bytes).map(product).fold(sum, i32::wrapping_add).to_le_bytes());
                }
            }
            self.dots += 1;
        }
    }

    /// A convolution as a kernel sees it.
    #[derive(Debug)]
    struct Case {
        /// Channels of a group, groups, outputs of a group.
        channels: [usize; 3],
        /// Of weights; 0 is all channels.
        block: usize,
        /// An activation block's weight blocks; 0 is all.
        multiple: usize,
        taps: Vec<u32>,
        pixels: Vec<u32>,
        /// Pixels behind the last one that is read.
        more: usize,
        signed: bool,
        two_level: bool,
        nibbles: bool,
        seed: u32,
    }

    impl Case {
        fn check(&self) {
            let [each, groups, out] = self.channels;
            let size = |n: usize| if n == 0 { BlockSize::PIXEL } else { BlockSize::new(n).unwrap() };
            let (block, activation) = (size(self.block), size(self.block * self.multiple));
            let format = ActivationFormat { bits: Bits::MAX, block: activation, scale: ActivationScale::Float };
            let (channels, signed) = (each * groups, self.signed);
            let input = LayerInput {
                channels,
                groups,
                weight_block: block,
                format,
                signed,
                depthwise: false,
                whole: Whole::Apart,
            };
            let layout = Layout::new(input);
            let mut state = self.seed;
            let mut noise = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 16
            };
            let shape = [out * groups, each, 1, self.taps.len()];
            let shift = if self.nibbles { 4 } else { 0 };
            let values: Vec<i8> = (0..shape.iter().product()).map(|_| noise() as u8 as i8 >> shift).collect();
            let mut floats = |n: usize| (0..n).map(|_| noise() as f32 / 32768.0 - 1.0).collect::<Vec<_>>();
            let scales = floats(shape[0] * if self.two_level { 1 } else { block.count(each) * self.taps.len() });
            let scale = if self.two_level { Scale::Channel(&scales) } else { Scale::Block(&scales) };
            let packing = Packing { nibbles: self.nibbles, ..Packing::default() };
            let weights = Packed::new(Integers { shape, block, values: &values, scale }, None, &layout, packing);
            let area =
                self.more + 1 + *self.pixels.iter().max().unwrap() as usize + *self.taps.iter().max().unwrap() as usize;
            let activation_scales = floats(area * layout.scales);
            let mut codes = Buffer::new(area * layout.bytes + SLACK);
            codes.iter_mut().for_each(|code| *code = noise() as u8);
            let call = ConvCall {
                weights: &weights,
                layout: &layout,
                codes: &codes,
                scales: &activation_scales,
                width: 1,
                pixels: &self.pixels,
                taps: &self.taps,
                panels: 0..weights.panels.len(),
                residual: Residual::None,
                clamp: None,
            };
            let outputs = out * groups;
            let mut unpacked = Buffer::new(if self.nibbles { 2 * weights.unpacked_bytes() + LINE } else { 0 });
            let mut expected = Buffer::new(self.pixels.len() * outputs);
            let mut found = Buffer::new(expected.len());
            assert!(Scalar.conv(&call, &mut [], &mut expected, outputs));
            let expected: Vec<u32> = expected.iter().map(|x| x.to_bits()).collect();
            let mut plain = Plain::new();
            let same = |found: &mut Buffer<f32>, tiles: &str| {
                let bits: Vec<u32> = found.iter().map(|x| x.to_bits()).collect();
                assert!(bits == expected, "{tiles}: {self:?}");
                found.fill(f32::NAN);
            };
            assert!(fits(&call, &unpacked));
            // The reference checked the call.
            let vectors = Avx512Vnni::new().unwrap();
            let (unpacked, stride) = (&mut unpacked[..], outputs);
            let call = &call;
            assert!(vectors.run(Conv { tiles: &mut plain, call, unpacked: &mut *unpacked, out: &mut found, stride }));
            same(&mut found, "plain");
            assert!(plain.dots > 0 && !plain.configured);
            if Amx::new().is_some() {
                assert!(vectors.run(Conv { tiles: &mut Hardware, call, unpacked, out: &mut found, stride }));
                same(&mut found, "hardware");
            }
        }
    }

    prop_compose! {
        fn cases()(
            channels in prop_oneof![
                (1..300usize, Just(1usize), 1..70usize).prop_map(|(c, g, o)| [c, g, o]),
                (1..70usize, 2..4usize, 1..40usize).prop_map(|(c, g, o)| [c, g, o]),
            ],
            block in prop_oneof![1..100usize, Just(0), Just(32), Just(64), Just(128)],
            multiple in 0..3usize,
            kernel in [1..4usize, 1..4usize],
            stride in [1..3usize, 1..3usize],
            output in [1..9usize, 1..30usize],
            border in 0..3usize,
            more in prop_oneof![Just(0usize), 0..40usize],
            signed: bool, two_level: bool, nibbles: bool, seed: u32,
        ) -> Case {
            let width = (output[1] - 1) * stride[1] + kernel[1] + border;
            let walk = |[rows, columns]: [usize; 2], [y, x]: [usize; 2]| -> Vec<u32> {
                (0..rows * columns).map(|i| (i / columns * y * width + i % columns * x) as u32).collect()
            };
            let (taps, mut pixels) = (walk(kernel, [1, 1]), walk(output, stride));
            pixels.truncate(STRIP);
            Case { channels, block, multiple, taps, pixels, more, signed, two_level, nibbles, seed }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 32 } else { 256 }))]

        #[test]
        fn tiles_give_the_reference_bits(case in cases()) {
            // Without AVX-512 there is nothing to test.
            if Avx512Vnni::new().is_some() {
                case.check();
            }
        }
    }
}
