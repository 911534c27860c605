//! `dsconv distill`: the teacher is measured, quantized, measured again, adapted on images without labels, measured once
//! more, and exported.
use std::path::{Path, PathBuf};
use std::time::Instant;

use distill::{Chosen, Distillation, Eval, Report, RunFolder};
use images::Unlabelled;
use model::SaveOptions;
use serde::Serialize;

use crate::config::{ConfigFile, ConfigKind};
use crate::error::{Error, Result};
use crate::output::Written;
use crate::printer::{Printer, lossy};
use crate::recipe::{DistillInputs, DistillRecipe, run_error};
use crate::runs::RunOptions;
use crate::table::{Table, percent};
use crate::{classes, deploy, device, progress, scores};

/// The file of the exported student for the integer engine, in the run folder.
const DEPLOYED: &str = "model.dsc";

/// The result of `dsconv distill`.
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

/// Runs a config of `dsconv distill`.
///
/// # Errors
/// The config is wrong; model or images cannot be opened; the run fails or is interrupted.
pub fn run(options: &RunOptions, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let file = ConfigFile::open(&options.config, ConfigKind::Distill, &options.set, printer)?;
    let mut recipe = DistillRecipe::read(&file, printer)?;
    let device = match options.device {
        Some(name) => name,
        None => recipe.device.parse().map_err(|error: String| file.error_at("device", error, None))?,
    };
    recipe.device = device.to_string();
    let device = device::open(device)?;
    let DistillInputs { teacher, adapt, eval } = recipe.open(&file, printer)?;
    let folder = options.place.take(&file.name(), printer)?;
    let on = match &eval {
        Eval::Labelled(set) => format!("{} of {}", set.len(), set.name()),
        Eval::Unlabelled(set) => format!("{} of {} without labels", set.len(), set.name()),
        Eval::HeldOut => "those held out".to_owned(),
    };
    printer.talk(format!(
        "{} learns from {} images of {} without labels, measured on {on}",
        recipe.model,
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
    let config = recipe.config();
    let text = toml::to_string(&recipe)?;
    let job = Distillation { teacher: &teacher, images: &adapt, eval: &eval, config: &config, recipe: Some(&text) };
    let ran = distill::run(&job, &folder, &context);
    sets.iter().zip(known).for_each(|(set, known)| classes::report_late(set, known, printer));
    let report = ran.map_err(|error| run_error(error, &file, &folder, ""))?;
    let run = folder.path().to_owned();
    let chosen = match report.chosen {
        Chosen::Adapted => &report.adapted,
        Chosen::Quantized => &report.quantized,
    };
    let exported = Written {
        path: run.join(RunFolder::MODEL),
        bytes: chosen.bytes,
        fp32_bytes: report.fp32.bytes,
        ratio: scores::ratio(chosen, &report.fp32),
        seconds: start.elapsed().as_secs_f64(),
    };
    let deployed = deploy(&run, &recipe.export, start, printer)?;
    let outcome = Outcome { run, model: recipe.model, report, exported, deployed };
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

/// Writes the exported student as a .dsc file too.
fn deploy(run: &Path, export: &SaveOptions, start: Instant, printer: &Printer) -> Result<Written> {
    let model = files::load(run.join(RunFolder::MODEL))?;
    let path = run.join(DEPLOYED);
    let data = deploy::bytes(&model, export, printer)?;
    files::write_atomic(&path, &data).map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))?;
    Ok(Written::new(path, data.len() as u64, model.fp32_bytes(), start))
}

fn show(outcome: &Outcome, printer: &Printer) {
    let Report { fp32, quantized, adapted, .. } = &outcome.report;
    let mut table = Table::new([&*outcome.model, "top-1"].into_iter().chain(scores::HEADINGS));
    for (what, network) in [("FP32", fp32), ("quantized", quantized), ("adapted", adapted)] {
        let first = [what.to_owned(), percent(network.scores.top1)];
        table.row(first.into_iter().chain(scores::cells(network, fp32)));
    }
    printer.table(&table);
    printer.line("");
    printer.line(&outcome.exported);
    printer.line(&outcome.deployed);
    judge(&outcome.report, printer);
}

/// Says what the table alone does not: which student is exported, and what speaks against it.
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
