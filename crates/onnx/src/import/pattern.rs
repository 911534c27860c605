//! Rewrites several nodes of the file that are one operation of the graph.
use graph::{Activation, Op, Role, Shape, Tensor};

use super::lower::{Lowered, LoweredOp};
use super::picked::slices;

/// The nodes, which are rewritten in place. [`Rewriter::finish`] removes those that nothing reads any more.
pub(super) struct Rewriter {
    pub nodes: Vec<Lowered>,
    /// The number of readers of each node.
    pub(super) readers: Vec<usize>,
    /// The node that now has the value of each node.
    place: Vec<usize>,
    pub output: usize,
}

impl Rewriter {
    pub fn new(nodes: Vec<Lowered>, output: usize) -> Self {
        // A reader counts only if the output needs it.
        let mut readers = vec![0; nodes.len()];
        readers[output] += 1;
        for (i, node) in nodes.iter().enumerate().rev() {
            let counts = usize::from(readers[i] > 0);
            node.inputs.iter().for_each(|&input| readers[input] += counts);
        }
        let place = (0..nodes.len()).collect();
        Self { nodes, readers, place, output }
    }

    pub fn run(&mut self) {
        self.pass(Self::function);
        self.pass(Self::normalisation);
        self.pass(Self::picked);
        self.pass(Self::affine);
        self.pass(Self::border);
    }

    fn pass(&mut self, rule: fn(&mut Self, usize)) {
        for i in 0..self.nodes.len() {
            self.place[i] = self.resolve(i);
            for k in 0..self.nodes[i].inputs.len() {
                let input = self.nodes[i].inputs[k];
                self.nodes[i].inputs[k] = self.place[input];
            }
            if self.readers[i] > 0 {
                rule(self, i);
            }
        }
        self.output = self.resolve(self.output);
    }

    /// Returns the node that now has the value of node `i`.
    fn resolve(&self, mut i: usize) -> usize {
        while self.place[i] != i {
            i = self.place[i];
        }
        i
    }

    pub(super) fn op(&self, i: usize) -> Option<&Op> {
        self.nodes[i].op()
    }

    pub(super) fn input(&self, i: usize) -> usize {
        self.nodes[i].inputs[0]
    }

    pub(super) fn is_read_once(&self, i: usize) -> bool {
        self.readers[i] == 1
    }

    /// Returns `weight` and `bias` of an affine node that treats all channels alike.
    fn uniform(&self, i: usize) -> Option<(f64, f64)> {
        let Op::Affine { .. } = self.op(i)? else { return None };
        let one = |role: Role| {
            let values = self.nodes[i].param(role);
            values.iter().all(|v| *v == values[0]).then(|| super::node::decimal(values[0]))
        };
        Some((one(Role::Gamma)?, one(Role::Bias)?))
    }

    /// Replaces node `i` by an operation that reads `input` alone.
    pub(super) fn replace(&mut self, i: usize, kind: LoweredOp, input: usize) {
        self.readers[input] += 1;
        let old = std::mem::replace(&mut self.nodes[i].inputs, vec![input]);
        self.nodes[i].kind = kind;
        self.nodes[i].params = vec![];
        for input in old {
            self.release(input);
        }
    }

    /// Removes a reader of node `i`. A node without readers no longer reads its inputs.
    pub(super) fn release(&mut self, i: usize) {
        let mut stack = vec![i];
        while let Some(i) = stack.pop() {
            self.readers[i] -= 1;
            if self.readers[i] == 0 {
                stack.extend(self.nodes[i].inputs.iter().map(|&input| self.resolve(input)));
            }
        }
    }

    /// Removes node `i`, whose readers then read its input.
    pub(super) fn remove(&mut self, i: usize) {
        let input = self.input(i);
        self.readers[input] += self.readers[i];
        self.readers[i] = 1;
        self.place[i] = input;
        self.release(i);
    }

    fn function(&mut self, i: usize) {
        if self.nodes[i].kind == LoweredOp::Float {
            self.remove(i);
            return;
        }
        if let Some(Op::Activation(Activation::Clip { min, max })) = self.op(i).cloned() {
            self.clips(i, min, max);
            return;
        }
        if let Some((scale, 0.0)) = self.uniform(i) {
            self.scaled(i, scale);
            return;
        }
        if self.op(i) == Some(&Op::Mul) {
            self.small_gate(i);
            self.gated(i);
        }
    }

    /// Removes the expansion of a factor `[C, 1, 1]`, since a multiplication expands it itself.
    fn small_gate(&mut self, i: usize) {
        let &[a, b] = self.nodes[i].inputs.as_slice() else { return };
        let source = |node: usize| match self.op(node) {
            Some(Op::AdaptiveAvgPool2d { .. }) => {
                let input = self.input(node);
                let Shape { height, width, .. } = self.nodes[input].shape;
                ((height, width) == (1, 1)).then_some(input)
            }
            _ => None,
        };
        let (x, expanded, gate) = match (source(a), source(b)) {
            (_, Some(gate)) => (a, b, gate),
            (Some(gate), None) => (b, a, gate),
            (None, None) => return,
        };
        self.nodes[i].inputs = vec![x, gate];
        self.readers[gate] += 1;
        self.release(expanded);
    }

    /// Joins a clip of a clip, and makes a clip of `a x + b` from 0 to 1 a `HardSigmoid`.
    fn clips(&mut self, i: usize, min: Option<f64>, max: Option<f64>) {
        let before = self.input(i);
        if !self.is_read_once(before) {
            return;
        }
        let lower = match self.op(before) {
            Some(Op::Relu) => Some((Some(0.0), None)),
            Some(Op::Activation(Activation::Clip { min, max })) => Some((*min, *max)),
            _ => None,
        };
        if let Some((low, high)) = lower {
            let limit = |value: f64| {
                let value = min.map_or(value, |min| value.max(min));
                max.map_or(value, |max| value.min(max))
            };
            let clip = Activation::Clip { min: low.map(limit).or(min), max: high.map(limit).or(max) };
            self.replace(i, LoweredOp::Op(Op::Activation(clip)), self.input(before));
            return;
        }
        if let (Some(0.0), Some(1.0), Some((alpha, beta))) = (min, max, self.uniform(before)) {
            let function = hard_sigmoid(alpha, beta);
            self.replace(i, LoweredOp::Op(Op::Activation(function)), self.input(before));
        }
    }

    /// Makes `scale` times a clip from 0 to `1 / scale` a `HardSigmoid`, and times `x * clip(x + 3, 0, 6)` a `HardSwish`.
    fn scaled(&mut self, i: usize, scale: f64) {
        let before = self.input(i);
        if !self.is_read_once(before) {
            return;
        }
        let is_one = |value: f64| (value - 1.0).abs() < 1e-6;
        match self.op(before) {
            Some(Op::Activation(Activation::Clip { min: Some(0.0), max: Some(max) })) if is_one(scale * max) => {
                let inner = self.input(before);
                if let Some((alpha, beta)) = self.uniform(inner).filter(|_| self.is_read_once(inner)) {
                    let function = hard_sigmoid(alpha * scale, beta * scale);
                    self.replace(i, LoweredOp::Op(Op::Activation(function)), self.input(inner));
                }
            }
            Some(Op::Mul) if is_one(scale * 6.0) => {
                if let Some(x) = self.product(before, |rewriter, clip, x| rewriter.is_relu6_of_plus_3(clip, x)) {
                    self.replace(i, LoweredOp::Op(Op::Activation(Activation::HardSwish)), x);
                }
            }
            _ => {}
        }
    }

    fn is_relu6_of_plus_3(&self, clip: usize, x: usize) -> bool {
        let is_relu6 = self.op(clip) == Some(&Op::Activation(Activation::Clip { min: Some(0.0), max: Some(6.0) }));
        is_relu6 && {
            let plus = self.input(clip);
            self.is_read_once(plus) && self.uniform(plus) == Some((1.0, 3.0)) && self.input(plus) == x
        }
    }

    /// Returns `x` of the product `i`, if it is that of `x` and a function of `x` that nothing else reads.
    fn product(&self, i: usize, is_function: impl Fn(&Self, usize, usize) -> bool) -> Option<usize> {
        let &[a, b] = self.nodes[i].inputs.as_slice() else { return None };
        [(a, b), (b, a)]
            .into_iter()
            .find(|&(function, x)| self.is_read_once(function) && is_function(self, function, x))
            .map(|(_, x)| x)
    }

    /// Makes `x` times its sigmoid a `Silu`, and times its hard sigmoid a `HardSwish`.
    fn gated(&mut self, i: usize) {
        let silu = |rewriter: &Self, function: usize, x: usize| {
            rewriter.op(function) == Some(&Op::Activation(Activation::Sigmoid)) && rewriter.input(function) == x
        };
        let hard = |rewriter: &Self, function: usize, x: usize| {
            let Some(&Op::Activation(Activation::HardSigmoid { alpha, beta })) = rewriter.op(function) else {
                return false;
            };
            hard_sigmoid(alpha, beta) == hard_sigmoid(1.0 / 6.0, 0.5) && rewriter.input(function) == x
        };
        if let Some(x) = self.product(i, silu) {
            self.replace(i, LoweredOp::Op(Op::Activation(Activation::Silu)), x);
        } else if let Some(x) = self.product(i, hard) {
            self.replace(i, LoweredOp::Op(Op::Activation(Activation::HardSwish)), x);
        }
    }

    /// Makes an `Lrn` of local response normalisation as PyTorch writes it,
    /// `x / (k + alpha * mean(x^2 of neighbouring channels))^beta`.
    fn normalisation(&mut self, i: usize) {
        if self.nodes[i].kind != LoweredOp::Divide {
            return;
        }
        let &[x, power] = self.nodes[i].inputs.as_slice() else { return };
        let LoweredOp::Power { exponent: beta } = self.nodes[power].kind else { return };
        let mut at = self.input(power);
        let (mut alpha, mut k) = (1.0, 0.0);
        for _ in 0..2 {
            if let Some((weight, bias)) = self.uniform(at) {
                (alpha, k) = (alpha * weight, k + alpha * bias);
                at = self.input(at);
            }
        }
        let LoweredOp::ChannelMean { size } = self.nodes[at].kind else { return };
        let padded = self.input(at);
        let Some(&Op::PadShortcut { stride: 1, before, after }) = self.op(padded) else { return };
        let square = self.input(padded);
        let is_square = self.op(square) == Some(&Op::Mul) && self.nodes[square].inputs == [x, x];
        if is_square && (before, after) == ((size - 1) / 2, size / 2) {
            self.replace(i, LoweredOp::Op(Op::Lrn { size, alpha, beta, k }), x);
        }
    }

    /// Moves scales and shifts of channels into the layer before, or joins two of them.
    fn affine(&mut self, i: usize) {
        let Some(Op::Affine { .. }) = self.op(i) else { return };
        let before = self.input(i);
        let weight = self.nodes[i].param(Role::Gamma).to_vec();
        let bias = self.nodes[i].param(Role::Bias).to_vec();
        if weight.iter().all(|&w| w == 1.0) && bias.iter().all(|&b| b == 0.0) && before > 0 {
            self.remove(i);
            return;
        }
        if !self.is_read_once(before) {
            return;
        }
        let is_layer = match self.nodes[before].op().cloned() {
            Some(Op::Conv2d(conv)) => {
                self.nodes[before].kind = LoweredOp::Op(Op::Conv2d(graph::Conv2d { bias: true, ..conv }));
                true
            }
            Some(Op::Linear { in_features, out_features, .. }) => {
                self.nodes[before].kind = LoweredOp::Op(Op::Linear { in_features, out_features, bias: true });
                true
            }
            Some(Op::Affine { .. }) => false,
            _ => return,
        };
        let params = &mut self.nodes[before].params;
        for (role, tensor) in params.iter_mut() {
            let rows = tensor.data().len() / weight.len();
            let is_bias = *role == Role::Bias;
            for (o, row) in tensor.data_mut().chunks_exact_mut(rows.max(1)).enumerate() {
                for value in row {
                    let shift = if is_bias { f64::from(bias[o]) } else { 0.0 };
                    *value = (f64::from(*value) * f64::from(weight[o]) + shift) as f32;
                }
            }
        }
        if is_layer && params.iter().all(|(role, _)| *role != Role::Bias) {
            params.push((Role::Bias, Tensor::new([bias.len()], bias)));
        }
        self.remove(i);
    }

    /// Makes a border of zeros the padding of the convolution or mean after it.
    fn border(&mut self, i: usize) {
        let before = match self.nodes[i].inputs.first() {
            Some(&before) if self.is_read_once(before) => before,
            _ => return,
        };
        let Some(&Op::Pad2d { sides: [top, left, bottom, right], value: 0.0 }) = self.op(before) else { return };
        if (top, left) != (bottom, right) {
            return;
        }
        let input = self.input(before);
        match &mut self.nodes[i].kind {
            LoweredOp::Op(Op::Conv2d(conv)) => {
                let padded = [conv.padding[0].checked_add(top), conv.padding[1].checked_add(left)];
                let [Some(rows), Some(columns)] = padded else { return };
                conv.padding = [rows, columns];
            }
            LoweredOp::Op(Op::AvgPool2d(pool)) => {
                let is_small = top <= pool.kernel[0] / 2 && left <= pool.kernel[1] / 2;
                if pool.padding != [0, 0]
                    || pool.end.is_some()
                    || pool.ceil_mode
                    || !pool.count_include_pad
                    || !is_small
                {
                    return;
                }
                pool.padding = [top, left];
            }
            _ => return,
        }
        self.nodes[i].inputs[0] = input;
        self.readers[input] += 1;
        self.release(before);
    }

    /// Returns the nodes that the output needs, in order.
    pub fn finish(mut self) -> Vec<Lowered> {
        self.shuffles();
        for i in 0..self.nodes.len() {
            self.place[i] = self.resolve(i);
        }
        let mut needed = vec![false; self.nodes.len()];
        needed[self.output] = true;
        for i in (0..self.nodes.len()).rev() {
            if needed[i] {
                for &input in &self.nodes[i].inputs {
                    needed[self.resolve(input)] = true;
                }
            }
        }
        // The image is the first node also where nothing reads it.
        needed[0] = true;
        let mut new = vec![0; self.nodes.len()];
        let mut kept = Vec::new();
        for (i, mut node) in self.nodes.into_iter().enumerate() {
            if needed[i] && i <= self.output {
                for input in &mut node.inputs {
                    *input = new[self.place[*input]];
                }
                if let LoweredOp::Pick(order) = &node.kind {
                    node = slices(&node, order, &mut kept);
                }
                new[i] = kept.len();
                kept.push(node);
            }
        }
        kept
    }
}

/// Makes a hard sigmoid, with the exact sixth and half for floats that round to them.
fn hard_sigmoid(alpha: f64, beta: f64) -> Activation {
    let snap = |value: f64, exact: f64| if (value / exact - 1.0).abs() < 1e-6 { exact } else { value };
    Activation::HardSigmoid { alpha: snap(alpha, 1.0 / 6.0), beta: snap(beta, 0.5) }
}
