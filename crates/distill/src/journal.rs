use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};

use burn::train::EarlyStoppingStrategy;
use burn::train::Interrupter;
use burn::train::checkpoint::{CheckpointingAction, CheckpointingStrategy};
use burn::train::logger::MetricLogger;
use burn::train::metric::store::{Aggregate, EpochSummary, EventStoreClient, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::optimize::Schedule;

/// A measurement on images held out, after some steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The number of steps done.
    pub step: usize,
    /// The mean loss on the images held out: cross entropy against the labels, or divergence from the teacher.
    pub loss: f32,
    /// The percentage of images held out that get the class that is wanted: the teacher's, or that of their label.
    #[serde(alias = "accuracy")]
    pub agreement: f32,
}

/// All that a run has measured so far. It is stored in each checkpoint, so that what is decided by it (the best
/// checkpoint, an early end) is decided alike after a resume. Its numbers are `f32`, which JSON keeps to the bit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// The loss of every step.
    pub(crate) losses: Vec<f32>,
    /// A measurement for every checkpoint, and one before training where that was measured.
    pub(crate) points: Vec<Point>,
}

impl Journal {
    /// The index of the first point with the lowest loss.
    pub(crate) fn best(&self) -> Option<usize> {
        let losses = self.points.iter().map(|p| p.loss).enumerate();
        losses.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(index, _)| index)
    }

    /// Whether the last `patience` points were no better than one before.
    pub(crate) fn is_stuck(&self, patience: usize) -> bool {
        self.best().is_some_and(|best| self.points.len() - 1 - best >= patience.max(1))
    }

    /// The journal as a table of `step,learning_rate,loss`, with the last two `columns` where there is a point.
    pub(crate) fn csv(&self, schedule: &Schedule, columns: [&str; 2]) -> String {
        let mut csv = format!("step,learning_rate,loss,{},{}\n", columns[0], columns[1]);
        let point = |csv: &mut String, step: usize| match self.points.iter().find(|p| p.step == step) {
            Some(p) => writeln!(csv, ",{},{}", p.loss, p.agreement),
            None => writeln!(csv, ",,"),
        };
        if self.points.first().is_some_and(|p| p.step == 0) {
            csv.push_str("0,,");
            point(&mut csv, 0).expect("a string takes all");
        }
        for (index, loss) in self.losses.iter().enumerate() {
            write!(csv, "{},{:.6e},{loss}", index + 1, schedule.at(index)).expect("a string takes all");
            point(&mut csv, index + 1).expect("a string takes all");
        }
        csv
    }
}

/// A session is what the threads of one training share: its journal, and what ends it.
#[derive(Debug, Clone)]
pub(crate) struct Session(Arc<Shared>);

/// A training ends where a loss is more than `DIVERGED` times the first one, or times `LEAST_LIMIT` where that is more.
const DIVERGED: f32 = 1000.0;
const LEAST_LIMIT: f32 = 10.0;

struct Shared {
    journal: Mutex<Journal>,
    /// The journal as it was at each checkpoint that is being written: training goes on meanwhile.
    marks: Mutex<BTreeMap<usize, Journal>>,
    failure: Mutex<Option<Error>>,
    /// The caller's interrupter.
    interrupter: Interrupter,
    /// The interrupter of burn's loop, which an error uses too: the caller's stays as it is.
    inner: Interrupter,
    patience: Option<usize>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    pub(crate) fn new(journal: Journal, interrupter: Interrupter, patience: Option<usize>) -> Self {
        let (journal, marks, failure) = (Mutex::new(journal), Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { journal, marks, failure, interrupter, inner: Interrupter::new(), patience }))
    }

    /// The interrupter of burn's loop.
    pub(crate) fn interrupter(&self) -> Interrupter {
        self.0.inner.clone()
    }

    /// Ends burn's loop where the caller has stopped the run.
    pub(crate) fn look(&self) {
        if self.0.interrupter.should_stop() {
            self.0.inner.stop(None);
        }
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.0.journal.lock().expect("nobody panics with the journal")
    }

    /// The journal as it was at the checkpoint of this epoch; it is handed out once.
    pub(crate) fn take_mark(&self, epoch: usize) -> Journal {
        let mark = self.0.marks.lock().expect("nobody panics with the marks").remove(&epoch);
        mark.expect("burn asks the strategy before it saves")
    }

    /// Adds the loss of a step to the journal; one that is out of all bounds ends the training.
    pub(crate) fn record(&self, loss: f32) {
        let (step, first) = {
            let mut journal = self.journal();
            journal.losses.push(loss);
            (journal.losses.len(), journal.losses[0])
        };
        // Of NaN neither is true.
        if !(loss.is_finite() && loss <= DIVERGED * first.max(LEAST_LIMIT)) {
            self.fail(Error::Diverged { step, loss });
        }
        self.look();
    }

    /// Ends the training with an error; the first one counts.
    pub(crate) fn fail(&self, error: Error) {
        self.0.failure.lock().expect("nobody panics with the failure").get_or_insert(error);
        self.0.inner.stop(Some("an error"));
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.0.failure.lock().expect("nobody panics with the failure").take()
    }

    /// Whether the journal says that the training has ended early.
    pub(crate) fn is_stuck(&self) -> bool {
        self.0.patience.is_some_and(|patience| self.journal().is_stuck(patience))
    }
}

/// burn saves a checkpoint after each epoch; the measurements on the images held out go into the journal before.
impl CheckpointingStrategy for Session {
    fn checkpointing(&mut self, epoch: usize, store: &EventStoreClient) -> Vec<CheckpointingAction> {
        let find = |name: &str| store.find_metric(name, epoch, Aggregate::Mean, &Split::Valid).map(|v| v as f32);
        let (Some(loss), Some(agreement)) = (find("Loss"), find("Accuracy")) else {
            self.fail(Error::training(format!("epoch {epoch} measured nothing")));
            return Vec::new();
        };
        let step = self.journal().losses.len();
        if !loss.is_finite() {
            self.fail(Error::Diverged { step, loss });
            return Vec::new();
        }
        let mark = {
            let mut journal = self.journal();
            journal.points.push(Point { step, loss, agreement });
            journal.clone()
        };
        self.0.marks.lock().expect("nobody panics with the marks").insert(epoch, mark);
        vec![CheckpointingAction::Save]
    }
}

/// The measurements of burn's last epoch. (Its own `InMemoryMetricLogger` counts epochs from where a run was resumed, and
/// finds nothing after that.)
#[derive(Debug, Default)]
pub(crate) struct Measurements {
    names: HashMap<MetricId, String>,
    epoch: usize,
    entries: HashMap<(String, &'static str), Vec<NumericEntry>>,
}

impl MetricLogger for Measurements {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        if epoch != self.epoch {
            self.entries.clear();
            self.epoch = epoch;
        }
        for update in update.entries_numeric {
            if let (Some(name), Some(entry)) = (self.names.get(&update.entry.metric_id), update.numeric_entry) {
                self.entries.entry((name.clone(), split.clone().into())).or_default().push(entry);
            }
        }
    }

    fn read_numeric(&mut self, name: &str, epoch: usize, split: &Split) -> Result<Vec<NumericEntry>, String> {
        let found = self.entries.get(&(name.to_owned(), split.clone().into()));
        Ok(found.filter(|_| epoch == self.epoch).cloned().unwrap_or_default())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id, definition.name.to_string());
    }

    fn log_epoch_summary(&mut self, _: EpochSummary) {}
}

impl EarlyStoppingStrategy for Session {
    fn should_stop(&mut self, _: usize, _: &EventStoreClient) -> bool {
        self.is_stuck()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(losses: &[f32]) -> Journal {
        let points = losses.iter().enumerate().map(|(step, &loss)| Point { step, loss, agreement: 0.0 }).collect();
        Journal { losses: vec![0.5; losses.len() - 1], points }
    }

    #[test]
    fn the_first_of_equally_good_points_is_the_best() {
        assert_eq!(journal(&[2.0, 1.0, 1.0, 3.0]).best(), Some(1));
        assert_eq!(Journal::default().best(), None);
    }

    #[test]
    fn patience_counts_points_since_the_best() {
        let journal = journal(&[2.0, 1.0, 1.5, 1.2]);
        assert!(!journal.is_stuck(3));
        assert!(journal.is_stuck(2));
    }

    #[test]
    fn numbers_survive_json_to_the_bit() {
        let losses = vec![0.1, 1.0 / 3.0, 1e-30, f32::MIN_POSITIVE, 16_777_217.0];
        let old = Journal { losses, points: vec![Point { step: 1, loss: 0.7, agreement: 33.333_332 }] };
        let text = serde_json::to_string(&old).unwrap();
        assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), old);
    }

    #[test]
    fn the_table_has_a_row_a_step_and_one_before_the_first() {
        let schedule = Schedule { peak: 0.5, warmup: 0, total: 1 };
        let csv = journal(&[2.0, 1.0]).csv(&schedule, ["kl", "agreement"]);
        assert_eq!(csv, "step,learning_rate,loss,kl,agreement\n0,,,2,0\n1,5.000000e-1,0.5,1,0\n");
    }
}
