use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use distill::evaluate::{Logits, Scores, predict};
use distill::{Context, adapt};
use dsconv::Network;
use graph::{Model, SaveOptions};
use images::Labelled;
use serde::Serialize;

use super::compare::METRICS;
use crate::args::Distill;
use crate::config::ConfigFile;
use crate::error::{Error, Result};
use crate::output::Written;
use crate::printer::Printer;
use crate::recipe::{Opened, Recipe};
use crate::source::RUN_MODEL;
use crate::table::{NOTHING, Table, bytes, duration};
use crate::{device, progress, runs};

/// The resolved config in a run folder.
const CONFIG: &str = "config.toml";

/// `metrics.json`, and what `--json` prints.
#[derive(Debug, Serialize)]
struct Metrics {
    run: PathBuf,
    model: String,
    data: String,
    /// Images that were measured.
    count: usize,
    fp32: Row,
    quantized: Row,
    adapted: Row,
    /// The optimizer step the student was best at.
    best_step: usize,
    exported: Written,
}

/// One network.
#[derive(Debug, Serialize)]
struct Row {
    /// Percent.
    top1: f64,
    top5: f64,
    agreement: f64,
    /// `None` where the logits are the teacher's to the bit.
    sqnr_db: Option<f64>,
    /// As a file.
    bytes: u64,
}

impl Row {
    fn new(scores: &Scores, bytes: u64) -> Self {
        let Scores { top1, top5, agreement, sqnr_db, .. } = *scores;
        Self { top1, top5, agreement, sqnr_db, bytes }
    }
}

pub fn run(args: &Distill, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let file = ConfigFile::open(&args.config, &args.set, printer)?;
    let recipe: Recipe = file.parse()?;
    let device = device::open(args.device.device)?;
    let opened = recipe.open(&file, printer)?;
    let run = run_folder(&file.name(), args.out.as_ref(), args.resume, args.force, printer)?;
    std::fs::create_dir_all(&run).map_err(|error| Error::failed(format!("`{}`: {error}", run.display())))?;
    keep_config(&run, &toml::to_string(&recipe)?)?;

    let context = progress::context(device, printer)?;
    let metrics = distill(&recipe, &opened, &run, args.resume, start, &context, printer)
        .map_err(|failure| failure.explain(&file, &run))?;
    write(&run.join(METRICS), &(serde_json::to_string_pretty(&metrics)? + "\n"))?;
    printer.result(&metrics, |printer| show(&metrics, printer));
    Ok(())
}

/// What can go wrong: in the library, which does not know the config's lines, or here.
enum Failure {
    Distill(distill::Error),
    Other(Error),
}

impl Failure {
    fn explain(self, file: &ConfigFile, run: &Path) -> Error {
        match self {
            Self::Distill(error) => explain(&error, file, run, ""),
            Self::Other(error) => error,
        }
    }
}

impl From<distill::Error> for Failure {
    fn from(error: distill::Error) -> Self {
        Self::Distill(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<graph::ModelError> for Failure {
    fn from(error: graph::ModelError) -> Self {
        Self::Other(error.into())
    }
}

fn distill(
    recipe: &Recipe,
    opened: &Opened,
    run: &Path,
    resume: bool,
    start: Instant,
    context: &Context,
    printer: &Printer,
) -> Result<Metrics, Failure> {
    let Opened { teacher, adapt: images, eval } = opened;
    let size = |model: &Model, options: &SaveOptions| model.to_bytes(options).map(|bytes| bytes.len() as u64);

    let teacher_logits = logits("teacher", teacher, eval, context)?;
    let fp32 = teacher_logits.scores(eval.labels(), &teacher_logits);
    printer.talk(format!("teacher    {} on {} images of {}", top1(&fp32), fp32.count, eval.name()));

    // What is measured is what is stored.
    let mut quantized = teacher.quantize(&recipe.quantize)?;
    quantized.round(&recipe.export);
    let scores = |phase: &str, model: &Model| -> Result<Scores, Failure> {
        Ok(logits(phase, model, eval, context)?.scores(eval.labels(), &teacher_logits))
    };
    let before = scores("quantized", &quantized)?;
    printer.talk(format!("quantized  {}, agrees with the teacher on {:.2}%", top1(&before), before.agreement));

    printer.talk(format!("adapting on {} images of {}, without labels", images.len(), images.name()));
    let adapted = adapt(teacher, &recipe.quantize, images, &recipe.adapt, recipe.seed, run, resume, context)?;
    let mut student = adapted.student.to_model(teacher.info.clone());
    student.round(&recipe.export);
    let after = scores("adapted", &student)?;
    printer.talk(format!("adapted    {}, agrees with the teacher on {:.2}%", top1(&after), after.agreement));

    let path = run.join(RUN_MODEL);
    let exported = student.save(&path, &recipe.export)?;
    let float = size(teacher, &SaveOptions::default())?;
    Ok(Metrics {
        run: run.to_owned(),
        model: recipe.model.name.clone(),
        data: eval.name().to_owned(),
        count: fp32.count,
        fp32: Row::new(&fp32, float),
        quantized: Row::new(&before, size(&quantized, &recipe.export)?),
        adapted: Row::new(&after, exported),
        best_step: adapted.best_step,
        exported: Written {
            path,
            bytes: exported,
            fp32_bytes: float,
            ratio: float as f64 / exported as f64,
            seconds: start.elapsed().as_secs_f64(),
        },
    })
}

fn logits(phase: &str, model: &Model, eval: &Labelled, context: &Context) -> Result<Logits, Failure> {
    let network = Network::new(model, &context.device);
    Ok(predict(phase, &[&network], &eval.without_labels(), context)?.remove(0))
}

fn top1(scores: &Scores) -> String {
    format!("top-1 {:.2}%", scores.top1)
}

fn show(metrics: &Metrics, printer: &Printer) {
    let name = &metrics.model;
    let mut table = Table::new([name, "top-1", "top-5", "agreement", "SQNR dB", "size", "ratio"]);
    for (what, row) in [("FP32", &metrics.fp32), ("quantized", &metrics.quantized), ("adapted", &metrics.adapted)] {
        table.row([
            what.to_owned(),
            format!("{:.2}", row.top1),
            format!("{:.2}", row.top5),
            format!("{:.2}", row.agreement),
            row.sqnr_db.map_or(NOTHING.to_owned(), |db| format!("{db:.1}")),
            bytes(row.bytes),
            format!("{:.1}x", metrics.fp32.bytes as f64 / row.bytes as f64),
        ]);
    }
    printer.table(&table);
    printer.line("");
    printer.line(&metrics.exported);
    printer.detail(format!("the student was best at step {}", metrics.best_step));
    let time = duration(Duration::from_secs_f64(metrics.exported.seconds));
    printer.detail(format!("{time} in all; `dsconv compare` puts runs side by side"));
}

/// Writes a file whole or not at all.
///
/// # Errors
/// The file system's.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let attempt = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))
}

/// Writes the resolved config, or compares it with the one that the run was begun with.
fn keep_config(run: &Path, resolved: &str) -> Result<()> {
    let path = run.join(CONFIG);
    let Ok(begun) = std::fs::read_to_string(&path) else { return write(&path, resolved) };
    match resolved.lines().zip(begun.lines()).find(|(new, old)| new != old) {
        None if resolved.len() == begun.len() => Ok(()),
        differs => {
            let (new, old) = differs.unwrap_or_default();
            Err(Error::usage(format!(
                "`{}` was begun with another config: it has `{old}`, now it is `{new}`",
                run.display()
            ))
            .hint("resume with the config it was begun with, or choose another folder with `--out`"))
        }
    }
}

/// The folder of a run: `--out`, with `--resume` the newest run of this config, else a new one.
///
/// # Errors
/// Nothing to resume; a run that is there already, without `--force`.
pub fn run_folder(name: &str, out: Option<&PathBuf>, resume: bool, force: bool, printer: &Printer) -> Result<PathBuf> {
    let filled = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    let run = match out {
        Some(path) => path.clone(),
        None if resume => runs::of(name)
            .pop()
            .ok_or_else(|| Error::usage(format!("no run of `{name}` in `{}` to resume", runs::folder().display())))?,
        None => runs::new(name),
    };
    match (filled(&run), resume) {
        (true, true) => printer.talk(format!("going on with {}", run.display())),
        // Killed before it wrote anything, or never begun.
        (false, true) => printer.talk(format!("nothing to resume in {}: starting", run.display())),
        (true, false) if force => clear(&run)?,
        (true, false) => {
            let error = Error::failed(format!("`{}` is not empty", run.display()));
            return Err(error
                .hint("`--resume` goes on with the run in it, `--force` replaces it, `--out` names another folder"));
        }
        (false, false) => printer.talk(format!("run folder {}", run.display())),
    }
    Ok(run)
}

/// Removes a run. A folder that does not look like one is left alone: `--out ~ --force` must not cost anybody a home.
fn clear(path: &Path) -> Result<()> {
    let is_run = ["adapt.toml", "train.toml", METRICS].iter().any(|file| path.join(file).is_file());
    if !is_run {
        let error = Error::failed(format!(
            "`{}` is not empty and is no run folder: `--force` does not touch it",
            path.display()
        ));
        return Err(error.hint("`--out` names another folder"));
    }
    std::fs::remove_dir_all(path).map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))
}

/// A library error in the words of the command line; `table` is where its settings lie in the config.
pub fn explain(error: &distill::Error, file: &ConfigFile, run: &Path, table: &str) -> Error {
    match error {
        distill::Error::Config { setting, why } => {
            let key = setting.rsplit('.').next().unwrap_or(setting);
            file.error_at(&format!("{table}{setting}"), format!("`{key}` {why}"), None)
        }
        distill::Error::RunExists { .. } => {
            Error::failed(error).hint("`--resume` goes on with it, `--force` replaces it, `--out` names another folder")
        }
        distill::Error::OtherRun { .. } => {
            Error::failed(error).hint("resume with the config it was made with, or choose another folder with `--out`")
        }
        distill::Error::Interrupted { .. } => Error::interrupted("stopped")
            .hint(format!("the same command with `--resume --out {}` goes on", run.display())),
        _ => Error::failed(error),
    }
}
