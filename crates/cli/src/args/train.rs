use std::path::PathBuf;

use crate::runs::{RunOptions, RunPlace};

use super::device::DeviceArg;
use super::parse::existing;

/// The arguments of `dsconv train`.
#[derive(Debug, clap::Args)]
pub struct Train {
    /// The recipe: a TOML file, or its name in `configs/`; with --resume also the folder of a run
    #[arg(value_name = "CONFIG")]
    pub config: String,
    /// Where the run goes, instead of NAME-TIME in the folder of runs (`dsconv doctor`)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue a run that was stopped: the one in --out, or the newest of this config
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,
    /// Change a value of the config, such as `train.epochs=5`; `dsconv config keys --train` lists the keys
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The device to compute on.
    #[command(flatten)]
    pub device: DeviceArg,
    /// Replace a run that is there
    #[arg(long)]
    pub force: bool,
    /// Show training on the whole terminal: curves, progress, time left; `q` stops it
    #[arg(long, conflicts_with_all = ["json", "quiet"])]
    pub tui: bool,
}

impl From<Train> for RunOptions {
    fn from(Train { config, out, resume, set, device, force, tui }: Train) -> Self {
        let place = RunPlace { out, existing: existing(resume, force) };
        Self { config, set, place, device: device.device, tui }
    }
}
