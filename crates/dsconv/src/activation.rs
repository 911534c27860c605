use blockfloat::{ActivationFormat, ActivationScale, ActivationSpec};
use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// Rounds `x` to block floating point (BFP), with a straight-through gradient: the output is exactly the BFP value of `x`, and
/// the backward pass hands the gradient to `x` unchanged.
///
/// - `x` is `[N, C, H, W]`; at every pixel, blocks of `format.block` consecutive channels of one group share a scale.
/// - `signed = false` promises `x >= 0`, as behind a ReLU, and spends no bit on a sign; negative values become 0.
///
/// On the CPU the value comes from [`blockfloat::dequantized_activations`], which has the bits of the reference. Elsewhere it
/// is composed of tensor operations, and may be the neighbouring code where a quotient lies at a half.
/// A block that holds NaN or an infinity becomes NaN, so that a loss shows it.
///
/// # Panics
/// If `groups` does not divide `C`.
pub fn block_float(x: Tensor<4>, format: ActivationFormat, signed: bool, groups: usize) -> Tensor<4> {
    let plain = x.clone().inner();
    let value = if on_host(&plain.device()) {
        on_cpu(plain, format, signed, groups)
    } else {
        composed(plain, format, signed, groups)
    };
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

/// Says whether tensors of a device lie in this process's memory, where plain loops read them without a copy.
pub(crate) fn on_host(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

fn on_cpu(x: Tensor<4>, format: ActivationFormat, signed: bool, groups: usize) -> Tensor<4> {
    let device = x.device();
    let shape = x.dims();
    let data = x.into_data().convert_dtype(DType::F32);
    let input = data.as_slice::<f32>().expect("f32 data");
    let mut output = vec![0.0; input.len()];
    let spec = ActivationSpec { shape, groups, format, signed };
    blockfloat::dequantized_activations(input, &spec, &mut output);
    Tensor::from_data(TensorData::new(output, shape), &device)
}

/// Does the same arithmetic with tensor operations, for devices whose memory is elsewhere.
fn composed(x: Tensor<4>, format: ActivationFormat, signed: bool, groups: usize) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    assert_eq!(c % groups, 0, "{groups} groups do not divide {c} channels");
    let (group, blocks) = (c / groups, format.block.count(c / groups));
    let block = format.block.ranges(group).next().map_or(1, |r| r.len());
    let ragged = blocks * block - group;
    // [N*G, blocks, B, H, W], the last block padded with zeros, which change no maximum.
    let mut split = x.reshape([n * groups, group, h, w]);
    if ragged > 0 {
        let zeros = Tensor::zeros([n * groups, ragged, h, w], &split.device());
        split = Tensor::cat(vec![split, zeros], 1);
    }
    let split = split.reshape([n * groups, blocks, block, h, w]);
    let bits = i32::from(format.bits.get());
    let (low, high, exponent_bits) = if signed {
        (-((1 << (bits - 1)) - 1), (1 << (bits - 1)) - 1, bits - 2)
    } else {
        (0, (1 << bits) - 1, bits - 1)
    };
    // 0, and NaN for a block that holds NaN or an infinity: what a maximum makes of them differs from device to device,
    // and some cannot turn them into an index.
    let poison = (split.clone() - split.clone()).sum_dim(2);
    let max = split.clone().abs().max_dim(2).mask_fill(poison.clone().is_nan(), 1.0);
    let scale = match format.scale {
        ActivationScale::Float => max.div_scalar(high as f32),
        ActivationScale::Pow2 => power_of_two_below(max).mul_scalar((-exponent_bits as f32).exp2()),
    };
    // A normal scale has a normal reciprocal's worth of room; smaller blocks flush to zero codes.
    let scale = scale.clamp_min(f32::MIN_POSITIVE);
    let codes = (split * scale.clone().recip()).round().clamp(low as f32, high as f32);
    let value = (codes * scale + poison).reshape([n * groups, blocks * block, h, w]);
    let value = if ragged > 0 { value.narrow(1, 0, group) } else { value };
    value.reshape([n, c, h, w])
}

/// Computes `2^floor(log2(x))` for normal positive `x`, exactly: a logarithm may be off by one at powers of two, so its guess
/// is corrected by comparisons, and the powers come from a table.
fn power_of_two_below(x: Tensor<5>) -> Tensor<5> {
    let device = x.device();
    let dims = x.dims();
    let table: Vec<f32> = (-126..=127).map(|e| (e as f32).exp2()).collect();
    let table = Tensor::<1>::from_data(TensorData::new(table, [254]), &device);
    let x = x.clamp_min(f32::MIN_POSITIVE);
    let guess = x.clone().log().div_scalar(std::f32::consts::LN_2).floor().clamp(-126.0, 127.0).add_scalar(126.0);
    let index: Tensor<1, Int> = guess.int().reshape([-1]);
    let power = table.select(0, index).reshape(dims);
    let too_high = power.clone().greater(x.clone());
    let power = power.clone().mask_where(too_high, power.div_scalar(2.0));
    let too_low = power.clone().mul_scalar(2.0).lower_equal(x);
    power.clone().mask_where(too_low, power.mul_scalar(2.0))
}
