//! The training loop that [`train`](crate::train()) and [`adapt`](crate::adapt()) share: burn's supervised training with a
//! journal, checkpoints, interruption and measurements on fixed images. A [`Task`] says what a network is trained to do.
use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};

use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::renderer::MetricsRenderer;
use burn::train::{
    ClassificationOutput, ExecutionStrategy, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep,
};
use dsconv::Network;

use crate::checkpoint::{self, Checkpoints, load_model};
use crate::cost::{Cost, Meter};
use crate::dashboard::Dashboard;
use crate::evaluate::host;
use crate::folder::RunFolder;
use crate::journal::{Journal, Measurements, Point, Session};
use crate::optimize::{Schedule, clip_global_norm};
use crate::progress::Renderer;
use crate::workers::{Workers, join};
use crate::{Context, Error, write};

/// Images as a tensor, with what a task knows of them.
pub(crate) trait Examples: Send + Sized + 'static {
    /// The images, `[N, C, H, W]`.
    fn images(&self) -> &Tensor<4>;

    /// Some of the images with what is known of them.
    fn narrow(&self, range: Range<usize>) -> Self;
}

/// One part of a batch for each worker, with its share of the images.
fn parts<E: Examples>(batch: &E, workers: &Workers) -> Vec<(E, f64)> {
    let [len, ..] = batch.images().dims();
    let part = |range: Range<usize>| {
        let share = range.len() as f64 / len as f64;
        (batch.narrow(range), share)
    };
    workers.parts(len).into_iter().map(part).collect()
}

/// What a network is trained to do.
pub(crate) trait Task: Clone + Debug + Send + Sync + 'static {
    /// What a batch holds.
    type Examples: Examples;

    /// Runs the network in training and returns each image's loss, numbers for its classes `[N, classes]` and target class.
    fn learn(&self, network: &Network, examples: Self::Examples) -> ClassificationOutput;

    /// Runs the network on images that it does not learn from and returns the same.
    fn measure(&self, network: &Network, examples: Self::Examples) -> ClassificationOutput;
}

/// How the steps of a task are worked on.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    pub(crate) workers: Workers,
    /// The largest norm of all gradients together; 0 sets no limit.
    pub(crate) clip: f32,
}

/// A network with its task, as burn trains it.
#[derive(Module, Debug)]
pub(crate) struct Trainee<T: Task> {
    pub(crate) network: Network,
    #[module(skip)]
    task: T,
    #[module(skip)]
    steps: Steps,
    #[module(skip)]
    session: Session,
}

impl<T: Task> Trainee<T> {
    /// The gradients and the output of a part of a batch, whose loss is weighed by its share of the images.
    fn learn(&self, (part, share): (T::Examples, f64)) -> (GradientsParams, ClassificationOutput) {
        let output = self.task.learn(&self.network, part);
        let loss = output.loss.clone().mean().mul_scalar(share);
        (GradientsParams::from_grads(loss.backward(), self), detached(output))
    }

    /// Adds up gradients and output of a batch from those of its parts, each of which runs through a copy of its own.
    fn learn_parts(&self, parts: Vec<(T::Examples, f64)>) -> (GradientsParams, ClassificationOutput) {
        // A copy's gradients are of leaves of its own; the ids stay those of this module.
        let copy = |part: (T::Examples, f64)| {
            let fork = self.clone().fork(&part.0.images().device());
            (Self { network: fork.network.with_own_statistics(), ..fork }, part)
        };
        let results = self.steps.workers.run(parts.into_iter().map(copy).collect(), |(copy, part): (Self, _)| {
            let (grads, output) = copy.learn(part);
            (copy.network, grads, output)
        });
        let mut sum = GradientsAccumulator::<Self>::new();
        let (mut networks, mut outputs) = (Vec::new(), Vec::new());
        for (network, grads, output) in results {
            sum.accumulate(self, grads);
            networks.push(network);
            outputs.push(output);
        }
        self.network.average_statistics(&networks);
        (sum.grads(), join(outputs))
    }
}

impl<T: Task> TrainStep for Trainee<T> {
    type Input = T::Examples;
    type Output = ClassificationOutput;

    fn step(&self, batch: T::Examples) -> TrainOutput<ClassificationOutput> {
        let workers = &self.steps.workers;
        let mut parts = parts(&batch, workers);
        let (grads, item) = if parts.len() == 1 { self.learn(parts.remove(0)) } else { self.learn_parts(parts) };
        self.session.record(item.loss.clone().mean().into_scalar());
        TrainOutput { grads, item }
    }

    fn optimize(self, optim: &mut ModuleOptimizer, rate: ModuleLearningRate, grads: GradientsParams) -> Self {
        let clip = self.steps.clip;
        let grads = if clip > 0.0 { clip_global_norm(&self, grads, clip) } else { grads };
        optim.step(rate, self, grads)
    }
}

impl<T: Task> InferenceStep for Trainee<T> {
    type Input = T::Examples;
    type Output = ClassificationOutput;

    fn step(&self, batch: T::Examples) -> ClassificationOutput {
        self.session.look();
        let workers = &self.steps.workers;
        let parts = parts(&batch, workers).into_iter().map(|(part, _)| (self.clone(), part)).collect();
        join(workers.run(parts, |(module, part): (Self, T::Examples)| module.task.measure(&module.network, part)))
    }
}

/// The output off the autodiff graph, which holds every value of the forward pass.
fn detached(output: ClassificationOutput) -> ClassificationOutput {
    let ClassificationOutput { loss, output, targets } = output;
    ClassificationOutput::new(loss.without_autodiff(), output.without_autodiff(), targets.without_autodiff())
}

/// The table of a run's steps, a file of its folder.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    /// The learning rate to show.
    pub(crate) schedule: Schedule,
    /// Names of the columns of a [`Point`]'s loss and accuracy.
    pub(crate) columns: [&'static str; 2],
}

impl Log {
    fn write(&self, journal: &Journal) -> Result<(), Error> {
        write::write(&self.path, journal.csv(&self.schedule, self.columns).as_bytes())
    }
}

/// The length of a training, and how its weights are moved.
pub(crate) struct Course {
    /// The name of the phase for who watches.
    pub(crate) label: &'static str,
    /// burn's epochs, each of which ends with measurements and a checkpoint.
    pub(crate) epochs: usize,
    /// The images of all steps together.
    pub(crate) images: usize,
    pub(crate) optimizer: ModuleOptimizer,
    pub(crate) scheduler: ModuleLrScheduler,
}

/// The batches to learn from, beginning with those of the first epoch that is not done, and those to measure on.
pub(crate) struct Batches<E> {
    pub(crate) learn: Arc<dyn DataLoader<E>>,
    pub(crate) measure: Arc<dyn DataLoader<E>>,
}

/// The file of what a training has cost, beside its checkpoints.
const COST: &str = "cost.json";

/// A training in a run folder, at the newest complete checkpoint that lies there.
pub(crate) struct Harness<'a> {
    context: &'a Context,
    checkpoints: PathBuf,
    log: Log,
    session: Session,
    done: usize,
    meter: Arc<Meter>,
}

impl<'a> Harness<'a> {
    /// Finds the newest checkpoint of `folder`. Training ends early after `patience` epochs without a better one.
    pub(crate) fn open(
        folder: &RunFolder,
        log: Log,
        patience: Option<usize>,
        context: &'a Context,
    ) -> Result<Self, Error> {
        let checkpoints = folder.file(RunFolder::CHECKPOINTS);
        let (done, journal) = checkpoint::newest(&checkpoints)?.unwrap_or_default();
        let session = Session::new(journal, context.interrupter.clone(), patience);
        let meter = Arc::new(Meter::start(Cost::read(&checkpoints.join(COST))?));
        Ok(Self { context, checkpoints, log, session, done, meter })
    }

    /// The epochs that an earlier start of this run has done.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// What the training has cost, from when the harness was opened.
    pub(crate) fn cost(&self) -> Cost {
        self.meter.cost()
    }

    /// What was measured so far.
    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.session.journal()
    }

    /// The network with its task, for [`fit`](Self::fit).
    pub(crate) fn trainee<T: Task>(&self, network: Network, task: T, steps: Steps) -> Trainee<T> {
        Trainee { network, task, steps, session: self.session.clone() }
    }

    /// Trains to the last epoch, or to where the journal says that it has ended. The result is in the checkpoints.
    ///
    /// # Errors
    /// [`Error::Diverged`], [`Error::Interrupted`], [`Error::Training`], and those of images and files.
    pub(crate) fn fit<T: Task>(
        &self,
        trainee: Trainee<T>,
        course: Course,
        batches: Batches<T::Examples>,
    ) -> Result<(), Error> {
        let (context, session) = (self.context, &self.session);
        context.check()?;
        if self.done >= course.epochs || session.is_stuck() {
            return Ok(());
        }
        let Batches { learn, measure } = batches;
        let renderer: Box<dyn MetricsRenderer> = match context.dashboard {
            true => Box::new(Dashboard::new(context.interrupter.clone(), self.done)),
            false => Box::new(Renderer::new(context.progress.clone(), learn.num_items(), course.images, self.done)),
        };
        let (log, meter, cost) = (self.log.clone(), self.meter.clone(), self.checkpoints.join(COST));
        let checkpoints = Checkpoints::new(&self.checkpoints, session.clone(), move |journal| {
            log.write(journal)?;
            write::write_json(&cost, &meter.cost())
        });
        let [model, optimizer, scheduler] = checkpoints.parts();
        let training = SupervisedTraining::new(&self.checkpoints, learn, measure)
            .metrics((LossMetric::new(), AccuracyMetric::new()))
            .with_metric_logger(Measurements::default())
            .with_application_logger(None)
            .renderer(renderer)
            .with_interrupter(session.interrupter())
            .with_custom_checkpointers(model, optimizer, scheduler)
            .with_checkpointing_strategy(session.clone())
            .early_stopping(session.clone())
            .with_training_strategy(ExecutionStrategy::single(context.device.clone().autodiff()).into())
            .label(course.label)
            .num_epochs(course.epochs);
        let training = if self.done > 0 { training.checkpoint(self.done) } else { training };
        let result = training.launch(Learner::new(trainee, course.optimizer, course.scheduler));
        if let Some(error) = session.failure() {
            return Err(error);
        }
        if let Some(error) = result.error {
            return Err(Error::training(error));
        }
        context.check()
    }

    /// Writes the table of the steps so far.
    pub(crate) fn write_log(&self) -> Result<(), Error> {
        self.log.write(&self.journal())
    }

    /// The network, on the plain device, as it was after `epoch`; 0 is the one that `trainee` holds.
    pub(crate) fn network<T: Task>(&self, trainee: Trainee<T>, epoch: usize) -> Result<Network, Error> {
        let trainee = if epoch == 0 { trainee } else { trainee.load_record(load_model(&self.checkpoints, epoch)?) };
        Ok(trainee.valid().network)
    }

    /// What is measured before the first step.
    pub(crate) fn before<T: Task>(
        &self,
        trainee: &Trainee<T>,
        measure: &dyn DataLoader<T::Examples>,
    ) -> Result<Point, Error> {
        let trainee = trainee.valid();
        let batches = measure.to_device(&self.context.device);
        let (mut losses, mut right) = (Vec::new(), 0);
        for batch in batches.iter() {
            let output = InferenceStep::step(&trainee, batch.map_err(Error::training)?);
            let named = output.output.argmax(1).flatten::<1>(0, 1).equal(output.targets).int().sum();
            right += named.into_scalar::<i64>();
            losses.extend(host(output.loss));
        }
        let count = losses.len().max(1) as f64;
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / count;
        Ok(Point { step: 0, loss: loss as f32, agreement: (100.0 * right as f64 / count) as f32 })
    }
}
