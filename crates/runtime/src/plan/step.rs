//! Steps: what a plan does, one after the other.
use graph::Shape;

use crate::float::{FloatOp, PostOp, View};
use crate::pack::Packed;

/// Most integer forms of one value that a step makes in one pass.
pub(crate) const EMITS: usize = 4;

/// An integer activation in memory: `[H + 2 pad, W + 2 pad]` pixels of one layout.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CodesView {
    pub slot: usize,
    pub layout: usize,
    /// `[vertical, horizontal]` border of zeros on either side.
    pub pad: [usize; 2],
    /// Pixels of a row, borders included.
    pub width: usize,
    /// Rows without borders.
    pub height: usize,
}

impl CodesView {
    /// Pixels of all rows, of `images` images below each other.
    pub fn pixels(&self, images: usize) -> usize {
        (self.height * images + 2 * self.pad[0]) * self.width
    }
}

/// A convolution in integers, or a linear layer.
#[derive(Debug)]
pub(crate) struct IntConv {
    pub weights: Packed,
    pub input: CodesView,
    /// The input pixel under the first tap of output (0, 0).
    pub origin: usize,
    pub stride: [usize; 2],
    /// Distance of each tap from the first.
    pub taps: Vec<u32>,
    pub residual: Option<Added>,
    /// Another convolution, whose value is added.
    pub before: Option<Box<IntConv>>,
    pub clamp: Option<(f32, f32)>,
    /// Multiply-accumulates an output pixel.
    pub macs: u64,
}

/// What a convolution adds to its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// A value.
    View(View),
    /// What lies where the result goes.
    Dest,
}

/// What a step computes for each output pixel.
#[derive(Debug)]
pub(crate) enum StepOp {
    /// A convolution in integers.
    Conv(Box<IntConv>),
    /// An operation in floats.
    Float(FloatOp),
}

impl StepOp {
    /// What kind of work it is, for a person to read.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Conv(_) => "integer convolution",
            Self::Float(op) => op.kind(),
        }
    }
}

/// One pass over the pixels of a value.
#[derive(Debug)]
pub(crate) struct Step {
    /// The node it begins with.
    pub name: String,
    pub op: StepOp,
    pub posts: Vec<PostOp>,
    /// Of what it makes.
    pub shape: Shape,
    pub dest: Option<View>,
    /// Integer forms that it makes.
    pub emits: Vec<CodesView>,
    /// Pixels computed at a time.
    pub strip: usize,
}

impl IntConv {
    /// Bytes for a pair of panels, unpacked.
    pub fn unpacked_bytes(&self) -> usize {
        let own = if self.weights.nibbles { 2 * self.weights.unpacked_bytes() + 64 } else { 0 };
        own.max(self.before.as_ref().map_or(0, |before| before.unpacked_bytes()))
    }

    /// Bytes of its packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes() + self.before.as_ref().map_or(0, |before| before.weight_bytes())
    }
}

impl Step {
    /// Multiply-accumulates of one image.
    pub fn macs(&self) -> u64 {
        let pixels = (self.shape.height * self.shape.width) as u64;
        match &self.op {
            StepOp::Conv(conv) => conv.macs * pixels,
            StepOp::Float(FloatOp::Conv(conv, _)) => conv.len() as u64 * pixels,
            StepOp::Float(_) => 0,
        }
    }

    /// Bytes of its packed weights.
    pub fn weight_bytes(&self) -> usize {
        match &self.op {
            StepOp::Conv(conv) => conv.weight_bytes(),
            StepOp::Float(FloatOp::Conv(conv, _)) => 4 * conv.len(),
            StepOp::Float(_) => 0,
        }
    }
}
