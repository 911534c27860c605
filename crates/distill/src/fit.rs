use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::ModuleOptimizer;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{ClassificationOutput, InferenceStep, Learner, LearnerModel, SupervisedTraining, TrainStep};

use crate::checkpoint::Checkpoints;
use crate::journal::{Journal, Measurements, Session};
use crate::progress::Renderer;
use crate::{Context, Error};

/// What burn trains, and how it moves.
pub(crate) struct Job<M> {
    pub(crate) module: M,
    pub(crate) optimizer: ModuleOptimizer,
    pub(crate) scheduler: ModuleLrScheduler,
}

/// How long, and from where on.
pub(crate) struct Span<'a> {
    /// The phase's name for who watches.
    pub(crate) label: &'a str,
    /// Folder of the checkpoints.
    pub(crate) checkpoints: &'a Path,
    /// Epochs of burn's, each with a checkpoint.
    pub(crate) epochs: usize,
    /// Images of all steps together.
    pub(crate) images: usize,
    /// Epochs that are done; their checkpoint is loaded.
    pub(crate) done: usize,
}

/// Runs burn's supervised training to the last epoch, or to where the session ends it. Its result is in the checkpoints.
pub(crate) fn fit<M, I>(
    job: Job<M>,
    span: &Span<'_>,
    train: Arc<dyn DataLoader<I>>,
    valid: Arc<dyn DataLoader<I>>,
    session: &Session,
    context: &Context,
    on_checkpoint: impl Fn(&Journal) -> Result<(), Error> + Send + Sync + 'static,
) -> Result<(), Error>
where
    I: Send + 'static,
    M: LearnerModel
        + TrainStep<Input = I, Output = ClassificationOutput>
        + InferenceStep<Input = I, Output = ClassificationOutput>,
{
    context.check()?;
    if span.done >= span.epochs || session.is_stuck() {
        return Ok(());
    }
    let renderer = Renderer::new(context.progress.clone(), train.num_items(), span.images, span.done);
    let [model, optimizer, scheduler] = Checkpoints::new(span.checkpoints, session.clone(), on_checkpoint).parts();
    let training = SupervisedTraining::new(span.checkpoints, train, valid)
        .metrics((LossMetric::new(), AccuracyMetric::new()))
        .with_metric_logger(Measurements::default())
        .with_application_logger(None)
        .renderer(Box::new(renderer))
        .with_interrupter(session.interrupter())
        .with_custom_checkpointers(model, optimizer, scheduler)
        .with_checkpointing_strategy(session.clone())
        .early_stopping(session.clone())
        .with_training_strategy(burn::train::ExecutionStrategy::single(context.device.clone().autodiff()).into())
        .label(span.label)
        .num_epochs(span.epochs);
    let training = if span.done > 0 { training.checkpoint(span.done) } else { training };
    let result = training.launch(Learner::new(job.module, job.optimizer, job.scheduler));
    if let Some(error) = session.failure() {
        return Err(error);
    }
    if let Some(error) = result.error {
        return Err(Error::Training(error.to_string()));
    }
    context.check()
}
