//! The steps of a part of the network, and the memory they need.
use super::step::{Step, StepOp};
use crate::buffer::Buffer;
use crate::kernels::SLACK;

/// A part of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// What runs an image at a time.
    Body,
    /// The end, which runs all images at once.
    Head,
}

/// Steps and the slots they need, for one image.
#[derive(Debug)]
pub(crate) struct Program {
    pub steps: Vec<Step>,
    /// The number of floats of each float slot.
    pub floats: Vec<usize>,
    /// The size of each integer slot.
    pub codes: Vec<CodeSize>,
    /// The largest band of rows between two steps.
    pub band: CodeSize,
    /// The most patches of a strip, or its transformed inputs and sums.
    pub patches: CodeSize,
    /// The number of floats that a strip of any step takes.
    pub scratch: usize,
    /// The number of bytes that a pair of unpacked panels takes.
    pub unpacked: usize,
}

impl Program {
    /// Makes a program of steps and slots of these sizes. Where `whole`, one image is run at a time, and a strip is no longer
    /// than the image.
    pub fn new(steps: Vec<Step>, floats: Vec<usize>, codes: Vec<CodeSize>, band: CodeSize, whole: bool) -> Self {
        let strip = |s: &Step| if whole { s.strip.min(s.shape.height * s.shape.width) } else { s.strip };
        let scratch = steps.iter().filter(|s| s.dest.is_none()).map(|s| strip(s) * s.shape.channels).max();
        let unpacked = steps.iter().map(|step| match &step.op {
            StepOp::Conv(conv) => conv.unpacked_bytes(),
            StepOp::Winograd(_) | StepOp::Float(_) => 0,
        });
        let (scratch, unpacked) = (scratch.unwrap_or(0), unpacked.max().unwrap_or(0));
        let patches = steps.iter().map(|step| match &step.op {
            StepOp::Conv(conv) => conv.patches(strip(step)),
            StepOp::Winograd(conv) => conv.room(strip(step), step.shape.width),
            StepOp::Float(_) => CodeSize::default(),
        });
        let patches = patches.fold(CodeSize::default(), CodeSize::or_larger);
        // Each part's begin at a cache line.
        let patches = CodeSize { bytes: patches.bytes.next_multiple_of(SLACK), ..patches };
        Self { steps, floats, codes, band, patches, scratch, unpacked }
    }

    /// Returns the number of bytes of the buffers that it runs in, for `images` images at a time, each step in up to `parts` parts.
    pub fn bytes(&self, images: usize, parts: usize) -> u64 {
        let floats = |n: usize, times: usize| Buffer::<f32>::bytes_of(n.saturating_mul(times));
        let bytes = |n: usize, times: usize| Buffer::<u8>::bytes_of(n.saturating_mul(times).saturating_add(SLACK));
        let slots = self.floats.iter().map(|&n| floats(n, images));
        let codes = self.codes.iter().flat_map(|size| [bytes(size.bytes, images), floats(size.scales, images)]);
        let band = [bytes(self.band.bytes + SLACK, parts), floats(self.band.scales, parts)];
        let patches = [bytes(self.patches.bytes, parts), floats(self.patches.scales, parts)];
        let band = band.into_iter().chain(patches);
        let parts = [floats(self.scratch, parts), bytes(self.unpacked, parts)].into_iter().chain(band);
        slots.chain(codes).chain(parts).fold(0, u64::saturating_add)
    }
}

/// The bytes of codes and the scales that an integer slot holds, for one image.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CodeSize {
    pub bytes: usize,
    pub scales: usize,
}

impl CodeSize {
    /// Returns the size that holds either.
    pub fn or_larger(self, other: Self) -> Self {
        Self { bytes: self.bytes.max(other.bytes), scales: self.scales.max(other.scales) }
    }
}
