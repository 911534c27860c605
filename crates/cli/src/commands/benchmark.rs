//! `dsconv benchmark`: a network in each of the usual formats, by size, accuracy and time.
use blockfloat::{ActivationFormat, Bits, BlockSize, ScaleFormat};
use distill::evaluate::predict;
use images::OpenOptions;
use model::{Float, Model, Policy, SaveOptions};
use report::{Item, Page, Plot, Points, Section};
use serde::Serialize;

use super::bench;
use super::fitted::{self, FitImages};
use crate::classes::GivenClasses;
use crate::device::{self, DeviceName};
use crate::error::{Error, Result};
use crate::html::{self, Html};
use crate::models::{self, ModelSpec};
use crate::printer::Printer;
use crate::table::{NOTHING, Table, bytes, percent};
use crate::{classes, deploy, engine, places, progress};

/// The network to measure, and how.
#[derive(Debug, Clone)]
pub struct BenchmarkOptions {
    /// The model.
    pub model: ModelSpec,
    /// The labelled images.
    pub data: String,
    /// The most images to measure on.
    pub limit: Option<usize>,
    /// The images to fit layers on.
    pub images: FitImages,
    /// The report to write.
    pub html: Html,
}

/// The result of `dsconv benchmark`.
#[derive(Debug, Serialize)]
struct Outcome {
    model: String,
    data: String,
    /// The number of images that were measured on.
    count: usize,
    /// The images that layers were fitted on; `None` where the scale rule alone decides.
    fitted_on: Option<String>,
    rows: Vec<Row>,
}

/// A format.
#[derive(Debug, Serialize)]
struct Row {
    format: &'static str,
    /// The options of `dsconv quantize` that make it; empty for the float network.
    options: &'static str,
    bytes: u64,
    ratio: f64,
    top1: Option<f64>,
    top5: Option<f64>,
    /// The percentage of images that get the class that the float network names.
    agreement: f64,
    sqnr_db: Option<f64>,
    /// The median time of an image in the integer engine on one thread; `None` for the float network, which it does not run fast.
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<f64>,
}

/// A format that is tried.
struct Format {
    name: &'static str,
    options: &'static str,
    bits: u8,
    activation_bits: u8,
    /// `None` for blocks of all channels of a pixel.
    block: usize,
    two_level: bool,
}

/// The usual formats, largest first.
const FORMATS: [Format; 6] = [
    format("W8A8", "--bits 8 --activation-bits 8", 8, 8, 32, false),
    format("W4A8, blocks of 64", "--activation-bits 8 --block 64", 4, 8, 64, false),
    format(
        "W4A8, two-level",
        "--activation-bits 8 --block 64 --activation-block pixel --scales two-level",
        4,
        8,
        64,
        true,
    ),
    format("W4A4", "", 4, 4, 32, false),
    format("W3A3", "--bits 3 --activation-bits 3", 3, 3, 32, false),
    format("W2A4", "--bits 2", 2, 4, 32, false),
];

const fn format(
    name: &'static str,
    options: &'static str,
    bits: u8,
    activation_bits: u8,
    block: usize,
    two_level: bool,
) -> Format {
    Format { name, options, bits, activation_bits, block, two_level }
}

impl Format {
    fn policy(&self) -> Policy {
        let bits = |bits| Bits::new(bits).expect("from 2 to 8");
        let block = BlockSize::new(self.block).expect("at least 1");
        let usual = Policy::default();
        let activation = usual.activation.map(|format| ActivationFormat {
            bits: bits(self.activation_bits),
            block: if self.two_level { BlockSize::PIXEL } else { block },
            ..format
        });
        let scales = if self.two_level { ScaleFormat::TwoLevel } else { ScaleFormat::Float };
        Policy { bits: bits(self.bits), block, activation, scales, ..usual }
    }
}

/// Measures a network in each of the usual formats.
///
/// # Errors
/// The model or the images cannot be opened, or do not fit each other; the model is quantized already; the user interrupts it.
pub fn run(options: &BenchmarkOptions, printer: &Printer) -> Result<()> {
    options.html.check(&options.model.files())?;
    let opened = models::open(&options.model, printer)?;
    let spread = OpenOptions { limit: options.limit, datasets: places::datasets(), ..OpenOptions::default() };
    let set = images::open_labelled(&options.data, &opened.model.preprocess(), &spread)?;
    let images = set.without_labels();
    classes::report(&images, printer);
    let set = GivenClasses::read(options.model.classes.as_deref())?.labelled(&set, &opened.model, printer)?;
    let context = progress::context(device::open(DeviceName::Cpu)?, printer)?;

    let (name, info, fp32_bytes) = (opened.name, opened.model.info().clone(), opened.model.fp32_bytes());
    let network = models::network(&opened.model, &context.device);
    let folded = opened.model.fold().map_err(Error::usage)?;
    let float = predict("FP32", &[&network], &images, &context)?.remove(0);
    drop(network);
    let scores = float.scores(Some(set.labels()), &float);
    let mut rows = vec![Row {
        format: "FP32",
        options: "",
        bytes: fp32_bytes,
        ratio: 1.0,
        top1: scores.top1,
        top5: scores.top5,
        agreement: scores.agreement,
        sqnr_db: None,
        milliseconds: None,
    }];
    let mut fitted_on = None;
    let stored = SaveOptions { floats: Float::F32, scale_precision: Float::F16 };
    for format in &FORMATS {
        let plan = format.policy().resolve(folded.graph()).map_err(Error::usage)?;
        let mut quantized = Model::quantize_folded(&folded, &plan, info.clone())?;
        if let Some((fitted, outcome)) = fitted::fit(&options.images, &folded, &plan, &quantized, &context, printer)? {
            quantized = fitted;
            fitted_on = Some(outcome.described());
        }
        quantized.round(&stored);
        let bytes = deploy::bytes(&quantized, &stored, printer)?.len() as u64;
        let logits = engine::predict(format.name, &quantized, &images, &context)?;
        let scores = logits.scores(Some(set.labels()), &float);
        rows.push(Row {
            format: format.name,
            options: format.options,
            bytes,
            ratio: fp32_bytes as f64 / bytes as f64,
            top1: scores.top1,
            top5: scores.top5,
            agreement: scores.agreement,
            sqnr_db: scores.sqnr_db,
            milliseconds: Some(bench::median_ms(&runtime::Model::new(quantized)?, printer)?),
        });
    }
    let outcome = Outcome { model: name, data: set.name().to_owned(), count: scores.count, fitted_on, rows };
    printer.result(&outcome, |printer| {
        printer.table(&table(&outcome, false));
        printer.line("");
        let made = outcome.rows.iter().filter(|row| !row.options.is_empty());
        made.for_each(|row| printer.line(format!("{}: dsconv quantize ... {}", row.format, row.options)));
        printer.line(measured(&outcome));
    });
    options.html.write(printer, || Ok(page(&outcome)))
}

/// Says how it was measured.
fn measured(outcome: &Outcome) -> String {
    let fitted = match &outcome.fitted_on {
        Some(images) => format!("layers fitted on {images}"),
        None => "layers not fitted".to_owned(),
    };
    let (count, data) = (outcome.count, &outcome.data);
    format!(
        "{count} images of {data}; {fitted}; ms: an image in the integer engine on one thread of this machine, median of 20 runs"
    )
}

/// The table, with the options that make each format as its last column where there is room.
fn table(outcome: &Outcome, with_options: bool) -> Table {
    let options = with_options.then_some("dsconv quantize ...");
    let head = ["format", "size", "ratio", "top-1", "top-5", "agreement", "SQNR dB", "ms"];
    let mut table = Table::new(head.into_iter().chain(options)).left([8]);
    for row in &outcome.rows {
        let cells = [
            row.format.to_owned(),
            bytes(row.bytes),
            format!("{:.1}x", row.ratio),
            percent(row.top1),
            percent(row.top5),
            format!("{:.2}", row.agreement),
            row.sqnr_db.map_or(NOTHING.to_owned(), |db| format!("{db:.1}")),
            row.milliseconds.map_or(NOTHING.to_owned(), |ms| format!("{ms:.2}")),
        ];
        table.row(cells.into_iter().chain(options.map(|_| row.options.to_owned())));
    }
    table
}

fn page(outcome: &Outcome) -> Page {
    type Cost = fn(&Row) -> Option<f64>;
    let kinds: [(&str, Cost); 2] =
        [("megabytes", |row| Some(row.bytes as f64 / 1e6)), ("milliseconds", |row| row.milliseconds)];
    let mut plots = Section::new("Accuracy by cost", "Better formats are higher and further to the left.");
    for (unit, cost) in kinds {
        // The float network's size would leave no room for the others.
        let quantized = outcome.rows.iter().filter(|row| row.format != "FP32");
        let points = quantized.filter_map(|row| Some((row.format.to_owned(), [cost(row)?, row.top1?]))).collect();
        let (caption, axes) = (format!("Top-1 by {unit}."), [unit.to_owned(), "Top-1, %".to_owned()]);
        plots = plots.with(Item::Plot(Plot::Points(Points { caption, axes, points })));
    }
    let float = percent(outcome.rows.first().and_then(|row| row.top1));
    Page {
        title: format!("{}: formats", outcome.model),
        summary: format!("The float network has a top-1 of {float} %."),
        sections: vec![Section::new("Formats", measured(outcome)).with(html::table(&table(outcome, true))), plots],
    }
}
