//! This module draws formats for a graph, and moves numbers a little.
use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, ScaleFormat, ScaleRule, SplitMix64};
use model::{Model, Policy};

/// A stream of random draws.
pub struct Random(SplitMix64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[(self.0.next_u64() % of.len() as u64) as usize]
    }

    /// Draws uniformly from [-1, 1).
    fn signed(&mut self) -> f32 {
        2.0 * self.0.next_f32() - 1.0
    }
}

/// The policy of `dsconv quantize`, with 8-bit weights and activations.
pub fn w8a8() -> Policy {
    let mut policy = Policy { bits: Bits::new(8).unwrap(), ..Policy::default() };
    policy.activation.as_mut().unwrap().bits = policy.bits;
    policy
}

/// Draws a policy.
pub fn any(random: &mut Random) -> Policy {
    let bits = |random: &mut Random| Bits::new(random.pick(&[2, 3, 4, 4, 5, 6, 7, 8])).unwrap();
    let block = random.pick(&[1, 2, 3, 4, 8, 16, 32, 64]);
    let activation_block = random.pick(&[Some(1), Some(1), Some(2), Some(4), None]);
    let size = |n: usize| BlockSize::new(n).unwrap();
    let activation = ActivationFormat {
        bits: bits(random),
        block: activation_block.map_or(BlockSize::PIXEL, |times| size(times * block)),
        scale: random.pick(&[ActivationScale::Float, ActivationScale::Pow2]),
    };
    Policy {
        bits: bits(random),
        block: if activation_block.is_none() && random.pick(&[true, false]) { BlockSize::PIXEL } else { size(block) },
        rule: random.pick(&[ScaleRule::L2, ScaleRule::L2, ScaleRule::Kl, ScaleRule::Mse, ScaleRule::Balanced]),
        scales: random.pick(&[ScaleFormat::Float, ScaleFormat::TwoLevel]),
        linear: random.pick(&[true, true, true, false]),
        activation: Some(activation).filter(|_| random.pick(&[true, true, true, true, false])),
        image_bits: bits(random),
        image_sum: random.pick(&[true, false]),
        winograd: random.pick(&[None, Bits::new(5).ok()]),
        ..Policy::default()
    }
}

/// The relative amount by which another order of a sum may move it.
const STEP: f32 = 1e-6;

/// Moves every pixel by up to [`STEP`].
pub fn moved_pixels(pixels: &[f32], random: &mut Random) -> Vec<f32> {
    pixels.iter().map(|v| v * (1.0 + STEP * random.signed())).collect()
}

/// Moves every float of a model by up to [`STEP`].
pub fn moved(model: &Model, random: &mut Random) -> Model {
    let scaled = model.clone().map_layers(|_, layer| {
        let factors: Vec<f32> = (0..layer.codes.shape()[0]).map(|_| 1.0 + STEP * random.signed()).collect();
        layer.codes.scale_channels(&factors).unwrap();
    });
    let (graph, mut weights, layers, info) = scaled.unwrap().into_parts();
    for tensor in weights.tensors_mut() {
        tensor.data_mut().iter_mut().for_each(|v| *v += STEP * random.signed() * v.abs().max(0.5));
    }
    Model::new(graph, weights, layers, info).unwrap()
}
