use std::path::PathBuf;

use crate::runs::{RunOptions, RunPlace};

use super::device::DeviceArg;
use super::parse::existing;

/// `dsconv distill`.
///
/// Measures the float teacher, quantizes it, measures again, adapts the student on images without labels, measures once
/// more, and exports it. Prints one table; the run folder keeps the rest.
#[derive(Debug, clap::Args)]
pub struct Distill {
    /// The recipe: a TOML file, or its name in `configs/`; with --resume also the folder of a run
    #[arg(value_name = "CONFIG")]
    pub config: String,
    /// Where the run goes, instead of NAME-TIME in the folder of runs (`dsconv doctor`)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue a run that was stopped: the one in --out, or the newest of this config
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,
    /// Change a value of the config, such as `quantize.bits=3`; `dsconv config keys` lists the keys
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Only say what would be done: check config, network and images, and show the format and the size of every layer
    #[arg(long, conflicts_with_all = ["resume", "force"])]
    pub dry_run: bool,
    /// The device to compute on.
    #[command(flatten)]
    pub device: DeviceArg,
    /// Replace a run that is there
    #[arg(long)]
    pub force: bool,
    /// Show training on the whole terminal: curves, progress, time left; `q` stops it
    #[arg(long, conflicts_with_all = ["json", "quiet", "dry_run"])]
    pub tui: bool,
}

impl From<Distill> for RunOptions {
    fn from(Distill { config, out, resume, set, dry_run: _, device, force, tui }: Distill) -> Self {
        let place = RunPlace { out, existing: existing(resume, force) };
        Self { config, set, place, device: device.device, tui }
    }
}
