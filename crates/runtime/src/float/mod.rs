//! Operations in floats: plain loops over the channels of a pixel in a stated order. The compiler makes vectors of them,
//! and the bits are the same on every CPU.
mod compute;
mod conv;
mod finish;
mod window;

use graph::{Activation, Pool2d, Shape};

pub(crate) use self::compute::Compute;
pub(crate) use self::conv::FloatConv;
pub(crate) use self::finish::Finish;
use crate::buffer::Buffer;
use crate::kernels::Rows;

/// Where a float value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// In a float slot.
    Slot(usize),
    /// In what the body of the network hands to its head, one row an image.
    Row,
}

/// A float value `[H, W, C]` in memory: pixels `stride` apart, channels from `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub source: Source,
    pub offset: usize,
    pub stride: usize,
    pub shape: Shape,
}

/// An operation that computes each output pixel from float values.
#[derive(Debug)]
pub(crate) enum FloatOp {
    /// The image, from `[C, H, W]` to `[H, W, C]`.
    Image,
    Conv(Box<FloatConv>, View),
    Copy(View),
    MaxPool(Pool2d, View),
    AvgPool(Pool2d, View),
    /// Means over as many windows as there are output pixels.
    Adaptive(View),
    Add(View, View),
    Max(View, View),
    /// A product with a value of the same shape, or of one pixel.
    Mul(View, View),
    Concat(Vec<View>),
    /// With this many groups.
    Shuffle(usize, View),
    /// Pixels added at the top, left, bottom and right, and their value.
    Pad2d([usize; 4], f32, View),
    Lrn(Lrn, View),
    Softmax(View),
    Flatten(View),
    /// Every `stride`th pixel, with `before` channels of zeros before its own.
    PadShortcut {
        stride: usize,
        before: usize,
        x: View,
    },
}

/// Local response normalisation: `x / (k + alpha * sum of squares of `size` channels)^beta`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lrn {
    pub size: usize,
    pub alpha: f32,
    pub beta: f32,
    pub k: f32,
}

impl FloatOp {
    /// What kind of work it is, for a person to read.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Image => "input",
            Self::Conv(..) => "float convolution",
            Self::Copy(_) | Self::Add(..) | Self::Max(..) | Self::Mul(..) => "elementwise",
            Self::MaxPool(..) | Self::AvgPool(..) | Self::Adaptive(..) => "pool",
            Self::Lrn(..) => "lrn",
            Self::Softmax(_) => "softmax",
            Self::Concat(_) | Self::Shuffle(..) | Self::Pad2d(..) | Self::Flatten(_) | Self::PadShortcut { .. } => {
                "move"
            }
        }
    }

    /// Whether every value it gives is one of its inputs' or a finite constant.
    fn moves(&self) -> bool {
        match self {
            Self::Image
            | Self::Copy(_)
            | Self::MaxPool(..)
            | Self::Concat(_)
            | Self::Shuffle(..)
            | Self::Pad2d(..)
            | Self::Flatten(_)
            | Self::PadShortcut { .. } => true,
            Self::Conv(..)
            | Self::AvgPool(..)
            | Self::Adaptive(_)
            | Self::Add(..)
            | Self::Max(..)
            | Self::Mul(..)
            | Self::Lrn(..)
            | Self::Softmax(_) => false,
        }
    }
}

/// What is done to a value's rows before they are rounded or read.
#[derive(Debug)]
pub(crate) enum PostOp {
    Add(View),
    Clamp(f32, f32),
    Function(Activation),
    /// `x * weight + bias` of each channel.
    Affine(Vec<f32>, Vec<f32>),
    /// With the slope of each channel.
    PRelu(Vec<f32>),
}

/// What an operation can read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory<'a> {
    pub floats: &'a [Buffer<f32>],
    /// Rows that the body handed on.
    pub rows: &'a [f32],
    /// `[C, H, W]`.
    pub image: &'a [f32],
}

impl<'a> Memory<'a> {
    /// The pixels of a view.
    pub fn rows(&self, view: View) -> Rows<'a> {
        let data: &[f32] = match view.source {
            Source::Slot(slot) => &self.floats[slot],
            Source::Row => self.rows,
        };
        Rows { data: &data[view.offset..], stride: view.stride }
    }

    /// The pixels of one image of a view.
    fn image(&self, view: View, image: usize) -> Rows<'a> {
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
    /// Whether all of them are finite.
    #[inline(always)]
    fn finite(&self) -> bool {
        finite(self.out.chunks(self.stride).take(self.count).map(|row| &row[..self.shape.channels]))
    }
}

/// Whether all elements of some rows are finite: 0 times one that is not is NaN, and stays in a sum.
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
