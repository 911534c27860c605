//! The operations there are, and the values they read.
use graph::{Activation, Pool2d, Shape};

use super::conv::FloatConv;

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
    pub fn moves(&self) -> bool {
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
