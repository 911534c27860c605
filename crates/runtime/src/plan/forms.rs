//! The integer forms of values: which step makes them, for which layers, and where.
use std::collections::BTreeMap;

use blockfloat::{ActivationFormat, BlockSize};
use graph::{Conv2d, Graph, Op, Shape};

use super::fuse::Post;
use super::parameters::InputFormat;
use super::place::{Placement, assign};
use super::program::CodeSize;
use super::step::CodesView;
use crate::kernels::Wants;
use crate::layout::{LayerInput, Layout, Whole};

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
    /// The layout of the patches that each step's input is copied to, and the weight blocks in it, where it is copied.
    pub patches: Vec<Option<(usize, BlockSize)>>,
}

/// The number of bytes of a band of rows, which stay in the second-level cache until they are read.
const BAND: usize = 384 * 1024;

impl Forms {
    /// Decides which step rounds the input of each integer layer, and into which slot.
    pub fn new(graph: &Graph, placement: &Placement, formats: &BTreeMap<String, InputFormat>, wants: Wants) -> Self {
        let n = placement.steps.len();
        let mut forms =
            Self { emits: vec![vec![]; n], inputs: vec![None; n], patches: vec![None; n], ..Self::default() };
        let mut last_use: Vec<Vec<usize>> = vec![vec![]; n];
        let mut wanted: Vec<Option<(usize, usize)>> = vec![None; n];
        for (i, step) in placement.steps.iter().enumerate() {
            let Some(from) = placement.emitter[i] else { continue };
            let node = &graph.nodes()[step.root];
            let x = graph.nodes()[step.inputs[0]].shape;
            let format = &formats[&node.name];
            let layout = match (&node.op, patch_block(x, &node.op, format, wants)) {
                (Op::Conv2d(conv), Some(block)) => {
                    let (layout, patches) = forms.patched(conv, format, block);
                    forms.patches[i] = Some((patches, block));
                    layout
                }
                _ => forms.layout(x, &node.op, format),
            };
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
                self.band = self.band.or_larger(CodeSize { bytes: rows * row.bytes, scales: rows * row.scales });
            }
        }
    }

    /// Returns the number of a layer's layout, which is added if it is new.
    fn layout(&mut self, x: Shape, op: &Op, format: &InputFormat) -> usize {
        let (groups, depthwise) = match op {
            Op::Conv2d(c) => (c.groups, c.groups == c.in_channels && c.groups == c.out_channels && c.groups > 1),
            _ => (1, false),
        };
        let &InputFormat { weight: weight_block, activation, signed, .. } = format;
        // One pixel has the scale of its image.
        let one = x.height * x.width == 1 && activation.block.is_image();
        let format = ActivationFormat { block: if one { BlockSize::PIXEL } else { activation.block }, ..activation };
        let whole = Whole::Apart;
        self.add(LayerInput { channels: x.channels, groups, weight_block, format, signed, depthwise, whole })
    }

    /// Returns the numbers of the layouts of an image and of the patches that it is copied to, whose weight blocks have a length.
    fn patched(&mut self, conv: &Conv2d, format: &InputFormat, block: BlockSize) -> (usize, usize) {
        let &InputFormat { activation, signed, .. } = format;
        let whole = if block == BlockSize::PIXEL { Whole::Tight } else { Whole::Apart };
        let (channels, format) = (conv.in_channels, activation);
        let image = LayerInput { channels, groups: 1, weight_block: block, format, signed, depthwise: false, whole };
        let channels = channels * conv.kernel[0] * conv.kernel[1];
        let format = ActivationFormat { block: BlockSize::PIXEL, ..activation };
        let patches = LayerInput { channels, format, whole: Whole::Patches, ..image };
        (self.add(image), self.add(patches))
    }

    /// Returns the number of a layout, which is added if it is new.
    fn add(&mut self, input: LayerInput) -> usize {
        let layout = Layout::new(input);
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

/// Returns the weight blocks of a convolution whose outputs are one integer sum each, over the patch that it sees: all pixels share
/// a scale, and weights have two levels. Elsewhere, and where a patch is a pixel, there are none.
///
/// Factors that are multiplied apart need blocks that begin at words, in every tap; others are multiplied already, and nothing is
/// left of blocks.
fn patch_block(x: Shape, op: &Op, format: &InputFormat, wants: Wants) -> Option<BlockSize> {
    let Op::Conv2d(conv) = op else { return None };
    let sums = format.two_level && format.activation.block.is_image() && conv.groups == 1;
    if !sums || conv.kernel == [1, 1] || x.height * x.width == 1 {
        return None;
    }
    let length = format.weight.len_in(conv.in_channels);
    let apart = wants.factors_apart && format.bits.get() <= 4;
    Some(match apart {
        true if conv.in_channels.is_multiple_of(length) => BlockSize::new(length).expect("a block has channels"),
        true => BlockSize::new(1).expect("1 is not 0"),
        false => BlockSize::PIXEL,
    })
}
