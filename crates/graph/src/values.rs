//! What is known of the values of a graph without running it: which are never negative, and which are the image's own.
use crate::build::Graph;
use crate::op::{Activation, Op};

impl Graph {
    /// Tells for every node, in the order of [`Graph::nodes`], whether its output is known never to be negative: that of a
    /// ReLU is, and so is what pooling, flattening, dropout, concatenation, sum or zero-padded shortcut makes of such values
    /// alone.
    ///
    /// The quantizer then spends no bit of an activation on a sign.
    pub fn non_negative(&self) -> Vec<bool> {
        let mut known: Vec<bool> = Vec::with_capacity(self.nodes().len());
        for node in self.nodes() {
            known.push(match &node.op {
                Op::Relu | Op::Softmax => true,
                Op::Activation(Activation::Clip { min, .. }) => min.is_some_and(|min| min >= 0.0),
                Op::Activation(Activation::Sigmoid | Activation::HardSigmoid { .. } | Activation::Softplus) => true,
                // These are not negative where their input is not.
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

    /// Tells for every node, in the order of [`Graph::nodes`], whether the elements of its output are pixels of the image, moved,
    /// picked or each scaled by itself, or constants around them.
    ///
    /// They have as many levels as a pixel of the file, 256 as a rule, which a quantizer need not make fewer.
    pub fn image_values(&self) -> Vec<bool> {
        let mut known: Vec<bool> = Vec::with_capacity(self.nodes().len());
        for node in self.nodes() {
            known.push(match &node.op {
                Op::Input => true,
                Op::BatchNorm2d { .. }
                | Op::Affine { .. }
                | Op::Flatten
                | Op::Dropout { .. }
                | Op::Concat
                | Op::Slice { .. }
                | Op::Shuffle { .. }
                | Op::MaxPool2d(_)
                | Op::Pad2d { .. }
                | Op::PadShortcut { .. } => node.inputs.iter().all(|id| known[id.index()]),
                Op::Conv2d(_)
                | Op::Linear { .. }
                | Op::Relu
                | Op::PRelu { .. }
                | Op::Activation(_)
                | Op::AvgPool2d(_)
                | Op::AdaptiveAvgPool2d { .. }
                | Op::Add
                | Op::Max
                | Op::Mul
                | Op::Lrn { .. }
                | Op::Softmax => false,
            });
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Conv2d, NodeId, Pool2d, Shape};

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
        let found: Vec<(&str, bool)> =
            graph.nodes().iter().map(|n| n.name.as_str()).zip(graph.non_negative()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn knows_the_images_own_values() {
        let mut b = Builder::new("g", Shape::new(4, 4, 4));
        let scaled = b.push("scaled", Op::Affine { channels: 4 }, vec![b.input()]);
        let slice = b.push("slice", Op::Slice { start: 0, channels: 2 }, vec![scaled]);
        let both = b.push("both", Op::Concat, vec![slice, b.input()]);
        let picked = b.push("picked", Op::MaxPool2d(Pool2d::new(2, 2)), vec![both]);
        let conv = b.conv("conv", Conv2d::new(6, 6, 1), picked);
        let sum = b.push("sum", Op::Add, vec![conv, picked]);
        let mixed = b.push("mixed", Op::Concat, vec![sum, picked]);
        b.conv("out", Conv2d::new(12, 1, 1), mixed);
        let graph = b.finish().unwrap();
        let named =
            graph.nodes().iter().zip(graph.image_values()).filter(|(_, known)| *known).map(|(n, _)| n.name.as_str());
        assert_eq!(named.collect::<Vec<_>>(), ["input", "scaled", "slice", "both", "picked"]);
    }
}
