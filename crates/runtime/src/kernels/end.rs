//! What ends the sums of outputs, for every instruction set: channel scales, bias, residual and limits, and rounding to
//! the values of a depthwise layer.
use super::lanes::Lanes;
use super::tile::Isa;
use super::{ConvCall, Residual, STRIP};
use crate::layout::LANES;
use crate::pack::Panel;

/// The number of sums in which a tile's outputs are noted.
const CHAINS: usize = 4;

/// What is known of outputs.
#[derive(Clone, Copy)]
pub(super) struct Noted<V> {
    /// What [`Lanes::note`] gives of all of them before their limits.
    pub finite: V,
    /// The least bits less 1, and the largest bits, of those that were rounded.
    least: V,
    most: V,
}

impl<V: Lanes> Noted<V> {
    #[inline(always)]
    pub unsafe fn nothing() -> Self {
        // SAFETY: of the caller.
        unsafe { Self { finite: V::splat(0.0), least: V::splat(f32::from_bits(u32::MAX)), most: V::splat(0.0) } }
    }

    /// Tells whether all outputs were finite before their limits.
    #[inline(always)]
    pub unsafe fn finite(self) -> bool {
        // SAFETY: of the caller.
        unsafe { self.finite.array() }.iter().all(|&sum| sum == 0.0)
    }

    /// Returns the least bits less 1, and the largest, of those that were rounded.
    #[inline(always)]
    pub unsafe fn bits(self) -> (u32, u32) {
        // SAFETY: of the caller.
        let (least, most) = unsafe { (self.least.array(), self.most.array()) };
        let bits = |x: f32| x.to_bits();
        (least.map(bits).into_iter().fold(u32::MAX, u32::min), most.map(bits).into_iter().fold(0, u32::max))
    }
}

/// Where outputs are rounded to, as float-scaled values of a depthwise layer.
pub(super) struct Values {
    pub values: *mut f32,
    /// The first line of each output, and the number of lines from a panel to the next.
    pub lines: [usize; STRIP],
    pub width: usize,
    /// The largest code.
    pub hi: f32,
}

/// What [`Values`] is for some panels.
#[derive(Clone, Copy)]
struct Rounded<V> {
    values: *mut f32,
    lines: *const usize,
    next_panel: usize,
    minus_hi: V,
    inverse: V,
}

/// What ends the sums of `P` panels of a checked call, and where their rows go.
pub(super) struct End<V, const P: usize> {
    /// The channel scales of two-level weights.
    scale: Option<[V; P]>,
    bias: [V; P],
    /// The residual of output 0, or null.
    residual: *const f32,
    residual_stride: usize,
    limits: Option<(V, V)>,
    /// Whether the upper limit is finite.
    capped: bool,
    /// The row of output 0.
    out: *mut f32,
    stride: usize,
    /// Where outputs go in place of rows.
    rounded: Option<Rounded<V>>,
    /// The number of lanes that are outputs: all of them, but in the last panel of a group.
    lanes: [usize; P],
}

impl<V: Lanes, const P: usize> End<V, P> {
    /// Takes what ends the sums of the panels from `panel` on. The rows of `out` are `stride` floats apart; outputs go to
    /// `values` instead, if there are any.
    #[inline(always)]
    pub unsafe fn new(
        call: &ConvCall<'_>,
        panel: usize,
        out: *mut f32,
        stride: usize,
        values: Option<&Values>,
    ) -> Self {
        let w = call.weights;
        // SAFETY: `ConvCall::check` held for every output, panel and residual row.
        unsafe {
            let first = w.panels.get_unchecked(panel).first;
            let mut lanes = [LANES; P];
            // Adding -0 changes nothing, not even a zero's sign.
            let mut bias = [V::splat(-0.0); P];
            let mut scale = bias;
            for p in 0..P {
                let Panel { lanes: some, .. } = *w.panels.get_unchecked(panel + p);
                lanes[p] = some;
                if !w.bias.is_empty() {
                    bias[p] = V::load(w.bias.as_ptr().add((panel + p) * LANES));
                }
                if w.two_level() {
                    scale[p] = V::load(w.channel.as_ptr().add((panel + p) * LANES));
                }
            }
            let (residual, residual_stride) = match call.residual {
                Residual::Rows(rows) => (rows.data.as_ptr().add(first), rows.stride),
                Residual::Output => (out.add(first).cast_const(), stride),
                Residual::None => (std::ptr::null(), 0),
            };
            Self {
                scale: w.two_level().then_some(scale),
                bias,
                residual,
                residual_stride,
                limits: call.clamp.map(|(lo, hi)| (V::splat(lo), V::splat(hi))),
                capped: call.clamp.is_some_and(|(_, hi)| hi < f32::INFINITY),
                out: out.add(first),
                stride,
                rounded: values.map(|to| Rounded {
                    values: to.values.add(panel * to.width * LANES),
                    lines: to.lines.as_ptr(),
                    next_panel: to.width * LANES,
                    minus_hi: V::splat(-to.hi),
                    inverse: V::splat(1.0 / to.hi),
                }),
                lanes,
            }
        }
    }

    /// Asks for the residuals of `R` outputs from `first` on, which need not be there.
    #[inline(always)]
    pub unsafe fn ask<I: Isa, const R: usize>(&self, first: usize) {
        if !self.residual.is_null() {
            let mut row = self.residual.wrapping_add(first * self.residual_stride);
            for _ in 0..R {
                for p in 0..P {
                    // SAFETY: of the caller; nothing is read.
                    unsafe { I::ask(row.wrapping_add(p * LANES)) };
                }
                row = row.wrapping_add(self.residual_stride);
            }
        }
    }

    /// Ends and stores the sums of `R` outputs from `first` on; returns `noted` with what they were before the limits.
    #[inline(always)]
    pub unsafe fn store<const R: usize>(&self, first: usize, sums: [[V; P]; R], noted: Noted<V>) -> Noted<V> {
        // SAFETY: of the caller.
        unsafe {
            if self.lanes == [LANES; P] {
                self.store_some::<R, true>(first, sums, noted)
            } else {
                self.store_some::<R, false>(first, sums, noted)
            }
        }
    }

    /// Does one thing after the other for all outputs: the next tile's multiplications wait for the last.
    #[inline(always)]
    unsafe fn store_some<const R: usize, const WHOLE: bool>(
        &self,
        first: usize,
        mut y: [[V; P]; R],
        mut noted: Noted<V>,
    ) -> Noted<V> {
        // SAFETY: of the caller: `ConvCall::check` held for every output and residual row; where a panel has fewer than
        // 16 lanes, only these are read and written.
        unsafe {
            if let Some(scale) = &self.scale {
                for r in 0..R {
                    for p in 0..P {
                        y[r][p] = y[r][p].mul_add::<true>(scale[p], self.bias[p]);
                    }
                }
            } else {
                for r in 0..R {
                    for p in 0..P {
                        y[r][p] = y[r][p].add(self.bias[p]);
                    }
                }
            }
            if !self.residual.is_null() {
                let mut row = self.residual.add(first * self.residual_stride);
                for r in 0..R {
                    for p in 0..P {
                        let at = row.add(p * LANES);
                        let x = if WHOLE { V::load(at) } else { V::load_lanes(at, self.lanes[p]) };
                        y[r][p] = y[r][p].add(x);
                    }
                    row = row.wrapping_add(self.residual_stride);
                }
            }
            // Several chains: one for all would take as long as a short tile.
            let many = if R * P >= 8 { CHAINS } else { CHAINS / 2 };
            let mut chains = [V::splat(0.0); CHAINS];
            for r in 0..R {
                for p in 0..P {
                    // Lanes without an output hold anything.
                    let x = if WHOLE { y[r][p] } else { y[r][p].first_lanes(self.lanes[p]) };
                    chains[(r * P + p) % many] = chains[(r * P + p) % many].note(x);
                }
            }
            for chain in &chains[..many.min(R * P)] {
                noted.finite = noted.finite.add(*chain);
            }
            if let Some((lo, hi)) = self.limits {
                for r in 0..R {
                    for p in 0..P {
                        y[r][p] = y[r][p].at_least(lo);
                    }
                }
                if self.capped {
                    for r in 0..R {
                        for p in 0..P {
                            y[r][p] = y[r][p].at_most(hi);
                        }
                    }
                }
            }
            if let Some(to) = &self.rounded {
                for r in 0..R {
                    let line = to.values.add(*to.lines.add(first + r) * LANES);
                    for p in 0..P {
                        // After the last channel a line has zeros.
                        let x = if WHOLE { y[r][p] } else { y[r][p].first_lanes(self.lanes[p]) };
                        noted.least = noted.least.least_bits(x);
                        if !self.capped {
                            noted.most = noted.most.most_bits(x);
                        }
                        // The quotient as `depthwise::divide` finds it.
                        let quotient = x.mul(to.inverse);
                        let rest = quotient.mul_add::<false>(to.minus_hi, x);
                        rest.mul_add::<false>(to.inverse, quotient).store(line.add(p * to.next_panel));
                    }
                }
                return noted;
            }
            let mut row = self.out.add(first * self.stride);
            for r in 0..R {
                for p in 0..P {
                    let at = row.add(p * LANES);
                    if WHOLE {
                        y[r][p].store(at);
                    } else {
                        y[r][p].store_lanes(at, self.lanes[p]);
                    }
                }
                row = row.wrapping_add(self.stride);
            }
        }
        noted
    }
}
