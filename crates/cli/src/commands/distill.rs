use std::path::{Path, PathBuf};

use crate::args::Distill;
use crate::config::ConfigFile;
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::runs;

pub fn run(_: &Distill, _: &Printer) -> Result<()> {
    Err(Error::failed("not yet"))
}

/// The folder of a run: `--out`, with `--resume` the newest run of this config, else a new one.
///
/// # Errors
/// Nothing to resume; a run that is there already, without `--force`.
pub fn run_folder(name: &str, out: Option<&PathBuf>, resume: bool, force: bool) -> Result<PathBuf> {
    let filled = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    match out {
        Some(path) if resume => {
            if filled(path) {
                Ok(path.clone())
            } else {
                Err(Error::usage(format!("`{}` holds no run to resume", path.display())))
            }
        }
        Some(path) if filled(path) => {
            if !force {
                let error = Error::failed(format!("`{}` is not empty", path.display()));
                return Err(error.hint(
                    "`--resume` goes on with the run in it, `--force` replaces it, `--out` names another folder",
                ));
            }
            clear(path)?;
            Ok(path.clone())
        }
        Some(path) => Ok(path.clone()),
        None if resume => runs::of(name)
            .pop()
            .ok_or_else(|| Error::usage(format!("no run of `{name}` in `{}` to resume", runs::folder().display()))),
        None => Ok(runs::new(name)),
    }
}

/// Removes a run. A folder that does not look like one is left alone: `--out ~ --force` must not cost anybody a home.
fn clear(path: &Path) -> Result<()> {
    let is_run =
        ["config.toml", "train.toml", "metrics.json", "checkpoints"].iter().any(|file| path.join(file).exists());
    if !is_run {
        let error = Error::failed(format!(
            "`{}` is not empty and is no run folder: `--force` does not touch it",
            path.display()
        ));
        return Err(error.hint("`--out` names another folder"));
    }
    std::fs::remove_dir_all(path).map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))
}

/// A library error in the words of the command line; `table` is where its settings lie in the config.
pub fn explain(error: distill::Error, file: &ConfigFile, run: &Path, table: &str) -> Error {
    let hint = |error: &distill::Error, hint: String| Error::failed(error).hint(hint);
    match &error {
        distill::Error::Config { setting, why } => {
            file.error_at(&format!("{table}{setting}"), format!("`{setting}` {why}"), None)
        }
        distill::Error::RunExists { .. } => Error::failed(&error)
            .hint("`--resume` goes on with it, `--force` replaces it, `--out` names another folder"),
        distill::Error::OtherRun { .. } => {
            hint(&error, "resume with the config it was made with, or choose another folder with `--out`".into())
        }
        distill::Error::Interrupted { .. } => {
            let config = file.path().display();
            Error::interrupted("stopped")
                .hint(format!("the same command with `{config} --resume --out {}` goes on", run.display()))
        }
        _ => Error::failed(error),
    }
}
