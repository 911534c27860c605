//! Training with labels, which makes teachers and teaches quantized networks on.
use std::ops::Range;
use std::sync::Arc;

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::ParamGroup;
use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use burn::train::ClassificationOutput;
use dsconv::{Network, ScaleUpdate};
use graph::{Graph, Outputs, Preprocess, Weights};
use images::{Labelled, LabelledBatch};
use model::{Info, Model, SaveOptions};

use crate::checkpoint::best_epoch;
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

/// What a training begins with.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// Weights of this network that are drawn. A network of a single output learns the two classes that it tells apart, 0 and 1.
    Random(&'a Graph),
    /// These weights of this network.
    Weights(&'a Graph, &'a Weights),
    /// A quantized network, which stays quantized: codes and scales are trained by straight-through gradients.
    Quantized(&'a Model),
}

impl<'a> Start<'a> {
    /// Returns the network.
    pub fn graph(&self) -> &'a Graph {
        match *self {
            Self::Random(graph) | Self::Weights(graph, _) => graph,
            Self::Quantized(model) => model.graph(),
        }
    }

    fn is_quantized(&self) -> bool {
        matches!(self, Self::Quantized(_))
    }
}

/// A training with labels: what it works on, and its settings.
#[derive(Debug, Clone, Copy)]
pub struct Training<'a> {
    /// The network, and what is known of it.
    pub start: Start<'a>,
    /// The images to learn from.
    pub images: &'a Labelled,
    /// The images to measure on, after every epoch and at the end.
    pub eval: &'a Labelled,
    /// How images become the network's input; the model keeps it.
    pub preprocess: &'a Preprocess,
    /// The settings.
    pub config: &'a TrainConfig,
}

/// A trained network.
#[derive(Debug)]
#[non_exhaustive]
pub struct Trained {
    /// A float network after the last epoch. A quantized network after the epoch that was best on the images held out, with scales
    /// of the precision that they had.
    pub model: Model,
    /// The epoch that a quantized network is of; 0 where none was better than the network before the first.
    pub best_epoch: Option<usize>,
    /// Percent of the evaluation set that a quantized network classified right before.
    pub top1_before: Option<f64>,
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
    pub fn check(&self) -> Result<(), Error> {
        let graph = self.start.graph();
        self.config.check()?;
        check_labels(graph, self.images)?;
        check_labels(graph, self.eval)?;
        if graph.head().outputs != Outputs::Logits {
            let why = "ends in a softmax or sigmoid: a network is trained by its logits";
            return Err(Error::Config { setting: graph.name().to_owned(), why: why.to_owned() });
        }
        match self.start {
            Start::Weights(_, weights) => Ok(weights.check(graph)?),
            Start::Quantized(_) if self.images.len() < 2 => {
                let why = "it has one image: one is held out, and another is needed to learn from".into();
                Err(Error::Data { set: self.images.name().into(), why })
            }
            _ => Ok(()),
        }
    }

    fn origin(&self) -> Origin {
        let origin = match self.start {
            Start::Random(graph) => Origin::default().weights("network", graph, &Weights::default()),
            Start::Weights(graph, weights) => Origin::default().weights("network", graph, weights),
            Start::Quantized(model) => Origin::default().model("network", model),
        };
        origin
            .images("images to train on", self.images.fingerprint())
            .images("images to measure on", self.eval.fingerprint())
    }

    fn info(&self) -> Info {
        let TrainConfig { epochs, seed, .. } = *self.config;
        let trained = format!("trained on {} for {epochs} epochs, seed {seed}", self.images.name());
        Info {
            preprocess: self.preprocess.clone(),
            classes: self.images.class_names().to_vec(),
            source: match self.start {
                Start::Quantized(model) => format!("{}; quantized, {trained}", model.info().source),
                _ => trained,
            },
        }
    }

    /// The images to learn from, and those that are measured after each epoch: some of the evaluation set, to watch, or for a
    /// quantized network images held out, to choose by.
    fn split(&self) -> (Labelled, Labelled) {
        let TrainConfig { monitor, held_out, seed, .. } = *self.config;
        match self.start {
            Start::Quantized(_) => self.images.split(held_out.min(self.images.len() / 4).max(1), seed),
            _ => (self.images.clone(), self.eval.take(monitor)),
        }
    }

    /// The network as it is trained.
    fn network(&self, device: &Device) -> Network {
        match self.start {
            Start::Random(graph) => Network::trainable(graph, &Weights::init(graph, self.config.seed), device),
            Start::Weights(graph, weights) => Network::trainable(graph, weights, device),
            Start::Quantized(model) => Network::quantized(model, ScaleUpdate::Trained, device),
        }
    }
}

/// Trains a network with labels: a float one, or one that is quantized and stays so (quantization-aware training).
///
/// A float network is that of the last epoch. Of a quantized one, images held out choose the epoch, and the network before the first
/// takes part: training never makes it worse on them. Its batch normalisation is folded already.
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
    let Training { start, eval, config, .. } = *job;
    let graph = start.graph();
    claim(folder, RunFolder::TRAIN, config, &job.origin())?;

    let (images, measured) = job.split();
    let order = Order { len: images.len(), batch: config.batch, seed: config.seed };
    let schedule = Schedule {
        peak: config.learning_rate,
        warmup: (config.warmup * order.batches() as f64) as usize,
        total: config.epochs * order.batches(),
    };
    let columns = match start.is_quantized() {
        true => ["held_out_loss", "held_out_top1"],
        false => ["eval_loss", "eval_top1"],
    };
    let harness = Harness::open(folder, Log { path: folder.file(RunFolder::LOG), schedule, columns }, None, context)?;

    let network = job.network(&context.device.clone().autodiff());
    let workers = Workers::new(&context.device, PARTS.min(order.batch() / LEAST))?;
    let steps = Steps { workers, clip: config.clip };
    let task = Classify { loss: Loss::of(graph), smoothing: config.label_smoothing, seed: config.seed };
    let trainee = harness.trainee(network, task, steps);
    let course = Course {
        label: "train",
        epochs: config.epochs,
        images: schedule.total.saturating_mul(order.batch()),
        optimizer: config.optimizer.init(config.weight_decay),
        scheduler: if start.is_quantized() { rates(schedule, config) } else { schedule.scheduler().into() },
    };
    let measure = Arc::new(batches_to_measure(&measured, config.batch));
    if start.is_quantized() && harness.done() == 0 {
        harness.journal().points = vec![harness.before(&trainee, measure.as_ref())?];
    }
    let learn = Arc::new(batches_to_learn(&images, order, config, harness.done()));
    let fitted = harness.fit(trainee.clone(), course, Batches { learn, measure });

    let Start::Quantized(before) = start else {
        fitted?;
        let trained = harness.network(trainee, config.epochs)?;
        let model = Model::float(graph.clone(), trained.to_weights(), job.info())?;
        let logits = predict("evaluate", &[&trained], &eval.without_labels(), context)?.remove(0);
        let accuracy = |k| logits.accuracy(eval.labels(), k);
        return Ok(Trained { model, best_epoch: None, top1_before: None, top1: accuracy(1), top5: accuracy(5) });
    };
    match fitted {
        // The best epoch before it counts.
        Ok(()) | Err(Error::Diverged { .. }) => {}
        Err(error) => return Err(error),
    }
    harness.write_log()?;
    let best = {
        let journal = harness.journal();
        best_epoch(&journal, journal.points.len() - 1)
    };
    let mut model = harness.network(trainee, best)?.to_model(job.info())?.with_scales_as(before)?;
    model.round(&SaveOptions { scale_precision: before.scale_precision(), ..SaveOptions::EXACT });
    let networks = [before, &model].map(|model| Network::new(model, &context.device));
    let logits = predict("evaluate", &[&networks[0], &networks[1]], &eval.without_labels(), context)?;
    let accuracy = |network: usize, k| logits[network].accuracy(eval.labels(), k);
    let (top1_before, top1, top5) = (Some(accuracy(0, 1)), accuracy(1, 1), accuracy(1, 5));
    Ok(Trained { model, best_epoch: Some(best), top1_before, top1, top5 })
}

/// The learning rates of a quantized network: of codes and of scales in their own units, of all else as the settings say.
fn rates(schedule: Schedule, config: &TrainConfig) -> ModuleLrScheduler {
    let rate = |peak| Schedule { peak, ..schedule }.scheduler();
    ModuleLrScheduler::new(rate(config.learning_rate))
        .with_group(ParamGroup::from_predicate("latent"), rate(config.code_rate))
        .with_group(ParamGroup::from_predicate("gain"), rate(config.scale_rate))
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
