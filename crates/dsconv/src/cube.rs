//! Block floating point in one kernel, for the devices that burn reaches through cubecl: Vulkan, Metal, DirectX, CUDA.
//!
//! The bits are those of [`blockfloat::dequantized_activations`], the reference. A GPU promises little about floats: WGSL and
//! Vulkan allow a division to be off by 2.5 units in the last place, subnormals to be read as 0, NaN to be taken for impossible.
//! So tensors are read and written as bits, everything about exponents, rounding and quotients is done in integers, and what is
//! left to floats is one product of normal numbers, which rounds to nearest on every GPU (Vulkan does not promise even this
//! direction of rounding).

use blockfloat::{ActivationFormat, ActivationScale, BlockSize};
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Says whether a device is one that [`block_float`] runs on.
pub(crate) fn is_cube(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Cube(_))
}

/// Rounds `x` `[N, C, H, W]` to block floating point, with the straight-through gradient.
pub(crate) fn block_float(x: Tensor<4>, format: ActivationFormat, signed: bool, groups: usize) -> Tensor<4> {
    if format.block.is_image() {
        assert_eq!(groups, 1, "only layers of one group share a scale among all pixels");
        // The image's largest magnitude as one more channel makes it that of every pixel.
        let [n, c, h, w] = x.dims();
        let largest = x.clone().detach().abs().reshape([n, 1, 1, c * h * w]).max_dim(3).expand([n, 1, h, w]);
        let format = ActivationFormat { block: BlockSize::PIXEL, ..format };
        return block_float(Tensor::cat(vec![x, largest], 1), format, signed, groups).narrow(1, 0, c);
    }
    Tensor::from_dispatch(<Dispatch as BlockFloat>::block_float(x.into_dispatch(), format, signed, groups))
}

/// The operation that is added to burn's backends.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait BlockFloat: Backend {
    /// Rounds `x` `[N, C, H, W]` to block floating point.
    fn block_float(x: FloatTensor<Self>, format: ActivationFormat, signed: bool, groups: usize) -> FloatTensor<Self>;
}

impl<B: Backend + BlockFloat, C: CheckpointStrategy> BlockFloat for Autodiff<B, C> {
    fn block_float(x: FloatTensor<Self>, format: ActivationFormat, signed: bool, groups: usize) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct StraightThrough;

        impl<B: Backend> Backward<B, 1> for StraightThrough {
            type State = ();

            fn backward(self, ops: Ops<(), 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                unary::<B, _>(ops.parents, ops.node, grads, |grad| grad);
            }
        }

        let node = x.node();
        let value = B::block_float(x.into_primitive(), format, signed, groups);
        match StraightThrough.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((), value),
            OpsKind::UnTracked(prepared) => prepared.finish(value),
        }
    }
}

impl BlockFloat for CubeBackend {
    fn block_float(x: CubeTensor, format: ActivationFormat, signed: bool, groups: usize) -> CubeTensor {
        let dtype = x.dtype;
        if dtype == DType::F32 || dtype == DType::Flex32 {
            return launch(x, format, signed, groups);
        }
        cast(launch(cast(x, DType::F32), format, signed, groups), dtype)
    }
}

/// Rounds a tensor of 32-bit floats. The output lies in memory as the input does: convolutions give channels-last tensors.
fn launch(x: CubeTensor, format: ActivationFormat, signed: bool, groups: usize) -> CubeTensor {
    let [n, c, h, w] = x.shape().dims();
    assert!(groups > 0 && c % groups == 0, "{groups} groups do not divide {c} channels");
    let channels_last = is_channels_last(&x);
    let x = if channels_last { x } else { into_contiguous(x) };
    let (client, device, dtype) = (x.client.clone(), x.device.clone(), x.dtype);
    let mut output = empty_device_contiguous_dtype(client.clone(), device, x.shape(), dtype);
    output.meta = x.meta.clone();
    let elements = n * c * h * w;
    if elements == 0 {
        return output;
    }
    assert!(
        u32::try_from(elements).is_ok(),
        "a tensor of {elements} elements has more than the 2^32 of a kernel's index"
    );

    let group = c / groups;
    let blocks = format.block.count(group);
    let count = n * groups * blocks * h * w;
    let cube_dim = CubeDim::new(&client, count);
    let float_scale = format.scale == ActivationScale::Float;
    round_blocks::launch(
        &client,
        cubecl::calculate_cube_count_elemwise(&client, count, cube_dim),
        cube_dim,
        x.into_buffer_arg(),
        output.clone().into_buffer_arg(),
        (h * w) as u32,
        groups as u32,
        group as u32,
        blocks as u32,
        format.block.len_in(group) as u32,
        count as u32,
        channels_last,
        float_scale,
        signed,
        u32::from(format.bits.get()),
    );
    output
}

/// Says whether a tensor `[N, C, H, W]` lies in memory as a contiguous `[N, H, W, C]`. An axis of one element lies anywhere.
fn is_channels_last(x: &CubeTensor) -> bool {
    let [_, c, h, w] = x.shape().dims();
    let strides = [h * w * c, 1, w * c, c];
    (0..4).all(|axis| x.meta.shape()[axis] == 1 || x.meta.strides()[axis] == strides[axis])
}

/// Rounds the blocks of `x`, the bits of 32-bit floats: each unit one block at one pixel.
///
/// - `area`: pixels of an image; `groups`: groups of channels, `group` channels each;
/// - `blocks`: blocks of a group, `block` channels each, the last one what is left;
/// - `count`: `N * groups * blocks * area`, the number of units that have work.
#[cube(launch)]
#[allow(clippy::too_many_arguments, reason = "a kernel's arguments are numbers")]
fn round_blocks(
    x: &[u32],
    out: &mut [u32],
    area: u32,
    groups: u32,
    group: u32,
    blocks: u32,
    block: u32,
    count: u32,
    #[comptime] channels_last: bool,
    #[comptime] float_scale: bool,
    #[comptime] signed: bool,
    #[comptime] bits: u32,
) {
    let unit = ABSOLUTE_POS as u32;
    if unit >= count {
        terminate!();
    }
    let channels = groups * group;
    let all = groups * blocks;
    // Neighbouring units read neighbouring addresses.
    let mut which = unit % all;
    let mut pixel = (unit / all) % area;
    let mut step = 1u32;
    if comptime!(!channels_last) {
        pixel = unit % area;
        which = (unit / area) % all;
        step = area;
    }
    let image = unit / (all * area);
    let within = (which % blocks) * block;
    let length = min(block, group - within);
    let channel = (which / blocks) * group + within;
    let mut start = image * channels * area + channel * area + pixel;
    if comptime!(channels_last) {
        start = image * channels * area + pixel * channels + channel;
    }

    let mut max = 0u32;
    for i in 0..length {
        max = max_of(max, x[(start + i * step) as usize] & 0x7fff_ffffu32);
    }
    if max >= 0x7f80_0000u32 {
        for i in 0..length {
            out[(start + i * step) as usize] = 0x7fc0_0000u32;
        }
    } else {
        let high = comptime!(if signed { (1u32 << (bits - 1)) - 1 } else { (1u32 << bits) - 1 });
        let scale = scale_of(max, float_scale, high, comptime!(if signed { bits - 2 } else { bits - 1 }));
        let inverse = quotient(0x3f80_0000u32, scale);
        for i in 0..length {
            let at = (start + i * step) as usize;
            out[at] = rounded(x[at], scale, inverse, high, signed);
        }
    }
}

#[cube]
fn max_of(a: u32, b: u32) -> u32 {
    select(a > b, a, b)
}

#[cube]
fn min_of(a: u32, b: u32) -> u32 {
    select(a < b, a, b)
}

/// Computes the scale of a block whose largest magnitude is finite. All three are bits of floats.
#[cube]
fn scale_of(max: u32, #[comptime] float_scale: bool, #[comptime] high: u32, #[comptime] shift: u32) -> u32 {
    // The scale is limited to 2^-126 ..= 2^126, biased exponents 1 and 253.
    let mut scale = 0x0080_0000u32;
    if comptime!(float_scale) {
        // Magnitudes are limited to 2^127. A subnormal one has a scale below the limit.
        let max = min_of(max, 0x7f00_0000u32);
        if max >= 0x0080_0000u32 {
            scale = min_of(quotient(max, u32::reinterpret(f32::cast_from(high))), 0x7e80_0000u32);
        }
    } else {
        let exponent = max_of(max >> 23u32, comptime!(shift + 1).runtime()) - shift;
        scale = min_of(exponent, 253u32) << 23u32;
    }
    scale
}

/// Computes `a / b` for positive normal floats, given as bits, rounded once as IEEE does; 2^-126 where it would be subnormal.
#[cube]
fn quotient(a: u32, b: u32) -> u32 {
    let (numerator, denominator) = (significand(a), significand(b));
    let unit = select(numerator < denominator, 16_777_216.0f32, 8_388_608.0f32);
    corrected(a, b, u32::cast_from(f32::cast_from(numerator) / f32::cast_from(denominator) * unit))
}

/// Computes [`quotient`] from a guess at its significand that may be off by 30, which a GPU's division is not.
#[cube]
fn corrected(a: u32, b: u32, guess: u32) -> u32 {
    let (numerator, denominator) = (significand(a), significand(b));
    // The numerator is shifted so that the quotient has 24 bits.
    let less = select(numerator < denominator, 1u32, 0u32);
    // The remainder is small, so its low 32 bits are all of it. The integer nearest to remainder / denominator corrects the
    // guess; 64 keeps the sum positive. The quotient of two floats never lies at a half.
    let remainder = (numerator << (23u32 + less)) - guess * denominator;
    let nearest = guess + (2u32 * remainder + 129u32 * denominator) / (2u32 * denominator) - 64u32;
    let above = (a >> 23u32) + 127u32;
    let below = (b >> 23u32) + less;
    select(above > below, ((above - below) << 23u32) + nearest - 0x0080_0000u32, 0x0080_0000u32)
}

/// Returns the significand of a normal float, given as bits, as an integer of 24 bits.
#[cube]
fn significand(bits: u32) -> u32 {
    (bits & 0x007f_ffffu32) | 0x0080_0000u32
}

/// Computes `clamp(round_half_even(x * inverse)) * scale`. All four are bits of floats, and the value is never -0.
#[cube]
fn rounded(x: u32, scale: u32, inverse: u32, #[comptime] high: u32, #[comptime] signed: bool) -> u32 {
    let magnitude = x & 0x7fff_ffffu32;
    let mut product = u32::reinterpret(f32::reinterpret(magnitude) * f32::reinterpret(inverse));
    if magnitude < 0x0080_0000u32 {
        // A subnormal is an integer times 2^-149. It reaches half a step only where the inverse is 2^125 at least.
        product = 0u32;
        if inverse >= 0x7e00_0000u32 {
            product = u32::reinterpret(f32::cast_from(magnitude) * f32::reinterpret(inverse - 0x4a80_0000u32));
        }
    }
    // The product is below 2^9. Its significand is shifted right by 24 to 14 bits; what falls out rounds.
    let exponent = product >> 23u32;
    let mut code = 0u32;
    if exponent >= 126u32 {
        let digits = significand(product);
        let shift = 150u32 - exponent;
        let whole = digits >> shift;
        let rest = digits - (whole << shift);
        let half = 1u32 << (shift - 1u32);
        let up = rest > half || (rest == half && whole % 2u32 == 1u32);
        code = min_of(whole + select(up, 1u32, 0u32), high.runtime());
    }
    let mut sign = 0u32;
    if comptime!(signed) {
        sign = select(code == 0u32, 0u32, x & 0x8000_0000u32);
    } else {
        code = select(x >= 0x8000_0000u32, 0u32, code);
    }
    sign | u32::reinterpret(f32::cast_from(code) * f32::reinterpret(scale))
}

#[cfg(test)]
mod tests {
    use blockfloat::SplitMix64;
    use burn::backend::ops::IntTensorOps;
    use burn::tensor::{DeviceType, TensorData};
    use burn_cubecl::ops::into_data_sync;

    use super::*;

    #[cube(launch)]
    fn corrected_guesses(a: &[u32], b: &[u32], guess: &[u32], out: &mut [u32]) {
        if ABSOLUTE_POS < out.len() {
            out[ABSOLUTE_POS] = corrected(a[ABSOLUTE_POS], b[ABSOLUTE_POS], guess[ABSOLUTE_POS]);
        }
    }

    /// The devices of this machine; burn panics while it looks where a driver is missing.
    fn devices() -> Vec<Device> {
        let kinds: &[fn() -> DeviceType] = &[
            #[cfg(feature = "wgpu")]
            || DeviceType::Wgpu,
            #[cfg(feature = "cuda")]
            || DeviceType::Cuda,
        ];
        let found = |kind: &fn() -> DeviceType| std::panic::catch_unwind(|| Device::enumerate(kind()).into_vec());
        kinds.iter().filter_map(|kind| found(kind).ok()?.pop()).collect()
    }

    /// A driver that divides exactly, as a software one does, leaves the correction nothing to do; so guesses are made wrong.
    #[test]
    fn a_devices_wrong_division_is_corrected() {
        let mut random = SplitMix64::new(1);
        let count = 1 << 16;
        let (mut a, mut b, mut guess, mut want) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        while a.len() < count {
            let bits = random.next_u64();
            // Magnitudes by a largest code, and 1 by a scale.
            let (x, y) = match bits >> 63 {
                0 => (f32::from_bits(bits as u32 & 0x7fff_ffff), f32::from(bits.to_le_bytes()[5]).max(1.0)),
                _ => (1.0, f32::from_bits(bits as u32 & 0x7fff_ffff)),
            };
            let quotient = x / y;
            if !(x.is_normal() && y.is_normal() && quotient.is_normal()) {
                continue;
            }
            let error = (bits >> 48) as u32 % 61;
            a.push(x.to_bits());
            b.push(y.to_bits());
            guess.push((quotient.to_bits() & 0x7f_ffff | 0x80_0000) + error - 30);
            want.push(quotient.to_bits());
        }
        for device in devices() {
            let DispatchDevice::Cube(cube) = device.as_dispatch() else { panic!("{device:?} is none of cubecl's") };
            let tensor = |data: &[u32]| CubeBackend::int_from_data(TensorData::new(data.to_vec(), [count]), cube);
            let out = tensor(&vec![0; count]);
            let dim = CubeDim::new(&out.client, count);
            corrected_guesses::launch(
                &out.client,
                cubecl::calculate_cube_count_elemwise(&out.client, count, dim),
                dim,
                tensor(&a).into_buffer_arg(),
                tensor(&b).into_buffer_arg(),
                tensor(&guess).into_buffer_arg(),
                out.clone().into_buffer_arg(),
            );
            let got: Vec<u32> = into_data_sync(out).try_into_vec().unwrap();
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_eq!(got, want, "{device:?}: {} / {}, guess {}", a[i], b[i], guess[i]);
            }
            println!("{device:?}: {count} quotients are corrected");
        }
    }
}
