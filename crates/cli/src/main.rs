//! The `dsconv` command: quantizes convolutional networks and wins their accuracy back without labels.
//!
//! [`args`] declares what can be typed, [`commands`] does it, [`printer::Printer`] owns stdout and stderr. The exit status
//! is 0 for a result, 1 where the work failed, 2 for wrong usage or a wrong config.
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
mod import;
mod keys;
mod names;
mod output;
mod places;
mod printer;
mod progress;
mod recipe;
mod runs;
mod slips;
mod source;
mod table;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => match slips::of_usage(&error) {
            Some(better) => {
                printer::Printer::default().error(&better);
                return ExitCode::from(better.code());
            }
            None => error.exit(),
        },
    };
    let printer = printer::Printer::new(&cli.global);
    match commands::run(&cli.command, &printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            printer.error(&error);
            ExitCode::from(error.code())
        }
    }
}
