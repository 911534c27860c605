use std::sync::Arc;

use burn::tensor::Device;
use burn::train::Interrupter;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{LossMetric, Metric, MetricDefinition, MetricId};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};

use crate::Error;

/// Hears how far a run is. All methods have bodies that do nothing; `()` hears nothing.
pub trait Progress: Send + Sync {
    /// A phase begins that counts `total` images or steps.
    fn start(&self, phase: &str, total: usize) {
        let _ = (phase, total);
    }

    /// The phase goes on where an earlier run left it: `done` of its total were done then.
    fn resume(&self, done: usize) {
        self.advance(done, "");
    }

    /// `done` of the phase's total are done. `note` says more (a loss, an accuracy); empty where there is nothing to say.
    fn advance(&self, done: usize, note: &str) {
        let _ = (done, note);
    }

    /// The phase is over.
    fn finish(&self) {}
}

impl Progress for () {}

/// Where a phase runs, who hears of it and who may stop it.
#[derive(Clone)]
pub struct Context {
    /// The plain device; training uses its autodiff twin.
    pub device: Device,
    /// Hears how far it is.
    pub progress: Arc<dyn Progress>,
    /// Stops it.
    pub interrupter: Interrupter,
}

impl Context {
    /// On this device, silent, with an interrupter of its own.
    pub fn new(device: Device) -> Self {
        Self { device, progress: Arc::new(()), interrupter: Interrupter::new() }
    }

    /// The same with somebody who hears of it.
    #[must_use]
    pub fn with_progress(self, progress: impl Progress + 'static) -> Self {
        Self { progress: Arc::new(progress), ..self }
    }

    /// # Errors
    /// [`Error::Interrupted`] once [`Interrupter::stop`] was called.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.interrupter.should_stop() {
            return Err(Error::Interrupted { reason: self.interrupter.get_message() });
        }
        Ok(())
    }
}

impl Default for Context {
    /// On the CPU.
    fn default() -> Self {
        Self::new(Device::flex())
    }
}

/// burn's training loop speaks to a renderer; ours passes on what [`Progress`] wants to hear.
pub(crate) struct Renderer {
    progress: Arc<dyn Progress>,
    per_epoch: usize,
    total: usize,
    done: usize,
    training: bool,
    /// burn's name for the loss among its metrics, and the last one.
    loss: Option<MetricId>,
    note: String,
}

impl Renderer {
    /// Counts in items of the training split, `total` in all and `per_epoch` of them an epoch but for the last one; `done`
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
