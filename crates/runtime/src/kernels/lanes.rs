//! Sixteen floats in an instruction set's registers, and what ends their sums.
use super::{ConvCall, Residual, limit};
use crate::layout::LANES;
use crate::math;
use crate::pack::Panel;

/// Sixteen outputs in an instruction set's registers. Its functions are for where the CPU has the instructions.
pub(super) trait Lanes: Copy {
    unsafe fn load(at: *const f32) -> Self;
    unsafe fn store(self, at: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn add(self, y: Self) -> Self;
    unsafe fn mul(self, y: Self) -> Self;
    /// `self * y + z`, rounded once; unless `ANY`, no result is a rounded denormal.
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self;
    /// [`limit`].
    unsafe fn limit(self, lo: Self, hi: Self) -> Self;
    /// `self + 0 * y`: a NaN where `y` is not finite, or where one was before.
    unsafe fn note(self, y: Self) -> Self;
    /// Whether all that was noted, from zeros on, was finite.
    #[inline(always)]
    unsafe fn finite(self) -> bool {
        let mut sums = [0.0; LANES];
        // SAFETY: of the caller; sixteen floats are stored.
        unsafe { self.store(sums.as_mut_ptr()) };
        sums.iter().all(|&sum| sum == 0.0)
    }
}

impl Lanes for [f32; LANES] {
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { at.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: of the caller.
        unsafe { at.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        std::array::from_fn(|l| self[l] + y[l])
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        std::array::from_fn(|l| self[l] * y[l])
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        std::array::from_fn(|l| math::mul_add(self[l], y[l], z[l]))
    }
    #[inline(always)]
    unsafe fn limit(self, lo: Self, hi: Self) -> Self {
        std::array::from_fn(|l| limit(self[l], lo[l], hi[l]))
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        std::array::from_fn(|l| self[l] + 0.0 * y[l])
    }
}

/// Ends the sums of outputs `first ..` of a checked call, by a panel: channel scales, bias, residual and limits; then the
/// rows are stored. Gives `noted` with what the outputs were before the limits.
#[inline(always)]
pub(super) unsafe fn end<V: Lanes, const R: usize>(
    call: &ConvCall<'_>,
    panel: usize,
    first: usize,
    out: *mut f32,
    stride: usize,
    mut y: [V; R],
    mut noted: V,
) -> V {
    let w = call.weights;
    // SAFETY: `ConvCall::check` held for every output, panel and residual row; where a panel has fewer than 16 lanes, only
    // these are read and written.
    unsafe {
        let Panel { first: channel, lanes, .. } = *w.panels.get_unchecked(panel);
        let scale = (!w.channel.is_empty()).then(|| V::load(w.channel.as_ptr().add(panel * LANES)));
        let bias = (!w.bias.is_empty()).then(|| V::load(w.bias.as_ptr().add(panel * LANES)));
        for r in 0..R {
            y[r] = match (scale, bias) {
                (Some(scale), Some(bias)) => y[r].mul_add::<true>(scale, bias),
                (Some(scale), None) => y[r].mul(scale),
                (None, Some(bias)) => y[r].add(bias),
                (None, None) => y[r],
            };
        }
        let row = |r: usize| out.add((first + r) * stride + channel);
        match call.residual {
            Residual::Rows(rows) => {
                let residual = rows.data.as_ptr().add(first * rows.stride + channel);
                for r in 0..R {
                    y[r] = y[r].add(load_lanes(residual.add(r * rows.stride), lanes));
                }
            }
            Residual::Output => {
                for r in 0..R {
                    y[r] = y[r].add(load_lanes(row(r), lanes));
                }
            }
            Residual::None => {}
        }
        for r in 0..R {
            // Lanes without an output hold anything.
            noted = noted.note(if lanes == LANES { y[r] } else { first_lanes(y[r], lanes) });
        }
        if let Some((lo, hi)) = call.clamp {
            let (lo, hi) = (V::splat(lo), V::splat(hi));
            for r in 0..R {
                y[r] = y[r].limit(lo, hi);
            }
        }
        for r in 0..R {
            if lanes == LANES {
                y[r].store(row(r));
            } else {
                let mut whole = [0.0; LANES];
                y[r].store(whole.as_mut_ptr());
                row(r).copy_from_nonoverlapping(whole.as_ptr(), lanes);
            }
        }
    }
    noted
}

/// Zeros from lane `lanes` on.
#[inline(always)]
unsafe fn first_lanes<V: Lanes>(x: V, lanes: usize) -> V {
    let mut all = [0.0; LANES];
    // SAFETY: sixteen floats are stored, and as many loaded.
    unsafe {
        x.store(all.as_mut_ptr());
        all[lanes..].fill(0.0);
        V::load(all.as_ptr())
    }
}

/// The first `lanes` of sixteen floats.
#[inline(always)]
unsafe fn load_lanes<V: Lanes>(at: *const f32, lanes: usize) -> V {
    // SAFETY: of the caller.
    unsafe {
        if lanes == LANES {
            return V::load(at);
        }
        let mut x = [0.0; LANES];
        at.copy_to_nonoverlapping(x.as_mut_ptr(), lanes);
        V::load(x.as_ptr())
    }
}
