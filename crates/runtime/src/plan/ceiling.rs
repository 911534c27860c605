//! How fast a kernel's innermost loop is.
use std::time::Instant;

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, QuantizedWeights};

use super::conv::pack;
use crate::buffer::Buffer;
use crate::kernels::{AnyKernel, ConvCall, Residual, SLACK};
use crate::layout::{LayerInput, Layout, Whole};

/// The numbers of bits, the blocks and the kind of scales of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Format {
    pub bits: Bits,
    pub block: BlockSize,
    pub two_level: bool,
    pub activation: ActivationFormat,
    pub signed: bool,
}

impl Default for Format {
    /// W4A8 with one scale.
    fn default() -> Self {
        let (block, scale) = (BlockSize::PIXEL, ActivationScale::Float);
        let activation = ActivationFormat { bits: Bits::MAX, block, scale };
        Self { bits: Bits::new(4).expect("4 bits"), block, two_level: false, activation, signed: false }
    }
}

impl Format {
    /// Measures the multiply-accumulates a second of a kernel on one thread, all data in the nearest cache: 48 pixels of 256
    /// channels by 32 outputs, 8 KiB of weights in bytes.
    pub fn ceiling(&self, kernel: &AnyKernel) -> f64 {
        let (channels, outputs, count, whole) = (256, 32, 48, Whole::Apart);
        let &Self { bits, block, two_level, activation: format, signed } = self;
        let input = LayerInput { channels, groups: 1, weight_block: block, format, signed, depthwise: false, whole };
        let layout = Layout::new(input);
        let (shape, lowest) = ([outputs, channels, 1, 1], bits.signed_min());
        let codes = (0..outputs * channels).map(|i| (lowest + (i as i32 % (-2 * lowest))) as i8).collect();
        let scales = vec![1.0; outputs * block.count(channels)];
        let weights = QuantizedWeights::from_parts(shape, bits, block, codes, scales).expect("codes of these bits");
        let weights = if two_level { weights.to_two_level() } else { weights };
        let weights = pack(kernel.wants(), &weights, None, &layout, false);
        let codes = Buffer::new(count * layout.bytes + SLACK);
        let pixels: Vec<u32> = (0..count as u32).collect();
        let call = ConvCall {
            weights: &weights,
            layout: &layout,
            codes: &codes,
            scales: &vec![1.0; count * layout.scales],
            width: count,
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
}
