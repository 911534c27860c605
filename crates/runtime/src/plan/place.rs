//! Where values lie: which buffers there are, and which of them share memory.
use std::collections::{BTreeMap, BTreeSet};

use graph::{Graph, Node, Op, Shape};

use super::fuse::{Fused, Fusion, Kind, NodeRole, Post, copy, fuse};
use crate::float::{Source, View};

/// The most attempts at placing values before every concatenation is copied.
const ROUNDS: usize = 64;

/// A float buffer before slots are assigned: `[H, W, stride]`, alive from step `first` to `last`.
#[derive(Debug, Clone)]
pub(crate) struct FloatBuffer {
    pub len: usize,
    pub stride: usize,
    pub first: usize,
    pub last: usize,
    /// The concatenation that the buffer was made for.
    owner: Option<usize>,
}

/// Steps in the order they run, the body's, then the head's, and where their values lie.
#[derive(Debug)]
pub(crate) struct Placement {
    pub steps: Vec<Fused>,
    /// The number of steps that are the body's.
    pub body: usize,
    /// The step that makes each step's integer input, where it has one.
    pub emitter: Vec<Option<usize>>,
    pub buffers: Vec<FloatBuffer>,
    /// The values that the head, or the caller, takes from the body, and where they begin in a row.
    pub crossing: Vec<(usize, usize)>,
    /// The number of floats of a row.
    pub row: usize,
    place: BTreeMap<usize, (usize, usize)>,
    fusion: Fusion,
}

impl Placement {
    /// Places the values of a graph; `integer` tells the layers that read integers, `whole` those of them whose input has one scale: what
    /// makes it must end before any of it is rounded.
    pub fn new(graph: &Graph, integer: &dyn Fn(&Node) -> bool, whole: &dyn Fn(&Node) -> bool) -> Self {
        let mut copied = BTreeSet::new();
        for _ in 0..ROUNDS {
            match Self::attempt(graph, [integer, whole], &copied) {
                Ok(placement) => return placement,
                // Each round copies more concatenations.
                Err(concats) => copied.extend(concats),
            }
        }
        let all = graph.nodes().iter().enumerate().filter(|(_, node)| node.op == Op::Concat).map(|(i, _)| i).collect();
        Self::attempt(graph, [integer, whole], &all).expect("only concatenations that are not copied conflict")
    }

    /// Places values, or returns the concatenations that must be copied.
    fn attempt(
        graph: &Graph,
        [integer, whole]: [&dyn Fn(&Node) -> bool; 2],
        copied: &BTreeSet<usize>,
    ) -> Result<Self, Vec<usize>> {
        let nodes = graph.nodes();
        let mut fusion = fuse(graph, copied, integer);
        let reads_integers = |s: &Fused| s.kind == Kind::Node && integer(&nodes[s.root]);

        // Steps in order, with one that rounds before each layer whose input no step of its part makes, or is rounded as a whole.
        let mut steps: Vec<Fused> = Vec::new();
        let mut emitter: Vec<Option<usize>> = Vec::new();
        let mut moved = vec![0; fusion.steps.len()];
        let mut roundings: BTreeMap<(usize, bool), usize> = BTreeMap::new();
        for part in [false, true] {
            for (old, step) in fusion.steps.iter().enumerate().filter(|(_, s)| s.head == part) {
                let from = reads_integers(step).then(|| {
                    let input = step.inputs[0];
                    // The image is known.
                    let at_once = !whole(&nodes[step.root]) || nodes[input].op == Op::Input;
                    match fusion.roles[input] {
                        NodeRole::Step(s) if at_once && fusion.steps[s].head == part => moved[s],
                        _ => *roundings.entry((input, part)).or_insert_with(|| {
                            steps.push(Fused { silent: true, ..copy(input, input, part) });
                            emitter.push(None);
                            steps.len() - 1
                        }),
                    }
                });
                moved[old] = steps.len();
                steps.push(step.clone());
                emitter.push(from);
            }
        }
        for step in &mut steps {
            step.before = step.before.map(|s| moved[s]);
            step.host = step.host.map(|s| moved[s]);
        }
        for role in &mut fusion.roles {
            if let NodeRole::Step(s) = role {
                *s = moved[*s];
            }
        }
        let body = steps.iter().filter(|s| !s.head).count();
        let mut this =
            Self { steps, body, emitter, buffers: vec![], crossing: vec![], row: 0, place: BTreeMap::new(), fusion };
        this.join(graph)?;
        this.store(graph, &reads_integers);
        this.add_in_place(&reads_integers);
        this.check_conflicts(graph, &reads_integers)?;
        Ok(this)
    }

    /// Gives the parts of concatenations their places in one buffer, the outermost first. Those with a part that has a
    /// place already, or none of its own, must be copied.
    fn join(&mut self, graph: &Graph) -> Result<(), Vec<usize>> {
        let mut failed = Vec::new();
        for (i, node) in graph.nodes().iter().enumerate().rev() {
            if node.op != Op::Concat || self.fusion.roles[i] != NodeRole::Alias {
                continue;
            }
            let mut parts = BTreeSet::new();
            let joins = node.inputs.iter().all(|id| {
                let input = id.index();
                let own = match self.fusion.roles[input] {
                    NodeRole::Step(s) => self.steps[s].value == input,
                    NodeRole::Alias => graph.node(*id).op == Op::Concat,
                };
                own && !self.place.contains_key(&input) && parts.insert(input)
            });
            if !joins {
                failed.push(i);
                continue;
            }
            let (buffer, mut offset) = match self.place.get(&i) {
                Some(place) => *place,
                None => {
                    let buffer = self.new_buffer(node.shape, Some(i));
                    self.place.insert(i, (buffer, 0));
                    (buffer, 0)
                }
            };
            for id in &node.inputs {
                self.place.insert(id.index(), (buffer, offset));
                offset += graph.node(*id).shape.channels;
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    fn new_buffer(&mut self, shape: Shape, owner: Option<usize>) -> usize {
        self.buffers.push(FloatBuffer {
            len: shape.elements(),
            stride: shape.channels,
            first: usize::MAX,
            last: 0,
            owner,
        });
        self.buffers.len() - 1
    }

    /// Returns the nodes that a step reads as floats.
    fn float_reads(&self, step: usize, reads_integers: &dyn Fn(&Fused) -> bool) -> Vec<usize> {
        let s = &self.steps[step];
        let inputs = if reads_integers(s) { &[][..] } else { &s.inputs };
        let added = s.posts.iter().filter_map(|p| match p {
            Post::Add(node) if s.before.is_none() => Some(*node),
            _ => None,
        });
        inputs.iter().copied().chain(added).collect()
    }

    /// Gives every value that is read as floats a buffer, and finds how long each lives.
    fn store(&mut self, graph: &Graph, reads_integers: &dyn Fn(&Fused) -> bool) {
        for step in 0..self.steps.len() {
            for node in self.float_reads(step, reads_integers) {
                self.read(graph, node, step, self.steps[step].head);
            }
        }
        let last = graph.nodes().len() - 1;
        self.read(graph, last, self.steps.len(), self.fusion.head[last]);
        if !self.fusion.head[last] {
            self.cross(graph, last);
        }
    }

    /// Lets a sum take the place of its residual where nobody reads that again: half the memory to go through.
    fn add_in_place(&mut self, reads_integers: &dyn Fn(&Fused) -> bool) {
        for (i, step) in self.steps.iter().enumerate() {
            let Some(Post::Add(other)) = step.posts.first() else { continue };
            let (Some(&(from, 0)), Some(&(to, 0))) = (self.place.get(other), self.place.get(&step.value)) else {
                continue;
            };
            let (old, new) = (&self.buffers[from], &self.buffers[to]);
            let whole = old.owner.is_none() && new.owner.is_none() && old.len == new.len && old.stride == new.stride;
            if whole && from != to && old.last == i && old.first < i && reads_integers(step) && step.before.is_none() {
                let last = new.last;
                self.buffers[from].last = last;
                self.buffers[to].len = 0;
                self.place.insert(step.value, (from, 0));
            }
        }
    }

    /// Notes that `step` reads `node`.
    fn read(&mut self, graph: &Graph, node: usize, step: usize, head: bool) {
        // Views of views may be as many as there are nodes: no recursion.
        let mut nodes = vec![node];
        while let Some(node) = nodes.pop() {
            if head && !self.fusion.head[node] {
                self.cross(graph, node);
                continue;
            }
            match self.fusion.roles[node] {
                NodeRole::Alias => {
                    if let Some(&(buffer, _)) = self.place.get(&node) {
                        self.buffers[buffer].last = self.buffers[buffer].last.max(step);
                    }
                    nodes.extend(graph.nodes()[node].inputs.iter().rev().map(|id| id.index()));
                }
                NodeRole::Step(made) => {
                    let buffer = match self.place.get(&node) {
                        Some(&(buffer, _)) => buffer,
                        None => {
                            let buffer = self.new_buffer(graph.nodes()[node].shape, None);
                            self.place.insert(node, (buffer, 0));
                            buffer
                        }
                    };
                    let buffer = &mut self.buffers[buffer];
                    buffer.first = buffer.first.min(made);
                    buffer.last = buffer.last.max(step);
                }
            }
        }
    }

    /// Notes that a value leaves the body.
    fn cross(&mut self, graph: &Graph, node: usize) {
        if self.crossing.iter().any(|&(n, _)| n == node) {
            return;
        }
        self.crossing.push((node, self.row));
        self.row += graph.nodes()[node].shape.elements();
        self.read(graph, node, self.body, false);
    }

    /// Refuses a concatenation of whose buffer a step would read one part while it writes another.
    fn check_conflicts(&self, graph: &Graph, reads_integers: &dyn Fn(&Fused) -> bool) -> Result<(), Vec<usize>> {
        for (i, step) in self.steps.iter().enumerate() {
            let Some(dest) = self.dest(graph, i) else { continue };
            for node in self.float_reads(i, reads_integers) {
                let residual = matches!(step.posts.first(), Some(Post::Add(other)) if *other == node);
                if residual && self.view(graph, node, step.head) == dest {
                    continue;
                }
                if self.view(graph, node, step.head).source == dest.source {
                    let Source::Slot(buffer) = dest.source else { continue };
                    let owner = self.buffers[buffer].owner.expect("only a concatenation's buffer has two writers");
                    return Err(vec![owner]);
                }
            }
        }
        Ok(())
    }

    /// Returns where a step stores its value as floats, if anybody reads it so.
    pub fn dest(&self, graph: &Graph, step: usize) -> Option<View> {
        let s = &self.steps[step];
        (!s.silent && self.place.contains_key(&s.value)).then(|| self.view(graph, s.value, s.head))
    }

    /// Returns where the value of a node lies for a reader in the body or the head; slots are buffers still.
    pub fn view(&self, graph: &Graph, node: usize, head: bool) -> View {
        let shape = graph.nodes()[node].shape;
        let (mut node, mut start) = (node, 0);
        loop {
            if head && !self.fusion.head[node] {
                let (_, offset) =
                    self.crossing.iter().find(|(n, _)| *n == node).expect("every crossing value was noted");
                return View { source: Source::Row, offset: offset + start, stride: self.row, shape };
            }
            if let Some(&(buffer, offset)) = self.place.get(&node) {
                let stride = self.buffers[buffer].stride;
                return View { source: Source::Slot(buffer), offset: offset + start, stride, shape };
            }
            let n = &graph.nodes()[node];
            if let Op::Slice { start: first, .. } = n.op {
                start += first;
            }
            node = n.inputs[0].index();
        }
    }
}

/// Returns which slot each of some lifetimes `(first, last, size)` gets, and the size of every slot. Two that overlap, or where
/// one ends at the step at which the other begins, never share one.
pub(crate) fn assign<const N: usize>(lives: &[(usize, usize, [usize; N])]) -> (Vec<usize>, Vec<[usize; N]>) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&i| lives[i].0);
    let (mut slot_of, mut slots) = (vec![0; lives.len()], Vec::<([usize; N], usize)>::new());
    for i in order {
        let (first, last, size) = lives[i];
        let growth = |have: &[usize; N]| -> usize { (0..N).map(|k| size[k].saturating_sub(have[k])).sum() };
        let waste = |have: &[usize; N]| -> usize { (0..N).map(|k| have[k].saturating_sub(size[k])).sum() };
        let free = slots.iter().enumerate().filter(|(_, (_, until))| *until < first);
        let best = free.min_by_key(|(_, (have, _))| (growth(have), waste(have))).map(|(slot, _)| slot);
        let slot = best.unwrap_or_else(|| {
            slots.push(([0; N], 0));
            slots.len() - 1
        });
        slots[slot].0.iter_mut().zip(size).for_each(|(have, size)| *have = size.max(*have));
        slots[slot].1 = last;
        slot_of[i] = slot;
    }
    (slot_of, slots.into_iter().map(|(size, _)| size).collect())
}
