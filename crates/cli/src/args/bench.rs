use std::path::PathBuf;

use clap::value_parser;

/// `dsconv bench`.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// A quantized model's file, `.dsc`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..=256))]
    pub threads: u64,
    /// Images of a run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..=4096))]
    pub batch: u64,
    /// Runs that are timed; fewer where they take more than 10 seconds
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub runs: u64,
}
