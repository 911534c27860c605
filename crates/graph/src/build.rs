use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::op::{Conv2d, Op, Pool2d, Shape};

/// The most nodes that a graph may have.
pub const MAX_NODES: usize = 16_384;

/// A node of one [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// Returns the node's position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One operation with its name and its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The node's name, unique in its graph. Its parameters are called `<name>.weight` and so on.
    pub name: String,
    /// The operation that the node computes.
    pub op: Op,
    /// The nodes whose outputs it reads, all of them earlier ones.
    pub inputs: Vec<NodeId>,
    /// The shape of its output, without the batch.
    pub shape: Shape,
}

impl Node {
    /// Returns the shape of a layer's weight, `[out, in of one group, kernel height, kernel width]`; a linear layer is a
    /// convolution of kernel 1x1. `None` for nodes that are neither.
    ///
    /// # Panics
    /// If the node is a convolution of 0 groups, which no node of a [`Graph`] is.
    pub fn weight_shape(&self) -> Option<[usize; 4]> {
        match &self.op {
            Op::Conv2d(conv) => Some(conv.weight_shape()),
            Op::Linear { in_features, out_features, .. } => Some([*out_features, *in_features, 1, 1]),
            _ => None,
        }
    }
}

/// What a node uses a parameter for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The weight of a convolution or linear layer.
    Weight,
    /// The scale of each channel in a batch normalisation or an affine node.
    Gamma,
    /// The number that is added to each channel.
    Bias,
    /// The running mean of a batch normalisation.
    Mean,
    /// The running variance of a batch normalisation.
    Variance,
    /// The slopes of an [`Op::PRelu`] for negative inputs.
    Slope,
}

impl Role {
    /// Returns the name of the parameter that has this role in a node, as in a PyTorch state dict: `<node>.weight` and so on.
    pub fn name(self, node: &str) -> String {
        format!("{node}.{}", self.suffix())
    }

    /// Returns the last part of the parameter's name: `weight`, `bias`, `running_mean` or `running_var`.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Weight | Self::Gamma | Self::Slope => "weight",
            Self::Bias => "bias",
            Self::Mean => "running_mean",
            Self::Variance => "running_var",
        }
    }
}

/// A parameter that a graph needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// The parameter's name: `<node>.weight` and so on, see [`Role::name`].
    pub name: String,
    /// The shape that it has in PyTorch.
    pub shape: Vec<usize>,
    /// What the node uses it for.
    pub role: Role,
}

/// A network as a value: named nodes in topological order, the last of which is the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Graph {
    name: String,
    nodes: Vec<Node>,
}

/// Why a graph cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Two nodes share a name.
    #[error("two nodes are named `{name}`")]
    DuplicateName {
        /// The name that they share.
        name: String,
    },
    /// A node's inputs do not fit its operation.
    #[error("node `{node}`: {why}")]
    Shape {
        /// The node's name.
        node: String,
        /// What does not fit, in words.
        why: String,
    },
    /// The graph has no input, more than one, or no node beyond it.
    #[error("a graph needs one input node, first, and at least one more")]
    Empty,
    /// The graph has more than [`MAX_NODES`] nodes.
    #[error("a graph has at most {most} nodes, this one has {found}", most = MAX_NODES)]
    Nodes {
        /// The number of nodes.
        found: usize,
    },
    /// The network costs more than its [`Budget`](crate::Budget) allows.
    #[error(
        "node `{node}`: the network takes {takes} {what} for an image, one with {parameters} parameters may take {most}"
    )]
    Budget {
        /// The name of the node that costs most.
        node: String,
        /// What the network takes too much of: `operations` or `bytes of values`.
        what: &'static str,
        /// How much of it the network takes for one image.
        takes: u64,
        /// How much of it the network may take.
        most: u64,
        /// The number of parameters, which the budget follows from.
        parameters: u64,
    },
    /// No path leads from a node to the output.
    #[error("node `{node}` is not used")]
    Unused {
        /// The node's name.
        node: String,
    },
}

impl Graph {
    /// Returns the network's name, as the model zoo or the file gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns all nodes in topological order; the first is the input, the last the output.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns a node of this graph.
    ///
    /// # Panics
    /// If `id` belongs to a larger graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Finds a node by its name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|n| n.name == name).map(NodeId)
    }

    /// Returns the shape of the input image.
    pub fn input(&self) -> Shape {
        self.nodes[0].shape
    }

    /// Returns the shape of the output.
    pub fn output(&self) -> Shape {
        self.nodes[self.nodes.len() - 1].shape
    }

    /// Counts, for every node, how often others read its output.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        for node in &self.nodes {
            for input in &node.inputs {
                uses[input.0] += 1;
            }
        }
        uses
    }

    /// Lists every parameter that the graph needs, in the order of its nodes.
    pub fn params(&self) -> Vec<Param> {
        let mut params = Vec::new();
        for node in &self.nodes {
            let mut push = |role: Role, shape: Vec<usize>| {
                params.push(Param { name: role.name(&node.name), shape, role });
            };
            match &node.op {
                Op::Conv2d(conv) => {
                    push(Role::Weight, conv.weight_shape().to_vec());
                    if conv.bias {
                        push(Role::Bias, vec![conv.out_channels]);
                    }
                }
                Op::Linear { in_features, out_features, bias } => {
                    push(Role::Weight, vec![*out_features, *in_features]);
                    if *bias {
                        push(Role::Bias, vec![*out_features]);
                    }
                }
                Op::BatchNorm2d { channels, .. } => {
                    push(Role::Gamma, vec![*channels]);
                    push(Role::Bias, vec![*channels]);
                    push(Role::Mean, vec![*channels]);
                    push(Role::Variance, vec![*channels]);
                }
                Op::Affine { channels } => {
                    push(Role::Gamma, vec![*channels]);
                    push(Role::Bias, vec![*channels]);
                }
                Op::PRelu { channels } => push(Role::Slope, vec![*channels]),
                _ => {}
            }
        }
        params
    }

    /// Counts the multiply-accumulates of the convolutions and linear layers for one image.
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

    /// Builds a graph from its nodes and checks names, order and shapes.
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
        Builder::of_nodes(name.into(), input, nodes)?.finish()
    }
}

impl Builder {
    /// Starts a graph with all of these nodes: see [`Graph::from_nodes`].
    pub(crate) fn of_nodes(
        name: String,
        input: Shape,
        nodes: impl IntoIterator<Item = (String, Op, Vec<NodeId>)>,
    ) -> Result<Self, GraphError> {
        let mut builder: Option<Self> = None;
        for (node, op, inputs) in nodes {
            match (&mut builder, &op) {
                (None, Op::Input) => {
                    let mut first = Self::new(name.clone(), input);
                    first.nodes[0].name = node;
                    builder = Some(first);
                }
                (Some(b), op) if *op != Op::Input => {
                    b.push(node, op.clone(), inputs);
                }
                _ => return Err(GraphError::Empty),
            }
        }
        builder.ok_or(GraphError::Empty)
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

/// Builds a [`Graph`] node by node. The first error is kept until [`Builder::finish`] returns it, so that code that builds
/// an architecture reads like the figure in its paper.
#[derive(Debug)]
pub struct Builder {
    name: String,
    nodes: Vec<Node>,
    error: Option<GraphError>,
}

impl Builder {
    /// Starts a graph with its input node, which is named `input`.
    pub fn new(name: impl Into<String>, input: Shape) -> Self {
        let first = Node { name: "input".into(), op: Op::Input, inputs: vec![], shape: input };
        Self { name: name.into(), nodes: vec![first], error: None }
    }

    /// Returns the input node.
    pub fn input(&self) -> NodeId {
        NodeId(0)
    }

    /// Returns the shape of a node's output.
    ///
    /// # Panics
    /// If this builder has no such node.
    pub fn shape(&self, id: NodeId) -> Shape {
        self.nodes[id.0].shape
    }

    /// Returns the number of channels of a node's output.
    ///
    /// # Panics
    /// If this builder has no such node.
    pub fn channels(&self, id: NodeId) -> usize {
        self.shape(id).channels
    }

    /// Adds a node and returns it. If its inputs do not fit the operation, [`Builder::finish`] says so.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: Vec<NodeId>) -> NodeId {
        let name = name.into();
        let shape = self.infer(&op, &inputs).unwrap_or_else(|why| {
            self.error.get_or_insert(GraphError::Shape { node: name.clone(), why });
            Shape::new(0, 0, 0)
        });
        self.nodes.push(Node { name, op, inputs, shape });
        NodeId(self.nodes.len() - 1)
    }

    fn infer(&self, op: &Op, inputs: &[NodeId]) -> Result<Shape, String> {
        let shape = |id: &NodeId| {
            self.nodes.get(id.0).map(|node| node.shape).ok_or_else(|| format!("input {} is not an earlier node", id.0))
        };
        op.output(&inputs.iter().map(shape).collect::<Result<Vec<_>, _>>()?)
    }

    /// Adds a convolution.
    pub fn conv(&mut self, name: impl Into<String>, conv: Conv2d, x: NodeId) -> NodeId {
        self.push(name, Op::Conv2d(conv), vec![x])
    }

    /// Adds a batch normalisation over all channels of `x`.
    ///
    /// # Panics
    /// If this builder has no node `x`.
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
    ///
    /// # Panics
    /// If this builder has no node `x`.
    pub fn linear(&mut self, name: impl Into<String>, out_features: usize, x: NodeId) -> NodeId {
        let in_features = self.channels(x);
        self.push(name, Op::Linear { in_features, out_features, bias: true }, vec![x])
    }

    /// Checks the whole graph and returns it.
    ///
    /// # Errors
    /// The first [`GraphError`] of all nodes in their order; [`GraphError::Budget`] for a network that costs too much.
    pub fn finish(self) -> Result<Graph, GraphError> {
        let graph = self.finish_at_any_cost()?;
        graph.check_budget()?;
        Ok(graph)
    }

    /// Checks all but the budget and returns the graph.
    pub(crate) fn finish_at_any_cost(self) -> Result<Graph, GraphError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.nodes.len() < 2 {
            return Err(GraphError::Empty);
        }
        if self.nodes.len() > MAX_NODES {
            return Err(GraphError::Nodes { found: self.nodes.len() });
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

/// Checks that a value has elements, and no more of them than memory can address as f32.
fn check_size(shape: Shape) -> Result<(), String> {
    let elements = shape.channels.checked_mul(shape.height).and_then(|n| n.checked_mul(shape.width));
    match elements {
        Some(1..=MAX_ELEMENTS) => Ok(()),
        Some(0) => Err(format!("its value {shape} is empty")),
        _ => Err(format!("its value {shape} is too large")),
    }
}

/// The most elements of a value: what memory can address as f32.
const MAX_ELEMENTS: usize = isize::MAX as usize / size_of::<f32>();
