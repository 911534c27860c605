use std::path::PathBuf;

/// A model, as every command takes it.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// A name (see `dsconv models`), a file that dsconv wrote, or a run folder
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Weights of a named network: .pth, .pt, .th or .safetensors
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
}
