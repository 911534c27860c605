//! The results of a run.
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::journal::Point;
use crate::logits::Scores;

/// The student that a run exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chosen {
    /// The student before adaptation: it is closer to the teacher on the images held out.
    Quantized,
    /// The adapted student.
    #[default]
    Adapted,
}

/// Mean divergence from the teacher, as [`Point::loss`], of both students as their files hold them, on the images held out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Divergence {
    /// The divergence of the student before adaptation.
    pub quantized: f64,
    /// The divergence of the adapted student.
    pub adapted: f64,
}

/// A stage of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageName {
    /// The scale rule quantizes the weights.
    Quantize,
    /// Layers are fitted to the teacher's by least squares.
    Fit,
    /// The network is trained to give its teacher's outputs.
    Distill,
}

/// What a stage won and cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The stage.
    pub stage: StageName,
    /// Mean divergence from the teacher, as [`Point::loss`], of the student after the stage, on the images held out.
    pub divergence: f32,
    /// The percentage of the images held out that get the teacher's class.
    pub agreement: f32,
    /// Time and memory.
    #[serde(flatten)]
    pub cost: Cost,
    /// Tells whether `model.safetensors` is the student of this stage.
    pub exported: bool,
}

/// One network's results.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What the network gets right, and how close it is to the teacher.
    #[serde(flatten)]
    pub scores: Scores,
    /// The size of the network's file in bytes; of the teacher, that of its parameters in F32.
    pub bytes: u64,
}

/// The classes that the networks of a run named for an image: a row of [`RunFolder::PREDICTIONS`](crate::RunFolder::PREDICTIONS).
/// A network has none for an image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Prediction {
    /// The name of the image.
    pub image: String,
    /// Its class, where images have labels.
    pub label: Option<usize>,
    /// The class that the teacher named.
    pub fp32: Option<usize>,
    /// The class that the student named before adaptation.
    pub quantized: Option<usize>,
    /// The class that the adapted student named.
    pub adapted: Option<usize>,
}

/// The results of a run: the content of [`RunFolder::METRICS`](crate::RunFolder::METRICS).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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
    /// The divergences by which that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// The step at which the loss went out of all bounds, which ended training early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged_at: Option<usize>,
    /// The step whose student the adapted one is: 0 where none was better than the student before the first.
    pub best_step: usize,
    /// What was measured on the images held out, from step 0 on.
    pub held_out: Vec<Point>,
    /// What each stage won and cost, in their order.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// The name of the set that was measured on.
    pub eval: String,
    /// The name of the set that was adapted to.
    pub adapt: String,
}
