use std::path::PathBuf;

/// The arguments of `dsconv verify`.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// A .dsc file, or the run folder of one
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Check the bytes only, without running the stored input
    #[arg(long)]
    pub no_run: bool,
}
