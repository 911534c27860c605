use std::path::PathBuf;

use crate::commands::bench::BenchOptions;

use super::parse::count;
use super::target::HtmlArgs;

/// The arguments of `dsconv bench`.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// A quantized model's file, `.dsc`, or its run folder
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(256))]
    pub threads: usize,
    /// Images of a run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(4096))]
    pub batch: usize,
    /// Runs that are timed; fewer where they take more than 10 seconds
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count(1_000_000))]
    pub runs: usize,
    /// The report to write.
    #[command(flatten)]
    pub html: HtmlArgs,
}

impl From<Bench> for BenchOptions {
    fn from(Bench { file, threads, batch, runs, html }: Bench) -> Self {
        Self { file, threads, batch, runs, html: html.into() }
    }
}
