use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::op::{Activation, Conv2d, Op, Pool2d, Shape};

/// A node of one [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// Position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One operation with its name and its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Unique; the path of its parameters.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Where its inputs come from, all earlier nodes.
    pub inputs: Vec<NodeId>,
    /// Shape of its output, without the batch.
    pub shape: Shape,
}

/// What a parameter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A convolution's or linear layer's weight.
    Weight,
    /// Scale of a normalisation or an affine node.
    Gamma,
    /// A bias or shift.
    Bias,
    /// Running mean of a batch normalisation.
    Mean,
    /// Running variance of a batch normalisation.
    Variance,
}

/// A parameter that a graph needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// `<node>.weight` and so on.
    pub name: String,
    /// Its shape, PyTorch's.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

/// A network as a value. Nodes stand in topological order; the last one is the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Graph {
    name: String,
    nodes: Vec<Node>,
}

/// Why a graph cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Two nodes share a name.
    #[error("two nodes are named `{name}`")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A node's inputs do not fit its operation.
    #[error("node `{node}`: {why}")]
    Shape {
        /// The node.
        node: String,
        /// What does not fit.
        why: String,
    },
    /// A graph with no nodes beyond its input, or without one.
    #[error("a graph needs one input node, first, and at least one more")]
    Empty,
    /// A node that no path leads from to the output.
    #[error("node `{node}` is not used")]
    Unused {
        /// The node.
        node: String,
    },
}

impl Graph {
    /// Its name, the zoo's or the file's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All nodes in topological order; node 0 is the input, the last one the output.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Looks a node up by name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|n| n.name == name).map(NodeId)
    }

    /// Shape of the image it expects.
    pub fn input(&self) -> Shape {
        self.nodes[0].shape
    }

    /// Shape of its output.
    pub fn output(&self) -> Shape {
        self.nodes[self.nodes.len() - 1].shape
    }

    /// Number of consumers of every node.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        for node in &self.nodes {
            for input in &node.inputs {
                uses[input.0] += 1;
            }
        }
        uses
    }

    /// Every parameter, in node order.
    pub fn params(&self) -> Vec<Param> {
        let mut params = Vec::new();
        for node in &self.nodes {
            let mut push = |suffix: &str, shape: Vec<usize>, role| {
                params.push(Param { name: format!("{}.{suffix}", node.name), shape, role });
            };
            match &node.op {
                Op::Conv2d(conv) => {
                    push("weight", conv.weight_shape().to_vec(), Role::Weight);
                    if conv.bias {
                        push("bias", vec![conv.out_channels], Role::Bias);
                    }
                }
                Op::Linear { in_features, out_features, bias } => {
                    push("weight", vec![*out_features, *in_features], Role::Weight);
                    if *bias {
                        push("bias", vec![*out_features], Role::Bias);
                    }
                }
                Op::BatchNorm2d { channels, .. } => {
                    push("weight", vec![*channels], Role::Gamma);
                    push("bias", vec![*channels], Role::Bias);
                    push("running_mean", vec![*channels], Role::Mean);
                    push("running_var", vec![*channels], Role::Variance);
                }
                Op::Affine { channels } => {
                    push("weight", vec![*channels], Role::Gamma);
                    push("bias", vec![*channels], Role::Bias);
                }
                _ => {}
            }
        }
        params
    }

    /// Multiply-accumulates of one image, convolutions and linear layers.
    pub fn macs(&self) -> u64 {
        self.nodes
            .iter()
            .map(|node| match &node.op {
                Op::Conv2d(c) => {
                    let space = [node.shape.height, node.shape.width];
                    c.weight_shape().iter().chain(&space).fold(1, |macs: u64, &n| macs.saturating_mul(n as u64))
                }
                Op::Linear { in_features, out_features, .. } => {
                    (*in_features as u64).saturating_mul(*out_features as u64)
                }
                _ => 0,
            })
            .fold(0, u64::saturating_add)
    }

    /// Rebuilds a graph from parts, checking names, order and shapes.
    ///
    /// `nodes` are `(name, op, inputs)`; the first must be [`Op::Input`].
    ///
    /// # Errors
    /// [`GraphError`] names the node that does not fit.
    pub fn from_nodes(
        name: impl Into<String>,
        input: Shape,
        nodes: impl IntoIterator<Item = (String, Op, Vec<NodeId>)>,
    ) -> Result<Self, GraphError> {
        let mut builder: Option<Builder> = None;
        let name = name.into();
        for (node, op, inputs) in nodes {
            match (&mut builder, &op) {
                (None, Op::Input) => {
                    let mut first = Builder::new(name.clone(), input);
                    first.nodes[0].name = node;
                    builder = Some(first);
                }
                (Some(b), op) if *op != Op::Input => {
                    b.push(node, op.clone(), inputs);
                }
                _ => return Err(GraphError::Empty),
            }
        }
        builder.ok_or(GraphError::Empty)?.finish()
    }
}

impl<'de> Deserialize<'de> for Graph {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            name: String,
            nodes: Vec<Node>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let error = serde::de::Error::custom;
        let input = raw.nodes.first().map(|n| n.shape).ok_or_else(|| error(GraphError::Empty))?;
        let shapes: Vec<Shape> = raw.nodes.iter().map(|n| n.shape).collect();
        let graph = Self::from_nodes(raw.name, input, raw.nodes.into_iter().map(|n| (n.name, n.op, n.inputs)))
            .map_err(error)?;
        // Shapes are stored for readers in other languages; ones that contradict the operations are an error.
        match graph.nodes.iter().zip(shapes).find(|(node, stored)| node.shape != *stored) {
            None => Ok(graph),
            Some((node, stored)) => Err(serde::de::Error::custom(GraphError::Shape {
                node: node.name.clone(),
                why: format!("gives {}, stored as {stored}", node.shape),
            })),
        }
    }
}

/// Builds a [`Graph`] node by node. Errors are kept and reported by [`Builder::finish`], so that an architecture reads
/// like the paper's figure.
#[derive(Debug)]
pub struct Builder {
    name: String,
    nodes: Vec<Node>,
    error: Option<GraphError>,
}

impl Builder {
    /// Starts with the input node, named `input`.
    pub fn new(name: impl Into<String>, input: Shape) -> Self {
        let first = Node { name: "input".into(), op: Op::Input, inputs: vec![], shape: input };
        Self { name: name.into(), nodes: vec![first], error: None }
    }

    /// The input node.
    pub fn input(&self) -> NodeId {
        NodeId(0)
    }

    /// Shape of a node's output.
    pub fn shape(&self, id: NodeId) -> Shape {
        self.nodes[id.0].shape
    }

    /// Channels of a node's output.
    pub fn channels(&self, id: NodeId) -> usize {
        self.shape(id).channels
    }

    /// Adds a node.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: Vec<NodeId>) -> NodeId {
        let name = name.into();
        let shape = infer(&self.nodes, &op, &inputs).unwrap_or_else(|why| {
            self.error.get_or_insert(GraphError::Shape { node: name.clone(), why });
            Shape::new(0, 0, 0)
        });
        self.nodes.push(Node { name, op, inputs, shape });
        NodeId(self.nodes.len() - 1)
    }

    /// Adds a convolution.
    pub fn conv(&mut self, name: impl Into<String>, conv: Conv2d, x: NodeId) -> NodeId {
        self.push(name, Op::Conv2d(conv), vec![x])
    }

    /// Adds a batch normalisation over all channels of `x`.
    pub fn batch_norm(&mut self, name: impl Into<String>, eps: f64, x: NodeId) -> NodeId {
        let channels = self.channels(x);
        self.push(name, Op::BatchNorm2d { channels, eps }, vec![x])
    }

    /// Adds a ReLU.
    pub fn relu(&mut self, name: impl Into<String>, x: NodeId) -> NodeId {
        self.push(name, Op::Relu, vec![x])
    }

    /// Adds a max pooling.
    pub fn max_pool(&mut self, name: impl Into<String>, pool: Pool2d, x: NodeId) -> NodeId {
        self.push(name, Op::MaxPool2d(pool), vec![x])
    }

    /// Adds a fully connected layer with bias on all features of `x`.
    pub fn linear(&mut self, name: impl Into<String>, out_features: usize, x: NodeId) -> NodeId {
        let in_features = self.channels(x);
        self.push(name, Op::Linear { in_features, out_features, bias: true }, vec![x])
    }

    /// Checks the whole and returns the graph.
    ///
    /// # Errors
    /// The first [`GraphError`] met while building.
    pub fn finish(self) -> Result<Graph, GraphError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.nodes.len() < 2 {
            return Err(GraphError::Empty);
        }
        for node in &self.nodes {
            check_size(node.shape).map_err(|why| GraphError::Shape { node: node.name.clone(), why })?;
        }
        let mut seen = HashMap::new();
        for node in &self.nodes {
            if seen.insert(node.name.as_str(), ()).is_some() {
                return Err(GraphError::DuplicateName { name: node.name.clone() });
            }
        }
        let graph = Graph { name: self.name, nodes: self.nodes };
        let uses = graph.uses();
        match uses[..uses.len() - 1].iter().position(|&n| n == 0) {
            Some(i) => Err(GraphError::Unused { node: graph.nodes[i].name.clone() }),
            None => Ok(graph),
        }
    }
}

/// A value must have elements, and no more of them than memory can address as f32.
fn check_size(shape: Shape) -> Result<(), String> {
    let elements = shape.channels.checked_mul(shape.height).and_then(|n| n.checked_mul(shape.width));
    match elements {
        Some(1..=MAX_ELEMENTS) => Ok(()),
        Some(0) => Err(format!("its value {shape} is empty")),
        _ => Err(format!("its value {shape} is too large")),
    }
}

const MAX_ELEMENTS: usize = isize::MAX as usize / size_of::<f32>();

/// Shape of a new node's output, or why its inputs do not fit. All arithmetic on sizes that a file can name is checked.
fn infer(nodes: &[Node], op: &Op, inputs: &[NodeId]) -> Result<Shape, String> {
    if let Some(bad) = inputs.iter().find(|id| id.0 >= nodes.len()) {
        return Err(format!("input {} is not an earlier node", bad.0));
    }
    let arity_fits = match op {
        Op::Input => return Err("only the first node can be the input".into()),
        Op::Add | Op::Mul => inputs.len() == 2,
        Op::Concat => !inputs.is_empty(),
        _ => inputs.len() == 1,
    };
    if !arity_fits {
        return Err(format!("does not take {} inputs", inputs.len()));
    }
    let x = nodes[inputs[0].0].shape;
    let same_channels = |channels: usize| {
        if channels == x.channels { Ok(x) } else { Err(format!("has {channels} channels, its input {}", x.channels)) }
    };
    match op {
        Op::Input => unreachable!("handled above"),
        Op::Conv2d(c) => {
            same_channels(c.in_channels)?;
            if c.groups == 0 || c.in_channels % c.groups != 0 || c.out_channels % c.groups != 0 || c.out_channels == 0 {
                return Err(format!(
                    "{} groups do not divide {} -> {} channels",
                    c.groups, c.in_channels, c.out_channels
                ));
            }
            let out = |axis: usize, input: usize| -> Option<usize> {
                let reach = c.dilation[axis].checked_mul(c.kernel[axis].checked_sub(1)?)?.checked_add(1)?;
                let padded = c.padding[axis].checked_mul(2)?.checked_add(input)?;
                padded.checked_sub(reach)?.checked_div(c.stride[axis])?.checked_add(1)
            };
            match (out(0, x.height), out(1, x.width)) {
                (Some(height), Some(width)) => Ok(Shape::new(c.out_channels, height, width)),
                _ => Err(format!("kernel {:?} does not fit its input {x}", c.kernel)),
            }
        }
        Op::Linear { in_features, out_features, .. } => {
            if x.height != 1 || x.width != 1 {
                return Err(format!("needs a flattened input, got {x}"));
            }
            same_channels(*in_features)?;
            Ok(Shape::new(*out_features, 1, 1))
        }
        Op::BatchNorm2d { channels, .. } | Op::Affine { channels } => same_channels(*channels),
        Op::Relu | Op::Dropout { .. } | Op::Softmax => Ok(x),
        Op::Activation(function) => {
            let fits = match *function {
                Activation::Clip { min, max } => {
                    let (low, high) = (min.unwrap_or(f64::MIN), max.unwrap_or(f64::MAX));
                    low.is_finite() && high.is_finite() && low <= high
                }
                Activation::LeakyRelu { slope } => slope.is_finite(),
                Activation::HardSigmoid { alpha, beta } => alpha.is_finite() && beta.is_finite(),
                Activation::Sigmoid | Activation::HardSwish | Activation::Silu => true,
            };
            if fits { Ok(x) } else { Err(format!("{function:?} is not a function")) }
        }
        Op::Lrn { size, alpha, beta, k } => {
            if *size == 0 || ![alpha, beta, k].iter().all(|v| v.is_finite() && **v >= 0.0) {
                return Err("needs size >= 1 and finite alpha, beta, k >= 0".into());
            }
            Ok(x)
        }
        Op::Slice { start, channels } => match start.checked_add(*channels) {
            Some(end) if end <= x.channels => Ok(Shape { channels: *channels, ..x }),
            _ => Err(format!("takes {channels} channels from {start} of {x}")),
        },
        Op::Shuffle { groups } => {
            if *groups > 0 && x.channels.is_multiple_of(*groups) {
                Ok(x)
            } else {
                Err(format!("{groups} groups do not divide {} channels", x.channels))
            }
        }
        Op::Pad2d { sides: [top, left, bottom, right], value } => {
            let height = x.height.checked_add(*top).and_then(|n| n.checked_add(*bottom));
            let width = x.width.checked_add(*left).and_then(|n| n.checked_add(*right));
            match (height, width) {
                (Some(height), Some(width)) if value.is_finite() => Ok(Shape { height, width, ..x }),
                _ => Err("needs a finite value and a border that fits memory".into()),
            }
        }
        Op::MaxPool2d(p) | Op::AvgPool2d(p) => {
            if (0..2).any(|a| p.stride[a] == 0 || p.kernel[a] == 0 || p.padding[a] > p.kernel[a] / 2) {
                return Err("needs stride and kernel >= 1 and padding <= kernel / 2".into());
            }
            match (p.output(0, x.height), p.output(1, x.width)) {
                (Some(height), Some(width)) => Ok(Shape::new(x.channels, height, width)),
                _ => Err(format!("window {:?} does not fit its input {x}", p.kernel)),
            }
        }
        Op::AdaptiveAvgPool2d { output } => {
            if output.contains(&0) {
                return Err("needs an output of at least 1x1".into());
            }
            Ok(Shape::new(x.channels, output[0], output[1]))
        }
        Op::Add => {
            let y = nodes[inputs[1].0].shape;
            if x == y { Ok(x) } else { Err(format!("adds {x} and {y}")) }
        }
        Op::Mul => {
            let y = nodes[inputs[1].0].shape;
            if x == y || y == Shape::new(x.channels, 1, 1) { Ok(x) } else { Err(format!("multiplies {x} and {y}")) }
        }
        Op::Concat => {
            let mut channels = 0usize;
            for id in inputs {
                let y = nodes[id.0].shape;
                if (y.height, y.width) != (x.height, x.width) {
                    return Err(format!("joins {x} and {y}"));
                }
                channels = channels.checked_add(y.channels).ok_or("too many channels")?;
            }
            Ok(Shape { channels, ..x })
        }
        Op::Flatten => {
            let features = x.channels.checked_mul(x.height).and_then(|n| n.checked_mul(x.width));
            Ok(Shape::new(features.ok_or("too many features")?, 1, 1))
        }
        Op::PadShortcut { stride, before, after } => {
            if *stride == 0 {
                return Err("needs stride >= 1".into());
            }
            let channels = x.channels.checked_add(*before).and_then(|n| n.checked_add(*after));
            Ok(Shape::new(channels.ok_or("too many channels")?, x.height.div_ceil(*stride), x.width.div_ceil(*stride)))
        }
    }
}
