//! The scale rules on one block, each as a function of a contiguous `[len]` slice of weights.
use crate::search::Search;
use crate::{Bits, ScaleRule, round};

/// Scratch space and rule of one thread.
pub(crate) struct Quantizer {
    bits: Bits,
    rule: ScaleRule,
    search: Search,
    /// The codes of the block quantized last.
    pub codes: Vec<i8>,
}

impl Quantizer {
    pub fn new(bits: Bits, rule: ScaleRule) -> Self {
        Self { bits, rule, search: Search::new(bits), codes: Vec::new() }
    }

    /// Quantizes a block of finite weights: returns its scale and leaves its codes in `self.codes`.
    pub fn block(&mut self, w: &[f32]) -> f32 {
        self.codes.clear();
        self.codes.resize(w.len(), 0);
        let p = extreme(w);
        if p == 0.0 {
            return 0.0;
        }
        extreme_codes(w, p, self.bits, &mut self.codes);
        let alpha = least_squares(w, &self.codes, self.bits);
        match self.rule {
            ScaleRule::L2 => alpha,
            ScaleRule::Kl => kl_scale(w, &self.codes, alpha, self.bits),
            ScaleRule::Mse => {
                let error = squared_error(w, &self.codes, alpha);
                if error == 0.0 {
                    return alpha;
                }
                let best = self.search.block(w, p.abs());
                if squared_error(w, &self.search.codes, best) < error {
                    std::mem::swap(&mut self.codes, &mut self.search.codes);
                    best
                } else {
                    alpha
                }
            }
        }
    }
}

/// The signed element of largest magnitude, the first one of equals; 0 for an all-zero block.
pub(crate) fn extreme(w: &[f32]) -> f32 {
    w.iter().fold(0.0, |p: f32, &v| if v.abs() > p.abs() { v } else { p })
}

/// The paper's codes, `clamp(round(-2^(b-1) / p * w))`, in f64 so that a denormal `p` does not overflow.
fn extreme_codes(w: &[f32], p: f32, bits: Bits, codes: &mut [i8]) {
    let factor = f64::from(bits.signed_min()) / f64::from(p);
    let hi = f64::from(bits.signed_max());
    for (code, &w) in codes.iter_mut().zip(w) {
        // |w| <= |p|, so the product is at least -2^(b-1) without a clamp, up to a rounding error.
        *code = (factor * f64::from(w)).round_ties_even().min(hi) as i8;
    }
}

/// `sum(w q) / sum(q^2)` in f64, rounded once; 0 where every code is 0.
pub(crate) fn least_squares(w: &[f32], codes: &[i8], bits: Bits) -> f32 {
    let (mut wq, mut qq) = (0.0, 0i64);
    for (&w, &q) in w.iter().zip(codes) {
        wq += f64::from(w) * f64::from(q);
        qq += i64::from(q) * i64::from(q);
    }
    if qq == 0 { 0.0 } else { representable(wq / qq as f64, bits) }
}

/// A scale as f32, limited so that `alpha * -2^(b-1)` is finite too.
fn representable(alpha: f64, bits: Bits) -> f32 {
    let largest = f64::from(f32::MAX) / -f64::from(bits.signed_min());
    alpha.clamp(-largest, largest) as f32
}

/// `sum((w - alpha q)^2)` in f64 of the values that `dequantize` gives.
pub(crate) fn squared_error(w: &[f32], codes: &[i8], alpha: f32) -> f64 {
    w.iter()
        .zip(codes)
        .map(|(&w, &q)| {
            let d = f64::from(w) - f64::from(alpha * f32::from(q));
            d * d
        })
        .sum()
}

/// `clamp(round(w / alpha))` into `codes`; says whether any code changed.
pub(crate) fn round_codes(w: &[f32], alpha: f32, bits: Bits, codes: &mut [i8]) -> bool {
    let (lo, hi) = (bits.signed_min() as f32, bits.signed_max() as f32);
    let mut changed = 0;
    for (code, &w) in codes.iter_mut().zip(w) {
        let q = round::round_to_i8(round::over(w, alpha), lo, hi);
        changed |= q ^ *code;
        *code = q;
    }
    changed != 0
}

/// The `alpha` that minimises `KL(softmax(w) || softmax(alpha q))`.
///
/// Up to a constant the divergence is `log sum exp(alpha q) - alpha sum(p q)` with `p = softmax(w)`: convex, with the
/// gradient `E[q] - sum(p q)` and the curvature `Var[q]` under `softmax(alpha q)`. Newton's method inside a bracket that
/// every gradient shrinks, bisecting where a step leaves it. Codes take at most `2^b` values, so sums run over counts.
///
/// The bracket is `|alpha| <= 2 (max w - min w)`: neighbouring codes need not lie further apart than all weights. It
/// matters only for weights so far apart that `softmax(w)` is one-hot in f64 and the minimum lies at infinity.
fn kl_scale(w: &[f32], codes: &[i8], start: f32, bits: Bits) -> f32 {
    let max = w.iter().fold(f64::NEG_INFINITY, |m, &w| m.max(w.into()));
    let min = w.iter().fold(f64::INFINITY, |m, &w| m.min(w.into()));
    let (mut total, mut target) = (0.0, 0.0);
    let mut counts = [0u32; 256];
    for (&w, &q) in w.iter().zip(codes) {
        let p = (f64::from(w) - max).exp();
        total += p;
        target += p * f64::from(q);
        counts[(i32::from(q) - bits.signed_min()) as usize] += 1;
    }
    target /= total;

    let levels: Vec<(f64, f64)> = (bits.signed_min()..=bits.signed_max())
        .zip(counts)
        .filter(|&(_, n)| n > 0)
        .map(|(q, n)| (f64::from(q), f64::from(n)))
        .collect();
    if levels.len() < 2 {
        return start; // softmax(alpha q) is uniform whatever alpha is.
    }
    let (mut lo, mut hi) = (-2.0 * (max - min), 2.0 * (max - min));
    let mut alpha = f64::from(start).clamp(lo, hi);
    for _ in 0..200 {
        let (mean, variance) = moments(&levels, alpha);
        let gradient = mean - target;
        if gradient > 0.0 {
            hi = alpha;
        } else if gradient < 0.0 {
            lo = alpha;
        } else {
            break;
        }
        let newton = alpha - gradient / variance;
        let next = if newton > lo && newton < hi { newton } else { 0.5 * (lo + hi) };
        // f32 keeps 24 bits of alpha.
        let done = (next - alpha).abs() <= alpha.abs() * 1e-13;
        alpha = next;
        if done {
            break;
        }
    }
    representable(alpha, bits)
}

/// Mean and variance of the code under `softmax(alpha q)`; `levels` are `(code, count)`.
fn moments(levels: &[(f64, f64)], alpha: f64) -> (f64, f64) {
    let top = levels.iter().fold(f64::NEG_INFINITY, |m, &(q, _)| m.max(alpha * q));
    let (mut z, mut mean) = (0.0, 0.0);
    for &(q, n) in levels {
        let p = n * (alpha * q - top).exp();
        z += p;
        mean += p * q;
    }
    mean /= z;
    let variance: f64 = levels.iter().map(|&(q, n)| n * (alpha * q - top).exp() * (q - mean) * (q - mean)).sum();
    (mean, variance / z)
}
