use std::time::Instant;

use distill::evaluate::predict;
use dsconv::Network;
use images::OpenOptions;
use serde::Serialize;

use crate::args::{DeviceName, Eval};
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::source::Source;
use crate::table::{Table, bytes, duration, percent, rate};
use crate::{classes, device, engine, places, progress, source};

/// What was measured.
#[derive(Debug, Serialize)]
struct Outcome {
    model: String,
    data: String,
    /// Images.
    count: usize,
    /// Percent.
    top1: Option<f64>,
    /// Percent.
    top5: Option<f64>,
    /// Percent of images for which it names the class that `--against` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<f64>,
    /// Of its logits against those of `--against`.
    #[serde(skip_serializing_if = "Option::is_none")]
    sqnr_db: Option<f64>,
    /// An image's largest difference from its logits, relative to the largest of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
    /// The model as a file.
    bytes: u64,
    images_per_second: f64,
    seconds: f64,
}

/// Of logits, over all images.
#[derive(Debug, Serialize)]
struct Difference {
    median: f64,
    largest: f64,
}

impl Difference {
    fn new(mut of_images: Vec<f64>) -> Option<Self> {
        of_images.sort_by(f64::total_cmp);
        Some(Self { median: *of_images.get(of_images.len() / 2)?, largest: *of_images.last()? })
    }
}

pub fn run(args: &Eval, printer: &Printer) -> Result<()> {
    let device = device::open(args.device.device.unwrap_or(DeviceName::Cpu))?;
    let source = source::open(&args.model, printer)?;
    let against = args.against.as_ref().map(|name| source::open_name(name, printer)).transpose()?;
    let options = OpenOptions { limit: args.limit, datasets: places::datasets(), ..OpenOptions::default() };
    let set = images::open_labelled(&args.data, &source.model.preprocess(), &options)?;
    let images = set.without_labels();
    let known = images.skipped().len();
    classes::report(&images, printer);
    let set = classes::Said::read(args.model.classes.as_deref())?.labelled(&set, &source.model, printer)?;

    let context = progress::context(device, printer)?;
    let other = against.as_ref().map(|source| source::network(&source.model, &context.device));
    if let Some(other) = &other
        && other.graph().head().count != source.model.graph.head().count
    {
        return Err(Error::usage("the two models have different numbers of classes"));
    }
    let bytes = size(&source)?;
    let start = Instant::now();
    let logits = if engine::is_for(&args.model.model, args.device.device, args.simulate) {
        let mut logits = vec![engine::predict("eval", &source.model, &images, &context)?];
        if let Some(other) = &other {
            logits.extend(predict("eval", &[other], &images, &context)?);
        }
        logits
    } else {
        let network = source::network(&source.model, &context.device);
        let networks: Vec<&Network> = [Some(&network), other.as_ref()].into_iter().flatten().collect();
        predict("eval", &networks, &images, &context)?
    };
    let time = start.elapsed();
    classes::report_resized(&images, &source.model.info.preprocess, source.model.graph.input(), printer);
    classes::report_late(&images, known, printer);
    let scores = logits[0].scores(Some(set.labels()), logits.last().expect("one network at least"));
    let outcome = Outcome {
        model: source.name,
        data: set.name().to_owned(),
        count: scores.count,
        top1: scores.top1,
        top5: scores.top5,
        agreement: other.is_some().then_some(scores.agreement),
        sqnr_db: scores.sqnr_db.filter(|_| other.is_some()),
        difference: other.and_then(|_| Difference::new(logits[0].differences(&logits[1]))),
        bytes,
        images_per_second: scores.count as f64 / time.as_secs_f64(),
        seconds: time.as_secs_f64(),
    };
    printer.result(&outcome, |printer| show(&outcome, printer));
    printer.talk(format!("{}, {}", rate(outcome.images_per_second), duration(time)));
    Ok(())
}

/// Of the file that was named, else of the one that `dsconv export` would write.
fn size(source: &Source) -> Result<u64> {
    match &source.file {
        Some(file) => Ok(std::fs::metadata(file)?.len()),
        None => Ok(files::packed::to_bytes(&source.model, &stored(&source.model))?.len() as u64),
    }
}

/// How a model is stored if nobody says otherwise: its scales as narrow as they are.
fn stored(model: &model::Model) -> model::SaveOptions {
    model::SaveOptions { scale_precision: model.scale_precision(), ..model::SaveOptions::default() }
}

fn show(outcome: &Outcome, printer: &Printer) {
    let mut table =
        Table::new(["model", "data", "images", "top-1", "top-5", "agreement", "SQNR dB", "difference", "size"])
            .left([1]);
    table.row([
        outcome.model.clone(),
        outcome.data.clone(),
        outcome.count.to_string(),
        percent(outcome.top1),
        percent(outcome.top5),
        percent(outcome.agreement),
        outcome.sqnr_db.map_or(String::new(), |db| format!("{db:.1}")),
        outcome.difference.as_ref().map_or(String::new(), |d| format!("{:.1e}", d.largest)),
        bytes(outcome.bytes),
    ]);
    printer.table(&table.without_empty_columns());
}
