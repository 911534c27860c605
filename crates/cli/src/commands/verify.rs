use std::path::PathBuf;

use graph::Model;
use graph::dsc::File;
use serde::Serialize;

use crate::args::Verify;
use crate::deploy;
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::table::{bytes, count};

/// Largest difference of a logit from the stored one, of the largest stored one. Rounded activations amplify the last
/// bits in which machines differ, so that it cannot be much less.
const TOLERANCE: f32 = 0.05;

/// What was found.
#[derive(Debug, Serialize)]
struct Outcome {
    path: PathBuf,
    bytes: usize,
    network: String,
    layers: usize,
    weights: usize,
    /// `None` where the file has no logits, or they were not asked for.
    pair: Option<Pair>,
}

/// The stored input, run again.
#[derive(Debug, Serialize)]
struct Pair {
    seed: u64,
    /// Every logit has the same bits.
    identical: bool,
    /// Largest difference of a logit, of the largest stored one.
    difference: f32,
}

pub fn run(args: &Verify, printer: &Printer) -> Result<()> {
    let path = &args.file;
    let place = |error: &dyn std::fmt::Display| Error::failed(format!("`{}`: {error}", path.display()));
    let data = std::fs::read(path).map_err(|error| place(&error))?;
    let file = File::parse(&data).map_err(|error| place(&error))?;
    let model = file.to_model().map_err(|error| place(&error))?;
    model.check().map_err(|error| place(&error))?;
    let stored = file.pair().filter(|_| !args.no_run);
    let pair = stored.map(|stored| check(&model, stored)).transpose()?;
    let outcome = Outcome {
        path: path.clone(),
        bytes: data.len(),
        network: model.graph.name().to_owned(),
        layers: model.layers.len(),
        weights: model.layers.values().map(|layer| layer.codes.codes().len()).sum(),
        pair,
    };
    if let Some(Pair { difference, .. }) = outcome.pair
        && difference > TOLERANCE
    {
        let percent = 100.0 * difference;
        let error =
            format!("section logits: the stored input gives logits that differ by {percent:.1}% of the largest");
        return Err(
            place(&error).hint("the checksums are right: the file was written by something that computes otherwise")
        );
    }
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

fn check(model: &Model, stored: &graph::dsc::Pair) -> Result<Pair> {
    let found = deploy::logits(model, stored.seed)?;
    let largest = stored.logits.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(&stored.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let difference = if off == 0.0 { 0.0 } else { off / largest };
    let identical = found.iter().map(|v| v.to_bits()).eq(stored.logits.iter().map(|v| v.to_bits()));
    Ok(Pair { seed: stored.seed, identical, difference })
}

fn show(outcome: &Outcome, printer: &Printer) {
    let Outcome { network, layers, weights, .. } = outcome;
    printer.line(format!(
        "{}: {network}, {}, {layers} layers of {} weights: structure and checksums are right",
        outcome.path.display(),
        bytes(outcome.bytes as u64),
        count(*weights as u64)
    ));
    match &outcome.pair {
        None => printer.line("no stored input was run"),
        Some(Pair { identical: true, .. }) => printer.line("the stored input gives the stored logits, to the bit"),
        Some(Pair { difference, .. }) => {
            printer.line(format!("the stored input gives the stored logits within {:.2e} of the largest", difference));
        }
    }
}
