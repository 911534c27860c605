use std::path::PathBuf;

use crate::commands::sweep::{SweepOptions, Varied};

use super::device::DeviceArg;

/// `dsconv sweep`.
///
/// Runs a config of `dsconv distill` once for every combination of some values, each in a folder of its own, and puts the
/// results into one table: `results.csv`, `results.json`, and `report.html` with accuracy by size and by time.
#[derive(Debug, clap::Args)]
pub struct Sweep {
    /// The recipe: a TOML file, or its name in `configs/`
    #[arg(value_name = "CONFIG")]
    pub config: String,
    /// Try each of these values, such as `quantize.bits=4,3,2`; of several, all combinations; `dsconv config keys` lists the keys
    #[arg(long, value_name = "KEY=VALUE,...", required = true)]
    pub vary: Vec<Varied>,
    /// Change a value of the config in all runs
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Where the runs go, instead of NAME-sweep in the folder of runs (`dsconv doctor`)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue a sweep that was stopped, or add values to one: what is finished is not run again
    #[arg(long)]
    pub resume: bool,
    /// The device to compute on.
    #[command(flatten)]
    pub device: DeviceArg,
}

impl From<Sweep> for SweepOptions {
    fn from(Sweep { config, vary, set, out, resume, device }: Sweep) -> Self {
        Self { config, vary, set, out, resume, device: device.device }
    }
}
