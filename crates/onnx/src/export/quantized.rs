//! The 8-bit integers of the profile `int8`: the places of rounding, the grids of activations, and the layers.
use std::collections::BTreeMap;

use blockfloat::QuantizedWeights;
use graph::{Activation, Graph, NodeId, Op};

use super::ExportError;

/// The range of the values of a node's output. Values beyond it saturate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The smallest value.
    pub min: f32,
    /// The largest value.
    pub max: f32,
}

/// The ranges by the names of nodes. Those of all [`observed`] nodes are needed.
pub type Ranges = BTreeMap<String, Range>;

/// The 8-bit integers that represent activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ActivationCodes {
    /// `UINT8`, with a zero point where values can be negative, so that all 256 codes are used. ONNX Runtime and OpenVINO run
    /// these fastest.
    #[default]
    Unsigned,
    /// `INT8` with zero point 0, which TensorRT requires.
    Symmetric,
}

/// The rounding of a node's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoundingPoint {
    /// The output is not rounded.
    Open,
    /// The output is rounded to a grid of its own.
    Own,
    /// The output is on the grid of an earlier node, whose values it only moves.
    Same(NodeId),
}

/// Returns the rounding of every node of a graph with folded batch normalisation.
pub(super) fn points(graph: &Graph) -> Vec<RoundingPoint> {
    let nodes = graph.nodes();
    let uses = graph.uses();
    // The only reader of a node.
    let mut reader = vec![None; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            reader[input.index()] = Some(i).filter(|_| uses[input.index()] == 1);
        }
    }
    // Logits are not rounded, nor are outputs that only move before they become the logits.
    let mut last = vec![false; nodes.len()];
    for i in (0..nodes.len()).rev() {
        let through = |r: usize| last[r] && (moves(&nodes[r].op) || nodes[r].op == Op::Softmax);
        last[i] = i + 1 == nodes.len() || (reader[i].is_some_and(through) && !matches!(nodes[i].op, Op::Conv2d(_)));
    }
    let mut points: Vec<RoundingPoint> = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        let rectified = reader[i].is_some_and(|r| rectifies(&nodes[r].op))
            && matches!(
                node.op,
                Op::Conv2d(_) | Op::Linear { .. } | Op::Affine { .. } | Op::BatchNorm2d { .. } | Op::Add | Op::Mul
            );
        points.push(if last[i] || rectified {
            RoundingPoint::Open
        } else if moves(&node.op) {
            match points[node.inputs[0].index()] {
                RoundingPoint::Own => RoundingPoint::Same(node.inputs[0]),
                RoundingPoint::Same(id) => RoundingPoint::Same(id),
                RoundingPoint::Open => RoundingPoint::Own,
            }
        } else {
            RoundingPoint::Own
        });
    }
    points
}

/// Returns the nodes whose ranges [`super::Profile::Int8`] needs, in the order of the graph. Its batch normalisation must be
/// folded.
pub fn observed(graph: &Graph) -> Vec<NodeId> {
    let own =
        |(i, point): (usize, RoundingPoint)| (point == RoundingPoint::Own).then(|| graph.find(&graph.nodes()[i].name));
    points(graph).into_iter().enumerate().filter_map(own).flatten().collect()
}

/// Returns whether the outputs of an operation are some of its inputs, or zeros.
fn moves(op: &Op) -> bool {
    match op {
        Op::MaxPool2d(_) | Op::Flatten | Op::Slice { .. } | Op::Shuffle { .. } | Op::PadShortcut { .. } => true,
        Op::Dropout { .. } => true,
        Op::Pad2d { value, .. } => *value == 0.0,
        _ => false,
    }
}

/// Returns whether runtimes fuse an operation into the integer operation before it, whose codes then end at 0.
fn rectifies(op: &Op) -> bool {
    matches!(op, Op::Relu | Op::Activation(Activation::Clip { min: Some(0.0), .. }))
}

/// The grid of an activation: `value = (code - zero) * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    pub(super) scale: f32,
    pub(super) zero: i32,
    pub(super) unsigned: bool,
}

impl Grid {
    /// Makes a grid for a range. Zero is always on the grid. No code means more than `max`, so that a clip to `max` before the
    /// rounding changes nothing.
    pub(super) fn new(range: Range, non_negative: bool, codes: ActivationCodes) -> Self {
        let max = range.max.max(0.0);
        let min = if non_negative { 0.0 } else { range.min.min(0.0) };
        let normal = |scale: f64| if scale >= f64::from(f32::MIN_POSITIVE) { scale as f32 } else { 1.0 };
        let below = |mut scale: f32, steps: f32| {
            while scale * steps > max && max > 0.0 && scale > f32::MIN_POSITIVE {
                scale = scale.next_down();
            }
            scale
        };
        match codes {
            ActivationCodes::Symmetric => {
                let scale = normal(f64::from(max.max(-min)) / 127.0);
                Self { scale: if max >= -min { below(scale, 127.0) } else { scale }, zero: 0, unsigned: false }
            }
            ActivationCodes::Unsigned => {
                let scale = normal((f64::from(max) - f64::from(min)) / 255.0);
                let zero = (-min / scale).round_ties_even().clamp(0.0, 255.0) as i32;
                Self { scale: if zero == 0 { below(scale, 255.0) } else { scale }, zero, unsigned: true }
            }
        }
    }
}

/// A layer in 8-bit integers: `weight = code * scale[o]`, `bias = code * input scale * scale[o]`.
#[derive(Debug, PartialEq)]
pub(super) struct Int8Layer {
    /// The codes of the weight, row-major.
    pub(super) codes: Vec<i8>,
    /// The scale of each output channel, positive and normal.
    pub(super) scales: Vec<f32>,
    /// The code of each output channel's bias.
    pub(super) bias: Option<Vec<i32>>,
}

/// The largest magnitude of a bias code, which leaves room in the accumulator for the products.
const LARGEST_BIAS: f64 = (1 << 30) as f64;

impl Int8Layer {
    /// Makes a layer of codes with two-level scales, for inputs with the scale `input`.
    pub(super) fn new(
        name: &str,
        weights: &QuantizedWeights,
        bias: Option<&[f32]>,
        input: f32,
    ) -> Result<Self, ExportError> {
        let (Some(two_level), Some(codes)) = (weights.two_level(), weights.int8_weights()) else {
            return Err(ExportError::BlockScales { layer: name.into() });
        };
        Ok(Self::fit(codes, two_level.channel().to_vec(), bias, input))
    }

    /// Makes a layer that computes `y = x * weight[c] + bias[c]`, with one code for each channel.
    pub(super) fn affine(weight: &[f32], bias: &[f32], input: f32) -> Self {
        let codes = weight.iter().map(|w| if *w < 0.0 { -127 } else { 127 }).collect();
        Self::fit(codes, weight.iter().map(|w| w.abs() / 127.0).collect(), Some(bias), input)
    }

    /// Makes scales positive and biases fit.
    fn fit(mut codes: Vec<i8>, mut scales: Vec<f32>, bias: Option<&[f32]>, input: f32) -> Self {
        let filter = codes.len() / scales.len();
        for (o, (codes, scale)) in codes.chunks_mut(filter).zip(&mut scales).enumerate() {
            if *scale < 0.0 {
                *scale = -*scale;
                codes.iter_mut().for_each(|q| *q = -*q);
            }
            let bias = f64::from(bias.map_or(0.0, |bias| bias[o])).abs() / f64::from(input);
            if codes.iter().all(|&q| q == 0) || *scale == 0.0 {
                // Only the bias counts, so that any scale will do that resolves it.
                codes.fill(0);
                *scale = if bias > 0.0 { (bias / f64::from(1 << 24)) as f32 } else { 1.0 };
            }
            // A bias that is huge beside the weights needs a larger scale.
            let least = ((bias / LARGEST_BIAS) as f32).max(f32::MIN_POSITIVE);
            if *scale < least {
                codes.iter_mut().for_each(|q| *q = (f32::from(*q) * (*scale / least)).round_ties_even() as i8);
                *scale = least;
            }
        }
        let bias = bias.map(|bias| {
            let code = |(&b, &s): (&f32, &f32)| (f64::from(b) / f64::from(input * s)).round_ties_even() as i32;
            bias.iter().zip(&scales).map(code).collect()
        });
        Self { codes, scales, bias }
    }
}

/// Returns the grid of every node, or `None` for a node that is not rounded.
pub(super) fn grids(graph: &Graph, ranges: &Ranges, codes: ActivationCodes) -> Result<Vec<Option<Grid>>, ExportError> {
    let non_negative = graph.non_negative();
    let mut grids: Vec<Option<Grid>> = Vec::new();
    for (i, (node, point)) in graph.nodes().iter().zip(points(graph)).enumerate() {
        grids.push(match point {
            RoundingPoint::Open => None,
            RoundingPoint::Same(id) => grids[id.index()],
            RoundingPoint::Own => {
                let range = ranges.get(&node.name).filter(|r| r.min.is_finite() && r.max.is_finite());
                let range = range.ok_or_else(|| ExportError::Range { node: node.name.clone() })?;
                Some(Grid::new(*range, non_negative[i], codes))
            }
        });
    }
    Ok(grids)
}

#[cfg(test)]
mod tests {
    use blockfloat::{Bits, BlockSize, TwoLevel};

    use super::*;

    fn grid(min: f32, max: f32, codes: ActivationCodes) -> Grid {
        Grid::new(Range { min, max }, false, codes)
    }

    #[test]
    fn zero_is_a_code_and_nothing_lies_beyond_a_clip() {
        for (min, max) in [(0.0, 6.0), (0.0, 0.1), (-1.0, 3.0), (-5.0, -1.0), (2.0, 7.0), (0.0, 1e-40), (-1e30, 1e38)] {
            let Grid { scale, zero, .. } = grid(min, max, ActivationCodes::Unsigned);
            assert!(scale.is_normal() && scale > 0.0, "{min} {max}: {scale}");
            assert!((0..=255).contains(&zero));
            if min == 0.0 && max > 1e-30 {
                assert_eq!(zero, 0);
                assert!(scale * 255.0 <= max && scale * 255.0 >= max * 0.999_999, "{max}: {}", scale * 255.0);
            }
            let Grid { scale, zero, .. } = grid(min, max, ActivationCodes::Symmetric);
            assert!(scale.is_normal() && zero == 0, "{min} {max}");
            assert!(f64::from(scale) * 127.0 >= f64::from(max.max(-min).max(0.0)) * 0.999_999);
        }
        // For values that are known to be non-negative, no code is below zero.
        let range = Range { min: -1e-3, max: 2.0 };
        assert_eq!(Grid::new(range, true, ActivationCodes::Unsigned).zero, 0);
    }

    fn two_level(channel: &[f32], factors: &[i8], codes: &[i8]) -> QuantizedWeights {
        let shape = [channel.len(), codes.len() / channel.len(), 1, 1];
        let block = BlockSize::new(1).unwrap();
        let bits = Bits::new(4).unwrap();
        let two_level = TwoLevel::new(channel.to_vec(), factors.to_vec());
        QuantizedWeights::from_parts_two_level(shape, bits, block, codes.to_vec(), two_level).unwrap()
    }

    #[test]
    fn a_layer_is_its_products_with_positive_scales() {
        let weights = two_level(&[0.5, -0.25], &[3, 1, 2, 9], &[-8, 7, 1, -3]);
        let layer = Int8Layer::new("fc", &weights, Some(&[1.0, -2.0]), 0.125).unwrap();
        // Products -24, 7 and 2, -27; the second channel's turned with its scale. Bias: 1 / (0.125 * 0.5), -2 / (0.125 * 0.25).
        assert_eq!(
            layer,
            Int8Layer { codes: vec![-24, 7, -2, 27], scales: vec![0.5, 0.25], bias: Some(vec![16, -64]) }
        );
        let values: Vec<f32> = layer.codes.iter().zip([0.5, 0.5, 0.25, 0.25]).map(|(&q, s)| f32::from(q) * s).collect();
        assert_eq!(values, weights.dequantize());
    }

    #[test]
    fn an_affine_node_is_one_code_a_channel() {
        let Int8Layer { codes, scales, bias } = Int8Layer::affine(&[2.0, -0.5, 0.0], &[1.0, 3.0, -7.0], 0.25);
        assert_eq!(codes, [127, -127, 0]);
        assert_eq!(scales[..2], [2.0 / 127.0, 0.5 / 127.0]);
        for (o, (weight, shift)) in [(2.0, 1.0), (-0.5, 3.0), (0.0, -7.0)].into_iter().enumerate() {
            let scale = f64::from(scales[o]);
            assert!((f64::from(codes[o]) * scale - weight).abs() < 1e-6);
            // The bias is within half a step.
            let found = f64::from(bias.as_ref().unwrap()[o]) * scale * 0.25;
            assert!((found - shift).abs() <= 0.126 * scale, "{found}");
        }
    }

    #[test]
    fn channels_without_weights_keep_their_bias() {
        let weights = two_level(&[0.0, 1.0, 0.5], &[1, 1, 1], &[7, 0, 0]);
        let layer = Int8Layer::new("fc", &weights, Some(&[3.0, -5.0, 0.0]), 0.01).unwrap();
        assert_eq!(layer.codes, [0, 0, 0]);
        for (o, bias) in [3.0, -5.0, 0.0].into_iter().enumerate() {
            let value = f64::from(layer.bias.as_ref().unwrap()[o]) * f64::from(layer.scales[o]) * 0.01;
            assert!((value - bias).abs() <= 1e-6 * f64::abs(bias), "{value} {bias}");
        }
    }

    #[test]
    fn a_bias_that_dwarfs_the_weights_fits_32_bits() {
        // 1000 / (1e-3 * 1e-6) = 1e12 steps are more than an i32 holds: the step grows about 931 times.
        let weights = two_level(&[1e-6], &[15], &[-8]);
        let layer = Int8Layer::new("fc", &weights, Some(&[1000.0]), 1e-3).unwrap();
        assert_eq!(layer.codes, [0], "-120 / 931 rounds to 0, less than the bias resolves");
        let bias = layer.bias.unwrap()[0];
        assert!((1 << 29..=1 << 30).contains(&bias), "{bias}");
        assert!((f64::from(bias) * f64::from(layer.scales[0]) * 1e-3 - 1000.0).abs() < 1e-3);
    }
}
