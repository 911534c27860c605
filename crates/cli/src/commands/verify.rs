//! `dsconv verify`: a `.dsc` file is checked.
use std::path::{Path, PathBuf};

use model::dsc::File;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::printer::{Printer, lossy};
use crate::table::{bytes, count, counted};
use crate::{deploy, engine};

/// The result of `dsconv verify`.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(serialize_with = "lossy")]
    path: PathBuf,
    bytes: usize,
    network: String,
    layers: usize,
    weights: usize,
    /// Whether the stored input was run. Its logits are the stored ones then, to the bit.
    run: bool,
}

/// Checks a `.dsc` file: its structure and its checksums, and with `run_stored` the logits of the stored input.
///
/// # Errors
/// The file cannot be read or is damaged; the stored input gives other logits.
pub fn run(path: &Path, run_stored: bool, printer: &Printer) -> Result<()> {
    let path = &engine::file(path)?;
    let place = |error: &dyn std::fmt::Display| Error::failed(format!("`{}`: {error}", path.display()));
    let data = std::fs::read(path).map_err(|error| place(&error))?;
    let file = File::parse(&data).map_err(|error| {
        let is_dsc = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(engine::EXTENSION));
        match is_dsc {
            true => place(&error),
            false => place(&error).hint("`dsconv inspect` shows what is in other files; `-o x.dsc` makes .dsc files"),
        }
    })?;
    let model = file.to_model().map_err(|error| place(&error))?;
    model.check().map_err(|error| place(&error))?;
    let stored = file.pair().filter(|_| run_stored);
    if let Some(stored) = stored {
        file.check_logits(&deploy::logits(&model, stored.seed)?)
            .map_err(|error| place(&error).hint("the checksums are right: what wrote the file computes otherwise"))?;
    }
    let outcome = Outcome {
        path: path.to_owned(),
        bytes: data.len(),
        network: model.graph().name().to_owned(),
        layers: model.layers().len(),
        weights: model.layers().values().map(|layer| layer.codes.codes().len()).sum(),
        run: stored.is_some(),
    };
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

fn show(outcome: &Outcome, printer: &Printer) {
    let Outcome { network, layers, weights, .. } = outcome;
    printer.line(format!(
        "{}: {network}, {}, {} of {} weights: structure and checksums are right",
        outcome.path.display(),
        bytes(outcome.bytes as u64),
        counted(*layers, "layer"),
        count(*weights as u64)
    ));
    printer.line(match outcome.run {
        true => "the stored input gives the stored logits, to the bit",
        false => "no stored input was run",
    });
}
