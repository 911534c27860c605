use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::cost::MAX_NODES;
use crate::op::{Conv2d, Op, Pool2d, Shape};

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

impl Node {
    /// The shape of a layer's weight as that of a convolution, `[out, in of one group, kernel height, kernel width]`. A
    /// linear layer is a convolution of kernel 1x1. `None` for nodes that are neither.
    pub fn weight_shape(&self) -> Option<[usize; 4]> {
        match &self.op {
            Op::Conv2d(conv) => Some(conv.weight_shape()),
            Op::Linear { in_features, out_features, .. } => Some([*out_features, *in_features, 1, 1]),
            _ => None,
        }
    }
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
    /// Slopes of a [`Op::PRelu`].
    Slope,
}

impl Role {
    /// The name of the parameter that has this role in a node, as in a PyTorch state dict: `<node>.weight` and so on.
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
    /// More nodes than a graph may have.
    #[error("a graph has at most {most} nodes, this one has {found}", most = MAX_NODES)]
    Nodes {
        /// How many there are.
        found: usize,
    },
    /// A network that costs more than its [`Budget`](crate::Budget).
    #[error(
        "node `{node}`: the network takes {takes} {what} for an image, one with {parameters} parameters may take {most}"
    )]
    Budget {
        /// Where most of it is taken.
        node: String,
        /// Of what.
        what: &'static str,
        /// What it takes.
        takes: u64,
        /// What it may take.
        most: u64,
        /// Parameters of the network.
        parameters: u64,
    },
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
    /// The first [`GraphError`] met while building; [`GraphError::Budget`] for a network that asks for too much.
    pub fn finish(self) -> Result<Graph, GraphError> {
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
            None => graph.check_budget().map(|()| graph),
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
