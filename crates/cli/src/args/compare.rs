use std::path::PathBuf;

use super::target::HtmlArgs;

/// The arguments of `dsconv compare`.
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// Run folders, or names in the folder of runs (`dsconv doctor`); without any, all finished runs there
    #[arg(value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The report to write.
    #[command(flatten)]
    pub html: HtmlArgs,
}
