//! A convolution as a kernel sees it, and what the reference makes of it.
use std::ops::Range;

use blockfloat::{
    ActivationFormat, ActivationScale, ActivationSpec, Bits, BlockSize, ConvParams, QuantizedWeights, SplitMix64,
    conv2d, quantize_activations,
};

use crate::buffer::Buffer;
use crate::kernels::{AnyKernel, ConvCall, PlanesCall, QuantizeCall, Residual, Rows, SLACK, Target};
use crate::layout::{LayerInput, Layout, OFFSET, Whole};
use crate::math::limit;
use crate::pack::{Integers, Packed, Scale};

/// How the scales of weights are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scales {
    /// One a block.
    Blocks,
    /// Two levels, products of factors and codes.
    Products,
    /// Two levels, factors apart from codes.
    Factors,
}

/// What is added to the sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Added {
    Nothing,
    Rows,
    Output,
}

/// A convolution of one image.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub channels: usize,
    pub outputs: usize,
    pub groups: usize,
    /// Height and width of the input.
    pub size: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: usize,
    pub padding: usize,
    pub bits: u8,
    pub block: usize,
    pub scales: Scales,
    pub nibbles: bool,
    /// Bits of the input.
    pub x_bits: u8,
    pub x_block: usize,
    pub x_scale: ActivationScale,
    pub signed: bool,
    pub bias: bool,
    pub added: Added,
    pub clamp: Option<(f32, f32)>,
    /// Whether all weights are the least and all inputs the largest that there are.
    pub extreme: bool,
    /// What inputs and block scales are multiplied by.
    pub x_factor: f32,
    pub factor: f32,
    /// Panels to compute; all of them if there are fewer.
    pub panels: Range<usize>,
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
        let code = |x: f32| if self.extreme { lo } else { x.round().clamp(lo, hi) };
        let codes = codes.into_iter().map(|x| code(x) as i8).collect();
        let scales = noise(random, shape[0] * block.count(shape[1]) * shape[2] * shape[3], self.factor);
        let weights = QuantizedWeights::from_parts(shape, bits, block, codes, scales).unwrap();
        let mut x = noise(random, self.size[0] * self.size[1] * self.channels, self.x_factor);
        if !self.signed {
            x.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        if self.extreme {
            x.fill(self.x_factor);
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
        Packed::new(integers, numbers.bias.as_deref(), layout, kernel.wants().packing(self.nibbles))
    }

    fn layout(&self) -> Layout {
        Layout::new(LayerInput {
            channels: self.channels,
            groups: self.groups,
            weight_block: BlockSize::new(self.block).unwrap(),
            format: self.format(),
            signed: self.signed,
            depthwise: self.depthwise(),
            whole: Whole::Apart,
        })
    }

    /// The number of steps whose sums of two products fit 16 bits, as the kernel is told.
    pub fn fitting(&self, kernel: &AnyKernel) -> usize {
        self.pack(kernel, &self.numbers(0), &self.layout()).fitting
    }

    /// Checks a kernel's codes and sums.
    pub fn check(&self, kernel: &AnyKernel, seed: u64) {
        let (numbers, layout) = (self.numbers(seed), self.layout());
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
        let row = width * if layout.depthwise { layout.lines() } else { 1 };
        let taps = (0..self.kernel[0]).flat_map(|y| (0..self.kernel[1]).map(move |x| (y * row + x) as u32));
        let (pixels, taps) = (walk(self.output(), self.stride), taps.collect::<Vec<_>>());
        let panels = self.panels.start..self.panels.end.min(weights.panels.len());
        let stride = self.outputs + 3;
        let mut found = vec![f32::NAN; pixels.len() * stride];
        for (found, residual) in found.chunks_mut(stride).zip(numbers.residual.chunks(self.outputs)) {
            if self.added == Added::Output {
                found[..self.outputs].copy_from_slice(residual);
            }
        }
        let (residual, clamp) = (
            match self.added {
                Added::Nothing => Residual::None,
                Added::Rows => Residual::Rows(Rows { data: &numbers.residual, stride: self.outputs }),
                Added::Output => Residual::Output,
            },
            self.clamp,
        );
        let call = ConvCall {
            weights: &weights,
            layout: &layout,
            codes: &codes,
            scales: &scales,
            width,
            pixels: &pixels,
            taps: &taps,
            panels: panels.clone(),
            residual,
            clamp,
        };
        let mut unpacked = Buffer::new(if self.nibbles { 2 * weights.unpacked_bytes() + 64 } else { 0 });
        let finite = kernel.conv(&call, &mut unpacked, &mut found, stride);

        let (expected, all_finite) = self.expected(&numbers);
        assert_eq!(finite, all_finite, "{} whether all sums are finite: {self:?}", kernel.name());
        if !finite {
            return;
        }
        let computed = |o: usize| panels.contains(&weights.panels.iter().position(|p| o < p.first + p.lanes).unwrap());
        self.check_values(kernel, &call, &mut unpacked, &found, stride);
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

    /// Checks that outputs rounded to the values of a depthwise layer as they are made are those of rows that are rounded.
    fn check_values(&self, kernel: &AnyKernel, call: &ConvCall<'_>, unpacked: &mut [u8], rows: &[f32], stride: usize) {
        let [_, columns] = self.output();
        if self.added != Added::Nothing || call.panels != (0..call.weights.panels.len()) || columns == 0 {
            return;
        }
        let (border, channels) = (2, self.outputs);
        let width = columns + 2 * border;
        let count = call.pixels.len();
        let pixels: Vec<u32> = (0..count).map(|i| (i / columns * width + border + i % columns) as u32).collect();
        let size = count.div_ceil(columns) * width;
        for (scale, signed) in [
            (ActivationScale::Float, false),
            (ActivationScale::Float, true),
            (ActivationScale::Pow2, false),
            (ActivationScale::Pow2, true),
        ] {
            let format = ActivationFormat { scale, ..self.format() };
            let input = LayerInput {
                channels,
                groups: channels,
                weight_block: BlockSize::PIXEL,
                format,
                signed,
                depthwise: true,
                whole: Whole::Apart,
            };
            let layout = Layout::new(input);
            let room = || (vec![9u8; size], vec![7.0f32; size * layout.scales]);
            let ((mut codes, mut values), (mut expected_codes, mut expected)) = (room(), room());
            let x = Rows { data: rows, stride };
            let quantize = QuantizeCall { layout: &layout, x, width, pixels: &pixels, largest: None };
            kernel.quantize(&quantize, &mut expected_codes, &mut expected);
            let (mut scratch, layout) = (vec![0.0; count * channels], &layout);
            let (pixels, scratch) = (&pixels[..], &mut scratch[..]);
            let to = Target { layout, width, pixels, codes: &mut codes, values: &mut values, scratch };
            assert!(kernel.conv_to_values(call, unpacked, to));
            assert_eq!(codes, expected_codes, "{} bytes of values: {self:?}", kernel.name());
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&values), bits(&expected), "{} values: {self:?}", kernel.name());
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
        if !layout.depthwise {
            // What was there before.
            for &pixel in &pixels {
                codes[pixel as usize * layout.bytes..][..layout.bytes].fill(0xa5);
            }
        }
        let x = Rows { data: &numbers.x, stride: self.channels };
        kernel.quantize(&QuantizeCall { layout, x, width: bordered, pixels: &pixels, largest: None }, codes, scales);
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
            let call =
                PlanesCall { layout, image: &planes, area: height * width, first: 0, pixels: &pixels, largest: None };
            kernel.quantize_planes(&call, &mut plane_codes, &mut plane_scales);
            same(&plane_codes, &plane_scales, "planes");
        }
    }
}
