//! From a graph's nodes to steps: what is computed together.
use std::collections::BTreeSet;

use graph::{Activation, Graph, Node, NodeId, Op};

/// What is done to a step's rows before they are stored, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Post {
    /// Adds another node's value.
    Add(usize),
    /// Limits.
    Clamp(f32, f32),
    /// Another function.
    Function(Activation),
    /// The affine node with these parameters.
    Affine(usize),
    /// The node with these slopes.
    PRelu(usize),
}

/// What a step computes from its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The node's own operation.
    Node,
    /// Its input as it is, to be rounded for other consumers.
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
pub(crate) enum Role {
    /// Part of a step; its value is stored if it is the step's last node.
    Step(usize),
    /// Its inputs' values seen in another way: a concatenation, a slice, an identity.
    Alias,
}

#[derive(Debug)]
pub(crate) struct Fusion {
    pub steps: Vec<Fused>,
    pub roles: Vec<Role>,
    /// Nodes of which the whole batch is computed at once: the end of the network, where all is 1x1.
    pub head: Vec<bool>,
}

/// Fuses a graph. `copied` are the concatenations that cannot be views of one buffer.
pub(crate) fn fuse(graph: &Graph, copied: &BTreeSet<usize>, integer: impl Fn(&Node) -> bool) -> Fusion {
    let nodes = graph.nodes();
    let uses = graph.uses();
    let head = find_head(graph);
    let mut steps: Vec<Fused> = Vec::new();
    let mut roles: Vec<Role> = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        let inputs: Vec<usize> = node.inputs.iter().map(|id: &NodeId| id.index()).collect();
        // A step whose value only this node reads.
        let open = |input: usize| match roles[input] {
            Role::Step(step) if steps[step].value == input && uses[input] == 1 && head[input] == head[i] => Some(step),
            _ => None,
        };
        let post = match &node.op {
            Op::Relu => Some(Post::Clamp(0.0, f32::INFINITY)),
            Op::Activation(Activation::Clip { min, max }) => {
                Some(Post::Clamp(min.map_or(f32::NEG_INFINITY, |v| v as f32), max.map_or(f32::INFINITY, |v| v as f32)))
            }
            Op::Activation(function) => Some(Post::Function(*function)),
            Op::Affine { .. } => Some(Post::Affine(i)),
            Op::PRelu { .. } => Some(Post::PRelu(i)),
            _ => None,
        };
        if let Some(post) = post {
            let step = open(inputs[0]).unwrap_or_else(|| {
                steps.push(copy(inputs[0], i, head[i]));
                steps.len() - 1
            });
            steps[step].posts.push(post);
            steps[step].value = i;
            roles.push(Role::Step(step));
            continue;
        }
        if node.op == Op::Add && inputs[0] != inputs[1] {
            // The later operand's step adds the earlier value.
            let convolution = |&(step, _): &(usize, usize)| {
                let s: &Fused = &steps[step];
                s.kind == Kind::Node && s.posts.is_empty() && integer(&nodes[s.root])
            };
            let operands = [(inputs[0], inputs[1]), (inputs[1], inputs[0])];
            let candidates = operands.iter().filter_map(|&(mine, other)| Some((open(mine)?, other)));
            let best = candidates.filter(convolution).max_by_key(|&(step, _)| step);
            if let Some((step, other)) = best.filter(|&(step, other)| before(other, step, &roles, graph)) {
                let partner = open(other).filter(|&s| {
                    let s = &steps[s];
                    s.kind == Kind::Node && s.posts.is_empty() && s.before.is_none() && integer(&nodes[s.root])
                });
                if let Some(partner) = partner {
                    steps[partner].host = Some(step);
                    steps[step].before = Some(partner);
                }
                steps[step].posts.push(Post::Add(other));
                steps[step].value = i;
                roles.push(Role::Step(step));
                continue;
            }
        }
        let flat = node.op == Op::Flatten && nodes[inputs[0]].shape.height == 1 && nodes[inputs[0]].shape.width == 1;
        let joined = node.op == Op::Concat && !copied.contains(&i) && inputs.iter().all(|&x| head[x] == head[i]);
        if flat || joined || matches!(node.op, Op::Dropout { .. } | Op::Slice { .. }) {
            roles.push(Role::Alias);
            continue;
        }
        steps.push(Fused {
            root: i,
            value: i,
            kind: Kind::Node,
            inputs,
            posts: vec![],
            head: head[i],
            silent: false,
            before: None,
            host: None,
        });
        roles.push(Role::Step(steps.len() - 1));
    }
    Fusion { steps, roles, head }
}

/// A step that gives the value of `input` again.
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

/// Whether the value of `node` is complete before `step` begins.
fn before(node: usize, step: usize, roles: &[Role], graph: &Graph) -> bool {
    let mut nodes = vec![node];
    let mut seen = BTreeSet::new();
    while let Some(node) = nodes.pop() {
        match roles[node] {
            Role::Step(s) if s >= step => return false,
            Role::Alias if seen.insert(node) => nodes.extend(graph.nodes()[node].inputs.iter().map(|id| id.index())),
            _ => {}
        }
    }
    true
}

/// The longest end of the graph in which every value is 1x1 and no pixel sees another.
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
