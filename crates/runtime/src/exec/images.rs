//! What goes from the body to the head and out of it, and images that run at the same time.
use rayon::prelude::*;

use super::workspace::Workspace;
use crate::Error;
use crate::float::Memory;
use crate::plan::Plan;

/// Copies what leaves the body to an image's row, channel by channel.
pub(crate) fn hand_on(plan: &Plan, workspace: &Workspace, row: &mut [f32]) {
    let memory = Memory { floats: &workspace.floats, rows: &[], image: &[] };
    for &(view, at) in plan.crossing() {
        let (rows, area) = (memory.rows(view), view.shape.height * view.shape.width);
        for pixel in 0..area {
            for c in 0..view.shape.channels {
                row[at + c * area + pixel] = rows.data[pixel * rows.stride + c];
            }
        }
    }
}

/// Copies the output, one row an image; what the body makes lies channel by channel already.
pub(crate) fn copy_output(plan: &Plan, workspace: &Workspace, rows: &[f32], logits: &mut [f32]) {
    let memory = Memory { floats: &workspace.floats, rows, image: &[] };
    let source = memory.rows(plan.output());
    for (i, logits) in logits.chunks_exact_mut(plan.outputs()).enumerate() {
        logits.copy_from_slice(&source.data[i * source.stride..][..logits.len()]);
    }
}

/// A batch: images `[N, image]`, and room for what the body hands on of them, `[N, row]`.
#[derive(Debug)]
pub(crate) struct Images<'a> {
    pub images: &'a [f32],
    pub image: usize,
    pub rows: &'a mut [f32],
    pub row: usize,
}

impl Images<'_> {
    /// Calls `run` for each image and its row, in parallel where there are several workspaces: one for each share of the
    /// images. The error is the first image's that has one.
    pub fn run(
        self,
        workspaces: &mut [Workspace],
        run: impl Fn(&mut Workspace, &[f32], &mut [f32]) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let Self { images, image, rows, row } = self;
        if let [workspace] = workspaces {
            let mut pairs = images.chunks_exact(image).zip(rows.chunks_exact_mut(row));
            return pairs.try_for_each(|(image, row)| run(workspace, image, row));
        }
        let share = (images.len() / image).div_ceil(workspaces.len());
        let shares = images.par_chunks(share * image).zip(rows.par_chunks_mut(share * row));
        let part = |(workspace, (images, rows)): (&mut Workspace, (&[f32], &mut [f32]))| {
            images
                .chunks_exact(image)
                .zip(rows.chunks_exact_mut(row))
                .try_for_each(|(image, row)| run(workspace, image, row))
        };
        workspaces.par_iter_mut().zip(shares).map(part).reduce(|| Ok(()), Result::and)
    }
}
