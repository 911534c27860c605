//! Batch statistics behind quantized layers.
use dsconv::{Network, ScaleUpdate};
use graph::{Role, Weights};
use images::Unlabelled;
use model::{Model, Policy};

use crate::loader::tensor;
use crate::random::Order;
use crate::{Context, Error};

/// Estimates batch statistics anew behind quantized layers, and returns the teacher's weights with them.
///
/// burn's running averages take a tenth from each batch: after the last one the teacher's own count for half a percent.
/// Folding the new statistics scales whole filters, which changes scales but no code.
pub(crate) fn reestimated(
    teacher: &Model,
    policy: &Policy,
    images: &Unlabelled,
    order: &Order,
    context: &Context,
) -> Result<Weights, Error> {
    const BATCHES: usize = 50;
    let device = context.device.clone().autodiff();
    let (graph, weights) = (teacher.graph(), teacher.weights());
    let plan = policy.resolve(&graph.fold())?;
    let student = Network::student_with_batch_norm(graph, weights, &plan, ScaleUpdate::Fixed, &device)?;
    context.progress.start("estimate batch statistics", BATCHES);
    for step in 0..BATCHES {
        context.check()?;
        student.forward(tensor(images.batch_of_some(&order.indices(step))?, &device));
        context.progress.advance(step + 1, "");
    }
    context.progress.finish();
    let mut weights = teacher.weights().clone();
    let found = student.to_weights();
    for param in teacher.graph().params().iter().filter(|p| matches!(p.role, Role::Mean | Role::Variance)) {
        weights.insert(&param.name, found[param.name.as_str()].clone());
    }
    Ok(weights)
}
