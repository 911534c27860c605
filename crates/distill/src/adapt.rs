//! Adaptation without labels: a quantized student is trained to give its teacher's outputs.
use std::sync::Arc;

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::Module;
use burn::module::ParamGroup;
use dsconv::Network;
use graph::{Folded, Graph, NodeId};
use images::Unlabelled;
use model::policy::Plan;
use model::{Model, ModelError, Policy, pattern};
use serde::Serialize;

use crate::checkpoint::{self, best_epoch};
use crate::cost::{Cost, Meter};
use crate::evaluate::{check_fits, predict};
use crate::fit::LayerFit;
use crate::folder::RunFolder;
use crate::harness::{Batches, Course, Harness, Log, Steps, Trainee};
use crate::imitate::{Imitate, Lessons, batches_to_measure};
use crate::journal::Point;
use crate::logits::Logits;
use crate::loss::Loss;
use crate::origin::{Origin, claim};
use crate::random::{Order, Random};
use crate::reestimate::reestimated;
use crate::settings::{AdaptConfig, BatchNormPolicy};
use crate::workers::Workers;
use crate::{Context, Error, write};

/// The least images of a part of a batch: a part costs a pass over all weights.
const LEAST: usize = 8;

/// An adaptation: what it works on, and its settings. None of it holds a label.
#[derive(Debug, Clone, Copy)]
pub struct Adaptation<'a> {
    /// The float network that is quantized, and that its student learns from.
    pub teacher: &'a Model,
    /// The policy says which layer is quantized to what.
    pub policy: &'a Policy,
    /// The images to learn from; some of them are held out.
    pub images: &'a Unlabelled,
    /// The settings.
    pub config: &'a AdaptConfig,
    /// The seed decides which images are held out, the order of the others and their random changes.
    pub seed: u64,
}

/// The result of an adaptation.
#[derive(Debug)]
#[non_exhaustive]
pub struct Adapted {
    /// The student at its best step.
    pub student: Model,
    /// The step at which the student was best: 0 where no step was better than the student before the first, its layers fitted.
    pub best_step: usize,
    /// What was measured on the images held out, from step 0 on.
    pub points: Vec<Point>,
    /// The step at which the loss went out of all bounds, which ended training; the student is the best one before it.
    pub diverged_at: Option<usize>,
    /// What fitting its layers cost; `None` where they were not fitted.
    pub fit: Option<Cost>,
    /// What the training cost.
    pub training: Cost,
}

/// Quantizes a copy of the teacher and trains it, on images alone, to give the teacher's outputs: layer by layer first
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
pub fn adapt(job: &Adaptation<'_>, folder: &RunFolder, context: &Context) -> Result<Adapted, Error> {
    job.check()?;
    let Adaptation { teacher, policy, images, config, seed } = *job;
    let origin = Origin::default().model("teacher", teacher).images("images to adapt to", images.fingerprint());
    claim(folder, RunFolder::ADAPT, &Settings { seed, adapt: config, quantize: policy }, &origin)?;
    job.run(folder, context)
}

/// The settings of [`adapt`].
#[derive(Serialize)]
struct Settings<'a> {
    seed: u64,
    adapt: &'a AdaptConfig,
    quantize: &'a Policy,
}

impl Adaptation<'_> {
    /// Says what is wrong with an adaptation before any work is done.
    ///
    /// # Errors
    /// Settings that make no sense, a policy that does not fit the network, images that do not or are too few.
    pub fn check(&self) -> Result<(), Error> {
        let Self { teacher, policy, images, config, .. } = *self;
        config.check()?;
        check_fits(teacher.graph(), images)?;
        if images.len() < 2 {
            let why = "it has one image: one is held out, and another is needed to learn from".into();
            return Err(Error::Data { set: images.name().into(), why });
        }
        if teacher.is_quantized() {
            return Err(ModelError::AlreadyQuantized { graph: teacher.graph().name().into() }.into());
        }
        if teacher.graph().head().outputs == graph::Outputs::Values {
            let why = "its outputs are computed from a softmax or sigmoid, and a student learns from logits".to_owned();
            return Err(Error::Data { set: format!("`{}`", teacher.graph().name()), why });
        }
        let graph = teacher.graph().fold().without_head();
        policy.resolve(&graph)?;
        taps(&graph, config).map(drop)
    }

    /// The images to learn from, and those held out.
    pub(crate) fn split(&self) -> (Unlabelled, Unlabelled) {
        self.images.split(self.config.held_out.min(self.images.len() / 4).max(1), self.seed)
    }

    /// Adapts in a folder that is claimed already.
    pub(crate) fn run(&self, folder: &RunFolder, context: &Context) -> Result<Adapted, Error> {
        let config = self.config;
        let (images, held) = self.split();
        let order = Order { len: images.len(), batch: config.batch, seed: Random::new(self.seed, &[3]).next() };
        let workers = Workers::new(&context.device, config.parts.min(order.batch() / LEAST))?;
        let start = self.start(&images, &order, context)?;
        let (graph, weights) = (start.teacher.graph(), start.teacher.weights());
        let teacher = Arc::new(Network::trainable(graph, weights, &context.device));
        let taps = taps(graph, config)?;

        let known =
            |phase: &str, set: &Unlabelled| predict(phase, &[&teacher], set, context).map(|mut all| all.remove(0));
        let (held, held_logits) = readable(&held, known("teacher on the images held out", &held)?);
        check_fits(teacher.graph(), &held)?;
        // What the teacher says to images that never change need be asked once.
        let cached = config.augment.is_none() && taps.is_empty();
        let logits = if cached { Some(known("teacher on the images to adapt to", &images)?) } else { None };
        let given = (config.fit_images > 0).then(|| images.take(config.fit_images));
        let drawn = given.as_ref().and_then(|given| LayerFit::drawn_beside(given.len(), self.seed, self.teacher));
        let fit = LayerFit {
            teacher: &start.teacher,
            weights: start.student.weights(),
            plan: &start.plan,
            given: given.as_ref(),
            drawn: drawn.as_ref(),
            synthetic: None,
            seed: self.seed,
        };
        let (student, cost) = fitted(&fit, start.network, folder, context)?;

        let log = Log {
            path: folder.file(RunFolder::LOSS),
            schedule: config.schedule(config.code_rate),
            columns: ["held_out_divergence", "held_out_agreement"],
        };
        let harness = Harness::open(folder, log, (config.patience > 0).then_some(config.patience), context)?;
        let task = Imitate {
            teacher,
            taps: taps.into(),
            loss: Loss::of(&self.teacher.graph().fold()),
            temperature: config.temperature,
            feature_weight: config.feature_weight,
        };
        let trainee = harness.trainee(student, task, Steps { workers, clip: config.clip });
        let measure = Arc::new(batches_to_measure(&held, held_logits, config.batch));
        if harness.done() == 0 {
            harness.journal().points = vec![finite(harness.before(&trainee, measure.as_ref())?, graph)?];
        }
        let lessons = Lessons { set: &images, logits, order: order.clone(), config, seed: self.seed };
        let learn = Arc::new(lessons.batches(harness.done()));
        let trained = harness.fit(trainee.clone(), self.course(&order), Batches { learn, measure });
        let diverged_at = match trained {
            Ok(()) => None,
            Err(Error::Diverged { step, .. }) => Some(step),
            Err(error) => return Err(error),
        };
        harness.write_log()?;
        self.adapted(&harness, trainee, diverged_at, cost)
    }

    /// The best of the students that the harness has kept.
    fn adapted(
        &self,
        harness: &Harness<'_>,
        trainee: Trainee<Imitate>,
        diverged_at: Option<usize>,
        fit: Option<Cost>,
    ) -> Result<Adapted, Error> {
        let training = harness.cost();
        let points = harness.journal().points.clone();
        let best = best_epoch(&harness.journal(), points.len() - 1);
        let network = harness.network(trainee, best)?;
        let (_, weights, layers, info) = network.to_model(self.teacher.info().clone())?.into_parts();
        // The student ends as its teacher does, in a softmax or sigmoid if there is one.
        let student = Model::new(self.teacher.graph().fold().into_graph(), weights, layers, info)?;
        Ok(Adapted { student, best_step: points[best].step, points, diverged_at, fit, training })
    }

    /// Teacher and student before anything is fitted or trained.
    fn start(&self, images: &Unlabelled, order: &Order, context: &Context) -> Result<Start, Error> {
        let Self { teacher: model, policy, config, .. } = *self;
        let teacher = bare(model)?;
        let plan = policy.resolve(teacher.graph())?;
        let student = match config.batch_norm {
            BatchNormPolicy::Fold => teacher.clone(),
            BatchNormPolicy::Reestimate => {
                Folded::new(model.graph(), reestimated(model, policy, images, order, context)?)?.without_head()
            }
        };
        let device = context.device.clone().autodiff();
        let network = Network::student(&student, &plan, config.scale_update, &device)?;
        Ok(Start { teacher, student, plan, network })
    }

    fn course(&self, order: &Order) -> Course {
        let config = self.config;
        let rate = |peak| config.schedule(peak).scheduler();
        Course {
            label: "adapt",
            epochs: config.epochs(),
            images: config.steps.saturating_mul(order.batch()),
            optimizer: config.optimizer.init(config.weight_decay),
            scheduler: ModuleLrScheduler::new(rate(config.learning_rate))
                .with_group(ParamGroup::from_predicate("latent"), rate(config.code_rate))
                .with_group(ParamGroup::from_predicate("gain"), rate(config.scale_rate)),
        }
    }
}

/// Fits the layers of `student`, which runs on an autodiff device, and says what that cost; without images it stays as it is. The
/// fit is found in the folder where an earlier start of this run got so far.
fn fitted(
    fit: &LayerFit<'_>,
    mut student: Network,
    folder: &RunFolder,
    context: &Context,
) -> Result<(Network, Option<Cost>), Error> {
    if fit.given.is_none() {
        return Ok((student, None));
    }
    let [path, cost] = ["fitted.bpk", "fitted.json"].map(|name| folder.file(RunFolder::CHECKPOINTS).join(name));
    if path.exists() {
        return Ok((student.load_record(checkpoint::load_record(&path)?), Some(Cost::read(&cost)?)));
    }
    let meter = Meter::start(Cost::default());
    let fitted = fit.run(context)?;
    for (index, node) in fit.teacher.graph().nodes().iter().enumerate() {
        if let Some(found) = fitted.found(&node.name) {
            student.requantize(index, &found.codes, found.bias.clone());
        }
    }
    let record = student.clone().into_record().into_bytes().map_err(|e| Error::file(&path, e))?;
    let spent = meter.cost();
    write::write_json(&cost, &spent)?;
    write::write(&path, &record)?;
    Ok((student, Some(spent)))
}

/// What an adaptation begins with.
struct Start {
    /// The teacher as [`bare`] makes it.
    teacher: Folded,
    /// What the student is quantized from, of the same graph.
    student: Folded,
    plan: Plan,
    /// The student, on the autodiff device.
    network: Network,
}

/// The images of a set that could be read, with their logits.
fn readable(set: &Unlabelled, logits: Logits) -> (Unlabelled, Logits) {
    (set.select(logits.images()), Logits::new(logits.head(), logits.values().to_vec()))
}

/// Checks the measurement before training.
///
/// # Errors
/// [`Error::Training`] where the loss before training is no number.
fn finite(before: Point, graph: &Graph) -> Result<Point, Error> {
    if before.loss.is_finite() {
        return Ok(before);
    }
    let name = graph.name();
    Err(Error::training(format!("`{name}`, quantized, gives NaN or infinite outputs for images held out")))
}

/// The float network as it is adapted and compared: batch normalisation folded into the layers before it, and no softmax or
/// sigmoid at its end.
pub(crate) fn bare(teacher: &Model) -> Result<Folded, Error> {
    Ok(teacher.clone().fold()?.without_head())
}

/// Finds the nodes to compare beside the logits.
///
/// # Errors
/// [`Error::Config`] where a pattern of [`AdaptConfig::features`] matches no node.
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
