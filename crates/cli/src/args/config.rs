use std::path::PathBuf;

use clap::Subcommand;

use crate::commands::config::Beginning;
use crate::config::ConfigKind;

/// The arguments of `dsconv config`.
#[derive(Debug, clap::Args)]
pub struct Config {
    /// The command.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The commands of `dsconv config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// List the recipes: those in `configs/` here or above, and those that come with dsconv
    List,
    /// List the keys of a config: default, what is allowed, what it is
    Keys(Keys),
    /// Explain a key: what its values do, when to change it, which recipes do
    Explain(Explain),
    /// Print the JSON Schema of a config, by which editors complete keys and mark mistakes
    Schema(Schema),
    /// Write a config to start from, with every key, or a copy of a recipe
    New(NewConfig),
}

/// The arguments of `dsconv config keys`.
#[derive(Debug, clap::Args)]
pub struct Keys {
    /// Only keys whose name contains this
    #[arg(value_name = "PART")]
    pub part: Option<String>,
    /// Those of `dsconv train`, not of `dsconv distill`
    #[arg(long)]
    pub train: bool,
}

/// The arguments of `dsconv config explain`.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The key, such as `adapt.code_rate`
    #[arg(value_name = "KEY")]
    pub key: String,
    /// A key of `dsconv train`, not of `dsconv distill`
    #[arg(long)]
    pub train: bool,
}

/// The arguments of `dsconv config schema`.
#[derive(Debug, clap::Args)]
pub struct Schema {
    /// That of `dsconv train`, not of `dsconv distill`
    #[arg(long)]
    pub train: bool,
}

/// The arguments of `dsconv config new`.
#[derive(Debug, clap::Args)]
pub struct NewConfig {
    /// The file to write, `.toml`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The network: a name or a file for `dsconv distill`, a name for `dsconv train`
    #[arg(long, value_name = "MODEL", default_value = "resnet50-embedded")]
    pub model: String,
    /// A copy of this recipe instead
    #[arg(long, value_name = "CONFIG", conflicts_with_all = ["model", "train"])]
    pub from: Option<String>,
    /// A config of `dsconv train`, not of `dsconv distill`
    #[arg(long)]
    pub train: bool,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

impl Keys {
    /// Returns the command whose keys are listed.
    pub fn kind(&self) -> ConfigKind {
        kind(self.train)
    }
}

impl Explain {
    /// Returns the command whose key is explained.
    pub fn kind(&self) -> ConfigKind {
        kind(self.train)
    }
}

impl Schema {
    /// Returns the command whose configs are described.
    pub fn kind(&self) -> ConfigKind {
        kind(self.train)
    }
}

impl From<NewConfig> for Beginning {
    fn from(NewConfig { model, from, train, .. }: NewConfig) -> Self {
        from.map_or_else(|| Self::Keys(kind(train), model), Self::Copy)
    }
}

fn kind(train: bool) -> ConfigKind {
    if train { ConfigKind::Train } else { ConfigKind::Distill }
}
