//! The search for codes and scale of [`ScaleRule::Mse`](crate::ScaleRule::Mse).
//!
//! For given codes the best scale is that of least squares, which leaves the error `sum(w^2) - sum(w q)^2 / sum(q^2)`. So
//! the search maximises the *gain* `sum(w q)^2 / sum(q^2)` over the codes that rounding can give.
//!
//! At 2 bits the optimum is found exactly ([`Search::sweep`]): as `1/|alpha|` grows from 0, codes change one at a time
//! at known points, and each change updates both sums in constant time. With more bits there are too many points to
//! sort, and the search alternates rounding and least squares from a grid of clipping ratios ([`Search::grid`]). On normal
//! weights the grid comes within 0.005 dB of the optimum at 3 and 4 bits, in a half and a quarter of the sweep's time.
use crate::rules::{least_squares, round_codes};
use crate::{Bits, round};

/// The most bits for which every rounding point is visited; with more bits the grid is faster.
const SWEEP_BITS: u8 = 2;
/// The grid's clipping ratios are `GRID_FIRST + i * GRID_STEP` of the largest magnitude.
const GRID_FIRST: f32 = 0.4;
const GRID_STEP: f32 = 0.025;
const GRID_LEN: usize = 31;
/// The number of best starts of the grid that are alternated to a fixed point.
const GRID_KEPT: usize = 3;
/// The limit of alternations; they reach a fixed point after 3 to 6 rounds as a rule.
const ALTERNATIONS: usize = 16;
/// The number of independent partial sums, which lets loops vectorise; blocks are padded to a multiple with zeros.
pub(crate) const LANES: usize = 8;

/// The scratch space of the search.
pub(crate) struct Search {
    bits: Bits,
    lo: f32,
    hi: f32,
    /// The block times a power of two that brings its largest magnitude into `[1, 2)`, padded with zeros.
    unit: Vec<f32>,
    /// The rounding points for `alpha < 0` and for `alpha > 0`. Each packs `1/|alpha|` as bits, the element, and the new
    /// magnitude of its code.
    events: [Vec<u64>; 2],
    /// The best codes of the block that was searched last.
    pub codes: Vec<i8>,
}

impl Search {
    pub fn new(bits: Bits) -> Self {
        let (lo, hi) = (bits.signed_min() as f32, bits.signed_max() as f32);
        Self { bits, lo, hi, unit: Vec::new(), events: [Vec::new(), Vec::new()], codes: Vec::new() }
    }

    /// Searches a block whose largest magnitude is `max > 0`: returns its scale and leaves its codes in `self.codes`.
    pub fn block(&mut self, w: &[f32], max: f32) -> f32 {
        // f32 sums of squares must neither overflow nor vanish. Every f32 is a normal f64, so the factor comes from the
        // exponent bits: 2^(e - 1023) gives 2^(1023 - e).
        let factor = f64::from_bits((2046 - (f64::from(max).to_bits() >> 52)) << 52);
        self.unit.clear();
        self.unit.extend(w.iter().map(|&v| (f64::from(v) * factor) as f32));
        pad(&mut self.unit);
        let max = (f64::from(max) * factor) as f32;
        self.codes.clear();
        self.codes.resize(w.len(), 0);
        if self.bits.get() <= SWEEP_BITS && w.len() < 1 << 24 {
            let (minus, plus) = (self.sweep(-1.0, w.len()), self.sweep(1.0, w.len()));
            let (sign, steps) = if plus.0 >= minus.0 { (1.0, plus.1) } else { (-1.0, minus.1) };
            for &event in &self.events[usize::from(sign > 0.0)][..steps] {
                let (element, magnitude) = parts(event);
                let code = magnitude as i8;
                self.codes[element] = if self.unit[element] * sign > 0.0 { code } else { -code };
            }
        } else {
            let alpha = self.grid(max);
            round_codes(&self.unit[..w.len()], alpha, self.bits, &mut self.codes);
        }
        // The codes end as the rounding of `w / alpha` for the f32 scale itself.
        let mut alpha = least_squares(w, &self.codes, self.bits);
        for _ in 0..ALTERNATIONS {
            if !round_codes(w, alpha, self.bits, &mut self.codes) {
                break;
            }
            alpha = least_squares(w, &self.codes, self.bits);
        }
        alpha
    }

    /// Returns the largest gain over all `alpha` of one sign, and the number of sorted events that lead to it.
    fn sweep(&mut self, sign: f32, len: usize) -> (f64, usize) {
        let events = &mut self.events[usize::from(sign > 0.0)];
        events.clear();
        for (element, &u) in self.unit[..len].iter().enumerate() {
            let magnitude = u.abs();
            let last = if u * sign < 0.0 { -self.lo } else { self.hi };
            for k in 1..=last as u32 {
                // The code becomes k where |u| / |alpha| = k - 1/2. Positive floats sort as their bits do.
                let point = (k as f32 - 0.5) / magnitude;
                if point < f32::INFINITY {
                    events.push(u64::from(point.to_bits()) << 32 | (element as u64) << 8 | u64::from(k));
                }
            }
        }
        events.sort_unstable();
        let (mut uq, mut qq) = (0.0f64, 0.0f64);
        let (mut best_uq2, mut best_qq, mut steps) = (0.0, 1.0, 0);
        for (i, &event) in events.iter().enumerate() {
            let (element, k) = parts(event);
            uq += f64::from(self.unit[element].abs());
            qq += (2 * k - 1) as f64; // k^2 - (k-1)^2
            if uq * uq * best_qq > best_uq2 * qq {
                (best_uq2, best_qq, steps) = (uq * uq, qq, i + 1);
            }
        }
        (best_uq2 / best_qq, steps)
    }

    /// Returns a scale for `self.unit`, whose largest magnitude is `max`: the best fixed point from a grid of starts.
    fn grid(&self, max: f32) -> f32 {
        let mut kept = [(f64::NEG_INFINITY, 0.0); GRID_KEPT];
        for end in [self.lo, -self.lo] {
            for i in 0..GRID_LEN {
                let start = self.alternate((GRID_FIRST + i as f32 * GRID_STEP) * max / end);
                // Neighbouring starts often give the same codes; one of them is enough.
                if start.0 > kept[GRID_KEPT - 1].0 && kept.iter().all(|k| k.0 != start.0) {
                    kept[GRID_KEPT - 1] = start;
                    kept.sort_by(|a, b| b.0.total_cmp(&a.0));
                }
            }
        }
        for start in &mut kept {
            for _ in 0..ALTERNATIONS {
                let next = self.alternate(start.1);
                if next.0 <= start.0 {
                    break;
                }
                *start = next;
            }
        }
        kept.iter().fold(kept[0], |a, b| if b.0 > a.0 { *b } else { a }).1
    }

    /// Rounds to the codes that `alpha` gives, and returns their gain and their least-squares scale.
    fn alternate(&self, alpha: f32) -> (f64, f32) {
        let (uq, qq) = products(&self.unit, 1.0 / alpha, self.lo, self.hi);
        let (uq, qq) = (f64::from(uq), f64::from(qq));
        if qq == 0.0 { (f64::NEG_INFINITY, alpha) } else { (uq * uq / qq, (uq / qq) as f32) }
    }
}

/// Unpacks the element and the new magnitude of an event.
fn parts(event: u64) -> (usize, usize) {
    ((event >> 8 & 0xff_ffff) as usize, (event & 0xff) as usize)
}

/// Returns `(sum(u q), sum(q^2))` with `q = clamp(round(u * inv))`. Elements after the last whole lanes are left out: see
/// [`pad`].
#[inline(always)]
fn products(u: &[f32], inv: f32, lo: f32, hi: f32) -> (f32, f32) {
    let (mut uq, mut qq) = ([0.0; LANES], [0.0; LANES]);
    for u in u.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let q = round::round(u[lane] * inv, lo, hi);
            uq[lane] += u[lane] * q;
            qq[lane] += q * q;
        }
    }
    (uq.iter().sum(), qq.iter().sum())
}

/// Appends zeros up to a multiple of [`LANES`].
pub(crate) fn pad(u: &mut Vec<f32>) {
    u.resize(u.len().next_multiple_of(LANES), 0.0);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::SplitMix64;

    /// Makes roughly normal weights: each is the sum of 12 uniform numbers, less its mean.
    pub(crate) fn normal(seed: u64, len: usize) -> Vec<f32> {
        let mut random = SplitMix64::new(seed);
        (0..len).map(|_| (0..12).map(|_| random.next_f32()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn the_grid_comes_close_to_the_sweep() {
        for bits in [3, 4] {
            let mut search = Search::new(Bits::new(bits).unwrap());
            let (mut grid_error, mut sweep_error) = (0.0, 0.0);
            for seed in 0..500 {
                let w = normal(seed, 64);
                let max = w.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                search.block(&w, max);
                let unit_max = search.unit.iter().fold(0.0f32, |m, u| m.max(u.abs()));
                let energy: f64 = search.unit.iter().map(|&u| f64::from(u).powi(2)).sum();
                let optimum = search.sweep(-1.0, 64).0.max(search.sweep(1.0, 64).0);
                let found = search.alternate(search.grid(unit_max)).0;
                assert!(found <= optimum * (1.0 + 1e-6), "the sweep is the optimum");
                grid_error += energy - found;
                sweep_error += energy - optimum;
            }
            // 0.005 dB is 0.12 % of the error's energy.
            assert!(grid_error <= sweep_error * 1.0012, "{bits} bits: {grid_error} over {sweep_error}");
        }
    }

    #[test]
    fn codes_are_the_rounding_of_the_weights_by_their_scale() {
        for bits in 2..=8 {
            let bits = Bits::new(bits).unwrap();
            let mut search = Search::new(bits);
            let w = normal(7, 50);
            let alpha = search.block(&w, w.iter().fold(0.0f32, |m, w| m.max(w.abs())));
            let mut again = search.codes.clone();
            assert!(!round_codes(&w, alpha, bits, &mut again), "{bits} bits");
        }
    }
}
