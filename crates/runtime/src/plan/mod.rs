//! From a quantized network to steps with packed weights and buffers.
//!
//! 1. [`fuse`]: a convolution with what follows it element by element, a residual sum included, is one step.
//! 2. [`place`]: where each value lies. Parts of a concatenation are written where the whole is; buffers whose lives do
//!    not overlap share memory.
//! 3. Here: each integer layer's input is rounded by the step that makes it, for all its consumers; weights are packed.
//!
//! The *body* runs an image at a time. The *head*, from where all values are 1x1, runs a whole batch: its weights are
//! read once for all images.
mod fuse;
mod parameters;
mod place;

use std::collections::BTreeMap;

use blockfloat::BlockSize;
use graph::{Budget, Conv2d, Cost, Graph, Node, Op, Shape};
use model::Info;

use self::fuse::{Kind, Post};
use self::parameters::LayerFormat;
pub(crate) use self::parameters::Parameters;
use self::place::{Placement, assign};
use crate::Error;
use crate::buffer::Buffer;
use crate::float::{FloatConv, FloatOp, Lrn, PostOp, Source, View};
use crate::kernels::{AnyKernel, SLACK, STRIP};
use crate::layout::{LANES, Layout};
use crate::pack::{Integers, Packed, Scale};

/// Most integer forms of one value that a step makes in one pass.
pub(crate) const EMITS: usize = 4;

/// An integer activation in memory: `[H + 2 pad, W + 2 pad]` pixels of one layout.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CodesView {
    pub slot: usize,
    pub layout: usize,
    /// `[vertical, horizontal]` border of zeros on either side.
    pub pad: [usize; 2],
    /// Pixels of a row, borders included.
    pub width: usize,
    /// Rows without borders.
    pub height: usize,
}

impl CodesView {
    /// Pixels of all rows, of `images` images below each other.
    pub fn pixels(&self, images: usize) -> usize {
        (self.height * images + 2 * self.pad[0]) * self.width
    }
}

/// A convolution in integers, or a linear layer.
#[derive(Debug)]
pub(crate) struct IntConv {
    pub weights: Packed,
    pub input: CodesView,
    /// The input pixel under the first tap of output (0, 0).
    pub origin: usize,
    pub stride: [usize; 2],
    /// Distance of each tap from the first.
    pub taps: Vec<u32>,
    pub residual: Option<Added>,
    /// Another convolution, whose value is added.
    pub before: Option<Box<IntConv>>,
    pub clamp: Option<(f32, f32)>,
    /// Multiply-accumulates an output pixel.
    pub macs: u64,
}

/// What a convolution adds to its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// A value.
    View(View),
    /// What lies where the result goes.
    Dest,
}

/// What a step computes for each output pixel.
#[derive(Debug)]
pub(crate) enum StepOp {
    /// A convolution in integers.
    Conv(Box<IntConv>),
    /// An operation in floats.
    Float(FloatOp),
}

impl StepOp {
    /// What kind of work it is, for a person to read.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Conv(_) => "integer convolution",
            Self::Float(op) => op.kind(),
        }
    }
}

/// One pass over the pixels of a value.
#[derive(Debug)]
pub(crate) struct Step {
    /// The node it begins with.
    pub name: String,
    pub op: StepOp,
    pub posts: Vec<PostOp>,
    /// Of what it makes.
    pub shape: Shape,
    pub dest: Option<View>,
    /// Integer forms that it makes.
    pub emits: Vec<CodesView>,
    /// Pixels computed at a time.
    pub strip: usize,
}

impl Step {
    /// Multiply-accumulates of one image.
    pub fn macs(&self) -> u64 {
        let pixels = (self.shape.height * self.shape.width) as u64;
        match &self.op {
            StepOp::Conv(conv) => conv.macs * pixels,
            StepOp::Float(FloatOp::Conv(conv, _)) => conv.len() as u64 * pixels,
            StepOp::Float(_) => 0,
        }
    }

    /// Bytes of its packed weights.
    fn weight_bytes(&self) -> usize {
        match &self.op {
            StepOp::Conv(conv) => conv.weights.bytes() + conv.before.as_ref().map_or(0, |b| b.weights.bytes()),
            StepOp::Float(FloatOp::Conv(conv, _)) => 4 * conv.len(),
            StepOp::Float(_) => 0,
        }
    }
}

/// Steps and the slots they need, for one image.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub steps: Vec<Step>,
    /// Floats of each slot.
    pub floats: Vec<usize>,
    /// Pixels (see [`CodesView::pixels`]), bytes and scales of each integer slot.
    pub codes: Vec<CodeSize>,
    /// Floats that a strip of any step takes.
    pub scratch: usize,
    /// Bytes for a pair of panels, unpacked.
    pub unpacked: usize,
}

impl Program {
    /// Bytes of the buffers that it runs in: for `images` images at a time, each step in up to `parts` parts.
    pub fn bytes(&self, images: usize, parts: usize) -> u64 {
        let floats = |n: usize, times: usize| Buffer::<f32>::bytes_of(n.saturating_mul(times));
        let bytes = |n: usize, times: usize| Buffer::<u8>::bytes_of(n.saturating_mul(times).saturating_add(SLACK));
        let slots = self.floats.iter().map(|&n| floats(n, images));
        let codes = self.codes.iter().flat_map(|size| [bytes(size.bytes, images), floats(size.scales, images)]);
        let parts = [floats(self.scratch, parts), bytes(self.unpacked, parts)];
        slots.chain(codes).chain(parts).fold(0, u64::saturating_add)
    }
}

/// What an integer slot must hold, for one image.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CodeSize {
    pub bytes: usize,
    pub scales: usize,
}

/// A network, ready to run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub body: Program,
    pub head: Program,
    pub layouts: Vec<Layout>,
    /// Values that the body hands on, and where they begin in a row.
    pub crossing: Vec<(View, usize)>,
    /// Floats of a row.
    pub row: usize,
    /// The logits, in a slot of the head or in the row.
    pub output: View,
    pub input: Shape,
    pub outputs: usize,
    pub info: Info,
    /// Most bytes of a session's buffers, and of packed weights.
    pub most: u64,
}

impl Plan {
    /// Plans a model and packs its weights for a kernel; each layer's codes are freed as soon as they are packed.
    pub fn new(mut parameters: Parameters<'_>, kernel: &AnyKernel) -> Result<Self, Error> {
        parameters.check()?;
        let (graph, formats) = (parameters.graph(), parameters.formats());
        let most = Budget::of(graph.cost().parameters).bytes.saturating_mul(2);
        let integer = |node: &Node| formats.contains_key(&node.name);
        let placement = Placement::new(&graph, &integer);
        let mut draft = Draft::new(&graph, &placement, &formats, kernel, most);
        draft.check_passes()?;
        let mut steps = Vec::with_capacity(placement.steps.len());
        for i in 0..placement.steps.len() {
            steps.push(draft.step(i, &mut parameters)?);
        }
        // Convolutions that another step computes move there.
        for i in 0..steps.len() {
            let Some(before) = placement.steps[i].before else { continue };
            let before = std::mem::replace(&mut steps[before].op, StepOp::Float(FloatOp::Image));
            if let (StepOp::Conv(conv), StepOp::Conv(before)) = (&mut steps[i].op, before) {
                conv.macs += before.macs;
                conv.before = Some(before);
            }
        }
        let mut own = placement.steps.iter().map(|s| s.host.is_none());
        let mut head = steps.split_off(placement.body);
        steps.retain(|_| own.next().unwrap_or(true));
        head.retain(|_| own.next().unwrap_or(true));
        let program = |steps: Vec<Step>, head: bool| {
            // The body runs an image at a time: a strip is no longer than that.
            let strip = |s: &Step| if head { s.strip } else { s.strip.min(s.shape.height * s.shape.width) };
            let scratch = steps.iter().filter(|s| s.dest.is_none()).map(|s| strip(s) * s.shape.channels).max();
            let unpacked =
                |conv: &IntConv| if conv.weights.nibbles { 2 * conv.weights.unpacked_bytes() + 64 } else { 0 };
            let bytes = |step: &Step| match &step.op {
                StepOp::Conv(conv) => unpacked(conv).max(conv.before.as_deref().map_or(0, unpacked)),
                _ => 0,
            };
            let unpacked = steps.iter().map(bytes).max().unwrap_or(0);
            let (floats, codes) = draft.sizes(head);
            Program { steps, floats, codes, scratch: scratch.unwrap_or(0), unpacked }
        };
        let (body, head) = (program(steps, false), program(head, true));
        let last = graph.nodes().len() - 1;
        let crossing = placement.crossing.iter().map(|&(node, at)| (draft.view(node, false), at)).collect();
        let output = draft.view(last, true);
        Ok(Self {
            body,
            head,
            crossing,
            row: placement.row,
            output,
            input: graph.input(),
            outputs: graph.output().elements(),
            layouts: std::mem::take(&mut draft.layouts),
            info: parameters.info(),
            most,
        })
    }

    /// Bytes of all packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.body.steps.iter().chain(&self.head.steps).map(Step::weight_bytes).sum()
    }

    /// Refuses more images, or more parts of a step, than there may be buffers for; gives how many bytes are left.
    pub fn check_memory(&self, images: usize, parts: usize) -> Result<u64, Error> {
        let body = self.body.bytes(1, parts);
        let head = self.head.bytes(images, parts);
        let rows =
            (images as u64).saturating_mul(4).saturating_mul((self.row as u64).saturating_add(self.outputs as u64));
        let takes = body.saturating_add(head).saturating_add(rows);
        self.most.checked_sub(takes).ok_or(Error::Memory { images, takes, most: self.most })
    }
}

/// A plan in the making.
struct Draft<'a> {
    graph: &'a Graph,
    placement: &'a Placement,
    kernel: &'a AnyKernel,
    layouts: Vec<Layout>,
    /// What each step emits; slots are assigned.
    emits: Vec<Vec<CodesView>>,
    /// For each step with integer input, where it lies.
    inputs: Vec<Option<CodesView>>,
    float_slots: Vec<usize>,
    float_sizes: [Vec<usize>; 2],
    code_sizes: [Vec<CodeSize>; 2],
    /// Bytes that packed weights may still take.
    room: u64,
}

impl<'a> Draft<'a> {
    fn new(
        graph: &'a Graph,
        placement: &'a Placement,
        formats: &BTreeMap<String, LayerFormat>,
        kernel: &'a AnyKernel,
        room: u64,
    ) -> Self {
        let nodes = graph.nodes();
        let n = placement.steps.len();
        let mut layouts: Vec<Layout> = Vec::new();
        let mut emits: Vec<Vec<CodesView>> = vec![vec![]; n];
        let mut last_use: Vec<Vec<usize>> = vec![vec![]; n];
        let mut wanted: Vec<Option<(usize, usize)>> = vec![None; n];
        for (i, step) in placement.steps.iter().enumerate() {
            let Some(from) = placement.emitter[i] else { continue };
            let node = &nodes[step.root];
            let x = nodes[step.inputs[0]].shape;
            let format = &formats[&node.name];
            let (groups, pad, depthwise) = match &node.op {
                Op::Conv2d(c) => {
                    (c.groups, c.padding, c.groups == c.in_channels && c.groups == c.out_channels && c.groups > 1)
                }
                _ => (1, [0, 0], false),
            };
            let layout = Layout::new(x.channels, groups, format.weight, format.activation, format.signed, depthwise);
            let id = layouts.iter().position(|l| *l == layout).unwrap_or_else(|| {
                layouts.push(layout);
                layouts.len() - 1
            });
            let at = emits[from].iter().position(|e| e.layout == id).unwrap_or_else(|| {
                emits[from].push(CodesView { slot: 0, layout: id, pad: [0, 0], width: x.width, height: x.height });
                last_use[from].push(0);
                emits[from].len() - 1
            });
            // An input is read when the step runs that computes this one.
            let i_read = step.host.unwrap_or(i);
            let emit = &mut emits[from][at];
            emit.pad = [emit.pad[0].max(pad[0]), emit.pad[1].max(pad[1])];
            emit.width = x.width + 2 * emit.pad[1];
            last_use[from][at] = last_use[from][at].max(i_read);
            wanted[i] = Some((from, at));
        }

        // Slots: integers, then floats, the body's and the head's apart.
        let mut code_sizes = [vec![], vec![]];
        for (part, sizes) in code_sizes.iter_mut().enumerate() {
            let ids: Vec<(usize, usize)> = (0..n)
                .filter(|&i| (i >= placement.body) == (part == 1))
                .flat_map(|i| (0..emits[i].len()).map(move |e| (i, e)))
                .collect();
            let lives: Vec<_> = ids
                .iter()
                .map(|&(i, e)| {
                    let (emit, layout) = (&emits[i][e], &layouts[emits[i][e].layout]);
                    (i, last_use[i][e], [emit.pixels(1) * layout.bytes, emit.pixels(1) * layout.scales])
                })
                .collect();
            let (slots, needed) = assign(&lives);
            for (&(i, e), slot) in ids.iter().zip(slots) {
                emits[i][e].slot = slot;
            }
            *sizes = needed.into_iter().map(|[bytes, scales]| CodeSize { bytes, scales }).collect();
        }
        let mut float_slots = vec![0; placement.buffers.len()];
        let mut float_sizes = [vec![], vec![]];
        for (part, sizes) in float_sizes.iter_mut().enumerate() {
            let ids: Vec<usize> = (0..placement.buffers.len())
                .filter(|&b| (placement.buffers[b].first >= placement.body) == (part == 1))
                .collect();
            let lives: Vec<_> = ids
                .iter()
                .map(|&b| (placement.buffers[b].first, placement.buffers[b].last, [placement.buffers[b].len]))
                .collect();
            let (slots, needed) = assign(&lives);
            for (&b, slot) in ids.iter().zip(slots) {
                float_slots[b] = slot;
            }
            *sizes = needed.into_iter().map(|[len]| len).collect();
        }
        let inputs = wanted.iter().map(|w| w.map(|(from, at)| emits[from][at].clone())).collect();
        Self { graph, placement, kernel, layouts, emits, inputs, float_slots, float_sizes, code_sizes, room }
    }

    /// Refuses a step that is computed so often, once for every [`EMITS`] integer forms of its value, that the network
    /// takes more than its budget.
    fn check_passes(&self) -> Result<(), Error> {
        let Cost { parameters, .. } = self.graph.cost();
        let (most, each) = (Budget::of(parameters).operations, self.graph.operations());
        let mut operations = 0u64;
        for (step, emits) in self.placement.steps.iter().zip(&self.emits) {
            let passes = emits.len().div_ceil(EMITS).max(1) as u64;
            operations = operations.saturating_add(each[step.root].saturating_mul(passes));
            if operations > most {
                let layer = self.graph.nodes()[step.root].name.clone();
                let why = format!("its value is rounded in {} ways, too many for the network's budget", emits.len());
                return Err(Error::Layer { layer, why });
            }
        }
        Ok(())
    }

    fn sizes(&self, head: bool) -> (Vec<usize>, Vec<CodeSize>) {
        (self.float_sizes[usize::from(head)].clone(), self.code_sizes[usize::from(head)].clone())
    }

    fn slot(&self, view: View) -> View {
        match view.source {
            Source::Slot(buffer) => View { source: Source::Slot(self.float_slots[buffer]), ..view },
            Source::Row => view,
        }
    }

    fn view(&self, node: usize, head: bool) -> View {
        self.slot(self.placement.view(self.graph, node, head))
    }

    fn step(&mut self, i: usize, parameters: &mut Parameters<'_>) -> Result<Step, Error> {
        let fused = &self.placement.steps[i];
        let node = &self.graph.nodes()[fused.root];
        let shape = node.shape;
        let mut posts = Vec::with_capacity(fused.posts.len());
        for post in &fused.posts {
            posts.push(match post {
                // The value of a step that runs with this one lies where the result goes.
                Post::Add(other) if fused.before.is_some() => PostOp::Add(View {
                    source: Source::Row,
                    offset: 0,
                    stride: 0,
                    shape: self.graph.nodes()[*other].shape,
                }),
                Post::Add(other) => PostOp::Add(self.view(*other, fused.head)),
                Post::Clamp(lo, hi) => PostOp::Clamp(*lo, *hi),
                Post::Function(f) => PostOp::Function(*f),
                Post::Affine(affine) => {
                    let name = &self.graph.nodes()[*affine].name;
                    let mut param = |role: &str| parameters.floats(&format!("{name}.{role}"));
                    PostOp::Affine(param("weight")?, param("bias")?)
                }
                Post::PRelu(node) => {
                    PostOp::PRelu(parameters.floats(&format!("{}.weight", self.graph.nodes()[*node].name))?)
                }
            });
        }
        let op = match fused.kind {
            Kind::Copy => StepOp::Float(FloatOp::Copy(self.view(fused.inputs[0], fused.head))),
            Kind::Node => self.op(i, node, parameters, &mut posts)?,
        };
        let dest = self.placement.dest(self.graph, i).map(|view| self.slot(view));
        let wants = self.kernel.wants();
        let large = matches!(&op, StepOp::Conv(conv) if conv.weights.unpacked_bytes() > wants.large);
        let bytes = if large { wants.long_strip } else { wants.strip };
        let strip = (bytes / 4 / shape.channels).clamp(wants.fewest, STRIP) / wants.tile * wants.tile;
        let (name, emits) = (node.name.clone(), std::mem::take(&mut self.emits[i]));
        Ok(Step { name, op, posts, shape, dest, emits, strip })
    }

    fn op(
        &mut self,
        i: usize,
        node: &Node,
        parameters: &mut Parameters<'_>,
        posts: &mut Vec<PostOp>,
    ) -> Result<StepOp, Error> {
        let fused = &self.placement.steps[i];
        let x = |k: usize| self.view(fused.inputs[k], fused.head);
        Ok(StepOp::Float(match &node.op {
            Op::Input => FloatOp::Image,
            Op::Conv2d(conv) => return self.conv(i, node, conv.clone(), parameters, posts),
            Op::Linear { in_features, out_features, bias } => {
                let conv = Conv2d { bias: *bias, ..Conv2d::new(*in_features, *out_features, 1) };
                return self.conv(i, node, conv, parameters, posts);
            }
            Op::BatchNorm2d { channels, eps } => {
                let mut param = |role: &str| parameters.floats(&format!("{}.{role}", node.name));
                let (gamma, beta, mean, var) =
                    (param("weight")?, param("bias")?, param("running_mean")?, param("running_var")?);
                let scale: Vec<f64> =
                    (0..*channels).map(|c| f64::from(gamma[c]) / (f64::from(var[c]) + eps).sqrt()).collect();
                let shift =
                    (0..*channels).map(|c| (f64::from(beta[c]) - f64::from(mean[c]) * scale[c]) as f32).collect();
                posts.insert(0, PostOp::Affine(scale.iter().map(|&s| s as f32).collect(), shift));
                FloatOp::Copy(x(0))
            }
            Op::MaxPool2d(pool) => FloatOp::MaxPool(pool.clone(), x(0)),
            Op::AvgPool2d(pool) => FloatOp::AvgPool(pool.clone(), x(0)),
            Op::AdaptiveAvgPool2d { .. } => FloatOp::Adaptive(x(0)),
            Op::Add => FloatOp::Add(x(0), x(1)),
            Op::Max => FloatOp::Max(x(0), x(1)),
            Op::Mul => FloatOp::Mul(x(0), x(1)),
            Op::Concat => FloatOp::Concat((0..fused.inputs.len()).map(x).collect()),
            Op::Shuffle { groups } => FloatOp::Shuffle(*groups, x(0)),
            Op::Pad2d { sides, value } => FloatOp::Pad2d(*sides, *value as f32, x(0)),
            Op::Lrn { size, alpha, beta, k } => {
                let alpha = (alpha / *size as f64) as f32;
                FloatOp::Lrn(Lrn { size: *size, alpha, beta: *beta as f32, k: *k as f32 }, x(0))
            }
            Op::Softmax => FloatOp::Softmax(x(0)),
            Op::Flatten => FloatOp::Flatten(x(0)),
            Op::PadShortcut { stride, before, .. } => {
                FloatOp::PadShortcut { stride: *stride, before: *before, x: x(0) }
            }
            Op::Relu
            | Op::Activation(_)
            | Op::Affine { .. }
            | Op::PRelu { .. }
            | Op::Dropout { .. }
            | Op::Slice { .. } => {
                unreachable!("{} is part of another step", node.name)
            }
        }))
    }

    fn conv(
        &mut self,
        i: usize,
        node: &Node,
        conv: Conv2d,
        parameters: &mut Parameters<'_>,
        posts: &mut Vec<PostOp>,
    ) -> Result<StepOp, Error> {
        let bias = if conv.bias { Some(parameters.floats(&format!("{}.bias", node.name))?) } else { None };
        let layer = parameters.layer(&node.name)?;
        let packed = match &self.inputs[i] {
            Some(input) => {
                let block = layer.as_ref().map_or(BlockSize::PIXEL, |layer| layer.codes.block());
                Packed::most_bytes(conv.weight_shape(), block, &self.layouts[input.layout])
            }
            None => conv.weight_shape().iter().fold(4, |bytes: u64, &n| bytes.saturating_mul(n as u64)),
        };
        self.room = self.room.checked_sub(packed).ok_or_else(|| Error::Layer {
            layer: node.name.clone(),
            why: "weights up to it take more memory, as kernels read them, than the network may".into(),
        })?;
        let Some(input) = self.inputs[i].clone() else {
            let weight = match layer {
                Some(layer) => layer.codes.dequantize(),
                None => parameters.floats(&format!("{}.weight", node.name))?,
            };
            let x = self.view(self.placement.steps[i].inputs[0], self.placement.steps[i].head);
            return Ok(StepOp::Float(FloatOp::Conv(Box::new(FloatConv::new(conv, &weight, bias)), x)));
        };
        let layer = layer.expect("layers with integer input are quantized");
        let layout = &self.layouts[input.layout];
        let (codes, wants) = (&layer.codes, self.kernel.wants());
        let linear = matches!(node.op, Op::Linear { .. });
        let small = codes.bits().get() <= 4 && !layout.depthwise;
        // Factors of short blocks are as many as the multiplications.
        let long = codes.block().ranges(codes.shape()[1]).next().is_some_and(|block| block.len() >= LANES);
        let levels = codes.two_level().filter(|_| wants.factors_apart && small && long && !linear);
        let products = if levels.is_some() { None } else { codes.int8_weights() };
        let large = linear || codes.codes().len() >= wants.nibbles_from;
        let nibbles = large && small && products.is_none();
        let integers = Integers {
            shape: codes.shape(),
            block: codes.block(),
            values: products.as_deref().unwrap_or(codes.codes()),
            scale: match (levels, codes.two_level()) {
                (Some(levels), _) => Scale::Levels(levels.channel(), levels.factors()),
                (_, Some(levels)) => Scale::Channel(levels.channel()),
                (_, None) => Scale::Block(codes.scales()),
            },
        };
        let mut weights = Packed::new(integers, bias.as_deref(), layout, nibbles);
        self.kernel.prepare(&mut weights);
        let distance = |k: usize, axis: usize| k * conv.dilation[axis];
        let taps = (0..conv.kernel[0])
            .flat_map(|y| (0..conv.kernel[1]).map(move |x| (y, x)))
            .map(|(y, x)| distance(y, 0) * input.width + distance(x, 1));
        let taps: Option<Vec<u32>> = taps.map(|t| u32::try_from(t).ok()).collect();
        let fits = u32::try_from(input.pixels(1)).is_ok() && weights.taps > 0;
        let Some(taps) = taps.filter(|_| fits) else {
            return Err(Error::Layer { layer: node.name.clone(), why: "its input has more than 2^32 pixels".into() });
        };
        let origin = (input.pad[0] - conv.padding[0]) * input.width + input.pad[1] - conv.padding[1];
        let dest = self.placement.dest(self.graph, i).map(|view| self.slot(view));
        let residual = match posts.first() {
            Some(PostOp::Add(_)) if self.placement.steps[i].before.is_some() => Some(Added::Dest),
            Some(PostOp::Add(view)) if Some(*view) == dest => Some(Added::Dest),
            Some(PostOp::Add(view)) => Some(Added::View(*view)),
            _ => None,
        };
        if residual.is_some() {
            posts.remove(0);
        }
        let clamp = match posts.first() {
            Some(PostOp::Clamp(lo, hi)) => Some((*lo, *hi)),
            _ => None,
        };
        if clamp.is_some() {
            posts.remove(0);
        }
        let [co, cg, kh, kw] = conv.weight_shape();
        let macs = (co * cg * kh * kw) as u64;
        let stride = conv.stride;
        Ok(StepOp::Conv(Box::new(IntConv {
            weights,
            input,
            origin,
            stride,
            taps,
            residual,
            before: None,
            clamp,
            macs,
        })))
    }
}
