//! Row-major matrices, and the factors of a symmetric one.
use std::ops::Range;

pub(super) use dsconv::matrix::multiply;
use dsconv::matrix::{View, ViewMut};

/// The columns that are factored or solved at a time; what is left is matrix products.
const PANEL: usize = 64;
/// The rows of the tiles in which only the upper half of a symmetric product is computed.
const TILE: usize = 256;

/// A matrix of 32-bit floats, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    rows: usize,
    columns: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// Makes a matrix of zeros.
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        Self::new(rows, columns, vec![0.0; rows * columns])
    }

    /// Takes the elements of a matrix.
    ///
    /// # Panics
    /// If there are not `rows * columns` of them.
    pub(super) fn new(rows: usize, columns: usize, data: Vec<f32>) -> Self {
        assert_eq!(data.len(), rows * columns, "elements of a {rows}x{columns} matrix");
        Self { rows, columns, data }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn data(&self) -> &[f32] {
        &self.data
    }

    pub(super) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.columns..][..self.columns]
    }

    pub(super) fn view(&self) -> View<'_> {
        self.part(0..self.rows, 0..self.columns)
    }

    /// Returns the part of these rows and columns.
    pub(super) fn part(&self, rows: Range<usize>, columns: Range<usize>) -> View<'_> {
        let data = span(&rows, &columns, self.columns).map_or(&[][..], |span| &self.data[span]);
        View::new(rows.len(), columns.len(), self.columns, data)
    }

    pub(super) fn part_mut(&mut self, rows: Range<usize>, columns: Range<usize>) -> ViewMut<'_> {
        let data = match span(&rows, &columns, self.columns) {
            Some(span) => &mut self.data[span],
            None => &mut [],
        };
        ViewMut::new(rows.len(), columns.len(), self.columns, data)
    }

    pub(super) fn all_mut(&mut self) -> ViewMut<'_> {
        self.part_mut(0..self.rows, 0..self.columns)
    }

    /// Writes another matrix of as many rows over the columns from `first` on.
    pub(super) fn put(&mut self, other: &Self, first: usize) {
        let rows = self.data.chunks_exact_mut(self.columns).zip(other.data.chunks_exact(other.columns));
        rows.for_each(|(row, other)| row[first..first + other.len()].copy_from_slice(other));
    }

    /// Copies the part of these rows and columns.
    pub(super) fn copy(&self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let data = rows.clone().flat_map(|row| self.row(row)[columns.clone()].iter().copied()).collect();
        Self::new(rows.len(), columns.len(), data)
    }
}

/// Returns where a part lies among the elements of a matrix; `None` for one without elements.
fn span(rows: &Range<usize>, columns: &Range<usize>, stride: usize) -> Option<Range<usize>> {
    let has_elements = !rows.is_empty() && !columns.is_empty();
    has_elements.then(|| rows.start * stride + columns.start..(rows.end - 1) * stride + columns.end)
}

/// Adds `x^T x` to the upper half of `gram`; elements far below its diagonal are left as they are.
pub(super) fn add_gram(gram: &mut Matrix, x: View<'_>) {
    let k = gram.rows;
    for start in (0..k).step_by(TILE) {
        let end = k.min(start + TILE);
        let (left, right) = (x.columns(start..end).transposed(), x.columns(start..k));
        multiply(gram.part_mut(start..end, start..k), 1.0, 1.0, left, right);
    }
}

/// Copies the upper half of a square matrix to its lower half.
pub(super) fn mirror(matrix: &mut Matrix) {
    let k = matrix.rows;
    for i in (0..k).step_by(PANEL) {
        // By tiles, so that both stay in cache.
        for j in (i..k).step_by(PANEL) {
            for row in i..k.min(i + PANEL) {
                for column in j.max(row + 1)..k.min(j + PANEL) {
                    matrix.data[column * k + row] = matrix.data[row * k + column];
                }
            }
        }
    }
}

/// The factors of a symmetric positive definite matrix, `H = U D U^T`, where `U` is upper triangular with ones on its
/// diagonal and `D` is a diagonal matrix.
pub(super) struct Factors {
    /// `U` above the diagonal, `D` on it; what lies below has no meaning.
    matrix: Matrix,
}

impl Factors {
    /// Factors the matrix whose upper half this is, in its place; `None` where it is not positive definite.
    pub(super) fn new(mut matrix: Matrix) -> Option<Self> {
        let k = matrix.rows;
        assert_eq!(k, matrix.columns, "a square matrix");
        let mut end = k;
        while end > 0 {
            let start = end.saturating_sub(PANEL);
            factor_panel(&mut matrix, start..end)?;
            // What is left of the panel: X U_pp^T ... = H, then the rest of the matrix loses X D X^T.
            let mut scaled = matrix.copy(0..start, start..end);
            let (u, panel) = (matrix.copy(start..end, start..end), end - start);
            for row in 0..start {
                let x = &mut scaled.data[row * panel..][..panel];
                // X D U^T = H: column j is known once those right of it are.
                for j in (0..panel).rev() {
                    let sum: f32 = (j + 1..panel).map(|i| x[i] * u.data[j * panel + i]).sum();
                    x[j] -= sum;
                }
                let into = &mut matrix.data[row * k + start..][..panel];
                for (j, into) in into.iter_mut().enumerate() {
                    *into = x[j] / u.data[j * panel + j];
                }
            }
            let x = matrix.copy(0..start, start..end);
            for top in (0..start).step_by(TILE) {
                let bottom = start.min(top + TILE);
                let (left, right) = (scaled.part(top..bottom, 0..panel), x.part(top..start, 0..panel).transposed());
                multiply(matrix.part_mut(top..bottom, top..start), 1.0, -1.0, left, right);
            }
            end = start;
        }
        Some(Self { matrix })
    }

    /// Returns `U` above the diagonal of these rows and columns.
    pub(super) fn u(&self, rows: Range<usize>, columns: Range<usize>) -> View<'_> {
        self.matrix.part(rows, columns)
    }

    /// Returns elements of a row of `U`, all right of its diagonal.
    pub(super) fn row(&self, row: usize, columns: Range<usize>) -> &[f32] {
        &self.matrix.row(row)[columns]
    }

    /// Solves `y H = c` for every row of `c`, in its place.
    pub(super) fn solve(&self, c: &mut Matrix) {
        let (k, rows) = (self.matrix.rows, c.rows);
        assert_eq!(c.columns, k, "rows as long as the factors");
        // t U^T = c, from the last column to the first.
        let mut end = k;
        while end > 0 {
            let start = end.saturating_sub(PANEL);
            if end < k {
                let done = c.copy(0..rows, end..k);
                multiply(
                    c.part_mut(0..rows, start..end),
                    1.0,
                    -1.0,
                    done.view(),
                    self.matrix.part(start..end, end..k).transposed(),
                );
            }
            for row in c.data.chunks_exact_mut(k) {
                for j in (start..end).rev() {
                    let u = &self.matrix.data[j * k..][..k];
                    let sum: f32 = (j + 1..end).map(|i| row[i] * u[i]).sum();
                    row[j] -= sum;
                }
            }
            end = start;
        }
        for row in c.data.chunks_exact_mut(k) {
            row.iter_mut().enumerate().for_each(|(j, c)| *c /= self.matrix.data[j * k + j]);
        }
        // y U = t / D, from the first to the last.
        for start in (0..k).step_by(PANEL) {
            let end = k.min(start + PANEL);
            if start > 0 {
                let done = c.copy(0..rows, 0..start);
                let u = self.matrix.part(0..start, start..end);
                multiply(c.part_mut(0..rows, start..end), 1.0, -1.0, done.view(), u);
            }
            for row in c.data.chunks_exact_mut(k) {
                for i in start..end {
                    let (y, u) = (row[i], &self.matrix.data[i * k..][..k]);
                    (i + 1..end).for_each(|j| row[j] -= y * u[j]);
                }
            }
        }
    }
}

/// Factors a square of the diagonal in its place.
fn factor_panel(matrix: &mut Matrix, panel: Range<usize>) -> Option<()> {
    let k = matrix.columns;
    for j in panel.clone().rev() {
        let d = matrix.data[j * k + j];
        if !(d > 0.0 && d.is_finite()) {
            return None;
        }
        for i in panel.start..j {
            let h = matrix.data[i * k + j];
            // Column j of what is left of it, less what row j takes with it.
            for l in i..j {
                matrix.data[i * k + l] -= h / d * matrix.data[l * k + j];
            }
        }
        for i in panel.start..j {
            matrix.data[i * k + j] /= d;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn uniform(rows: usize, columns: usize, key: u64) -> Matrix {
        let mut random = Random::new(key, &[]);
        let data = (0..rows * columns).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect();
        Matrix::new(rows, columns, data)
    }

    /// The product in plain loops.
    fn product(a: &Matrix, b: &Matrix) -> Matrix {
        let mut c = Matrix::zeros(a.rows, b.columns);
        for i in 0..a.rows {
            for j in 0..b.columns {
                let sum: f64 = (0..a.columns).map(|l| f64::from(a.row(i)[l]) * f64::from(b.row(l)[j])).sum();
                c.data[i * b.columns + j] = sum as f32;
            }
        }
        c
    }

    fn transposed(a: &Matrix) -> Matrix {
        let data = (0..a.columns).flat_map(|j| (0..a.rows).map(move |i| a.row(i)[j])).collect();
        Matrix::new(a.columns, a.rows, data)
    }

    fn assert_near(a: &Matrix, b: &Matrix, tolerance: f32) {
        assert_eq!((a.rows, a.columns), (b.rows, b.columns));
        for (i, (a, b)) in a.data.iter().zip(&b.data).enumerate() {
            assert!((a - b).abs() <= tolerance, "element {i}: {a} {b}");
        }
    }

    #[test]
    fn products_are_those_of_plain_loops() {
        for (m, k, n) in [(1, 1, 1), (5, 300, 7), (70, 33, 130)] {
            let (a, b) = (uniform(m, k, 1), uniform(k, n, 2));
            let mut c = Matrix::zeros(m, n);
            multiply(c.all_mut(), 0.0, 1.0, a.view(), b.view());
            assert_near(&c, &product(&a, &b), 1e-4);
            let mut c = uniform(m, n, 3);
            let expected = Matrix::new(m, n, c.data.iter().map(|c| 2.0 * c).collect());
            multiply(c.all_mut(), 2.0, 0.0, a.view(), transposed(&b).view().transposed());
            assert_near(&c, &expected, 0.0);
        }
        // A part is written, and nothing beside it.
        let (a, b, mut c) = (uniform(3, 4, 4), uniform(4, 5, 5), Matrix::zeros(6, 9));
        multiply(c.part_mut(2..4, 3..6), 0.0, 1.0, a.part(1..3, 0..4), b.part(0..4, 2..5));
        assert_near(&c.copy(2..4, 3..6), &product(&a.copy(1..3, 0..4), &b.copy(0..4, 2..5)), 1e-5);
        assert_eq!(c.data.iter().filter(|v| **v != 0.0).count(), 6);
    }

    #[test]
    fn a_gram_matrix_is_its_rows_products() {
        let x = uniform(90, 2 * TILE + 3, 1);
        let mut gram = Matrix::zeros(x.columns, x.columns);
        add_gram(&mut gram, x.part(0..50, 0..x.columns));
        add_gram(&mut gram, x.part(50..90, 0..x.columns));
        mirror(&mut gram);
        assert_near(&gram, &product(&transposed(&x), &x), 1e-4);
    }

    #[test]
    fn factors_multiply_to_the_matrix_and_solve_it() {
        for k in [1, 2, PANEL, 2 * PANEL + 5] {
            let x = uniform(k + 20, k, 1);
            let mut h = product(&transposed(&x), &x);
            (0..k).for_each(|i| h.data[i * k + i] += 1.0);
            let factors = Factors::new(h.clone()).unwrap();
            let (mut u, mut ud) = (Matrix::zeros(k, k), Matrix::zeros(k, k));
            for i in 0..k {
                for j in i..k {
                    let value = if i == j { 1.0 } else { factors.matrix.row(i)[j] };
                    (u.data[i * k + j], ud.data[i * k + j]) = (value, value * factors.matrix.row(j)[j]);
                }
            }
            assert_near(&product(&ud, &transposed(&u)), &h, 1e-3);
            let wanted = uniform(3, k, 2);
            let mut c = product(&wanted, &h);
            factors.solve(&mut c);
            assert_near(&c, &wanted, 2e-3);
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factors() {
        assert!(Factors::new(Matrix::new(2, 2, vec![1.0, 2.0, 2.0, 1.0])).is_none());
        assert!(Factors::new(Matrix::new(2, 2, vec![f32::NAN, 0.0, 0.0, 1.0])).is_none());
    }
}
