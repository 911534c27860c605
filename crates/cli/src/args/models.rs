/// The arguments of `dsconv models`.
#[derive(Debug, clap::Args)]
pub struct Models {
    /// Only networks whose name contains this
    #[arg(value_name = "PART")]
    pub part: Option<String>,
}
