//! What the commands do, one file each.
mod bench;
mod compare;
mod config;
mod data;
mod distill;
mod doctor;
mod eval;
mod export;
mod inspect;
mod models;
mod onnx;
mod predict;
mod quantize;
mod train;
mod verify;

pub use train::Recipe as TrainRecipe;

use crate::args::Command;
use crate::error::Result;
use crate::printer::Printer;

/// Does it.
///
/// # Errors
/// Whatever keeps the command from its result.
pub fn run(command: &Command, printer: &Printer) -> Result<()> {
    match command {
        Command::Bench(args) => bench::run(args, printer),
        Command::Compare(args) => compare::run(args, printer),
        Command::Config(args) => config::run(args, printer),
        Command::Data(args) => data::run(args, printer),
        Command::Distill(args) => distill::run(args, printer),
        Command::Doctor(args) => doctor::run(args, printer),
        Command::Eval(args) => eval::run(args, printer),
        Command::Export(args) => export::run(args, printer),
        Command::Inspect(args) => inspect::run(args, printer),
        Command::Models(args) => models::run(args, printer),
        Command::Predict(args) => predict::run(args, printer),
        Command::Quantize(args) => quantize::run(args, printer),
        Command::Train(args) => train::run(args, printer),
        Command::Verify(args) => verify::run(args, printer),
    }
}
