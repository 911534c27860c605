//! What can be typed. Nothing is done here: [`crate::commands`] does it.
mod bench;
mod compare;
mod config;
mod data;
mod device;
mod distill;
mod doctor;
mod eval;
mod export;
mod inspect;
mod models;
mod predict;
mod quantize;
mod source;
mod train;
mod verify;

use clap::{Parser, Subcommand, ValueEnum};

pub use bench::Bench;
pub use compare::Compare;
pub use config::{Config, ConfigCommand, Keys, NewConfig};
pub use data::{Data, DataCommand, Get, Make};
pub use device::{DeviceArg, DeviceName};
pub use distill::Distill;
pub use doctor::Doctor;
pub use eval::Eval;
pub use export::{Export, Format, Network, Onnx, Profile, Switch};
pub use inspect::Inspect;
pub use models::Models;
pub use predict::Predict;
pub use quantize::{Quantize, Scales, Target};
pub use source::{ImageArgs, ModelArgs};
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
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct Global {
    /// Print the result as one JSON document on stdout
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

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// A number of images.
fn above_0(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&images| images > 0).ok_or_else(|| "a number above 0".to_owned())
}

/// The commands, in the order in which a newcomer needs them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Quantize a network and win its accuracy back on unlabelled images
    Distill(Distill),
    /// Put the results of several runs in one table
    Compare(Compare),
    /// Quantize a network without any data
    Quantize(Quantize),
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
    /// Train a float network with labels
    Train(Train),
    /// List, explain and write the configs of distill and train
    Config(Config),
    /// List the networks that can be named
    Models(Models),
    /// List, make and download images
    Data(Data),
    /// Show versions, devices and folders
    Doctor(Doctor),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Args, CommandFactory};

    use super::*;

    /// Headings, with the options under each.
    fn headings(command: &clap::Command) -> BTreeSet<(String, String)> {
        let heading =
            |arg: &clap::Arg| arg.get_help_heading().map(|heading| (heading.to_owned(), arg.get_id().to_string()));
        command.get_arguments().filter_map(heading).collect()
    }

    #[test]
    fn options_stand_under_their_own_headings() {
        let of = |augment: fn(clap::Command) -> clap::Command| headings(&augment(clap::Command::new("x")));
        let own =
            [of(ImageArgs::augment_args), of(Network::augment_args), of(Onnx::augment_args), of(Global::augment_args)];
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
