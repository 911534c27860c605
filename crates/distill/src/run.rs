//! A whole run in one folder: the teacher is measured and quantized, the student measured, adapted, stored and measured again.
use std::fs;
use std::path::Path;

use dsconv::Network;
use graph::Head;
use images::{Labelled, Unlabelled};
use model::Model;
use serde::{Deserialize, Serialize};

use crate::adapt::{Adaptation, bare};
use crate::cost::{Cost, Meter};
use crate::evaluate::{check_fits, check_labels, predict};
use crate::folder::RunFolder;
use crate::journal::Point;
use crate::logits::{Logits, Scores};
use crate::loss::Loss;
use crate::origin::{Origin, claim, claim_text};
use crate::report::{Chosen, Divergence, Measured, Prediction, Report, Stage, StageName};
use crate::settings::DistillConfig;
use crate::{Context, Error, quantize, write};

/// Images to measure on.
#[derive(Debug, Clone)]
pub enum Eval {
    /// Images with labels give accuracy, agreement and signal-to-noise ratio.
    Labelled(Labelled),
    /// Images without labels give agreement and signal-to-noise ratio.
    Unlabelled(Unlabelled),
    /// The images that adaptation holds out to choose its best step by. Nothing is trained on them, but what is chosen by them
    /// looks a little better on them than on others.
    HeldOut,
}

impl Eval {
    /// Returns the images, without their labels; `None` for those that adaptation holds out.
    pub fn images(&self) -> Option<Unlabelled> {
        match self {
            Self::Labelled(set) => Some(set.without_labels()),
            Self::Unlabelled(set) => Some(set.clone()),
            Self::HeldOut => None,
        }
    }
}

/// The files that only an unfinished run has, beside its checkpoints.
const BEFORE: &str = "before.json";
const ADAPTATION: &str = "adaptation.json";
const TEACHER_LOGITS: &str = "teacher_logits.f32";

/// What was measured before adaptation.
#[derive(Serialize, Deserialize)]
struct Before {
    fp32: Measured,
    quantized: Measured,
    /// The classes that teacher and student named for each image.
    named: [Vec<Option<usize>>; 2],
    /// What quantizing by the scale rule cost.
    #[serde(default)]
    cost: Cost,
}

/// How an adaptation ended; it is written after its model.
#[derive(Serialize, Deserialize)]
struct Ended {
    best_step: usize,
    held_out: Vec<Point>,
    chosen: Chosen,
    divergence: Divergence,
    diverged_at: Option<usize>,
    #[serde(default)]
    stages: Vec<Stage>,
}

impl Ended {
    /// The name of the adapted student's file.
    fn file(&self) -> &'static str {
        match self.chosen {
            Chosen::Adapted => RunFolder::MODEL,
            Chosen::Quantized => RunFolder::ADAPTED,
        }
    }
}

/// The images that networks are measured on.
struct Measuring {
    name: String,
    images: Unlabelled,
    labels: Option<Vec<usize>>,
}

impl Measuring {
    /// Takes the images that `eval` says.
    ///
    /// # Errors
    /// [`Error::Data`] where images or labels do not fit the network.
    fn new(eval: &Eval, teacher: &Model, held: Unlabelled) -> Result<Self, Error> {
        let graph = teacher.graph();
        Ok(match eval {
            Eval::Labelled(set) => {
                check_labels(graph, set)?;
                let labels = Some(set.labels().to_vec());
                Self { name: set.name().to_owned(), images: set.without_labels(), labels }
            }
            Eval::Unlabelled(set) => {
                check_fits(graph, set)?;
                Self { name: set.name().to_owned(), images: set.clone(), labels: None }
            }
            Eval::HeldOut => Self { name: format!("{}, held out", held.name()), images: held, labels: None },
        })
    }

    fn scores(&self, of: &Logits, teacher: &Logits) -> Scores {
        of.scores(self.labels.as_deref(), teacher)
    }

    /// The class that a network named for each image.
    fn named(&self, of: &Logits) -> Vec<Option<usize>> {
        (0..self.images.len()).map(|image| of.named(image)).collect()
    }

    /// The table of what all networks named.
    ///
    /// # Errors
    /// None in practice: the table is written to memory.
    fn predictions(&self, before: &Before, adapted: &Logits) -> Result<Vec<u8>, csv::Error> {
        let [fp32, quantized] = &before.named;
        let mut table = csv::Writer::from_writer(Vec::new());
        for image in 0..self.images.len() {
            table.serialize(Prediction {
                image: self.images.image_name(image),
                label: self.labels.as_ref().map(|labels| labels[image]),
                fp32: fp32[image],
                quantized: quantized[image],
                adapted: adapted.named(image),
            })?;
        }
        table.into_inner().map_err(|error| error.into_error().into())
    }
}

/// A run: what it works on, and its settings.
#[derive(Debug, Clone, Copy)]
pub struct Distillation<'a> {
    /// The float network that is quantized, and that its student learns from.
    pub teacher: &'a Model,
    /// The images that the student is adapted to.
    pub images: &'a Unlabelled,
    /// The images that teacher and student are measured on.
    pub eval: &'a Eval,
    /// The settings.
    pub config: &'a DistillConfig,
    /// The text of the run's `config.toml`, for callers whose settings hold more than `config`, such as the paths of images. A
    /// run is resumed only with the same text. `None` stands for `config` as TOML.
    pub recipe: Option<&'a str>,
}

impl<'a> Distillation<'a> {
    /// The adaptation that is part of the run.
    fn adaptation(&self) -> Adaptation<'a> {
        let Self { teacher, images, config, .. } = *self;
        Adaptation { teacher, policy: &config.quantize, images, config: &config.adapt, seed: config.seed }
    }

    /// What the run is made from beside its settings.
    fn origin(&self) -> Origin {
        let origin =
            Origin::default().model("teacher", self.teacher).images("images to adapt to", self.images.fingerprint());
        match self.eval {
            Eval::Labelled(set) => origin.images("images to measure on", set.fingerprint()),
            Eval::Unlabelled(set) => origin.images("images to measure on", set.fingerprint()),
            Eval::HeldOut => origin,
        }
    }
}

/// Measures the teacher, quantizes it, measures the student, adapts it, stores it and measures what was stored.
///
/// | file of `folder` | content |
/// |---|---|
/// | `config.toml` | all settings: see [`Distillation::recipe`] |
/// | `origin.json` | what else the run depends on: hashes of weights, images and labels |
/// | `quantized.safetensors` | the student before adaptation |
/// | `model.safetensors` | the adapted student, or the one before adaptation where that is closer to the teacher |
/// | `adapted.safetensors` | the adapted student in that case |
/// | `loss.csv` | loss and learning rate of every step, and what was measured on images held out |
/// | `predictions.csv` | what teacher and students named for each image: [`Prediction`] |
/// | `metrics.json` | [`Report`] |
///
/// The results for `quantized` and `adapted` are those of the files, loaded back. Each phase leaves its result, so where the
/// folder resumes, only what is not there is done; adaptation goes on from its newest checkpoint (see
/// [`adapt`](crate::adapt())). The checkpoints are removed when all is done.
///
/// # Errors
/// Those of [`adapt`](crate::adapt()); [`Error::Data`] where a label has no output; [`Error::NotFinite`].
pub fn run(job: &Distillation<'_>, folder: &RunFolder, context: &Context) -> Result<Report, Error> {
    job.adaptation().check()?;
    let (_, held) = job.adaptation().split();
    let measuring = Measuring::new(job.eval, job.teacher, held.clone())?;
    match job.recipe {
        Some(text) => claim_text(folder, RunFolder::CONFIG, text, &job.origin())?,
        None => claim(folder, RunFolder::CONFIG, job.config, &job.origin())?,
    }
    if let Some(report) = write::read_json(&folder.file(RunFolder::METRICS))? {
        remove_checkpoints(folder)?;
        return Ok(report);
    }
    let (before, teacher_logits) = measure_before(job, &measuring, folder, context)?;

    let ended = match write::read_json(&folder.file(ADAPTATION))? {
        Some(ended) => ended,
        None => adapted(job, before.cost, &held, folder, context)?,
    };
    let adapted = folder.file(ended.file());
    let stored = Network::new(&files::load(&adapted)?, &context.device);
    let logits = predict("measure adapted", &[&stored], &measuring.images, context)?.remove(0);
    let predictions = folder.file(RunFolder::PREDICTIONS);
    let table = measuring.predictions(&before, &logits).map_err(|error| Error::file(&predictions, error))?;
    write::write(&predictions, &table)?;
    let report = Report {
        fp32: before.fp32,
        quantized: before.quantized,
        adapted: Measured { scores: measuring.scores(&logits, &teacher_logits), bytes: size(&adapted)? },
        chosen: ended.chosen,
        divergence: Some(ended.divergence),
        diverged_at: ended.diverged_at,
        best_step: ended.best_step,
        held_out: ended.held_out,
        stages: ended.stages,
        eval: measuring.name,
        adapt: job.images.name().to_owned(),
    };
    write::write_json(&folder.file(RunFolder::METRICS), &report)?;
    remove_checkpoints(folder)?;
    Ok(report)
}

/// Adapts the student, and leaves the better one as the run's model.
fn adapted(
    job: &Distillation<'_>,
    quantizing: Cost,
    held: &Unlabelled,
    folder: &RunFolder,
    context: &Context,
) -> Result<Ended, Error> {
    let adapted = job.adaptation().run(folder, context)?;
    let before = folder.file(RunFolder::QUANTIZED);
    let quantized = files::load(&before)?;
    let student = adapted.student.with_scales_as(&quantized)?;
    let bytes = files::packed::to_bytes(&student, &job.config.export)?;
    let (divergence, agreement) = divergence(job.teacher, &quantized, &files::from_bytes(&bytes)?, held, context)?;
    let chosen = if divergence.adapted > divergence.quantized { Chosen::Quantized } else { Chosen::Adapted };
    let (best_step, held_out, diverged_at) = (adapted.best_step, adapted.points, adapted.diverged_at);
    let won = match (chosen, best_step, adapted.fit) {
        (Chosen::Adapted, 1.., _) => StageName::Distill,
        (Chosen::Adapted, 0, Some(_)) => StageName::Fit,
        _ => StageName::Quantize,
    };
    let row = |stage, divergence, agreement, cost| Stage { stage, divergence, agreement, cost, exported: stage == won };
    let at = |stage, point: &Point, cost| row(stage, point.loss, point.agreement, cost);
    let best = held_out.iter().find(|point| point.step == best_step);
    let stages = [
        Some(row(StageName::Quantize, divergence.quantized as f32, agreement as f32, quantizing)),
        adapted.fit.zip(held_out.first()).map(|(cost, point)| at(StageName::Fit, point, cost)),
        best.map(|point| at(StageName::Distill, point, adapted.training)),
    ];
    let stages = stages.into_iter().flatten().collect();
    let ended = Ended { best_step, held_out, chosen, divergence, diverged_at, stages };
    write::write(&folder.file(ended.file()), &bytes)?;
    if chosen == Chosen::Quantized {
        let quantized = fs::read(&before).map_err(Error::io(&before))?;
        write::write(&folder.file(RunFolder::MODEL), &quantized)?;
    }
    write::write_json(&folder.file(ADAPTATION), &ended)?;
    Ok(ended)
}

/// Measures how far both students are from their teacher on the images held out, and for how many percent of them the one before
/// adaptation names the teacher's class.
fn divergence(
    teacher: &Model,
    quantized: &Model,
    adapted: &Model,
    held: &Unlabelled,
    context: &Context,
) -> Result<(Divergence, f64), Error> {
    let loss = Loss::of(teacher.graph());
    let original = bare(teacher)?;
    let original = Network::trainable(original.graph(), original.weights(), &context.device);
    let [quantized, adapted] =
        [quantized, adapted].map(|student| Network::new(&student.clone().without_head(), &context.device));
    let found = predict("compare on images held out", &[&original, &quantized, &adapted], held, context)?;
    let of = |student: usize| loss.mean_divergence(&found[0], &found[student]);
    let agreement = found[1].scores(None, &found[0]).agreement;
    Ok((Divergence { quantized: of(1), adapted: of(2) }, agreement))
}

/// Measures the teacher and the student before adaptation, in one pass over the images; what an earlier start of this run
/// has measured is not measured again.
fn measure_before(
    job: &Distillation<'_>,
    measuring: &Measuring,
    folder: &RunFolder,
    context: &Context,
) -> Result<(Before, Logits), Error> {
    let teacher = job.teacher;
    let kept = folder.file(TEACHER_LOGITS);
    let head = teacher.graph().head();
    let images = &measuring.images;
    if let (Some(before), Some(logits)) =
        (write::read_json(&folder.file(BEFORE))?, read_logits(&kept, head, images.len()))
    {
        return Ok((before, logits));
    }
    let quantized = folder.file(RunFolder::QUANTIZED);
    // Folded, as the student's teacher is.
    let meter = Meter::start(Cost::default());
    let folded = teacher.clone().fold()?;
    let plan = job.config.quantize.resolve(folded.graph())?;
    let rounded = quantize(&folded, &plan, teacher.info().clone(), context)?;
    files::save(&rounded, &quantized, &job.config.export)?;
    drop(rounded);
    let cost = meter.cost();
    let student = Network::new(&files::load(&quantized)?, &context.device);
    let original = Network::trainable(folded.graph(), folded.weights(), &context.device);
    let [logits, found] = predict("measure teacher and quantized", &[&original, &student], images, context)?
        .try_into()
        .expect("one for each network");

    let before = Before {
        fp32: Measured { scores: measuring.scores(&logits, &logits), bytes: teacher.fp32_bytes() },
        quantized: Measured { scores: measuring.scores(&found, &logits), bytes: size(&quantized)? },
        named: [&logits, &found].map(|of| measuring.named(of)),
        cost,
    };
    let bytes: Vec<u8> = logits.values().iter().flat_map(|v| v.to_le_bytes()).collect();
    write::write(&kept, &bytes)?;
    write::write_json(&folder.file(BEFORE), &before)?;
    Ok((before, logits))
}

/// Reads the table of what the networks of a run named for each image: [`RunFolder::PREDICTIONS`].
///
/// # Errors
/// [`Error::File`] where there is no such table, or it cannot be read.
pub fn predictions(path: &Path) -> Result<Vec<Prediction>, Error> {
    let rows = csv::Reader::from_path(path).and_then(|mut table| table.deserialize().collect());
    rows.map_err(|error| Error::file(path, error))
}

/// Reads the teacher's logits for all images as an earlier start of this run left them; `None` where it left none.
fn read_logits(path: &Path, head: Head, images: usize) -> Option<Logits> {
    let bytes = fs::read(path).ok()?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (bytes.len() == 4 * head.count * images).then(|| Logits::new(head, values))
}

fn size(path: &Path) -> Result<u64, Error> {
    fs::metadata(path).map(|file| file.len()).map_err(Error::io(path))
}

/// Removes what only an unfinished run needs.
fn remove_checkpoints(folder: &RunFolder) -> Result<(), Error> {
    let checked = |path: &Path, removed: std::io::Result<()>| match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    };
    let checkpoints = folder.file(RunFolder::CHECKPOINTS);
    checked(&checkpoints, fs::remove_dir_all(&checkpoints))?;
    for path in [BEFORE, ADAPTATION, TEACHER_LOGITS].map(|name| folder.file(name)) {
        checked(&path, fs::remove_file(&path))?;
    }
    Ok(())
}
