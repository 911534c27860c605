//! Makes steps with packed weights and buffers of a quantized network.
//!
//! 1. [`fuse`]: a convolution with what follows it element by element, a residual sum included, is one step.
//! 2. [`place`]: where each value lies. Parts of a concatenation are written where the whole is; buffers whose lives do
//!    not overlap share memory.
//! 3. [`forms`]: each integer layer's input is rounded by the step that makes it, for all its consumers.
//! 4. [`draft`]: memory is given to values, and steps are made one by one: [`steps`], [`conv`].
//!
//! The *body* runs an image at a time. The *head*, from where all values are 1x1, runs a whole batch: its weights are
//! read once for all images.
mod ceiling;
mod conv;
mod draft;
mod forms;
mod fuse;
mod parameters;
mod place;
mod program;
mod step;
mod steps;

use std::collections::BTreeMap;

use graph::{Budget, Node, Shape};
use model::Info;

pub(crate) use self::ceiling::Format;
use self::draft::Draft;
pub(crate) use self::parameters::Parameters;
use self::place::Placement;
pub(crate) use self::program::{CodeSize, Part, Program};
pub(crate) use self::step::{Added, CodesView, EMITS, IntConv, Patches, Step, StepOp, WinogradConv};
use crate::Error;
use crate::float::{FloatOp, View};
use crate::kernels::AnyKernel;
use crate::layout::Layout;

/// A network, ready to run.
#[derive(Debug)]
pub(crate) struct Plan {
    body: Program,
    head: Program,
    layouts: Vec<Layout>,
    crossing: Vec<(View, usize)>,
    row: usize,
    output: View,
    input: Shape,
    outputs: usize,
    info: Info,
    /// The layers of each step of integer sums that is not depthwise, by the step's name.
    sums: BTreeMap<String, Vec<Sums>>,
    /// The most bytes of a session's buffers, and of packed weights.
    most: u64,
}

impl Plan {
    /// Plans a model and packs its weights for a kernel; each layer's codes are freed as soon as they are packed.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::Dsc`] if the numbers do not fit the graph; [`Error::Layer`] for a layer that would take
    /// more memory or time than the network may.
    pub fn new(mut parameters: Parameters<'_>, kernel: &AnyKernel) -> Result<Self, Error> {
        let (graph, formats) = (parameters.graph(), parameters.formats());
        let most = Budget::of(graph.cost().parameters).bytes.saturating_mul(2);
        let integer = |node: &Node| formats.contains_key(&node.name);
        let whole = |node: &Node| formats.get(&node.name).is_some_and(|format| format.activation.block.is_image());
        let placement = Placement::new(&graph, &integer, &whole);
        let mut draft = Draft::new(&graph, &placement, &formats, kernel, most);
        draft.check_passes()?;
        let steps: Result<Vec<Step>, Error> =
            (0..placement.steps.len()).map(|i| draft.step(i, &mut parameters)).collect();
        let steps = steps?;
        let sums = sums(&steps, &placement, &draft.ceilings);
        let (body, head) = separate(steps, &placement);
        let last = graph.nodes().len() - 1;
        Ok(Self {
            body: draft.program(body, Part::Body),
            head: draft.program(head, Part::Head),
            crossing: placement.crossing.iter().map(|&(node, at)| (draft.view(node, false), at)).collect(),
            row: placement.row,
            output: draft.view(last, true),
            input: graph.input(),
            outputs: graph.output().elements(),
            sums,
            layouts: draft.into_layouts(),
            info: parameters.info(),
            most,
        })
    }

    /// Returns the steps of a part and the memory they need.
    pub fn program(&self, part: Part) -> &Program {
        match part {
            Part::Body => &self.body,
            Part::Head => &self.head,
        }
    }

    /// Returns the steps of a part.
    pub fn steps(&self, part: Part) -> &[Step] {
        &self.program(part).steps
    }

    /// Returns how the pixels of an integer activation lie.
    pub fn layout(&self, view: &CodesView) -> &Layout {
        &self.layouts[view.layout]
    }

    /// Returns how patches lie.
    pub fn patch_layout(&self, patches: &Patches) -> &Layout {
        &self.layouts[patches.layout]
    }

    /// Returns the values that the body hands on, and where they begin in a row.
    pub fn crossing(&self) -> &[(View, usize)] {
        &self.crossing
    }

    /// Returns the number of floats of a row, which is what the body hands on of an image.
    pub fn row(&self) -> usize {
        self.row
    }

    /// Returns where the logits lie, in a slot of the head or in the row.
    pub fn output(&self) -> View {
        self.output
    }

    /// Returns the number of elements of an image's output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the shape of an input image.
    pub fn input(&self) -> Shape {
        self.input
    }

    /// Returns what goes with the network.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Measures the multiply-accumulates a second of a kernel's innermost loop on one thread, in the format of the layer with
    /// the most multiplications.
    pub fn ceiling(&self, kernel: &AnyKernel) -> f64 {
        let heaviest = self.sums.values().flatten().max_by_key(|sums| sums.macs);
        heaviest.map(|sums| sums.format).unwrap_or_default().ceiling(kernel)
    }

    /// Returns the layers that a step of integer sums is of; none where one is depthwise, and for other steps.
    pub fn sums(&self, step: &Step) -> &[Sums] {
        self.sums.get(&step.name).map_or(&[], Vec::as_slice)
    }

    /// Returns the number of bytes that all packed weights take.
    pub fn weight_bytes(&self) -> usize {
        self.body.steps.iter().chain(&self.head.steps).map(Step::weight_bytes).sum()
    }

    /// Refuses more images, or more parts of a step, than there may be buffers for; returns how many bytes are left.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn check_memory(&self, images: usize, parts: usize) -> Result<u64, Error> {
        let (body, head) = (self.body.bytes(1, parts), self.head.bytes(images, parts));
        let rows =
            (images as u64).saturating_mul(4).saturating_mul((self.row as u64).saturating_add(self.outputs as u64));
        let takes = body.saturating_add(head).saturating_add(rows);
        self.most.checked_sub(takes).ok_or(Error::Memory { images, takes, most: self.most })
    }
}

/// The integer sums of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sums {
    /// The number of multiply-accumulates for an image.
    pub macs: u64,
    /// The format that they are in.
    pub format: Format,
}

/// Finds the layers that each step of integer sums is of: its own, and one that it computes along with it.
fn sums(steps: &[Step], placement: &Placement, formats: &BTreeMap<String, Format>) -> BTreeMap<String, Vec<Sums>> {
    let of = |step: &Step| match step.op {
        StepOp::Conv(_) => formats.get(&step.name).map(|&format| Sums { macs: step.macs(), format }),
        // Winograd's algorithm multiplies less often than is counted.
        StepOp::Winograd(_) | StepOp::Float(_) => None,
    };
    let layers = |(step, fused): (&Step, &fuse::Fused)| {
        let all = [Some(step), fused.before.map(|before| &steps[before])].into_iter().flatten().map(of);
        Some((step.name.clone(), all.collect::<Option<Vec<_>>>()?))
    };
    steps.iter().zip(&placement.steps).filter_map(layers).collect()
}

/// Separates the steps of the body from those of the head. Convolutions that another step computes move there.
fn separate(mut steps: Vec<Step>, placement: &Placement) -> (Vec<Step>, Vec<Step>) {
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
    (steps, head)
}
