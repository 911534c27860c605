//! `dsconv benchmark`: a network in each of the usual formats, by size, accuracy and time.
use blockfloat::{ActivationFormat, Bits, BlockSize, ScaleFormat};
use distill::evaluate::predict;
use distill::{Calibration, Context, Logits, Scores};
use graph::Graph;
use images::{OpenOptions, Unlabelled};
use model::{Float, Model, Policy, SaveOptions};
use report::{Item, Page, Plot, Points, Section};
use serde::Serialize;

use super::fitted::{self, FitImages};
use super::{bench, export};
use crate::classes::GivenClasses;
use crate::device::{self, DeviceName};
use crate::error::{Error, Result};
use crate::html::{self, Html};
use crate::models::{self, ModelSpec};
use crate::onnxruntime::OnnxRuntime;
use crate::printer::Printer;
use crate::table::{NOTHING, Table, bytes, counted, decibels, percent};
use crate::{classes, deploy, engine, pictures, places, progress};

/// The network to measure, and how.
#[derive(Debug, Clone)]
pub struct BenchmarkOptions {
    /// The model.
    pub model: ModelSpec,
    /// The labelled images; `None` for the embedded ones.
    pub data: Option<String>,
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
    /// The version of ONNX Runtime that runs ONNX files; `None` where there is none.
    onnxruntime: Option<String>,
    rows: Vec<Row>,
}

/// A format.
#[derive(Debug, Serialize)]
struct Row {
    format: &'static str,
    /// The command that makes it; empty for the float network as it came.
    command: String,
    bytes: u64,
    ratio: f64,
    top1: Option<f64>,
    top5: Option<f64>,
    /// The percentage of images that get the class that the float network names.
    agreement: f64,
    sqnr_db: Option<f64>,
    /// The median time of an image on one thread, in the integer engine or, for an ONNX file, in ONNX Runtime; `None` for the
    /// float network, which the engine does not run fast.
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<f64>,
}

impl Row {
    /// The row of a network that nobody has timed.
    fn new(format: &'static str, command: String, bytes: u64, fp32_bytes: u64, scores: &Scores) -> Self {
        Self {
            format,
            command,
            bytes,
            ratio: fp32_bytes as f64 / bytes as f64,
            top1: scores.top1,
            top5: scores.top5,
            agreement: scores.agreement,
            sqnr_db: scores.sqnr_db,
            milliseconds: None,
        }
    }
}

/// A format that is tried.
struct Format {
    name: &'static str,
    options: &'static str,
    bits: u8,
    activation_bits: u8,
    /// The block of weights; inputs have the same, or with two levels one of all channels of a pixel.
    block: usize,
    two_level: bool,
    /// The bits of the inputs of 3x3 convolutions that suit Winograd's algorithm; 0 for none.
    winograd: u8,
    /// The ONNX file that is made of it, for ONNX Runtime.
    onnx: Option<Onnx>,
}

/// An ONNX file of a quantized network.
#[derive(Clone, Copy)]
enum Onnx {
    /// Every layer and value in 8 bits.
    Int8,
    /// Codes and block scales.
    Int4,
}

/// The usual formats, largest first.
const FORMATS: [Format; 7] = [
    Format { onnx: Some(Onnx::Int8), ..format("W8A8", "--bits 8 --activation-bits 8", 8, 8, 32, false) },
    format("W4A8, blocks of 64", "--activation-bits 8 --block 64", 4, 8, 64, false),
    format(
        "W4A8, two-level",
        "--activation-bits 8 --block 64 --activation-block pixel --scales two-level --image-sum",
        4,
        8,
        64,
        true,
    ),
    Format { onnx: Some(Onnx::Int4), ..format("W4A4", "", 4, 4, 32, false) },
    Format { winograd: 6, ..format("W4A4, Winograd", "--winograd", 4, 4, 32, false) },
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
    Format { name, options, bits, activation_bits, block, two_level, winograd: 0, onnx: None }
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
        Policy {
            bits: bits(self.bits),
            block,
            activation,
            scales,
            image_sum: self.two_level,
            winograd: Bits::new(self.winograd).ok(),
            ..usual
        }
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
    let set = images::open_labelled(
        pictures::labelled(options.data.as_deref(), &opened.model)?,
        &opened.model.preprocess(),
        &spread,
    )?;
    let images = set.without_labels();
    classes::report(&images, printer);
    let set = GivenClasses::read(options.model.classes.as_deref())?.labelled(&set, &opened.model, printer)?;
    let context = progress::context(device::open(DeviceName::Cpu)?, printer);
    let runtime = OnnxRuntime::find()?;

    let preprocess = opened.model.preprocess();
    let (name, info, fp32_bytes) = (opened.name, opened.model.info().clone(), opened.model.fp32_bytes());
    let network = models::network(&opened.model, &context.device);
    let float = predict("FP32", &[&network], &images, &context)?.remove(0);
    drop(network);
    let float_file = runtime.as_ref().map(|_| onnx::export(&opened.model, &onnx::Profile::Fp32));
    let folded = opened.model.fold().map_err(Error::usage)?;
    let scores = float.scores(Some(set.labels()), &float);
    let mut rows = vec![Row::new("FP32", String::new(), fp32_bytes, fp32_bytes, &scores)];
    let others = runtime.as_ref().map(|runtime| Others {
        runtime,
        graph: folded.graph(),
        images: &images,
        labels: set.labels(),
        float: &float,
        fp32_bytes,
        context: &context,
        printer,
    });
    if let (Some(others), Some(file)) = (&others, float_file) {
        let command = "dsconv export ... -o MODEL.onnx".to_owned();
        let measured = file.map_err(Error::from).and_then(|bytes| others.row(FLOAT_FILE, command, &bytes));
        rows.extend(found(measured, FLOAT_FILE, printer)?);
    }
    let mut fitted_on = None;
    let fit_images = options.images.made(&folded, &preprocess, &context)?;
    let stored = SaveOptions { floats: Float::F32, scale_precision: Float::F16 };
    for format in &FORMATS {
        let plan = format.policy().resolve(folded.graph()).map_err(Error::usage)?;
        let mut quantized = distill::quantize(&folded, &plan, info.clone(), &context)?;
        if let Some(found) = fitted::fit(&fit_images, &folded, &plan, &quantized, &context, printer)? {
            quantized = found.model;
            fitted_on = Some(found.outcome.described());
        }
        quantized.round(&stored);
        let bytes = deploy::bytes(&quantized, &stored, printer)?.len() as u64;
        let logits = engine::predict(format.name, &quantized, &images, &context)?;
        let scores = logits.scores(Some(set.labels()), &float);
        let command = format!("dsconv quantize ... {}", format.options);
        let row = Row::new(format.name, command, bytes, fp32_bytes, &scores);
        if let (Some(others), Some(onnx)) = (&others, format.onnx) {
            let made = onnx.export(&quantized, &fit_images, &context, printer);
            let measured = made.and_then(|bytes| others.row(onnx.name(), onnx.command(), &bytes));
            rows.extend(found(measured, onnx.name(), printer)?);
        }
        let milliseconds = Some(bench::median_ms(&runtime::Model::new(quantized)?, printer)?);
        rows.push(Row { milliseconds, ..row });
    }
    let outcome = Outcome {
        model: name,
        data: set.name().to_owned(),
        count: scores.count,
        fitted_on,
        onnxruntime: runtime.as_ref().map(|runtime| runtime.version().to_owned()),
        rows,
    };
    printer.result(&outcome, |printer| {
        printer.table(&table(&outcome, false));
        printer.line("");
        let made = outcome.rows.iter().filter(|row| !row.command.is_empty());
        made.for_each(|row| printer.line(format!("{}: {}", row.format, row.command.trim_end())));
        printer.line(measured(&outcome));
    });
    if runtime.is_none() {
        printer.talk("with ONNX Runtime in a Python (`pip install onnxruntime`; `DSCONV_PYTHON` names it), ONNX files are measured too");
    }
    options.html.write(printer, || Ok(page(&outcome)))
}

/// The format of the float network as an ONNX file.
const FLOAT_FILE: &str = "ONNX, FP32";

/// Passes on the row of an ONNX file. One that cannot be measured is said to be left out, and the others go on.
///
/// # Errors
/// The user interrupts it.
fn found(measured: Result<Row>, format: &str, printer: &Printer) -> Result<Option<Row>> {
    match measured {
        Ok(row) => Ok(Some(row)),
        Err(error) if error.is_interruption() => Err(error),
        Err(error) => {
            printer.warn(format!("{format} is left out: {}", error.message()));
            Ok(None)
        }
    }
}

impl Onnx {
    fn name(self) -> &'static str {
        match self {
            Self::Int8 => "ONNX, INT8",
            Self::Int4 => "ONNX, W4A4",
        }
    }

    fn command(self) -> String {
        let options = match self {
            Self::Int8 => "--profile int8 --calibrate DATA ",
            Self::Int4 => "",
        };
        format!("dsconv export QUANTIZED {options}-o MODEL.onnx")
    }

    /// Writes a quantized network; the ranges of 8-bit values are found on the images that layers are fitted on.
    fn export(self, model: &Model, images: &FitImages, context: &Context, printer: &Printer) -> Result<Vec<u8>> {
        match self {
            Self::Int4 => Ok(onnx::export(model, &onnx::Profile::Int4 { activations: true })?),
            Self::Int8 => {
                let model = model.clone().to_two_level()?;
                let set = images.calibration(&model, &printer.quiet())?;
                let ranges = export::ranges(&set, Calibration::Mse, &model, context)?;
                let codes = onnx::ActivationCodes::Unsigned;
                Ok(onnx::export(&model, &onnx::Profile::Int8 { ranges, codes })?)
            }
        }
    }
}

/// What ONNX files are measured by.
struct Others<'a> {
    runtime: &'a OnnxRuntime,
    graph: &'a Graph,
    images: &'a Unlabelled,
    labels: &'a [usize],
    float: &'a Logits,
    fp32_bytes: u64,
    context: &'a Context,
    printer: &'a Printer,
}

impl Others<'_> {
    /// Measures an ONNX file.
    ///
    /// # Errors
    /// ONNX Runtime does not run it; images cannot be read; the user interrupts it.
    fn row(&self, format: &'static str, command: String, file: &[u8]) -> Result<Row> {
        let mut session = self.runtime.open(file, self.graph)?;
        let logits = session.predict(format, self.images, engine::at_once(self.graph), self.context)?;
        let scores = logits.scores(Some(self.labels), self.float);
        let one = bench::image(self.graph.input().elements());
        let milliseconds = Some(session.median_ms(&one, bench::RUNS, self.printer)?);
        Ok(Row { milliseconds, ..Row::new(format, command, file.len() as u64, self.fp32_bytes, &scores) })
    }
}

/// Says how it was measured.
fn measured(outcome: &Outcome) -> String {
    let fitted = match &outcome.fitted_on {
        Some(images) => format!("layers fitted on {images}"),
        None => "layers not fitted".to_owned(),
    };
    let (images, data) = (counted(outcome.count, "image"), &outcome.data);
    let others = outcome.onnxruntime.as_ref().map_or(String::new(), |version| format!(" or ONNX Runtime {version}"));
    format!(
        "{images} of {data}; {fitted}; ms: an image in the integer engine{others} on one thread of this machine, median of \
         {} runs",
        bench::RUNS
    )
}

/// The table, with the command that makes each format as its last column where there is room.
fn table(outcome: &Outcome, with_command: bool) -> Table {
    let command = with_command.then_some("command");
    let head = ["format", "size", "ratio", "top-1", "top-5", "agreement", "SQNR dB", "ms"];
    let mut table = Table::new(head.into_iter().chain(command)).left([8]);
    for row in &outcome.rows {
        let cells = [
            row.format.to_owned(),
            bytes(row.bytes),
            format!("{:.1}x", row.ratio),
            percent(row.top1),
            percent(row.top5),
            format!("{:.2}", row.agreement),
            decibels(row.sqnr_db),
            row.milliseconds.map_or(NOTHING.to_owned(), |ms| format!("{ms:.2}")),
        ];
        table.row(cells.into_iter().chain(command.map(|_| row.command.clone())));
    }
    table
}

fn page(outcome: &Outcome) -> Page {
    type Cost = fn(&Row) -> Option<f64>;
    let kinds: [(&str, Cost); 2] =
        [("megabytes", |row| Some(row.bytes as f64 / 1e6)), ("milliseconds", |row| row.milliseconds)];
    let mut plots = Section::new("Accuracy by cost", "Better formats are higher and further to the left.");
    for (unit, cost) in kinds {
        // The size of floats would leave no room for the others.
        let quantized = outcome.rows.iter().filter(|row| !matches!(row.format, "FP32" | FLOAT_FILE));
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
