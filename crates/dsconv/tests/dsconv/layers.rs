//! These tests compare the burn layers with the plain-loop reference of `blockfloat` and with burn's own layers, and their
//! gradients with the definition.

use blockfloat::{
    ActivationFormat, ActivationScale, ActivationSpec, Bits, BlockSize, ConvParams, QuantizedWeights, ScaleRule,
    TapScales, WeightFormat,
};
use burn::nn::conv::Conv2dConfig;
use burn::nn::{LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Distribution, Tensor, TensorData, Tolerance};
use dsconv::{DsConv2d, DsConv2dConfig, DsLinear, QuantizationConfig, ScaleUpdate, block_float};
use proptest::prelude::*;

fn bits(b: u8) -> Bits {
    Bits::new(b).unwrap()
}

fn values(x: Tensor<4>) -> Vec<f32> {
    x.inner().into_data().try_to_vec().unwrap()
}

/// Makes `n` numbers without pattern in (-1, 1), the same on every machine.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A convolution that the reference and a layer both compute.
#[derive(Debug, Clone)]
struct Problem {
    groups: usize,
    input: [usize; 4],
    output: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    weight: WeightFormat,
    activation: ActivationFormat,
    signed: bool,
    seed: u64,
}

fn problems() -> impl Strategy<Value = Problem> {
    let geometry = (1usize..=3, 1usize..=40, 1usize..=6, 1usize..=3, 1usize..=2, 0usize..=1, 1usize..=2);
    let block = (1usize..=40).prop_map(|n| BlockSize::new(n).unwrap());
    // An activation block holds whole weight blocks.
    let blocks = prop_oneof![
        Just((BlockSize::PIXEL, BlockSize::PIXEL)),
        block.clone().prop_map(|b| (b, BlockSize::PIXEL)),
        block.clone().prop_map(|b| (b, BlockSize::IMAGE)),
        (1usize..=20, 1usize..=3).prop_map(|(b, k)| (BlockSize::new(b).unwrap(), BlockSize::new(k * b).unwrap())),
    ];
    let rule = prop_oneof![Just(ScaleRule::L2), Just(ScaleRule::Kl), Just(ScaleRule::Mse), Just(ScaleRule::Balanced)];
    let scale = prop_oneof![Just(ActivationScale::Pow2), Just(ActivationScale::Float)];
    let formats = (2u8..=8, 2u8..=8, blocks, rule, scale);
    (geometry, formats, any::<bool>(), any::<u64>()).prop_map(
        |((groups, per_group, out, kernel, stride, padding, dilation), (b, m, (wb, ab), rule, scale), signed, seed)| {
            Problem {
                groups,
                input: [2, groups * per_group, 7, 6],
                output: groups * out,
                kernel,
                stride,
                padding,
                dilation,
                weight: WeightFormat::new(bits(b), wb, rule),
                activation: ActivationFormat { bits: bits(m), block: ab, scale },
                signed,
                seed,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn simulation_agrees_with_the_reference(p in problems()) {
        let device = Device::flex();
        let mut x = noise(p.input.iter().product(), p.seed);
        if !p.signed {
            x.iter_mut().for_each(|v| *v = v.max(0.0));
        }
        let shape = [p.output, p.input[1] / p.groups, p.kernel, p.kernel];
        let w = noise(shape.iter().product(), p.seed ^ 1);
        let bias = noise(p.output, p.seed ^ 2);

        let codes = QuantizedWeights::quantize(&w, shape, p.weight).unwrap();
        let spec = ActivationSpec { shape: p.input, groups: p.groups, format: p.activation, signed: p.signed };
        let a = blockfloat::quantize_activations(&x, &spec).unwrap();
        let params = ConvParams {
            stride: [p.stride; 2], padding: [p.padding; 2], dilation: [p.dilation; 2], groups: p.groups,
        };

        let pad = PaddingConfig2d::Explicit(p.padding, p.padding, p.padding, p.padding);
        let mut conv = Conv2dConfig::new([p.input[1], p.output], [p.kernel; 2])
            .with_stride([p.stride; 2]).with_dilation([p.dilation; 2]).with_groups(p.groups).with_padding(pad)
            .init(&device);
        conv.weight = conv.weight.map(|t| Tensor::from_data(TensorData::new(w.clone(), shape), &t.device()));
        conv.bias = conv.bias.map(|b| b.map(|t| Tensor::from_data(TensorData::new(bias.clone(), [p.output]), &t.device())));
        for scale_update in [ScaleUpdate::Fixed, ScaleUpdate::Recomputed] {
            let (weight, activation) = (p.weight, Some(p.activation));
            let config = QuantizationConfig { weight, activation, signed: p.signed, scale_update };
            let layer = DsConv2d::from_conv(conv.clone(), config).unwrap();
            let got = values(layer.forward(Tensor::from_data(TensorData::new(x.clone(), p.input), &device)));
            // Recomputed codes see weights that went through a division and a product: a tie may fall the other way.
            prop_assert!(scale_update == ScaleUpdate::Recomputed || layer.codes().unwrap() == codes, "a layer starts with the rule's codes");
            let want = blockfloat::conv2d(&a, &layer.codes().unwrap(), Some(&bias), &params).unwrap();
            prop_assert_eq!(got.len(), want.len());
            // Every partial sum is below the sum of magnitudes; f32 rounds each of the steps to 2^-24 of it.
            let terms = shape[1] * p.kernel * p.kernel;
            let bound = 4.0 * terms as f32 * f32::EPSILON * (terms as f32).max(1.0).sqrt() + 1e-5;
            for (g, w) in got.iter().zip(&want) {
                prop_assert!((g - w).abs() <= bound, "{g} and {w}, bound {bound}");
            }
        }
    }

    #[test]
    fn frozen_codes_reproduce_the_layer(p in problems()) {
        let device = Device::flex();
        let shape = [p.output, p.input[1] / p.groups, p.kernel, p.kernel];
        let mut conv = Conv2dConfig::new([p.input[1], p.output], [p.kernel; 2]).with_groups(p.groups).init(&device);
        conv.weight = conv.weight.map(|t| {
            Tensor::from_data(TensorData::new(noise(shape.iter().product(), p.seed), shape), &t.device())
        });
        let config = QuantizationConfig { weight: p.weight, activation: None, signed: true, scale_update: ScaleUpdate::Trained };
        let layer = DsConv2d::from_conv(conv, config).unwrap();
        prop_assert_eq!(values(layer.weight()), layer.codes().unwrap().dequantize());
    }
}

#[test]
fn block_float_is_exact_forward_and_the_identity_backward() {
    let device = Device::flex().autodiff();
    let shape = [2, 5, 3, 3];
    let format = ActivationFormat { bits: bits(3), block: BlockSize::new(2).unwrap(), scale: ActivationScale::Float };
    let data = noise(90, 7);
    let x = Tensor::<4>::from_data(TensorData::new(data.clone(), shape), &device).require_grad();
    let y = block_float(x.clone(), format, true, 1);
    let mut want = vec![0.0; 90];
    let spec = ActivationSpec { shape, groups: 1, format, signed: true };
    blockfloat::dequantized_activations(&data, &spec, &mut want);
    assert_eq!(values(y.clone()), want);
    let upstream = noise(90, 8);
    let g = Tensor::<4>::from_data(TensorData::new(upstream.clone(), shape), &device);
    let grads = (y * g).sum().backward();
    assert_eq!(values(x.grad(&grads).unwrap()), upstream);
}

#[test]
fn weight_gradients_follow_the_definition() {
    // y = alpha0 * gain * q + alpha0 * (latent - latent): dL/dlatent = g * alpha0, dL/dgain = sum over the block of
    // g * alpha0 * q. With w = alpha0 * latent that is dL/dw = g: unchanged, clipped weights included. Taps that share scales share gains.
    for taps in [TapScales::Own, TapScales::Shared] {
        weight_gradients(taps);
    }
}

fn weight_gradients(taps: TapScales) {
    let device = Device::flex().autodiff();
    let conv = Conv2dConfig::new([5, 3], [2, 2]).with_bias(false).init(&device);
    let weight = WeightFormat { taps, ..WeightFormat::new(bits(3), BlockSize::new(2).unwrap(), ScaleRule::Mse) };
    let config = QuantizationConfig { weight, activation: None, signed: true, scale_update: ScaleUpdate::Trained };
    let layer = DsConv2d::from_conv(conv, config).unwrap();
    let g = noise(60, 3);
    let upstream = Tensor::<4>::from_data(TensorData::new(g.clone(), [3, 5, 2, 2]), &device);
    let grads = (layer.weight() * upstream).sum().backward();
    let latent = values(layer.latent.val().grad(&grads).unwrap());
    let gain = values(layer.gain.as_ref().unwrap().val().grad(&grads).unwrap());
    let codes = layer.codes().unwrap();
    assert_eq!(codes.tap_scales(), taps);
    let gains = if taps == TapScales::Shared { 1 } else { 4 };
    assert_eq!(gain.len(), 3 * 3 * gains);
    let mut want_gain = vec![0.0f32; gain.len()];
    for o in 0..3 {
        for c in 0..5 {
            for tap in 0..4 {
                let (w, s) = ((o * 5 + c) * 4 + tap, (o * 3 + c / 2) * 4 + tap);
                let alpha = codes.scales()[s];
                assert!((latent[w] - g[w] * alpha).abs() <= 1e-6 * alpha.abs());
                want_gain[s / 4 * gains + tap % gains] += g[w] * alpha * f32::from(codes.codes()[w]);
            }
        }
    }
    for (got, want) in gain.iter().zip(&want_gain) {
        assert!((got - want).abs() <= 1e-5, "{got} and {want}");
    }
    assert!(layer.scales.val().grad(&grads).is_none(), "the first scales are not trained");
}

#[test]
fn recomputed_scales_pass_the_gradient_to_the_shadow_weight() {
    let device = Device::flex().autodiff();
    let conv = Conv2dConfig::new([4, 2], [1, 1]).with_bias(false).init(&device);
    let weight = WeightFormat::new(bits(4), BlockSize::PIXEL, ScaleRule::L2);
    let layer = DsConv2d::from_conv(
        conv,
        QuantizationConfig { weight, activation: None, signed: true, scale_update: ScaleUpdate::Recomputed },
    )
    .unwrap();
    let grads = layer.weight().sum().backward();
    let latent = values(layer.latent.val().grad(&grads).unwrap());
    for (i, g) in latent.iter().enumerate() {
        assert_eq!(*g, values(layer.scales.val())[i / 4]);
    }
}

#[test]
fn a_linear_layer_is_a_one_by_one_convolution() {
    let device = Device::flex();
    let linear = LinearConfig::new(10, 3).init(&device);
    let x = Tensor::<2>::from_data(TensorData::new(noise(20, 5), [2, 10]), &device);
    let exact: Vec<f32> = linear.forward(x.clone()).into_data().try_to_vec().unwrap();
    let eight = QuantizationConfig {
        weight: WeightFormat::new(bits(8), BlockSize::new(4).unwrap(), ScaleRule::Mse),
        activation: None,
        ..QuantizationConfig::default()
    };
    let layer = DsLinear::from_linear(linear, eight).unwrap();
    assert_eq!(layer.codes().unwrap().shape(), [3, 10, 1, 1]);
    let got: Vec<f32> = layer.forward(x).into_data().try_to_vec().unwrap();
    // Half a step of an 8-bit code of a weight below 0.32 is 0.0013; ten of them, inputs below 1.
    for (g, e) in got.iter().zip(&exact) {
        assert!((g - e).abs() < 0.013, "{g} and {e}");
    }
}

#[test]
fn padding_is_that_of_burns_convolution() {
    let device = Device::flex();
    // 8-bit codes of weights that are themselves codes: both layers compute the same products.
    let weight = WeightFormat::new(bits(8), BlockSize::PIXEL, ScaleRule::L2);
    let config = QuantizationConfig::new().with_weight(weight).with_activation(None);
    let paddings = [PaddingConfig2d::Same, PaddingConfig2d::Valid, PaddingConfig2d::Explicit(0, 1, 2, 3)];
    for (padding, kernel, stride, dilation) in paddings.into_iter().flat_map(|padding| {
        let kernels = [[1, 1], [2, 3], [4, 5]].into_iter();
        let moves = kernels.flat_map(|kernel| [(kernel, [1, 1]), (kernel, [2, 1]), (kernel, [3, 2])]);
        let all = moves.flat_map(|(kernel, stride)| [(kernel, stride, [1, 1]), (kernel, stride, [2, 1])]);
        all.map(move |(kernel, stride, dilation)| (padding.clone(), kernel, stride, dilation)).collect::<Vec<_>>()
    }) {
        let mut conv = Conv2dConfig::new([3, 2], kernel)
            .with_stride(stride)
            .with_dilation(dilation)
            .with_padding(padding.clone())
            .init(&device);
        let layer = DsConv2d::from_conv(conv.clone(), config).unwrap();
        conv.weight = conv.weight.map(|_| layer.weight());
        for size in [[9, 8], [7, 10]] {
            let x = Tensor::<4>::random([2, 3, size[0], size[1]], Distribution::Default, &device);
            let (got, want) = (layer.forward(x.clone()), conv.forward(x));
            assert_eq!(got.dims(), want.dims(), "{padding:?}, {kernel:?}, {stride:?}, {dilation:?}, {size:?}");
            // The sums run in another order.
            got.into_data().assert_approx_eq::<f32>(&want.into_data(), Tolerance::absolute(1e-5));
        }
    }
}

#[test]
fn a_layer_of_codes_gives_the_codes_back() {
    let device = Device::flex();
    let weight = WeightFormat::new(bits(3), BlockSize::new(2).unwrap(), ScaleRule::Balanced);
    for scale_update in [ScaleUpdate::Trained, ScaleUpdate::Fixed] {
        let quantization = QuantizationConfig::new().with_weight(weight).with_scale_update(scale_update);
        let config = DsConv2dConfig::new([6, 4], [2, 3]).with_groups(2).with_quantization(quantization);
        let codes = QuantizedWeights::quantize(&noise(72, 4), [4, 3, 2, 3], weight).unwrap();
        let layer = config.init_with_codes(&codes, Some(noise(4, 5)), &device).unwrap();
        assert_eq!(layer.codes().unwrap(), codes);
        assert_eq!(values(layer.weight()), codes.dequantize());
        let bias: Vec<f32> = layer.bias.as_ref().unwrap().val().into_data().try_to_vec().unwrap();
        assert_eq!(bias, noise(4, 5));
    }
}

#[test]
fn a_configuration_draws_weights_as_burns_does() {
    let device = Device::flex();
    let draw = || device.seed(7);
    draw();
    let conv = Conv2dConfig::new([4, 6], [3, 1]).with_groups(2).with_stride([2, 1]).init(&device);
    let want = DsConv2d::from_conv(conv, QuantizationConfig::new()).unwrap();
    draw();
    let got = DsConv2dConfig::new([4, 6], [3, 1]).with_groups(2).with_stride([2, 1]).init(&device);
    assert_eq!(got.codes(), want.codes());
    let x = Tensor::random([1, 4, 6, 6], Distribution::Default, &device);
    assert_eq!(values(got.forward(x.clone())), values(want.forward(x)));
}
