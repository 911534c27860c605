//! Each kernel, one property at a time, against the reference: [`quantize_activations`] and [`conv2d`], then a residual and
//! limits in plain loops. A test's name says the kernel and the property.
use blockfloat::{
    ActivationFormat, ActivationScale, ActivationSpec, Bits, BlockSize, ConvParams, QuantizedWeights, SplitMix64,
    conv2d, quantize_activations,
};

use super::table::rows;
use super::{AnyKernel, ConvCall, KernelName, PlanesCall, QuantizeCall, Residual, Rows, SLACK, limit};
use crate::buffer::Buffer;
use crate::layout::{LayerInput, Layout, OFFSET};
use crate::pack::{Integers, Packed, Packing, Scale};

/// How the scales of weights are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scales {
    /// One a block.
    Blocks,
    /// Two levels, products of factors and codes.
    Products,
    /// Two levels, factors apart from codes.
    Factors,
}

/// What is added to the sums.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Added {
    Nothing,
    Rows,
    Output,
}

/// A convolution of one image.
#[derive(Debug, Clone)]
struct Case {
    channels: usize,
    outputs: usize,
    groups: usize,
    /// Height and width of the input.
    size: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    bits: u8,
    block: usize,
    scales: Scales,
    nibbles: bool,
    /// Bits of the input.
    x_bits: u8,
    x_block: usize,
    x_scale: ActivationScale,
    signed: bool,
    bias: bool,
    added: Added,
    clamp: Option<(f32, f32)>,
    /// What inputs and block scales are multiplied by.
    x_factor: f32,
    factor: f32,
    /// Panels to compute; all of them if there are fewer.
    panels: std::ops::Range<usize>,
}

const USUAL: Case = Case {
    channels: 64,
    outputs: 32,
    groups: 1,
    size: [3, 5],
    kernel: [1, 1],
    stride: 1,
    padding: 0,
    bits: 4,
    block: 32,
    scales: Scales::Blocks,
    nibbles: false,
    x_bits: 8,
    x_block: 64,
    x_scale: ActivationScale::Float,
    signed: false,
    bias: false,
    added: Added::Nothing,
    clamp: None,
    x_factor: 1.0,
    factor: 1.0,
    panels: 0..usize::MAX,
};

const DEPTHWISE: Case =
    Case { channels: 40, outputs: 40, groups: 40, kernel: [3, 3], padding: 1, block: 1, x_block: 1, ..USUAL };

/// What is tested, by name.
mod of {
    use super::{ActivationScale, Added, Case, DEPTHWISE, Scales, USUAL};

    pub fn one_pixel() -> Vec<Case> {
        vec![Case { size: [1, 1], ..USUAL }]
    }

    pub fn no_pixel() -> Vec<Case> {
        [USUAL, DEPTHWISE].map(|case| Case { size: [0, 4], kernel: [1, 1], padding: 0, ..case }).into()
    }

    pub fn last_pixels_of_a_strip() -> Vec<Case> {
        (1..32).map(|width| Case { size: [1, width], ..USUAL }).collect()
    }

    pub fn a_whole_strip() -> Vec<Case> {
        vec![Case { size: [16, 16], ..USUAL }]
    }

    pub fn neighbours_and_borders() -> Vec<Case> {
        vec![Case { kernel: [3, 3], padding: 1, ..USUAL }, Case { kernel: [3, 2], stride: 2, size: [5, 7], ..USUAL }]
    }

    pub fn ragged_lanes() -> Vec<Case> {
        [1, 7, 15, 16, 17, 31, 33].map(|outputs| Case { outputs, ..USUAL }).into()
    }

    pub fn some_panels() -> Vec<Case> {
        [0..1, 1..2, 1..3, 2..3].map(|panels| Case { outputs: 40, panels, ..USUAL }).into()
    }

    pub fn ragged_blocks() -> Vec<Case> {
        [1, 3, 5, 30, 33].map(|block| Case { block, x_block: 2 * block, channels: 67, ..USUAL }).into()
    }

    pub fn groups() -> Vec<Case> {
        [2, 4].map(|groups| Case { groups, kernel: [3, 3], padding: 1, block: 8, x_block: 16, ..USUAL }).into()
    }

    pub fn bias() -> Vec<Case> {
        vec![Case { bias: true, outputs: 20, ..USUAL }, Case { bias: true, scales: Scales::Products, ..USUAL }]
    }

    pub fn residual_rows() -> Vec<Case> {
        [16, 20].map(|outputs| Case { added: Added::Rows, outputs, ..USUAL }).into()
    }

    pub fn residual_in_the_output() -> Vec<Case> {
        [16, 20].map(|outputs| Case { added: Added::Output, outputs, ..USUAL }).into()
    }

    pub fn clamp() -> Vec<Case> {
        [(0.0, f32::INFINITY), (-0.5, 0.5)].map(|limits| Case { clamp: Some(limits), ..USUAL }).into()
    }

    pub fn bias_residual_and_clamp() -> Vec<Case> {
        let clamp = Some((0.0, 6.0));
        vec![
            Case { bias: true, added: Added::Rows, clamp, outputs: 27, ..USUAL },
            Case { bias: true, added: Added::Output, clamp, outputs: 27, scales: Scales::Products, ..USUAL },
        ]
    }

    pub fn signed_input() -> Vec<Case> {
        [Scales::Blocks, Scales::Products].map(|scales| Case { signed: true, scales, ..USUAL }).into()
    }

    pub fn power_of_two_scales() -> Vec<Case> {
        [false, true].map(|signed| Case { x_scale: ActivationScale::Pow2, signed, ..USUAL }).into()
    }

    pub fn fewest_bits() -> Vec<Case> {
        [false, true].map(|signed| Case { bits: 2, x_bits: 2, signed, ..USUAL }).into()
    }

    pub fn two_level_products() -> Vec<Case> {
        vec![Case { scales: Scales::Products, kernel: [3, 3], padding: 1, ..USUAL }]
    }

    pub fn two_level_factors() -> Vec<Case> {
        [false, true].map(|signed| Case { scales: Scales::Factors, signed, ..USUAL }).into()
    }

    pub fn bytes_that_do_not_fit_pairs() -> Vec<Case> {
        [false, true].map(|signed| Case { bits: 8, signed, ..USUAL }).into()
    }

    pub fn nibbles_for_few_pixels() -> Vec<Case> {
        (1..9).map(|width| Case { nibbles: true, size: [1, width], outputs: 40, ..USUAL }).collect()
    }

    pub fn nibbles_for_many_pixels() -> Vec<Case> {
        [false, true].map(|signed| Case { nibbles: true, size: [6, 9], outputs: 40, signed, ..USUAL }).into()
    }

    pub fn nibbles_of_an_odd_number_of_steps() -> Vec<Case> {
        [1, 40]
            .map(|width| Case { nibbles: true, size: [1, width], channels: 60, block: 20, x_block: 20, ..USUAL })
            .into()
    }

    pub fn nibbles_with_factors() -> Vec<Case> {
        [1, 40].map(|width| Case { nibbles: true, size: [1, width], scales: Scales::Factors, ..USUAL }).into()
    }

    pub fn stem_of_three_channels() -> Vec<Case> {
        let stem = Case { channels: 3, kernel: [7, 7], stride: 2, padding: 3, size: [15, 15], signed: true, ..USUAL };
        [Scales::Blocks, Scales::Products].map(|scales| Case { scales, ..stem.clone() }).into()
    }

    pub fn depthwise() -> Vec<Case> {
        [1, 2].map(|stride| Case { stride, ..DEPTHWISE }).into()
    }

    pub fn depthwise_of_signed_input() -> Vec<Case> {
        [ActivationScale::Float, ActivationScale::Pow2]
            .map(|x_scale| Case { signed: true, x_scale, ..DEPTHWISE })
            .into()
    }

    pub fn depthwise_two_level() -> Vec<Case> {
        [ActivationScale::Float, ActivationScale::Pow2]
            .map(|x_scale| Case { scales: Scales::Products, x_scale, ..DEPTHWISE })
            .into()
    }

    pub fn depthwise_with_an_end() -> Vec<Case> {
        [Added::Rows, Added::Output]
            .map(|added| Case { bias: true, added, clamp: Some((0.0, 6.0)), ..DEPTHWISE })
            .into()
    }

    pub fn depthwise_of_extreme_input() -> Vec<Case> {
        [1e-38, 1e30].map(|x_factor| Case { x_factor, factor: 1e-3, ..DEPTHWISE }).into()
    }

    pub fn depthwise_with_extreme_scales() -> Vec<Case> {
        [1e-38, 1e30].map(|factor| Case { factor, x_factor: 1e-3, ..DEPTHWISE }).into()
    }

    pub fn sums_that_leave_the_range_of_floats() -> Vec<Case> {
        let large = |case: Case| Case { x_factor: 1e30, factor: 1e12, ..case };
        // A limit does not hide them.
        let limited = |case: Case| Case { clamp: Some((-1.0, 1.0)), ..case };
        vec![large(USUAL), limited(large(USUAL)), limited(large(DEPTHWISE)), limited(large(of_one_lane()))]
    }

    fn of_one_lane() -> Case {
        Case { outputs: 17, ..USUAL }
    }
}

macro_rules! suite {
    ($kernel:expr) => {
        suite! {
            $kernel;
            one_pixel, no_pixel, last_pixels_of_a_strip, a_whole_strip, neighbours_and_borders, ragged_lanes, some_panels,
            ragged_blocks, groups, bias, residual_rows, residual_in_the_output, clamp, bias_residual_and_clamp, signed_input,
            power_of_two_scales, fewest_bits, two_level_products, two_level_factors, bytes_that_do_not_fit_pairs,
            nibbles_for_few_pixels, nibbles_for_many_pixels, nibbles_of_an_odd_number_of_steps, nibbles_with_factors,
            stem_of_three_channels, depthwise, depthwise_of_signed_input, depthwise_two_level, depthwise_with_an_end,
            depthwise_of_extreme_input, depthwise_with_extreme_scales, sums_that_leave_the_range_of_floats
        }
    };
    ($kernel:expr; $($case:ident),+) => {
        $(
            #[test]
            fn $case() {
                check($kernel, of::$case());
            }
        )+
    };
}

macro_rules! suites {
    ($($(#[$doc:meta])+ $name:ident, $variant:ident: $($part:ident)::+, if $place:meta;)+) => {
        $(
            #[cfg($place)]
            mod $name {
                use super::*;
                suite!(KernelName::$variant);
            }
        )+
    };
}

rows!(suites);

fn check(name: KernelName, cases: Vec<Case>) {
    let Some(kernel) = name.make() else {
        eprintln!("skipped: this CPU does not run {name}");
        return;
    };
    for (i, case) in cases.into_iter().enumerate() {
        if case.scales == Scales::Factors && !kernel.wants().factors_apart {
            eprintln!("skipped: the planner never gives {name} factors apart");
            continue;
        }
        case.check(&kernel, i as u64);
    }
}

/// What a case is about, in numbers.
struct Numbers {
    weights: QuantizedWeights,
    bias: Option<Vec<f32>>,
    /// `[H, W, C]`.
    x: Vec<f32>,
    /// `[pixels, Co]`.
    residual: Vec<f32>,
}

/// Numbers in [-1, 1), each times `factor`, kept finite.
fn noise(random: &mut SplitMix64, count: usize, factor: f32) -> Vec<f32> {
    (0..count).map(|_| (random.next_f32() * 2.0 - 1.0) * factor).map(|x| x.clamp(f32::MIN, f32::MAX)).collect()
}

impl Case {
    fn format(&self) -> ActivationFormat {
        let block = BlockSize::new(self.x_block).unwrap();
        ActivationFormat { bits: Bits::new(self.x_bits).unwrap(), block, scale: self.x_scale }
    }

    fn depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.channels && self.groups == self.outputs
    }

    /// Height and width of the output.
    fn output(&self) -> [usize; 2] {
        let side = |i: usize| match self.size[i] {
            0 => 0,
            size => (size + 2 * self.padding - self.kernel[i]) / self.stride + 1,
        };
        [side(0), side(1)]
    }

    fn pixels(&self) -> usize {
        self.output().iter().product()
    }

    fn numbers(&self, seed: u64) -> Numbers {
        let random = &mut SplitMix64::new(seed);
        let shape = [self.outputs, self.channels / self.groups, self.kernel[0], self.kernel[1]];
        let (bits, block) = (Bits::new(self.bits).unwrap(), BlockSize::new(self.block).unwrap());
        let (lo, hi) = (bits.signed_min() as f32, bits.signed_max() as f32);
        let codes = noise(random, shape.iter().product(), 1.2 * hi);
        let codes = codes.into_iter().map(|x| x.round().clamp(lo, hi) as i8).collect();
        let scales = noise(random, shape[0] * block.count(shape[1]) * shape[2] * shape[3], self.factor);
        let weights = QuantizedWeights::from_parts(shape, bits, block, codes, scales).unwrap();
        let mut x = noise(random, self.size[0] * self.size[1] * self.channels, self.x_factor);
        if !self.signed {
            x.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        Numbers {
            weights: if self.scales == Scales::Blocks { weights } else { weights.to_two_level() },
            bias: self.bias.then(|| noise(random, self.outputs, 1.0)),
            x,
            residual: noise(random, self.pixels() * self.outputs, 1.0),
        }
    }

    /// What the reference gives, `[pixels, Co]`, and whether all of it is finite before the limits.
    fn expected(&self, numbers: &Numbers) -> (Vec<f32>, bool) {
        if self.pixels() == 0 {
            return (vec![], true);
        }
        let (area, format) = (self.size[0] * self.size[1], self.format());
        let planes: Vec<f32> =
            (0..self.channels).flat_map(|c| numbers.x.iter().skip(c).step_by(self.channels).copied()).collect();
        let [height, width] = self.size;
        let shape = [1, self.channels, height, width];
        assert_eq!(planes.len(), self.channels * area);
        let spec = ActivationSpec { shape, groups: self.groups, format, signed: self.signed };
        let x = quantize_activations(&planes, &spec).unwrap();
        let params =
            ConvParams { stride: [self.stride; 2], padding: [self.padding; 2], dilation: [1; 2], groups: self.groups };
        let y = conv2d(&x, &numbers.weights, numbers.bias.as_deref(), &params).unwrap();
        let pixels = self.pixels();
        let mut rows = vec![];
        let mut finite = true;
        for pixel in 0..pixels {
            for o in 0..self.outputs {
                let added = numbers.residual[pixel * self.outputs + o];
                let y = y[o * pixels + pixel];
                let y = if self.added == Added::Nothing { y } else { y + added };
                finite &= y.is_finite();
                rows.push(self.clamp.map_or(y, |(lo, hi)| limit(y, lo, hi)));
            }
        }
        (rows, finite)
    }

    fn pack(&self, kernel: &AnyKernel, numbers: &Numbers, layout: &Layout) -> Packed {
        let w = &numbers.weights;
        let products = if self.scales == Scales::Products { w.int8_weights() } else { None };
        let scale = match (w.two_level(), self.scales) {
            (Some(levels), Scales::Factors) => Scale::Levels(levels.channel(), levels.factors()),
            (Some(levels), _) => Scale::Channel(levels.channel()),
            (None, _) => Scale::Block(w.scales()),
        };
        let values = products.as_deref().unwrap_or(w.codes());
        let integers = Integers { shape: w.shape(), block: w.block(), values, scale };
        let packing = Packing { nibbles: self.nibbles, signed_codes: kernel.wants().signed_codes };
        Packed::new(integers, numbers.bias.as_deref(), layout, packing)
    }

    fn check(&self, kernel: &AnyKernel, seed: u64) {
        let numbers = self.numbers(seed);
        let layout = Layout::new(LayerInput {
            channels: self.channels,
            groups: self.groups,
            weight_block: BlockSize::new(self.block).unwrap(),
            format: self.format(),
            signed: self.signed,
            depthwise: self.depthwise(),
        });
        let weights = self.pack(kernel, &numbers, &layout);
        let width = self.size[1] + 2 * self.padding;
        let area = (self.size[0] + 2 * self.padding) * width;
        let mut codes = Buffer::new(area * layout.bytes + SLACK);
        codes.fill(layout.zero());
        let mut scales = Buffer::new(area * layout.scales);
        self.quantize(kernel, &numbers, &layout, &mut codes, &mut scales);

        let walk = |[rows, columns]: [usize; 2], step: usize| -> Vec<u32> {
            (0..rows * columns).map(|i| ((i / columns * width + i % columns) * step) as u32).collect()
        };
        let (pixels, taps) = (walk(self.output(), self.stride), walk(self.kernel, 1));
        let panels = self.panels.start..self.panels.end.min(weights.panels.len());
        let stride = self.outputs + 3;
        let mut found = vec![f32::NAN; pixels.len() * stride];
        for (found, residual) in found.chunks_mut(stride).zip(numbers.residual.chunks(self.outputs)) {
            if self.added == Added::Output {
                found[..self.outputs].copy_from_slice(residual);
            }
        }
        let call = ConvCall {
            weights: &weights,
            layout: &layout,
            codes: &codes,
            scales: &scales,
            pixels: &pixels,
            taps: &taps,
            panels: panels.clone(),
            residual: match self.added {
                Added::Nothing => Residual::None,
                Added::Rows => Residual::Rows(Rows { data: &numbers.residual, stride: self.outputs }),
                Added::Output => Residual::Output,
            },
            clamp: self.clamp,
        };
        let mut unpacked = Buffer::new(if self.nibbles { 2 * weights.unpacked_bytes() + 64 } else { 0 });
        let finite = kernel.conv(&call, &mut unpacked, &mut found, stride);

        let (expected, all_finite) = self.expected(&numbers);
        assert_eq!(finite, all_finite, "{} whether all sums are finite: {self:?}", kernel.name());
        if !finite {
            return;
        }
        let computed = |o: usize| panels.contains(&weights.panels.iter().position(|p| o < p.first + p.lanes).unwrap());
        for (pixel, (found, expected)) in found.chunks(stride).zip(expected.chunks(self.outputs)).enumerate() {
            for o in 0..stride {
                let at = format!("{}, pixel {pixel}, output {o}: {self:?}", kernel.name());
                if o < self.outputs && computed(o) {
                    assert_eq!(found[o].to_bits(), expected[o].to_bits(), "{} not {}, {at}", found[o], expected[o]);
                } else if o >= self.outputs || self.added != Added::Output {
                    assert!(found[o].is_nan(), "written where nothing goes, {at}");
                }
            }
        }
    }

    /// Rounds the input inside its border, by rows and, where it can be, by planes, and compares the codes.
    fn quantize(
        &self,
        kernel: &AnyKernel,
        numbers: &Numbers,
        layout: &Layout,
        codes: &mut Buffer<u8>,
        scales: &mut Buffer<f32>,
    ) {
        let [height, width] = self.size;
        let bordered = width + 2 * self.padding;
        let inside = |i: usize| (i / width + self.padding) * bordered + i % width + self.padding;
        let pixels: Vec<u32> = (0..height * width).map(|i| inside(i) as u32).collect();
        let x = Rows { data: &numbers.x, stride: self.channels };
        kernel.quantize(&QuantizeCall { layout, x, pixels: &pixels }, codes, scales);
        if pixels.is_empty() || layout.depthwise {
            return;
        }
        let planes: Vec<f32> =
            (0..self.channels).flat_map(|c| numbers.x.iter().skip(c).step_by(self.channels).copied()).collect();
        let shape = [1, self.channels, height, width];
        let spec = ActivationSpec { shape, groups: self.groups, format: self.format(), signed: self.signed };
        let expected = quantize_activations(&planes, &spec).unwrap();
        let same = |codes: &[u8], scales: &[f32], way: &str| {
            for (i, &pixel) in pixels.iter().enumerate() {
                for c in 0..self.channels {
                    let at = match layout.pieces.iter().find(|piece| piece.channels.contains(&c)) {
                        Some(piece) => piece.at + c - piece.channels.start,
                        None => c,
                    };
                    let offset = if self.signed { OFFSET } else { 0 };
                    let code = i32::from(codes[pixel as usize * layout.bytes + at]) - offset;
                    let mantissa = expected.mantissas()[c * pixels.len() + i];
                    assert_eq!(code, i32::from(mantissa), "{way}, pixel {i}, channel {c}: {self:?}");
                }
                for block in 0..layout.scales {
                    let (found, wanted) =
                        (scales[pixel as usize * layout.scales + block], expected.scales()[block * pixels.len() + i]);
                    assert_eq!(found.to_bits(), wanted.to_bits(), "{way}, pixel {i}, block {block}: {self:?}");
                }
            }
        };
        same(codes, scales, "rows");
        if PlanesCall::fits(layout) {
            let (mut plane_codes, mut plane_scales) = (Buffer::new(codes.len()), Buffer::new(scales.len()));
            let call = PlanesCall { layout, image: &planes, area: height * width, first: 0, pixels: &pixels };
            kernel.quantize_planes(&call, &mut plane_codes, &mut plane_scales);
            same(&plane_codes, &plane_scales, "planes");
        }
    }
}
