use std::path::PathBuf;

use clap_complete::Shell;

/// The arguments of `dsconv completions`.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell that they are for
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// The arguments of `dsconv man`.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// The folder to write a page for every command to [default: the page of `dsconv` is printed]
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}
