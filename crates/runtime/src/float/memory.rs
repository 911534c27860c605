//! What operations read and write.
use graph::Shape;

use super::op::{Source, View};
use crate::buffer::Buffer;
use crate::kernels::Rows;

/// What an operation can read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory<'a> {
    pub floats: &'a [Buffer<f32>],
    /// The rows that the body handed on.
    pub rows: &'a [f32],
    /// The image, `[C, H, W]`.
    pub image: &'a [f32],
}

impl<'a> Memory<'a> {
    /// Returns the pixels of a view.
    pub fn rows(&self, view: View) -> Rows<'a> {
        let data: &[f32] = match view.source {
            Source::Slot(slot) => &self.floats[slot],
            Source::Row => self.rows,
        };
        Rows { data: &data[view.offset..], stride: view.stride }
    }

    /// Returns the pixels of one image of a view.
    pub fn image(&self, view: View, image: usize) -> Rows<'a> {
        let rows = self.rows(view);
        Rows { data: &rows.data[image * view.shape.height * view.shape.width * rows.stride..], ..rows }
    }
}

/// Pixels `first .. first + count` of a value of some shape, of one image below another, in rows of `stride` floats.
#[derive(Debug)]
pub(crate) struct Pixels<'a> {
    pub shape: Shape,
    pub first: usize,
    pub count: usize,
    pub out: &'a mut [f32],
    pub stride: usize,
}

impl Pixels<'_> {
    /// Tells whether all of them are finite.
    #[inline(always)]
    pub fn finite(&self) -> bool {
        finite(self.out.chunks(self.stride).take(self.count).map(|row| &row[..self.shape.channels]))
    }
}

/// Tells whether all elements of some rows are finite: 0 times one that is not is NaN, and stays in a sum.
#[inline(always)]
pub(crate) fn finite<'a>(rows: impl Iterator<Item = &'a [f32]>) -> bool {
    let mut sums = [0.0f32; 32];
    for row in rows {
        let (chunks, rest) = row.as_chunks::<32>();
        for x in chunks {
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * 0.0);
        }
        sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x * 0.0);
    }
    sums.iter().all(|&sum| sum == 0.0)
}
