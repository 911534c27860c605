use crate::commands::benchmark::BenchmarkOptions;

use super::model::ModelArgs;
use super::parse::above_0;
use super::quantize::fit_images;
use super::target::HtmlArgs;
use crate::error::{Error, Result};

/// `dsconv benchmark`.
///
/// Quantizes a network to each of the usual formats, measures size, accuracy and time of each in the integer engine, and puts
/// them beside the float network: which format should I choose? Writes no model.
#[derive(Debug, clap::Args)]
pub struct Benchmark {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Labelled images: a folder with one folder a class or a labels file, a table of labels (.csv), a name of `dsconv data list`,
    /// or CIFAR .bin files [default for the embedded networks: `embedded`]
    #[arg(long, value_name = "DATA")]
    pub data: Option<String>,
    /// Measure on at most this many images, spread over the set
    #[arg(long, value_name = "N", value_parser = above_0)]
    pub limit: Option<usize>,
    /// Unlabelled images on which layers are fitted, others than those of --data; `synthetic`, `drawn` or `none`: see `dsconv quantize
    /// --help`
    #[arg(long, value_name = "DATA", default_value = "synthetic")]
    pub images: String,
    /// Fit on at most this many images, spread over the set [default: 128, and 32 synthetic or drawn ones]
    #[arg(long, value_name = "N", value_parser = above_0)]
    pub image_count: Option<usize>,
    /// The report to write.
    #[command(flatten)]
    pub html: HtmlArgs,
}

impl TryFrom<Benchmark> for BenchmarkOptions {
    type Error = Error;
    fn try_from(Benchmark { model, data, limit, images, image_count, html }: Benchmark) -> Result<Self> {
        let images = fit_images(images, image_count)?;
        Ok(Self { model: model.into(), data, limit, images, html: html.into() })
    }
}
