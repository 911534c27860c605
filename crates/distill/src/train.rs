//! Training with labels, which makes teachers.
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use burn::train::ClassificationOutput;
use dsconv::Network;
use graph::{Graph, Outputs, Preprocess, Weights};
use images::{Labelled, LabelledBatch};
use model::{Info, Model};

use crate::evaluate::{check_labels, predict};
use crate::folder::RunFolder;
use crate::harness::{Batches, Course, Examples, Harness, Log, Steps, Task};
use crate::loader::{Loader, tensor};
use crate::loss::Loss;
use crate::optimize::Schedule;
use crate::origin::{Origin, claim};
use crate::random::{Order, Random};
use crate::settings::TrainConfig;
use crate::workers::Workers;
use crate::{Context, Error};

/// The number of parts that a batch is cut into, and the least images of one: statistics of batch normalisation are those of a
/// part.
const PARTS: usize = 2;
const LEAST: usize = 32;

/// A training with labels: what it works on, and its settings.
#[derive(Debug, Clone, Copy)]
pub struct Training<'a> {
    /// The network. One of a single output learns the two classes that it tells apart, 0 and 1.
    pub graph: &'a Graph,
    /// The weights to begin with; `None` begins with random ones.
    pub start: Option<&'a Weights>,
    /// The images to learn from.
    pub images: &'a Labelled,
    /// The images to measure on, after every epoch and at the end.
    pub eval: &'a Labelled,
    /// How images become the network's input; the model keeps it.
    pub preprocess: &'a Preprocess,
    /// The settings.
    pub config: &'a TrainConfig,
}

/// A trained teacher.
#[derive(Debug)]
pub struct Trained {
    /// The network after the last epoch.
    pub model: Model,
    /// Percent of the evaluation set that the network classifies right.
    pub top1: f64,
    /// Percent of the evaluation set whose label is among the first five classes.
    pub top5: f64,
}

impl Training<'_> {
    /// Checks that all parts fit together.
    ///
    /// # Errors
    /// Settings that make no sense, images, labels or weights that do not fit the network, an end that is no logits.
    fn check(&self) -> Result<(), Error> {
        let graph = self.graph;
        self.config.check()?;
        check_labels(graph, self.images)?;
        check_labels(graph, self.eval)?;
        if graph.head().outputs != Outputs::Logits {
            let why = "ends in a softmax or sigmoid: a network is trained by its logits";
            return Err(Error::Config { setting: graph.name().to_owned(), why: why.to_owned() });
        }
        if let Some(weights) = self.start {
            weights.check(graph)?;
        }
        Ok(())
    }

    fn origin(&self) -> Origin {
        let none = Weights::default();
        Origin::default()
            .weights("network", self.graph, self.start.unwrap_or(&none))
            .images("images to train on", self.images.fingerprint())
            .images("images to measure on", self.eval.fingerprint())
    }

    fn info(&self) -> Info {
        let TrainConfig { epochs, seed, .. } = *self.config;
        Info {
            preprocess: self.preprocess.clone(),
            classes: self.images.class_names().to_vec(),
            source: format!("trained on {} for {epochs} epochs, seed {seed}", self.images.name()),
        }
    }
}

/// Trains a float network with labels.
///
/// `folder` gets `train.toml` and `origin.json` (settings, and what is trained on), `log.csv` (loss and learning rate of every
/// step, accuracy of every epoch) and a checkpoint per epoch. Where it resumes, the run goes on from the newest complete one,
/// and ends with the same weights as one that was never stopped.
///
/// # Errors
/// [`Error::RunExists`] where the folder holds a run and does not resume it; [`Error::OtherRun`] where it was made with other
/// settings, images or weights; [`Error::Diverged`], [`Error::Interrupted`], and what can go wrong with images and files.
pub fn train(job: &Training<'_>, folder: &RunFolder, context: &Context) -> Result<Trained, Error> {
    job.check()?;
    let Training { graph, images, eval, config, .. } = *job;
    claim(folder, RunFolder::TRAIN, config, &job.origin())?;

    let order = Order { len: images.len(), batch: config.batch, seed: config.seed };
    let schedule = Schedule {
        peak: config.learning_rate,
        warmup: (config.warmup * order.batches() as f64) as usize,
        total: config.epochs * order.batches(),
    };
    let log = Log { path: folder.file(RunFolder::LOG), schedule, columns: ["eval_loss", "eval_top1"] };
    let harness = Harness::open(folder, log, None, context)?;

    let device = context.device.clone().autodiff();
    let network = match job.start {
        Some(weights) => Network::trainable(graph, weights, &device),
        None => Network::trainable(graph, &Weights::init(graph, config.seed), &device),
    };
    let workers = Workers::new(&context.device, PARTS.min(order.batch() / LEAST))?;
    let steps = Steps { workers, clip: config.clip };
    let task = Classify { loss: Loss::of(graph), smoothing: config.label_smoothing, seed: config.seed };
    let trainee = harness.trainee(network, task, steps);
    let course = Course {
        label: "train",
        epochs: config.epochs,
        images: schedule.total.saturating_mul(order.batch()),
        optimizer: config.optimizer.init(config.weight_decay),
        scheduler: schedule.scheduler().into(),
    };
    let batches = Batches {
        learn: Arc::new(batches_to_learn(images, order, config, harness.done())),
        measure: Arc::new(batches_to_measure(&eval.take(config.monitor), config.batch)),
    };
    harness.fit(trainee.clone(), course, batches)?;

    let trained = harness.network(trainee, config.epochs)?;
    let model = Model::float(graph.clone(), trained.to_weights(), job.info())?;
    let logits = predict("evaluate", &[&trained], &eval.without_labels(), context)?.remove(0);
    let accuracy = |k| logits.accuracy(eval.labels(), k);
    Ok(Trained { model, top1: accuracy(1), top5: accuracy(5) })
}

/// Images with their labels.
struct LabelledImages {
    /// The number of the step.
    step: usize,
    /// The number of the first image in the batch of the step.
    first: usize,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

impl Examples for LabelledImages {
    fn images(&self) -> &Tensor<4> {
        &self.images
    }

    fn narrow(&self, range: Range<usize>) -> Self {
        let images = self.images.clone().narrow(0, range.start, range.len());
        let labels = self.labels.clone().narrow(0, range.start, range.len());
        Self { step: self.step, first: self.first + range.start, images, labels }
    }
}

type Raw = (usize, LabelledBatch);

fn place((step, batch): Raw, device: &Device) -> LabelledImages {
    let labels: Vec<i64> = batch.labels.iter().map(|&label| label as i64).collect();
    let count = labels.len();
    let labels = Tensor::from_data(TensorData::new(labels, [count]), device);
    LabelledImages { step, first: 0, images: tensor(batch.images, device), labels }
}

fn batches_to_learn(set: &Labelled, order: Order, config: &TrainConfig, done: usize) -> Loader<Raw, LabelledImages> {
    let (set, augment, seed) = (set.clone(), config.augment, config.seed);
    let (batches, batch) = (order.batches(), order.batch());
    Loader::new(done, batches, batches * batch, place, move |step| {
        let mut images = set.batch_of_some(&order.indices(step))?;
        augment.apply(&mut images.images, |i| Random::new(seed, &[1, step as u64, i as u64]));
        Ok((step, images))
    })
}

fn batches_to_measure(set: &Labelled, batch: usize) -> Loader<Raw, LabelledImages> {
    let set = set.clone();
    Loader::over(set.len(), batch, place, move |indices| Ok((0, set.batch_of_some(&indices)?)))
}

/// A network learns labels by the cross entropy of the logits; beside a single logit, class 0 has the logit 0.
#[derive(Debug, Clone)]
struct Classify {
    loss: Loss,
    smoothing: f64,
    seed: u64,
}

impl Classify {
    /// The loss of each image, `(1 - e) * -log p[label] + e * mean over classes of -log p`, where `e` is the smoothing and `p` the
    /// softmax of the `outputs`.
    fn run(&self, outputs: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> ClassificationOutput {
        let logits = self.loss.ranks(outputs);
        let log_p = log_softmax(logits.clone(), 1);
        let own = log_p.clone().gather(1, labels.clone().unsqueeze_dim(1));
        let loss = if smoothing > 0.0 {
            own.mul_scalar(1.0 - smoothing) + log_p.mean_dim(1).mul_scalar(smoothing)
        } else {
            own
        };
        ClassificationOutput::new(loss.flatten::<1>(0, 1).neg(), logits, labels)
    }
}

impl Task for Classify {
    type Examples = LabelledImages;

    /// What dropouts drop depends on the step and the part of its batch alone.
    fn learn(&self, network: &Network, part: LabelledImages) -> ClassificationOutput {
        let LabelledImages { step, first, images, labels } = part;
        let seed = Random::new(self.seed, &[2, step as u64, first as u64]).next();
        self.run(network.forward_with_dropout(images, seed), labels, self.smoothing)
    }

    fn measure(&self, network: &Network, part: LabelledImages) -> ClassificationOutput {
        self.run(network.forward(part.images), part.labels, 0.0)
    }
}
