//! The whole of it in one folder: measure the teacher, quantize, measure, adapt, export, measure the exported file.
use std::fs;
use std::path::{Path, PathBuf};

use blockfloat::ScaleFormat;
use burn::module::Module;
use dsconv::Network;
use graph::{Float, ImageConfig, Model, Policy, SaveOptions, pass};
use images::{Labelled, Unlabelled};
use serde::{Deserialize, Serialize};

use crate::adapt::adapt;
use crate::evaluate::{Logits, Scores, predict};
use crate::journal::Point;
use crate::settings::AdaptConfig;
use crate::train::{check_set, claim};
use crate::{Context, Error, files};

/// A recipe: from a teacher to an adapted student. Every setting has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillConfig {
    /// The teacher: a network of the zoo, a file, or a run folder.
    pub model: String,
    /// Weights for a network of the zoo that are not its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Decides the images held out, the order of the others and their changes.
    pub seed: u64,
    /// Where to compute.
    pub device: String,
    /// What the teacher expects of an image, where its file does not say it or is wrong.
    #[serde(skip_serializing_if = "ImageConfig::is_empty")]
    pub image: ImageConfig,
    /// Images.
    pub data: DataConfig,
    /// Which layer is quantized to what.
    pub quantize: Policy,
    /// How the student is adapted.
    pub adapt: AdaptConfig,
    /// How the student is stored.
    pub export: ExportConfig,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self {
            model: "resnet50-embedded".into(),
            weights: None,
            seed: 0,
            device: "cpu".into(),
            image: ImageConfig::default(),
            data: DataConfig::default(),
            quantize: Policy::default(),
            adapt: AdaptConfig::default(),
            export: ExportConfig::default(),
        }
    }
}

/// Names of image sets, or paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Images to adapt to; labels that are there are not read.
    pub adapt: String,
    /// Labelled images to measure on.
    pub eval: String,
    /// At most this many images to adapt to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// At most this many images to measure on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_limit: Option<usize>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { adapt: "embedded".into(), eval: "embedded".into(), limit: None, eval_limit: None }
    }
}

/// How the student is stored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportConfig {
    /// Weights, biases and affine parameters that are not codes.
    pub floats: Float,
    /// Block scales.
    pub scales: Float,
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self { floats: Float::F32, scales: Float::F16 }
    }
}

impl From<ExportConfig> for SaveOptions {
    fn from(ExportConfig { floats, scales }: ExportConfig) -> Self {
        Self { floats, scales }
    }
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
    /// The student after adaptation: `model.safetensors`, loaded back.
    pub adapted: Measured,
    /// The step whose student it is: 0 where none was better than the student before the first.
    pub best_step: usize,
    /// What was measured on the images held out, from step 0 on.
    pub held_out: Vec<Point>,
    /// Name of the set that was measured on.
    pub eval: String,
    /// Name of the set that was adapted to.
    pub adapt: String,
}

/// File of a run folder with the adapted student.
pub const MODEL: &str = "model.safetensors";
/// File of a run folder with the student before adaptation.
pub const QUANTIZED: &str = "quantized.safetensors";
/// File of a run folder with the adapted student as burn's record, shadow weights included.
pub const STUDENT: &str = "student.bpk";
/// File of a run folder with the [`Report`].
pub const METRICS: &str = "metrics.json";

const BEFORE: &str = "before.json";
const ADAPTATION: &str = "adaptation.json";
const TEACHER_LOGITS: &str = "teacher_logits.f32";
const CHECKPOINTS: &str = "checkpoints";

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
}

/// Runs a recipe in `folder`: `teacher`, `images` and `eval` are what its `model` and `data` name.
///
/// | file | content |
/// |---|---|
/// | `config.toml` | the recipe, all settings written out |
/// | `quantized.safetensors` | the student before adaptation |
/// | `model.safetensors` | the adapted student |
/// | `student.bpk` | the same as burn's record, to train on |
/// | `loss.csv` | loss and learning rate of every step, and what was measured on images held out |
/// | `metrics.json` | [`Report`] |
///
/// What is measured as `quantized` and `adapted` is those files, loaded back. Each phase leaves its result, so with
/// `resume` only what is not there is done; adaptation goes on within itself (see [`adapt`]). The checkpoints go when all is
/// done.
///
/// # Errors
/// As [`adapt`]; [`Error::Data`] where a label has no output.
pub fn run(
    teacher: &Model,
    images: &Unlabelled,
    eval: &Labelled,
    config: &DistillConfig,
    folder: &Path,
    resume: bool,
    context: &Context,
) -> Result<Report, Error> {
    config.adapt.check()?;
    check_set(&teacher.graph, eval)?;
    claim(folder, "config.toml", config, resume)?;
    if let Some(report) = files::read_json(&folder.join(METRICS))? {
        remove_checkpoints(folder)?;
        return Ok(report);
    }
    let (before, teacher_logits) = measure_before(teacher, eval, config, folder, context)?;

    let path = folder.join(MODEL);
    let adaptation = match files::read_json(&folder.join(ADAPTATION))? {
        Some(adaptation) => adaptation,
        None => {
            // The folder is claimed: what of adaptation is in it is this run's.
            let adapted = adapt(teacher, &config.quantize, images, &config.adapt, config.seed, folder, true, context)?;
            let record = adapted.student.clone().into_record().into_bytes();
            let student = folder.join(STUDENT);
            files::write(&student, &record.map_err(|e| Error::file(&student, e))?)?;
            let mut model = adapted.student.to_model(teacher.info.clone());
            if config.quantize.scales == ScaleFormat::TwoLevel {
                model = model.to_two_level()?;
            }
            model.save(&path, &config.export.into())?;
            let adaptation = Adaptation { best_step: adapted.best_step, held_out: adapted.points };
            files::write_json(&folder.join(ADAPTATION), &adaptation)?;
            adaptation
        }
    };
    let stored = Network::new(&Model::load(&path)?, &context.device);
    let logits = predict("measure adapted", &[&stored], &eval.without_labels(), context)?.remove(0);
    let report = Report {
        fp32: before.fp32,
        quantized: before.quantized,
        adapted: Measured { scores: logits.scores(eval.labels(), &teacher_logits), bytes: size(&path)? },
        best_step: adaptation.best_step,
        held_out: adaptation.held_out,
        eval: eval.name().to_owned(),
        adapt: images.name().to_owned(),
    };
    files::write_json(&folder.join(METRICS), &report)?;
    remove_checkpoints(folder)?;
    Ok(report)
}

/// Teacher and student before adaptation, in one pass over the images.
fn measure_before(
    teacher: &Model,
    eval: &Labelled,
    config: &DistillConfig,
    folder: &Path,
    context: &Context,
) -> Result<(Before, Logits), Error> {
    let kept = folder.join(TEACHER_LOGITS);
    let classes = teacher.graph.output().channels;
    if let (Some(before), Some(logits)) =
        (files::read_json(&folder.join(BEFORE))?, read_logits(&kept, classes, eval.len()))
    {
        return Ok((before, logits));
    }
    let quantized = folder.join(QUANTIZED);
    teacher.quantize(&config.quantize)?.save(&quantized, &config.export.into())?;
    let student = Network::new(&Model::load(&quantized)?, &context.device);
    // Folded, as the student's teacher is.
    let (folded, weights) = pass::fold_batch_norm(&teacher.graph, &teacher.weights);
    let original = Network::trainable(&folded, &weights, &context.device);
    let images = eval.without_labels();
    let [logits, found] = predict("measure teacher and quantized", &[&original, &student], &images, context)?
        .try_into()
        .expect("one for each network");

    let before = Before {
        fp32: Measured { scores: logits.scores(eval.labels(), &logits), bytes: teacher.fp32_bytes() },
        quantized: Measured { scores: found.scores(eval.labels(), &logits), bytes: size(&quantized)? },
    };
    let bytes: Vec<u8> = logits.values().iter().flat_map(|v| v.to_le_bytes()).collect();
    files::write(&kept, &bytes)?;
    files::write_json(&folder.join(BEFORE), &before)?;
    Ok((before, logits))
}

/// The teacher's logits as an earlier start of this run left them.
fn read_logits(path: &Path, classes: usize, images: usize) -> Option<Logits> {
    let bytes = fs::read(path).ok()?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (bytes.len() == 4 * classes * images).then(|| Logits::new(classes, values))
}

fn size(path: &Path) -> Result<u64, Error> {
    fs::metadata(path).map(|file| file.len()).map_err(Error::io(path))
}

/// What only an unfinished run needs.
fn remove_checkpoints(folder: &Path) -> Result<(), Error> {
    let path = folder.join(CHECKPOINTS);
    match fs::remove_dir_all(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path)(e)),
        _ => {}
    }
    for name in [BEFORE, ADAPTATION, TEACHER_LOGITS] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path)(e)),
            _ => {}
        }
    }
    Ok(())
}
