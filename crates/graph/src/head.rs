use crate::build::{Builder, Graph, Node};
use crate::op::{Activation, Op};

/// What the outputs of a classifier are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Logits: one class is right, and a softmax turns them into probabilities.
    Logits,
    /// Probabilities of classes, one of which is right: the network ends in a softmax.
    Softmax,
    /// Independent probabilities, one for each output: the network ends in a sigmoid.
    Sigmoid,
    /// Values computed from a softmax or sigmoid, such as the mean of two or a percentage: a larger value means a likelier
    /// class, and no more is known.
    Values,
}

/// How a network's outputs are read as classes; [`Graph::head`] finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the outputs are.
    pub outputs: Outputs,
    /// The number of outputs.
    pub count: usize,
}

impl Head {
    /// Returns the number of classes: the number of outputs, or 2 if a single output decides between two classes.
    pub fn classes(self) -> usize {
        self.count + usize::from(self.is_binary())
    }

    /// Tells whether a single output decides between two classes: it is the probability or logit of class 1.
    pub fn is_binary(self) -> bool {
        self.count == 1 && self.outputs != Outputs::Values
    }

    /// Tells whether several classes can be right at the same time.
    pub fn is_multi_label(self) -> bool {
        self.outputs == Outputs::Sigmoid && self.count > 1
    }

    /// Returns the names of the classes, of those that a model gives: as many as there are classes, or none. One name for one
    /// output is that of class 1.
    pub fn names(self, given: &[String]) -> Vec<String> {
        match given {
            [name] if self.is_binary() => vec![format!("not {name}"), name.clone()],
            names if names.len() == self.classes() => names.to_vec(),
            _ => Vec::new(),
        }
    }

    /// Returns the probability of each class from one image's outputs; the outputs themselves if they are
    /// [`Outputs::Values`]. A single output without a sigmoid is read as the logit of class 1, as PyTorch's
    /// `BCEWithLogitsLoss` trains it.
    ///
    /// # Panics
    /// If there are not [`count`](Self::count) outputs.
    pub fn probabilities(self, outputs: &[f32]) -> Vec<f64> {
        assert_eq!(outputs.len(), self.count, "one value an output");
        if let (&[output], true) = (outputs, self.is_binary()) {
            let output = f64::from(output);
            // A softmax of one class is always 1.
            let second = if self.outputs == Outputs::Logits { 1.0 / (1.0 + (-output).exp()) } else { output };
            return vec![1.0 - second, second];
        }
        if self.outputs != Outputs::Logits {
            return outputs.iter().map(|&p| f64::from(p)).collect();
        }
        let largest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp: Vec<f64> = outputs.iter().map(|&v| (f64::from(v) - f64::from(largest)).exp()).collect();
        let sum: f64 = exp.iter().sum();
        exp.into_iter().map(|e| e / sum).collect()
    }
}

impl Graph {
    /// Returns the last node whose operation changes values.
    fn last(&self) -> &Node {
        let mut node = &self.nodes()[self.nodes().len() - 1];
        while let (Op::Flatten | Op::Dropout { .. }, &[input]) = (&node.op, node.inputs.as_slice()) {
            node = self.node(input);
        }
        node
    }

    /// Returns the network without a softmax or sigmoid at its end, so that its outputs are logits. Its parameters are the
    /// same. `None` if the outputs are logits already, if something else is computed after the softmax or sigmoid, or if
    /// nothing would be left.
    pub fn without_head(&self) -> Option<Self> {
        let last = self.last();
        let &[input] = last.inputs.as_slice() else { return None };
        if !matches!(self.head().outputs, Outputs::Softmax | Outputs::Sigmoid) || input.index() == 0 {
            return None;
        }
        // All nodes after `input` lead to the one that is removed.
        let nodes = &self.nodes()[..=input.index()];
        let nodes = nodes.iter().map(|node| (node.name.clone(), node.op.clone(), node.inputs.clone()));
        // A folded graph may be over its budget: see `Graph::fold`.
        let graph = Builder::of_nodes(self.name().into(), self.input(), nodes).and_then(Builder::finish_at_any_cost);
        Some(graph.expect("a part of a graph that was checked"))
    }

    /// Finds how the outputs are read as classes, from the last operation that changes values and from what comes after the
    /// last layer with weights.
    pub fn head(&self) -> Head {
        let outputs = match probabilities(&self.last().op) {
            Some(outputs) => outputs,
            None if self.ends_after_probabilities() => Outputs::Values,
            None => Outputs::Logits,
        };
        Head { outputs, count: self.output().elements() }
    }

    /// Tells whether the outputs depend on a softmax or sigmoid that no convolution or linear layer comes after.
    fn ends_after_probabilities(&self) -> bool {
        let mut reached = vec![false; self.nodes().len()];
        *reached.last_mut().expect("a graph has nodes") = true;
        for (i, node) in self.nodes().iter().enumerate().rev() {
            if !reached[i] || matches!(node.op, Op::Conv2d(_) | Op::Linear { .. }) {
                continue;
            }
            if probabilities(&node.op).is_some() {
                return true;
            }
            node.inputs.iter().for_each(|input| reached[input.index()] = true);
        }
        false
    }
}

/// Tells what an operation's values are, if they are probabilities.
fn probabilities(op: &Op) -> Option<Outputs> {
    match op {
        Op::Softmax => Some(Outputs::Softmax),
        Op::Activation(Activation::Sigmoid | Activation::HardSigmoid { .. }) => Some(Outputs::Sigmoid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    fn head(classes: usize, last: Option<Op>) -> Head {
        let mut b = Builder::new("n", Shape::new(3, 2, 2));
        let x = b.push("flatten", Op::Flatten, vec![b.input()]);
        let x = b.linear("fc", classes, x);
        if let Some(op) = last {
            let x = b.push("last", op, vec![x]);
            b.push("drop", Op::Dropout { p: 0.5 }, vec![x]);
        }
        b.finish().unwrap().head()
    }

    #[test]
    fn names_are_as_many_as_classes() {
        let names = |head: Head, given: &[&str]| head.names(&given.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(names(head(2, None), &["cat", "dog"]), ["cat", "dog"]);
        assert_eq!(names(head(1, None), &["cat"]), ["not cat", "cat"]);
        assert!(names(head(3, None), &["cat", "dog"]).is_empty());
    }

    #[test]
    fn the_last_operation_tells_what_outputs_are() {
        assert_eq!(head(3, None), Head { outputs: Outputs::Logits, count: 3 });
        assert_eq!(head(3, Some(Op::Softmax)).outputs, Outputs::Softmax);
        let sigmoid = head(3, Some(Op::Activation(Activation::Sigmoid)));
        assert!(sigmoid.is_multi_label() && !sigmoid.is_binary());
        assert_eq!(head(1, None).classes(), 2);
    }

    #[test]
    fn a_network_without_its_head_ends_in_logits() {
        for last in [Op::Softmax, Op::Activation(Activation::Sigmoid)] {
            let mut b = Builder::new("n", Shape::new(3, 2, 2));
            let x = b.push("flatten", Op::Flatten, vec![b.input()]);
            let x = b.linear("fc", 4, x);
            let x = b.push("last", last, vec![x]);
            b.push("drop", Op::Dropout { p: 0.5 }, vec![x]);
            let whole = b.finish().unwrap();
            let bare = whole.without_head().unwrap();
            assert_eq!(bare.head(), Head { outputs: Outputs::Logits, count: 4 });
            assert_eq!((bare.params(), bare.nodes().len()), (whole.params(), 3));
            assert_eq!(bare.without_head(), None);
        }
        let mut b = Builder::new("n", Shape::new(3, 1, 1));
        b.push("last", Op::Softmax, vec![b.input()]);
        assert_eq!(b.finish().unwrap().without_head(), None, "nothing would be left");
    }

    #[test]
    fn probabilities_follow_the_head() {
        // exp(0) : exp(ln 3)
        let two = head(2, None).probabilities(&[0.0, 3.0f32.ln()]);
        assert!((two[0] - 0.25).abs() < 1e-7 && (two[1] - 0.75).abs() < 1e-7);
        assert_eq!(head(2, Some(Op::Activation(Activation::Sigmoid))).probabilities(&[0.5, 0.25]), [0.5, 0.25]);
        assert_eq!(head(1, Some(Op::Activation(Activation::Sigmoid))).probabilities(&[0.25]), [0.75, 0.25]);
        assert_eq!(head(1, None).probabilities(&[0.0]), [0.5, 0.5]);
    }

    #[test]
    fn what_is_computed_of_probabilities_is_not_read_as_logits() {
        let mut b = Builder::new("n", Shape::new(3, 1, 1));
        let x = b.linear("fc", 2, b.input());
        let a = b.push("softmax", Op::Softmax, vec![x]);
        b.push("scale", Op::Affine { channels: 2 }, vec![a]);
        let graph = b.finish().unwrap();
        assert_eq!(graph.head(), Head { outputs: Outputs::Values, count: 2 });
        assert_eq!(graph.without_head(), None);
        assert_eq!(graph.head().probabilities(&[31.0, 69.0]), [31.0, 69.0]);
        let one = Head { outputs: Outputs::Values, count: 1 };
        assert_eq!((one.classes(), one.is_binary(), one.probabilities(&[0.25])), (1, false, vec![0.25]));

        // A gate before the last layer is no output.
        let mut b = Builder::new("n", Shape::new(3, 1, 1));
        let x = b.push("gate", Op::Activation(Activation::Sigmoid), vec![b.input()]);
        b.linear("fc", 2, x);
        assert_eq!(b.finish().unwrap().head().outputs, Outputs::Logits);
    }
}
