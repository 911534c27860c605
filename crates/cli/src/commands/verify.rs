use std::path::PathBuf;

use model::dsc::File;
use serde::Serialize;

use crate::args::Verify;
use crate::deploy;
use crate::error::{Error, Result};
use crate::printer::{Printer, lossy};
use crate::table::{bytes, count};

/// What was found.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(serialize_with = "lossy")]
    path: PathBuf,
    bytes: usize,
    network: String,
    layers: usize,
    weights: usize,
    /// Whether the stored input was run; its logits were the stored ones, to the bit.
    run: bool,
}

pub fn run(args: &Verify, printer: &Printer) -> Result<()> {
    let path = &args.file;
    let place = |error: &dyn std::fmt::Display| Error::failed(format!("`{}`: {error}", path.display()));
    let data = std::fs::read(path).map_err(|error| place(&error))?;
    let file = File::parse(&data).map_err(|error| {
        let is_dsc = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(deploy::EXTENSION));
        match is_dsc {
            true => place(&error),
            false => place(&error).hint("`dsconv inspect` shows what is in other files; `-o x.dsc` makes .dsc files"),
        }
    })?;
    let model = file.to_model().map_err(|error| place(&error))?;
    model.check().map_err(|error| place(&error))?;
    let stored = file.pair().filter(|_| !args.no_run);
    if let Some(stored) = stored {
        file.check_logits(&deploy::logits(&model, stored.seed)?)
            .map_err(|error| place(&error).hint("the checksums are right: what wrote the file computes otherwise"))?;
    }
    let outcome = Outcome {
        path: path.clone(),
        bytes: data.len(),
        network: model.graph.name().to_owned(),
        layers: model.layers.len(),
        weights: model.layers.values().map(|layer| layer.codes.codes().len()).sum(),
        run: stored.is_some(),
    };
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

fn show(outcome: &Outcome, printer: &Printer) {
    let Outcome { network, layers, weights, .. } = outcome;
    printer.line(format!(
        "{}: {network}, {}, {layers} layers of {} weights: structure and checksums are right",
        outcome.path.display(),
        bytes(outcome.bytes as u64),
        count(*weights as u64)
    ));
    printer.line(match outcome.run {
        true => "the stored input gives the stored logits, to the bit",
        false => "no stored input was run",
    });
}
