//! The `dsconv` command: quantizes convolutional networks and wins their accuracy back without labels.
//!
//! `args` declares what can be typed, `commands` does it with plain values, and this file connects them. `printer::Printer` owns
//! stdout and stderr. The exit status is 0 for a result, 1 where the work failed, 2 for wrong usage or a wrong config, 130 where the
//! user stopped it.
//!
//! The program is this library's [`main`]. [`host`] is for other programs, such as Python's: they give the words of a command and
//! get its result as a value.
#![forbid(unsafe_code)]

mod args;
mod built_in;
mod checkpoint;
mod classes;
mod commands;
mod config;
mod deploy;
mod device;
mod engine;
mod error;
pub mod host;
mod html;
mod import;
mod keys;
mod models;
mod names;
mod onnxruntime;
mod output;
mod pictures;
mod places;
mod printer;
mod progress;
mod recipe;
mod rules;
mod runs;
mod scores;
mod slips;
mod table;
mod usage;
mod verdict;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command, ConfigCommand, DataCommand};
use commands::{
    analyze, bench, benchmark, compare, config as configs, data, distill, doctor, eval, export, inspect,
    models as networks, predict, quantize, shell, sweep, train, verify,
};
pub use error::Error;
use error::Result;
use printer::{Manner, Printer};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let Cli { command, global } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::refuse(&error),
    };
    let (by_config, images) = (command.is_by_config(), command.images());
    let printer = Printer::new(&Manner { by_config, images, ..Manner::from(&global) });
    let ended = progress::hear(&printer).and_then(|()| run(command, &printer));
    progress::keep_end();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            printer.error(&error);
            ExitCode::from(error.code())
        }
    }
}

/// Runs a command with the values that were typed.
///
/// # Errors
/// The command cannot give its result.
fn run(command: Command, printer: &Printer) -> Result<()> {
    match command {
        Command::Analyze(args) => analyze::run(&args.into(), printer),
        Command::Bench(args) => bench::run(&args.into(), printer),
        Command::Benchmark(args) => benchmark::run(&args.try_into()?, printer),
        Command::Compare(args) => compare::run(&args.runs, &args.html.into(), printer),
        Command::Completions(args) => shell::completions(args.shell, Cli::command(), printer),
        Command::Config(args) => match args.command {
            ConfigCommand::List => {
                configs::list(printer);
                Ok(())
            }
            ConfigCommand::Keys(args) => {
                configs::list_keys(args.kind(), args.part.as_deref().unwrap_or_default(), printer)
            }
            ConfigCommand::Explain(args) => configs::explain(args.kind(), &args.key, printer),
            ConfigCommand::Schema(args) => configs::print_schema(args.kind(), printer),
            ConfigCommand::New(args) => {
                let (file, force) = (args.file.clone(), args.force);
                configs::create(&file, &args.into(), force, printer)
            }
        },
        Command::Data(args) => match args.command {
            DataCommand::List => data::list(printer),
            DataCommand::Make(args) => data::make(&args.into(), printer),
            DataCommand::Get(args) => data::get(&args.name, printer),
        },
        Command::Distill(args) if args.dry_run => distill::plan(&args.into(), printer),
        Command::Distill(args) => distill::run(&args.into(), printer),
        Command::Doctor(_) => {
            doctor::run(printer);
            Ok(())
        }
        Command::Eval(args) => eval::run(&args.into(), printer),
        Command::Export(args) => export::run(&args.into(), printer),
        Command::Inspect(args) => inspect::run(&args.into(), printer),
        Command::Man(args) => shell::man(args.folder.as_deref(), Cli::command(), printer),
        Command::Models(args) => networks::run(args.part.as_deref().unwrap_or_default(), printer),
        Command::Predict(args) => predict::run(&args.into(), printer),
        Command::Quantize(args) => quantize::run(&args.try_into()?, printer),
        Command::Sweep(args) => sweep::run(&args.into(), printer),
        Command::Train(args) => train::run(&args.into(), printer),
        Command::Verify(args) => verify::run(&args.file, !args.no_run, printer),
    }
}
