use std::path::{Path, PathBuf};
use std::time::Instant;

use distill::{Chosen, Distillation, Eval, Measured, Report, RunFolder};
use images::Unlabelled;
use model::SaveOptions;
use serde::Serialize;

use crate::args::{DeviceName, Distill};
use crate::config::{ConfigFile, Kind};
use crate::error::{Error, Result};
use crate::output::{Written, check_folder};
use crate::printer::{Printer, lossy};
use crate::recipe::{self, Opened, setting_error};
use crate::table::{NOTHING, Table, bytes, percent};
use crate::{classes, deploy, device, places, progress, runs};

/// The exported student for the integer runtime, in the run folder.
const DEPLOYED: &str = "model.dsc";

/// What came out.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(serialize_with = "lossy")]
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
    let folder = run_folder(&file.name(), args.out.as_ref(), args.resume, args.force, printer)?;
    let on = match &eval {
        Eval::Labelled(set) => format!("{} of {}", set.len(), set.name()),
        Eval::Unlabelled(set) => format!("{} of {} without labels", set.len(), set.name()),
        Eval::HeldOut => "those held out".to_owned(),
    };
    printer.talk(format!(
        "{} learns from {} images of {} without labels, measured on {on}",
        config.model,
        adapt.len(),
        adapt.name()
    ));

    let context = progress::context(device, printer)?;
    let measured = match &eval {
        Eval::Labelled(set) => Some(set.without_labels()),
        Eval::Unlabelled(set) => Some(set.clone()),
        Eval::HeldOut => None,
    };
    let sets: Vec<Unlabelled> = [Some(adapt.clone()), measured].into_iter().flatten().collect();
    let known: Vec<usize> = sets.iter().map(|set| set.skipped().len()).collect();
    let settings = config.config();
    let text = toml::to_string(&config)?;
    let job = Distillation { teacher: &teacher, images: &adapt, eval: &eval, config: &settings, recipe: Some(&text) };
    let ran = distill::run(&job, &folder, &context);
    sets.iter().zip(known).for_each(|(set, known)| classes::report_late(set, known, printer));
    let report = ran.map_err(|error| explain(error, &file, &folder, ""))?;
    let run = folder.path().to_owned();
    let chosen = match report.chosen {
        Chosen::Adapted => &report.adapted,
        Chosen::Quantized => &report.quantized,
    };
    let exported = Written {
        path: run.join(RunFolder::MODEL),
        bytes: chosen.bytes,
        fp32_bytes: report.fp32.bytes,
        ratio: ratio(&report.fp32, chosen),
        seconds: start.elapsed().as_secs_f64(),
    };
    let deployed = deploy(&run, &config.export, start, printer)?;
    let outcome = Outcome { run, model: config.model, report, exported, deployed };
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

/// Leaves the exported student as a .dsc file too.
fn deploy(run: &Path, export: &SaveOptions, start: Instant, printer: &Printer) -> Result<Written> {
    let model = files::load(run.join(RunFolder::MODEL))?;
    let path = run.join(DEPLOYED);
    let data = deploy::bytes(&model, export, printer)?;
    files::write_atomic(&path, &data).map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))?;
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
            percent(scores.top1),
            percent(scores.top5),
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
    judge(&outcome.report, printer);
}

/// Says what a table alone does not: which student was taken, and what speaks against it.
fn judge(report: &Report, printer: &Printer) {
    if let Some(step) = report.diverged_at {
        printer.warn(format!(
            "training diverged at step {step}; the student is the best one before it. Try lower rates, such as \
             `--set adapt.code_rate=2e-3`"
        ));
    }
    if report.chosen == Chosen::Quantized {
        let how = report.divergence.map_or(String::new(), |d| {
            format!(" (a divergence of {:.3e} before, {:.3e} after)", d.quantized, d.adapted)
        });
        printer.warn(format!(
            "adaptation made the student worse on the images held out{how}: the one before it is exported, the adapted one \
             is `{}`. Try more images, lower rates or more steps",
            RunFolder::ADAPTED
        ));
        return;
    }
    if let (Some(before), Some(after)) = (report.quantized.scores.top1, report.adapted.scores.top1)
        && after < before
    {
        printer.warn(format!(
            "on the labelled images the adapted student is worse than before, {after:.2} against {before:.2}: labels do not \
             choose, and on the images held out it is closer to its teacher"
        ));
    }
    match report.best_step {
        0 if report.diverged_at.is_none() => printer.warn(
            "no step was better on the images held out: the student is the one before the first, its layers fitted. \
             Try lower rates, such as `--set adapt.code_rate=2e-3`, or more steps",
        ),
        step => printer.detail(format!("the student was best at step {step}")),
    }
}

/// The folder of a run, which is this process's from here on: `--out`, with `--resume` the newest run of this config, else a
/// new one.
///
/// # Errors
/// Nothing to resume; a run that is there already, without `--force`; another process in the folder.
pub fn run_folder(
    name: &str,
    out: Option<&PathBuf>,
    resume: bool,
    force: bool,
    printer: &Printer,
) -> Result<RunFolder> {
    let folder = match out {
        Some(path) => {
            check_folder(path, "a run")?;
            open(path, resume)?
        }
        None if resume => {
            let newest = runs::of(name).pop();
            let nothing = || {
                Error::usage(format!("no run of `{name}` in `{}` to resume", places::runs().display()))
                    .hint("without `--resume` one is begun; `--out DIR` names one that lies elsewhere")
            };
            open(&newest.ok_or_else(nothing)?, true)?
        }
        None => new_folder(name)?,
    };
    let run = folder.path().display();
    match (folder.is_empty()?, resume) {
        (false, true) => {
            check_run(&folder, "--resume")?;
            printer.talk(format!("going on with {run}"));
        }
        // Killed before it wrote anything, or never begun.
        (true, true) => printer.talk(format!("nothing to resume in {run}: starting")),
        (false, false) if force => {
            check_run(&folder, "--force")?;
            folder.clear()?;
        }
        (false, false) => {
            let error = Error::failed(format!("`{run}` is not empty"));
            return Err(error
                .hint("`--resume` goes on with the run in it, `--force` replaces it, `--out` names another folder"));
        }
        (true, false) => printer.talk(format!("run folder {run}")),
    }
    Ok(folder)
}

/// A folder of its own for a new run. Two that begin in the same second may mean the same one: one of them takes the next.
fn new_folder(name: &str) -> Result<RunFolder> {
    loop {
        match RunFolder::open(runs::new(name), false) {
            Ok(folder) if folder.is_empty()? => return Ok(folder),
            Ok(_) | Err(distill::Error::Busy { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(path: &Path, resume: bool) -> Result<RunFolder> {
    RunFolder::open(path, resume).map_err(|error| match error {
        distill::Error::Busy { .. } => {
            Error::failed(error).hint("wait until it ends, or choose another folder with `--out`")
        }
        error => error.into(),
    })
}

/// A folder that does not look like a run is left alone: `--out ~ --force` must not cost anybody a home.
fn check_run(folder: &RunFolder, option: &str) -> Result<()> {
    let path = folder.path();
    if RunFolder::is_run(path) {
        return Ok(());
    }
    let shown = path.display();
    let error = Error::failed(format!("`{shown}` is not empty and is no run folder: `{option}` does not touch it"));
    Err(error.hint("`--out` names another folder"))
}

/// A library error in the words of the command line; `table` is where its settings lie in the config.
pub fn explain(error: distill::Error, file: &ConfigFile, folder: &RunFolder, table: &str) -> Error {
    match error {
        distill::Error::Config { .. } => setting_error(file, error, table),
        distill::Error::RunExists { .. } => {
            Error::failed(error).hint("`--resume` goes on with it, `--force` replaces it, `--out` names another folder")
        }
        distill::Error::NoRun { .. } => Error::failed(error).hint("`--out` names another folder"),
        distill::Error::OtherRun { .. } => Error::usage(error)
            .hint("resume with what it was begun with (config, device, weights and images), or choose another folder with `--out`"),
        distill::Error::Interrupted { .. } => Error::interrupted("stopped")
            .hint(format!("the same command with `--resume --out {}` goes on", folder.path().display())),
        error => Error::from(error),
    }
}
