//! One layer as a least squares problem, and its solution in codes, scales and biases.
use std::ops::Range;

use blockfloat::{QuantizedWeights, WeightFormat};
use model::ModelError;
use rayon::prelude::*;

use super::codes::{Codes, Columns, descend, feed_back, runs, span};
use super::matrix::{Factors, Matrix, add_gram, mirror, multiply};
use super::rows::{Group, Rows};
use crate::{Context, Error};

/// How strongly values are held to the float weights, as a part of an input's mean square. It is more where there are fewer
/// rows than weights.
const RIDGE: f64 = 0.2;
/// The most columns that are solved at once; longer filters are solved in pieces, one after the other.
const MOST_COLUMNS: usize = 4608;
/// The columns of such a piece for each row, and the fewest: what few rows say of many columns is soon said.
const COLUMNS_PER_ROW: usize = 8;
/// The most rounds of the descent from each of the two starts, for filters solved at once and for those solved in pieces: those
/// of a fully connected layer of 100 million weights, which every image gives one row.
const SWEEPS: [usize; 2] = [12, 12];
const SWEEPS_IN_PIECES: [usize; 2] = [0, 2];
const LEAST_COLUMNS: usize = 512;

/// A layer to solve.
pub(super) struct Task<'a> {
    pub(super) name: &'a str,
    /// The shape of its weight.
    pub(super) shape: [usize; 4],
    pub(super) groups: usize,
    /// The most weights that are solved at once; the filters of larger layers are solved in parts, one after the other.
    pub(super) most_weights: usize,
    /// The weights that it is quantized from.
    pub(super) weight: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) format: WeightFormat,
}

/// A layer's solution.
pub(super) struct Solution {
    pub(super) codes: QuantizedWeights,
    pub(super) bias: Option<Vec<f32>>,
    pub(super) power: Power,
}

/// Mean squares over output pixels, summed over filters.
#[derive(Default)]
pub(super) struct Power {
    /// That of the teacher's outputs, less their means.
    pub(super) signal: f64,
    /// That of what is missing to them with the codes of the scale rule and the float network's bias.
    pub(super) before: f64,
    /// That of what is missing to them with the solution.
    pub(super) after: f64,
}

impl Task<'_> {
    /// Solves the layer for these rows.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; [`Error::Model`] where weights or rows are not finite.
    pub(super) fn solve(&self, rows: Rows, context: &Context) -> Result<Solution, Error> {
        let [co, cg, kh, kw] = self.shape;
        let (columns, filters) = (Columns::new(cg, kh * kw, self.format.block, self.format.taps), co / self.groups);
        let most = (self.most_weights / columns.len()).max(1);
        let Rows { groups, parts } = rows;
        let solve = |(group, rows): (usize, Group)| -> Result<Solved, Error> {
            let mut solved = Solved::default();
            for start in (0..filters).step_by(most) {
                let part = start..filters.min(start + most);
                let range = group * filters + part.start..group * filters + part.end;
                let rows = rows.filters(&columns, part);
                solved.append(GroupTask { task: self, columns: &columns, parts: &parts, range }.solve(rows, context)?);
            }
            Ok(solved)
        };
        let groups = groups.into_par_iter().enumerate();
        let found = groups.map(solve).collect::<Result<Vec<_>, _>>()?;
        let mut all = Solved::default();
        found.into_iter().for_each(|solved| all.append(solved));
        let Solved { codes, scales, bias, power } = all;
        let codes = QuantizedWeights::from_parts(self.shape, self.format.bits, self.format.block, codes, scales)
            .map_err(|error| self.refused(error))?;
        Ok(Solution { codes, bias: self.bias.map(|_| bias), power })
    }

    fn refused(&self, error: blockfloat::Error) -> Error {
        ModelError::Numbers { layer: self.name.to_owned(), error }.into()
    }
}

/// Some filters of one group.
struct GroupTask<'a> {
    task: &'a Task<'a>,
    columns: &'a Columns,
    /// The part of each row's aim that is the teacher's output; the rest is what the float layer itself gives.
    parts: &'a [f32],
    range: Range<usize>,
}

/// What was found for some filters.
#[derive(Default)]
struct Solved {
    /// Codes and scales in the order of the weights.
    codes: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
    power: Power,
}

impl Solved {
    fn append(&mut self, mut more: Self) {
        self.codes.append(&mut more.codes);
        self.scales.append(&mut more.scales);
        self.bias.append(&mut more.bias);
        self.power.signal += more.power.signal;
        self.power.before += more.power.before;
        self.power.after += more.power.after;
    }
}

impl GroupTask<'_> {
    fn solve(&self, (mut x, target): (Matrix, Matrix), context: &Context) -> Result<Solved, Error> {
        let Task { shape: [_, cg, kh, kw], format, bias, .. } = *self.task;
        let (k, filters, blocks) = (self.columns.len(), self.range.len(), &self.columns.blocks);
        let weight = &self.task.weight[self.range.start * k..self.range.end * k];
        // With a bias, which makes up for any mean, all is about differences from the means.
        let mean = if bias.is_some() { take_means(&mut x) } else { vec![0.0; k] };
        let shifts = |values: &Matrix| values.data().chunks_exact(k).map(|row| dot(row, &mean)).collect::<Vec<_>>();
        // The outputs for inputs of mean 0 that have the float network's bias.
        let offsets = |values: &Matrix| match bias {
            Some(bias) => bias[self.range.clone()].iter().zip(shifts(values)).map(|(b, s)| b + s).collect(),
            None => vec![0.0; filters],
        };

        let stop = || context.interrupter.should_stop();
        let rounded = QuantizedWeights::quantize_unless(weight, [filters, cg, kh, kw], format, &stop)
            .map_err(|error| self.task.refused(error))?
            .ok_or_else(|| context.interrupted())?;
        let mut codes = Codes::of(&rounded, self.columns);
        let weights = self.columns.arrange(weight);
        let [signal, before] = missing(&target, &outputs(&x, &codes.values), &offsets(&codes.values));
        let mut aims = outputs(&x, &weights);
        mix(&mut aims, &offsets(&weights), &target, self.parts);
        let offset = if bias.is_some() { means(&aims) } else { vec![0.0; filters] };

        let most = match k > MOST_COLUMNS {
            true => (COLUMNS_PER_ROW * x.rows()).clamp(LEAST_COLUMNS, MOST_COLUMNS),
            false => MOST_COLUMNS,
        };
        let pieces = runs(blocks, most);
        let mut values = weights.clone();
        for run in &pieces {
            let span = span(blocks, run);
            let local: Vec<Range<usize>> =
                blocks[run.clone()].iter().map(|b| b.start - span.start..b.end - span.start).collect();
            let own = (pieces.len() > 1).then(|| x.copy(0..x.rows(), span.clone()));
            let piece = Piece::new(own.as_ref().unwrap_or(&x), weights.copy(0..filters, span.clone()));
            let cross = match &own {
                None => piece.cross(&aims),
                // What the other pieces give is taken from what is wanted.
                Some(own) => {
                    let mut left = aims.clone();
                    multiply(left.all_mut(), 1.0, -1.0, x.view(), values.view().transposed());
                    let present = values.copy(0..filters, span.clone());
                    multiply(left.all_mut(), 1.0, 1.0, own.view(), present.view().transposed());
                    piece.cross(&left)
                }
            };
            let sweeps = if pieces.len() > 1 { SWEEPS_IN_PIECES } else { SWEEPS };
            let found = piece.solve(&cross, codes.piece(run, &span), &local, format, sweeps, context)?;
            codes.put(&found, run, &span);
            values.put(&found.values, span.start);
        }
        let [_, after] = missing(&target, &outputs(&x, &codes.values), &offset);
        if !(signal + before + after).is_finite() {
            let why = "its input or its output is NaN or infinite for some of the images".to_owned();
            return Err(ModelError::Layer { layer: self.task.name.to_owned(), why }.into());
        }
        let bias = offset.iter().zip(shifts(&codes.values)).map(|(offset, shift)| offset - shift).collect();
        let mut solved = Solved { bias, power: Power { signal, before, after }, ..Solved::default() };
        codes.append_to(self.columns, &mut solved.codes, &mut solved.scales);
        Ok(solved)
    }
}

/// Some columns of a least squares problem.
struct Piece<'a> {
    x: &'a Matrix,
    /// The weights that the solution is held to, `[F, K]`.
    weights: Matrix,
    ridge: f32,
    /// The mean products of inputs, `[K, K]`, and the ridge on their diagonal.
    gram: Matrix,
}

impl<'a> Piece<'a> {
    fn new(x: &'a Matrix, weights: Matrix) -> Self {
        let (rows, k) = (x.rows() as f64, x.columns());
        let mut gram = Matrix::zeros(k, k);
        add_gram(&mut gram, x.view());
        gram.data_mut().iter_mut().for_each(|g| *g /= rows as f32);
        mirror(&mut gram);
        let square = (0..k).map(|i| f64::from(gram.row(i)[i])).sum::<f64>() / k as f64;
        let ridge = (RIDGE * (1.0 + k as f64 / rows) * square + 1e-12) as f32;
        (0..k).for_each(|i| gram.data_mut()[i * k + i] += ridge);
        Self { x, weights, ridge, gram }
    }

    /// Returns the mean products of inputs with the outputs aimed at, `[F, K]`, and the ridge's part.
    fn cross(&self, aims: &Matrix) -> Matrix {
        let mut cross = self.weights.clone();
        let part = 1.0 / self.x.rows() as f32;
        multiply(cross.all_mut(), self.ridge, part, aims.view().transposed(), self.x.view());
        cross
    }

    /// Finds codes and scales, from two starts: those of the scale rule, and error feedback. Each descends so many rounds.
    fn solve(
        &self,
        cross: &Matrix,
        mut rounded: Codes,
        blocks: &[Range<usize>],
        format: WeightFormat,
        [from_rounded, from_fed]: [usize; 2],
        context: &Context,
    ) -> Result<Codes, Error> {
        let mut errors = descend(&mut rounded, &self.gram, cross, blocks, format.bits, from_rounded, context)?;
        // A matrix that is not positive definite holds NaN: the rule's codes stay as they are.
        if let Some(factors) = Factors::new(self.gram.clone()) {
            let mut free = cross.clone();
            factors.solve(&mut free);
            let mut fed = feed_back(&free, &factors, blocks, format, context)?;
            drop(factors);
            let others = descend(&mut fed, &self.gram, cross, blocks, format.bits, from_fed, context)?;
            rounded.take_better(&mut errors, &fed, &others);
        }
        Ok(rounded)
    }
}

/// Makes aims of the float layer's outputs, `own + offset`, and the teacher's, which are this part of each row.
fn mix(own: &mut Matrix, offset: &[f32], target: &Matrix, parts: &[f32]) {
    let filters = offset.len();
    let rows = own.data_mut().chunks_exact_mut(filters).zip(target.data().chunks_exact(filters));
    for ((row, target), part) in rows.zip(parts) {
        for ((own, offset), target) in row.iter_mut().zip(offset).zip(target) {
            *own = part * target + (1.0 - part) * (*own + offset);
        }
    }
}

/// Returns the mean square of the teacher's outputs less their means, and of what `outputs + offset` misses.
fn missing(target: &Matrix, outputs: &Matrix, offset: &[f32]) -> [f64; 2] {
    let filters = offset.len();
    let (mut sums, mut squares, mut missed) = (vec![0.0; filters], 0.0, 0.0);
    for (row, wanted) in outputs.data().chunks_exact(filters).zip(target.data().chunks_exact(filters)) {
        for (((sum, &y), &offset), &wanted) in sums.iter_mut().zip(row).zip(offset).zip(wanted) {
            let (wanted, found) = (f64::from(wanted), f64::from(y + offset));
            *sum += wanted;
            squares += wanted * wanted;
            missed += (wanted - found) * (wanted - found);
        }
    }
    let rows = outputs.rows() as f64;
    let means: f64 = sums.iter().map(|sum| sum * sum / rows).sum();
    [(squares - means) / rows, missed / rows]
}

/// Computes `x v^T`, `[R, F]`.
fn outputs(x: &Matrix, values: &Matrix) -> Matrix {
    let mut outputs = Matrix::zeros(x.rows(), values.rows());
    multiply(outputs.all_mut(), 0.0, 1.0, x.view(), values.view().transposed());
    outputs
}

/// Computes the mean of each column.
fn means(matrix: &Matrix) -> Vec<f32> {
    let mut sums = vec![0.0f64; matrix.columns()];
    for row in matrix.data().chunks_exact(matrix.columns()) {
        sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }
    sums.into_iter().map(|sum| (sum / matrix.rows() as f64) as f32).collect()
}

/// Takes the mean of each column off it, and returns the means.
fn take_means(matrix: &mut Matrix) -> Vec<f32> {
    let (means, columns) = (means(matrix), matrix.columns());
    for row in matrix.data_mut().chunks_exact_mut(columns) {
        row.iter_mut().zip(&means).for_each(|(v, mean)| *v -= mean);
    }
    means
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use blockfloat::{Bits, BlockSize, ScaleRule};

    use super::*;
    use crate::fit::rows::Rows;
    use crate::random::Random;

    fn uniform(count: usize, key: u64) -> Vec<f32> {
        let mut random = Random::new(key, &[]);
        (0..count).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect()
    }

    /// Solves a fully connected layer on inputs that are never negative and move together.
    fn solved(k: usize, filters: usize, rows: usize, bias: bool, most_weights: usize) -> Solution {
        let (weight, common) = (uniform(filters * k, 1), uniform(rows, 2));
        let input: Vec<f32> =
            uniform(rows * k, 3).iter().enumerate().map(|(i, v)| (v + 2.0 * common[i / k]).max(0.0)).collect();
        let offset = uniform(filters, 4);
        let target = input.chunks_exact(k).flat_map(|x| {
            let outputs = weight.chunks_exact(k).zip(&offset);
            outputs.map(|(w, o)| dot(x, w) + if bias { *o } else { 0.0 }).collect::<Vec<_>>()
        });
        let rows = Rows::of(input.clone(), target.collect(), vec![0.4; rows]);
        let format = WeightFormat::new(Bits::new(3).unwrap(), BlockSize::new(32).unwrap(), ScaleRule::Mse);
        let (name, shape) = ("fc", [filters, k, 1, 1]);
        let bias = bias.then_some(&*offset);
        let task = Task { name, shape, groups: 1, most_weights, weight: &weight, bias, format };
        task.solve(rows, &Context::default()).unwrap()
    }

    #[test]
    fn a_solution_misses_a_fraction_of_what_the_rule_misses() {
        for bias in [true, false] {
            let Solution { power, bias: found, .. } = solved(64, 5, 512, bias, usize::MAX);
            assert!(power.after < 0.4 * power.before, "{} {}", power.after, power.before);
            assert_eq!(found.is_some(), bias);
        }
    }

    #[test]
    fn filters_too_long_for_one_matrix_are_solved_in_pieces() {
        let Solution { codes, power, .. } = solved(MOST_COLUMNS + 100, 2, 96, true, usize::MAX);
        assert_eq!(codes.shape(), [2, MOST_COLUMNS + 100, 1, 1]);
        assert!(power.after < 0.2 * power.before, "{} {}", power.after, power.before);
    }

    #[test]
    fn filters_solved_in_parts_are_those_solved_together() {
        let (whole, parts) = (solved(64, 5, 512, true, usize::MAX), solved(64, 5, 512, true, 2 * 64));
        assert_eq!(whole.codes.shape(), parts.codes.shape());
        // Sums may add up in another order.
        let near = |a: f64, b: f64| (a - b).abs() < 1e-3 * a.abs();
        assert!(near(whole.power.after, parts.power.after), "{} {}", whole.power.after, parts.power.after);
        for (a, b) in whole.bias.unwrap().iter().zip(parts.bias.unwrap()) {
            assert!((a - b).abs() < 0.01, "{a} {b}");
        }
    }

    #[test]
    fn rows_that_are_not_finite_are_an_error() {
        let task = |weight: &[f32], input: Vec<f32>| {
            let format = WeightFormat::new(Bits::new(4).unwrap(), BlockSize::new(2).unwrap(), ScaleRule::Mse);
            let (name, shape, most_weights) = ("conv", [1, 2, 1, 1], usize::MAX);
            let task = Task { name, shape, groups: 1, most_weights, weight, bias: None, format };
            task.solve(Rows::of(input, vec![1.0, 2.0], vec![0.4; 2]), &Context::default())
                .err()
                .map(|error| error.to_string())
        };
        assert_eq!(task(&[1.0, 2.0], vec![1.0, 0.0, 0.0, 1.0]), None);
        let error = task(&[1.0, 2.0], vec![1.0, f32::NAN, 0.0, 1.0]).unwrap();
        assert!(error.contains("layer `conv`: its input or its output is NaN"), "{error}");
        let error = task(&[1.0, f32::INFINITY], vec![1.0, 0.0, 0.0, 1.0]).unwrap();
        assert!(error.starts_with("layer `conv`"), "{error}");
    }
}
