//! `dsconv train`: a float network is trained on labelled images.
use std::path::PathBuf;
use std::time::Instant;

use distill::{Context, RunFolder, Training};
use model::SaveOptions;
use serde::Serialize;

use crate::config::{ConfigFile, ConfigKind};
use crate::device::DeviceName;
use crate::error::Result;
use crate::printer::{Printer, lossy};
use crate::recipe::{TrainInputs, TrainRecipe, run_error};
use crate::runs::RunOptions;
use crate::table::{bytes, counted, duration};
use crate::{classes, device, names, progress};

/// The result of `dsconv train`.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(serialize_with = "lossy")]
    run: PathBuf,
    #[serde(serialize_with = "lossy")]
    model: PathBuf,
    /// The epoch that a quantized network is of: 0 where none was better on the images held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    best_epoch: Option<usize>,
    /// The top-1 accuracy of a quantized network before, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    top1_before: Option<f64>,
    /// The top-1 accuracy, in percent.
    top1: f64,
    /// The top-5 accuracy, in percent.
    top5: f64,
    bytes: u64,
    seconds: f64,
}

/// Runs a config of `dsconv train`.
///
/// # Errors
/// The config is wrong; weights or images cannot be opened; the run fails or is interrupted.
pub fn run(options: &RunOptions, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    progress::check_dashboard(options.tui)?;
    let options = &options.of_run();
    let file = ConfigFile::open(&options.config, ConfigKind::Train, &options.set, printer)?;
    let recipe = TrainRecipe::read(&file, printer)?;
    let device = device::open(options.device.unwrap_or(DeviceName::Cpu))?;
    let TrainInputs { start: beginning, preprocess, train, eval } = recipe.open(&file, printer)?;
    let folder = options.place.take(&file.name(), printer)?;
    progress::goes_on(format!("`dsconv train --resume {}` goes on", names::typed(folder.path().display())));
    printer.talk(format!("training {} on {} of {}", recipe.model.name, counted(train.len(), "image"), train.name()));

    let context = Context { dashboard: options.tui, ..progress::context(device, printer) };
    let known = [train.skipped().len(), eval.skipped().len()];
    let training = Training {
        start: beginning.start(),
        images: &train,
        eval: &eval,
        preprocess: &preprocess,
        config: &recipe.train,
    };
    training.check().map_err(|error| run_error(error, &file, "train."))?;
    // It comes first: by it the run goes on.
    if folder.is_empty()? {
        files::write_atomic(&folder.file(RunFolder::CONFIG), toml::to_string(&recipe)?.as_bytes())?;
    }
    let trained = distill::train(&training, &folder, &context);
    classes::report_late(&train.without_labels(), known[0], printer);
    classes::report_late(&eval.without_labels(), known[1], printer);
    let trained = trained.map_err(|error| run_error(error, &file, "train."))?;
    let run = folder.path().to_owned();
    let path = run.join(RunFolder::MODEL);
    // A quantized network's scales have the precision that its file had.
    let stored = SaveOptions { scale_precision: trained.model.scale_precision(), ..SaveOptions::default() };
    let size = files::save(&trained.model, &path, &stored)?;
    files::write_atomic(&run.join(RunFolder::CONFIG), toml::to_string(&recipe)?.as_bytes())?;

    let seconds = start.elapsed().as_secs_f64();
    let outcome = Outcome {
        run,
        model: path,
        best_epoch: trained.best_epoch,
        top1_before: trained.top1_before,
        top1: trained.top1,
        top5: trained.top5,
        bytes: size,
        seconds,
    };
    printer.result(&outcome, |printer| {
        if let Some(before) = outcome.top1_before {
            printer.line(format!("top-1 {before:.2} on {} before", eval.name()));
        }
        printer.line(format!("top-1 {:.2}, top-5 {:.2} on {}", outcome.top1, outcome.top5, eval.name()));
        let time = duration(start.elapsed());
        printer.line(format!("wrote {}: {}, in {time}", outcome.model.display(), bytes(outcome.bytes)));
    });
    if outcome.best_epoch == Some(0) {
        printer.warn(
            "no epoch was better on the images held out: the network is the one before the first. Try lower rates, such as \
             `--set train.code_rate=2e-3`",
        );
    }
    Ok(())
}
