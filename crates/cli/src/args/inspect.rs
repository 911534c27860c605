use std::path::PathBuf;

use super::model::ImageArgs;
use crate::commands::inspect::InspectOptions;
use crate::models::ModelSpec;

/// The arguments of `dsconv inspect`.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// A file that dsconv wrote (.dsc or .safetensors), or another MODEL
    #[arg(value_name = "FILE")]
    pub model: String,
    /// The float model it was made from: adds the SQNR of every layer's weights
    #[arg(long, value_name = "MODEL")]
    pub source: Option<String>,
    /// Weights of a network named with --source: a checkpoint, such as .pth or .safetensors
    #[arg(long, value_name = "FILE", requires = "source")]
    pub weights: Option<PathBuf>,
    /// What the network expects of an image.
    #[command(flatten)]
    pub image: ImageArgs,
}

impl From<Inspect> for InspectOptions {
    fn from(Inspect { model, source, weights, image }: Inspect) -> Self {
        let spec = |name, weights| ModelSpec { name, weights, image: image.clone().into(), ..ModelSpec::default() };
        Self { model: spec(model, None), source: source.map(|name| spec(name, weights)) }
    }
}
