//! Makes steps of a graph's nodes, which are computed together.
use std::collections::BTreeSet;

use graph::{Activation, Graph, Node, NodeId, Op};

/// What is done to a step's rows before they are stored, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Post {
    /// Adds another node's value.
    Add(usize),
    /// Limits to a range.
    Clamp(f32, f32),
    /// Applies another function.
    Function(Activation),
    /// Multiplies and adds the parameters of this affine node.
    Affine(usize),
    /// Multiplies negative elements by the slopes of this node.
    PRelu(usize),
}

/// What a step computes from its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The node's own operation.
    Node,
    /// The step gives its input as it is, to be rounded for other consumers.
    Copy,
}

/// Nodes that are computed in one pass: `root`, then `posts`.
#[derive(Debug, Clone)]
pub(crate) struct Fused {
    pub root: usize,
    /// The node whose value it gives.
    pub value: usize,
    pub kind: Kind,
    pub inputs: Vec<usize>,
    pub posts: Vec<Post>,
    pub head: bool,
    /// Whether its value is only rounded for integer consumers, another step's node having it already.
    pub silent: bool,
    /// The convolution whose value is this one's residual and nothing else: computed with it, a strip at a time.
    pub before: Option<usize>,
    /// The step that computes this one.
    pub host: Option<usize>,
}

/// What a node is in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeRole {
    /// The node is part of a step; its value is stored if it is the step's last node.
    Step(usize),
    /// The node's value is that of its inputs, seen in another way: a concatenation, a slice, an identity.
    Alias,
}

#[derive(Debug)]
pub(crate) struct Fusion {
    pub steps: Vec<Fused>,
    pub roles: Vec<NodeRole>,
    /// Nodes of which the whole batch is computed at once: the end of the network, where all is 1x1.
    pub head: Vec<bool>,
}

/// Fuses a graph. `copied` are the concatenations that cannot be views of one buffer.
pub(crate) fn fuse(graph: &Graph, copied: &BTreeSet<usize>, integer: impl Fn(&Node) -> bool) -> Fusion {
    let mut fuser = Fuser { graph, uses: graph.uses(), integer, steps: vec![], roles: vec![], head: find_head(graph) };
    for (i, node) in graph.nodes().iter().enumerate() {
        let role = if let Some(post) = post(i, &node.op) {
            fuser.follow(i, post)
        } else if let Some(step) = fuser.add_to(i) {
            NodeRole::Step(step)
        } else if fuser.is_view(i, copied) {
            NodeRole::Alias
        } else {
            fuser.begin(i)
        };
        fuser.roles.push(role);
    }
    let Fuser { steps, roles, head, .. } = fuser;
    Fusion { steps, roles, head }
}

/// Returns what a node does element by element, if it does.
fn post(i: usize, op: &Op) -> Option<Post> {
    Some(match op {
        Op::Relu => Post::Clamp(0.0, f32::INFINITY),
        Op::Activation(Activation::Clip { min, max }) => {
            Post::Clamp(min.map_or(f32::NEG_INFINITY, |v| v as f32), max.map_or(f32::INFINITY, |v| v as f32))
        }
        Op::Activation(function) => Post::Function(*function),
        Op::Affine { .. } => Post::Affine(i),
        Op::PRelu { .. } => Post::PRelu(i),
        _ => return None,
    })
}

/// A fusion in the making: nodes get their roles one after the other.
struct Fuser<'a, F> {
    graph: &'a Graph,
    /// How many nodes read each one.
    uses: Vec<usize>,
    integer: F,
    steps: Vec<Fused>,
    roles: Vec<NodeRole>,
    head: Vec<bool>,
}

impl<F: Fn(&Node) -> bool> Fuser<'_, F> {
    fn inputs(&self, i: usize) -> Vec<usize> {
        self.graph.nodes()[i].inputs.iter().map(|id: &NodeId| id.index()).collect()
    }

    /// Returns the step that gives `input`, if nobody but node `i` reads that.
    fn open(&self, input: usize, i: usize) -> Option<usize> {
        match self.roles[input] {
            NodeRole::Step(step)
                if self.steps[step].value == input && self.uses[input] == 1 && self.head[input] == self.head[i] =>
            {
                Some(step)
            }
            _ => None,
        }
    }

    /// Tells whether a step is nothing but a convolution in integers.
    fn is_convolution(&self, step: usize) -> bool {
        let s = &self.steps[step];
        s.kind == Kind::Node && s.posts.is_empty() && (self.integer)(&self.graph.nodes()[s.root])
    }

    /// Lets node `i` be done by the step that makes its input, or by one that copies it.
    fn follow(&mut self, i: usize, post: Post) -> NodeRole {
        let input = self.graph.nodes()[i].inputs[0].index();
        let step = self.open(input, i).unwrap_or_else(|| {
            self.steps.push(copy(input, i, self.head[i]));
            self.steps.len() - 1
        });
        self.steps[step].posts.push(post);
        self.steps[step].value = i;
        NodeRole::Step(step)
    }

    /// Returns the convolution that node `i`, a sum, is done by: the later operand's step adds the earlier value. Where that is a
    /// convolution's too, and nobody else reads it, both are computed together.
    fn add_to(&mut self, i: usize) -> Option<usize> {
        let node = &self.graph.nodes()[i];
        let &[a, b] = self.inputs(i).as_slice() else { return None };
        if node.op != Op::Add || a == b {
            return None;
        }
        let candidates = [(a, b), (b, a)].into_iter().filter_map(|(mine, other)| Some((self.open(mine, i)?, other)));
        let best = candidates.filter(|&(step, _)| self.is_convolution(step)).max_by_key(|&(step, _)| step);
        let (step, other) = best.filter(|&(step, other)| before(other, step, &self.roles, self.graph))?;
        let partner = self.open(other, i).filter(|&s| self.is_convolution(s) && self.steps[s].before.is_none());
        if let Some(partner) = partner {
            self.steps[partner].host = Some(step);
            self.steps[step].before = Some(partner);
        }
        self.steps[step].posts.push(Post::Add(other));
        self.steps[step].value = i;
        Some(step)
    }

    /// Tells whether node `i` gives its inputs' values, seen in another way.
    fn is_view(&self, i: usize, copied: &BTreeSet<usize>) -> bool {
        let (nodes, inputs) = (self.graph.nodes(), self.inputs(i));
        match nodes[i].op {
            Op::Flatten => nodes[inputs[0]].shape.height == 1 && nodes[inputs[0]].shape.width == 1,
            Op::Concat => !copied.contains(&i) && inputs.iter().all(|&x| self.head[x] == self.head[i]),
            Op::Dropout { .. } | Op::Slice { .. } => true,
            _ => false,
        }
    }

    /// Begins a step with node `i`.
    fn begin(&mut self, i: usize) -> NodeRole {
        let inputs = self.inputs(i);
        self.steps.push(Fused { root: i, kind: Kind::Node, inputs, ..copy(i, i, self.head[i]) });
        NodeRole::Step(self.steps.len() - 1)
    }
}

/// Makes a step that gives the value of `input` again.
pub(crate) fn copy(input: usize, value: usize, head: bool) -> Fused {
    Fused {
        root: value,
        value,
        kind: Kind::Copy,
        inputs: vec![input],
        posts: vec![],
        head,
        silent: false,
        before: None,
        host: None,
    }
}

/// Tells whether the value of `node` is complete before `step` begins.
fn before(node: usize, step: usize, roles: &[NodeRole], graph: &Graph) -> bool {
    let mut nodes = vec![node];
    let mut seen = BTreeSet::new();
    while let Some(node) = nodes.pop() {
        match roles[node] {
            NodeRole::Step(s) if s >= step => return false,
            NodeRole::Alias if seen.insert(node) => {
                nodes.extend(graph.nodes()[node].inputs.iter().map(|id| id.index()))
            }
            _ => {}
        }
    }
    true
}

/// Finds the longest end of the graph in which every value is 1x1 and no pixel sees another.
fn find_head(graph: &Graph) -> Vec<bool> {
    let nodes = graph.nodes();
    let mut head = vec![true; nodes.len()];
    for (i, node) in nodes.iter().enumerate().rev() {
        let one = |id: usize| nodes[id].shape.height == 1 && nodes[id].shape.width == 1;
        let own = match &node.op {
            Op::Conv2d(c) => c.kernel == [1, 1] && c.padding == [0, 0],
            Op::Input | Op::MaxPool2d(_) | Op::AvgPool2d(_) | Op::AdaptiveAvgPool2d { .. } | Op::Pad2d { .. } => false,
            _ => true,
        };
        head[i] &= own && one(i) && node.inputs.iter().all(|id| one(id.index()));
        if !head[i] {
            for id in &node.inputs {
                head[id.index()] = false;
            }
        }
    }
    head
}
