//! `.dsc` files with an input and its logits in them, for `dsconv verify` and for other engines.
use model::dsc::{self, Pair};
use model::{Model, SaveOptions};

use crate::engine;
use crate::error::Result;
use crate::printer::Printer;

/// Writes a model as the bytes of a `.dsc` file. The file of a network that the integer engine cannot run has no logits, which
/// is said.
///
/// # Errors
/// The model is in floats, which such a file cannot hold.
pub fn bytes(model: &Model, floats: &SaveOptions, printer: &Printer) -> Result<Vec<u8>> {
    let tested = runtime::to_dsc(model, floats);
    tested.or_else(|error| {
        let untested = dsc::write(model, &dsc::Options { floats: *floats, pair: None })?;
        printer.warn(format!("the file has no logits for `dsconv verify`, since the integer engine fails: {error}"));
        Ok(untested)
    })
}

/// Computes the integer engine's logits for the input of a seed: the same bits on every machine.
///
/// # Errors
/// The engine cannot run a layer.
pub fn logits(model: &Model, seed: u64) -> Result<Vec<f32>> {
    let input = Pair::input(seed, model.graph().input());
    Ok(runtime::Model::new(model.clone())?.session(engine::threads())?.run(&input)?.to_vec())
}
