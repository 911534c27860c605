//! The integer forms of values: which step makes them, for which layers, and where.
use std::collections::BTreeMap;

use graph::{Graph, Op};

use super::fuse::Post;
use super::parameters::InputFormat;
use super::place::{Placement, assign};
use super::program::CodeSize;
use super::step::CodesView;
use crate::layout::{LayerInput, Layout};

/// What is rounded, by which step.
#[derive(Default)]
pub(super) struct Forms {
    /// The layouts that views count.
    pub layouts: Vec<Layout>,
    /// What each step emits.
    pub emits: Vec<Vec<CodesView>>,
    /// The place of each step's integer input, where it has one.
    pub inputs: Vec<Option<CodesView>>,
    /// The integer slots of the body and of the head.
    pub sizes: [Vec<CodeSize>; 2],
    /// The largest band of rows between two steps that run together.
    pub band: CodeSize,
}

/// The number of bytes of a band of rows, which stay in the second-level cache until they are read.
const BAND: usize = 384 * 1024;

impl Forms {
    /// Decides which step rounds the input of each integer layer, and into which slot.
    pub fn new(graph: &Graph, placement: &Placement, formats: &BTreeMap<String, InputFormat>) -> Self {
        let n = placement.steps.len();
        let mut forms = Self { emits: vec![vec![]; n], inputs: vec![None; n], ..Self::default() };
        let mut last_use: Vec<Vec<usize>> = vec![vec![]; n];
        let mut wanted: Vec<Option<(usize, usize)>> = vec![None; n];
        for (i, step) in placement.steps.iter().enumerate() {
            let Some(from) = placement.emitter[i] else { continue };
            let node = &graph.nodes()[step.root];
            let x = graph.nodes()[step.inputs[0]].shape;
            let layout = forms.layout(x.channels, &node.op, &formats[&node.name]);
            let at = forms.emits[from].iter().position(|e| e.layout == layout).unwrap_or_else(|| {
                let (pad, band) = ([0, 0], None);
                let view = CodesView { slot: 0, layout, pad, width: x.width, height: x.height, band };
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
        forms.join(graph, placement, &wanted, &mut last_use);
        forms.assign_slots(placement.body, &last_use);
        forms.inputs = wanted.iter().map(|w| w.map(|(from, at)| forms.emits[from][at].clone())).collect();
        forms
    }

    /// Lets depthwise layers run with the convolution that makes their input, a band of rows at a time, where nobody else reads
    /// that and it would leave the nearest caches.
    fn join(
        &mut self,
        graph: &Graph,
        placement: &Placement,
        wanted: &[Option<(usize, usize)>],
        last_use: &mut [Vec<usize>],
    ) {
        for i in 1..placement.body {
            let [source, step] = [&placement.steps[i - 1], &placement.steps[i]];
            let Op::Conv2d(conv) = &graph.nodes()[step.root].op else { continue };
            let alone = wanted.iter().flatten().filter(|(from, _)| *from == i - 1).count() == 1;
            let pair = wanted[i] == Some((i - 1, 0)) && alone && placement.dest(graph, i - 1).is_none();
            // The source reads nothing but a slot.
            let input = wanted[i - 1].filter(|&(from, at)| self.emits[from][at].band.is_none());
            let adds = source.posts.iter().any(|post| matches!(post, Post::Add(_)));
            let others = [source.host, source.before, step.host, step.before].iter().any(Option::is_some);
            let Some((from, at)) = input.filter(|_| pair && !adds && !others) else { continue };
            let emit = &mut self.emits[i - 1][0];
            let layout = &self.layouts[emit.layout];
            let row = CodeSize { bytes: emit.width * layout.bytes, scales: emit.width * layout.scales };
            let (all, reach) = (emit.height + 2 * emit.pad[0], (conv.kernel[0] - 1) * conv.dilation[0] + 1);
            let rows = (BAND / (row.bytes + 4 * row.scales)).max(reach + conv.stride[0]);
            if layout.depthwise && rows < all {
                emit.band = Some(rows);
                last_use[from][at] = last_use[from][at].max(i);
                self.band.bytes = self.band.bytes.max(rows * row.bytes);
                self.band.scales = self.band.scales.max(rows * row.scales);
            }
        }
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
                let pixels = if emit.band.is_some() { 0 } else { emit.pixels(1) };
                (i, last_use[i][e], [pixels * layout.bytes, pixels * layout.scales])
            };
            let (slots, needed) = assign(&ids.iter().map(life).collect::<Vec<_>>());
            for (&(i, e), slot) in ids.iter().zip(slots) {
                self.emits[i][e].slot = slot;
            }
            *sizes = needed.into_iter().map(|[bytes, scales]| CodeSize { bytes, scales }).collect();
        }
    }
}
