//! The integer forms of values: which step makes them, for which layers, and where.
use std::collections::BTreeMap;

use graph::{Graph, Op};

use super::parameters::InputFormat;
use super::place::{Placement, assign};
use super::program::CodeSize;
use super::step::CodesView;
use crate::layout::{LayerInput, Layout};

/// What is rounded, by which step.
pub(super) struct Forms {
    /// The layouts that views count.
    pub layouts: Vec<Layout>,
    /// What each step emits.
    pub emits: Vec<Vec<CodesView>>,
    /// The place of each step's integer input, where it has one.
    pub inputs: Vec<Option<CodesView>>,
    /// The integer slots of the body and of the head.
    pub sizes: [Vec<CodeSize>; 2],
}

impl Forms {
    /// Decides which step rounds the input of each integer layer, and into which slot.
    pub fn new(graph: &Graph, placement: &Placement, formats: &BTreeMap<String, InputFormat>) -> Self {
        let n = placement.steps.len();
        let mut forms =
            Self { layouts: vec![], emits: vec![vec![]; n], inputs: vec![None; n], sizes: [vec![], vec![]] };
        let mut last_use: Vec<Vec<usize>> = vec![vec![]; n];
        let mut wanted: Vec<Option<(usize, usize)>> = vec![None; n];
        for (i, step) in placement.steps.iter().enumerate() {
            let Some(from) = placement.emitter[i] else { continue };
            let node = &graph.nodes()[step.root];
            let x = graph.nodes()[step.inputs[0]].shape;
            let layout = forms.layout(x.channels, &node.op, &formats[&node.name]);
            let at = forms.emits[from].iter().position(|e| e.layout == layout).unwrap_or_else(|| {
                let view = CodesView { slot: 0, layout, pad: [0, 0], width: x.width, height: x.height };
                forms.emits[from].push(view);
                last_use[from].push(0);
                forms.emits[from].len() - 1
            });
            let pad = if let Op::Conv2d(conv) = &node.op { conv.padding } else { [0, 0] };
            let emit = &mut forms.emits[from][at];
            emit.pad = [emit.pad[0].max(pad[0]), emit.pad[1].max(pad[1])];
            emit.width = x.width + 2 * emit.pad[1];
            // An input is read when the step runs that computes this one.
            last_use[from][at] = last_use[from][at].max(step.host.unwrap_or(i));
            wanted[i] = Some((from, at));
        }
        forms.assign_slots(placement.body, &last_use);
        forms.inputs = wanted.iter().map(|w| w.map(|(from, at)| forms.emits[from][at].clone())).collect();
        forms
    }

    /// Returns the number of a layer's layout, which is added if it is new.
    fn layout(&mut self, channels: usize, op: &Op, format: &InputFormat) -> usize {
        let (groups, depthwise) = match op {
            Op::Conv2d(c) => (c.groups, c.groups == c.in_channels && c.groups == c.out_channels && c.groups > 1),
            _ => (1, false),
        };
        let &InputFormat { weight: weight_block, activation, signed } = format;
        let layout = Layout::new(LayerInput { channels, groups, weight_block, format: activation, signed, depthwise });
        self.layouts.iter().position(|l| *l == layout).unwrap_or_else(|| {
            self.layouts.push(layout);
            self.layouts.len() - 1
        })
    }

    /// Gives each form a slot; those of the `body`'s steps and the head's are apart.
    fn assign_slots(&mut self, body: usize, last_use: &[Vec<usize>]) {
        for (part, sizes) in self.sizes.iter_mut().enumerate() {
            let ids: Vec<(usize, usize)> = (0..self.emits.len())
                .filter(|&i| (i >= body) == (part == 1))
                .flat_map(|i| (0..self.emits[i].len()).map(move |e| (i, e)))
                .collect();
            let life = |&(i, e): &(usize, usize)| {
                let (emit, layout) = (&self.emits[i][e], &self.layouts[self.emits[i][e].layout]);
                (i, last_use[i][e], [emit.pixels(1) * layout.bytes, emit.pixels(1) * layout.scales])
            };
            let (slots, needed) = assign(&ids.iter().map(life).collect::<Vec<_>>());
            for (&(i, e), slot) in ids.iter().zip(slots) {
                self.emits[i][e].slot = slot;
            }
            *sizes = needed.into_iter().map(|[bytes, scales]| CodeSize { bytes, scales }).collect();
        }
    }
}
