//! Passes: what a graph is rewritten to, or found to be, before it is quantized.
use crate::build::{Graph, NodeId};
use crate::op::{Activation, Op};
use crate::weights::{Tensor, Weights};

/// Removes batch normalisation, and dropout with it.
///
/// A [`Op::BatchNorm2d`] that is the only consumer of a convolution or linear layer is folded into it,
///
/// `weight'[o] = weight[o] * k[o]`, `bias'[o] = (bias[o] - mean[o]) * k[o] + beta[o]`, `k = gamma / sqrt(var + eps)`:
///
/// the layer keeps its name and gains a bias, the normalisation disappears. Any other one becomes an [`Op::Affine`]
/// under its own name with `weight = k`, `bias = beta - mean * k` (DenseNet normalises before its convolutions).
/// [`Op::Dropout`], the identity at inference, is removed. All of it is computed in f64 and rounded once. The value of
/// the output node stays; parameters that no longer belong to a node are dropped.
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
        for (filter, k) in weight.data_mut().chunks_exact_mut(row).zip(&self.scale) {
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
            Op::Relu | Op::Softmax => true,
            Op::Activation(Activation::Clip { min, .. }) => min.is_some_and(|min| min >= 0.0),
            Op::Activation(Activation::Sigmoid | Activation::HardSigmoid { .. } | Activation::Softplus) => true,
            // Of a non-negative input these are non-negative too.
            Op::Activation(
                Activation::HardSwish
                | Activation::Silu
                | Activation::LeakyRelu { .. }
                | Activation::Tanh
                | Activation::Elu { .. },
            )
            | Op::PRelu { .. } => known[node.inputs[0].index()],
            Op::Max => node.inputs.iter().any(|id| known[id.index()]),
            Op::Pad2d { value, .. } => *value >= 0.0 && known[node.inputs[0].index()],
            Op::MaxPool2d(_)
            | Op::AvgPool2d(_)
            | Op::AdaptiveAvgPool2d { .. }
            | Op::Flatten
            | Op::Dropout { .. }
            | Op::Concat
            | Op::Add
            | Op::Mul
            | Op::Lrn { .. }
            | Op::Slice { .. }
            | Op::Shuffle { .. }
            | Op::PadShortcut { .. } => node.inputs.iter().all(|id| known[id.index()]),
            Op::Input | Op::Conv2d(_) | Op::Linear { .. } | Op::BatchNorm2d { .. } | Op::Affine { .. } => false,
        });
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Conv2d, Pool2d, Shape};

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new([values.len()], values.to_vec())
    }

    /// gamma, beta, mean, var of the node `name`.
    fn insert_norm(weights: &mut Weights, name: &str, [gamma, beta, mean, var]: [&[f32]; 4]) {
        for (suffix, values) in [("weight", gamma), ("bias", beta), ("running_mean", mean), ("running_var", var)] {
            weights.insert(format!("{name}.{suffix}"), tensor(values));
        }
    }

    fn names(graph: &Graph) -> Vec<&str> {
        graph.nodes().iter().map(|n| n.name.as_str()).collect()
    }

    #[test]
    fn folds_into_the_convolution_before() {
        let mut b = Builder::new("g", Shape::new(1, 1, 1));
        let x = b.conv("conv", Conv2d::new(1, 2, 1), b.input());
        let x = b.batch_norm("bn", 0.25, x);
        b.relu("relu", x);
        let graph = b.finish().unwrap();
        let mut weights = Weights::default();
        weights.insert("conv.weight", Tensor::new([2, 1, 1, 1], vec![2.0, -1.0]));
        insert_norm(&mut weights, "bn", [&[3.0, 1.0], &[0.5, 0.0], &[1.0, -2.0], &[0.75, 3.75]]);
        weights.check(&graph).unwrap();

        let (folded, weights) = fold_batch_norm(&graph, &weights);
        weights.check(&folded).unwrap();
        assert_eq!(names(&folded), ["input", "conv", "relu"]);
        // k = gamma / sqrt(var + eps) = [3 / sqrt(0.75 + 0.25), 1 / sqrt(3.75 + 0.25)] = [3, 0.5]
        // weight' = [2 * 3, -1 * 0.5]; bias' = beta - mean * k = [0.5 - 1 * 3, 0 + 2 * 0.5]
        assert_eq!(weights.get("conv.weight").data(), [6.0, -0.5]);
        assert_eq!(weights.get("conv.bias").data(), [-2.5, 1.0]);
        // At x = 2 the first channel was (2 * 2 - 1) * 3 + 0.5 = 9.5, and is 6 * 2 - 2.5 = 9.5.
    }

    #[test]
    fn folds_a_whole_filter_and_the_bias_it_had() {
        let mut b = Builder::new("g", Shape::new(4, 3, 3));
        let conv = Conv2d { groups: 2, ..Conv2d::new(4, 2, 3).bias() };
        let x = b.conv("conv", conv, b.input());
        b.batch_norm("bn", 0.0, x);
        let graph = b.finish().unwrap();
        let mut weights = Weights::default();
        let values: Vec<f32> = (0..36).map(|i| i as f32).collect();
        weights.insert("conv.weight", Tensor::new([2, 2, 3, 3], values.clone()));
        weights.insert("conv.bias", tensor(&[10.0, 20.0]));
        insert_norm(&mut weights, "bn", [&[1.0, 1.0], &[7.0, 8.0], &[4.0, 16.0], &[4.0, 16.0]]);

        let (folded, weights) = fold_batch_norm(&graph, &weights);
        assert_eq!(names(&folded), ["input", "conv"]);
        // k = [1 / 2, 1 / 4], both exact.
        let expected: Vec<f32> = values.iter().enumerate().map(|(i, w)| w * if i < 18 { 0.5 } else { 0.25 }).collect();
        assert_eq!(weights.get("conv.weight").data(), expected);
        // bias' = (bias - mean) * k + beta = [(10 - 4) / 2 + 7, (20 - 16) / 4 + 8]
        assert_eq!(weights.get("conv.bias").data(), [10.0, 9.0]);
        assert_eq!(folded.nodes()[1].op, Op::Conv2d(Conv2d { groups: 2, ..Conv2d::new(4, 2, 3).bias() }));
        weights.check(&folded).unwrap();
    }

    #[test]
    fn folds_twice_through_dropout_into_a_linear_layer() {
        let mut b = Builder::new("g", Shape::new(2, 1, 1));
        let x = b.linear("fc", 1, b.input());
        let x = b.push("drop", Op::Dropout { p: 0.5 }, vec![x]);
        let x = b.batch_norm("bn1", 0.0, x);
        let x = b.batch_norm("bn2", 0.0, x);
        b.push("last", Op::Dropout { p: 0.5 }, vec![x]);
        let graph = b.finish().unwrap();
        let mut weights = Weights::default();
        weights.insert("fc.weight", Tensor::new([1, 2], vec![1.0, 2.0]));
        weights.insert("fc.bias", tensor(&[3.0]));
        insert_norm(&mut weights, "bn1", [&[2.0], &[1.0], &[1.0], &[1.0]]);
        insert_norm(&mut weights, "bn2", [&[3.0], &[0.0], &[1.0], &[1.0]]);

        let (folded, weights) = fold_batch_norm(&graph, &weights);
        assert_eq!(names(&folded), ["input", "fc"]);
        // weight: times 2 times 3. bias: ((3 - 1) * 2 + 1 - 1) * 3 = 12.
        assert_eq!(weights.get("fc.weight").data(), [6.0, 12.0]);
        assert_eq!(weights.get("fc.bias").data(), [12.0]);
        weights.check(&folded).unwrap();
    }

    #[test]
    fn a_normalisation_that_cannot_fold_becomes_affine() {
        // DenseNet: the convolution's output is normalised and concatenated, so nothing may change it.
        let mut b = Builder::new("g", Shape::new(1, 2, 2));
        let first = b.batch_norm("bn0", 0.0, b.input());
        let conv = b.conv("conv", Conv2d::new(1, 1, 1), first);
        let norm = b.batch_norm("bn1", 0.0, conv);
        let relu = b.relu("relu", norm);
        let joined = b.push("concat", Op::Concat, vec![conv, relu]);
        b.batch_norm("bn2", 3.0, joined);
        let graph = b.finish().unwrap();
        let mut weights = Weights::default();
        weights.insert("conv.weight", Tensor::new([1, 1, 1, 1], vec![2.0]));
        insert_norm(&mut weights, "bn0", [&[1.0], &[0.0], &[0.0], &[1.0]]);
        insert_norm(&mut weights, "bn1", [&[1.0], &[0.0], &[0.0], &[4.0]]);
        insert_norm(&mut weights, "bn2", [&[4.0, 1.0], &[5.0, 0.0], &[3.0, 0.0], &[1.0, 6.0]]);

        let (folded, weights) = fold_batch_norm(&graph, &weights);
        weights.check(&folded).unwrap();
        assert_eq!(names(&folded), names(&graph));
        assert!(
            ["bn0", "bn1", "bn2"].iter().all(|n| matches!(folded.node(folded.find(n).unwrap()).op, Op::Affine { .. }))
        );
        assert_eq!(weights.get("conv.weight").data(), [2.0]);
        // weight = gamma / sqrt(var + eps) = [4 / sqrt(4), 1 / sqrt(9)]; bias = beta - mean * weight = [5 - 3 * 2, 0]
        assert_eq!(weights.get("bn2.weight").data(), [2.0, 1.0 / 3.0]);
        assert_eq!(weights.get("bn2.bias").data(), [-1.0, 0.0]);
    }

    #[test]
    fn edges_follow_to_every_reader() {
        let mut b = Builder::new("g", Shape::new(1, 2, 2));
        let conv = b.conv("conv", Conv2d::new(1, 1, 1), b.input());
        let norm = b.batch_norm("bn", 1e-5, conv);
        let drop = b.push("drop", Op::Dropout { p: 0.1 }, vec![norm]);
        let relu = b.relu("relu", drop);
        b.push("add", Op::Add, vec![relu, norm]);
        let graph = b.finish().unwrap();
        let (folded, weights) = fold_batch_norm(&graph, &Weights::init(&graph, 1));
        weights.check(&folded).unwrap();
        assert_eq!(names(&folded), ["input", "conv", "relu", "add"]);
        let inputs = |name: &str| -> Vec<usize> {
            folded.node(folded.find(name).unwrap()).inputs.iter().map(|id| id.index()).collect()
        };
        assert_eq!((inputs("relu"), inputs("add")), (vec![1], vec![2, 1]));
        // Nothing is left to fold.
        assert_eq!(fold_batch_norm(&folded, &weights), (folded, weights));
    }

    #[test]
    fn a_lone_dropout_stays() {
        let mut b = Builder::new("g", Shape::new(1, 1, 1));
        b.push("drop", Op::Dropout { p: 0.1 }, vec![b.input()]);
        let graph = b.finish().unwrap();
        assert_eq!(fold_batch_norm(&graph, &Weights::default()).0, graph);
    }

    #[test]
    fn knows_what_is_not_negative() {
        let mut b = Builder::new("g", Shape::new(2, 4, 4));
        let mut expected = vec![("input", false)];
        let mut push = |name: &'static str, op: Op, inputs: Vec<NodeId>, known: bool| {
            expected.push((name, known));
            b.push(name, op, inputs)
        };
        let input = NodeId(0);
        let conv = push("conv", Op::Conv2d(Conv2d::new(2, 2, 1)), vec![input], false);
        let relu = push("relu", Op::Relu, vec![conv], true);
        let max = push("max", Op::MaxPool2d(Pool2d::new(3, 1).padding(1)), vec![relu], true);
        let avg = push("avg", Op::AvgPool2d(Pool2d::new(1, 1)), vec![max], true);
        let both = push("add", Op::Add, vec![avg, relu], true);
        let one = push("add_signed", Op::Add, vec![both, conv], false);
        let concat = push("concat", Op::Concat, vec![relu, both], true);
        let mixed = push("concat_signed", Op::Concat, vec![concat, one], false);
        let pad = push("pad", Op::PadShortcut { stride: 1, before: 0, after: 2 }, vec![concat], true);
        let all = push("all", Op::Add, vec![pad, mixed], false);
        let affine = push("affine", Op::Affine { channels: 6 }, vec![all], false);
        let again = push("relu2", Op::Relu, vec![affine], true);
        let drop = push("drop", Op::Dropout { p: 0.5 }, vec![again], true);
        let gap = push("gap", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![drop], true);
        let flat = push("flat", Op::Flatten, vec![gap], true);
        push("fc", Op::Linear { in_features: 6, out_features: 1, bias: true }, vec![flat], false);
        let graph = b.finish().unwrap();
        let found: Vec<(&str, bool)> = names(&graph).into_iter().zip(non_negative(&graph)).collect();
        assert_eq!(found, expected);
    }
}
