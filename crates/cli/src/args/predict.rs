use std::path::PathBuf;

use super::{DeviceArg, ModelArgs};

/// `dsconv predict`.
#[derive(Debug, clap::Args)]
pub struct Predict {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// JPEG, PNG, BMP or WebP files
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// How many classes to show
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub top: u64,
    /// Print the network's outputs as they are, too
    #[arg(long)]
    pub logits: bool,
    /// Run a `.dsc` file in the simulation, not in the integer engine
    #[arg(long)]
    pub simulate: bool,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArg,
}
