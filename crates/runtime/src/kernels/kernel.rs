//! The trait of kernels, and what they want of the planner.
use super::{ConvCall, PlanesCall, QuantizeCall, Target, WinogradCall};
use crate::pack::Packing;
use crate::winograd::Tiling;

/// An instruction set's loops. A value can be made only where the CPU has the instructions.
pub(crate) trait Kernel: Copy + Send + Sync {
    /// What the kernel wants of the planner.
    const WANTS: Wants = Wants::USUAL;
    /// Makes the kernel, or `None` where the CPU lacks an instruction.
    fn new() -> Option<Self>;
    /// Computes the outputs of a call into `out`, output `i` into row `i`, rows `stride` floats apart. Returns whether all
    /// of them were finite before they were limited.
    ///
    /// `unpacked` has room for two panels and a line, or is empty where weights are not in nibbles.
    #[must_use]
    fn conv(&self, call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) -> bool;
    /// Computes the outputs of a call as the input of a depthwise layer; returns as [`Kernel::conv`].
    #[must_use]
    fn conv_to_values(&self, call: &ConvCall<'_>, unpacked: &mut [u8], to: Target<'_>) -> bool {
        to.in_two_passes(self, call, unpacked)
    }
    /// Computes the outputs of a call by Winograd's algorithm; returns as [`Kernel::conv`]. `room` has the bytes that
    /// [`Winograd::places`](crate::winograd::Winograd::places) names.
    #[must_use]
    fn winograd(&self, call: &WinogradCall<'_>, room: &mut [u8], out: &mut [f32], stride: usize) -> bool {
        call.check(room, out, stride);
        call.plain(out, stride)
    }
    /// Rounds rows to codes and scales.
    fn quantize(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]);
    /// Rounds a planar image to codes and scales.
    fn quantize_planes(&self, call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]);
    /// Runs a task in code that is compiled for the kernel's instructions.
    fn run<T: Task>(&self, task: T) -> T::Output;
}

/// Plain code that is compiled for each kernel's instructions: [`Task::run`] and what it calls are `#[inline(always)]`.
pub(crate) trait Task {
    /// The result.
    type Output;
    /// Does the work.
    fn run(self) -> Self::Output;
}

/// What a kernel wants of the planner. The bits do not depend on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wants {
    /// Whether it is faster with the factors of two-level scales apart: products of a factor and a weight do not fit its
    /// sums.
    pub factors_apart: bool,
    /// Whether it multiplies signed codes, see [`Packing::signed_codes`].
    pub signed_codes: bool,
    /// Whether groups of 4 or 8 outputs may share a panel, see [`panel_groups`](crate::pack::Fields::panel_groups).
    pub shared_panels: bool,
    /// How it multiplies by Winograd's algorithm, see [`Winograd`](crate::winograd::Winograd), where it is faster with it.
    pub winograd: Option<Tiling>,
    /// Whether it multiplies weights of two steps at once, see [`Packing::paired_steps`].
    pub paired_steps: bool,
    /// The number of weights of a layer from which on they are packed two a byte, if they have at most four bits: they come
    /// from far, and are unpacked on their way, or for a strip of pixels. Those of linear layers always are.
    pub nibbles_from: usize,
    /// The pixels of a strip are a multiple of this number: whole tiles.
    pub tile: usize,
    /// The fewest pixels of a strip.
    pub fewest: usize,
    /// The number of bytes of a strip's floats, which stay in the second-level cache until they are rounded.
    pub strip: usize,
    /// The value of [`Wants::strip`] for layers with more than [`Wants::large`] bytes of weights, which are read once for
    /// many pixels.
    pub long_strip: usize,
    /// The number of bytes of weights beyond which a layer's strips are long.
    pub large: usize,
}

impl Wants {
    /// What most kernels want.
    pub const USUAL: Self = Self {
        factors_apart: false,
        signed_codes: false,
        shared_panels: false,
        winograd: None,
        paired_steps: false,
        nibbles_from: 128 * 1024,
        tile: 12,
        fewest: 60,
        strip: 96 * 1024,
        long_strip: 192 * 1024,
        large: 512 * 1024,
    };

    /// Returns how weights are packed for the kernel, in `nibbles` or not.
    pub fn packing(self, nibbles: bool) -> Packing {
        let Self { signed_codes, shared_panels, paired_steps, .. } = self;
        Packing { nibbles, signed_codes, shared_panels, paired_steps }
    }
}
