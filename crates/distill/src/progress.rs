use std::sync::Arc;

use burn::tensor::Device;
use burn::train::Interrupter;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{LossMetric, Metric, MetricDefinition, MetricId};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};

use crate::Error;

/// A listener that hears how far a run is. By default its methods do nothing, and those of `()` do nothing.
pub trait Progress: Send + Sync {
    /// Hears that a phase begins that counts `total` images or steps.
    fn start(&self, phase: &str, total: usize) {
        let _ = (phase, total);
    }

    /// Hears that the phase goes on where an earlier start of the run left it, with `done` of its total.
    fn resume(&self, done: usize) {
        self.advance(done, "");
    }

    /// Hears that `done` of the phase's total are done. `note` says more, such as a loss; it may be empty.
    fn advance(&self, done: usize, note: &str) {
        let _ = (done, note);
    }

    /// Hears that the phase is over.
    fn finish(&self) {}
}

impl Progress for () {}

/// The surroundings of a run: its device, who hears of it and who may stop it.
#[derive(Clone)]
pub struct Context {
    /// The plain device; training uses its autodiff twin.
    pub device: Device,
    /// The listener that hears how far the run is.
    pub progress: Arc<dyn Progress>,
    /// The interrupter that stops the run.
    pub interrupter: Interrupter,
    /// Tells whether burn's dashboard fills the terminal while a network is trained, in place of what the listener hears of it.
    /// Stdout must be a terminal.
    pub dashboard: bool,
}

impl Context {
    /// A context on this device, without a listener, with an interrupter of its own.
    pub fn new(device: Device) -> Self {
        Self { device, progress: Arc::new(()), interrupter: Interrupter::new(), dashboard: false }
    }

    /// The same context with a listener.
    #[must_use]
    pub fn with_progress(self, progress: impl Progress + 'static) -> Self {
        Self { progress: Arc::new(progress), ..self }
    }

    /// Checks that the run was not stopped.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once [`Interrupter::stop`] was called.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.interrupter.should_stop() { Err(self.interrupted()) } else { Ok(()) }
    }

    /// The error of a run that was stopped.
    pub(crate) fn interrupted(&self) -> Error {
        Error::Interrupted { reason: self.interrupter.get_message() }
    }
}

impl Default for Context {
    /// A context on the CPU.
    fn default() -> Self {
        Self::new(Device::flex())
    }
}

/// A renderer for burn's training loop that passes on what [`Progress`] wants to hear.
pub(crate) struct Renderer {
    progress: Arc<dyn Progress>,
    per_epoch: usize,
    total: usize,
    done: usize,
    training: bool,
    /// The id of the loss among burn's metrics.
    loss: Option<MetricId>,
    note: String,
}

impl Renderer {
    /// Counts images of the training split, `total` in all and `per_epoch` of them an epoch but for the last one; `done`
    /// epochs were done before.
    pub(crate) fn new(progress: Arc<dyn Progress>, per_epoch: usize, total: usize, done: usize) -> Self {
        Self { progress, per_epoch, total, done: per_epoch * done, training: false, loss: None, note: String::new() }
    }
}

impl TrainingProgressLogger for Renderer {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, label: Option<&str>) {
        self.progress.start(label.unwrap_or("train"), self.total);
        if self.done > 0 {
            self.progress.resume(self.done);
        }
    }

    fn update_epoch(&mut self, _: usize) {
        self.done += self.per_epoch;
    }

    fn start_split(&mut self, split: &str, _: usize) {
        self.training = split.eq_ignore_ascii_case("train");
    }

    fn update_split(&mut self, items: usize) {
        if self.training {
            self.progress.advance(self.done + items, &self.note);
        }
    }

    fn end_split(&mut self) {}

    fn end(&mut self) {
        self.progress.finish();
    }

    fn log_event_training(&mut self, _: String) {}
}

impl MetricsRendererTraining for Renderer {
    fn update_train(&mut self, state: MetricState) {
        if let MetricState::Numeric(entry, Some(value)) = state
            && self.loss.as_ref() == Some(&entry.metric_id)
        {
            self.note = format!("loss {:.4}", value.current());
        }
    }

    fn update_valid(&mut self, _: MetricState) {}
}

impl MetricsRenderer for Renderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        if *definition.name == *LossMetric::new().name() {
            self.loss = Some(definition.metric_id);
        }
    }
}

impl MetricsRendererEvaluation for Renderer {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl EvaluationProgressLogger for Renderer {
    fn start_global_progress(&mut self, _: usize) {}

    fn start_test(&mut self, _: &str, _: usize) {}

    fn update_test_progress(&mut self, _: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _: String) {}
}
