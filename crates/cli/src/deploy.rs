//! `.dsc` files with an input and its logits in them, for `dsconv verify` and for other engines.
use model::dsc::{self, Pair};
use model::{Model, SaveOptions};

use crate::engine;
use crate::error::Result;
use crate::printer::Printer;

/// Of the stored input.
const SEED: u64 = 1;

/// The extension of the format.
pub const EXTENSION: &str = "dsc";

/// The model as a `.dsc` file. A network that the integer engine cannot run goes without logits, which is said.
///
/// # Errors
/// What such a file cannot hold: a model in floats.
pub fn bytes(model: &Model, floats: &SaveOptions, printer: &Printer) -> Result<Vec<u8>> {
    let mut stored = model.clone();
    stored.round(floats);
    let pair = match model.is_quantized().then(|| logits(&stored, SEED)) {
        Some(Ok(logits)) => Some(Pair { seed: SEED, logits }),
        Some(Err(error)) => {
            let why = error.message();
            printer.warn(format!("the file has no logits for `dsconv verify`, since the integer engine fails: {why}"));
            None
        }
        None => None,
    };
    Ok(dsc::write(&stored, &dsc::Options { floats: *floats, pair })?)
}

/// The integer engine's logits for the input of a seed: the same bits on every machine.
///
/// # Errors
/// A layer that the engine cannot run.
pub fn logits(model: &Model, seed: u64) -> Result<Vec<f32>> {
    let input = Pair::input(seed, model.graph.input());
    Ok(runtime::Model::new(model.clone())?.session(engine::threads())?.run(&input)?.to_vec())
}
