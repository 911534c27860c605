use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::Error;

/// The file that is held by the process that works in a folder; the system lets go of it where that process dies.
const LOCK: &str = ".lock";

/// A run folder in which nobody else works as long as this value lives.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    resume: bool,
    /// The folders that were not there before, the innermost last.
    made: Vec<PathBuf>,
    /// The lock file; `None` where the file system has no locks.
    _lock: Option<File>,
}

/// The names of the files of a run folder.
impl RunFolder {
    /// The file of the student that a run exports, or of the network that a training made: see [`Report::chosen`](crate::Report::chosen).
    pub const MODEL: &str = "model.safetensors";
    /// The file of the student before adaptation.
    pub const QUANTIZED: &str = "quantized.safetensors";
    /// The file of the adapted student, where that is not the one that is exported.
    pub const ADAPTED: &str = "adapted.safetensors";
    /// The file of the [`Report`](crate::Report).
    pub const METRICS: &str = "metrics.json";
    /// The table of what the networks named for each image that they were measured on: see [`Prediction`](crate::Prediction).
    pub const PREDICTIONS: &str = "predictions.csv";
    /// The file of the settings of a run: see [`Distillation::recipe`](crate::Distillation::recipe).
    pub const CONFIG: &str = "config.toml";
    /// The file of the settings of an adaptation alone.
    pub(crate) const ADAPT: &str = "adapt.toml";
    /// The file of the settings of a training.
    pub(crate) const TRAIN: &str = "train.toml";
    /// The file of what a run is made from beside its settings; it is written first.
    pub(crate) const ORIGIN: &str = "origin.json";
    /// The file of the table of an adaptation's steps.
    pub const LOSS: &str = "loss.csv";
    /// The file of the table of a training's steps.
    pub(crate) const LOG: &str = "log.csv";
    /// The folder of the checkpoints.
    pub(crate) const CHECKPOINTS: &str = "checkpoints";

    /// Whether the folder at `path` holds a run, or what one that was stopped has left.
    pub fn is_run(path: &Path) -> bool {
        let files = [Self::ADAPT, Self::TRAIN, Self::CONFIG, Self::ORIGIN, Self::METRICS];
        files.iter().any(|file| path.join(file).is_file())
    }

    /// The path of the file `name` in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl RunFolder {
    /// Makes the folder if it is not there, and locks it for this process. With `resume` a run that lies in it goes on;
    /// without, beginning another one there is an error. A folder that was made here is removed again where nothing was begun.
    ///
    /// # Errors
    /// [`Error::Busy`] where another process works in it; [`Error::Io`].
    pub fn open(path: impl Into<PathBuf>, resume: bool) -> Result<Self, Error> {
        let path = path.into();
        let mut made: Vec<PathBuf> = path
            .ancestors()
            .filter(|p| !p.as_os_str().is_empty())
            .take_while(|p| !p.exists())
            .map(Into::into)
            .collect();
        made.reverse();
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        let lock = match lock(&path.join(LOCK)) {
            Ok(lock) => Some(lock),
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path }),
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => None,
            Err(TryLockError::Error(e)) => {
                made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
                return Err(Error::io(&path)(e));
            }
        };
        Ok(Self { path, resume, made, _lock: lock })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder was opened to resume the run in it.
    pub(crate) fn resumes(&self) -> bool {
        self.resume
    }

    /// Whether the folder holds nothing, but for unfinished files of a run that was killed before it had begun.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_empty(&self) -> Result<bool, Error> {
        self.holds_only(&[])
    }

    /// Whether all entries of the folder have these names, unfinished files apart.
    pub(crate) fn holds_only(&self, names: &[&str]) -> Result<bool, Error> {
        let known = |path: &PathBuf| files::is_unfinished(path) || names.iter().any(|name| path.ends_with(name));
        Ok(self.entries()?.iter().all(known))
    }

    /// Removes everything in the folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clear(&self) -> Result<(), Error> {
        for path in self.entries()? {
            let is_folder = fs::symlink_metadata(&path).is_ok_and(|entry| entry.is_dir());
            let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io(&path))?;
        }
        Ok(())
    }

    /// Removes the unfinished files of a run that was killed.
    pub(crate) fn tidy(&self) -> Result<(), Error> {
        let remove = |folder: &Path| files::remove_unfinished(folder).map_err(Error::io(folder));
        remove(&self.path)?;
        let checkpoints = self.file(Self::CHECKPOINTS);
        if checkpoints.is_dir() {
            remove(&checkpoints)?;
            for entry in fs::read_dir(&checkpoints).map_err(Error::io(&checkpoints))? {
                let path = entry.map_err(Error::io(&checkpoints))?.path();
                if path.is_dir() {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// The paths of all entries of the folder but for the lock.
    fn entries(&self) -> Result<Vec<PathBuf>, Error> {
        let entries = fs::read_dir(&self.path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>());
        let entries = entries.map_err(Error::io(&self.path))?;
        Ok(entries.into_iter().filter(|path| !path.ends_with(LOCK)).collect())
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // The lock is still held: whoever opened the file meanwhile finds out that it is gone.
        let _ = fs::remove_file(self.path.join(LOCK));
        // Folders that hold something stay.
        self.made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Opens and locks the lock file.
fn lock(path: &Path) -> Result<File, TryLockError> {
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(TryLockError::Error)?;
        file.try_lock()?;
        // Whoever held it removes it at the end: what is locked must be what the next process finds.
        if is_at(&file, path) {
            return Ok(file);
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(there)) => identity(file) == identity(there),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("runs/one");
        let held = RunFolder::open(&path, false).unwrap();
        let error = RunFolder::open(&path, true).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("`{}` is in use", path.display())), "{error}");
        drop(held);
        assert!(!root.path().join("runs").exists(), "nothing was begun");
        // What a killed process leaves is no lock.
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(LOCK), "").unwrap();
        assert!(RunFolder::open(&path, true).unwrap().is_empty().unwrap());
        assert!(path.is_dir() && !path.join(LOCK).exists());
    }

    #[test]
    fn clearing_keeps_the_folder_and_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(root.path(), false).unwrap();
        fs::create_dir(root.path().join("checkpoints")).unwrap();
        fs::write(root.path().join("checkpoints/.dsconv-1.tmp"), "").unwrap();
        fs::write(root.path().join("checkpoints/model"), "").unwrap();
        folder.tidy().unwrap();
        assert_eq!(fs::read_dir(root.path().join("checkpoints")).unwrap().count(), 1);
        assert!(!folder.is_empty().unwrap());
        folder.clear().unwrap();
        assert!(folder.is_empty().unwrap());
        assert!(matches!(RunFolder::open(root.path(), false), Err(Error::Busy { .. })));
    }
}
