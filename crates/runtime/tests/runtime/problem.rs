//! One convolution of any shape and format: every kernel gives the reference's bits.
use std::collections::BTreeMap;

use blockfloat::{
    ActivationFormat, ActivationScale, Bits, BlockSize, ConvParams, QuantizedWeights, conv2d, quantize_activations,
};
use graph::{Builder, Conv2d, Info, Model, Preprocess, QuantizedLayer, Shape, Weights};
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
    seed: u64,
}

/// Values in [-1, 1).
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..n).map(|_| (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

impl Problem {
    fn weights(&self) -> QuantizedWeights {
        let shape = self.conv.weight_shape();
        let (bits, block) = (Bits::new(self.weight_bits).unwrap(), self.weight_block);
        let (lo, hi) = (bits.signed_min(), bits.signed_max());
        let codes = noise(self.seed, shape.iter().product());
        // Extreme codes are as likely as the others.
        let code = |x: f32| (x * 1.3 * hi as f32).round().clamp(lo as f32, hi as f32) as i8;
        let codes = codes.into_iter().map(code).collect();
        let scales = shape[0] * block.count(shape[1]) * shape[2] * shape[3];
        let weights = QuantizedWeights::from_parts(shape, bits, block, codes, noise(self.seed + 1, scales)).unwrap();
        if self.two_level { weights.to_two_level() } else { weights }
    }

    /// `[C, H, W]`: blocks of zeros and blocks of very different sizes among them.
    fn image(&self) -> Vec<f32> {
        let mut x = noise(self.seed + 2, self.input.elements());
        let sizes = noise(self.seed + 3, x.len() / 5 + 1);
        for (x, size) in x.chunks_mut(5).zip(sizes) {
            let factor = if size > 0.8 { 0.0 } else { (size * 20.0).exp2() };
            x.iter_mut().for_each(|x| *x *= factor);
        }
        x
    }

    fn bias(&self) -> Option<Vec<f32>> {
        self.conv.bias.then(|| noise(self.seed + 4, self.conv.out_channels))
    }

    /// What the reference gives, `[Co, H, W]`.
    fn reference(&self) -> Vec<f32> {
        let mut x = self.image();
        if !self.signed {
            x.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        let shape = [1, self.input.channels, self.input.height, self.input.width];
        let x = quantize_activations(&x, shape, self.conv.groups, self.activation, self.signed).unwrap();
        let Conv2d { stride, padding, dilation, groups, .. } = self.conv;
        let params = ConvParams { stride, padding, dilation, groups };
        conv2d(&x, &self.weights(), self.bias().as_deref(), &params).unwrap()
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
        let model =
            Model { graph: b.finish().unwrap(), weights, layers: BTreeMap::from([("conv".into(), layer)]), info };
        model.check().unwrap();
        model
    }

    fn check(&self) {
        let expected = self.reference();
        let image = self.image();
        for kernel in runtime::kernels() {
            let model = runtime::Model::with_kernel(self.model(), Some(kernel)).unwrap();
            for threads in [1, 3] {
                let found = model.session(threads).run(&image).unwrap().to_vec();
                let wrong = found.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits());
                if let Some(i) = wrong {
                    panic!("{kernel}, {threads} threads: element {i} is {}, not {}\n{self:#?}", found[i], expected[i]);
                }
                assert_eq!(found.len(), expected.len());
            }
        }
    }
}

fn block(n: usize) -> BlockSize {
    if n == 0 { BlockSize::PIXEL } else { BlockSize::new(n).unwrap() }
}

prop_compose! {
    /// Channels of a group, groups, outputs of a group.
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
        pow2: bool, signed: bool, bias: bool, two_level: bool, seed: u32,
    ) -> Problem {
        let conv = Conv2d {
            in_channels: group * groups, out_channels: out * groups, kernel, stride, padding, dilation, groups, bias,
        };
        let scale = if pow2 { ActivationScale::Pow2 } else { ActivationScale::Float };
        let activation =
            ActivationFormat { bits: Bits::new(activation_bits).unwrap(), block: block(weight_block * multiple), scale };
        let input = Shape::new(group * groups, size[0], size[1]);
        Problem { conv, input, weight_bits, weight_block: block(weight_block), activation, signed, two_level, seed: seed.into() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if crate::quick() { 64 } else { 512 }))]

    #[test]
    fn every_kernel_gives_the_reference_bits(problem in problems()) {
        problem.check();
    }
}

#[test]
fn layers_of_real_networks_give_the_reference_bits() {
    let w4a8 = |n| ActivationFormat { bits: Bits::MAX, block: block(n), scale: ActivationScale::Float };
    let conv = |ci, co, k, stride| Conv2d { padding: [k / 2; 2], ..Conv2d::new(ci, co, k).stride(stride) };
    let cases = [
        // The 7x7 stem, a 3x3 layer, a strided 1x1, a ragged layer of GoogLeNet, a depthwise and a grouped one.
        (conv(3, 64, 7, 2), 30, 64, true),
        (conv(128, 128, 3, 1), 14, 64, false),
        (conv(256, 512, 1, 2), 14, 64, false),
        (conv(112, 224, 3, 1), 14, 64, false),
        (Conv2d { groups: 96, ..conv(96, 96, 3, 2) }, 15, 64, false),
        (Conv2d { groups: 4, ..conv(128, 128, 3, 1) }, 7, 32, true),
    ];
    for (conv, size, b, signed) in cases {
        // Four outputs are enough to reach the largest blocks.
        let size = if crate::quick() { size.min(4) } else { size };
        let input = Shape::new(conv.in_channels, size, size);
        let (weight_block, activation) = (block(b), w4a8(b));
        for two_level in [false, true] {
            let conv = conv.clone();
            Problem { conv, input, weight_bits: 4, weight_block, activation, signed, two_level, seed: 1 }.check();
        }
    }
}
