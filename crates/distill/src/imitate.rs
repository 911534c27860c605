//! The task of adaptation: a student is trained to give its teacher's outputs.
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use burn::train::ClassificationOutput;
use dsconv::Network;
use graph::NodeId;
use images::{Batch, ImageError, Unlabelled};

use crate::harness::{Examples, Task};
use crate::loader::{Loader, tensor};
use crate::logits::Logits;
use crate::loss::Loss;
use crate::optimize::total;
use crate::random::{Order, Random};
use crate::settings::AdaptConfig;

/// Images, and the teacher's logits for them where they are known already.
pub(crate) struct TaughtImages {
    images: Tensor<4>,
    /// The teacher's logits, `[N, outputs]`.
    teacher: Option<Tensor<2>>,
}

impl Examples for TaughtImages {
    fn images(&self) -> &Tensor<4> {
        &self.images
    }

    fn narrow(&self, range: Range<usize>) -> Self {
        let images = self.images.clone().narrow(0, range.start, range.len());
        let teacher = self.teacher.clone().map(|logits| logits.narrow(0, range.start, range.len()));
        Self { images, teacher }
    }
}

type Raw = (Batch, Option<(usize, Vec<f32>)>);

fn place((batch, teacher): Raw, device: &Device) -> TaughtImages {
    let count = batch.shape[0];
    let teacher = teacher
        .map(|(outputs, rows)| Tensor::from_data(TensorData::new(rows, [count, outputs]), &device.clone().inner()));
    TaughtImages { images: tensor(batch, device), teacher }
}

/// The number of outputs, and the teacher's logits for the images of a batch.
///
/// # Errors
/// An image for which there are none: it could be read only now.
fn rows(set: &Unlabelled, logits: &Logits, batch: &Batch) -> Result<(usize, Vec<f32>), ImageError> {
    let mut rows = Vec::with_capacity(batch.indices.len() * logits.head().count);
    for &image in &batch.indices {
        rows.extend_from_slice(logits.of(image).ok_or_else(|| set.changed(image))?);
    }
    Ok((logits.head().count, rows))
}

/// The images that a student learns from, and in which order.
pub(crate) struct Lessons<'a> {
    pub(crate) set: &'a Unlabelled,
    /// The teacher's logits for all images, where images do not change.
    pub(crate) logits: Option<Logits>,
    pub(crate) order: Order,
    pub(crate) config: &'a AdaptConfig,
    pub(crate) seed: u64,
}

impl Lessons<'_> {
    /// Returns the batches from epoch `done` on.
    pub(crate) fn batches(self, done: usize) -> Loader<Raw, TaughtImages> {
        let Self { set, logits, order, config, seed } = self;
        let (set, augment, batches) = (set.clone(), config.augment, config.checkpoint_every);
        Loader::new(done, batches, batches * order.batch(), place, move |step| {
            let mut images = set.batch_of_some(&order.indices(step))?;
            augment.apply(&mut images, |i| Random::new(seed, &[4, step as u64, i as u64]));
            let known = logits.as_ref().map(|logits| rows(&set, logits, &images)).transpose()?;
            Ok((images, known))
        })
        .ending(config.steps)
    }
}

/// All images of a set in their order, with the teacher's logits.
pub(crate) fn batches_to_measure(set: &Unlabelled, logits: Logits, batch: usize) -> Loader<Raw, TaughtImages> {
    let set = set.clone();
    Loader::over(set.len(), batch, place, move |indices| {
        let images = set.batch_of_some(&indices)?;
        let known = rows(&set, &logits, &images)?;
        Ok((images, Some(known)))
    })
}

/// A network learns from a teacher by the divergence of the logits, and by the error of tapped nodes.
#[derive(Debug, Clone)]
pub(crate) struct Imitate {
    /// The teacher, on the plain device; it is neither trained nor stored.
    pub(crate) teacher: Arc<Network>,
    /// The nodes to compare beside the logits.
    pub(crate) taps: Arc<[NodeId]>,
    pub(crate) loss: Loss,
    pub(crate) temperature: f64,
    /// The weight of the tapped nodes' error.
    pub(crate) feature_weight: f64,
}

impl Task for Imitate {
    type Examples = TaughtImages;

    fn learn(&self, network: &Network, part: TaughtImages) -> ClassificationOutput {
        let Self { teacher, taps, loss, temperature, .. } = self;
        let (expected, features) = match part.teacher {
            Some(logits) if taps.is_empty() => (logits, Vec::new()),
            _ => teacher.forward_taps(part.images.clone().inner(), taps),
        };
        let targets = loss.ranks(expected.clone()).argmax(1).flatten::<1>(0, 1);
        let (logits, found) = network.forward_taps(part.images, taps);
        let mut losses = loss.divergence(Tensor::from_inner(expected), logits.clone(), *temperature);
        if let Some(sum) = features.into_iter().zip(found).map(error).reduce(|sum, error| sum + error) {
            losses = losses + sum.div_scalar(taps.len() as f64).mul_scalar(self.feature_weight);
        }
        ClassificationOutput::new(losses, loss.ranks(logits), Tensor::from_inner(targets))
    }

    fn measure(&self, network: &Network, part: TaughtImages) -> ClassificationOutput {
        let teacher = part.teacher.expect("the teacher's logits for images held out are known");
        let logits = network.forward(part.images);
        let targets = self.loss.ranks(teacher.clone()).argmax(1).flatten::<1>(0, 1);
        let losses = self.loss.divergence(teacher, logits.clone(), 1.0);
        ClassificationOutput::new(losses, self.loss.ranks(logits), targets)
    }
}

/// `sum (s - t)^2 / sum t^2` of a tapped node's values `t` of the teacher and `s` of the student.
fn error((t, s): (Tensor<4>, Tensor<4>)) -> Tensor<1> {
    let energy = total(t.clone().square()).add_scalar(f32::MIN_POSITIVE);
    total((s - Tensor::from_inner(t)).square()) / Tensor::from_inner(energy)
}
