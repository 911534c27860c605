use std::path::PathBuf;

use super::device::DeviceArg;
use super::model::ModelArgs;
use super::parse::count;
use crate::commands::predict::PredictOptions;

/// The arguments of `dsconv predict`.
#[derive(Debug, clap::Args)]
pub struct Predict {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// JPEG, PNG, BMP or WebP files, or folders of them. A camera's note how to turn a picture (EXIF) is not followed, as in
    /// torchvision
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// How many classes to show
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count(1_000_000))]
    pub top: usize,
    /// Print the network's outputs as they are, too
    #[arg(long)]
    pub logits: bool,
    /// Run a `.dsc` file in the simulation, not in the integer engine
    #[arg(long)]
    pub simulate: bool,
    /// The device to compute on.
    #[command(flatten)]
    pub device: DeviceArg,
}

impl From<Predict> for PredictOptions {
    fn from(Predict { model, images, top, logits, simulate, device }: Predict) -> Self {
        Self { model: model.into(), images, top, logits, simulate, device: device.device }
    }
}
