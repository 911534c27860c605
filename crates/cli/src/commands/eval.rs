//! `dsconv eval`: a model's accuracy is measured, and how far it is from another one.
use std::path::Path;
use std::time::{Duration, Instant};

use distill::evaluate::predict;
use distill::{Flips, Logits};
use graph::Preprocess;
use images::{ImageError, Labelled, OpenOptions, Unlabelled};
use report::{Page, Section};
use serde::Serialize;

use super::inspect::prepared;
use crate::classes::GivenClasses;
use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::html::{self, Compared, Html, Named};
use crate::models::{self, ModelSpec, OpenedModel};
use crate::printer::Printer;
use crate::table::{Table, bytes, counted, duration, percent, rate};
use crate::{classes, device, engine, pictures, places, progress};

/// The model to measure, and how.
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// The model.
    pub model: ModelSpec,
    /// The images, with labels unless models are compared: a data set, a folder or files; `None` for the embedded ones.
    pub data: Option<String>,
    /// The most images, spread over the set.
    pub limit: Option<usize>,
    /// The model to compare with.
    pub against: Option<String>,
    /// Whether a `.dsc` file runs in the simulation, not in the integer engine.
    pub simulate: bool,
    /// The report to write.
    pub html: Html,
    /// The device to compute on.
    pub device: Option<DeviceName>,
}

/// The result of `dsconv eval`.
#[derive(Debug, Serialize)]
pub struct Outcome {
    model: String,
    /// The other model. Where it is the same file, it runs in the simulation, not in the integer engine, as is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<String>,
    data: String,
    /// The number of images.
    count: usize,
    /// The top-1 accuracy, in percent; `None` for images without labels.
    top1: Option<f64>,
    /// The top-5 accuracy, in percent.
    top5: Option<f64>,
    /// The percentage of images for which it names the class that the other model names.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<f64>,
    /// The images that only one of the two models gets right.
    #[serde(skip_serializing_if = "Option::is_none")]
    flips: Option<Flips>,
    /// The probability of flips as uneven as these between models that are equally often right.
    #[serde(skip_serializing_if = "Option::is_none")]
    p_value: Option<f64>,
    /// The SQNR of its logits against those of the other model.
    #[serde(skip_serializing_if = "Option::is_none")]
    sqnr_db: Option<f64>,
    /// The largest difference of an image's logits from those of the other model, relative to the largest of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
    /// The size of the model as a file.
    bytes: u64,
    images_per_second: f64,
    seconds: f64,
}

/// The difference of logits, over all images.
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

/// What was measured.
pub struct Evaluation {
    /// The result, as `dsconv eval --json` prints it.
    pub outcome: Outcome,
    opened: OpenedModel,
    images: Unlabelled,
    /// The class of each image, where they have labels.
    labels: Option<Vec<usize>>,
    /// The logits of the model, and of the one that it is compared with.
    logits: Vec<Logits>,
}

/// Measures a model's accuracy, and writes what is asked for.
///
/// # Errors
/// As [`evaluate`]; a file cannot be written.
pub fn run(options: &EvalOptions, printer: &Printer) -> Result<()> {
    options.html.check(&options.model.files())?;
    let Evaluation { outcome, opened, images, labels, logits } = evaluate(options, printer)?;
    printer.result(&outcome, |printer| show(&outcome, printer));
    if let (Some(other), Some(Flips { won, lost }), Some(p)) = (&options.against, outcome.flips, outcome.p_value) {
        let verdict = if p < 0.05 { "more than chance" } else { "no more than chance may do" };
        printer.talk(format!(
            "it gets {won} images right that {other} does not, and {lost} the other way round: {verdict} (McNemar's p = {p:.2})"
        ));
    }
    printer.talk(format!(
        "{}, {}",
        rate(outcome.images_per_second),
        duration(Duration::from_secs_f64(outcome.seconds))
    ));
    options.html.write(printer, || {
        let classes = opened.model.graph().head().names(&opened.model.info().classes);
        let preprocess = opened.model.preprocess();
        let measured = Measured {
            images: &images,
            labels: labels.as_deref(),
            logits: &logits,
            classes: &classes,
            preprocess: &preprocess,
        };
        measured.page(&outcome, options.against.as_deref())
    })
}

/// Opens the model to compare with. Options for weights are for the other one.
fn open_other(name: &str, printer: &Printer) -> Result<OpenedModel> {
    models::open_name(name, printer).map_err(|error| match error.advice() {
        Some(advice) if advice.contains("`--weights FILE`") => {
            let own = "name a file of weights itself: `--against FILE`";
            let advice = ["give your own with `--weights FILE`", "give a file with `--weights FILE`"]
                .iter()
                .fold(advice.to_owned(), |advice, words| advice.replace(words, own));
            error.hint(advice)
        }
        _ => error,
    })
}

/// Opens the images to measure on, with labels where they have some. Without, networks can be compared all the same.
///
/// # Errors
/// They cannot be opened; they have no labels, and no other network is there to compare with.
fn open(
    data: &str,
    preprocess: &Preprocess,
    spread: &OpenOptions,
    is_compared: bool,
) -> Result<(Unlabelled, Option<Labelled>, Option<String>)> {
    match images::open_labelled(data, preprocess, spread) {
        Ok(set) => Ok((set.without_labels(), Some(set), None)),
        Err(ImageError::NoLabels { hint, .. }) if is_compared => {
            Ok((images::open_unlabelled(data, preprocess, spread)?, None, Some(hint)))
        }
        Err(error @ ImageError::NoLabels { .. }) => {
            let hint = error.hint().unwrap_or_default();
            Err(Error::from(error)
                .hint(format!("{hint}; without labels, `--against MODEL` compares with another network")))
        }
        Err(error) => Err(error.into()),
    }
}

/// Names the two models of a comparison: by their names, or as they were typed where these are the same.
fn named(options: &EvalOptions, opened: &OpenedModel, other: &OpenedModel, is_simulated: bool) -> [String; 2] {
    let names = [opened.name.clone(), other.name.clone()];
    if is_simulated {
        let [name, other] = names;
        return [name, format!("{other}, simulated")];
    }
    let typed = [Some(&options.model.name), options.against.as_ref()].map(|name| name.cloned().unwrap_or_default());
    let file = |typed: &String| Path::new(typed).file_name().map(|name| name.to_string_lossy().into_owned());
    let files = typed.each_ref().map(|typed| file(typed).unwrap_or_default());
    [names, files].into_iter().find(|[one, two]| one != two).unwrap_or(typed)
}

/// Measures a model's accuracy.
///
/// # Errors
/// A model or the images cannot be opened; they do not fit each other; the user interrupts it.
pub fn evaluate(options: &EvalOptions, printer: &Printer) -> Result<Evaluation> {
    let device = device::open(options.device.unwrap_or(DeviceName::Cpu))?;
    let opened = models::open(&options.model, printer)?;
    let against = options.against.as_ref().map(|name| open_other(name, printer)).transpose()?;
    let spread = OpenOptions { limit: options.limit, datasets: places::datasets(), ..OpenOptions::default() };
    let data = pictures::labelled(options.data.as_deref(), &opened.model)?;
    let (images, set, unlabelled) = open(data, &opened.model.preprocess(), &spread, against.is_some())?;
    let known = images.skipped().len();
    classes::report(&images, printer);
    if let Some(hint) = unlabelled {
        let name = images.name();
        printer.talk(format!("{name} has no labels: the two networks are compared, accuracy is not measured ({hint})"));
    }
    let classes = GivenClasses::read(options.model.classes.as_deref())?;
    let set = set.map(|set| classes.labelled(&set, &opened.model, printer)).transpose()?;
    let labels = set.map(|set| set.labels().to_vec());

    let context = progress::context(device, printer);
    if let Some(other) = &against
        && other.model.graph().head().count != opened.model.graph().head().count
    {
        return Err(Error::usage("the two models have different numbers of classes"));
    }
    let own_images = match &against {
        Some(other) if say_prepared(&options.model, &opened, other, printer) => {
            Some(open(data, &other.model.preprocess(), &spread, true)?.0)
        }
        _ => None,
    };
    let in_engine = engine::is_for(&options.model.name, options.device, options.simulate);
    let is_asked = options.simulate || options.device.is_some();
    if let Some(name) =
        options.against.as_ref().filter(|name| !in_engine && !is_asked && engine::is_for(name, None, false))
    {
        printer.talk(format!("{name} is simulated here: named first, it runs in the integer engine"));
    }
    // Quantized networks that are compared run the same way: what differs is then theirs. A file beside itself can only differ by that.
    let file = |opened: &OpenedModel| opened.file.as_ref().and_then(|file| file.canonicalize().ok());
    let is_simulated = in_engine && against.as_ref().is_some_and(|other| file(other) == file(&opened));
    let bytes = size(&opened)?;
    let start = Instant::now();
    let run = |opened: &OpenedModel, images: &Unlabelled, in_engine: bool| -> Result<Logits> {
        match in_engine && opened.model.is_quantized() {
            true => engine::predict("eval", &opened.model, images, &context),
            false => {
                let network = models::network(&opened.model, &context.device);
                Ok(predict("eval", &[&network], images, &context)?.remove(0))
            }
        }
    };
    let logits = match (&against, &own_images) {
        (None, _) => vec![run(&opened, &images, in_engine)?],
        (Some(other), None) if !in_engine => {
            let networks = [&opened, other].map(|opened| models::network(&opened.model, &context.device));
            predict("eval", &[&networks[0], &networks[1]], &images, &context)?
        }
        (Some(other), own) => {
            let own = own.as_ref().unwrap_or(&images);
            vec![run(&opened, &images, in_engine)?, run(other, own, in_engine && !is_simulated)?]
        }
    };
    let time = start.elapsed();
    classes::report_resized(&images, &opened.model.info().preprocess, opened.model.graph().input(), printer);
    classes::report_late(&images, known, printer);
    let scores = logits[0].scores(labels.as_deref(), logits.last().expect("one network at least"));
    let flips = against.as_ref().zip(labels.as_ref()).map(|(_, labels)| logits[0].flips(labels, &logits[1]));
    let [name, other_name] = match &against {
        Some(other) => named(options, &opened, other, is_simulated),
        None => [opened.name.clone(), String::new()],
    };
    let outcome = Outcome {
        flips,
        p_value: flips.map(|flips| flips.p_value()),
        model: name,
        against: against.as_ref().map(|_| other_name),
        data: images.name().to_owned(),
        count: scores.count,
        top1: scores.top1,
        top5: scores.top5,
        agreement: against.is_some().then_some(scores.agreement),
        sqnr_db: scores.sqnr_db.filter(|_| against.is_some()),
        difference: against.and_then(|_| Difference::new(logits[0].differences(&logits[1]))),
        bytes,
        images_per_second: scores.count as f64 / time.as_secs_f64(),
        seconds: time.as_secs_f64(),
    };
    // A network that knows nothing is right once in as many images as there are classes.
    let chance = 100.0 / opened.model.graph().head().classes().max(2) as f64;
    if outcome.count >= 50 && outcome.top1.is_some_and(|top1| top1 < 1.5 * chance && top1 < 60.0) {
        printer.warn(
            "that is little more than chance: perhaps its classes have another order (--classes), or its images are prepared \
             otherwise (--mean, --std, --order, --divide, --resize, --crop)",
        );
    }
    Ok(Evaluation { outcome, opened, images, labels, logits })
}

/// Says how each of two models gets its images where that is not the same, or is not as the file of the second one says, and returns
/// whether the second one gets images of its own.
fn say_prepared(spec: &ModelSpec, opened: &OpenedModel, other: &OpenedModel, printer: &Printer) -> bool {
    let by_options = spec.image.says_values() || spec.image.says_sizes();
    let why = match (by_options, opened.is_prepared) {
        (true, _) => "as the options say",
        (false, true) => "as its file says",
        (false, false) => "as assumed",
    };
    let (name, preprocess) = (&opened.name, opened.model.preprocess());
    if other.model.preprocess() == preprocess {
        return false;
    }
    printer.talk(format!("{name} gets its images {why}: {}", prepared(&preprocess)));
    let (name, first, own) = (&other.name, name, other.model.preprocess());
    match other.is_prepared {
        true => printer.talk(format!("{name} gets its images as its file says: {}", prepared(&own))),
        false => printer.talk(format!("{name} does not say how its images are prepared: it gets those of {first}")),
    }
    other.is_prepared
}

/// What a page shows beside the outcome.
struct Measured<'a> {
    images: &'a Unlabelled,
    labels: Option<&'a [usize]>,
    /// The logits of the model, and of the one that it is compared with.
    logits: &'a [Logits],
    classes: &'a [String],
    preprocess: &'a Preprocess,
}

impl Measured<'_> {
    fn page(&self, outcome: &Outcome, against: Option<&str>) -> Result<Page> {
        let (own, last) = (&self.logits[0], self.logits.last().expect("one network at least"));
        let (mut named, mut places) = (Vec::new(), Vec::new());
        let label = |image: usize| self.labels.map(|labels| labels[image]);
        for image in 0..self.images.len() {
            let (Some(other), Some(float)) = (own.named(image), last.named(image)) else { continue };
            named.push(Named { label: label(image), float, other });
            places.push(image);
        }
        let compared = Compared { float: against, other: &outcome.model, classes: self.classes, named: &named };
        let mut sections = vec![Section::new("Result", "").with(html::table(&table(outcome)))];
        sections.extend(compared.sections());
        let differing: Vec<usize> = compared.differing().into_iter().map(|i| places[i]).collect();
        if against.is_some() && !differing.is_empty() {
            let shown = self.images.select(&differing);
            let labels: Vec<Option<usize>> = differing.iter().map(|&image| label(image)).collect();
            let [float, other] = [last, own].map(|logits| logits.select(&differing));
            sections.push(compared.pictures(&shown, &labels, [&float, &other], self.preprocess)?);
        }
        let (images, data) = (counted(outcome.count, "image"), &outcome.data);
        let mut summary = match outcome.top1 {
            Some(_) => format!("Top-1 is {} % on {images} of {data}.", percent(outcome.top1)),
            None => format!("Compared on {images} of {data}, which have no labels."),
        };
        if let (Some(against), Some(agreement)) = (against, outcome.agreement) {
            summary += &format!(" For {agreement:.1} % it names the class that {against} names.");
        }
        let what = if outcome.top1.is_some() { "accuracy" } else { "comparison" };
        Ok(Page { title: format!("{}: {what}", outcome.model), summary, sections })
    }
}

/// Returns the size of the file that was named, else of the one that `dsconv export` would write.
fn size(opened: &OpenedModel) -> Result<u64> {
    match &opened.file {
        Some(file) => Ok(std::fs::metadata(file)?.len()),
        None => Ok(files::packed::to_bytes(&opened.model, &stored(&opened.model))?.len() as u64),
    }
}

/// Returns how a model is stored where the user does not say it: its scales are as narrow as they are.
fn stored(model: &model::Model) -> model::SaveOptions {
    model::SaveOptions { scale_precision: model.scale_precision(), ..model::SaveOptions::default() }
}

fn show(outcome: &Outcome, printer: &Printer) {
    printer.table(&table(outcome));
}

fn table(outcome: &Outcome) -> Table {
    let mut table = Table::new([
        "model",
        "against",
        "data",
        "images",
        "top-1",
        "top-5",
        "agreement",
        "won/lost",
        "SQNR dB",
        "difference",
        "size",
    ])
    .left([1, 2]);
    table.row([
        outcome.model.clone(),
        outcome.against.clone().unwrap_or_default(),
        outcome.data.clone(),
        outcome.count.to_string(),
        percent(outcome.top1),
        percent(outcome.top5),
        percent(outcome.agreement),
        outcome.flips.map_or(String::new(), |flips| format!("{}/{}", flips.won, flips.lost)),
        outcome.sqnr_db.map_or(String::new(), |db| format!("{db:.1}")),
        outcome.difference.as_ref().map_or(String::new(), |d| format!("{:.1e}", d.largest)),
        bytes(outcome.bytes),
    ]);
    table.without_empty_columns()
}
