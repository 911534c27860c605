use std::sync::Arc;

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use dsconv::Network;
use graph::{Graph, Op, Outputs, Preprocess, Weights};
use images::{Labelled, LabelledBatch};
use model::{Info, Model};
use serde::{Deserialize, Serialize};

use crate::augment::Augment;
use crate::checkpoint::{self, load_model};
use crate::evaluate::{Logits, check_fits, predict};
use crate::fit::{Job, Span, fit};
use crate::folder::RunFolder;
use crate::journal::Session;
use crate::loader::{Loader, tensor};
use crate::loss::Loss;
use crate::optimize::{Optimizer, Schedule, clip_global_norm};
use crate::origin::{Origin, claim, settings_text};
use crate::random::{Order, Random};
use crate::workers::{Workers, join};
use crate::{Context, Error, write};

/// File of a run folder with the settings of a training.
const SETTINGS: &str = "train.toml";

/// How a teacher is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images of a step.
    pub batch: usize,
    /// How weights are moved.
    pub optimizer: Optimizer,
    /// The highest learning rate; it follows a cosine.
    pub learning_rate: f64,
    /// Epochs in which the learning rate rises to it.
    pub warmup: f64,
    /// Weight decay.
    pub weight_decay: f32,
    /// Part of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// Largest norm of all gradients together; 0 sets no limit.
    pub clip: f32,
    /// Random changes to training images.
    pub augment: Augment,
    /// Images of the evaluation set that are measured after each epoch.
    pub monitor: usize,
    /// Decides initial weights, order, augmentation and dropout.
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
            seed: 0,
        }
    }
}

impl TrainConfig {
    /// # Errors
    /// [`Error::Config`] names the setting whose value makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        let positive =
            |setting: &str, ok: bool| if ok { Ok(()) } else { Err(Error::config(setting, "must be more than 0")) };
        positive("epochs", self.epochs > 0)?;
        positive("batch", self.batch > 0)?;
        positive("monitor", self.monitor > 0)?;
        positive("learning_rate", self.learning_rate > 0.0 && self.learning_rate.is_finite())?;
        let rates = [("warmup", self.warmup), ("weight_decay", self.weight_decay.into()), ("clip", self.clip.into())];
        for (setting, rate) in rates {
            if !(rate >= 0.0 && rate.is_finite()) {
                return Err(Error::config(setting, "must be at least 0"));
            }
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(Error::config("label_smoothing", "must be at least 0 and less than 1"));
        }
        let numbers = [("warmup", self.warmup), ("weight_decay", self.weight_decay.into()), ("clip", self.clip.into())];
        match numbers.into_iter().find(|(_, value)| !(*value >= 0.0 && value.is_finite())) {
            Some((setting, _)) => Err(Error::config(setting, "must be at least 0")),
            None => Ok(()),
        }
    }
}

/// A trained teacher.
#[derive(Debug)]
pub struct Trained {
    /// The network after the last epoch.
    pub model: Model,
    /// Percent of the evaluation set it classifies right.
    pub top1: f64,
    /// Percent of the evaluation set whose label is among its first five.
    pub top5: f64,
}

/// Trains a float network with labels, from random weights, or from `start`.
///
/// `folder` gets `train.toml` and `origin.json` (settings, and what is trained on), `log.csv` (loss and learning rate of every
/// step, accuracy of every epoch) and a checkpoint per epoch. Where it resumes, the run goes on from the newest complete one,
/// and ends with the same weights as one that was never stopped.
///
/// A network of one output learns the two classes that it tells apart: 0 and 1.
///
/// # Errors
/// [`Error::RunExists`] where the folder holds a run and does not resume it; [`Error::OtherRun`] where it was made with other
/// settings, images or weights; [`Error::Diverged`], [`Error::Interrupted`], and what can go wrong with images and files.
#[allow(clippy::too_many_arguments)]
pub fn train(
    graph: &Graph,
    start: Option<&Weights>,
    train: &Labelled,
    eval: &Labelled,
    preprocess: &Preprocess,
    config: &TrainConfig,
    folder: &RunFolder,
    context: &Context,
) -> Result<Trained, Error> {
    config.check()?;
    check_set(graph, train)?;
    check_set(graph, eval)?;
    if graph.head().outputs != Outputs::Logits {
        let why = "ends in a softmax or sigmoid: a network is trained by its logits";
        return Err(Error::Config { setting: graph.name().to_owned(), why: why.to_owned() });
    }
    if let Some(weights) = start {
        weights.check(graph)?;
    }
    let none = Weights::default();
    let origin = Origin::default()
        .weights("network", graph, start.unwrap_or(&none))
        .images("images to train on", train.fingerprint())
        .images("images to measure on", eval.fingerprint());
    claim(folder, SETTINGS, &settings_text(config, &folder.path().join(SETTINGS))?, &origin)?;

    let checkpoints = folder.path().join(checkpoint::FOLDER);
    let (done, journal) = checkpoint::newest(&checkpoints)?.unwrap_or_default();
    let session = Session::new(journal, context.interrupter.clone(), None);
    let order = Order { len: train.len(), batch: config.batch, seed: config.seed };
    let steps = order.batches();
    let schedule = Schedule {
        peak: config.learning_rate,
        floor: 0.0,
        warmup: (config.warmup * steps as f64) as usize,
        total: config.epochs * steps,
    };

    let device = context.device.clone().autodiff();
    let initial;
    let start = match start {
        Some(weights) => weights,
        None => {
            initial = Weights::init(graph, config.seed);
            &initial
        }
    };
    let network = Network::trainable(graph, start, &device);
    // Dropout draws from one generator, so only one thread may. Batch statistics are those of a part: it must be large.
    const PARTS: usize = 2;
    const LEAST: usize = 32;
    let drops = graph.nodes().iter().any(|node| matches!(node.op, Op::Dropout { p } if p > 0.0));
    let workers = Workers::new(&context.device, if drops { 1 } else { PARTS.min(order.batch() / LEAST) })?;
    let settings = Settings {
        session: session.clone(),
        workers,
        loss: Loss::of(graph),
        smoothing: config.label_smoothing,
        clip: config.clip,
        seed: config.seed,
    };
    let module = Classifier { network, settings };

    let job = Job {
        module: module.clone(),
        optimizer: config.optimizer.init(config.weight_decay),
        scheduler: schedule.scheduler().into(),
    };
    let images = schedule.total.saturating_mul(order.batch());
    let span = Span { label: "train", checkpoints: &checkpoints, epochs: config.epochs, images, done };
    let log = folder.path().join("log.csv");
    fit(
        job,
        &span,
        Arc::new(training_batches(train, order, config, done)),
        Arc::new(fixed_batches(&eval.take(config.monitor), config.batch)),
        &session,
        context,
        move |journal| write::write(&log, journal.csv(&schedule, ["eval_loss", "eval_top1"]).as_bytes()),
    )?;

    let trained = module.load_record(load_model(&checkpoints, config.epochs)?).valid().network;
    let info = Info {
        preprocess: preprocess.clone(),
        classes: train.class_names().to_vec(),
        source: format!("trained on {} for {} epochs, seed {}", train.name(), config.epochs, config.seed),
    };
    let model = Model::float(graph.clone(), trained.to_weights(), info)?;
    let logits = predict("evaluate", &[&trained], &eval.without_labels(), context)?.remove(0);
    let accuracy = |k| Logits::accuracy(&logits, eval.labels(), k);
    Ok(Trained { model, top1: accuracy(1), top5: accuracy(5) })
}

/// # Errors
/// [`Error::Data`] where images or labels do not fit the network.
pub(crate) fn check_set(graph: &Graph, set: &Labelled) -> Result<(), Error> {
    check_fits(graph, &set.without_labels())?;
    let classes = graph.head().classes();
    match set.labels().iter().max() {
        Some(&label) if label >= classes => Err(Error::Data {
            set: set.name().to_owned(),
            why: format!("it has the label {label}, `{}` has {classes} classes", graph.name()),
        }),
        _ => Ok(()),
    }
}

/// A step's images with their labels, and its number.
pub(crate) struct Item {
    step: usize,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

impl Item {
    /// One part a worker, each with its share of the images.
    fn parts(self, workers: &Workers) -> Vec<(Self, f64)> {
        let [len, ..] = self.images.dims();
        let cut = |range: std::ops::Range<usize>| {
            let share = range.len() as f64 / len as f64;
            let images = self.images.clone().narrow(0, range.start, range.len());
            let labels = self.labels.clone().narrow(0, range.start, range.len());
            (Self { step: self.step, images, labels }, share)
        };
        workers.parts(len).into_iter().map(cut).collect()
    }
}

type Raw = (usize, LabelledBatch);

fn place((step, batch): Raw, device: &Device) -> Item {
    let labels: Vec<i64> = batch.labels.iter().map(|&label| label as i64).collect();
    let count = labels.len();
    let labels = Tensor::from_data(TensorData::new(labels, [count]), device);
    Item { step, images: tensor(batch.images, device), labels }
}

fn training_batches(set: &Labelled, order: Order, config: &TrainConfig, done: usize) -> Loader<Raw, Item> {
    let (set, augment, seed) = (set.clone(), config.augment, config.seed);
    let (batches, batch) = (order.batches(), order.batch());
    Loader::new(done, batches, batches * batch, place, move |step| {
        let mut images = set.batch_of_some(&order.indices(step))?;
        augment.apply(&mut images.images, |i| Random::new(seed, &[1, step as u64, i as u64]));
        Ok((step, images))
    })
}

fn fixed_batches(set: &Labelled, batch: usize) -> Loader<Raw, Item> {
    let (set, count) = (set.clone(), set.len());
    let make = move |i: usize| {
        let indices: Vec<usize> = (i * batch..count.min((i + 1) * batch)).collect();
        Ok((i, set.batch_of_some(&indices)?))
    };
    Loader::new(0, count.div_ceil(batch), count, place, make).repeating()
}

#[derive(Debug, Clone)]
struct Settings {
    session: Session,
    workers: Workers,
    loss: Loss,
    smoothing: f64,
    clip: f32,
    seed: u64,
}

/// A network with the cross entropy of its logits; beside a single one, class 0 has the logit 0.
#[derive(Module, Debug)]
struct Classifier {
    network: Network,
    #[module(skip)]
    settings: Settings,
}

impl Classifier {
    /// Loss of each image, `(1 - e) * -log p[label] + e * mean over classes of -log p`.
    fn run(&self, images: Tensor<4>, labels: Tensor<1, Int>, smoothing: f64) -> ClassificationOutput {
        let logits = self.settings.loss.ranks(self.network.forward(images));
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

impl TrainStep for Classifier {
    type Input = Item;
    type Output = ClassificationOutput;

    fn step(&self, item: Item) -> TrainOutput<ClassificationOutput> {
        let Settings { session, workers, smoothing, seed, .. } = &self.settings;
        let device = item.images.device();
        // What dropout draws depends on the step alone.
        device.seed(Random::new(*seed, &[2, item.step as u64]).next());
        let (grads, item) = workers.train_step(self, &device, item.parts(workers), |module, part, share| {
            let output = module.run(part.images, part.labels, *smoothing);
            let loss = output.loss.clone().mean().mul_scalar(share);
            (GradientsParams::from_grads(loss.backward(), module), detached(output))
        });
        session.record(item.loss.clone().mean().into_scalar());
        TrainOutput { grads, item }
    }

    fn optimize(self, optim: &mut ModuleOptimizer, rate: ModuleLearningRate, grads: GradientsParams) -> Self {
        let grads = if self.settings.clip > 0.0 { clip_global_norm(&self, grads, self.settings.clip) } else { grads };
        optim.step(rate, self, grads)
    }
}

impl InferenceStep for Classifier {
    type Input = Item;
    type Output = ClassificationOutput;

    fn step(&self, item: Item) -> ClassificationOutput {
        let Settings { session, workers, .. } = &self.settings;
        session.look();
        let parts = item.parts(workers).into_iter().map(|(part, _)| (self.clone(), part)).collect();
        join(workers.run(parts, |(module, part): (Self, Item)| module.run(part.images, part.labels, 0.0)))
    }
}

/// Off the autodiff graph, which holds every value of the forward pass.
pub(crate) fn detached(output: ClassificationOutput) -> ClassificationOutput {
    let ClassificationOutput { loss, output, targets } = output;
    ClassificationOutput::new(loss.without_autodiff(), output.without_autodiff(), targets.without_autodiff())
}
