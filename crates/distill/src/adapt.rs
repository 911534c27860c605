//! Adaptation without labels: the student learns to say what its teacher says.
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::{Module, ParamGroup};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use dsconv::Network;
use graph::{Graph, NodeId, pass};
use images::{Batch, ImageError, Unlabelled};
use model::{Model, ModelError, Policy, pattern};
use serde::Serialize;

use crate::checkpoint::{self, best_epoch, load_model};
use crate::evaluate::{Logits, check_fits, host, predict};
use crate::fit::{Job, Span, fit};
use crate::fit_layers::{fitted, reestimated};
use crate::folder::RunFolder;
use crate::journal::{Journal, Point, Session};
use crate::loader::{Loader, tensor};
use crate::loss::Loss;
use crate::optimize::clip_global_norm;
use crate::origin::{Origin, claim, settings_text};
use crate::random::{Order, Random};
use crate::settings::{AdaptConfig, BatchNormPolicy};
use crate::train::detached;
use crate::workers::{Workers, join};
use crate::{Context, Error, write};

/// File of a run folder with the settings of an adaptation.
const SETTINGS: &str = "adapt.toml";
/// Images of a part of a batch, at least: a part costs a pass over all weights.
const LEAST: usize = 8;

/// What adaptation gives.
#[derive(Debug)]
pub struct Adapted {
    /// The student at its best step.
    pub student: Model,
    /// The step it was best at: 0 where no step was better than the student before the first, its layers fitted.
    pub best_step: usize,
    /// What was measured on the images held out, from step 0 on.
    pub points: Vec<Point>,
    /// The step at which the loss went out of all bounds, which ended training; the student is the best one before it.
    pub diverged_at: Option<usize>,
}

/// Quantizes a copy of the teacher and has it learn, on images alone, to say what the teacher says: layer by layer first
/// ([`AdaptConfig::fit_images`]: least squares, no gradients), then as a whole, by gradients of
///
/// ```text
/// loss = T^2 KL(softmax(t / T) || softmax(s / T)) + feature_weight * mean over taps of sum (s_i - t_i)^2 / sum t_i^2
/// ```
/// where `t` are the teacher's logits, `s` the student's, `T` is the temperature, and `t_i`, `s_i` the outputs of a tapped node
/// (Hinton et al. 2015; Romero et al. 2015). Where a network has one output or ends in a sigmoid, every output decides for
/// itself, and the first term is the sum over outputs of `T^2 KL(Bernoulli(sigmoid(t / T)) || Bernoulli(sigmoid(s / T)))`. A
/// softmax or sigmoid at the end is left off for this: `t` and `s` are what goes into it.
///
/// Images held out measure the divergence at `T = 1` every [`AdaptConfig::checkpoint_every`] steps; the student with the
/// lowest is returned, and the one before the first step takes part: training never makes it worse on them.
///
/// `folder` gets `adapt.toml` and `origin.json` (what the run depends on), `loss.csv` and checkpoints. Where it resumes, the
/// run goes on from the newest complete checkpoint and ends with the same student, to the bit, as one that was never stopped.
///
/// # Errors
/// [`Error::RunExists`] where the folder holds a run and does not resume it; [`Error::OtherRun`] where it was made from other
/// settings, images or weights; [`Error::Interrupted`]; what can go wrong with settings, images and files.
pub fn adapt(
    teacher: &Model,
    policy: &Policy,
    images: &Unlabelled,
    config: &AdaptConfig,
    seed: u64,
    folder: &RunFolder,
    context: &Context,
) -> Result<Adapted, Error> {
    check(teacher, policy, images, config)?;
    let origin = Origin::default().model("teacher", teacher).images("images to adapt to", images.fingerprint());
    let settings = Settings { seed, adapt: config.clone(), quantize: policy.clone() };
    claim(folder, SETTINGS, &settings_text(&settings, &folder.path().join(SETTINGS))?, &origin)?;
    adapt_in(teacher, policy, images, config, seed, folder, context)
}

/// The settings of [`adapt`].
#[derive(Serialize)]
struct Settings {
    seed: u64,
    adapt: AdaptConfig,
    quantize: Policy,
}

/// Whether [`adapt`] can work on these: what is wrong with them is said before any work is done.
///
/// # Errors
/// Settings that make no sense, a policy that does not fit the network, images that do not or are too few.
pub fn check(teacher: &Model, policy: &Policy, images: &Unlabelled, config: &AdaptConfig) -> Result<(), Error> {
    config.check()?;
    check_fits(&teacher.graph, images)?;
    if images.len() < 2 {
        let why = "it has one image: one is held out, and another is needed to learn from".into();
        return Err(Error::Data { set: images.name().into(), why });
    }
    if teacher.is_quantized() {
        return Err(ModelError::AlreadyQuantized { graph: teacher.graph.name().into() }.into());
    }
    if teacher.graph.head().outputs == graph::Outputs::Values {
        let why = "its outputs are computed from a softmax or sigmoid, and a student learns from logits".to_owned();
        return Err(Error::Data { set: format!("`{}`", teacher.graph.name()), why });
    }
    let folded = bare(teacher).graph;
    policy.resolve(&folded)?;
    taps(&folded, config).map(drop)
}

/// The images to adapt to, and those held out.
pub(crate) fn parts(images: &Unlabelled, config: &AdaptConfig, seed: u64) -> (Unlabelled, Unlabelled) {
    images.split(config.held_out.min(images.len() / 4).max(1), seed)
}

/// The network as it is adapted and compared: batch normalisation folded into the layers before it (that of a quantized one
/// is), and no softmax or sigmoid at its end.
pub(crate) fn bare(model: &Model) -> Model {
    let (folded, weights) = match model.is_quantized() {
        true => (model.graph.clone(), model.weights.clone()),
        false => pass::fold_batch_norm(&model.graph, &model.weights),
    };
    let graph = folded.without_head().unwrap_or(folded);
    Model { graph, weights, layers: model.layers.clone(), info: model.info.clone() }
}

/// [`adapt`] in a folder that is claimed already.
pub(crate) fn adapt_in(
    model: &Model,
    policy: &Policy,
    images: &Unlabelled,
    config: &AdaptConfig,
    seed: u64,
    folder: &RunFolder,
    context: &Context,
) -> Result<Adapted, Error> {
    let (adapting, held) = parts(images, config, seed);
    let order = Order { len: adapting.len(), batch: config.batch, seed: Random::new(seed, &[3]).next() };

    let (folded, _) = pass::fold_batch_norm(&model.graph, &model.weights);
    let Model { graph, weights, .. } = bare(model);
    let plan = policy.resolve(&graph)?;
    let device = context.device.clone().autodiff();
    let start = match config.batch_norm {
        BatchNormPolicy::Fold => weights.clone(),
        BatchNormPolicy::Reestimate => {
            pass::fold_batch_norm(&model.graph, &reestimated(model, policy, &adapting, &order, context)?).1
        }
    };
    let mut student = Network::student(&graph, &start, &plan, config.scale_update, &device)?;
    let teacher = Arc::new(Network::trainable(&graph, &weights, &context.device));
    let taps = taps(&graph, config)?;

    let known = |phase: &str, set: &Unlabelled| predict(phase, &[&teacher], set, context).map(|mut all| all.remove(0));
    let held_logits = known("teacher on the images held out", &held)?;
    // Those that can be read.
    let held = held.select(held_logits.images());
    check_fits(teacher.graph(), &held)?;
    let held_logits = Arc::new(Logits::new(held_logits.head(), held_logits.values().to_vec()));
    // What the teacher says to images that never change need be asked once.
    let cached = config.augment.is_none() && taps.is_empty();
    let logits = if cached { Some(Arc::new(known("teacher on the images to adapt to", &adapting)?)) } else { None };

    let checkpoints = folder.path().join(checkpoint::FOLDER);
    let workers = Workers::new(&context.device, config.parts.min(order.batch() / LEAST))?;
    if config.fit_images > 0 {
        student = fitted(student, &teacher, &start, &adapting, config.fit_images, &workers, &checkpoints, context)?;
    }
    let (done, journal) = checkpoint::newest(&checkpoints)?.unwrap_or_default();
    let patience = (config.patience > 0).then_some(config.patience);
    let session = Session::new(journal, context.interrupter.clone(), patience);
    let task = Task {
        session: session.clone(),
        workers,
        teacher,
        taps: taps.into(),
        loss: Loss::of(&folded),
        temperature: config.temperature,
        feature_weight: config.feature_weight,
        clip: config.clip,
    };
    let module = Student { network: student, task };

    let valid = Arc::new(held_batches(&held, held_logits, config.batch));
    if done == 0 {
        let point = before(&module, valid.as_ref(), &context.device)?;
        session.journal().points = vec![point];
    }
    let schedule = config.schedule(config.code_rate);
    let scheduler = ModuleLrScheduler::new(config.schedule(config.learning_rate).scheduler())
        .with_group(ParamGroup::from_predicate("latent"), schedule.scheduler())
        .with_group(ParamGroup::from_predicate("gain"), config.schedule(config.scale_rate).scheduler());
    let job = Job { module: module.clone(), optimizer: config.optimizer.init(config.weight_decay), scheduler };
    let images = config.steps.saturating_mul(order.batch());
    let span = Span { label: "adapt", checkpoints: &checkpoints, epochs: config.epochs(), images, done };
    let log = folder.path().join("loss.csv");
    let table = move |journal: &Journal| {
        let text = journal.csv(&schedule, ["held_out_divergence", "held_out_agreement"]);
        write::write(&log, text.as_bytes())
    };
    let trained = fit(
        job,
        &span,
        Arc::new(adaptation_batches(&adapting, logits, order, config, seed, done)),
        valid,
        &session,
        context,
        table.clone(),
    );
    let diverged_at = match trained {
        Ok(()) => None,
        Err(Error::Diverged { step, loss }) => {
            context.progress.message(&format!("training diverged: the loss became {loss:e} at step {step}"));
            Some(step)
        }
        Err(error) => return Err(error),
    };

    let journal = session.journal().clone();
    table(&journal)?;
    let best = best_epoch(&journal, journal.points.len() - 1);
    let module = if best == 0 { module } else { module.load_record(load_model(&checkpoints, best)?) };
    let student = Model { graph: folded, ..module.valid().network.to_model(model.info.clone())? };
    Ok(Adapted { student, best_step: journal.points[best].step, points: journal.points, diverged_at })
}

/// The nodes to compare beside the logits.
fn taps(folded: &Graph, config: &AdaptConfig) -> Result<Vec<NodeId>, Error> {
    let nodes = folded.nodes();
    let id = |name: &str| folded.find(name).expect("a node of this graph");
    if config.feature_weight == 0.0 {
        return Ok(Vec::new());
    }
    if config.features.is_empty() {
        let last = nodes.iter().rev().find(|node| node.shape.height * node.shape.width > 1);
        return Ok(last.map(|node| id(&node.name)).into_iter().collect());
    }
    let mut taps = Vec::new();
    for pattern in &config.features {
        let before = taps.len();
        taps.extend(nodes.iter().filter(|node| pattern::matches(pattern, &node.name)).map(|node| id(&node.name)));
        if taps.len() == before {
            return Err(Error::config(
                "adapt.features",
                format!("has `{pattern}`, which no node of `{}` matches", folded.name()),
            ));
        }
    }
    taps.sort_unstable();
    taps.dedup();
    Ok(taps)
}

/// The student before its first step, on the images held out.
fn before(module: &Student, held: &dyn DataLoader<Item>, device: &Device) -> Result<Point, Error> {
    let module = module.valid();
    let held = held.to_device(device);
    let (mut losses, mut agreed) = (Vec::new(), 0);
    for item in held.iter() {
        let output = InferenceStep::step(&module, item.map_err(|error| Error::Training(error.to_string()))?);
        let named = output.output.argmax(1).flatten::<1>(0, 1).equal(output.targets).int().sum();
        agreed += named.into_scalar::<i64>();
        losses.extend(host(output.loss));
    }
    let count = losses.len().max(1);
    let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / count as f64;
    if !loss.is_finite() {
        let network = module.network.graph().name();
        return Err(Error::Training(format!(
            "`{network}`, quantized, gives NaN or infinite outputs for images held out"
        )));
    }
    Ok(Point { step: 0, loss: loss as f32, accuracy: (100.0 * agreed as f64 / count as f64) as f32 })
}

/// Images, and what the teacher says to them where that is known already.
struct Item {
    images: Tensor<4>,
    teacher: Option<Tensor<2>>,
}

impl Item {
    /// One part a worker, each with its share of the images.
    fn parts(self, workers: &Workers) -> Vec<(Self, f64)> {
        let [len, ..] = self.images.dims();
        let cut = |range: std::ops::Range<usize>| {
            let share = range.len() as f64 / len as f64;
            let images = self.images.clone().narrow(0, range.start, range.len());
            let teacher = self.teacher.clone().map(|logits| logits.narrow(0, range.start, range.len()));
            (Self { images, teacher }, share)
        };
        workers.parts(len).into_iter().map(cut).collect()
    }
}

type Raw = (Batch, Option<(usize, Vec<f32>)>);

fn place((batch, teacher): Raw, device: &Device) -> Item {
    let count = batch.shape[0];
    let teacher = teacher
        .map(|(classes, rows)| Tensor::from_data(TensorData::new(rows, [count, classes]), &device.clone().inner()));
    Item { images: tensor(batch, device), teacher }
}

/// What the teacher said to the images of a batch; a batch that has an image which it has not seen is an error.
fn rows(set: &Unlabelled, logits: &Logits, batch: &Batch) -> Result<(usize, Vec<f32>), ImageError> {
    let mut rows = Vec::with_capacity(batch.indices.len() * logits.head().count);
    for &image in &batch.indices {
        rows.extend_from_slice(logits.of(image).ok_or_else(|| set.changed(image))?);
    }
    Ok((logits.head().count, rows))
}

fn adaptation_batches(
    set: &Unlabelled,
    logits: Option<Arc<Logits>>,
    order: Order,
    config: &AdaptConfig,
    seed: u64,
    done: usize,
) -> Loader<Raw, Item> {
    let (set, augment, batches, total) = (set.clone(), config.augment, config.checkpoint_every, config.steps);
    Loader::new(done, batches, batches * order.batch(), place, move |step| {
        let mut images = set.batch_of_some(&order.indices(step))?;
        augment.apply(&mut images, |i| Random::new(seed, &[4, step as u64, i as u64]));
        let known = logits.as_ref().map(|logits| rows(&set, logits, &images)).transpose()?;
        Ok((images, known))
    })
    .ending(total)
}

fn held_batches(set: &Unlabelled, logits: Arc<Logits>, batch: usize) -> Loader<Raw, Item> {
    let (set, count) = (set.clone(), set.len());
    let make = move |i: usize| {
        let indices: Vec<usize> = (i * batch..count.min((i + 1) * batch)).collect();
        let images = set.batch_of_some(&indices)?;
        let known = rows(&set, &logits, &images)?;
        Ok((images, Some(known)))
    };
    Loader::new(0, count.div_ceil(batch), count, place, make).repeating()
}

/// What a student is asked to do.
#[derive(Debug, Clone)]
struct Task {
    session: Session,
    workers: Workers,
    /// On the plain device; neither trained nor stored.
    teacher: Arc<Network>,
    taps: Arc<[NodeId]>,
    loss: Loss,
    temperature: f64,
    feature_weight: f64,
    clip: f32,
}

/// A quantized network that learns from its teacher.
#[derive(Module, Debug)]
struct Student {
    network: Network,
    #[module(skip)]
    task: Task,
}

impl Student {
    /// Loss of each image and the classes the teacher names; and the tapped nodes' error.
    fn learn(&self, item: Item) -> (ClassificationOutput, Option<Tensor<1>>) {
        let Task { teacher, taps, loss, temperature, .. } = &self.task;
        let (expected, features) = match item.teacher {
            Some(logits) if taps.is_empty() => (logits, Vec::new()),
            _ => teacher.forward_taps(item.images.clone().inner(), taps),
        };
        let targets = loss.ranks(expected.clone()).argmax(1).flatten::<1>(0, 1);
        let (logits, found) = self.network.forward_taps(item.images, taps);
        let losses = loss.divergence(Tensor::from_inner(expected), logits.clone(), *temperature);
        let error = |(t, s): (Tensor<4>, Tensor<4>)| {
            let energy = total(t.clone().square()).add_scalar(f32::MIN_POSITIVE);
            total((s - Tensor::from_inner(t)).square()) / Tensor::from_inner(energy)
        };
        let errors = features.into_iter().zip(found).map(error).reduce(|sum, error| sum + error);
        let errors = errors.map(|sum| sum.div_scalar(taps.len() as f64));
        (ClassificationOutput::new(losses, loss.ranks(logits), Tensor::from_inner(targets)), errors)
    }
}

/// The sum over all elements, over the last dimension first: burn adds millions at once in an order that differs from
/// call to call.
fn total(x: Tensor<4>) -> Tensor<1> {
    x.sum_dim(3).sum()
}

impl TrainStep for Student {
    type Input = Item;
    type Output = ClassificationOutput;

    fn step(&self, item: Item) -> TrainOutput<ClassificationOutput> {
        let Task { session, workers, feature_weight, .. } = &self.task;
        let device = item.images.device();
        let (grads, item) = workers.train_step(self, &device, item.parts(workers), |module, part, share| {
            let (mut output, error) = module.learn(part);
            if let Some(error) = error {
                output.loss = output.loss + error.mul_scalar(*feature_weight);
            }
            let loss = output.loss.clone().mean().mul_scalar(share);
            (GradientsParams::from_grads(loss.backward(), module), detached(output))
        });
        session.record(item.loss.clone().mean().into_scalar());
        TrainOutput { grads, item }
    }

    fn optimize(self, optim: &mut ModuleOptimizer, rate: ModuleLearningRate, grads: GradientsParams) -> Self {
        let grads = if self.task.clip > 0.0 { clip_global_norm(&self, grads, self.task.clip) } else { grads };
        optim.step(rate, self, grads)
    }
}

impl InferenceStep for Student {
    type Input = Item;
    type Output = ClassificationOutput;

    fn step(&self, item: Item) -> ClassificationOutput {
        let Task { session, workers, loss, .. } = &self.task;
        session.look();
        let parts = item.parts(workers).into_iter().map(|(part, _)| (self.clone(), part)).collect();
        join(workers.run(parts, |(module, part): (Self, Item)| {
            let teacher = part.teacher.expect("what the teacher says to images held out is known");
            let logits = module.network.forward(part.images);
            let targets = loss.ranks(teacher.clone()).argmax(1).flatten::<1>(0, 1);
            ClassificationOutput::new(loss.divergence(teacher, logits.clone(), 1.0), loss.ranks(logits), targets)
        }))
    }
}
