//! Views of matrices in slices, and their product.

use std::ops::Range;

use gemm::Parallelism;

/// A matrix to read, `data[row * row_stride + column * column_stride]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
    data: &'a [f32],
}

/// A matrix to write, `data[row * row_stride + column]`.
pub struct ViewMut<'a> {
    rows: usize,
    columns: usize,
    row_stride: usize,
    data: &'a mut [f32],
}

impl<'a> View<'a> {
    /// Takes a slice for a row-major matrix whose rows begin `row_stride` elements apart.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn new(rows: usize, columns: usize, row_stride: usize, data: &'a [f32]) -> Self {
        assert_inside(rows, columns, row_stride, data.len());
        Self { rows, columns, row_stride, column_stride: 1, data }
    }

    /// Returns the transpose.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            data: self.data,
        }
    }

    /// Returns the part of these columns.
    ///
    /// # Panics
    /// If there are fewer columns.
    #[must_use]
    pub fn columns(self, columns: Range<usize>) -> Self {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns {columns:?} of {}", self.columns);
        let is_empty = self.rows == 0 || columns.is_empty();
        let start = if is_empty { 0 } else { columns.start * self.column_stride };
        Self { columns: columns.len(), data: &self.data[start..], ..self }
    }
}

impl<'a> ViewMut<'a> {
    /// Takes a slice for a row-major matrix whose rows begin `row_stride` elements apart.
    ///
    /// # Panics
    /// If the slice is too short, or rows overlap.
    pub fn new(rows: usize, columns: usize, row_stride: usize, data: &'a mut [f32]) -> Self {
        assert_inside(rows, columns, row_stride, data.len());
        assert!(rows <= 1 || columns <= row_stride, "rows of {columns} elements that begin {row_stride} apart");
        Self { rows, columns, row_stride, data }
    }
}

fn assert_inside(rows: usize, columns: usize, row_stride: usize, len: usize) {
    let is_empty = rows == 0 || columns == 0;
    let last = || (rows - 1).checked_mul(row_stride)?.checked_add(columns);
    assert!(
        is_empty || last().is_some_and(|end| end <= len),
        "a matrix of {rows}x{columns} whose rows begin {row_stride} apart, in {len} elements"
    );
}

/// Computes `c = beta * c + factor * a * b` on all cores of this thread's pool. An element is summed in an order that does not
/// depend on their number.
///
/// # Panics
/// If the shapes do not fit.
pub fn multiply(c: ViewMut<'_>, beta: f32, factor: f32, a: View<'_>, b: View<'_>) {
    assert!(
        a.rows == c.rows && b.columns == c.columns && a.columns == b.rows,
        "product of {}x{} and {}x{}",
        a.rows,
        a.columns,
        b.rows,
        b.columns
    );
    if c.rows == 0 || c.columns == 0 {
        return;
    }
    // SAFETY: `View` and `ViewMut` can only be made of slices that hold every element at `row * row_stride + column *
    // column_stride`, and rows of a `ViewMut` do not overlap. `c` is borrowed for writing, so it overlaps neither `a` nor `b`.
    // Strides fit an `isize` as lengths of slices do.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            c.rows,
            c.columns,
            a.columns,
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            beta,
            factor,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}
