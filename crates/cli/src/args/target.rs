use std::path::PathBuf;

use model::Float;

use crate::html::Html;
use crate::output::{StoredScales, Target};

/// The options of a file to write.
#[derive(Debug, clap::Args)]
pub struct TargetArgs {
    /// The file to write; its ending names the format [default: named after the model and its bits]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// How weight scales are stored: a float a block (f16, f32), or two-level, a float a filter and a small integer a block
    /// [default: f16; exported as they are]
    #[arg(long, value_name = "f16|f32|two-level", hide_possible_values = true)]
    pub scales: Option<StoredScales>,
    /// How the other floats are stored: biases, layers that are not quantized [default: f32]
    #[arg(long, value_name = "f16|f32", value_parser = float)]
    pub floats: Option<Float>,
}

impl From<TargetArgs> for Target {
    fn from(TargetArgs { output, force, scales, floats }: TargetArgs) -> Self {
        Self { path: output, force, scales, floats }
    }
}

/// The option of a page to write.
#[derive(Debug, Clone, clap::Args)]
pub struct HtmlArgs {
    /// Also write a report to look at and to pass on: one page that holds all it shows, .html
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Replace a report that is there
    #[arg(long, requires = "html")]
    pub force: bool,
}

impl From<HtmlArgs> for Html {
    fn from(HtmlArgs { html, force }: HtmlArgs) -> Self {
        Self { path: html, force }
    }
}

fn float(text: &str) -> Result<Float, String> {
    match text {
        "f16" => Ok(Float::F16),
        "f32" => Ok(Float::F32),
        _ => Err("`f16` or `f32`".to_owned()),
    }
}
