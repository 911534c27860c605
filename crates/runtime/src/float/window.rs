//! Folds over the windows of pools.
use std::ops::Range;

use graph::{Pool2d, Shape};

use crate::kernels::Rows;

/// A rectangle of an image's pixels.
#[derive(Clone)]
pub(super) struct Window<'a> {
    pub rows: Rows<'a>,
    /// The number of pixels of a row of the image.
    pub width: usize,
    pub ys: Range<usize>,
    pub xs: Range<usize>,
}

impl<'a> Window<'a> {
    /// Returns what the window of output `(y, x)` sees of the image `rows`, and how many pixels it has in the padded image.
    #[inline(always)]
    pub fn of(pool: &Pool2d, rows: Rows<'a>, input: Shape, y: usize, x: usize) -> (Self, usize) {
        let along = |at: usize, axis: usize, size: usize| {
            let (start, pad) = (at * pool.stride[axis], pool.padding[axis]);
            let end = (start + pool.kernel[axis]).min(size + pad + pool.padding_after()[axis]);
            let inside = start.saturating_sub(pad)..end.saturating_sub(pad).min(size);
            (inside, end.saturating_sub(start))
        };
        let ((ys, padded_rows), (xs, padded_columns)) = (along(y, 0, input.height), along(x, 1, input.width));
        (Self { rows, width: input.width, ys, xs }, padded_rows * padded_columns)
    }

    /// Returns the number of its pixels.
    #[inline(always)]
    pub fn area(&self) -> usize {
        self.ys.len() * self.xs.len()
    }

    /// Folds each channel, row by row, a few channels at a time, which stay in registers.
    #[inline(always)]
    pub fn fold(&self, start: f32, join: impl Fn(f32, f32) -> f32 + Copy, out: &mut [f32]) {
        let mut c = 0;
        while c + 64 <= out.len() {
            out[c..c + 64].copy_from_slice(&self.fold_some::<64>(c, start, join));
            c += 64;
        }
        while c + 16 <= out.len() {
            out[c..c + 16].copy_from_slice(&self.fold_some::<16>(c, start, join));
            c += 16;
        }
        if c < out.len() && out.len() >= 16 {
            // The last ones, some of them once more.
            c = out.len() - 16;
            out[c..].copy_from_slice(&self.fold_some::<16>(c, start, join));
            return;
        }
        for (c, out) in out.iter_mut().enumerate().skip(c) {
            [*out] = self.fold_some::<1>(c, start, join);
        }
    }

    /// Folds channels `c .. c + N`, see [`Window::fold`].
    #[inline(always)]
    fn fold_some<const N: usize>(&self, c: usize, start: f32, join: impl Fn(f32, f32) -> f32) -> [f32; N] {
        let mut all = [start; N];
        for y in self.ys.clone() {
            for x in self.xs.clone() {
                let at = (y * self.width + x) * self.rows.stride + c;
                let row: &[f32; N] = self.rows.data[at..at + N].try_into().expect("N channels");
                for k in 0..N {
                    all[k] = join(all[k], row[k]);
                }
            }
        }
        all
    }

    /// Writes the mean of each channel, which is its sum divided by `count`.
    #[inline(always)]
    pub fn mean(&self, count: usize, out: &mut [f32]) {
        self.fold(0.0, |sum, x| sum + x, out);
        out.iter_mut().for_each(|out| *out /= count as f32);
    }
}
