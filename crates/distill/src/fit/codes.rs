//! Codes and block scales of least squared error in a layer's *outputs*, for all filters of a layer at once.
//!
//! A filter's values `v = alpha * q` are to minimise
//! ```text
//! v^T H v - 2 c^T v,    H = mean of x x^T,   c = mean of x t
//! ```
//! over the rows `x` that the layer sees and the outputs `t` that are wanted. Without codes the minimum is `w = H^-1 c`.
//!
//! Two methods follow each other. *Error feedback*: with `H = U D U^T`, `U` unit upper triangular, the error is
//! `sum_j D_j (e_j + sum_(i<j) e_i U_ij)^2` for `e = v - w`, so columns are rounded one after the other, each to
//! `w_j - sum_(i<j) e_i U_ij`: all later columns are taken into account, as if they needed no rounding (LDLQ of Chee et al.,
//! "QuIP", 2023, which they prove equal to GPTQ, Frantar et al. 2022). A block's scale is searched when its first column is
//! reached. *Coordinate descent*: each code, then each block's scale, is set to its best while all others stay (Behdin et al.,
//! "QuantEase", 2023), until nothing changes. Both work on panels of columns for all filters, and what a panel changes
//! elsewhere is one matrix product.
use std::ops::Range;

use blockfloat::{Bits, BlockQuantizer, BlockSize, QuantizedWeights, TapScales, WeightFormat};
use rayon::prelude::*;

use super::matrix::{Factors, Matrix, multiply};
use crate::{Context, Error};

/// The columns of a panel, but for blocks that are longer.
const PANEL: usize = 64;
/// The descent ends where a round changes fewer of the codes than this part.
const STILL: f64 = 2e-4;

/// The places of one filter's weights: columns in the order row of the kernel, column of the kernel, channel, so that
/// each block is a range of columns. Where taps share scales, this is the order within a block.
pub(super) struct Columns {
    /// The columns of each block, in order and without gaps.
    pub(super) blocks: Vec<Range<usize>>,
    /// The places of each block's scale among the filter's scales: several where taps share it.
    scales: Vec<Range<usize>>,
    /// The place of each column's weight among the filter's weights.
    order: Vec<usize>,
    channels: usize,
    taps: usize,
}

impl Columns {
    /// Lays out filters of `channels` inputs and `taps` kernel elements.
    pub(super) fn new(channels: usize, taps: usize, block: BlockSize, share: TapScales) -> Self {
        let mut columns = Self { blocks: vec![], scales: vec![], order: vec![], channels, taps };
        let mut add = |(i, channels): (usize, Range<usize>), taps_of: Range<usize>| {
            let start = columns.order.len();
            columns.order.extend(taps_of.clone().flat_map(|tap| channels.clone().map(move |c| c * taps + tap)));
            columns.blocks.push(start..columns.order.len());
            columns.scales.push(i * taps + taps_of.start..i * taps + taps_of.end);
        };
        match share {
            TapScales::Shared => block.ranges(channels).enumerate().for_each(|block| add(block, 0..taps)),
            TapScales::Own => {
                for tap in 0..taps {
                    block.ranges(channels).enumerate().for_each(|block| add(block, tap..tap + 1));
                }
            }
        }
        columns
    }

    /// Returns the number of scales of a filter in the order of the weights.
    fn scales(&self) -> usize {
        self.scales.iter().map(Range::len).sum()
    }

    /// Returns the number of columns.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Arranges patches `[R, K]`, in the order row of the kernel, column of the kernel, channel, as columns.
    pub(super) fn of_patches(&self, patches: &[f32]) -> Vec<f32> {
        let Self { order, channels, taps, .. } = self;
        let from: Vec<usize> = order.iter().map(|at| at % taps * channels + at / taps).collect();
        if from.iter().copied().eq(0..from.len()) {
            return patches.to_vec();
        }
        patches.chunks_exact(from.len()).flat_map(|patch| from.iter().map(move |&at| patch[at])).collect()
    }

    /// Arranges filters `[F, K]` as columns.
    pub(super) fn arrange(&self, weights: &[f32]) -> Matrix {
        let k = self.len();
        let rows = weights.chunks_exact(k).flat_map(|row| self.order.iter().map(move |&at| row[at]));
        Matrix::new(weights.len() / k, k, rows.collect())
    }
}

/// Returns runs of whole blocks, each of at most `most` columns, or one longer block.
pub(super) fn runs(blocks: &[Range<usize>], most: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if block.end - blocks[run.start].start <= most => run.end = i + 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

/// Returns the columns of a run of blocks.
pub(super) fn span(blocks: &[Range<usize>], run: &Range<usize>) -> Range<usize> {
    blocks[run.start].start..blocks[run.end - 1].end
}

/// Codes and scales of all filters, in the order of [`Columns`].
#[derive(Clone)]
pub(super) struct Codes {
    /// The codes, `[F, K]`.
    codes: Vec<i8>,
    /// The scales, `[F, blocks]`.
    scales: Vec<f32>,
    /// `alpha * q`, `[F, K]`.
    pub(super) values: Matrix,
}

impl Codes {
    /// Takes codes and scales in the order of the weights.
    pub(super) fn of(quantized: &QuantizedWeights, columns: &Columns) -> Self {
        let (k, blocks) = (columns.len(), columns.scales());
        let codes = quantized.codes().chunks_exact(k).flat_map(|row| columns.order.iter().map(move |&at| row[at]));
        let scales =
            quantized.scales().chunks_exact(blocks).flat_map(|row| columns.scales.iter().map(move |at| row[at.start]));
        Self { codes: codes.collect(), scales: scales.collect(), values: columns.arrange(&quantized.dequantize()) }
    }

    /// Appends codes and scales in the order of the weights.
    pub(super) fn append_to(&self, columns: &Columns, codes: &mut Vec<i8>, scales: &mut Vec<f32>) {
        let (k, blocks) = (columns.len(), columns.blocks.len());
        for row in self.codes.chunks_exact(k) {
            let start = codes.len();
            codes.resize(start + k, 0);
            columns.order.iter().zip(row).for_each(|(&at, &code)| codes[start + at] = code);
        }
        for row in self.scales.chunks_exact(blocks) {
            let start = scales.len();
            scales.resize(start + columns.scales(), 0.0);
            let of = &mut scales[start..];
            columns.scales.iter().zip(row).for_each(|(at, &scale)| of[at.clone()].fill(scale));
        }
    }

    /// Copies a run of blocks, which are these columns.
    pub(super) fn piece(&self, run: &Range<usize>, span: &Range<usize>) -> Self {
        let (k, blocks) = (self.values.columns(), self.blocks());
        Self {
            codes: self.codes.chunks_exact(k).flat_map(|row| row[span.clone()].iter().copied()).collect(),
            scales: self.scales.chunks_exact(blocks).flat_map(|row| row[run.clone()].iter().copied()).collect(),
            values: self.values.copy(0..self.values.rows(), span.clone()),
        }
    }

    /// Puts back what [`Codes::piece`] copied.
    pub(super) fn put(&mut self, piece: &Self, run: &Range<usize>, span: &Range<usize>) {
        let (k, blocks) = (self.values.columns(), self.blocks());
        let rows = self.codes.chunks_exact_mut(k).zip(piece.codes.chunks_exact(span.len()));
        rows.for_each(|(row, piece)| row[span.clone()].copy_from_slice(piece));
        let rows = self.scales.chunks_exact_mut(blocks).zip(piece.scales.chunks_exact(run.len()));
        rows.for_each(|(row, piece)| row[run.clone()].copy_from_slice(piece));
        let rows = self.values.data_mut().chunks_exact_mut(k).zip(piece.values.data().chunks_exact(span.len()));
        rows.for_each(|(row, piece)| row[span.clone()].copy_from_slice(piece));
    }

    /// Returns the number of blocks of a filter.
    fn blocks(&self) -> usize {
        self.scales.len() / self.values.rows()
    }

    /// Takes the filters over from `other` that are better there: `errors` are what [`descend`] returned for these and
    /// `others` for those.
    pub(super) fn take_better(&mut self, errors: &mut [f64], other: &Self, others: &[f64]) {
        let (k, blocks) = (self.values.columns(), self.blocks());
        for (f, (error, &theirs)) in errors.iter_mut().zip(others).enumerate() {
            // An error that is no number is never better.
            let scales = &other.scales[f * blocks..][..blocks];
            if (theirs < *error || error.is_nan()) && scales.iter().all(|s| s.is_finite()) {
                *error = theirs;
                self.scales[f * blocks..][..blocks].copy_from_slice(scales);
                self.codes[f * k..][..k].copy_from_slice(&other.codes[f * k..][..k]);
                self.values.data_mut()[f * k..][..k].copy_from_slice(other.values.row(f));
            }
        }
    }

    /// Returns the parts of all filters that lie in a panel: a run of blocks, and their columns.
    fn parts(&mut self, run: &Range<usize>, span: &Range<usize>) -> Vec<Part<'_>> {
        let (k, blocks) = (self.values.columns(), self.blocks());
        let values = self.values.data_mut().chunks_exact_mut(k);
        let filters = self.codes.chunks_exact_mut(k).zip(self.scales.chunks_exact_mut(blocks)).zip(values);
        filters
            .map(|((codes, scales), values)| Part {
                codes: &mut codes[span.clone()],
                scales: &mut scales[run.clone()],
                values: &mut values[span.clone()],
            })
            .collect()
    }
}

/// The work of one filter on one panel.
struct Part<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    values: &'a mut [f32],
}

/// Rounds the filters `target` `[F, K]` with error feedback.
///
/// # Errors
/// [`Error::Interrupted`].
pub(super) fn feed_back(
    target: &Matrix,
    factors: &Factors,
    blocks: &[Range<usize>],
    format: WeightFormat,
    context: &Context,
) -> Result<Codes, Error> {
    let (filters, k) = (target.rows(), target.columns());
    let mut codes = Codes {
        codes: vec![0; filters * k],
        scales: vec![0.0; filters * blocks.len()],
        values: Matrix::zeros(filters, k),
    };
    // What is missing so far, `w - v`.
    let mut errors = Matrix::zeros(filters, k);
    for panel in runs(blocks, PANEL) {
        context.check()?;
        let span = span(blocks, &panel);
        let mut base = target.copy(0..filters, span.clone());
        let done = errors.part(0..filters, 0..span.start);
        multiply(base.part_mut(0..filters, 0..span.len()), 1.0, 1.0, done, factors.u(0..span.start, span.clone()));
        let blocks = &blocks[panel.clone()];
        let rows = base.data_mut().par_chunks_exact_mut(span.len()).zip(errors.data_mut().par_chunks_exact_mut(k));
        let targets = target.data().par_chunks_exact(k);
        let parts = codes.parts(&panel, &span).into_par_iter();
        rows.zip(targets).zip(parts).for_each_init(
            || BlockQuantizer::new(format.bits, format.rule),
            |quantizer, (((base, errors), target), part)| {
                for (block, scale) in blocks.iter().zip(part.scales) {
                    let local = block.start - span.start..block.end - span.start;
                    *scale = quantizer.quantize(&base[local.clone()]);
                    for j in local {
                        let code = format.bits.round(base[j], *scale);
                        let value = *scale * f32::from(code);
                        (part.codes[j], part.values[j]) = (code, value);
                        let error = target[span.start + j] - value;
                        errors[span.start + j] = error;
                        if error != 0.0 {
                            let u = factors.row(span.start + j, span.start + j + 1..span.end);
                            base[j + 1..].iter_mut().zip(u).for_each(|(base, u)| *base += error * u);
                        }
                    }
                }
            },
        );
    }
    Ok(codes)
}

/// Descends from `codes` until few change, at most `sweeps` rounds. Returns each filter's error `v^T H v - 2 c^T v`.
///
/// - `gram`: `H`, `[K, K]`, both halves;
/// - `cross`: `c` of every filter, `[F, K]`.
///
/// # Errors
/// [`Error::Interrupted`].
pub(super) fn descend(
    codes: &mut Codes,
    gram: &Matrix,
    cross: &Matrix,
    blocks: &[Range<usize>],
    bits: Bits,
    sweeps: usize,
    context: &Context,
) -> Result<Vec<f64>, Error> {
    let (filters, k) = (cross.rows(), cross.columns());
    let panels = runs(blocks, PANEL);
    for _ in 0..sweeps {
        let mut changes = 0;
        let mut gradient = gradient(codes, gram, cross);
        for panel in &panels {
            context.check()?;
            let span = span(blocks, panel);
            let width = span.len();
            let local = gram.copy(span.clone(), span.clone());
            let blocks = &blocks[panel.clone()];
            let mut moved = Matrix::zeros(filters, width);
            let rows = moved.data_mut().par_chunks_exact_mut(width).zip(gradient.data_mut().par_chunks_exact_mut(k));
            let parts = codes.parts(panel, &span).into_par_iter();
            changes += rows
                .zip(parts)
                .map_init(
                    || vec![0.0; width],
                    |seen, ((moved, gradient), mut part)| {
                        let gradient = &mut gradient[span.clone()];
                        moved.copy_from_slice(part.values);
                        let changes = part.descend(blocks, span.start, &local, gradient, bits, seen);
                        moved.iter_mut().zip(&*part.values).for_each(|(moved, value)| *moved = value - *moved);
                        changes
                    },
                )
                .sum::<usize>();
            // The panel's own part of the gradient is up to date.
            let before = gram.part(span.clone(), 0..span.start);
            multiply(gradient.part_mut(0..filters, 0..span.start), 1.0, -1.0, moved.view(), before);
            let after = gram.part(span.clone(), span.end..k);
            multiply(gradient.part_mut(0..filters, span.end..k), 1.0, -1.0, moved.view(), after);
        }
        if (changes as f64) < STILL * (filters * k) as f64 {
            break;
        }
    }
    let gradient = gradient(codes, gram, cross);
    let rows =
        gradient.data().chunks_exact(k).zip(cross.data().chunks_exact(k)).zip(codes.values.data().chunks_exact(k));
    let error = |((g, c), v): ((&[f32], &[f32]), &[f32])| -> f64 {
        g.iter().zip(c).zip(v).map(|((&g, &c), &v)| -f64::from(v) * (f64::from(g) + f64::from(c))).sum()
    };
    Ok(rows.map(error).collect())
}

/// Computes `c - v H`, half the negative gradient of every filter's error.
fn gradient(codes: &Codes, gram: &Matrix, cross: &Matrix) -> Matrix {
    let mut gradient = cross.clone();
    let all = (0..cross.rows(), 0..cross.columns());
    multiply(gradient.part_mut(all.0, all.1), 1.0, -1.0, codes.values.view(), gram.view());
    gradient
}

impl Part<'_> {
    /// Sets each code and each scale to its best, once. `local` is the panel's part of `H`, `gradient` its part of
    /// the gradient, which is kept up to date. Returns how many codes changed.
    fn descend(
        &mut self,
        blocks: &[Range<usize>],
        start: usize,
        local: &Matrix,
        gradient: &mut [f32],
        bits: Bits,
        seen: &mut [f32],
    ) -> usize {
        let mut changes = 0;
        for (block, scale) in blocks.iter().zip(&mut *self.scales) {
            let block = block.start - start..block.end - start;
            for i in block.clone() {
                let row = local.row(i);
                // A code that the error does not depend on, or whose curvature is NaN, stays.
                if row[i] <= 0.0 || row[i].is_nan() {
                    continue;
                }
                let code = bits.round(self.values[i] + gradient[i] / row[i], *scale);
                let value = *scale * f32::from(code);
                changes += usize::from(code != self.codes[i]);
                if value != self.values[i] {
                    subtract(gradient, row, value - self.values[i]);
                }
                (self.codes[i], self.values[i]) = (code, value);
            }
            // The scale moves all values of its block by `codes * step`.
            seen.fill(0.0);
            let moving = block.clone().filter(|&i| self.codes[i] != 0);
            moving.for_each(|i| subtract(seen, local.row(i), -f32::from(self.codes[i])));
            let (mut slope, mut curvature) = (0.0f64, 0.0f64);
            for i in block.clone() {
                slope += f64::from(self.codes[i]) * f64::from(gradient[i]);
                curvature += f64::from(self.codes[i]) * f64::from(seen[i]);
            }
            if curvature > 0.0 {
                let step = (slope / curvature) as f32;
                *scale += step;
                subtract(gradient, seen, step);
                block.for_each(|i| self.values[i] = *scale * f32::from(self.codes[i]));
            }
        }
        changes
    }
}

/// Computes `y -= x * factor`.
fn subtract(y: &mut [f32], x: &[f32], factor: f32) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y -= x * factor);
}

#[cfg(test)]
mod tests {
    use blockfloat::ScaleRule;

    use super::super::matrix::{add_gram, mirror};
    use super::*;
    use crate::random::Random;

    fn uniform(count: usize, key: u64) -> Vec<f32> {
        let mut random = Random::new(key, &[]);
        (0..count).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect()
    }

    fn format(bits: u8, block: usize) -> WeightFormat {
        WeightFormat::new(Bits::new(bits).unwrap(), BlockSize::new(block).unwrap(), ScaleRule::Mse)
    }

    /// A problem whose inputs move together.
    fn gram(k: usize, rows: usize) -> Matrix {
        let common = uniform(rows, 7);
        let x = uniform(rows * k, 8).iter().enumerate().map(|(i, v)| v + common[i / k]).collect();
        let mut gram = Matrix::zeros(k, k);
        add_gram(&mut gram, Matrix::new(rows, k, x).view());
        mirror(&mut gram);
        (0..k).for_each(|i| gram.data_mut()[i * k + i] += 0.1);
        gram
    }

    /// Returns `v^T H v - 2 c^T v` in plain loops.
    fn error(gram: &Matrix, cross: &[f32], values: &[f32]) -> f64 {
        let k = values.len();
        let product = |i: usize| (0..k).map(|j| f64::from(gram.row(i)[j]) * f64::from(values[j])).sum::<f64>();
        (0..k).map(|i| f64::from(values[i]) * (product(i) - 2.0 * f64::from(cross[i]))).sum()
    }

    fn cross(gram: &Matrix, weights: &Matrix) -> Matrix {
        let mut cross = Matrix::zeros(weights.rows(), weights.columns());
        multiply(cross.all_mut(), 0.0, 1.0, weights.view(), gram.view());
        cross
    }

    #[test]
    fn no_filter_ends_worse_than_it_began() {
        let context = Context::default();
        let (own, shared) = (TapScales::Own, TapScales::Shared);
        let problems = [
            ([3, 5, 2, 1], 2, 2, own),
            ([4, 40, 3, 3], 4, 32, own),
            ([2, 7, 1, 1], 8, 100, own),
            ([3, 5, 2, 2], 2, 2, shared),
            ([4, 40, 3, 3], 4, 32, shared),
        ];
        for (shape, bits, block, taps) in problems {
            let [filters, channels, kh, kw] = shape;
            let columns = Columns::new(channels, kh * kw, BlockSize::new(block).unwrap(), taps);
            let (k, format) = (columns.len(), WeightFormat { taps, ..format(bits, block) });
            let weights = uniform(filters * k, 1);
            let start = QuantizedWeights::quantize(&weights, shape, format).unwrap();
            let (gram, weights) = (gram(k, 2 * k), columns.arrange(&weights));
            let cross = cross(&gram, &weights);
            let mut codes = Codes::of(&start, &columns);
            let before: Vec<f64> = (0..filters).map(|f| error(&gram, cross.row(f), codes.values.row(f))).collect();
            let after = descend(&mut codes, &gram, &cross, &columns.blocks, format.bits, 12, &context).unwrap();
            for (f, (before, after)) in before.iter().zip(&after).enumerate() {
                let slack = 1e-4 * error(&gram, cross.row(f), weights.row(f)).abs();
                assert!(after <= &(before + slack), "{after} {before}");
                // What is said of the error is so.
                let found = error(&gram, cross.row(f), codes.values.row(f));
                assert!((found - after).abs() <= slack, "{found} {after}");
            }
            // Codes and scales in the order of weights stand for the same values.
            let (mut found, mut scales) = (Vec::new(), Vec::new());
            codes.append_to(&columns, &mut found, &mut scales);
            let found = QuantizedWeights::from_parts(shape, format.bits, format.block, found, scales).unwrap();
            assert_eq!(columns.arrange(&found.dequantize()), codes.values);
            assert_eq!(found.tap_scales(), taps);
        }
    }

    /// Error feedback in plain loops and 64-bit floats: each column is rounded to what is best if all later columns need no
    /// rounding, which is found by solving for them anew (so GPTQ is described), not from factors.
    fn plainly_fed(gram: &Matrix, target: &[f32], scales: &[f32], blocks: &[Range<usize>], bits: Bits) -> Vec<f32> {
        let k = target.len();
        let mut wanted: Vec<f64> = target.iter().map(|&w| w.into()).collect();
        let mut values = vec![0.0f32; k];
        for (block, &scale) in blocks.iter().zip(scales) {
            for j in block.clone() {
                let value = scale * f32::from(bits.round(wanted[j] as f32, scale));
                values[j] = value;
                // Later columns move by -H_rest^-1 H_rest,j (v_j - w_j).
                let rest: Vec<usize> = (j + 1..k).collect();
                let n = rest.len();
                let mut rows: Vec<Vec<f64>> = rest
                    .iter()
                    .map(|&a| {
                        let mut row: Vec<f64> = rest.iter().map(|&b| gram.row(a)[b].into()).collect();
                        row.push(f64::from(gram.row(a)[j]) * (f64::from(value) - wanted[j]));
                        row
                    })
                    .collect();
                for p in 0..n {
                    for q in p + 1..n {
                        let factor = rows[q][p] / rows[p][p];
                        let (upper, lower) = rows.split_at_mut(q);
                        lower[0].iter_mut().zip(&upper[p]).for_each(|(l, u)| *l -= factor * u);
                    }
                }
                let mut moves = vec![0.0; n];
                for p in (0..n).rev() {
                    let known: f64 = (p + 1..n).map(|q| rows[p][q] * moves[q]).sum();
                    moves[p] = (rows[p][n] - known) / rows[p][p];
                }
                rest.iter().zip(moves).for_each(|(&at, step)| wanted[at] -= step);
            }
        }
        values
    }

    #[test]
    fn error_feedback_is_what_solving_for_all_later_columns_gives() {
        let (channels, filters) = (PANEL + 20, 3);
        let columns = Columns::new(channels, 1, BlockSize::new(16).unwrap(), TapScales::Own);
        let (gram, target) =
            (gram(channels, 3 * channels), Matrix::new(filters, channels, uniform(filters * channels, 1)));
        let factors = Factors::new(gram.clone()).unwrap();
        let format = format(4, 16);
        let codes = feed_back(&target, &factors, &columns.blocks, format, &Context::default()).unwrap();
        let blocks = columns.blocks.len();
        for f in 0..filters {
            let scales = &codes.scales[f * blocks..][..blocks];
            let expected = plainly_fed(&gram, target.row(f), scales, &columns.blocks, format.bits);
            // A value next to half a step may round the other way, which changes what follows.
            let same = codes.values.row(f).iter().zip(&expected).filter(|(a, b)| a == b).count();
            assert!(same + 2 >= channels, "filter {f}: {same} of {channels}");
        }
    }

    #[test]
    fn inputs_that_move_together_let_errors_cancel() {
        // Both inputs are always equal: only the sum of the two weights counts, and 0.5 + 0.5 needs no fractions.
        let data = vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.999, 0.0, 0.0, 0.999, 1.0];
        let (gram, format) = (Matrix::new(4, 4, data), format(3, 4));
        let weights = [3.0, -4.0, 0.5, 0.5];
        let columns = Columns::new(4, 1, format.block, format.taps);
        let plain = QuantizedWeights::quantize(&weights, [1, 4, 1, 1], format).unwrap();
        let cross = Matrix::new(1, 4, vec![3.0, -4.0, 0.9995, 0.9995]);
        let mut codes = Codes::of(&plain, &columns);
        let before = error(&gram, cross.row(0), codes.values.row(0));
        let after =
            descend(&mut codes, &gram, &cross, &columns.blocks, format.bits, 12, &Context::default()).unwrap()[0];
        let least = error(&gram, cross.row(0), &weights);
        assert!(after - least < 0.01 && before - least > 0.1, "{before} {after} {least}");
    }
}
