//! What a network costs to run, and the most that it may cost: a small file cannot ask for all memory or for hours.
use crate::build::{Graph, GraphError, Node};
use crate::op::{Activation, Conv2d, Op, Shape};

/// The number of outputs that kernels compute together, in one vector.
const LANES: usize = 16;

/// What running a network on one image takes, estimated from its graph. A sum that does not fit a `u64` is `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cost {
    /// The number of parameters: weights, biases and those of normalisations.
    pub parameters: u64,
    /// The most bytes of values that are alive at the same time, in F32, with the borders that padding adds.
    pub bytes: u64,
    /// The number of operations: multiply-accumulates of convolutions and linear layers, with outputs rounded up to
    /// multiples of 16 and inputs to multiples of 4; elements in the windows of poolings; and for each element that another
    /// node computes 2, or more where it computes a function such as `exp`.
    pub operations: u64,
}

/// The most that a network may cost. [`Builder::finish`](crate::Builder::finish) refuses a network that costs more before
/// anything is planned or allocated for it.
///
/// Both limits grow with the number of parameters, since a file must hold these: a network of 60 million may run on images
/// of 4096x4096 (ResNet-152: 1.3 GB, 3.9 * 10^12 multiply-accumulates), while a file of a kilobyte can take half a gibibyte
/// and some seconds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The limit of [`Cost::bytes`]: 512 MiB, and 64 bytes for each parameter.
    pub bytes: u64,
    /// The limit of [`Cost::operations`]: 2^33, and 2^16 for each parameter.
    pub operations: u64,
}

impl Budget {
    /// Returns the budget of a network with this number of parameters.
    pub fn of(parameters: u64) -> Self {
        Self {
            bytes: parameters.saturating_mul(64).saturating_add(512 << 20),
            operations: parameters.saturating_mul(1 << 16).saturating_add(1 << 33),
        }
    }
}

impl Graph {
    /// Estimates what running the network on one image takes.
    pub fn cost(&self) -> Cost {
        let operations = self.operations().into_iter().fold(0, u64::saturating_add);
        Cost { parameters: self.parameters(), bytes: self.peak().0, operations }
    }

    /// Returns how many images may run at the same time, 1 to `most`: as many as fit in twice the memory of this network's
    /// [`Budget`].
    pub fn at_once(&self, most: usize) -> usize {
        let Cost { parameters, bytes, .. } = self.cost();
        let room = Budget::of(parameters).bytes.saturating_mul(2) / bytes.max(1);
        usize::try_from(room).unwrap_or(usize::MAX).clamp(1, most.max(1))
    }

    /// Counts the operations of each node; their sum is [`Cost::operations`].
    pub fn operations(&self) -> Vec<u64> {
        self.nodes().iter().map(|node| operations(self, node)).collect()
    }

    fn parameters(&self) -> u64 {
        self.params().iter().map(|param| product(&param.shape)).fold(0, u64::saturating_add)
    }

    /// Returns the most bytes that are alive at the same time, and the position of the node that is computed then.
    fn peak(&self) -> (u64, usize) {
        let nodes = self.nodes();
        let mut last = vec![0; nodes.len()];
        for (i, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|id| last[id.index()] = i);
        }
        // A u128 holds the sum: there are at most 2^14 nodes of less than 2^64 bytes.
        let bytes = |shape: Shape| u128::from(elements(shape).saturating_mul(4));
        let (mut alive, mut peak) = (0, (0, 0));
        for (i, node) in nodes.iter().enumerate() {
            let mut dying: Vec<usize> =
                node.inputs.iter().map(|id| id.index()).filter(|&input| last[input] == i).collect();
            dying.sort_unstable();
            dying.dedup();
            let dies = dying.iter().map(|&input| bytes(nodes[input].shape)).sum::<u128>();
            let own = bytes(node.shape);
            let during = if in_place(&node.op) { alive - dies + own.max(dies) } else { alive + own };
            let during = during + node.inputs.first().map_or(0, |id| border(&node.op, self.node(*id).shape));
            if during > peak.0 {
                peak = (during, i);
            }
            alive = alive + own - dies;
        }
        (u64::try_from(peak.0).unwrap_or(u64::MAX), peak.1)
    }

    /// Checks that the network keeps within its budget.
    pub(crate) fn check_budget(&self) -> Result<(), GraphError> {
        let parameters = self.parameters();
        let budget = Budget::of(parameters);
        let refuse = |node: usize, what, takes, most| {
            let node = self.nodes()[node].name.clone();
            Err(GraphError::Budget { node, what, takes, most, parameters })
        };
        let (bytes, at) = self.peak();
        if bytes > budget.bytes {
            return refuse(at, "bytes of values", bytes, budget.bytes);
        }
        let each = self.operations();
        let operations = each.iter().copied().fold(0, u64::saturating_add);
        if operations > budget.operations {
            let most = (0..each.len()).max_by_key(|&i| each[i]).unwrap_or(0);
            return refuse(most, "operations", operations, budget.operations);
        }
        Ok(())
    }
}

fn product(sizes: &[usize]) -> u64 {
    sizes.iter().fold(1, |product: u64, &size| product.saturating_mul(size as u64))
}

fn elements(shape: Shape) -> u64 {
    product(&[shape.channels, shape.height, shape.width])
}

/// Tells whether an operation can write its output over its input.
fn in_place(op: &Op) -> bool {
    use Op::{Activation, Affine, BatchNorm2d, Dropout, Flatten, PRelu, Relu, Slice, Softmax};
    matches!(
        op,
        Relu | PRelu { .. }
            | Activation(_)
            | Affine { .. }
            | BatchNorm2d { .. }
            | Dropout { .. }
            | Flatten
            | Slice { .. }
            | Softmax
    )
}

/// Returns the bytes of an input of shape `x` with the border that an operation puts around it; 0 where it puts none.
fn border(op: &Op, x: Shape) -> u128 {
    let Shape { channels, height, width } = x;
    let around = |[y, x]: [usize; 2]| {
        let side = |size: usize, pad: usize| pad.saturating_mul(2).saturating_add(size);
        if [y, x] == [0, 0] { 0 } else { product(&[channels, side(height, y), side(width, x)]) }
    };
    let elements = match op {
        Op::Conv2d(conv) => around(conv.padding),
        Op::MaxPool2d(pool) | Op::AvgPool2d(pool) => {
            let ([top, left], [bottom, right]) = (pool.padding, pool.padding_after());
            around([top.max(bottom), left.max(right)])
        }
        Op::Lrn { size, .. } => product(&[channels.saturating_add(*size), height, width]),
        _ => 0,
    };
    u128::from(elements.saturating_mul(4))
}

/// Counts the operations of a node: see [`Cost::operations`].
fn operations(graph: &Graph, node: &Node) -> u64 {
    let Shape { channels, height, width } = node.shape;
    let Some(input) = node.inputs.first().map(|id| graph.node(*id).shape) else { return 0 };
    let whole = |n: usize, vector: usize| n.div_ceil(vector).saturating_mul(vector);
    let window = |[rows, columns]: [usize; 2]| product(&[whole(channels, LANES), rows, columns]);
    // The operations for one output pixel.
    let each = match &node.op {
        Op::Conv2d(Conv2d { groups, kernel: [rows, columns], .. }) => {
            let (outputs, inputs) = (channels / groups, input.channels / groups);
            match (outputs, inputs) {
                (1, 1) => window([*rows, *columns]),
                _ => product(&[*groups, whole(outputs, LANES), whole(inputs, 4), *rows, *columns]),
            }
        }
        Op::Linear { .. } => product(&[whole(channels, LANES), whole(input.channels, 4)]),
        Op::MaxPool2d(pool) | Op::AvgPool2d(pool) => window(pool.kernel),
        Op::AdaptiveAvgPool2d { output: [rows, columns] } => {
            window([input.height / rows + 2, input.width / columns + 2])
        }
        Op::Lrn { size, .. } => product(&[channels, size.saturating_add(128)]),
        Op::Softmax
        | Op::Activation(
            Activation::Sigmoid | Activation::Silu | Activation::Tanh | Activation::Elu { .. } | Activation::Softplus,
        ) => product(&[channels, 64]),
        Op::Activation(Activation::Clip { .. } | Activation::LeakyRelu { .. } | Activation::HardSigmoid { .. })
        | Op::Activation(Activation::HardSwish)
        | Op::Input
        | Op::BatchNorm2d { .. }
        | Op::Affine { .. }
        | Op::Relu
        | Op::PRelu { .. }
        | Op::Add
        | Op::Max
        | Op::Mul
        | Op::Concat
        | Op::Slice { .. }
        | Op::Shuffle { .. }
        | Op::Pad2d { .. }
        | Op::Flatten
        | Op::Dropout { .. }
        | Op::PadShortcut { .. } => product(&[channels, 2]),
    };
    each.saturating_mul(product(&[height, width]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::MAX_NODES;
    use crate::{Builder, Pool2d};

    fn error(b: Builder) -> String {
        b.finish().expect_err("over the budget").to_string()
    }

    #[test]
    fn costs_are_counted_by_hand() {
        let mut b = Builder::new("g", Shape::new(3, 8, 8));
        let x = b.conv("conv", Conv2d::new(3, 16, 3).padding(1).bias(), b.input());
        let x = b.relu("relu", x);
        let x = b.max_pool("pool", Pool2d::new(2, 2), x);
        let x = b.push("flatten", Op::Flatten, vec![x]);
        b.linear("fc", 10, x);
        let cost = b.finish().unwrap().cost();
        assert_eq!(cost.parameters, 16 * 27 + 16 + 256 * 10 + 10);
        // In the convolution: its input, that with a border, its output.
        assert_eq!(cost.bytes, 4 * (3 * 64 + 3 * 100 + 16 * 64));
        // Convolution, ReLU, pooling, flatten, linear.
        assert_eq!(cost.operations, 64 * 16 * 4 * 9 + 1024 * 2 + 256 * 4 + 256 * 2 + 16 * 256);
    }

    #[test]
    fn a_value_lives_until_it_is_read_for_the_last_time() {
        let mut b = Builder::new("g", Shape::new(1, 10, 10));
        let input = b.input();
        let mut x = input;
        for i in 0..5 {
            x = b.max_pool(format!("pool{i}"), Pool2d::new(1, 1), x);
        }
        assert_eq!(b.finish().unwrap().cost().bytes, 2 * 400);
        let mut b = Builder::new("g", Shape::new(1, 10, 10));
        let input = b.input();
        let x = b.max_pool("pool", Pool2d::new(1, 1), input);
        let x = b.max_pool("pool2", Pool2d::new(1, 1), x);
        let x = b.push("add", Op::Add, vec![x, input]);
        b.push("twice", Op::Add, vec![x, x]);
        assert_eq!(b.finish().unwrap().cost().bytes, 3 * 400);
    }

    #[test]
    fn small_files_cannot_ask_for_much() {
        let image = |side: usize| Builder::new("g", Shape::new(3, side, side));
        let mut b = image(65_536);
        b.conv("conv", Conv2d::new(3, 8, 3), b.input());
        let text = error(b);
        assert!(text.starts_with("node `conv`: the network takes 188970172544 bytes of values for an image"), "{text}");
        assert!(text.ends_with("one with 216 parameters may take 536884736"), "{text}");

        let pushes: [(&str, Op); 6] = [
            ("lrn", Op::Lrn { size: 1 << 32, alpha: 1.0, beta: 0.75, k: 1.0 }),
            ("pool", Op::MaxPool2d(Pool2d::new(1 << 16, 1).padding(1 << 15))),
            ("wide pool", Op::AvgPool2d(Pool2d::new(usize::MAX / 4, 1).padding(usize::MAX / 8))),
            ("adaptive", Op::AdaptiveAvgPool2d { output: [1 << 14, 1 << 14] }),
            ("pad", Op::Pad2d { sides: [1 << 14; 4], value: 0.0 }),
            ("padded", Op::Conv2d(Conv2d::new(3, 1, 1).padding(1 << 20).stride(1 << 20))),
        ];
        for (name, op) in pushes {
            let mut b = image(16);
            let x = b.input();
            b.push(name, op, vec![x]);
            let text = error(b);
            assert!(text.starts_with(&format!("node `{name}`: ")), "{name}: {text}");
        }
        // Many nodes of a middle size.
        let mut b = image(2048);
        let mut x = b.input();
        for i in 0..2000 {
            x = b.push(format!("sigmoid{i}"), Op::Activation(Activation::Sigmoid), vec![x]);
        }
        assert!(error(b).contains("operations for an image"));
        let mut b = image(1);
        let mut x = b.input();
        for i in 0..MAX_NODES {
            x = b.relu(format!("relu{i}"), x);
        }
        assert_eq!(error(b), "a graph has at most 16384 nodes, this one has 16385");
    }

    #[test]
    fn a_batch_is_cut_where_values_are_large() {
        let mut b = Builder::new("g", Shape::new(3, 32, 32));
        b.conv("conv", Conv2d::new(3, 8, 3), b.input());
        assert_eq!(b.finish().unwrap().at_once(64), 64);
        let mut b = Builder::new("g", Shape::new(8, 2048, 2048));
        b.conv("conv", Conv2d::new(8, 8, 1), b.input());
        // 2 * (2^27 + ...) bytes of 2^30.
        assert_eq!(b.finish().unwrap().at_once(64), 4);
    }
}
