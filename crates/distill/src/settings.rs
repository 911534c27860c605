//! The settings of training and adaptation.
use dsconv::ScaleUpdate;
use model::{Policy, SaveOptions};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::augment::Augment;
use crate::optimize::{Optimizer, Schedule};

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

/// What happens to batch normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormPolicy {
    /// The teacher's statistics are folded into weights and biases before quantization. The biases are trained.
    #[default]
    Fold,
    /// The statistics are estimated anew first: those of the quantized student's values, on the images to adapt to. They
    /// are then folded as the teacher's are. Where layers are fitted ([`AdaptConfig::fit_images`]), biases take the teacher's
    /// means all the same.
    Reestimate,
}

/// How a student is adapted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptConfig {
    /// The number of optimizer steps.
    pub steps: usize,
    /// The number of images of a step.
    pub batch: usize,
    /// The number of parts that a batch is cut into on the CPU, each of 8 images or more, which are worked on at the same time.
    /// The result depends on it in the last bits, but not on the number of cores; more than 2 may pay on many cores.
    pub parts: usize,
    /// The number of steps from one checkpoint, and measurement on the images held out, to the next.
    pub checkpoint_every: usize,
    /// The number of images that are held out to choose the checkpoint by; it is at most a quarter of all.
    pub held_out: usize,
    /// The number of checkpoints without a better one after which adaptation ends early; 0 never ends it early.
    pub patience: usize,
    /// The rule by which weights are moved.
    pub optimizer: Optimizer,
    /// The highest learning rate of shadow weights, in steps of their codes.
    pub code_rate: f64,
    /// The highest learning rate of block scales, in parts of the scale.
    pub scale_rate: f64,
    /// The highest learning rate of everything else: biases and layers that stay in floats.
    pub learning_rate: f64,
    /// The number of steps in which the learning rates rise to their highest.
    pub warmup: usize,
    /// The weight decay, as the optimizer takes it.
    pub weight_decay: f32,
    /// The largest norm of all gradients together; 0 sets no limit.
    pub clip: f32,
    /// The temperature by which logits are divided before they are compared.
    pub temperature: f64,
    /// The weight of the tapped nodes' error, `sum (s - t)^2 / sum t^2`, beside the divergence of the logits.
    pub feature_weight: f64,
    /// The names of the nodes to tap; `*` and `?` stand for letters as in the quantization rules. An empty list taps the last
    /// node with a feature map.
    pub features: Vec<String>,
    /// Whether block scales are trained, kept, or found anew from the shadow weights at each step.
    pub scale_update: ScaleUpdate,
    /// What happens to batch normalisation.
    pub batch_norm: BatchNormPolicy,
    /// The random changes to the images.
    pub augment: Augment,
    /// The number of images on which codes, scales and biases are fitted to the teacher's layers, one after the other, before the first
    /// step; 0 leaves them as quantized.
    pub fit_images: usize,
}

impl Default for AdaptConfig {
    fn default() -> Self {
        Self {
            steps: 200,
            batch: 32,
            parts: 2,
            checkpoint_every: 25,
            held_out: 256,
            patience: 5,
            optimizer: Optimizer::Adam,
            code_rate: 1e-2,
            scale_rate: 3e-4,
            learning_rate: 3e-4,
            warmup: 10,
            weight_decay: 0.0,
            clip: 5.0,
            temperature: 2.0,
            feature_weight: 0.0,
            features: Vec::new(),
            scale_update: ScaleUpdate::Trained,
            batch_norm: BatchNormPolicy::Fold,
            // So that a few thousand images are not learned by heart.
            augment: Augment { shift: 2, flip: false },
            fit_images: 2048,
        }
    }
}

impl AdaptConfig {
    /// Checks that every value makes sense.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting whose value makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        let counts = [
            ("steps", self.steps as f64),
            ("batch", self.batch as f64),
            ("checkpoint_every", self.checkpoint_every as f64),
            ("parts", self.parts as f64),
            ("held_out", self.held_out as f64),
        ];
        let rates = [
            ("code_rate", self.code_rate),
            ("scale_rate", self.scale_rate),
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay.into()),
            ("clip", self.clip.into()),
            ("feature_weight", self.feature_weight),
        ];
        check_positive("adapt.", &counts)?;
        check_not_negative("adapt.", &rates)?;
        check_positive("adapt.", &[("temperature", self.temperature)])
    }

    pub(crate) fn epochs(&self) -> usize {
        self.steps.div_ceil(self.checkpoint_every)
    }

    pub(crate) fn schedule(&self, peak: f64) -> Schedule {
        Schedule { peak, warmup: self.warmup, total: self.steps }
    }
}

/// How a teacher is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The number of passes over the training images.
    pub epochs: usize,
    /// The number of images of a step.
    pub batch: usize,
    /// The rule by which weights are moved.
    pub optimizer: Optimizer,
    /// The highest learning rate, from which a cosine leads down to 0.
    pub learning_rate: f64,
    /// The number of epochs in which the learning rate rises to its highest; it need not be whole.
    pub warmup: f64,
    /// The weight decay, as the optimizer takes it.
    pub weight_decay: f32,
    /// The part of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// The largest norm of all gradients together; 0 sets no limit.
    pub clip: f32,
    /// The random changes to training images.
    pub augment: Augment,
    /// The number of images of the evaluation set that are measured after each epoch.
    pub monitor: usize,
    /// Of a quantized network, the highest learning rate of shadow weights, in steps of their codes.
    pub code_rate: f64,
    /// Of a quantized network, the highest learning rate of block scales, in parts of the scale.
    pub scale_rate: f64,
    /// Of a quantized network, the number of images to train on that are held out to choose the epoch by, a quarter of all at most.
    pub held_out: usize,
    /// The seed decides initial weights, the order of images, their random changes and dropout.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 30,
            batch: 64,
            optimizer: Optimizer::Sgd,
            learning_rate: 0.05,
            warmup: 1.0,
            weight_decay: 5e-4,
            label_smoothing: 0.0,
            clip: 0.0,
            augment: Augment { shift: 2, flip: false },
            monitor: 500,
            code_rate: 1e-2,
            scale_rate: 3e-4,
            held_out: 256,
            seed: 0,
        }
    }
}

impl TrainConfig {
    /// Checks that every value makes sense.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting whose value makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        let (epochs, batch, monitor) = (self.epochs as f64, self.batch as f64, self.monitor as f64);
        let held_out = self.held_out as f64;
        let counts = [("epochs", epochs), ("batch", batch), ("monitor", monitor), ("held_out", held_out)];
        let rates = [
            ("warmup", self.warmup),
            ("weight_decay", self.weight_decay.into()),
            ("clip", self.clip.into()),
            ("code_rate", self.code_rate),
            ("scale_rate", self.scale_rate),
        ];
        check_positive("", &counts)?;
        check_positive("", &[("learning_rate", self.learning_rate)])?;
        check_not_negative("", &rates)?;
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(Error::config("label_smoothing", "must be at least 0 and less than 1"));
        }
        Ok(())
    }
}

/// Checks that numbers are more than 0.
///
/// # Errors
/// [`Error::Config`] for the first of `settings` of `table` that is not more than 0.
fn check_positive(table: &str, settings: &[(&str, f64)]) -> Result<(), Error> {
    match settings.iter().find(|(_, value)| !(*value > 0.0 && value.is_finite())) {
        Some((name, _)) => Err(Error::config(&format!("{table}{name}"), "must be more than 0")),
        None => Ok(()),
    }
}

/// Checks that numbers are at least 0.
///
/// # Errors
/// [`Error::Config`] for the first of `settings` of `table` that is less than 0, or no number.
fn check_not_negative(table: &str, settings: &[(&str, f64)]) -> Result<(), Error> {
    match settings.iter().find(|(_, value)| !(*value >= 0.0 && value.is_finite())) {
        Some((name, _)) => Err(Error::config(&format!("{table}{name}"), "must be at least 0")),
        None => Ok(()),
    }
}
