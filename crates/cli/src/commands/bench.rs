//! `dsconv bench`: a `.dsc` file is timed in the integer engine, layer by layer.
use std::path::{Path, PathBuf};
use std::time::Instant;

use distill::peak_bytes;
use report::{Bars, Item, Page, Plot, Section};
use runtime::{Session, StepReport};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::html::{self, Html};
use crate::printer::{Bar, Printer};
use crate::table::{Table, bytes, counted, rate};
use crate::{engine, names, slips};

/// The number of profiles of which each step's shortest time counts.
const PROFILES: usize = 15;

/// The time after which no further run begins, in seconds.
const SECONDS: f64 = 10.0;

/// The most bytes of a batch of images.
const BATCH_BYTES: usize = 4 << 30;

/// The result of `dsconv bench`.
#[derive(Debug, Serialize)]
struct Outcome {
    model: String,
    kernel: &'static str,
    threads: usize,
    batch: usize,
    runs: usize,
    /// The time from opening the file to the first answer.
    first_answer_ms: f64,
    /// The time of a run.
    latency_ms: Latency,
    /// The throughput by the median time.
    images_per_second: f64,
    /// The largest resident memory of this process; `None` where the system does not tell it.
    peak_bytes: Option<u64>,
    /// The size of the packed weights.
    weight_bytes: usize,
    /// The size of the activations.
    buffer_bytes: usize,
    /// The speed of the kernel's innermost loop with all data in the nearest cache, on one thread, in the format of the layer with the
    /// most multiplications.
    ceiling_gmacs: f64,
    /// The steps of one image, each with its shortest time.
    layers: Vec<TimedStep>,
}

#[derive(Debug, Serialize)]
struct Latency {
    min: f64,
    median: f64,
    p95: f64,
}

/// A step: a layer with what is computed along with it.
#[derive(Debug, Serialize)]
struct TimedStep {
    name: String,
    kind: &'static str,
    /// The shape of its output, `[C, H, W]`.
    shape: [usize; 3],
    ms: f64,
    /// The part of the time of all steps that it takes.
    share: f64,
    /// The milliseconds of all threads together that the step works, by what it does.
    works: Work,
    #[serde(skip_serializing_if = "Option::is_none")]
    gmacs: Option<f64>,
    /// The speed of the kernel's innermost loop in the format of this step, on one thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling_gmacs: Option<f64>,
    /// The speed as a part of the ceiling of all threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_ceiling: Option<f64>,
}

/// What a step does, in milliseconds.
#[derive(Debug, Serialize)]
struct Work {
    /// The sums of convolutions, and what is done to them before they are stored.
    sums: f64,
    /// Making integers of floats, for the layers that read them.
    rounding: f64,
    /// Operations in floats.
    floats: f64,
}

impl Work {
    /// Returns the percents of each, as `90/8/2 %`.
    fn percents(&self) -> String {
        let Self { sums, rounding, floats } = *self;
        let all = sums + rounding + floats;
        let percent = |part: f64| if all > 0.0 { format!("{:.0}", 100.0 * part / all) } else { "-".to_owned() };
        [sums, rounding, floats].map(percent).join("/") + " %"
    }
}

/// The model to time, and how.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// The file of a quantized model, `.dsc`.
    pub file: PathBuf,
    /// The number of threads.
    pub threads: usize,
    /// The number of images of a run.
    pub batch: usize,
    /// The most runs that are timed.
    pub runs: usize,
    /// The report to write.
    pub html: Html,
}

/// Times a model in the integer engine.
///
/// # Errors
/// The file cannot be read or is no quantized model; the batch is too large.
pub fn run(options: &BenchOptions, printer: &Printer) -> Result<()> {
    let &BenchOptions { threads, batch, .. } = options;
    let file = &engine::file(&options.file)?;
    let start = Instant::now();
    check(file)?;
    options.html.check(&[file])?;
    let model = engine::load(file)?;
    let mut session = model.session(threads)?;
    let one = image(model.input().elements());
    session.run(&one)?;
    let first_answer_ms = ms(start);

    if one.len().saturating_mul(batch) > BATCH_BYTES / size_of::<f32>() {
        return Err(Error::failed(format!(
            "{} at once: more than {}",
            counted(batch, "image"),
            bytes(BATCH_BYTES as u64)
        ))
        .hint("a smaller --batch"));
    }
    let images = one.repeat(batch);
    session.run(&images)?;
    let begun = Instant::now();
    let bar = printer.bar("bench", options.runs as u64, "");
    let times = time_runs(&mut session, &images, options.runs, begun, &bar)?;
    bar.finish_and_clear();
    let steps = time_steps(&mut session, &one, begun)?;
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
    let latency_ms = Latency { min: at(0.0), median: at(0.5), p95: at(0.95) };
    let ceilings = model.ceilings(&steps);
    let heaviest =
        steps.iter().zip(&ceilings).filter(|(_, ceiling)| ceiling.is_some()).max_by_key(|(step, _)| step.macs);
    let ceiling = heaviest.and_then(|(_, ceiling)| *ceiling).unwrap_or_else(|| model.ceiling());
    let outcome = Outcome {
        model: file.display().to_string(),
        kernel: model.kernel().as_str(),
        threads,
        batch,
        runs: times.len(),
        first_answer_ms,
        images_per_second: 1e3 * batch as f64 / latency_ms.median,
        latency_ms,
        peak_bytes: peak_bytes(),
        weight_bytes: model.weight_bytes(),
        buffer_bytes: session.bytes(),
        ceiling_gmacs: ceiling / 1e9,
        layers: layers(&steps, &ceilings, threads),
    };
    printer.result(&outcome, |printer| show(&outcome, printer));
    options.html.write(printer, || Ok(page(&outcome)))
}

fn page(outcome: &Outcome) -> Page {
    let layers = outcome.layers.iter().map(|layer| (layer.name.clone(), layer.ms, format!("{:.3} ms", layer.ms)));
    let bars = Bars { caption: "Milliseconds of each step of one image.".to_owned(), bars: layers.collect() };
    let note = "A step is a layer with what is computed along with it, by its shortest time: sums of convolutions with what is done \
        to them before they are stored, rounding for the layers that read them, operations in floats.";
    Page {
        title: format!("{}: time", outcome.model),
        summary: format!(
            "An image takes {:.2} ms in the median, with {} and {} at once, on the kernel {}.",
            outcome.latency_ms.median / outcome.batch as f64,
            counted(outcome.threads, "thread"),
            counted(outcome.batch, "image"),
            outcome.kernel
        ),
        sections: vec![
            Section::new("Result", "").with(html::table(&totals(outcome))),
            Section::new("Steps", note).with(Item::Plot(Plot::Bars(bars))).with(html::table(&steps(outcome))),
        ],
    }
}

/// The runs of which [`median_ms`] is the median.
pub const RUNS: usize = 20;

/// Returns the median time of an image on one thread, in milliseconds, by a few runs.
///
/// # Errors
/// Memory does not suffice.
pub fn median_ms(model: &runtime::Model, printer: &Printer) -> Result<f64> {
    let mut session = model.session(1)?;
    let one = image(model.input().elements());
    session.run(&one)?;
    let bar = printer.bar("bench", RUNS as u64, "");
    let times = time_runs(&mut session, &one, RUNS, Instant::now(), &bar)?;
    bar.finish_and_clear();
    Ok(times[times.len() / 2])
}

/// Times up to `runs` runs, and returns their milliseconds, least first. No further run begins [`SECONDS`] after `begun`.
fn time_runs(session: &mut Session, images: &[f32], runs: usize, begun: Instant, bar: &Bar) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    while times.len() < runs && (times.is_empty() || begun.elapsed().as_secs_f64() < SECONDS) {
        let start = Instant::now();
        session.run(images)?;
        times.push(ms(start));
        bar.inc(1);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Times the steps of one image, each by its shortest time. No further profile begins [`SECONDS`] after `begun`.
fn time_steps(session: &mut Session, one: &[f32], begun: Instant) -> Result<Vec<StepReport>> {
    let mut steps = session.profile(one)?;
    for _ in 1..PROFILES {
        if begun.elapsed().as_secs_f64() > SECONDS {
            break;
        }
        for (step, again) in steps.iter_mut().zip(session.profile(one)?) {
            if again.seconds < step.seconds {
                *step = again;
            }
        }
    }
    Ok(steps)
}

/// Checks that a file is of a format that the engine reads.
fn check(file: &Path) -> Result<()> {
    let ending = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !file.is_file() || ["dsc", "safetensors"].contains(&ending.as_str()) {
        return Ok(());
    }
    let shown = file.display();
    Err(slips::of_model(file).unwrap_or_else(|| {
        Error::usage(format!("`{shown}` is no .dsc file: only those are timed")).hint(format!(
            "`dsconv quantize {} -o {}` makes one",
            names::typed(shown),
            names::typed(file.with_extension("dsc").display())
        ))
    }))
}

/// Makes an image of values of either sign, in no order.
pub fn image(elements: usize) -> Vec<f32> {
    (0..elements).map(|i| (i.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 32768.0 - 1.0).collect()
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn layers(steps: &[StepReport], ceilings: &[Option<f64>], threads: usize) -> Vec<TimedStep> {
    let total: f64 = steps.iter().map(|step| step.seconds).sum();
    let layer = |(step, ceiling): (&StepReport, &Option<f64>)| {
        let ceiling_gmacs = ceiling.map(|ceiling| ceiling / 1e9);
        let gmacs = (step.macs > 0).then(|| step.macs as f64 / step.seconds / 1e9);
        TimedStep {
            name: step.name.clone(),
            kind: step.kind,
            shape: [step.shape.channels, step.shape.height, step.shape.width],
            ms: step.seconds * 1e3,
            share: step.seconds / total,
            works: Work { sums: 1e3 * step.convolving, rounding: 1e3 * step.rounding, floats: 1e3 * step.floats },
            gmacs,
            ceiling_gmacs,
            of_ceiling: gmacs.zip(ceiling_gmacs).map(|(gmacs, ceiling)| gmacs / (ceiling * threads as f64)),
        }
    };
    steps.iter().zip(ceilings).map(layer).collect()
}

fn show(outcome: &Outcome, printer: &Printer) {
    printer.table(&steps(outcome));
    printer.line("");
    printer.table(&totals(outcome));
}

fn steps(outcome: &Outcome) -> Table {
    let parts = "sum/round/float";
    let mut table =
        Table::new(["layer", "computes", "output", "ms", "share %", parts, "GMAC/s", "ceiling %"]).left([1, 2]);
    for layer in &outcome.layers {
        let [c, h, w] = layer.shape;
        table.row([
            layer.name.clone(),
            layer.kind.replace("convolution", "conv"),
            format!("{c}x{h}x{w}"),
            format!("{:.3}", layer.ms),
            format!("{:.1}", 100.0 * layer.share),
            layer.works.percents(),
            layer.gmacs.map_or(String::new(), |gmacs| format!("{gmacs:.1}")),
            layer.of_ceiling.map_or(String::new(), |part| format!("{:.0}", 100.0 * part)),
        ]);
    }
    table
}

fn totals(outcome: &Outcome) -> Table {
    let mut table = Table::new(["what", "is"]).left([1]);
    let mut row = |what: &str, is: String| table.row([what.to_owned(), is]);
    let Latency { min, median, p95 } = outcome.latency_ms;
    let ceilings = || outcome.layers.iter().filter_map(|layer| layer.ceiling_gmacs);
    let [least, most] =
        [ceilings().fold(outcome.ceiling_gmacs, f64::min), ceilings().fold(outcome.ceiling_gmacs, f64::max)]
            .map(|gmacs| format!("{gmacs:.0}"));
    let ceiling = match least == most {
        true => format!("ceiling {most} GMAC/s a thread"),
        false => format!("ceiling {least} to {most} GMAC/s a thread, by a layer's format"),
    };
    row("kernel", format!("{}, {ceiling}", outcome.kernel));
    row("threads, batch", format!("{}, {}", outcome.threads, outcome.batch));
    row(
        "latency",
        format!("{median:.2} ms median, {min:.2} least, {p95:.2} at 95 %, {}", counted(outcome.runs, "run")),
    );
    row("throughput", rate(outcome.images_per_second));
    row("first answer", format!("{:.0} ms after starting to load", outcome.first_answer_ms));
    let peak = outcome.peak_bytes.map_or(String::new(), |peak| format!("{} at most; ", bytes(peak)));
    let (weights, buffers) = (bytes(outcome.weight_bytes as u64), bytes(outcome.buffer_bytes as u64));
    row("memory", format!("{peak}weights {weights}, activations {buffers}"));
    table
}
