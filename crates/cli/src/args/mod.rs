//! What can be typed, as plain values for [`crate::commands`], which does it.
mod analyze;
mod bench;
mod benchmark;
mod compare;
mod config;
mod data;
mod device;
mod distill;
mod doctor;
mod eval;
mod export;
mod inspect;
mod model;
mod models;
mod parse;
mod predict;
mod quantize;
mod shell;
mod sweep;
mod target;
mod train;
mod verify;

use clap::{ColorChoice, Parser, Subcommand};

use crate::printer::Manner;

pub use analyze::Analyze;
pub use bench::Bench;
pub use benchmark::Benchmark;
pub use compare::Compare;
pub use config::{Config, ConfigCommand};
pub use data::{Data, DataCommand};
pub use distill::Distill;
pub use doctor::Doctor;
pub use eval::Eval;
pub use export::Export;
pub use inspect::Inspect;
pub use models::Models;
pub use predict::Predict;
pub use quantize::Quantize;
pub use shell::{Completions, Man};
pub use sweep::Sweep;
pub use train::Train;
pub use verify::Verify;

/// Quantizes convolutional networks to block-scaled integers, without labels.
///
/// The main job, a float network made 4-bit and its accuracy won back:
///
///     dsconv distill resnet50_4bit
///
/// A MODEL is a name (`dsconv models`), a file that dsconv wrote, a checkpoint, an ONNX file, or a run folder.
#[derive(Debug, Parser)]
#[command(name = "dsconv", version, max_term_width = 110, verbatim_doc_comment)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// The options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// The options of every command.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct Global {
    /// Print the result as one JSON document on stdout, and an error too: {"error", "hint", "status"}
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more, on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Say nothing but results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// When to use colour: auto, always or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub color: ColorChoice,
}

impl From<&Global> for Manner {
    fn from(&Global { json, verbose, quiet, color }: &Global) -> Self {
        let colour = match color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        Self { json, quiet, verbose, colour, ..Self::default() }
    }
}

/// The commands, in the order in which a newcomer needs them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Quantize a network and win its accuracy back on unlabelled images
    Distill(Distill),
    /// Put the results of several runs in one table
    Compare(Compare),
    /// Run a config for every combination of some values, and put the results in one table
    Sweep(Sweep),
    /// Quantize a network, without any data or with a few unlabelled images
    Quantize(Quantize),
    /// Find the layers that lose most when they are quantized, and choose formats by it
    Analyze(Analyze),
    /// Measure a model's accuracy
    Eval(Eval),
    /// Classify images
    Predict(Predict),
    /// Write a model in another file format
    Export(Export),
    /// Show what is in a model: formats, sizes and scales of its layers
    Inspect(Inspect),
    /// Check a .dsc file: structure, checksums, and the stored logits
    Verify(Verify),
    /// Time a `.dsc` file in the integer engine, layer by layer
    Bench(Bench),
    /// Compare the usual formats of a network by size, accuracy and time
    Benchmark(Benchmark),
    /// Train a float network with labels
    Train(Train),
    /// List, explain and write the configs of distill and train
    Config(Config),
    /// List the networks that can be named
    Models(Models),
    /// List, make and download images
    Data(Data),
    /// Print completions of the command line for a shell
    Completions(Completions),
    /// Print the page of `man`, or write one for every command
    Man(Man),
    /// Show versions, devices and folders
    Doctor(Doctor),
}

/// Where `dsconv quantize` takes images.
pub const QUANTIZE_IMAGES: &str = "images go to `--images`";

impl Command {
    /// Tells whether a config says what options of a model say in other commands.
    pub fn is_by_config(&self) -> bool {
        matches!(self, Self::Distill(_) | Self::Sweep(_) | Self::Train(_))
    }

    /// Says where images go; `None` for a command that takes none.
    pub fn images(&self) -> Option<&'static str> {
        match self {
            Self::Distill(_) | Self::Sweep(_) => Some("images go to `data.adapt`"),
            Self::Train(_) => Some("images go to `data.train`"),
            Self::Quantize(_) | Self::Analyze(_) => Some(QUANTIZE_IMAGES),
            Self::Eval(_) | Self::Benchmark(_) => Some("images go to `--data`"),
            Self::Predict(_) => Some("images come after it"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Args, CommandFactory};

    use super::export::{NetworkArgs, OnnxArgs};
    use super::model::ImageArgs;
    use super::*;

    /// Returns the headings, with the options under each.
    fn headings(command: &clap::Command) -> BTreeSet<(String, String)> {
        let heading =
            |arg: &clap::Arg| arg.get_help_heading().map(|heading| (heading.to_owned(), arg.get_id().to_string()));
        command.get_arguments().filter_map(heading).collect()
    }

    #[test]
    fn options_stand_under_their_own_headings() {
        let of = |augment: fn(clap::Command) -> clap::Command| headings(&augment(clap::Command::new("x")));
        let own = [
            of(ImageArgs::augment_args),
            of(NetworkArgs::augment_args),
            of(OnnxArgs::augment_args),
            of(Global::augment_args),
        ];
        let own: BTreeSet<_> = own.into_iter().flatten().collect();
        let root = Cli::command();
        for command in root.get_subcommands() {
            let found = headings(command);
            let stray: Vec<_> = found.difference(&own).filter(|(heading, _)| heading != "Numbers").collect();
            assert!(stray.is_empty(), "{}: {stray:?}", command.get_name());
        }
        root.debug_assert();
    }
}
