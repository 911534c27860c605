//! The operations there are, and the values they read.
use graph::{Activation, Pool2d, Shape};

use super::conv::FloatConv;

/// Where a float value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The value is in a float slot.
    Slot(usize),
    /// The value is in what the body of the network hands to its head, one row an image.
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
    /// A convolution or a linear layer.
    Conv(Box<FloatConv>, View),
    /// The value as it is.
    Copy(View),
    /// The largest value of each window.
    MaxPool(Pool2d, View),
    /// The mean of each window.
    AvgPool(Pool2d, View),
    /// The mean of each of as many windows as there are output pixels.
    Adaptive(View),
    /// The sum of two values.
    Add(View, View),
    /// The larger of two values.
    Max(View, View),
    /// The product with a value of the same shape, or of one pixel.
    Mul(View, View),
    /// The channels of several values, one after the other.
    Concat(Vec<View>),
    /// The channels of this many groups, interleaved.
    Shuffle(usize, View),
    /// The value with pixels added at the top, left, bottom and right, of another value.
    Pad2d([usize; 4], f32, View),
    /// Local response normalisation.
    Lrn(Lrn, View),
    /// The softmax over the channels.
    Softmax(View),
    /// All elements as the channels of one pixel, the channel's pixels together.
    Flatten(View),
    /// Every `stride`th pixel, with `before` channels of zeros before its own.
    PadShortcut { stride: usize, before: usize, x: View },
}

/// Local response normalisation: `x / (k + alpha * S)^beta`, where `S` is the sum of the squares of `size` channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lrn {
    pub size: usize,
    pub alpha: f32,
    pub beta: f32,
    pub k: f32,
}

impl FloatOp {
    /// Returns the kind of work, for a person to read.
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

    /// Tells whether every value that the operation gives is one of its inputs' or a finite constant.
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

/// An operation on a value's rows before they are rounded or read.
#[derive(Debug)]
pub(crate) enum PostOp {
    /// Adds another value.
    Add(View),
    /// Limits to a range.
    Clamp(f32, f32),
    /// Applies a function to each element.
    Function(Activation),
    /// Computes `x * weight + bias`, with a weight and a bias for each channel.
    Affine(Vec<f32>, Vec<f32>),
    /// Multiplies negative elements by the slope of their channel.
    PRelu(Vec<f32>),
}
