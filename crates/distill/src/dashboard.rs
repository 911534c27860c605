//! burn's dashboard, which shows a training on the whole terminal.
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};
use burn::train::{Interrupter, LearnerSummary};

/// A renderer for burn's training loop that shows burn's dashboard until it is dropped. What is stopped there stops the run as any
/// interruption does, so that it can be resumed.
pub(crate) struct Dashboard {
    /// `None` once it was killed.
    inner: Option<TuiMetricsRendererWrapper>,
    /// The interrupter of the dashboard: burn resets it at the end of a training.
    keys: Interrupter,
    run: Interrupter,
}

impl Dashboard {
    /// Opens the dashboard for a training of which `done` epochs were done before; `run` stops the run.
    pub(crate) fn new(run: Interrupter, done: usize) -> Self {
        let keys = Interrupter::new();
        let inner = TuiMetricsRendererWrapper::new(keys.clone(), (done > 0).then_some(done));
        Self { inner: Some(inner), keys, run }
    }

    /// Passes something on to the dashboard, and its keys on to the run.
    fn show(&mut self, tell: impl FnOnce(&mut TuiMetricsRendererWrapper)) {
        let Some(inner) = &mut self.inner else { return };
        // Its key for an end at once panics in whoever speaks to it.
        if catch_unwind(AssertUnwindSafe(|| tell(inner))).is_err() {
            std::mem::forget(self.inner.take());
            self.run.stop(Some("the dashboard"));
        } else if self.keys.should_stop() {
            self.run.stop(Some("the dashboard"));
        }
        hear_interrupts();
    }
}

/// Has the terminal turn Ctrl-C into a signal, which the dashboard switches off.
#[cfg(unix)]
fn hear_interrupts() {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let terminal = std::io::stdin();
    if let Ok(mut modes) = tcgetattr(&terminal)
        && !modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ISIG)
    {
        modes.local_modes |= LocalModes::ISIG;
        // Without it `q` stops the run.
        let _ = tcsetattr(&terminal, OptionalActions::Now, &modes);
    }
}

#[cfg(not(unix))]
fn hear_interrupts() {}

impl TrainingProgressLogger for Dashboard {
    fn start(&mut self, epochs: usize, first: usize, items: Option<usize>, label: Option<&str>) {
        self.show(|inner| TrainingProgressLogger::start(inner, epochs, first, items, label));
    }

    fn update_epoch(&mut self, epoch: usize) {
        self.show(|inner| inner.update_epoch(epoch));
    }

    fn start_split(&mut self, split: &str, items: usize) {
        self.show(|inner| inner.start_split(split, items));
    }

    fn update_split(&mut self, items: usize) {
        self.show(|inner| inner.update_split(items));
    }

    fn end_split(&mut self) {
        self.show(TrainingProgressLogger::end_split);
    }

    fn end(&mut self) {
        self.show(TrainingProgressLogger::end);
    }

    fn log_event_training(&mut self, event: String) {
        self.show(|inner| inner.log_event_training(event));
    }
}

impl MetricsRendererTraining for Dashboard {
    fn update_train(&mut self, state: MetricState) {
        self.show(|inner| inner.update_train(state));
    }

    fn update_valid(&mut self, state: MetricState) {
        self.show(|inner| inner.update_valid(state));
    }

    fn on_train_end(&mut self, summary: Option<LearnerSummary>) -> Result<(), Box<dyn Error>> {
        let mut result = Ok(());
        self.show(|inner| result = inner.on_train_end(summary));
        result
    }
}

impl MetricsRenderer for Dashboard {
    /// It closes when it is dropped.
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.show(|inner| inner.register_metric(definition));
    }
}

/// burn asks this of every renderer; a training evaluates nothing.
impl MetricsRendererEvaluation for Dashboard {
    fn update_test(&mut self, name: EvaluationName, state: MetricState) {
        self.show(|inner| inner.update_test(name, state));
    }
}

impl EvaluationProgressLogger for Dashboard {
    fn start_global_progress(&mut self, _: usize) {}

    fn start_test(&mut self, _: &str, _: usize) {}

    fn update_test_progress(&mut self, _: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _: String) {}
}
