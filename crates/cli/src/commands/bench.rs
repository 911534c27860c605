use std::path::Path;
use std::time::Instant;

use runtime::StepReport;
use serde::Serialize;

use crate::args::Bench;
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::table::{Table, bytes, rate};
use crate::{engine, slips};

/// Runs of which each step's shortest time counts.
const PROFILES: usize = 15;

/// After so many seconds no further run is begun.
const SECONDS: f64 = 10.0;

/// Most bytes of a batch of images.
const BATCH_BYTES: usize = 4 << 30;

/// What was measured.
#[derive(Debug, Serialize)]
struct Outcome {
    model: String,
    kernel: &'static str,
    threads: u64,
    batch: u64,
    runs: u64,
    /// From the file to the first answer.
    first_answer_ms: f64,
    /// Of a run.
    latency_ms: Latency,
    /// By the median.
    images_per_second: f64,
    /// Largest resident memory of this process; not known on every system.
    peak_bytes: Option<u64>,
    /// Packed weights.
    weight_bytes: usize,
    /// Activations.
    buffer_bytes: usize,
    /// Multiply-accumulates of the kernel's innermost loop with all data in the nearest cache, one thread.
    ceiling_gmacs: f64,
    /// One image, each step's shortest time.
    layers: Vec<Layer>,
}

#[derive(Debug, Serialize)]
struct Latency {
    min: f64,
    median: f64,
    p95: f64,
}

/// A step: a layer with what is computed along with it.
#[derive(Debug, Serialize)]
struct Layer {
    name: String,
    kind: &'static str,
    /// Of its output, `[C, H, W]`.
    shape: [usize; 3],
    ms: f64,
    /// Part of the time of all.
    share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gmacs: Option<f64>,
    /// `gmacs` over the ceiling of all threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_ceiling: Option<f64>,
}

pub fn run(args: &Bench, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    check(&args.file)?;
    let model = engine::load(&args.file)?;
    let threads = usize::try_from(args.threads).unwrap_or(1);
    let mut session = model.session(threads)?;
    let input = model.input();
    let one = image(input.elements());
    session.run(&one)?;
    let first_answer_ms = ms(start);

    let batch = usize::try_from(args.batch).unwrap_or(1);
    if one.len().saturating_mul(batch) > BATCH_BYTES / size_of::<f32>() {
        return Err(Error::failed(format!("{batch} images take more than {}", bytes(BATCH_BYTES as u64)))
            .hint("a smaller --batch"));
    }
    let images = one.repeat(batch);
    let bar = printer.bar("bench".to_owned(), args.runs, "");
    session.run(&images)?;
    let mut times = Vec::new();
    let begun = Instant::now();
    while (times.len() as u64) < args.runs && (times.is_empty() || begun.elapsed().as_secs_f64() < SECONDS) {
        let start = Instant::now();
        session.run(&images)?;
        times.push(ms(start));
        bar.inc(1);
    }
    bar.finish_and_clear();
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
    let latency_ms = Latency { min: at(0.0), median: at(0.5), p95: at(0.95) };

    let mut steps = session.profile(&one)?;
    for _ in 1..PROFILES {
        if begun.elapsed().as_secs_f64() > SECONDS {
            break;
        }
        for (step, again) in steps.iter_mut().zip(session.profile(&one)?) {
            step.seconds = step.seconds.min(again.seconds);
        }
    }
    let ceiling_gmacs = model.ceiling() / 1e9;
    let outcome = Outcome {
        model: args.file.display().to_string(),
        kernel: model.kernel().as_str(),
        threads: args.threads,
        batch: args.batch,
        runs: times.len() as u64,
        first_answer_ms,
        images_per_second: 1e3 * batch as f64 / latency_ms.median,
        latency_ms,
        peak_bytes: peak_bytes(),
        weight_bytes: model.weight_bytes(),
        buffer_bytes: session.bytes(),
        ceiling_gmacs,
        layers: layers(&steps, ceiling_gmacs * threads as f64),
    };
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

/// # Errors
/// A file of another format than the engine's.
fn check(file: &Path) -> Result<()> {
    let ending = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !file.is_file() || ["dsc", "safetensors"].contains(&ending.as_str()) {
        return Ok(());
    }
    let shown = file.display();
    Err(slips::of_model(file).unwrap_or_else(|| {
        Error::usage(format!("`{shown}` is no .dsc file: only those are timed"))
            .hint(format!("`dsconv quantize {shown} -o {}` makes one", file.with_extension("dsc").display()))
    }))
}

/// Values of either sign, in no order.
fn image(elements: usize) -> Vec<f32> {
    (0..elements).map(|i| (i.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 32768.0 - 1.0).collect()
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn layers(steps: &[StepReport], ceiling: f64) -> Vec<Layer> {
    let total: f64 = steps.iter().map(|step| step.seconds).sum();
    let layer = |step: &StepReport| {
        let gmacs = (step.macs > 0).then(|| step.macs as f64 / step.seconds / 1e9);
        Layer {
            name: step.name.clone(),
            kind: step.kind,
            shape: [step.shape.channels, step.shape.height, step.shape.width],
            ms: step.seconds * 1e3,
            share: step.seconds / total,
            gmacs,
            of_ceiling: gmacs.map(|gmacs| gmacs / ceiling),
        }
    };
    steps.iter().map(layer).collect()
}

/// The largest resident memory so far, where `/proc` tells it.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn show(outcome: &Outcome, printer: &Printer) {
    let mut table = Table::new(["layer", "computes", "output", "ms", "share %", "GMAC/s", "of ceiling %"]).left([1, 2]);
    for layer in &outcome.layers {
        let [c, h, w] = layer.shape;
        table.row([
            layer.name.clone(),
            layer.kind.to_owned(),
            format!("{c}x{h}x{w}"),
            format!("{:.3}", layer.ms),
            format!("{:.1}", 100.0 * layer.share),
            layer.gmacs.map_or(String::new(), |gmacs| format!("{gmacs:.1}")),
            layer.of_ceiling.map_or(String::new(), |part| format!("{:.0}", 100.0 * part)),
        ]);
    }
    printer.table(&table);
    printer.line("");
    let mut table = Table::new(["what", "is"]).left([1]);
    let mut row = |what: &str, is: String| table.row([what.to_owned(), is]);
    let Latency { min, median, p95 } = outcome.latency_ms;
    row("kernel", format!("{}, ceiling {:.0} GMAC/s a thread", outcome.kernel, outcome.ceiling_gmacs));
    row("threads, batch", format!("{}, {}", outcome.threads, outcome.batch));
    row("latency", format!("{median:.2} ms median, {min:.2} least, {p95:.2} at 95 %, {} runs", outcome.runs));
    row("throughput", rate(outcome.images_per_second));
    row("first answer", format!("{:.0} ms after starting to load", outcome.first_answer_ms));
    let peak = outcome.peak_bytes.map_or(String::new(), |peak| format!("{} at most; ", bytes(peak)));
    let (weights, buffers) = (bytes(outcome.weight_bytes as u64), bytes(outcome.buffer_bytes as u64));
    row("memory", format!("{peak}weights {weights}, activations {buffers}"));
    printer.table(&table);
}
