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
    /// Labelled images: a folder with one folder a class or a labels file, a table of labels (.csv), a name of `dsconv data list`,
    /// or CIFAR .bin files; a camera's note how to turn a picture (EXIF) is not followed, as in torchvision [default for the
    /// embedded networks: `embedded`]. With --against images without labels will do: then accuracy is not measured
    #[arg(long, value_name = "DATA")]
    pub data: Option<String>,
    /// Use at most this many images, spread over the set
    #[arg(long, value_name = "N", value_parser = above_0)]
    pub limit: Option<usize>,
    /// Also compare with this model: agreement, SQNR of the logits less their means, and the largest difference of an image's logits
    /// in parts of its largest. Each model gets its images as its file says: options for images are for MODEL, and for a file that
    /// says nothing. A .dsc file beside itself is compared with its simulation
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
