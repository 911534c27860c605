//! Convolutions and linear layers: their weights packed, in integers or floats, and what they do on the way.
use blockfloat::{Bits, BlockSize, QuantizedWeights, TwoLevel};
use graph::{Conv2d, Node, Op, Role};

use super::ceiling::Format;
use super::draft::Draft;
use super::parameters::Parameters;
use super::step::{Added, CodesView, IntConv, Patches, StepOp, WinogradConv};
use crate::Error;
use crate::float::{FloatConv, FloatOp, PostOp};
use crate::kernels::Wants;
use crate::layout::Layout;
use crate::pack::{Integers, Packed, Scale};
use crate::winograd::Winograd;

impl Draft<'_> {
    /// Makes step `i`, a layer that computes `conv`; a sum and a limit at the front of `posts` become part of it.
    ///
    /// # Errors
    /// As [`super::Plan::new`].
    pub fn conv(
        &mut self,
        i: usize,
        node: &Node,
        conv: Conv2d,
        parameters: &mut Parameters<'_>,
        posts: &mut Vec<PostOp>,
    ) -> Result<StepOp, Error> {
        let bias = if conv.bias { Some(parameters.floats(&node.name, Role::Bias)?) } else { None };
        let layer = parameters.layer(&node.name)?;
        let refuse = |why: &str| Error::Layer { layer: node.name.clone(), why: why.into() };
        let packed = match &self.forms.inputs[i] {
            Some(input) => {
                let ([co, cg, kh, kw], layouts) = (conv.weight_shape(), &self.forms.layouts);
                match self.forms.patches[i] {
                    Some((patches, block)) => {
                        let direct = Packed::most_bytes([co, cg * kh * kw, 1, 1], block, &layouts[patches]);
                        let winograd = self.kernel.wants().winograd.is_some() && [kh, kw] == [3, 3];
                        if winograd { direct.max(Winograd::most_bytes([co, cg, kh, kw])) } else { direct }
                    }
                    None => {
                        let block = layer.as_ref().map_or(BlockSize::PIXEL, |layer| layer.codes.block());
                        Packed::most_bytes([co, cg, kh, kw], block, &layouts[input.layout])
                    }
                }
            }
            None => conv.weight_shape().iter().fold(4, |bytes: u64, &n| bytes.saturating_mul(n as u64)),
        };
        self.room = self
            .room
            .checked_sub(packed)
            .ok_or_else(|| refuse("weights up to it take more memory, as kernels read them, than the network may"))?;
        let Some(input) = self.forms.inputs[i].clone() else {
            let weight = match layer {
                Some(layer) => layer.codes.dequantize(),
                None => parameters.floats(&node.name, Role::Weight)?,
            };
            let x = self.view(self.placement.steps[i].inputs[0], self.placement.steps[i].head);
            return Ok(StepOp::Float(FloatOp::Conv(Box::new(FloatConv::new(conv, &weight, bias)), x)));
        };
        let layer = layer.expect("layers with integer input are quantized");
        let fused = &self.placement.steps[i];
        let alone = fused.before.is_none() && fused.host.is_none();
        let tiles = node.shape.height.div_ceil(2) * node.shape.width.div_ceil(2);
        let tiling = self.kernel.wants().winograd.filter(|tiling| alone && tiles >= tiling.fewest);
        let suits = || Winograd::suits(&conv, &layer.codes, &self.forms.layouts[input.layout]);
        if let Some(tiling) = tiling.filter(|_| suits()) {
            let weights = Winograd::new(&layer.codes, bias.as_deref(), &self.forms.layouts[input.layout], tiling);
            let residual = self.residual(i, posts);
            let clamp = clamp(posts);
            let origin = origin(&conv, &input);
            let macs = conv.weight_shape().iter().product::<usize>() as u64;
            return Ok(StepOp::Winograd(Box::new(WinogradConv { weights, input, origin, residual, clamp, macs })));
        }
        let linear = matches!(node.op, Op::Linear { .. });
        let layout = &self.forms.layouts[input.layout];
        let patched = self.forms.patches[i];
        let weights = match patched {
            Some((patches, block)) => {
                let codes = patch_weights(&layer.codes, block);
                pack(self.kernel.wants(), &codes, bias.as_deref(), &self.forms.layouts[patches], linear)
            }
            None => pack(self.kernel.wants(), &layer.codes, bias.as_deref(), layout, linear),
        };
        let macs = conv.weight_shape().iter().product::<usize>() as u64;
        if let Some(activation) = layer.activation.filter(|_| !layout.depthwise) {
            let (codes, signed) = (&layer.codes, layer.signed);
            let two_level = codes.two_level().is_some();
            let format = Format { bits: codes.bits(), block: codes.block(), two_level, activation, signed };
            self.ceilings.insert(node.name.clone(), format);
        }
        let lines = if layout.depthwise { layout.lines() } else { 1 };
        let mut taps = taps(&conv, &input, lines).ok_or_else(|| refuse("its input has more than 2^32 pixels"))?;
        let patches = patched.map(|(patches, _)| {
            let (each, bytes) = (layout.bytes, self.forms.layouts[patches].bytes);
            // Taps of a row lie side by side.
            let run = if conv.dilation[1] == 1 { conv.kernel[1] } else { 1 };
            let runs = taps.iter().step_by(run).map(|&tap| tap as usize * each).collect();
            taps = vec![0];
            Patches { layout: patches, bytes, runs, run: run * each }
        });
        let residual = self.residual(i, posts);
        let clamp = clamp(posts);
        Ok(StepOp::Conv(Box::new(IntConv {
            weights,
            origin: origin(&conv, &input),
            input,
            stride: conv.stride,
            reach: (conv.kernel[0] - 1) * conv.dilation[0] + 1,
            taps,
            residual,
            before: None,
            clamp,
            macs,
            patches,
        })))
    }

    /// Takes what step `i`, a convolution, adds to its sums from the front of `posts`.
    fn residual(&self, i: usize, posts: &mut Vec<PostOp>) -> Option<Added> {
        let Some(PostOp::Add(view)) = posts.first() else { return None };
        // The value of a step that runs with this one lies where the result goes.
        let there = self.placement.steps[i].before.is_some() || Some(*view) == self.dest(i);
        let added = if there { Added::Dest } else { Added::View(*view) };
        posts.remove(0);
        Some(added)
    }
}

/// Takes a limit from the front of `posts`.
fn clamp(posts: &mut Vec<PostOp>) -> Option<(f32, f32)> {
    let Some(&PostOp::Clamp(lo, hi)) = posts.first() else { return None };
    posts.remove(0);
    Some((lo, hi))
}

/// Returns the input pixel under the first tap of output (0, 0).
fn origin(conv: &Conv2d, input: &CodesView) -> usize {
    (input.pad[0] - conv.padding[0]) * input.width + input.pad[1] - conv.padding[1]
}

/// Packs weights as a kernel wants them.
pub(super) fn pack(
    wants: Wants,
    codes: &QuantizedWeights,
    bias: Option<&[f32]>,
    layout: &Layout,
    linear: bool,
) -> Packed {
    let small = codes.bits().get() <= 4 && !layout.depthwise;
    let apart = codes.two_level().filter(|_| wants.factors_apart && small && !linear);
    let products = if apart.is_some() { None } else { codes.int8_weights() };
    let nibbles = (linear || codes.codes().len() >= wants.nibbles_from) && small && products.is_none();
    let integers = Integers {
        shape: codes.shape(),
        block: codes.block(),
        values: products.as_deref().unwrap_or(codes.codes()),
        scale: match (apart, codes.two_level()) {
            (Some(levels), _) => Scale::Levels(levels.channel(), levels.factors()),
            (_, Some(levels)) => Scale::Channel(levels.channel()),
            (_, None) => Scale::Block(codes.scales()),
        },
    };
    Packed::new(integers, bias, layout, wants.packing(nibbles))
}

/// Returns two-level weights `[Co, Cg, Kh, Kw]` as those of a patch, `[Co, Kh Kw Cg, 1, 1]`, in blocks that divide their own or, where
/// one holds the whole patch, as the products of factors and codes.
fn patch_weights(codes: &QuantizedWeights, block: BlockSize) -> QuantizedWeights {
    let ([outputs, channels, kh, kw], levels) = (codes.shape(), codes.two_level().expect("two-level scales"));
    let (taps, length) = (kh * kw, codes.block().len_in(channels));
    let (shape, blocks) = ([outputs, taps * channels, 1, 1], channels.div_ceil(length));
    let arrange = |values: &[i8]| -> Vec<i8> {
        let filters = values.chunks_exact(channels * taps);
        let in_order = |filter| (0..taps).flat_map(move |tap| <[i8]>::iter(filter).skip(tap).step_by(taps).copied());
        filters.flat_map(in_order).collect()
    };
    let (bits, values, factors) = if block == BlockSize::PIXEL {
        (Bits::MAX, codes.int8_weights().expect("two-level scales"), vec![1; outputs])
    } else {
        let step = block.len_in(channels);
        let factors = (0..outputs).flat_map(|o| {
            (0..taps).flat_map(move |tap| {
                let of = move |c: usize| levels.factors()[(o * blocks + c / length) * taps + tap];
                (0..channels).step_by(step).map(of)
            })
        });
        (codes.bits(), codes.codes().to_vec(), factors.collect())
    };
    let levels = TwoLevel::new(levels.channel().to_vec(), factors);
    QuantizedWeights::from_parts_two_level(shape, bits, block, arrange(&values), levels)
        .expect("the same numbers in another order")
}

/// Returns the distance of each tap from the first, in pixels of the input, or in the `lines` of a depthwise layer's; `None`
/// where these cannot be counted.
fn taps(conv: &Conv2d, input: &CodesView, lines: usize) -> Option<Vec<u32>> {
    let distance = |k: usize, axis: usize| k * conv.dilation[axis];
    let row = input.width.checked_mul(lines)?;
    let taps = (0..conv.kernel[0])
        .flat_map(|y| (0..conv.kernel[1]).map(move |x| (y, x)))
        .map(|(y, x)| distance(y, 0) * row + distance(x, 1));
    let taps: Vec<u32> = taps.map(|t| u32::try_from(t).ok()).collect::<Option<_>>()?;
    (u32::try_from(input.pixels(1)).is_ok() && !taps.is_empty()).then_some(taps)
}
