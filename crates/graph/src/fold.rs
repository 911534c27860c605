//! Folding: batch normalisation becomes part of the layer before it.
use std::ops::Deref;

use crate::build::{Builder, Graph, NodeId, Role};
use crate::op::Op;
use crate::weights::{Tensor, Weights, WeightsError};

/// A graph without batch normalisation and dropout. Such graphs are quantized, simulated and deployed.
///
/// It dereferences to [`Graph`]; [`Graph::fold`] makes it.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldedGraph(Graph);

impl Deref for FoldedGraph {
    type Target = Graph;
    fn deref(&self) -> &Graph {
        &self.0
    }
}

impl FoldedGraph {
    /// Returns the graph itself.
    pub fn into_graph(self) -> Graph {
        self.0
    }

    /// Removes a softmax or sigmoid at the end, so that the outputs are logits; see [`Graph::without_head`].
    pub fn without_head(self) -> Self {
        Self(self.0.without_head().unwrap_or(self.0))
    }
}

/// A network whose batch normalisation is folded into its layers, with exactly the parameters that it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    graph: FoldedGraph,
    weights: Weights,
}

impl Folded {
    /// Folds a network.
    ///
    /// An [`Op::BatchNorm2d`] that alone reads the output of a convolution or linear layer becomes part of that layer:
    ///
    /// `weight'[o] = weight[o] * k[o]`, `bias'[o] = (bias[o] - mean[o]) * k[o] + beta[o]`, `k = gamma / sqrt(var + eps)`.
    ///
    /// The layer keeps its name and gains a bias; the normalisation is removed. Any other normalisation becomes an
    /// [`Op::Affine`] of the same name with `weight = k`, `bias = beta - mean * k` (DenseNet normalises before its
    /// convolutions). [`Op::Dropout`], the identity at inference, is removed. All of this is computed in f64 and rounded
    /// once. The network computes what it did before; folding it again changes nothing.
    ///
    /// # Errors
    /// [`WeightsError`] where the weights are not exactly those that the graph needs.
    pub fn new(graph: &Graph, mut weights: Weights) -> Result<Self, WeightsError> {
        weights.check(graph)?;
        let (graph, norms) = plan(graph);
        for norm in &norms {
            norm.apply(&mut weights);
        }
        debug_assert_eq!(weights.check(&graph), Ok(()));
        Ok(Self { graph, weights })
    }

    /// Returns the folded graph.
    pub fn graph(&self) -> &FoldedGraph {
        &self.graph
    }

    /// Returns all parameters of the folded graph.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Removes a softmax or sigmoid at the end, so that the outputs are logits; see [`Graph::without_head`].
    pub fn without_head(self) -> Self {
        Self { graph: self.graph.without_head(), weights: self.weights }
    }

    /// Returns the folded graph and its parameters.
    pub fn into_parts(self) -> (FoldedGraph, Weights) {
        (self.graph, self.weights)
    }
}

impl Graph {
    /// Returns the graph that [`Folded::new`] makes of this one.
    pub fn fold(&self) -> FoldedGraph {
        plan(self).0
    }
}

/// A batch normalisation that is folded.
struct Norm {
    name: String,
    channels: usize,
    eps: f64,
    /// The name of the layer that it becomes part of; `None` where it becomes an [`Op::Affine`].
    layer: Option<String>,
}

/// Returns the graph after folding, and the normalisations that were folded, in the graph's order.
fn plan(graph: &Graph) -> (FoldedGraph, Vec<Norm>) {
    let nodes = graph.nodes();
    let mut norms = Vec::new();
    // For each old node, the index in `kept` of the node that has its value now; for each kept node, how many read it.
    let mut place: Vec<usize> = Vec::with_capacity(nodes.len());
    let mut readers: Vec<usize> = Vec::new();
    let mut kept: Vec<(String, Op, Vec<usize>)> = Vec::new();
    let uses = graph.uses();

    for (i, node) in nodes.iter().enumerate() {
        let inputs: Vec<usize> = node.inputs.iter().map(|id| place[id.index()]).collect();
        let is_output = i + 1 == nodes.len();
        let keep = match &node.op {
            // A graph has at least one node beyond its input, so a dropout that would be the only one stays.
            Op::Dropout { .. } if !(is_output && inputs[0] == 0) => None,
            &Op::BatchNorm2d { channels, eps } => {
                let (layer, op, _) = &mut kept[inputs[0]];
                let bias = match op {
                    Op::Conv2d(conv) => Some(&mut conv.bias),
                    Op::Linear { bias, .. } => Some(bias),
                    _ => None,
                };
                let bias = bias.filter(|_| readers[inputs[0]] == 1);
                let layer = bias.map(|bias| {
                    *bias = true;
                    layer.clone()
                });
                let keep = layer.is_none().then_some(Op::Affine { channels });
                norms.push(Norm { name: node.name.clone(), channels, eps, layer });
                keep
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
    // With fewer parameters the budget is smaller, but a network that was within it may be folded.
    let folded = Builder::of_nodes(graph.name().into(), graph.input(), kept)
        .and_then(Builder::finish_at_any_cost)
        .unwrap_or_else(|error| panic!("folding a valid graph gives a valid one: {error}"));
    (FoldedGraph(folded), norms)
}

impl Norm {
    /// Removes the normalisation's parameters and changes those of its layer, or adds those of its affine node. `weights`
    /// must be those that the graph needs.
    fn apply(&self, weights: &mut Weights) {
        let mut take = |role: Role| {
            let tensor = weights.remove(&role.name(&self.name));
            tensor.unwrap_or_else(|| panic!("`{}` was checked to have all parameters", self.name)).into_data()
        };
        let (gamma, beta, mean, var) = (take(Role::Gamma), take(Role::Bias), take(Role::Mean), take(Role::Variance));
        // y = x * scale + shift, in f64.
        let scale: Vec<f64> = gamma
            .iter()
            .zip(&var)
            .map(|(&gamma, &var)| f64::from(gamma) / (f64::from(var) + self.eps).sqrt())
            .collect();
        let shift: Vec<f64> =
            scale.iter().zip(&mean).zip(&beta).map(|((k, &m), &b)| f64::from(b) - f64::from(m) * k).collect();
        let vector = |values: Vec<f64>| Tensor::new([self.channels], values.into_iter().map(|v| v as f32).collect());
        let Some(layer) = &self.layer else {
            weights.insert(Role::Gamma.name(&self.name), vector(scale));
            weights.insert(Role::Bias.name(&self.name), vector(shift));
            return;
        };
        let old = weights.of(layer).bias().map(Tensor::data);
        let at = |o: usize| old.map_or(0.0, |bias| f64::from(bias[o]));
        let bias = (0..scale.len()).map(|o| at(o) * scale[o] + shift[o]).collect();
        weights.insert(Role::Bias.name(layer), vector(bias));
        let weight = weights.get_mut(&Role::Weight.name(layer));
        let weight = weight.unwrap_or_else(|| panic!("`{layer}` was checked to have a weight"));
        let row = weight.data().len() / scale.len();
        for (filter, k) in weight.data_mut().chunks_exact_mut(row).zip(&scale) {
            for w in filter {
                *w = (f64::from(*w) * k) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2d, Shape};

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new([values.len()], values.to_vec())
    }

    /// Inserts gamma, beta, mean and variance of the node `name`.
    fn insert_norm(weights: &mut Weights, name: &str, [gamma, beta, mean, var]: [&[f32]; 4]) {
        for (role, values) in [(Role::Gamma, gamma), (Role::Bias, beta), (Role::Mean, mean), (Role::Variance, var)] {
            weights.insert(role.name(name), tensor(values));
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

        let (folded, weights) = Folded::new(&graph, weights).unwrap().into_parts();
        weights.check(&folded).unwrap();
        assert_eq!(names(&folded), ["input", "conv", "relu"]);
        // k = gamma / sqrt(var + eps) = [3 / sqrt(0.75 + 0.25), 1 / sqrt(3.75 + 0.25)] = [3, 0.5]
        // weight' = [2 * 3, -1 * 0.5]; bias' = beta - mean * k = [0.5 - 1 * 3, 0 + 2 * 0.5]
        assert_eq!(weights["conv.weight"].data(), [6.0, -0.5]);
        assert_eq!(weights["conv.bias"].data(), [-2.5, 1.0]);
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

        let (folded, weights) = Folded::new(&graph, weights).unwrap().into_parts();
        assert_eq!(names(&folded), ["input", "conv"]);
        // k = [1 / 2, 1 / 4], both exact.
        let expected: Vec<f32> = values.iter().enumerate().map(|(i, w)| w * if i < 18 { 0.5 } else { 0.25 }).collect();
        assert_eq!(weights["conv.weight"].data(), expected);
        // bias' = (bias - mean) * k + beta = [(10 - 4) / 2 + 7, (20 - 16) / 4 + 8]
        assert_eq!(weights["conv.bias"].data(), [10.0, 9.0]);
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

        let (folded, weights) = Folded::new(&graph, weights).unwrap().into_parts();
        assert_eq!(names(&folded), ["input", "fc"]);
        // weight: times 2 times 3. bias: ((3 - 1) * 2 + 1 - 1) * 3 = 12.
        assert_eq!(weights["fc.weight"].data(), [6.0, 12.0]);
        assert_eq!(weights["fc.bias"].data(), [12.0]);
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

        let (folded, weights) = Folded::new(&graph, weights).unwrap().into_parts();
        weights.check(&folded).unwrap();
        assert_eq!(names(&folded), names(&graph));
        assert!(
            ["bn0", "bn1", "bn2"].iter().all(|n| matches!(folded.node(folded.find(n).unwrap()).op, Op::Affine { .. }))
        );
        assert_eq!(weights["conv.weight"].data(), [2.0]);
        // weight = gamma / sqrt(var + eps) = [4 / sqrt(4), 1 / sqrt(9)]; bias = beta - mean * weight = [5 - 3 * 2, 0]
        assert_eq!(weights["bn2.weight"].data(), [2.0, 1.0 / 3.0]);
        assert_eq!(weights["bn2.bias"].data(), [-1.0, 0.0]);
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
        let (folded, weights) = Folded::new(&graph, Weights::init(&graph, 1)).unwrap().into_parts();
        weights.check(&folded).unwrap();
        assert_eq!(names(&folded), ["input", "conv", "relu", "add"]);
        let inputs = |name: &str| -> Vec<usize> {
            folded.node(folded.find(name).unwrap()).inputs.iter().map(|id| id.index()).collect()
        };
        assert_eq!((inputs("relu"), inputs("add")), (vec![1], vec![2, 1]));
        // Nothing is left to fold.
        assert_eq!(Folded::new(&folded, weights.clone()).unwrap().into_parts(), (folded, weights));
    }

    #[test]
    fn a_lone_dropout_stays() {
        let mut b = Builder::new("g", Shape::new(1, 1, 1));
        b.push("drop", Op::Dropout { p: 0.1 }, vec![b.input()]);
        let graph = b.finish().unwrap();
        assert_eq!(*graph.fold(), graph);
    }

    /// Its normalisation has more parameters than the bias that is left of it, and the budget grows with parameters.
    #[test]
    fn folds_a_network_that_just_keeps_its_budget() {
        let network = |width: usize| {
            let mut b = Builder::new("g", Shape::new(16, 1024, width));
            let x = b.conv("conv", Conv2d::new(16, 16, 3), b.input());
            let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
            let x = b.linear("fc", 1024, x);
            b.batch_norm("bn", 1e-5, x);
            b.finish()
        };
        let graph = (3000..5000).rev().find_map(|width| network(width).ok()).expect("a width within the budget");
        let folded = graph.fold();
        assert_eq!(names(&folded), ["input", "conv", "pool", "fc"]);
        assert!(folded.check_budget().is_err(), "the case that this test is for");
    }
}
