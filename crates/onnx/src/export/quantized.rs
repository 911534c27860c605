//! Where the `int8` profile rounds, and to what.
use std::collections::BTreeMap;

use blockfloat::QuantizedWeights;
use graph::{Activation, Graph, NodeId, Op, pass};

use super::ExportError;

/// The values that a node's output takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Smallest value that is kept apart.
    pub min: f32,
    /// Largest value that is kept apart.
    pub max: f32,
}

/// Ranges by node name: those of [`observed`] must be there.
pub type Ranges = BTreeMap<String, Range>;

/// Which 8-bit integers stand for activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActivationCodes {
    /// `UINT8`, with a zero point where values can be negative: all 256 codes are used. ONNX Runtime, OpenVINO.
    #[default]
    Unsigned,
    /// `INT8` with zero point 0, which is all that TensorRT takes.
    Symmetric,
}

/// Where a node's output is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// Nowhere: the next node takes it as it is.
    Open,
    /// To its own range.
    Own,
    /// To the numbers of an earlier node, whose values it only moves.
    Same(NodeId),
}

/// One point for every node of a graph with folded batch normalisation.
pub(super) fn points(graph: &Graph) -> Vec<Point> {
    let nodes = graph.nodes();
    let uses = graph.uses();
    // The only reader of a node.
    let mut reader = vec![None; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            reader[input.index()] = Some(i).filter(|_| uses[input.index()] == 1);
        }
    }
    // Outputs that reach the network's through nodes that lose nothing: logits are not rounded.
    let mut last = vec![false; nodes.len()];
    for i in (0..nodes.len()).rev() {
        let through = |r: usize| last[r] && (moves(&nodes[r].op) || nodes[r].op == Op::Softmax);
        last[i] = i + 1 == nodes.len() || (reader[i].is_some_and(through) && !matches!(nodes[i].op, Op::Conv2d(_)));
    }
    let mut points: Vec<Point> = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        let rectified = reader[i].is_some_and(|r| rectifies(&nodes[r].op))
            && matches!(
                node.op,
                Op::Conv2d(_) | Op::Linear { .. } | Op::Affine { .. } | Op::BatchNorm2d { .. } | Op::Add | Op::Mul
            );
        points.push(if last[i] || rectified {
            Point::Open
        } else if moves(&node.op) {
            match points[node.inputs[0].index()] {
                Point::Own => Point::Same(node.inputs[0]),
                Point::Same(id) => Point::Same(id),
                Point::Open => Point::Own,
            }
        } else {
            Point::Own
        });
    }
    points
}

/// Nodes whose ranges [`super::Profile::Int8`] needs, in the order of the graph, which has its batch normalisation folded.
pub fn observed(graph: &Graph) -> Vec<NodeId> {
    let own = |(i, point): (usize, Point)| (point == Point::Own).then(|| graph.find(&graph.nodes()[i].name));
    points(graph).into_iter().enumerate().filter_map(own).flatten().collect()
}

/// Whether a node's outputs are some of its inputs, or zeros.
fn moves(op: &Op) -> bool {
    match op {
        Op::MaxPool2d(_) | Op::Flatten | Op::Slice { .. } | Op::Shuffle { .. } | Op::PadShortcut { .. } => true,
        Op::Dropout { .. } => true,
        Op::Pad2d { value, .. } => *value == 0.0,
        _ => false,
    }
}

/// Whether a runtime makes this part of the integer operation before it: the codes end at 0.
fn rectifies(op: &Op) -> bool {
    matches!(op, Op::Relu | Op::Activation(Activation::Clip { min: Some(0.0), .. }))
}

/// `value = (code - zero) * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    pub(super) scale: f32,
    pub(super) zero: i32,
    pub(super) unsigned: bool,
}

impl Grid {
    /// Codes for a range. Zero is always a code; no code stands for more than `max`, so that a clip to `max` before the
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
pub(super) struct Layer {
    /// Row-major, as the weight.
    pub(super) codes: Vec<i8>,
    /// One an output channel, positive and normal.
    pub(super) scales: Vec<f32>,
    /// One an output channel.
    pub(super) bias: Option<Vec<i32>>,
}

/// Largest magnitude of a bias code: leaves the accumulator room for the products.
const LARGEST_BIAS: f64 = (1 << 30) as f64;

impl Layer {
    /// From codes with two-level scales, for inputs with the scale `input`.
    pub(super) fn new(
        name: &str,
        weights: &QuantizedWeights,
        bias: Option<&[f32]>,
        input: f32,
    ) -> Result<Self, ExportError> {
        let (Some(two_level), Some(mut codes)) = (weights.two_level(), weights.int8_weights()) else {
            return Err(ExportError::BlockScales { layer: name.into() });
        };
        let mut scales = two_level.channel().to_vec();
        let filter = codes.len() / scales.len();
        for (o, (codes, scale)) in codes.chunks_mut(filter).zip(&mut scales).enumerate() {
            if *scale < 0.0 {
                *scale = -*scale;
                codes.iter_mut().for_each(|q| *q = -*q);
            }
            let bias = f64::from(bias.map_or(0.0, |bias| bias[o])).abs() / f64::from(input);
            if codes.iter().all(|&q| q == 0) || *scale == 0.0 {
                // Nothing but a bias: any scale that resolves it well.
                codes.fill(0);
                *scale = if bias > 0.0 { (bias / f64::from(1 << 24)) as f32 } else { 1.0 };
            }
            // A bias that is huge beside the weights widens their steps.
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
        Ok(Self { codes, scales, bias })
    }
}

/// The grid of every node that has one.
pub(super) fn grids(graph: &Graph, ranges: &Ranges, codes: ActivationCodes) -> Result<Vec<Option<Grid>>, ExportError> {
    let non_negative = pass::non_negative(graph);
    let mut grids: Vec<Option<Grid>> = Vec::new();
    for (i, (node, point)) in graph.nodes().iter().zip(points(graph)).enumerate() {
        grids.push(match point {
            Point::Open => None,
            Point::Same(id) => grids[id.index()],
            Point::Own => {
                let range = ranges.get(&node.name).filter(|r| r.min.is_finite() && r.max.is_finite());
                let range = range.ok_or_else(|| ExportError::Range { node: node.name.clone() })?;
                Some(Grid::new(*range, non_negative[i], codes))
            }
        });
    }
    Ok(grids)
}
