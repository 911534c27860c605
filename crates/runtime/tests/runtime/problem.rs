//! One convolution of any shape and format: every kernel gives the reference's bits.
use std::collections::BTreeMap;

use blockfloat::{
    ActivationFormat, ActivationScale, ActivationSpec, Bits, BlockSize, ConvParams, QuantizedWeights, SplitMix64,
    conv2d, quantize_activations,
};
use graph::{Builder, Conv2d, Preprocess, Shape, Weights};
use model::{Info, Model, QuantizedLayer};
use proptest::prelude::*;

/// A convolution with its weights and its input.
#[derive(Debug, Clone)]
pub struct Problem {
    conv: Conv2d,
    input: Shape,
    weight_bits: u8,
    weight_block: BlockSize,
    activation: ActivationFormat,
    signed: bool,
    two_level: bool,
    /// Whether taps share scales.
    shared: bool,
    /// Whether codes are mostly the lowest, or the highest: sums are as large as they can be.
    extreme: bool,
    /// Powers of two that inputs and weights are multiplied by.
    exponents: [i32; 2],
    seed: u64,
}

/// Makes values in [-1, 1).
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(seed);
    (0..n).map(|_| 2.0 * random.next_f32() - 1.0).collect()
}

/// Returns `x * 2^exponent`, kept finite.
fn times(x: f32, exponent: i32) -> f32 {
    (f64::from(x) * f64::from(exponent).exp2()).clamp(f32::MIN.into(), f32::MAX.into()) as f32
}

impl Problem {
    fn weights(&self) -> QuantizedWeights {
        let shape = self.conv.weight_shape();
        let (bits, block) = (Bits::new(self.weight_bits).unwrap(), self.weight_block);
        let (lo, hi) = (bits.signed_min(), bits.signed_max());
        let codes = noise(self.seed, shape.iter().product());
        // Extreme codes are as likely as the others.
        let code = |x: f32| (x * 1.3 * hi as f32).round().clamp(lo as f32, hi as f32) as i8;
        let end = |x: f32| {
            if x > 0.98 {
                0
            } else if x > 0.9 {
                hi as i8
            } else {
                lo as i8
            }
        };
        let codes = codes.into_iter().map(|x| if self.extreme { end(x) } else { code(x) }).collect();
        let taps = shape[2] * shape[3];
        let scales = noise(self.seed + 1, shape[0] * block.count(shape[1]) * taps);
        let mut scales: Vec<f32> = scales.into_iter().map(|x| times(x, self.exponents[1])).collect();
        if self.shared {
            scales.chunks_exact_mut(taps).for_each(|scales| scales.fill(scales[0]));
        }
        let weights = QuantizedWeights::from_parts(shape, bits, block, codes, scales).unwrap();
        if self.two_level { weights.to_two_level() } else { weights }
    }

    /// Makes the input `[C, H, W]`: blocks of zeros and blocks of very different sizes among them.
    fn image(&self) -> Vec<f32> {
        let mut x = noise(self.seed + 2, self.input.elements());
        let sizes = noise(self.seed + 3, x.len() / 5 + 1);
        for (x, size) in x.chunks_mut(5).zip(sizes) {
            let factor = if size > 0.8 { 0.0 } else { (size * 20.0).exp2() };
            x.iter_mut().for_each(|x| *x = times(*x * factor, self.exponents[0]));
        }
        x
    }

    fn bias(&self) -> Option<Vec<f32>> {
        self.conv.bias.then(|| noise(self.seed + 4, self.conv.out_channels))
    }

    /// Returns what the reference gives, `[Co, H, W]`, if all of it is finite.
    fn reference(&self) -> Option<Vec<f32>> {
        let mut x = self.image();
        if !self.signed {
            x.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        let shape = [1, self.input.channels, self.input.height, self.input.width];
        let (groups, format, signed) = (self.conv.groups, self.activation, self.signed);
        let x = quantize_activations(&x, &ActivationSpec { shape, groups, format, signed }).unwrap();
        let Conv2d { stride, padding, dilation, groups, .. } = self.conv;
        let params = ConvParams { stride, padding, dilation, groups };
        let y = conv2d(&x, &self.weights(), self.bias().as_deref(), &params).unwrap();
        y.iter().all(|y| y.is_finite()).then_some(y)
    }

    fn model(&self) -> Model {
        let mut b = Builder::new("problem", self.input);
        let mut x = b.input();
        if !self.signed {
            x = b.relu("relu", x);
        }
        b.conv("conv", self.conv.clone(), x);
        let mut weights = Weights::default();
        if let Some(bias) = self.bias() {
            weights.insert("conv.bias", graph::Tensor::new([bias.len()], bias));
        }
        let layer = QuantizedLayer { codes: self.weights(), activation: Some(self.activation), signed: self.signed };
        let info = Info { preprocess: Preprocess::imagenet(), classes: vec![], source: "a test".into() };
        let layers = BTreeMap::from([("conv".into(), layer)]);
        let model = Model::new(b.finish().unwrap(), weights, layers, info).unwrap();
        model.check().unwrap();
        model
    }

    /// Checks every kernel against the reference; returns whether that is finite.
    fn check(&self) -> bool {
        let expected = self.reference();
        let image = self.image();
        for kernel in runtime::kernels() {
            let model = runtime::Model::with_kernel(self.model(), Some(kernel)).unwrap();
            for threads in [1, 3] {
                let mut session = model.session(crate::threads(threads)).unwrap();
                let found = session.run(&image);
                let Some(expected) = &expected else {
                    let error = found.expect_err("a value is not finite").to_string();
                    assert!(error.starts_with("`conv` gives a value that is NaN or infinite"), "{error}");
                    continue;
                };
                let found = found.unwrap();
                let wrong = found.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
                if let Some(i) = wrong {
                    panic!("{kernel}, {threads} threads: element {i} is {}, not {}\n{self:#?}", found[i], expected[i]);
                }
                assert_eq!(found.len(), expected.len());
            }
        }
        expected.is_some()
    }
}

fn block(n: usize) -> BlockSize {
    if n == 0 { BlockSize::PIXEL } else { BlockSize::new(n).unwrap() }
}

prop_compose! {
    /// Makes channels of a group, groups, and outputs of a group.
    fn channels()(
        kind in 0..4u8, many in 1..80usize, some in 1..12usize, groups in 2..5usize, out in 1..70usize, deep in 1..40usize,
    ) -> (usize, usize, usize) {
        match kind {
            0 | 1 => (many, 1, out),
            2 => (some, groups, out % 20 + 1),
            _ => (1, deep, 1),
        }
    }
}

prop_compose! {
    /// Makes mostly zeros, else exponents up to where sums leave the range of floats, at either end.
    fn exponents()(some: bool, input in -150..130i32, weight in -150..130i32, near in 100..130i32) -> [i32; 2] {
        if some { [input, if input % 2 == 0 { weight } else { near - input }] } else { [0, 0] }
    }
}

prop_compose! {
    fn problems()(
        (group, groups, out) in channels(),
        kernel in [1..4usize, 1..4usize],
        stride in [1..3usize, 1..3usize],
        dilation in [1..3usize, 1..3usize],
        padding in [0..3usize, 0..3usize],
        size in [5..10usize, 5..10usize],
        weight_bits in 2..=8u8,
        activation_bits in 2..=8u8,
        weight_block in prop_oneof![1..20usize, Just(0), Just(16), Just(32), Just(64)],
        multiple in 0..4usize,
        whole in 0..3u8,
        pow2: bool, signed: bool, bias: bool, two_level: bool, exponents in exponents(), seed: u32,
    ) -> Problem {
        let conv = Conv2d {
            in_channels: group * groups, out_channels: out * groups, kernel, stride, padding, dilation, groups, bias,
        };
        let scale = if pow2 { ActivationScale::Pow2 } else { ActivationScale::Float };
        let x_block = if whole == 0 && groups == 1 { BlockSize::IMAGE } else { block(weight_block * multiple) };
        let activation = ActivationFormat { bits: Bits::new(activation_bits).unwrap(), block: x_block, scale };
        let input = Shape::new(group * groups, size[0], size[1]);
        let (weight_block, shared, extreme, seed) = (block(weight_block), seed % 8 == 0, false, seed.into());
        Problem { conv, input, weight_bits, weight_block, activation, signed, two_level, shared, extreme, exponents, seed }
    }
}

prop_compose! {
    /// Makes 3x3 layers whose pixels share a scale, as their taps do: most of them suit Winograd's algorithm.
    fn winograd_problems()(
        channels in prop_oneof![8 => (1..7usize).prop_map(|n| 16 * n), 1 => 1..70usize], out in 1..70usize,
        padding in [0..3usize, 0..3usize],
        size in [3..14usize, 3..14usize],
        weight_bits in prop_oneof![1 => 2..=3u8, 3 => Just(4u8), 1 => Just(5u8)],
        activation_bits in 2..=7u8,
        weight_block in prop_oneof![Just(0usize), Just(8), Just(16), Just(32), Just(48), Just(64)],
        pow2: bool, signed: bool, bias: bool, extreme: bool, seed: u32,
    ) -> Problem {
        let conv = Conv2d { padding, bias, ..Conv2d::new(channels, out, 3) };
        let scale = if pow2 { ActivationScale::Pow2 } else { ActivationScale::Float };
        let activation = ActivationFormat { bits: Bits::new(activation_bits).unwrap(), block: BlockSize::IMAGE, scale };
        let input = Shape::new(channels, size[0], size[1]);
        let (weight_block, exponents, seed) = (block(weight_block), [0, 0], seed.into());
        let (two_level, shared) = (true, true);
        Problem { conv, input, weight_bits, weight_block, activation, signed, two_level, shared, extreme, exponents, seed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if crate::quick() { 64 } else { 512 }))]

    #[test]
    fn every_kernel_gives_the_reference_bits(problem in problems()) {
        problem.check();
    }

    #[test]
    fn winograd_s_algorithm_gives_the_reference_bits(problem in winograd_problems()) {
        prop_assert!(problem.check());
    }
}

#[test]
fn layers_of_real_networks_give_the_reference_bits() {
    let w4a8 = |n| ActivationFormat { bits: Bits::MAX, block: block(n), scale: ActivationScale::Float };
    let conv = |ci, co, k, stride| Conv2d { padding: [k / 2; 2], ..Conv2d::new(ci, co, k).stride(stride) };
    let (own, whole) = (false, true);
    let cases = [
        // The 7x7 stem, a 3x3 layer, a strided 1x1, a ragged layer of GoogLeNet, a depthwise and a grouped one.
        (conv(3, 64, 7, 2), 30, 64, true, own),
        (conv(128, 128, 3, 1), 14, 64, false, own),
        (conv(256, 512, 1, 2), 14, 64, false, own),
        (conv(112, 224, 3, 1), 14, 64, false, own),
        (Conv2d { groups: 96, ..conv(96, 96, 3, 2) }, 15, 64, false, own),
        (Conv2d { groups: 4, ..conv(128, 128, 3, 1) }, 7, 32, true, own),
        // Stems whose pixels share a scale: ResNet's, VGG's, MobileNet's, AlexNet's, of a grey image, of one row, of more planes
        // than are rounded at once, of blocks that do not divide their channels.
        (conv(3, 64, 7, 2), 40, 64, true, whole),
        (conv(3, 64, 3, 1), 19, 32, true, whole),
        (conv(3, 32, 3, 2), 33, 16, true, whole),
        (conv(3, 64, 11, 4), 39, 64, true, whole),
        (conv(1, 20, 5, 1), 28, 32, true, whole),
        (Conv2d { kernel: [1, 3], ..conv(1, 8, 1, 1) }, 9, 32, true, whole),
        (conv(4, 16, 1, 1), 9, 32, true, whole),
        (conv(12, 40, 3, 1), 12, 32, true, whole),
        (conv(12, 40, 3, 2), 12, 5, true, whole),
    ];
    for (conv, size, b, signed, whole) in cases {
        // Four outputs are enough to reach the largest blocks.
        let size = if crate::quick() { size.min(4) } else { size };
        let input = Shape::new(conv.in_channels, size, size);
        let (weight_block, x_block) = (block(b), if whole { BlockSize::IMAGE } else { block(b) });
        let activation = ActivationFormat { block: x_block, ..w4a8(b) };
        for two_level in [false, true] {
            let conv = conv.clone();
            let exponents = [0, 0];
            let problem = Problem {
                conv,
                input,
                weight_bits: 4,
                weight_block,
                activation,
                signed,
                two_level,
                shared: false,
                extreme: false,
                exponents,
                seed: 1,
            };
            assert!(problem.check());
        }
    }
}

#[test]
fn sums_that_leave_the_range_of_floats_are_an_error_on_every_kernel() {
    let activation = ActivationFormat { bits: Bits::MAX, block: block(16), scale: ActivationScale::Float };
    let conv = Conv2d { padding: [1; 2], bias: true, ..Conv2d::new(40, 33, 3) };
    let depthwise = Conv2d { groups: 40, ..Conv2d::new(40, 40, 3) };
    let mut finite = 0;
    for (i, conv) in [conv.clone(), depthwise, Conv2d { groups: 2, ..Conv2d::new(40, 26, 1) }].into_iter().enumerate() {
        for (exponents, two_level) in [0, 90, 100, 105, 110, 115, 120, 128].into_iter().flat_map(|e| {
            [
                ([e, 0], false),
                ([0, e], false),
                ([e, 0], true),
                ([0, e], true),
                ([e - 14, 20], false),
                ([e - 14, 20], true),
            ]
        }) {
            let input = Shape::new(conv.in_channels, 5, 4);
            let (conv, signed, weight_block) = (conv.clone(), i % 2 == 0, block(16));
            let problem = Problem {
                conv,
                input,
                weight_bits: 4,
                weight_block,
                activation,
                signed,
                two_level,
                shared: false,
                extreme: false,
                exponents,
                seed: 7,
            };
            finite += usize::from(problem.check());
        }
    }
    assert!((20..130).contains(&finite), "{finite} of 144 are finite");
}
