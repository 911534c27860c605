use std::path::PathBuf;

use clap::Subcommand;

use crate::commands::data::MakeOptions;

use super::parse::above_0;

/// The arguments of `dsconv data`.
#[derive(Debug, clap::Args)]
pub struct Data {
    /// The command.
    #[command(subcommand)]
    pub command: DataCommand,
}

/// The commands of `dsconv data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// List the image sets that can be named
    List,
    /// Write the embedded set as folders of PNG files
    Make(Make),
    /// Download an image set, or a network's published weights; checked and resumed
    ///
    /// A file that is here is not downloaded again. DSCONV_MIRROR names an address that has all files, in place of the publishers';
    /// with DSCONV_OFFLINE=1 nothing is downloaded.
    Get(Get),
}

/// The arguments of `dsconv data make`.
#[derive(Debug, clap::Args)]
pub struct Make {
    /// Where to write train/CLASS, eval/CLASS and adapt/
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Only the first images of each split; 16 hold one of each class, and of fewer some folders stay empty
    #[arg(long, value_name = "N", value_parser = above_0)]
    pub limit: Option<usize>,
    /// Write into a folder that is not empty
    #[arg(long)]
    pub force: bool,
}

/// The arguments of `dsconv data get`.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// A name of `dsconv data list` or `dsconv models`
    #[arg(value_name = "NAME")]
    pub name: String,
}

impl From<Make> for MakeOptions {
    fn from(Make { dir, limit, force }: Make) -> Self {
        Self { folder: dir, limit, force }
    }
}
