//! A shadow weight is what is trained of a quantized weight: floats in steps of its codes, and block scales.

use blockfloat::{Bits, BlockSize, Error, QuantizedWeights, TapScales};
use burn::tensor::{Device, Tensor, TensorData};

use crate::flex;
use crate::quantization::ScaleUpdate;

/// The parameters of a quantized weight of shape `[Co, Ci/G, Kh, Kw]`.
pub(crate) struct Shadow {
    /// The shadow weight in steps of its codes, `[Co, Ci/G, Kh, Kw]`.
    pub latent: Tensor<4>,
    /// The first scales, `[Co, blocks, Kh, Kw]`.
    pub scales: Tensor<4>,
    /// The trained factor of each scale, `[Co, blocks, Kh, Kw]`, or `[Co, blocks, 1, 1]` where taps share it.
    pub gain: Option<Tensor<4>>,
    /// The bits of a code.
    pub bits: Bits,
    /// The input channels that share a scale.
    pub block: BlockSize,
}

impl Shadow {
    /// Makes the parameters that stand for `codes`, without gains. The shadow weight is `weight` if there is one, else the value of
    /// the codes.
    pub fn new(codes: &QuantizedWeights, weight: Option<&[f32]>, update: ScaleUpdate, device: &Device) -> Self {
        let latent = match weight {
            Some(weight) => in_steps(codes, weight, update),
            None => codes.codes().iter().map(|&q| f32::from(q)).collect(),
        };
        let tensor = |data: Vec<f32>, shape: [usize; 4]| Tensor::from_data(TensorData::new(data, shape), device);
        Self {
            latent: tensor(latent, codes.shape()),
            scales: tensor(codes.scales().to_vec(), codes.scale_shape()),
            gain: None,
            bits: codes.bits(),
            block: codes.block(),
        }
    }

    /// Returns gains of 1 for codes: one for each scale, or for all taps that share it.
    pub fn gains(codes: &QuantizedWeights, device: &Device) -> Tensor<4> {
        let [co, blocks, kh, kw] = codes.scale_shape();
        let taps = if codes.tap_scales() == TapScales::Shared { [1, 1] } else { [kh, kw] };
        Tensor::ones([co, blocks, taps[0], taps[1]], device)
    }

    /// Computes `alpha * q` for every weight, exactly, with the straight-through gradient to the shadow weight.
    pub fn value(self) -> Tensor<4> {
        if !flex::takes(&self.latent) {
            return self.value_step_by_step();
        }
        let Self { latent, scales, gain, bits, block } = self;
        let gain = match gain {
            Some(gain) => gain.expand(scales.dims()),
            None => Tensor::ones(scales.dims(), &scales.device()),
        };
        let cut = flex::Cut { bits, block, shape: latent.dims() };
        flex::weight(latent, scales, gain, cut)
    }

    /// Computes [`Shadow::value`] by burn's operations, on any device.
    pub fn value_step_by_step(self) -> Tensor<4> {
        let Self { latent, scales, gain, bits, block } = self;
        let (channels, shape) = (latent.dims()[1], scales.dims());
        let scales = spread(scales, block, channels);
        let gain = gain.map(|gain| spread(gain.expand(shape), block, channels));
        let steps = latent.clone().inner();
        let steps = match &gain {
            Some(gain) => steps / gain.clone().inner(),
            None => steps,
        };
        let codes = steps.round().clamp(bits.signed_min() as f32, bits.signed_max() as f32);
        let codes = if latent.is_autodiff() { Tensor::from_inner(codes) } else { codes };
        let alpha = match gain {
            Some(gain) => scales.clone() * gain,
            None => scales.clone(),
        };
        let value = alpha * codes;
        // `latent - latent` is exactly 0: the value stays exact, the shadow weight gets the whole gradient.
        if latent.is_tracked() { value + (latent.clone() - latent.detach()) * scales } else { value }
    }

    /// Computes the shadow weight in floats, `latent * scale`.
    pub fn float_value(self) -> Tensor<4> {
        let channels = self.latent.dims()[1];
        self.latent * spread(self.scales, self.block, channels)
    }

    /// Computes the codes and scales of [`Shadow::value`].
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a shadow weight that is NaN, [`Error::NonFiniteScale`].
    pub fn codes(self) -> Result<QuantizedWeights, Error> {
        let (shape, scale_shape) = (self.latent.dims(), self.scales.dims());
        let (mut steps, mut scales) = (host(self.latent), host(self.scales));
        if let Some(gain) = self.gain.map(|gain| host(gain.expand(scale_shape))) {
            for_blocks(shape, self.block, |weight, scale| steps[weight] /= gain[scale]);
            scales.iter_mut().zip(&gain).for_each(|(scale, gain)| *scale *= gain);
        }
        if let Some(index) = steps.iter().position(|step| step.is_nan()) {
            return Err(Error::NonFinite { index });
        }
        let (low, high) = (self.bits.signed_min() as f32, self.bits.signed_max() as f32);
        let codes = steps.iter().map(|s| s.round_ties_even().clamp(low, high) as i8).collect();
        QuantizedWeights::from_parts(shape, self.bits, self.block, codes, scales)
    }
}

/// Repeats the value of each block over its channels: `[Co, blocks, Kh, Kw]` becomes `[Co, channels, Kh, Kw]`.
fn spread(x: Tensor<4>, block: BlockSize, channels: usize) -> Tensor<4> {
    let [co, blocks, kh, kw] = x.dims();
    if blocks == 1 {
        return x.expand([co, channels, kh, kw]);
    }
    let length = block.len_in(channels);
    let all = x.unsqueeze_dim::<5>(2).expand([co, blocks, length, kh, kw]).reshape([co, blocks * length, kh, kw]);
    if blocks * length == channels { all } else { all.narrow(1, 0, channels) }
}

/// Calls `f(index of a weight, index of its block's scale)` for every weight of `[Co, Ci/G, Kh, Kw]`.
fn for_blocks([co, ci, kh, kw]: [usize; 4], block: BlockSize, mut f: impl FnMut(usize, usize)) {
    let taps = kh * kw;
    let blocks = block.count(ci);
    for o in 0..co {
        for (b, range) in block.ranges(ci).enumerate() {
            for c in range {
                for tap in 0..taps {
                    f((o * ci + c) * taps + tap, (o * blocks + b) * taps + tap);
                }
            }
        }
    }
}

/// Turns weights into steps of their codes: `weight / scale`, and 0 where the scale is 0 (the block is all zeros). The rules
/// but `mse` may choose another code than the nearest one: such a weight is moved to where it rounds to its code. With
/// [`ScaleUpdate::Recomputed`] the rule sees the weights again, so they stay where they are.
fn in_steps(codes: &QuantizedWeights, weight: &[f32], update: ScaleUpdate) -> Vec<f32> {
    let mut latent = weight.to_vec();
    let (scales, bits) = (codes.scales(), codes.bits());
    let (lowest, highest) = (bits.signed_min() as f32, bits.signed_max() as f32);
    for_blocks(codes.shape(), codes.block(), |w, s| {
        let code = f32::from(codes.codes()[w]);
        let nearest = if scales[s] == 0.0 { 0.0 } else { latent[w] / scales[s] };
        let low = if code == lowest { f32::NEG_INFINITY } else { code - 0.49 };
        let high = if code == highest { f32::INFINITY } else { code + 0.49 };
        latent[w] = if update == ScaleUpdate::Recomputed { nearest } else { nearest.clamp(low, high) };
    });
    latent
}

/// Copies the elements of a tensor into this process's memory, as `f32`.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.inner().into_data().convert::<f32>().try_into_vec().expect("f32 data")
}
