//! The whole of it in one folder: measure the teacher, quantize, measure, adapt, export, measure the exported file.
use std::fs;
use std::path::Path;

use blockfloat::ScaleFormat;
use dsconv::Network;
use graph::{Head, pass};
use images::{Labelled, Unlabelled};
use model::{Model, Policy, SaveOptions};
use serde::{Deserialize, Serialize};

use crate::adapt::{self, adapt_in, bare};
use crate::evaluate::{Logits, Scores, check_fits, predict};
use crate::folder::RunFolder;
use crate::journal::Point;
use crate::loss::Loss;
use crate::origin::{Origin, claim, settings_text};
use crate::settings::AdaptConfig;
use crate::train::check_set;
use crate::{Context, Error, checkpoint, write};

/// The settings of a run, from a teacher to an adapted student. Every setting has a default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillConfig {
    /// The seed decides which images are held out, the order of the others and their random changes.
    pub seed: u64,
    /// The policy says which layer is quantized to what.
    pub quantize: Policy,
    /// These settings say how the student is adapted.
    pub adapt: AdaptConfig,
    /// These settings say how the student is stored.
    pub export: SaveOptions,
}

/// Images to measure on.
#[derive(Debug, Clone)]
pub enum Eval {
    /// With labels: accuracy, agreement and signal-to-noise ratio.
    Labelled(Labelled),
    /// Without: agreement and signal-to-noise ratio.
    Unlabelled(Unlabelled),
    /// The images that adaptation holds out to choose its best step by. Nothing learns from them, but what is chosen by them
    /// looks a little better on them than on others.
    HeldOut,
}

/// The student that a run exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chosen {
    /// The one before adaptation: it is closer to the teacher on the images held out.
    Quantized,
    /// The adapted one.
    #[default]
    Adapted,
}

/// Mean divergence from the teacher, as [`Point::loss`], of both students as their files hold them, on the images held out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Of the student before adaptation.
    pub quantized: f64,
    /// Of the adapted one.
    pub adapted: f64,
}

/// One network's results.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What it gets right, and how close it is to the teacher.
    #[serde(flatten)]
    pub scores: Scores,
    /// Size of its file; the teacher's as its parameters take in F32.
    pub bytes: u64,
}

/// What a run found: the content of `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The teacher.
    pub fp32: Measured,
    /// The student before adaptation: `quantized.safetensors`, loaded back.
    pub quantized: Measured,
    /// The student after adaptation, loaded back from its file.
    pub adapted: Measured,
    /// Which of the two `model.safetensors` is: the one that is closer to the teacher on the images held out. Labels have no
    /// part in it.
    #[serde(default)]
    pub chosen: Chosen,
    /// What that was chosen by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// The step at which the loss went out of all bounds, which ended training early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged_at: Option<usize>,
    /// The step whose student it is: 0 where none was better than the student before the first.
    pub best_step: usize,
    /// What was measured on the images held out, from step 0 on.
    pub held_out: Vec<Point>,
    /// Name of the set that was measured on.
    pub eval: String,
    /// Name of the set that was adapted to.
    pub adapt: String,
}

/// File of a run folder with the student that is exported: see [`Report::chosen`].
pub const MODEL: &str = "model.safetensors";
/// File of a run folder with the student before adaptation.
pub const QUANTIZED: &str = "quantized.safetensors";
/// File of a run folder with the adapted student, where that is not the one that is exported.
pub const ADAPTED: &str = "adapted.safetensors";
/// File of a run folder with the [`Report`].
pub const METRICS: &str = "metrics.json";

/// File of a run folder with the settings of a run.
const CONFIG: &str = "config.toml";
const BEFORE: &str = "before.json";
const ADAPTATION: &str = "adaptation.json";
const TEACHER_LOGITS: &str = "teacher_logits.f32";

/// What was measured before adaptation.
#[derive(Serialize, Deserialize)]
struct Before {
    fp32: Measured,
    quantized: Measured,
}

/// How adaptation went; written when its model is.
#[derive(Serialize, Deserialize)]
struct Adaptation {
    best_step: usize,
    held_out: Vec<Point>,
    chosen: Chosen,
    divergence: Divergence,
    diverged_at: Option<usize>,
}

impl Adaptation {
    /// The adapted student's file.
    fn file(&self) -> &'static str {
        match self.chosen {
            Chosen::Adapted => MODEL,
            Chosen::Quantized => ADAPTED,
        }
    }
}

/// What is measured on.
struct Measuring {
    name: String,
    images: Unlabelled,
    labels: Option<Vec<usize>>,
}

impl Measuring {
    /// # Errors
    /// [`Error::Data`] where images or labels do not fit the network.
    fn new(eval: &Eval, teacher: &Model, held: Unlabelled) -> Result<Self, Error> {
        let graph = &teacher.graph;
        Ok(match eval {
            Eval::Labelled(set) => {
                check_set(graph, set)?;
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
/// | `metrics.json` | [`Report`] |
///
/// What is measured as `quantized` and `adapted` is those files, loaded back. Each phase leaves its result, so where the
/// folder resumes, only what is not there is done; adaptation goes on within itself (see [`adapt`](crate::adapt())). The
/// checkpoints go when all is done.
///
/// # Errors
/// As [`adapt`](crate::adapt()); [`Error::Data`] where a label has no output; [`Error::NotFinite`].
pub fn run(job: &Distillation<'_>, folder: &RunFolder, context: &Context) -> Result<Report, Error> {
    let Distillation { teacher, images, eval, config, recipe } = *job;
    adapt::check(teacher, &config.quantize, images, &config.adapt)?;
    let (_, held) = adapt::parts(images, &config.adapt, config.seed);
    let measuring = Measuring::new(eval, teacher, held.clone())?;
    let origin = Origin::default().model("teacher", teacher).images("images to adapt to", images.fingerprint());
    let origin = match eval {
        Eval::Labelled(set) => origin.images("images to measure on", set.fingerprint()),
        Eval::Unlabelled(set) => origin.images("images to measure on", set.fingerprint()),
        Eval::HeldOut => origin,
    };
    let recipe = match recipe {
        Some(text) => text.to_owned(),
        None => settings_text(config, &folder.path().join(CONFIG))?,
    };
    claim(folder, CONFIG, &recipe, &origin)?;
    let path = |name: &str| folder.path().join(name);
    if let Some(report) = write::read_json(&path(METRICS))? {
        remove_checkpoints(folder.path())?;
        return Ok(report);
    }
    let (before, teacher_logits) = measure_before(teacher, &measuring, config, folder.path(), context)?;

    let adaptation = match write::read_json(&path(ADAPTATION))? {
        Some(adaptation) => adaptation,
        None => adapted(teacher, images, &held, config, folder, context)?,
    };
    let adapted = path(adaptation.file());
    let stored = Network::new(&files::load(&adapted)?, &context.device);
    let logits = predict("measure adapted", &[&stored], &measuring.images, context)?.remove(0);
    let report = Report {
        fp32: before.fp32,
        quantized: before.quantized,
        adapted: Measured { scores: measuring.scores(&logits, &teacher_logits), bytes: size(&adapted)? },
        chosen: adaptation.chosen,
        divergence: Some(adaptation.divergence),
        diverged_at: adaptation.diverged_at,
        best_step: adaptation.best_step,
        held_out: adaptation.held_out,
        eval: measuring.name,
        adapt: images.name().to_owned(),
    };
    write::write_json(&path(METRICS), &report)?;
    remove_checkpoints(folder.path())?;
    Ok(report)
}

/// Adapts the student, and leaves the better one as the run's model.
fn adapted(
    teacher: &Model,
    images: &Unlabelled,
    held: &Unlabelled,
    config: &DistillConfig,
    folder: &RunFolder,
    context: &Context,
) -> Result<Adaptation, Error> {
    let adapted = adapt_in(teacher, &config.quantize, images, &config.adapt, config.seed, folder, context)?;
    let mut student = adapted.student;
    if config.quantize.scales == ScaleFormat::TwoLevel {
        student = student.to_two_level()?;
    }
    let bytes = files::packed::to_bytes(&student, &config.export)?;
    let path = |name: &str| folder.path().join(name);
    let quantized = files::load(path(QUANTIZED))?;
    let divergence = divergence(teacher, &quantized, &files::from_bytes(&bytes)?, held, context)?;
    let chosen = if divergence.adapted > divergence.quantized { Chosen::Quantized } else { Chosen::Adapted };
    let (best_step, held_out, diverged_at) = (adapted.best_step, adapted.points, adapted.diverged_at);
    let adaptation = Adaptation { best_step, held_out, chosen, divergence, diverged_at };
    write::write(&path(adaptation.file()), &bytes)?;
    if chosen == Chosen::Quantized {
        let quantized = fs::read(path(QUANTIZED)).map_err(Error::io(&path(QUANTIZED)))?;
        write::write(&path(MODEL), &quantized)?;
    }
    write::write_json(&path(ADAPTATION), &adaptation)?;
    Ok(adaptation)
}

/// How far both students are from their teacher on the images held out.
fn divergence(
    teacher: &Model,
    quantized: &Model,
    adapted: &Model,
    held: &Unlabelled,
    context: &Context,
) -> Result<Divergence, Error> {
    let loss = Loss::of(&teacher.graph);
    let original = bare(teacher);
    let original = Network::trainable(&original.graph, &original.weights, &context.device);
    let [quantized, adapted] = [quantized, adapted].map(|student| Network::new(&bare(student), &context.device));
    let found = predict("compare on images held out", &[&original, &quantized, &adapted], held, context)?;
    let of = |student: usize| loss.mean_divergence(&found[0], &found[student]);
    Ok(Divergence { quantized: of(1), adapted: of(2) })
}

/// Teacher and student before adaptation, in one pass over the images.
fn measure_before(
    teacher: &Model,
    measuring: &Measuring,
    config: &DistillConfig,
    folder: &Path,
    context: &Context,
) -> Result<(Before, Logits), Error> {
    let kept = folder.join(TEACHER_LOGITS);
    let head = teacher.graph.head();
    let images = &measuring.images;
    if let (Some(before), Some(logits)) =
        (write::read_json(&folder.join(BEFORE))?, read_logits(&kept, head, images.len()))
    {
        return Ok((before, logits));
    }
    let quantized = folder.join(QUANTIZED);
    files::save(&teacher.quantize(&config.quantize)?, &quantized, &config.export)?;
    let student = Network::new(&files::load(&quantized)?, &context.device);
    // Folded, as the student's teacher is.
    let (folded, weights) = pass::fold_batch_norm(&teacher.graph, &teacher.weights);
    let original = Network::trainable(&folded, &weights, &context.device);
    let [logits, found] = predict("measure teacher and quantized", &[&original, &student], images, context)?
        .try_into()
        .expect("one for each network");

    let before = Before {
        fp32: Measured { scores: measuring.scores(&logits, &logits), bytes: teacher.fp32_bytes() },
        quantized: Measured { scores: measuring.scores(&found, &logits), bytes: size(&quantized)? },
    };
    let bytes: Vec<u8> = logits.values().iter().flat_map(|v| v.to_le_bytes()).collect();
    write::write(&kept, &bytes)?;
    write::write_json(&folder.join(BEFORE), &before)?;
    Ok((before, logits))
}

/// The teacher's logits for all images as an earlier start of this run left them.
fn read_logits(path: &Path, head: Head, images: usize) -> Option<Logits> {
    let bytes = fs::read(path).ok()?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (bytes.len() == 4 * head.count * images).then(|| Logits::new(head, values))
}

fn size(path: &Path) -> Result<u64, Error> {
    fs::metadata(path).map(|file| file.len()).map_err(Error::io(path))
}

/// What only an unfinished run needs.
fn remove_checkpoints(folder: &Path) -> Result<(), Error> {
    let missing = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    let path = folder.join(checkpoint::FOLDER);
    match fs::remove_dir_all(&path) {
        Err(e) if !missing(&e) => return Err(Error::io(&path)(e)),
        _ => {}
    }
    for name in [BEFORE, ADAPTATION, TEACHER_LOGITS] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(e) if !missing(&e) => return Err(Error::io(&path)(e)),
            _ => {}
        }
    }
    Ok(())
}
