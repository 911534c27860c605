//! Passes: what a graph is rewritten to, or found to be, before it is quantized.
use crate::build::{Graph, NodeId};
use crate::op::Op;
use crate::weights::{Tensor, Weights};

/// Removes batch normalisation, and dropout with it.
///
/// A [`Op::BatchNorm2d`] that is the only consumer of a convolution or linear layer is folded into it,
///
/// `weight'[o] = weight[o] * k[o]`, `bias'[o] = (bias[o] - mean[o]) * k[o] + beta[o]`, `k = gamma / sqrt(var + eps)`:
///
/// the layer keeps its name and gains a bias, the normalisation disappears. Any other one becomes an [`Op::Affine`] under
/// its own name with `weight = k`, `bias = beta - mean * k` (DenseNet normalises before its convolutions). [`Op::Dropout`],
/// the identity at inference, is removed. All of it is computed in f64 and rounded once. The value of the output node
/// stays; parameters that no longer belong to a node are dropped.
///
/// # Panics
/// If `weights` lacks a parameter: check them first with [`Weights::check`].
pub fn fold_batch_norm(graph: &Graph, weights: &Weights) -> (Graph, Weights) {
    let nodes = graph.nodes();
    let mut weights = weights.clone();
    // Where the value of each old node is now, as an index into `kept`, and who else reads it.
    let mut place: Vec<usize> = Vec::with_capacity(nodes.len());
    let mut readers: Vec<usize> = Vec::new();
    let mut kept: Vec<(String, Op, Vec<usize>)> = Vec::new();
    let uses = graph.uses();

    for (i, node) in nodes.iter().enumerate() {
        let inputs: Vec<usize> = node.inputs.iter().map(|id| place[id.index()]).collect();
        let is_output = i + 1 == nodes.len();
        let keep = match &node.op {
            // A graph has a node beyond its input, so a lone dropout stays.
            Op::Dropout { .. } if !(is_output && inputs[0] == 0) => None,
            Op::BatchNorm2d { eps, .. } => {
                let norm = Norm::take(&mut weights, &node.name, *eps);
                let (layer, op, _) = &mut kept[inputs[0]];
                let foldable = readers[inputs[0]] == 1 && matches!(op, Op::Conv2d(_) | Op::Linear { .. });
                if foldable {
                    norm.fold_into(&mut weights, layer);
                    match op {
                        Op::Conv2d(conv) => conv.bias = true,
                        Op::Linear { bias, .. } => *bias = true,
                        _ => unreachable!("only layers are foldable"),
                    }
                    None
                } else {
                    let channels = norm.scale.len();
                    norm.into_affine(&mut weights, &node.name);
                    Some(Op::Affine { channels })
                }
            }
            op => Some(op.clone()),
        };
        match keep {
            Some(op) => {
                kept.push((node.name.clone(), op, inputs));
                readers.push(uses[i]);
                place.push(kept.len() - 1);
            }
            None => {
                // This node was one reader of its input; its own readers take its place.
                readers[inputs[0]] = readers[inputs[0]] - 1 + uses[i];
                place.push(inputs[0]);
            }
        }
    }

    let kept =
        kept.into_iter().map(|(name, op, inputs)| (name, op, inputs.into_iter().map(NodeId).collect::<Vec<_>>()));
    let folded = Graph::from_nodes(graph.name(), graph.input(), kept)
        .unwrap_or_else(|error| panic!("folding a valid graph gives a valid one: {error}"));
    (folded, weights)
}

/// A batch normalisation as `y = x * scale + shift`, in f64.
struct Norm {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Norm {
    /// Takes the parameters of `node` out of `weights`.
    fn take(weights: &mut Weights, node: &str, eps: f64) -> Self {
        let mut take = |suffix: &str| {
            let name = format!("{node}.{suffix}");
            let tensor = weights.0.remove(&name);
            tensor.unwrap_or_else(|| panic!("no tensor `{name}`: weights were not checked")).into_data()
        };
        let (gamma, beta, mean, var) = (take("weight"), take("bias"), take("running_mean"), take("running_var"));
        let scale: Vec<f64> =
            gamma.iter().zip(&var).map(|(&gamma, &var)| f64::from(gamma) / (f64::from(var) + eps).sqrt()).collect();
        let shift = scale.iter().zip(&mean).zip(&beta).map(|((k, &m), &b)| f64::from(b) - f64::from(m) * k).collect();
        Self { scale, shift }
    }

    fn fold_into(&self, weights: &mut Weights, layer: &str) {
        let name = format!("{layer}.weight");
        let weight = weights.0.get_mut(&name).unwrap_or_else(|| panic!("no tensor `{name}`: weights were not checked"));
        let row = weight.data().len() / self.scale.len();
        for (filter, k) in weight.data_mut().chunks_exact_mut(row.max(1)).zip(&self.scale) {
            for w in filter {
                *w = (f64::from(*w) * k) as f32;
            }
        }
        let name = format!("{layer}.bias");
        let old = weights.0.get(&name).map(Tensor::data);
        let at = |o: usize| old.map_or(0.0, |bias| f64::from(bias[o]));
        let bias: Vec<f32> = (0..self.scale.len()).map(|o| (at(o) * self.scale[o] + self.shift[o]) as f32).collect();
        weights.insert(name, Tensor::new([bias.len()], bias));
    }

    fn into_affine(self, weights: &mut Weights, node: &str) {
        for (suffix, values) in [("weight", self.scale), ("bias", self.shift)] {
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            weights.insert(format!("{node}.{suffix}"), Tensor::new([values.len()], values));
        }
    }
}

/// For every node, in the order of [`Graph::nodes`], whether its output is known never to be negative: a ReLU, or
/// pooling, flattening, dropout, concatenation, sum or zero-padded shortcut of such values only.
///
/// The quantizer then spends no bit of an activation on a sign.
pub fn non_negative(graph: &Graph) -> Vec<bool> {
    let mut known: Vec<bool> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        known.push(match &node.op {
            Op::Relu => true,
            Op::MaxPool2d(_)
            | Op::AvgPool2d(_)
            | Op::AdaptiveAvgPool2d { .. }
            | Op::Flatten
            | Op::Dropout { .. }
            | Op::Concat
            | Op::Add
            | Op::PadShortcut { .. } => node.inputs.iter().all(|id| known[id.index()]),
            Op::Input | Op::Conv2d(_) | Op::Linear { .. } | Op::BatchNorm2d { .. } | Op::Affine { .. } => false,
        });
    }
    known
}
