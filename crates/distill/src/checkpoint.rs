//! Checkpoints of a training: each is complete or does not count.
//!
//! ```text
//! checkpoints/000003/model.bpk      burn's records
//!                    optimizer.bpk
//!                    schedule.bpk
//!                    state.json     written last: SHA-256 of the three, and the journal
//! ```
//! burn saves the three records on three threads while the next epoch runs; the one that finishes last writes
//! `state.json`. A checkpoint counts where all three have the sum that it names, so one that a kill left half written, or
//! that something damaged, is passed over for the one before it.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use burn::train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::journal::{Journal, Session};
use crate::origin::hex;
use crate::{Error, write};

const MODEL: &str = "model.bpk";
const PARTS: [&str; 3] = [MODEL, "optimizer.bpk", "schedule.bpk"];
const STATE: &str = "state.json";

/// The content of `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// The SHA-256 of each file, by its name.
    files: BTreeMap<String, String>,
    /// All measurements up to the checkpoint.
    journal: Journal,
}

type OnComplete = Box<dyn Fn(&Journal) -> Result<(), Error> + Send + Sync>;

/// The checkpoints of one training.
pub(crate) struct Checkpoints {
    directory: PathBuf,
    session: Session,
    /// The checkpoints of which some files are written, by epoch.
    pending: Mutex<BTreeMap<usize, State>>,
    /// A function that is given the journal after each complete checkpoint.
    on_complete: OnComplete,
}

impl Checkpoints {
    pub(crate) fn new(
        directory: &Path,
        session: Session,
        on_complete: impl Fn(&Journal) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let directory = directory.to_owned();
        Arc::new(Self { directory, session, pending: Mutex::default(), on_complete: Box::new(on_complete) })
    }

    /// The checkpointers that burn takes, for model, optimizer and schedule.
    pub(crate) fn parts(self: &Arc<Self>) -> [Part; 3] {
        PARTS.map(|name| Part { set: self.clone(), name })
    }

    fn save(&self, epoch: usize, part: &str, bytes: &[u8]) -> Result<(), Error> {
        write::write(&folder(&self.directory, epoch).join(part), bytes)?;
        let complete = {
            let mut pending = self.pending.lock().expect("nobody panics with it");
            let begin = || State { files: BTreeMap::new(), journal: self.session.take_mark(epoch) };
            let state = pending.entry(epoch).or_insert_with(begin);
            state.files.insert(part.to_owned(), sum(bytes));
            (state.files.len() == PARTS.len()).then(|| pending.remove(&epoch)).flatten()
        };
        if let Some(state) = complete {
            write::write_json(&folder(&self.directory, epoch).join(STATE), &state)?;
            (self.on_complete)(&state.journal)?;
            clean(&self.directory, epoch)?;
        }
        Ok(())
    }
}

/// One of the three records' files, as burn sees it.
pub(crate) struct Part {
    set: Arc<Checkpoints>,
    name: &'static str,
}

impl<R: Checkpoint> Checkpointer<R> for Part {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        let bytes = record.checkpoint_into_bytes().map_err(CheckpointerError::Record)?;
        self.set.save(epoch, self.name, &bytes).map_err(|error| {
            let text = error.to_string();
            // burn hands on the text alone.
            self.set.session.fail(error);
            CheckpointerError::Unknown(text)
        })
    }

    /// Old checkpoints go when a newer one is complete, not when burn says so.
    fn delete(&self, _: usize) -> Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        let path = folder(&self.set.directory, epoch).join(self.name);
        let bytes = fs::read(path).map_err(CheckpointerError::IOError)?;
        R::checkpoint_from_bytes(Bytes::from_bytes_vec(bytes)).map_err(CheckpointerError::Record)
    }
}

/// Finds the newest complete checkpoint and returns its epoch and the journal up to it.
pub(crate) fn newest(directory: &Path) -> Result<Option<(usize, Journal)>, Error> {
    for epoch in epochs(directory)?.into_iter().rev() {
        let folder = folder(directory, epoch);
        // A manifest that does not read is as good as none.
        let Ok(Some(state)) = write::read_json::<State>(&folder.join(STATE)) else { continue };
        let whole = |name: &&str| {
            let found = fs::read(folder.join(name)).map(|bytes| sum(&bytes)).ok();
            found.is_some() && found.as_ref() == state.files.get(*name)
        };
        let best = best_epoch(&state.journal, epoch);
        if PARTS.iter().all(whole) && (best == 0 || model_path(directory, best).exists()) {
            return Ok(Some((epoch, state.journal)));
        }
    }
    Ok(None)
}

/// Loads the model of an epoch.
pub(crate) fn load_model(directory: &Path, epoch: usize) -> Result<ModuleRecord, Error> {
    load_record(&model_path(directory, epoch))
}

/// Loads a module's record from a file.
pub(crate) fn load_record(path: &Path) -> Result<ModuleRecord, Error> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    ModuleRecord::from_bytes(Bytes::from_bytes_vec(bytes)).map_err(|e| Error::file(path, e))
}

/// The epoch of the journal's best point. A journal that begins before training has one point more than epochs.
pub(crate) fn best_epoch(journal: &Journal, epochs: usize) -> usize {
    let before = journal.points.len() - epochs;
    journal.best().map_or(epochs, |best| best + 1 - before)
}

/// Removes what the newest two complete checkpoints (`newest` is the last one) and their best models do not need.
fn clean(directory: &Path, newest: usize) -> Result<(), Error> {
    let epochs = epochs(directory)?;
    let complete = |epoch: &usize| PARTS.iter().chain([&STATE]).all(|p| folder(directory, *epoch).join(p).exists());
    let kept: Vec<usize> = epochs.iter().rev().filter(|&&e| e <= newest).copied().filter(complete).take(2).collect();
    let mut models = Vec::new();
    for &epoch in &kept {
        if let Some(state) = write::read_json::<State>(&folder(directory, epoch).join(STATE))? {
            models.push(best_epoch(&state.journal, epoch));
        }
    }
    for epoch in epochs.into_iter().filter(|e| *e < newest && !kept.contains(e)) {
        let folder = folder(directory, epoch);
        if models.contains(&epoch) {
            for part in PARTS.iter().filter(|part| **part != MODEL) {
                let path = folder.join(part);
                if path.exists() {
                    fs::remove_file(&path).map_err(Error::io(&path))?;
                }
            }
        } else {
            fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
        }
    }
    Ok(())
}

fn folder(directory: &Path, epoch: usize) -> PathBuf {
    directory.join(format!("{epoch:06}"))
}

fn model_path(directory: &Path, epoch: usize) -> PathBuf {
    folder(directory, epoch).join(MODEL)
}

/// The epochs that have a folder, ascending.
fn epochs(directory: &Path) -> Result<Vec<usize>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(directory)(e)),
    };
    let mut epochs = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io(directory))?.file_name();
        epochs.extend(name.to_str().and_then(|name| name.parse::<usize>().ok()));
    }
    epochs.sort_unstable();
    Ok(epochs)
}

fn sum(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}
