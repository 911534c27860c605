//! A plan in the making: memory for its values, and limits of what it may ask for.
use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use graph::{Budget, Cost, Graph};

use super::ceiling::Format;
use super::forms::Forms;
use super::parameters::InputFormat;
use super::place::{Placement, assign};
use super::program::{CodeSize, Part, Program};
use super::step::{EMITS, Step};
use crate::Error;
use crate::float::{Source, View};
use crate::kernels::AnyKernel;
use crate::layout::Layout;

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub graph: &'a Graph,
    pub placement: &'a Placement,
    pub kernel: &'a AnyKernel,
    pub forms: Forms,
    /// The slot of each float buffer.
    slots: Vec<usize>,
    /// The number of floats of each slot of the body and of the head.
    sizes: [Vec<usize>; 2],
    /// The number of bytes that packed weights may still take.
    pub room: u64,
    /// The formats of the integer layers that are not depthwise, by node name.
    pub ceilings: BTreeMap<String, Format>,
    /// The steps whose values others round with one scale, and those others.
    pub noting: BTreeSet<usize>,
    pub knowing: BTreeSet<usize>,
}

impl<'a> Draft<'a> {
    /// Gives values their memory. Packed weights may take `room` bytes.
    pub fn new(
        graph: &'a Graph,
        placement: &'a Placement,
        formats: &BTreeMap<String, InputFormat>,
        kernel: &'a AnyKernel,
        room: u64,
    ) -> Self {
        let buffers = &placement.buffers;
        let mut slots = vec![0; buffers.len()];
        let sizes = [false, true].map(|head| {
            let ids: Vec<usize> =
                (0..buffers.len()).filter(|&b| (buffers[b].first >= placement.body) == head).collect();
            let life = |&b: &usize| (buffers[b].first, buffers[b].last, [buffers[b].len]);
            let (assigned, needed) = assign(&ids.iter().map(life).collect::<Vec<_>>());
            for (&b, slot) in ids.iter().zip(assigned) {
                slots[b] = slot;
            }
            needed.into_iter().map(|[len]| len).collect()
        });
        let mut draft = Self {
            graph,
            placement,
            kernel,
            forms: Forms::new(graph, placement, formats, kernel.wants()),
            slots,
            sizes,
            room,
            ceilings: BTreeMap::new(),
            noting: BTreeSet::new(),
            knowing: BTreeSet::new(),
        };
        draft.find_makers();
        draft
    }

    /// Refuses a step that is computed so often, once for every [`EMITS`] integer forms of its value, that the network
    /// takes more than its budget.
    pub fn check_passes(&self) -> Result<(), Error> {
        let Cost { parameters, .. } = self.graph.cost();
        let (most, each) = (Budget::of(parameters).operations, self.graph.operations());
        let mut operations = 0u64;
        for (step, emits) in self.placement.steps.iter().zip(&self.forms.emits) {
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

    /// Returns where a value lies for a reader in the body or the head.
    pub fn view(&self, node: usize, head: bool) -> View {
        self.slot(self.placement.view(self.graph, node, head))
    }

    /// Returns where a step stores its value as floats, if anybody reads it so.
    pub fn dest(&self, step: usize) -> Option<View> {
        self.placement.dest(self.graph, step).map(|view| self.slot(view))
    }

    fn slot(&self, view: View) -> View {
        match view.source {
            Source::Slot(buffer) => View { source: Source::Slot(self.slots[buffer]), ..view },
            Source::Row => view,
        }
    }

    /// Makes a part's program of its steps and its memory, which is taken out.
    pub fn program(&mut self, steps: Vec<Step>, part: Part) -> Program {
        let floats = take(&mut self.sizes[part as usize]);
        let codes = take(&mut self.forms.sizes[part as usize]);
        let band = if part == Part::Body { self.forms.band } else { CodeSize::default() };
        Program::new(steps, floats, codes, band, part == Part::Body)
    }

    /// Returns the layouts that [`CodesView::layout`](super::step::CodesView::layout) counts.
    pub fn into_layouts(self) -> Vec<Layout> {
        self.forms.layouts
    }
}
