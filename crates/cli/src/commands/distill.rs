//! `dsconv distill`: the teacher is measured, quantized, measured again, adapted on images without labels, measured once
//! more, and exported.
use std::path::{Path, PathBuf};
use std::time::Instant;

use distill::evaluate::predict;
use distill::{Chosen, Context, Distillation, Eval, Measured, Point, Report, RunFolder, Stage, StageName};
use images::Unlabelled;
use model::{Model, SaveOptions};
use report::{Item, Lines, Page, Plot, Section, Series};
use serde::Serialize;

use super::plan::Planned;
use crate::config::{ConfigFile, ConfigKind};
use crate::error::{Error, Result};
use crate::html::{self, Compared, Named};
use crate::output::Written;
use crate::printer::{Printer, lossy};
use crate::recipe::{DistillInputs, DistillRecipe, run_error};
use crate::runs::RunOptions;
use crate::table::{NOTHING, Table, bytes, counted, percent};
use crate::{classes, deploy, device, models, names, progress, scores};

/// The file of the exported student for the integer engine, in the run folder.
pub const DEPLOYED: &str = "model.dsc";

/// The file of the report, in the run folder.
const REPORT: &str = "report.html";

/// The most points of a curve.
const POINTS: usize = 500;

/// The result of `dsconv distill`.
#[derive(Debug, Serialize)]
pub struct Ran {
    /// The run folder.
    #[serde(serialize_with = "lossy")]
    pub run: PathBuf,
    model: String,
    /// What was measured.
    #[serde(flatten)]
    pub report: Report,
    exported: Written,
    deployed: Written,
}

/// Runs a config of `dsconv distill`.
///
/// # Errors
/// The config is wrong; model or images cannot be opened; the run fails or is interrupted.
pub fn run(options: &RunOptions, printer: &Printer) -> Result<()> {
    let ran = ran(options, printer)?;
    printer.result(&ran, |printer| show(&ran, printer));
    printer.talk(format!("report {}", ran.run.join(REPORT).display()));
    Ok(())
}

/// Says what a config of `dsconv distill` would do, with its network and images opened and checked.
///
/// # Errors
/// The config is wrong; model or images cannot be opened or do not fit.
pub fn plan(options: &RunOptions, printer: &Printer) -> Result<()> {
    let file = ConfigFile::open(&options.config, ConfigKind::Distill, &options.set, printer)?;
    let recipe = DistillRecipe::read(&file, printer)?;
    let DistillInputs { teacher, adapt, eval } = recipe.open(&file, printer)?;
    printer.talk(learns(&recipe, &adapt, &eval));
    let folded = teacher.fold()?;
    let plan = recipe.quantize.resolve(folded.graph()).map_err(Error::usage)?;
    Planned::new(&folded, &plan, &recipe.export).print(printer);
    Ok(())
}

/// Says on which images a student learns and is measured.
fn learns(recipe: &DistillRecipe, adapt: &Unlabelled, eval: &Eval) -> String {
    let on = match eval {
        Eval::Labelled(set) => format!("{} of {}", counted(set.len(), "image"), set.name()),
        Eval::Unlabelled(set) => format!("{} of {} without labels", counted(set.len(), "image"), set.name()),
        Eval::HeldOut => "those held out".to_owned(),
    };
    let (model, images, name) = (&recipe.model, counted(adapt.len(), "image"), adapt.name());
    format!("{model} learns from {images} of {name} without labels, measured on {on}")
}

/// Runs a config of `dsconv distill` to its end, and writes its report.
///
/// # Errors
/// Those of [`run`].
pub fn ran(options: &RunOptions, printer: &Printer) -> Result<Ran> {
    let start = Instant::now();
    progress::check_dashboard(options.tui)?;
    let options = &options.of_run();
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
    progress::goes_on(format!("`dsconv distill --resume {}` goes on", names::typed(folder.path().display())));
    printer.talk(learns(&recipe, &adapt, &eval));

    let context = Context { dashboard: options.tui, ..progress::context(device, printer) };
    let sets: Vec<Unlabelled> = [Some(adapt.clone()), eval.images()].into_iter().flatten().collect();
    let known: Vec<usize> = sets.iter().map(|set| set.skipped().len()).collect();
    let config = recipe.config();
    let text = toml::to_string(&recipe)?;
    let job = Distillation { teacher: &teacher, images: &adapt, eval: &eval, config: &config, recipe: Some(&text) };
    let ran = distill::run(&job, &folder, &context);
    sets.iter().zip(known).for_each(|(set, known)| classes::report_late(set, known, printer));
    let report = ran.map_err(|error| run_error(error, &file, ""))?;
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
    let ran = Ran { run, model: recipe.model, report, exported, deployed };
    let shown = Shown { ran: &ran, teacher: &teacher, adapt: &adapt, eval: &eval, recipe: &text };
    html::write(&ran.run.join(REPORT), shown.page(&context)?, &printer.quiet())?;
    Ok(ran)
}

/// Writes the exported student as a .dsc file too.
fn deploy(run: &Path, export: &SaveOptions, start: Instant, printer: &Printer) -> Result<Written> {
    let model = files::load(run.join(RunFolder::MODEL))?;
    let path = run.join(DEPLOYED);
    let data = deploy::bytes(&model, export, printer)?;
    files::write_atomic(&path, &data).map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))?;
    Ok(Written::new(path, data.len() as u64, model.fp32_bytes(), start))
}

fn table(ran: &Ran) -> Table {
    let Report { fp32, quantized, adapted, .. } = &ran.report;
    let mut table = Table::new([&*ran.model, "top-1"].into_iter().chain(scores::HEADINGS));
    for (what, network) in [("FP32", fp32), ("quantized", quantized), ("adapted", adapted)] {
        let first = [what.to_owned(), percent(network.scores.top1)];
        table.row(first.into_iter().chain(scores::cells(network, fp32)));
    }
    table
}

/// What each stage of a run won on the images held out, and cost.
fn stages(stages: &[Stage]) -> Table {
    let mut table = Table::new(["stage", "divergence", "same class %", "seconds", "memory", "exported"]);
    for Stage { stage, divergence, agreement, cost, exported } in stages {
        let name = match stage {
            StageName::Quantize => "scale rule",
            StageName::Fit => "layers fitted",
            StageName::Distill => "distilled",
        };
        table.row([
            name.to_owned(),
            format!("{divergence:.3e}"),
            format!("{agreement:.2}"),
            format!("{:.1}", cost.seconds),
            cost.peak_bytes.map_or(NOTHING.to_owned(), bytes),
            if *exported { "yes" } else { "" }.to_owned(),
        ]);
    }
    table
}

/// What the page of a run shows.
struct Shown<'a> {
    ran: &'a Ran,
    teacher: &'a Model,
    adapt: &'a Unlabelled,
    eval: &'a Eval,
    /// The resolved config.
    recipe: &'a str,
}

impl Shown<'_> {
    fn page(&self, context: &Context) -> Result<Page> {
        let Ran { run, model, report, exported, deployed } = self.ran;
        let student = files::load(&exported.path)?;
        let folded = self.teacher.clone().fold()?;
        let mut sections = vec![
            Section::new(
                "Before and after",
                format!("Measured on {}, adapted to {} without labels.", report.eval, report.adapt),
            )
            .with(html::table(&table(self.ran)))
            .with(Item::Text(format!("{exported}\n{deployed}"))),
            self.curves(run)?,
        ];
        sections.extend(self.named(&student, context)?);
        sections.extend(html::layers(&folded, &student, Some(self.adapt), context)?);
        let seed = "The seed in it decides which images are held out, their order and their changes.";
        sections.push(Section::new("Config", seed).with(Item::Text(self.recipe.to_owned())));
        let top1 = |measured: &Measured| measured.scores.top1.map(|top1| format!("{top1:.2}"));
        let summary = match (top1(&report.fp32), top1(&report.quantized), top1(&report.adapted)) {
            (Some(fp32), Some(quantized), Some(adapted)) => {
                format!(
                    "Top-1 in percent: {fp32} in floats, {quantized} quantized, {adapted} adapted; {:.1} times smaller.",
                    exported.ratio
                )
            }
            _ => format!(
                "It names the float network's class for {:.1} % of the images quantized, for {:.1} % adapted; {:.1} times smaller.",
                report.quantized.scores.agreement, report.adapted.scores.agreement, exported.ratio
            ),
        };
        Ok(Page { title: format!("{model}: quantized and adapted"), summary, sections })
    }

    /// The loss of each step, and what was measured on the images held out.
    fn curves(&self, run: &Path) -> Result<Section> {
        let path = run.join(RunFolder::LOSS);
        let text =
            std::fs::read_to_string(&path).map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))?;
        // `step,learning_rate,loss,...`: see `distill::adapt`.
        let loss = |line: &str| {
            let mut cells = line.split(',');
            Some((cells.next()?.parse::<f64>().ok()?, cells.nth(1)?.parse::<f64>().ok()?))
        };
        let losses: Vec<(f64, f64)> = text.lines().filter_map(loss).collect();
        let every = losses.len().div_ceil(POINTS).max(1);
        let held = &self.ran.report.held_out;
        let points = |value: fn(&Point) -> f32| held.iter().map(|p| (p.step as f64, f64::from(value(p)))).collect();
        let plot = |caption: &str, y: &str, series: Vec<(&str, Vec<(f64, f64)>)>| {
            let series = series.into_iter().map(|(name, points)| Series { name: name.to_owned(), points }).collect();
            let axes = ["step".to_owned(), y.to_owned()];
            Item::Plot(Plot::Lines(Lines { caption: caption.to_owned(), axes, series }))
        };
        let losses = losses.into_iter().step_by(every).collect();
        let note = match self.ran.report.best_step {
            0 => {
                "No step was better on the images held out than the student before the first, whose layers are fitted."
                    .to_owned()
            }
            step => format!("On the images held out the student was best at step {step}."),
        };
        let mut section = Section::new("Adaptation", note);
        if !self.ran.report.stages.is_empty() {
            section = section.with(html::table(&stages(&self.ran.report.stages)));
        }
        Ok(section
            .with(plot("The loss of each step.", "loss", vec![("loss", losses)]))
            .with(plot(
                "The divergence from the float network on images held out.",
                "nats",
                vec![("divergence", points(|p| p.loss))],
            ))
            .with(plot(
                "Images held out that get the float network's class.",
                "%",
                vec![("agreement", points(|p| p.agreement))],
            )))
    }

    /// What the float network and the exported student name for the images that were measured on.
    fn named(&self, student: &Model, context: &Context) -> Result<Vec<Section>> {
        let Ran { run, report, .. } = self.ran;
        let Some(images) = self.eval.images() else { return Ok(Vec::new()) };
        let path = run.join(RunFolder::PREDICTIONS);
        if !path.exists() {
            // A run that was finished by a version before there was such a table.
            return Ok(Vec::new());
        }
        let predictions = distill::predictions(&path)?;
        let (mut named, mut places) = (Vec::new(), Vec::new());
        for (place, prediction) in predictions.into_iter().enumerate() {
            let other = match report.chosen {
                Chosen::Adapted => prediction.adapted,
                Chosen::Quantized => prediction.quantized,
            };
            if let (Some(float), Some(other)) = (prediction.fp32, other) {
                named.push(Named { label: prediction.label, float, other });
                places.push(place);
            }
        }
        let classes = self.teacher.graph().head().names(&self.teacher.info().classes);
        let other = match report.chosen {
            Chosen::Adapted => "adapted",
            Chosen::Quantized => "quantized",
        };
        let compared = Compared { float: Some("FP32"), other, classes: &classes, named: &named };
        let mut sections = compared.sections();
        let differing = compared.differing();
        if !differing.is_empty() {
            let shown = images.select(&differing.iter().map(|&i| places[i]).collect::<Vec<_>>());
            let labels: Vec<Option<usize>> = differing.iter().map(|&i| named[i].label).collect();
            let networks = [models::network(self.teacher, &context.device), models::network(student, &context.device)];
            let logits = predict("pictures of the report", &[&networks[0], &networks[1]], &shown, context)?;
            sections.push(compared.pictures(&shown, &labels, [&logits[0], &logits[1]], &self.teacher.preprocess())?);
        }
        Ok(sections)
    }
}

fn show(ran: &Ran, printer: &Printer) {
    printer.table(&table(ran));
    printer.line("");
    if !ran.report.stages.is_empty() {
        printer.table(&stages(&ran.report.stages));
        printer.line("");
    }
    printer.line(&ran.exported);
    printer.line(&ran.deployed);
    judge(&ran.report, printer);
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
