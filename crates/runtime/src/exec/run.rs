//! The steps of a program, one after the other.
use std::mem::take;
use std::ops::Range;
use std::sync::atomic::AtomicU32;

use super::profile::{Clock, Profile};
use super::rows::{self, Emitted, Out, Work, both, clear};
use super::workspace::{Codes, Workspace};
use crate::Error;
use crate::float::{FloatOp, Memory, Source, View};
use crate::kernels::{AnyKernel, Largest};
use crate::layout::Layout;
use crate::plan::{CodesView, EMITS, Part, Plan, Step, StepOp};

/// What a run reads beside its slots.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Given<'a> {
    /// An image `[C, H, W]`, for the body.
    Image(&'a [f32]),
    /// Rows that the body handed on, for the head.
    Rows(&'a [f32]),
}

impl<'a> Given<'a> {
    fn image(self) -> &'a [f32] {
        if let Self::Image(image) = self { image } else { &[] }
    }

    fn rows(self) -> &'a [f32] {
        if let Self::Rows(rows) = self { rows } else { &[] }
    }
}

/// A part of a plan, and what it is run on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub plan: &'a Plan,
    pub part: Part,
    pub kernel: &'a AnyKernel,
    pub given: Given<'a>,
    /// How many images run at the same time.
    pub images: usize,
}

impl Run<'_> {
    /// Runs the steps up to the first one that gives a value that is not finite.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with that step.
    pub fn steps(&self, workspace: &mut Workspace, mut profile: Option<&mut Profile>) -> Result<(), Error> {
        let mut source = None;
        for step in self.plan.steps(self.part) {
            if step.runs_with_next() {
                source = Some(step);
                continue;
            }
            let finite = self.step(source, step, workspace, profile.as_deref().map(|profile| &profile.clock));
            let steps = [source.take(), Some(step)];
            if let Some((step, _)) = steps.into_iter().zip(finite).find(|(_, finite)| !finite)
                && let Some(step) = step
            {
                return Err(Error::NonFinite { step: step.name.clone() });
            }
            if let Some(profile) = &mut profile {
                profile.next_step();
            }
        }
        Ok(())
    }

    /// Runs a step, and the `source` that runs with it; returns whether all values of the source, and of the step, are finite.
    fn step(&self, source: Option<&Step>, step: &Step, workspace: &mut Workspace, clock: Option<&Clock>) -> [bool; 2] {
        let slot = step.dest.map(|view| match view.source {
            Source::Slot(slot) => slot,
            Source::Row => unreachable!("the body's rows are copied when it ends"),
        });
        // What a step writes is taken out, so that the rest can be read.
        let mut dest = slot.map(|slot| take(&mut workspace.floats[slot]));
        let (mut scratch, mut unpacked) = (take(&mut workspace.scratch), take(&mut workspace.unpacked));
        let (mut band, mut patches) = (take(&mut workspace.band), take(&mut workspace.patches));
        let (none, noted): (&[CodesView], _) = (&[], AtomicU32::new(0));
        let mut finite = [true; 2];
        for emits in step.emits.chunks(EMITS).chain(step.emits.is_empty().then_some(none)) {
            let mut taken: [Codes; EMITS] = Default::default();
            for (emit, taken) in emits.iter().zip(&mut taken) {
                *taken = take(&mut workspace.codes[emit.slot]);
            }
            let out = Out {
                rows: dest.as_deref_mut(),
                emits: self.emitted(emits, &mut taken, step),
                scratch: &mut scratch,
                unpacked: &mut unpacked,
                band: (&mut band.codes, &mut band.scales),
                patches: (&mut patches.codes, &mut patches.scales),
            };
            let memory = Memory { floats: &workspace.floats, rows: self.given.rows(), image: self.given.image() };
            let codes = &workspace.codes;
            let whole = emits.iter().any(|emit| self.plan.layout(emit).whole);
            let largest = whole.then(|| self.largest(step, &memory, &workspace.largest));
            let work = Work {
                plan: self.plan,
                source,
                step,
                kernel: self.kernel,
                memory,
                codes,
                emits,
                largest,
                noted: &noted,
                clock,
            };
            finite = both(finite, work.split(0..step.shape.height * self.images, out, workspace.parts));
            for (emit, taken) in emits.iter().zip(&mut taken) {
                workspace.codes[emit.slot] = take(taken);
            }
        }
        (workspace.scratch, workspace.unpacked) = (scratch, unpacked);
        (workspace.band, workspace.patches) = (band, patches);
        if let (Some(slot), Some(dest)) = (slot, dest) {
            workspace.floats[slot] = dest;
            workspace.largest[slot] = f32::from_bits(noted.into_inner());
        }
        finite
    }

    /// Returns the largest magnitude of the value that a step gives again, which may have been `noted` by slot.
    fn largest(&self, step: &Step, memory: &Memory<'_>, noted: &[f32]) -> f32 {
        match step.op {
            StepOp::Float(FloatOp::Copy(View { source: Source::Slot(slot), .. })) if step.knows => noted[slot],
            StepOp::Float(FloatOp::Copy(view)) => {
                let shape = view.shape;
                rows::largest(self.kernel, memory.rows(view), shape.height * shape.width, shape.channels)
            }
            _ => self.kernel.run(Largest(memory.image)),
        }
    }

    /// Returns the rows of integer forms without their borders, which are cleared.
    fn emitted<'c>(&self, emits: &[CodesView], taken: &'c mut [Codes], step: &Step) -> Emitted<'c> {
        let mut emitted = Emitted::default();
        for ((emit, codes), out) in emits.iter().zip(taken).zip(&mut emitted) {
            let layout = self.plan.layout(emit);
            clear_borders(emit, layout, self.images, codes);
            let (start, len) = (emit.pad[0] * emit.width, step.shape.height * self.images * emit.width);
            *out = Some((
                &mut codes.codes[start * layout.bytes..(start + len) * layout.bytes],
                &mut codes.scales[start * layout.scales..(start + len) * layout.scales],
            ));
        }
        emitted
    }
}

/// Writes zeros around an integer activation: the slot held something else before.
fn clear_borders(emit: &CodesView, layout: &Layout, images: usize, codes: &mut Codes) {
    let ([py, px], width) = (emit.pad, emit.width);
    let rows = emit.height * images;
    let mut clear = |row: usize, pixels: Range<usize>| {
        clear(layout, width, row, pixels, (&mut codes.codes, &mut codes.scales));
    };
    for row in (0..py).chain(py + rows..2 * py + rows) {
        clear(row, 0..width);
    }
    for row in py..py + rows {
        clear(row, 0..px);
        clear(row, width - px..width);
    }
}
