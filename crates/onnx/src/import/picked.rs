//! Moves channels in another order, as from RGB to BGR, into the weights of the layer after them, or makes slices that are
//! joined.
use graph::{Op, Role, Shape, Tensor};

use super::lower::{Lowered, LoweredOp};
use super::pattern::Rewriter;

impl Rewriter {
    /// Makes one pick of slices of a value that are joined again.
    fn parts_of_one(&mut self, i: usize) {
        // The order of more channels than any network has would take too much memory.
        if self.op(i) != Some(&Op::Concat) || self.nodes[i].shape.channels > 1 << 16 {
            return;
        }
        let mut order = Vec::new();
        let mut sources = Vec::new();
        for &part in &self.nodes[i].inputs {
            let Some(&Op::Slice { start, channels }) = self.op(part) else { return };
            order.extend(start..start + channels);
            sources.push(self.input(part));
        }
        let source = sources[0];
        if sources.iter().any(|&other| other != source) {
            return;
        }
        let is_whole = order.iter().enumerate().all(|(i, &channel)| i == channel)
            && order.len() == self.nodes[source].shape.channels;
        self.replace(i, LoweredOp::Pick(order), source);
        if is_whole && source > 0 {
            self.remove(i);
        }
    }

    /// Moves a pick of channels after operations that treat each channel alone, and into the weights of a layer.
    pub(super) fn picked(&mut self, i: usize) {
        self.parts_of_one(i);
        let Some(&before) = self.nodes[i].inputs.first() else { return };
        let LoweredOp::Pick(order) = &self.nodes[before].kind else { return };
        let order = order.clone();
        let source = self.input(before);
        let count = self.nodes[source].shape.channels;
        if let LoweredOp::Pick(outer) = &self.nodes[i].kind {
            let joined = outer.iter().map(|&channel| order[channel]).collect();
            self.replace(i, LoweredOp::Pick(joined), source);
            return;
        }
        let mut places = vec![usize::MAX; count];
        order.iter().enumerate().for_each(|(i, &channel)| places[channel] = i);
        // If a channel came twice or not at all, weights would have to be summed or be zeros.
        if order.len() != count || places.contains(&usize::MAX) {
            return;
        }
        match self.op(i).cloned() {
            Some(Op::Conv2d(graph::Conv2d { groups: 1, .. }) | Op::Linear { .. }) => {
                for (role, tensor) in &mut self.nodes[i].params {
                    if *role == Role::Weight {
                        *tensor = permuted(tensor, 1, &places);
                    }
                }
                self.nodes[i].inputs[0] = source;
                self.readers[source] += 1;
                self.release(before);
            }
            Some(
                Op::Affine { .. }
                | Op::BatchNorm2d { .. }
                | Op::PRelu { .. }
                | Op::Relu
                | Op::Activation(_)
                | Op::Pad2d { .. }
                | Op::MaxPool2d(_)
                | Op::AvgPool2d(_)
                | Op::AdaptiveAvgPool2d { .. },
            ) if self.is_read_once(before) => {
                // The two nodes change places.
                let [shape, was] = [self.nodes[i].shape, self.nodes[before].shape];
                let (first, second) = self.nodes.split_at_mut(i);
                let (pick, node) = (&mut first[before], &mut second[0]);
                std::mem::swap(&mut pick.kind, &mut node.kind);
                std::mem::swap(&mut pick.params, &mut node.params);
                std::mem::swap(&mut pick.name, &mut node.name);
                std::mem::swap(&mut pick.origin, &mut node.origin);
                for (_, tensor) in &mut pick.params {
                    *tensor = permuted(tensor, 0, &places);
                }
                pick.shape = Shape { channels: was.channels, ..shape };
            }
            _ => {}
        }
    }

    /// Makes a `Shuffle` of picks that are one.
    pub(super) fn shuffles(&mut self) {
        for i in 0..self.nodes.len() {
            let LoweredOp::Pick(order) = &self.nodes[i].kind else { continue };
            let n = order.len();
            // In a shuffle, channels 0 and C / groups come first.
            let each = order.get(1).copied().filter(|&each| each > 1 && n.is_multiple_of(each));
            let Some(groups) = each.map(|each| n / each) else { continue };
            let is_shuffle = order.iter().enumerate().all(|(c, &from)| from == c % groups * (n / groups) + c / groups);
            if is_shuffle && self.nodes[self.input(i)].shape.channels == n {
                self.nodes[i].kind = LoweredOp::Op(Op::Shuffle { groups });
            }
        }
    }
}

/// Makes slices that are joined of a pick, and puts the slices into `kept`.
pub(super) fn slices(node: &Lowered, order: &[usize], kept: &mut Vec<Lowered>) -> Lowered {
    if order.windows(2).all(|pair| pair[0] + 1 == pair[1]) {
        return Lowered { kind: LoweredOp::Op(Op::Slice { start: order[0], channels: order.len() }), ..node.clone() };
    }
    let mut inputs = Vec::new();
    for run in order.chunk_by(|a, b| a + 1 == *b) {
        let kind = LoweredOp::Op(Op::Slice { start: run[0], channels: run.len() });
        let shape = Shape { channels: run.len(), ..node.shape };
        inputs.push(kept.len());
        kept.push(Lowered { kind, shape, ..node.clone() });
    }
    Lowered { kind: LoweredOp::Op(Op::Concat), inputs, ..node.clone() }
}

/// Returns a parameter with the entries of one axis in another order.
fn permuted(tensor: &Tensor, axis: usize, order: &[usize]) -> Tensor {
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let rows = tensor.data().chunks_exact(inner * order.len());
    let data = rows.flat_map(|row| order.iter().flat_map(|&i| &row[i * inner..(i + 1) * inner])).copied().collect();
    Tensor::new(tensor.shape(), data)
}
