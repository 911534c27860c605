//! Quantization by the scale rule alone, which can be stopped.
use graph::Folded;
use model::{Info, Model, Plan};

use crate::{Context, Error};

/// Rounds the weights of the planned layers of a folded network to integers, as [`Model::quantize_folded`] does, unless it is stopped.
///
/// # Errors
/// Those of [`Model::quantize_folded`]; [`Error::Interrupted`].
pub fn quantize(network: &Folded, plan: &Plan, info: Info, context: &Context) -> Result<Model, Error> {
    let stop = || context.interrupter.should_stop();
    Model::quantize_folded_unless(network, plan, info, &stop)?.ok_or_else(|| context.interrupted())
}
