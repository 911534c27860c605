/// The arguments of `dsconv doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {}
