//! `.dsc` files with an input and its logits in them, for `dsconv verify` and for other engines.
use model::dsc::{self, Pair};
use model::{Model, SaveOptions};

use crate::engine;
use crate::error::Result;
use crate::printer::Printer;

/// The seed of the stored input.
const SEED: u64 = 1;

/// Writes a model as the bytes of a `.dsc` file. The file of a network that the integer engine cannot run has no logits, which
/// is said.
///
/// # Errors
/// The model is in floats, which such a file cannot hold.
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

/// Computes the integer engine's logits for the input of a seed: the same bits on every machine.
///
/// # Errors
/// The engine cannot run a layer.
pub fn logits(model: &Model, seed: u64) -> Result<Vec<f32>> {
    let input = Pair::input(seed, model.graph().input());
    Ok(runtime::Model::new(model.clone())?.session(engine::threads())?.run(&input)?.to_vec())
}
