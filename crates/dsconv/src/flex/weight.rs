//! The values of a shadow weight's codes, and the gradients of shadow weight and gains: [`crate::shadow::Shadow::value`] in one
//! pass.

use blockfloat::{Bits, BlockSize};
use macerator::Simd;
use rayon::prelude::*;

/// How a weight `[Co, Ci/G, Kh, Kw]` is cut into blocks.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    /// The codes' bits.
    pub bits: Bits,
    /// The channels that share a scale.
    pub block: BlockSize,
    /// `[Co, Ci/G, Kh, Kw]`.
    pub shape: [usize; 4],
}

impl Cut {
    fn taps(&self) -> usize {
        self.shape[2] * self.shape[3]
    }

    /// The elements of an output channel, and its scales.
    fn row(&self) -> [usize; 2] {
        [self.shape[1] * self.taps(), self.block.count(self.shape[1]) * self.taps()]
    }

    /// The elements of a block.
    fn block(&self) -> usize {
        self.block.len_in(self.shape[1]) * self.taps()
    }

    fn limits(&self) -> (f32, f32) {
        (self.bits.signed_min() as f32, self.bits.signed_max() as f32)
    }
}

/// Computes `scales * gain * clamp(round(latent / gain))` for every element of `latent`; a gain is 1 where there is none.
pub(super) fn forward(cut: &Cut, latent: &[f32], scales: &[f32], gain: &[f32]) -> Vec<f32> {
    let ([row, scale_row], taps) = (cut.row(), cut.taps());
    let (low, high) = cut.limits();
    let mut value = vec![0.0; latent.len()];
    let rows = value.par_chunks_exact_mut(row).zip(latent.par_chunks_exact(row)).enumerate();
    rows.for_each_init(Spread::default, |spread, (o, (value, latent))| {
        let (scales, gain) = (&scales[o * scale_row..][..scale_row], &gain[o * scale_row..][..scale_row]);
        let blocks = value.chunks_mut(cut.block()).zip(latent.chunks(cut.block()));
        for ((value, latent), (scales, gain)) in blocks.zip(scales.chunks_exact(taps).zip(gain.chunks_exact(taps))) {
            spread.fill(value.len(), scales, gain);
            round(value, latent, &spread.scales, &spread.gain, low, high);
        }
    });
    value
}

/// Computes the gradients of `latent` and of `gain` from `dy`, that of the value.
pub(super) fn backward(cut: &Cut, latent: &[f32], scales: &[f32], gain: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let ([row, scale_row], taps) = (cut.row(), cut.taps());
    let (low, high) = cut.limits();
    let (mut d_latent, mut d_gain) = (vec![0.0; latent.len()], vec![0.0; gain.len()]);
    let rows = d_latent.par_chunks_exact_mut(row).zip(d_gain.par_chunks_exact_mut(scale_row)).enumerate();
    rows.for_each_init(Spread::default, |spread, (o, (d_latent, d_gain))| {
        let (scales, gain) = (&scales[o * scale_row..][..scale_row], &gain[o * scale_row..][..scale_row]);
        let (latent, dy) = (&latent[o * row..][..row], &dy[o * row..][..row]);
        let blocks = d_latent.chunks_mut(cut.block()).zip(latent.chunks(cut.block()).zip(dy.chunks(cut.block())));
        let scales = scales.chunks_exact(taps).zip(gain.chunks_exact(taps)).zip(d_gain.chunks_exact_mut(taps));
        for ((d_latent, (latent, dy)), ((scales, gain), d_gain)) in blocks.zip(scales) {
            spread.fill(dy.len(), scales, gain);
            // The gains' gradients of each element, then their sums.
            gradients(d_latent, &mut spread.products, [latent, dy, &spread.scales, &spread.gain], low, high);
            for products in spread.products.chunks_exact(taps) {
                d_gain.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
            }
        }
    });
    (d_latent, d_gain)
}

/// A block's scales and gains, repeated for every element.
#[derive(Default)]
struct Spread {
    scales: Vec<f32>,
    gain: Vec<f32>,
    products: Vec<f32>,
}

impl Spread {
    fn fill(&mut self, len: usize, scales: &[f32], gain: &[f32]) {
        for (to, from) in [(&mut self.scales, scales), (&mut self.gain, gain)] {
            to.resize(len, 0.0);
            if let [value] = from {
                to.fill(*value);
            } else {
                to.chunks_exact_mut(from.len()).for_each(|to| to.copy_from_slice(from));
            }
        }
        self.products.resize(len, 0.0);
    }
}

#[inline(always)]
fn code(latent: f32, gain: f32, low: f32, high: f32) -> f32 {
    (latent / gain).round_ties_even().clamp(low, high)
}

#[macerator::with_simd]
fn round<S: Simd>(value: &mut [f32], latent: &[f32], scales: &[f32], gain: &[f32], low: f32, high: f32) {
    for ((value, &latent), (&scale, &gain)) in value.iter_mut().zip(latent).zip(scales.iter().zip(gain)) {
        *value = scale * gain * code(latent, gain, low, high);
    }
}

#[macerator::with_simd]
fn gradients<S: Simd>(d_latent: &mut [f32], products: &mut [f32], inputs: [&[f32]; 4], low: f32, high: f32) {
    let [latent, dy, scales, gain] = inputs;
    let inputs = latent.iter().zip(dy).zip(scales.iter().zip(gain));
    for ((d_latent, product), ((&latent, &dy), (&scale, &gain))) in d_latent.iter_mut().zip(products).zip(inputs) {
        *d_latent = dy * scale;
        *product = dy * scale * code(latent, gain, low, high);
    }
}
