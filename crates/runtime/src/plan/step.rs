//! Steps: what a plan does, one after the other.
use graph::Shape;

use super::program::CodeSize;
use crate::float::{FloatOp, PostOp, View};
use crate::kernels::SLACK;
use crate::pack::Packed;
use crate::winograd::Winograd;

/// The most integer forms of one value that a step makes in one pass.
pub(crate) const EMITS: usize = 4;

/// An integer activation in memory: `[H + 2 pad, W + 2 pad]` pixels of one layout.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CodesView {
    pub slot: usize,
    pub layout: usize,
    /// The border of zeros on either side, `[vertical, horizontal]`.
    pub pad: [usize; 2],
    /// The number of pixels of a row, borders included.
    pub width: usize,
    /// The number of rows without borders.
    pub height: usize,
    /// The number of rows that are in memory at a time, borders included, where the layer that reads them runs with the step
    /// that makes them. They are not in the slot.
    pub band: Option<usize>,
}

impl CodesView {
    /// Returns the number of pixels of all rows, of `images` images below each other.
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
    /// The number of input rows from an output's first tap to its last.
    pub reach: usize,
    /// The distance of each tap from the first, in pixels, or in the lines of a depthwise layer's values.
    pub taps: Vec<u32>,
    pub residual: Option<Added>,
    /// Another convolution, whose value is added.
    pub before: Option<Box<IntConv>>,
    pub clamp: Option<(f32, f32)>,
    /// The number of multiply-accumulates of an output pixel.
    pub macs: u64,
    /// How the input is copied together, where it is: then `taps` has the patch alone.
    pub patches: Option<Patches>,
}

/// The pixels that an output sees, copied together: what is read of an image whose pixels share a scale.
#[derive(Debug)]
pub(crate) struct Patches {
    /// The layout of a patch.
    pub layout: usize,
    /// The number of bytes of a patch.
    pub bytes: usize,
    /// The first byte of each run of the image's codes, from the first tap, and the number of bytes of a run.
    pub runs: Vec<usize>,
    pub run: usize,
}

impl Patches {
    /// Returns the memory that some patches take.
    pub fn room(&self, patches: usize) -> CodeSize {
        CodeSize { bytes: patches * self.bytes + SLACK, scales: patches }
    }
}

/// A 3x3 convolution of stride 1 by Winograd's algorithm.
#[derive(Debug)]
pub(crate) struct WinogradConv {
    pub weights: Winograd,
    pub input: CodesView,
    /// The input pixel under the first tap of output (0, 0).
    pub origin: usize,
    pub residual: Option<Added>,
    pub clamp: Option<(f32, f32)>,
    /// The number of multiply-accumulates of an output pixel, as a direct convolution counts them.
    pub macs: u64,
}

impl WinogradConv {
    /// Returns the memory that a strip of so many pixels works in, in rows of `width`.
    pub fn room(&self, strip: usize, width: usize) -> CodeSize {
        let tiles = (strip / width).div_ceil(2) * width.div_ceil(2);
        CodeSize { bytes: self.weights.places(tiles).bytes, scales: 0 }
    }
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
    /// A convolution in integers by Winograd's algorithm.
    Winograd(Box<WinogradConv>),
    /// An operation in floats.
    Float(FloatOp),
}

impl StepOp {
    /// Returns the kind of work, for a person to read.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Conv(_) => "integer convolution",
            Self::Winograd(_) => "integer Winograd",
            Self::Float(op) => op.kind(),
        }
    }
}

/// One pass over the pixels of a value.
#[derive(Debug)]
pub(crate) struct Step {
    /// The name of the node that the step begins with.
    pub name: String,
    pub op: StepOp,
    pub posts: Vec<PostOp>,
    /// The shape of the value that the step makes.
    pub shape: Shape,
    /// Where the value is stored as floats, if anybody reads it so.
    pub dest: Option<View>,
    /// The integer forms that the step makes of its value.
    pub emits: Vec<CodesView>,
    /// The number of pixels that are computed at a time.
    pub strip: usize,
    /// Whether the largest magnitude of the value is noted as it is made, for a step that rounds all of it with one scale.
    pub notes: bool,
    /// Whether the largest magnitude of the value, which it copies, was noted.
    pub knows: bool,
}

impl IntConv {
    /// Returns the number of bytes that a pair of unpacked panels takes.
    pub fn unpacked_bytes(&self) -> usize {
        let own = if self.weights.nibbles { 2 * self.weights.unpacked_bytes() + 64 } else { 0 };
        own.max(self.before.as_ref().map_or(0, |before| before.unpacked_bytes()))
    }

    /// Returns the memory that the patches of a strip take.
    pub fn patches(&self, strip: usize) -> CodeSize {
        let own = self.patches.as_ref().map(|patches| patches.room(strip)).unwrap_or_default();
        own.or_larger(self.before.as_ref().map(|before| before.patches(strip)).unwrap_or_default())
    }

    /// Returns the number of bytes that the packed weights take.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes() + self.before.as_ref().map_or(0, |before| before.weight_bytes())
    }
}

impl Step {
    /// Tells whether the step runs with the next one, which reads a band of its rows at a time.
    pub fn runs_with_next(&self) -> bool {
        self.emits.first().is_some_and(|emit| emit.band.is_some())
    }

    /// Returns the number of multiply-accumulates for one image.
    pub fn macs(&self) -> u64 {
        let pixels = (self.shape.height * self.shape.width) as u64;
        match &self.op {
            StepOp::Conv(conv) => conv.macs * pixels,
            StepOp::Winograd(conv) => conv.macs * pixels,
            StepOp::Float(FloatOp::Conv(conv, _)) => conv.len() as u64 * pixels,
            StepOp::Float(_) => 0,
        }
    }

    /// Returns the number of bytes that the packed weights take.
    pub fn weight_bytes(&self) -> usize {
        match &self.op {
            StepOp::Conv(conv) => conv.weight_bytes(),
            StepOp::Winograd(conv) => conv.weights.bytes(),
            StepOp::Float(FloatOp::Conv(conv, _)) => 4 * conv.len(),
            StepOp::Float(_) => 0,
        }
    }
}
