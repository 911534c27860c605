//! Trains teachers, adapts quantized students to them on unlabelled images, and measures both.
//!
//! - [`train`] trains a network with labels: the float teacher, or a network that is quantized already.
//! - [`LayerFit`] quantizes a network and fits its layers to the float network's, one after the other, without training.
//! - [`adapt`] takes a teacher, a quantization policy and [`images::Unlabelled`] images, and returns the student that
//!   agrees with the teacher best on images held out. It cannot see a label: none of its arguments holds one. Each layer
//!   is fitted to the teacher's by least squares, then the network is trained as a whole.
//! - [`evaluate`] runs networks on images; [`Logits`] has their accuracy, agreement and signal-to-noise ratio.
//! - [`Fidelity`] says how far a quantized network is from the float one, on images without labels.
//! - [`sensitivity()`] finds what the quantization of each layer alone does to the outputs, [`allocate()`] chooses formats by it.
//! - [`quantize()`] quantizes a network by its scale rule alone.
//! - [`calibrate()`] finds the ranges of a network's values.
//! - [`run`] measures, quantizes, adapts, stores and measures again, with the settings of a [`DistillConfig`], in a
//!   [`RunFolder`].
//!
//! A run that was killed at any moment and resumed ends with the same weights, to the bit, as one that was not. Every
//! batch is a pure function of the seed and the step number, and checkpoints are complete or not there. What a run is
//! made from (settings, weights, images, labels) is noted when it begins, and it is not resumed from anything else.
//!
//! That holds on CPUs with the same vector instructions, with any number of cores. Training adds floats in an order that
//! the width of the CPU's vectors decides, so an adapted network, and its figures, differ between AVX2 and AVX-512: by about
//! a quarter of a percent for the embedded networks; so do the codes of layers that are fitted ([`LayerFit`]). A network that is
//! quantized by a scale rule alone, and the logits that the integer engine computes, are the same everywhere.

mod adam;
mod adapt;
mod allocate;
mod augment;
mod calibrate;
mod checkpoint;
mod cost;
mod dashboard;
mod error;
pub mod evaluate;
mod fidelity;
mod fit;
mod folder;
mod harness;
mod imitate;
mod journal;
mod loader;
mod logits;
mod loss;
mod optimize;
mod origin;
mod progress;
mod quantize;
mod random;
mod reestimate;
mod report;
mod run;
mod sensitivity;
mod settings;
mod synthesize;
mod train;
mod workers;
mod write;

pub use adapt::{Adaptation, Adapted, adapt};
pub use allocate::{Choice, allocate};
pub use augment::Augment;
pub use calibrate::{Calibration, calibrate};
pub use cost::{Cost, peak_bytes};
pub use error::Error;
pub use fidelity::Fidelity;
pub use fit::{Fitted, FittedLayer, LayerFit};
pub use folder::RunFolder;
pub use journal::Point;
pub use logits::{Flips, Logits, Scores};
pub use optimize::Optimizer;
pub use progress::{Context, Progress};
pub use quantize::quantize;
pub use report::{Chosen, Divergence, Measured, Prediction, Report, Stage, StageName};
pub use run::{Distillation, Eval, predictions, run};
pub use sensitivity::{Candidates, Method, Part, Sensitivity, sensitivity};
pub use settings::{AdaptConfig, BatchNormPolicy, DistillConfig, TrainConfig};
pub use synthesize::{SYNTHETIC, synthetic};
pub use train::{Start, Trained, Training, train};

/// An interrupter stops a run from another thread: the running phase ends with [`Error::Interrupted`] and can be resumed.
pub use burn::train::Interrupter;
