//! How a layer's integer input lies in memory.
use std::ops::Range;

use blockfloat::{ActivationFormat, ActivationScale, BlockSize};

/// Code that stands for 0 where inputs are signed: codes are `mantissa + OFFSET`, so that all are unsigned bytes.
pub(crate) const OFFSET: i32 = 128;

/// Channels that a vector of outputs has; channel-wise layouts are padded to it.
pub(crate) const LANES: usize = 16;

/// Byte of a depthwise layer's pixel that holds elements as they came, not values.
pub(crate) const RAW: u8 = 1;

/// Byte of a depthwise layer's pixel that is padding.
pub(crate) const BORDER: u8 = 2;

/// Consecutive channels whose codes are consecutive bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub channels: Range<usize>,
    /// Byte in a pixel's codes.
    pub at: usize,
}

/// An integer activation at one pixel: `codes [bytes]`, one byte a channel, and `scales [scales]`, one a block.
///
/// A kernel multiplies four channels at a time, so each weight block begins at a multiple of four bytes, and what
/// follows its last channel is multiplied by weights of 0.
///
/// A depthwise layer's pixel has one float a channel instead, in `scales`: a code and a scale of its own in one *value*,
/// see `kernels/depthwise.rs`. Its one byte is 0, [`RAW`] or [`BORDER`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    pub channels: usize,
    pub groups: usize,
    /// Limits of a mantissa.
    pub range: (i32, i32),
    pub bits: u8,
    pub scale: ActivationScale,
    pub signed: bool,
    /// One scale each, group by group.
    pub blocks: Vec<Range<usize>>,
    /// Empty where channel `c` is byte `c`.
    pub pieces: Vec<Piece>,
    /// Bytes of a pixel's codes.
    pub bytes: usize,
    /// Floats of a pixel's scales.
    pub scales: usize,
    pub depthwise: bool,
}

impl Layout {
    /// For a layer with weight blocks of `weight` channels and inputs of `format`.
    pub fn new(
        channels: usize,
        groups: usize,
        weight: BlockSize,
        format: ActivationFormat,
        signed: bool,
        depthwise: bool,
    ) -> Self {
        let group = channels / groups;
        let blocks: Vec<Range<usize>> =
            (0..groups).flat_map(|g| shift(format.block.ranges(group), g * group)).collect();
        let mut at = 0;
        let mut pieces: Vec<Piece> = (0..groups)
            .flat_map(|g| shift(weight.ranges(group), g * group))
            .map(|channels| {
                let piece = Piece { at, channels: channels.clone() };
                at += channels.len().next_multiple_of(4);
                piece
            })
            .collect();
        let mut scales = blocks.len();
        if depthwise {
            (at, scales) = (1, channels.next_multiple_of(LANES));
            pieces.clear();
        } else if pieces.iter().all(|p| p.at == p.channels.start) {
            pieces.clear();
        }
        let (range, bits) = (format.code_range(signed), format.bits.get());
        Self {
            channels,
            groups,
            range,
            bits,
            scale: format.scale,
            signed,
            blocks,
            pieces,
            bytes: at,
            scales,
            depthwise,
        }
    }

    /// The byte that stands for 0; a depthwise layer's border.
    pub fn zero(&self) -> u8 {
        match (self.depthwise, self.signed) {
            (true, _) => BORDER,
            (false, true) => OFFSET as u8,
            (false, false) => 0,
        }
    }

    /// Bytes of one group's codes.
    pub fn group_bytes(&self) -> usize {
        self.bytes / self.groups
    }

    /// Scales of one group.
    pub fn group_scales(&self) -> usize {
        self.scales / self.groups
    }
}

fn shift(ranges: impl Iterator<Item = Range<usize>>, by: usize) -> impl Iterator<Item = Range<usize>> {
    ranges.map(move |r| r.start + by..r.end + by)
}
