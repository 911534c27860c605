use std::path::{Path, PathBuf};
use std::time::Instant;

use distill::{DistillConfig, METRICS, MODEL, Measured, Report};
use graph::Model;
use serde::Serialize;

use crate::args::{DeviceName, Distill};
use crate::config::{ConfigFile, Kind};
use crate::error::{Error, Result};
use crate::output::{Written, check_folder};
use crate::printer::Printer;
use crate::recipe::{self, Opened, setting_error};
use crate::table::{NOTHING, Table, bytes};
use crate::{deploy, device, places, progress, runs};

/// The adapted student for the integer runtime, in the run folder.
const DEPLOYED: &str = "model.dsc";

/// What came out.
#[derive(Debug, Serialize)]
struct Outcome {
    run: PathBuf,
    model: String,
    #[serde(flatten)]
    report: Report,
    exported: Written,
    deployed: Written,
}

pub fn run(args: &Distill, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let file = ConfigFile::open(&args.config, Kind::Distill, &args.set, printer)?;
    let mut config = recipe::read(&file, printer)?;
    let device = match args.device.device {
        Some(name) => name,
        None => config.device.parse().map_err(|error: String| file.error_at("device", error, None))?,
    };
    config.device = DeviceName::to_string(&device);
    let device = device::open(device)?;
    let Opened { teacher, adapt, eval } = recipe::open(&config, &file, printer)?;
    let run = run_folder(&file.name(), args.out.as_ref(), args.resume, args.force, printer)?;
    printer.talk(format!(
        "{} learns from {} images of {} without labels, measured on {} of {}",
        config.model,
        adapt.len(),
        adapt.name(),
        eval.len(),
        eval.name()
    ));

    let context = progress::context(device, printer)?;
    let report = distill::run(&teacher, &adapt, &eval, &config, &run, args.resume, &context)
        .map_err(|error| explain(&error, &file, &run, ""))?;
    let exported = Written {
        path: run.join(MODEL),
        bytes: report.adapted.bytes,
        fp32_bytes: report.fp32.bytes,
        ratio: ratio(&report.fp32, &report.adapted),
        seconds: start.elapsed().as_secs_f64(),
    };
    let deployed = deploy(&run, &config, start)?;
    let outcome = Outcome { run, model: config.model, report, exported, deployed };
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

/// Leaves the adapted student as a .dsc file too.
fn deploy(run: &Path, config: &DistillConfig, start: Instant) -> Result<Written> {
    let model = Model::load(run.join(MODEL))?;
    let path = run.join(DEPLOYED);
    let data = deploy::bytes(&model, &config.export.into())?;
    graph::write_atomic(&path, &data).map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))?;
    Ok(Written::new(path, data.len() as u64, model.fp32_bytes(), start))
}

fn ratio(fp32: &Measured, network: &Measured) -> f64 {
    fp32.bytes as f64 / network.bytes as f64
}

fn show(outcome: &Outcome, printer: &Printer) {
    let Report { fp32, quantized, adapted, .. } = &outcome.report;
    let mut table = Table::new([&outcome.model, "top-1", "top-5", "agreement", "SQNR dB", "size", "ratio"]);
    for (what, network) in [("FP32", fp32), ("quantized", quantized), ("adapted", adapted)] {
        let scores = &network.scores;
        table.row([
            what.to_owned(),
            format!("{:.2}", scores.top1),
            format!("{:.2}", scores.top5),
            format!("{:.2}", scores.agreement),
            scores.sqnr_db.map_or(NOTHING.to_owned(), |db| format!("{db:.1}")),
            bytes(network.bytes),
            format!("{:.1}x", ratio(fp32, network)),
        ]);
    }
    printer.table(&table);
    printer.line("");
    printer.line(&outcome.exported);
    printer.line(&outcome.deployed);
    match outcome.report.best_step {
        0 => printer.warn(
            "no step was better on the images held out: the student is the one before the first, its layers fitted. \
             Try lower rates, such as `--set adapt.code_rate=2e-3`, or more steps",
        ),
        step => printer.detail(format!("the student was best at step {step}")),
    }
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
            .ok_or_else(|| Error::usage(format!("no run of `{name}` in `{}` to resume", places::runs().display())))?,
        None => runs::new(name),
    };
    check_folder(&run, "a run")?;
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
    let is_run = ["adapt.toml", "train.toml", "config.toml", METRICS].iter().any(|file| path.join(file).is_file());
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
        distill::Error::Config { .. } => setting_error(file, error, table),
        distill::Error::RunExists { .. } => {
            Error::failed(error).hint("`--resume` goes on with it, `--force` replaces it, `--out` names another folder")
        }
        distill::Error::OtherRun { .. } => Error::usage(error)
            .hint("resume with the config and device it was begun with, or choose another folder with `--out`"),
        distill::Error::Interrupted { .. } => Error::interrupted("stopped")
            .hint(format!("the same command with `--resume --out {}` goes on", run.display())),
        _ => Error::failed(error),
    }
}
