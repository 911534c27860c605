use super::device::DeviceArg;
use super::model::ModelArgs;
use super::parse::above_0;
use super::target::HtmlArgs;
use crate::commands::eval::EvalOptions;

/// The arguments of `dsconv eval`.
#[derive(Debug, clap::Args)]
pub struct Eval {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Labelled images: `embedded`, a name of `dsconv data list`, a folder with one folder a class, or CIFAR .bin files
    #[arg(long, value_name = "DATA", default_value = "embedded")]
    pub data: String,
    /// Use at most this many images, spread over the set
    #[arg(long, value_name = "N", value_parser = above_0)]
    pub limit: Option<usize>,
    /// Also compare with this model: agreement, SQNR and largest difference of the logits
    #[arg(long, value_name = "MODEL")]
    pub against: Option<String>,
    /// Run a `.dsc` file in the simulation, not in the integer engine
    #[arg(long)]
    pub simulate: bool,
    /// The report to write.
    #[command(flatten)]
    pub html: HtmlArgs,
    /// The device to compute on.
    #[command(flatten)]
    pub device: DeviceArg,
}

impl From<Eval> for EvalOptions {
    fn from(Eval { model, data, limit, against, simulate, html, device }: Eval) -> Self {
        Self { model: model.into(), data, limit, against, simulate, html: html.into(), device: device.device }
    }
}
