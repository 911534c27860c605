//! How fast a kernel's innermost loop is.
use std::time::Instant;

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize};

use super::{AnyKernel, ConvCall, Residual, SLACK};
use crate::buffer::Buffer;
use crate::layout::{LayerInput, Layout};
use crate::pack::{Integers, Packed, Packing, Scale};

/// Measures the multiply-accumulates a second of a kernel on one thread, all data in the nearest cache: 48 pixels of 256
/// channels by 32 outputs, 8 KiB of 4-bit weights in bytes, one scale.
pub(crate) fn ceiling(kernel: &AnyKernel) -> f64 {
    let (channels, outputs, count) = (256, 32, 48);
    let format = ActivationFormat { bits: Bits::MAX, block: BlockSize::PIXEL, scale: ActivationScale::Float };
    let (weight_block, signed, depthwise) = (BlockSize::PIXEL, false, false);
    let layout = Layout::new(LayerInput { channels, groups: 1, weight_block, format, signed, depthwise });
    let values: Vec<i8> = (0..outputs * channels).map(|i| (i % 16) as i8 - 8).collect();
    let scales = vec![1.0; outputs];
    let shape = [outputs, channels, 1, 1];
    let integers = Integers { shape, block: BlockSize::PIXEL, values: &values, scale: Scale::Channel(&scales) };
    let packing = Packing { nibbles: false, signed_codes: kernel.wants().signed_codes };
    let weights = Packed::new(integers, None, &layout, packing);
    let codes = Buffer::new(count * channels + SLACK);
    let pixels: Vec<u32> = (0..count as u32).collect();
    let call = ConvCall {
        weights: &weights,
        layout: &layout,
        codes: &codes,
        scales: &vec![1.0; count],
        pixels: &pixels,
        taps: &[0],
        panels: 0..weights.panels.len(),
        residual: Residual::None,
        clamp: None,
    };
    let mut out = Buffer::new(count * outputs);
    let mut best = f64::INFINITY;
    // Short bursts: the least disturbed one counts.
    for _ in 0..400 {
        let start = Instant::now();
        for _ in 0..8 {
            let _finite = kernel.conv(&call, &mut [], &mut out, outputs);
        }
        best = best.min(start.elapsed().as_secs_f64() / 8.0);
    }
    (channels * outputs * count) as f64 / best
}
