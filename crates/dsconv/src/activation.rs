use blockfloat::{ActivationFormat, ActivationSpec};
use burn::tensor::{DType, Tensor, TensorData};

#[cfg(feature = "cube")]
use crate::cube;
use crate::flex;

/// Rounds `x` to block floating point (BFP), with a straight-through gradient: the output is exactly the BFP value of `x`, and
/// the backward pass hands the gradient to `x` unchanged.
///
/// - `x` is `[N, C, H, W]`; at every pixel, blocks of `format.block` consecutive channels of one group share a scale, or with
///   [`BlockSize::IMAGE`](blockfloat::BlockSize::IMAGE) all channels at all pixels of an image.
/// - `signed = false` promises `x >= 0`, as behind a ReLU, and spends no bit on a sign; negative values become 0.
///
/// The value has the bits of [`blockfloat::dequantized_activations`], the reference, on every device: with this crate's feature
/// `wgpu` or `cuda`, one kernel computes it on the GPU; on any other device, and without the feature, the tensor goes
/// through this process's memory. A block that holds NaN or an infinity becomes NaN, so that a loss shows it.
///
/// # Panics
/// If `groups` does not divide `C`.
pub fn block_float(x: Tensor<4>, format: ActivationFormat, signed: bool, groups: usize) -> Tensor<4> {
    #[cfg(feature = "cube")]
    if cube::is_cube(&x.device()) {
        return cube::block_float(x, format, signed, groups);
    }
    if flex::takes(&x) {
        return flex::block_float(x, format, signed, groups);
    }
    let value = in_this_memory(x.clone().inner(), format, signed, groups);
    straight_through(value, x)
}

/// Gives `value` in the forward pass and the gradient to `x` in the backward pass. `x - x` is exactly 0, so the value is exact.
pub(crate) fn straight_through<const D: usize>(value: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() {
        if x.is_tracked() { Tensor::from_inner(value) + (x.clone() - x.detach()) } else { Tensor::from_inner(value) }
    } else {
        value
    }
}

fn in_this_memory(x: Tensor<4>, format: ActivationFormat, signed: bool, groups: usize) -> Tensor<4> {
    let device = x.device();
    let shape = x.dims();
    let data = x.into_data().convert_dtype(DType::F32);
    let input = data.as_slice::<f32>().expect("f32 data");
    let mut output = vec![0.0; input.len()];
    let spec = ActivationSpec { shape, groups, format, signed };
    blockfloat::dequantized_activations(input, &spec, &mut output);
    Tensor::from_data(TensorData::new(output, shape), &device)
}
