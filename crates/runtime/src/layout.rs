//! How a layer's integer input lies in memory.
use std::ops::{Deref, Range};

use blockfloat::{ActivationFormat, ActivationScale, BlockSize};

/// The code that stands for 0 where inputs are signed: codes are `mantissa + OFFSET`, so that all are unsigned bytes.
pub(crate) const OFFSET: i32 = 128;

/// The number of channels that a vector of outputs has; channel-wise layouts are padded to it.
pub(crate) const LANES: usize = 16;

/// The byte of a depthwise layer's pixel that holds elements as they came, not values.
pub(crate) const RAW: u8 = 1;

/// The byte of a depthwise layer's pixel that is padding.
pub(crate) const BORDER: u8 = 2;

/// Consecutive channels whose codes are consecutive bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub channels: Range<usize>,
    /// The first byte in a pixel's codes.
    pub at: usize,
}

/// An integer activation at one pixel: `codes [bytes]`, one byte a channel, and `scales [scales]`, one a block.
///
/// A kernel multiplies four channels at a time, so each weight block begins at a multiple of four bytes, and what
/// follows its last channel is multiplied by weights of 0, but for [`Layout::spare`] bytes.
///
/// A depthwise layer's pixel has one float a channel instead, in `scales`: a code and a scale of its own in one *value*,
/// see `kernels/depthwise.rs`. Its one byte is 0, [`RAW`] or [`BORDER`]. The *lines* of 16 channels of a row's pixels lie
/// side by side, `[H, C / 16, W, 16]`: what a panel of outputs reads is consecutive.
///
/// Only [`Layout::new`] makes one, and nothing changes it: kernels rely on its numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout(Fields);

/// What can be read of a [`Layout`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fields {
    pub channels: usize,
    pub groups: usize,
    /// The limits of a mantissa.
    pub range: (i32, i32),
    pub bits: u8,
    pub scale: ActivationScale,
    pub signed: bool,
    /// The channels that share a scale, group by group.
    pub blocks: Vec<Range<usize>>,
    /// Where the channels of each weight block lie; empty where channel `c` is byte `c`.
    pub pieces: Vec<Piece>,
    /// The number of bytes of a pixel's codes.
    pub bytes: usize,
    /// The number of a pixel's scales.
    pub scales: usize,
    pub depthwise: bool,
    /// Whether all pixels of an image share the scale, which is repeated.
    pub whole: bool,
    /// Whether a pixel's codes were copied together, so that what follows them is anything.
    pub patches: bool,
}

/// A layer's integer input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerInput {
    pub channels: usize,
    pub groups: usize,
    /// The number of channels of a weight block.
    pub weight_block: BlockSize,
    pub format: ActivationFormat,
    pub signed: bool,
    /// Whether the layer is depthwise: as many outputs and groups as channels.
    pub depthwise: bool,
    /// How pixels that share a scale are read.
    pub whole: Whole,
}

/// How the pixels of an image that share a scale are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    /// They share none, or each by itself.
    Apart,
    /// Pixels of three channels are three bytes: they are copied to patches, whose sums know no taps.
    Tight,
    /// They were copied to patches: a patch is a pixel.
    Patches,
}

impl Deref for Layout {
    type Target = Fields;
    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl Layout {
    /// Makes the layout that kernels read a layer's input in.
    pub fn new(input: LayerInput) -> Self {
        let LayerInput { channels, groups, weight_block, format, signed, depthwise, whole } = input;
        let group = channels / groups;
        let blocks: Vec<Range<usize>> =
            (0..groups).flat_map(|g| shift(format.block.ranges(group), g * group)).collect();
        let (pieces, bytes) = match (depthwise, whole) {
            (true, _) => (vec![], 1),
            (false, Whole::Tight) => (vec![], channels),
            (false, _) => pieces(group, groups, weight_block),
        };
        Self(Fields {
            channels,
            groups,
            range: format.code_range(signed),
            bits: format.bits.get(),
            scale: format.scale,
            signed,
            scales: if depthwise { channels.next_multiple_of(LANES) } else { blocks.len() },
            blocks,
            pieces,
            bytes,
            depthwise,
            whole: format.block.is_image() && whole != Whole::Patches,
            patches: whole == Whole::Patches,
        })
    }

    /// Returns the number of lines of 16 values of a depthwise layer's pixel.
    pub fn lines(&self) -> usize {
        self.scales / LANES
    }

    /// Returns the first line of a depthwise layer's pixel, in rows of `width` pixels; the next ones are `width` on each.
    #[inline(always)]
    pub fn line(&self, pixel: usize, width: usize) -> usize {
        pixel / width * width * self.lines() + pixel % width
    }

    /// Returns the byte that stands for 0; a depthwise layer's border.
    pub fn zero(&self) -> u8 {
        match (self.depthwise, self.signed) {
            (true, _) => BORDER,
            (false, true) => OFFSET as u8,
            (false, false) => 0,
        }
    }

    /// Returns the bytes that follow the codes of a pixel of up to three signed channels. They hold the code of 0, as a border does: the
    /// weights that they meet can take off what the offsets of the others add.
    pub fn spare(&self) -> Range<usize> {
        let spare = self.signed && self.groups == 1 && self.bytes == 4 && !self.depthwise && !self.patches;
        self.channels..if spare { 4 } else { self.channels }
    }

    /// Returns the number of bytes of one group's codes.
    pub fn group_bytes(&self) -> usize {
        self.bytes / self.groups
    }

    /// Returns the number of one group's scales.
    pub fn group_scales(&self) -> usize {
        self.scales / self.groups
    }
}

/// Returns where the weight blocks of all groups lie, nothing if channel `c` is byte `c`, and the bytes that they take.
fn pieces(group: usize, groups: usize, weight_block: BlockSize) -> (Vec<Piece>, usize) {
    let mut at = 0;
    let mut pieces: Vec<Piece> = (0..groups)
        .flat_map(|g| shift(weight_block.ranges(group), g * group))
        .map(|channels| {
            let piece = Piece { at, channels: channels.clone() };
            at += channels.len().next_multiple_of(4);
            piece
        })
        .collect();
    if pieces.iter().all(|p| p.at == p.channels.start) {
        pieces.clear();
    }
    (pieces, at)
}

fn shift(ranges: impl Iterator<Item = Range<usize>>, by: usize) -> impl Iterator<Item = Range<usize>> {
    ranges.map(move |r| r.start + by..r.end + by)
}
