//! The settings of adaptation.
use dsconv::ScaleUpdate;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::augment::Augment;
use crate::optimize::{Optimizer, Schedule};

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
    /// Optimizer steps.
    pub steps: usize,
    /// Images of a step.
    pub batch: usize,
    /// Parts that a batch is cut into on the CPU, each of 8 images or more, which are worked on at the same time. The result
    /// depends on it in the last bits, and not on the number of cores; more than 2 may pay on many cores.
    pub parts: usize,
    /// Steps from one checkpoint, and measurement on the images held out, to the next.
    pub checkpoint_every: usize,
    /// Images that are held out to choose the checkpoint by; at most a quarter of all.
    pub held_out: usize,
    /// Checkpoints without a better one before adaptation ends early; 0 never ends it early.
    pub patience: usize,
    /// How weights are moved.
    pub optimizer: Optimizer,
    /// Highest learning rate of shadow weights, in steps of their codes.
    pub code_rate: f64,
    /// Highest learning rate of block scales, in parts of the scale.
    pub scale_rate: f64,
    /// Highest learning rate of everything else: biases and layers that stay in floats.
    pub learning_rate: f64,
    /// Steps in which the learning rates rise to their highest.
    pub warmup: usize,
    /// Weight decay.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; 0 sets no limit.
    pub clip: f32,
    /// Softens what teacher and student say before they are compared.
    pub temperature: f64,
    /// Weight of the tapped nodes' error, `sum (s - t)^2 / sum t^2`, beside the divergence of the logits.
    pub feature_weight: f64,
    /// Nodes to tap, by name; `*` and `?` as in the quantization rules. Empty: the last node with a feature map.
    pub features: Vec<String>,
    /// Whether block scales are trained, kept, or found anew from the shadow weights at each step.
    pub scale_update: ScaleUpdate,
    /// What happens to batch normalisation.
    pub batch_norm: BatchNormPolicy,
    /// Random changes to the images.
    pub augment: Augment,
    /// Images on which codes, scales and biases are fitted to the teacher's layers, one after the other, before the first
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
    /// # Errors
    /// [`Error::Config`] names the setting whose value makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        let counts = [("steps", self.steps), ("batch", self.batch), ("checkpoint_every", self.checkpoint_every)];
        for (setting, count) in counts.into_iter().chain([("parts", self.parts), ("held_out", self.held_out)]) {
            if count == 0 {
                return Err(Error::config(&format!("adapt.{setting}"), "must be more than 0"));
            }
        }
        let rates = [
            ("code_rate", self.code_rate),
            ("scale_rate", self.scale_rate),
            ("learning_rate", self.learning_rate),
            ("weight_decay", f64::from(self.weight_decay)),
            ("clip", f64::from(self.clip)),
            ("feature_weight", self.feature_weight),
        ];
        for (setting, rate) in rates {
            if !(rate >= 0.0 && rate.is_finite()) {
                return Err(Error::config(&format!("adapt.{setting}"), "must be at least 0"));
            }
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(Error::config("adapt.temperature", "must be more than 0"));
        }
        Ok(())
    }

    pub(crate) fn epochs(&self) -> usize {
        self.steps.div_ceil(self.checkpoint_every)
    }

    pub(crate) fn schedule(&self, peak: f64) -> Schedule {
        Schedule { peak, floor: 0.0, warmup: self.warmup, total: self.steps }
    }
}
