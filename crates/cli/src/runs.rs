//! The life of a run folder, `<name>-<time>/` in the folder of runs: it is made or found, belongs to one process, goes on or
//! is replaced.
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use distill::RunFolder;

use crate::config::ConfigKind;
use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::output::check_folder;
use crate::printer::Printer;
use crate::{names, places};

/// What becomes of a run that lies in the folder already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is left alone, and the command fails.
    Keep,
    /// It goes on.
    Resume,
    /// It goes on, and a new run begins where there is none.
    ResumeOrBegin,
    /// It is removed, and a new run begins.
    Replace,
}

/// What a command that runs a config is told.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The config: a TOML file, or its name in `configs/`.
    pub config: String,
    /// The changes of the config's values, each `key=value`.
    pub set: Vec<String>,
    /// Where the run goes.
    pub place: RunPlace,
    /// The device to compute on; `None` for the config's, or the CPU.
    pub device: Option<DeviceName>,
    /// Whether burn's dashboard shows the training.
    pub tui: bool,
}

impl RunOptions {
    /// Takes a run that is to be resumed, where it is named in the place of a config: its own config and its folder are meant.
    pub fn of_run(&self) -> Self {
        let is_named = self.place.existing == Existing::Resume && self.place.out.is_none();
        let run = is_named.then(|| find(Path::new(&self.config))).flatten();
        match run.filter(|run| run.join(RunFolder::CONFIG).is_file()) {
            Some(run) => Self {
                config: run.join(RunFolder::CONFIG).to_string_lossy().into_owned(),
                place: RunPlace { out: Some(run), existing: Existing::Resume },
                ..self.clone()
            },
            None => self.clone(),
        }
    }
}

/// Where a run goes.
#[derive(Debug, Clone)]
pub struct RunPlace {
    /// The folder; `None` for one of the run's own in the folder of runs.
    pub out: Option<PathBuf>,
    /// What becomes of a run that lies there already.
    pub existing: Existing,
}

impl RunPlace {
    /// Takes the folder for a run of the config `name`: it belongs to this process until it is dropped. Without a path it is
    /// the newest run of this config where a run is to be resumed, else a new one.
    ///
    /// # Errors
    /// There is nothing to resume; the folder holds a run that is to be kept, or files that are no run's; another process
    /// works in it.
    pub fn take(&self, name: &str, printer: &Printer) -> Result<RunFolder> {
        let resume = matches!(self.existing, Existing::Resume | Existing::ResumeOrBegin);
        let folder = match &self.out {
            Some(path) => {
                check_folder(path, "a run")?;
                open(path, resume)?
            }
            None if resume => open(&newest(name)?, true)?,
            None => new_folder(name)?,
        };
        let run = folder.path().display();
        match (folder.is_empty()?, self.existing) {
            (false, Existing::Resume | Existing::ResumeOrBegin) => {
                check_run(&folder, "--resume")?;
                match is_finished(folder.path()) {
                    true => printer.talk(format!("the run in {run} is finished: its results are shown")),
                    false => printer.talk(format!("going on with {run}")),
                }
            }
            // Killed before it wrote anything, or never begun.
            (true, Existing::Resume) => {
                printer.warn(format!("there is no run in {run} to resume: a new one begins there"));
            }
            (false, Existing::Replace) => {
                check_run(&folder, "--force")?;
                folder.clear()?;
            }
            (false, Existing::Keep) => {
                let error = Error::failed(format!("`{run}` is not empty"));
                return Err(error.hint(
                    "`--resume` goes on with the run in it, `--force` replaces it, `--out` names another folder",
                ));
            }
            (true, _) => printer.talk(format!("run folder {run}")),
        }
        Ok(folder)
    }
}

/// Returns the command that a run is of, by the config in its folder.
fn command(run: &Path) -> ConfigKind {
    let text = std::fs::read_to_string(run.join(RunFolder::CONFIG)).unwrap_or_default();
    ConfigKind::of_text(&text).unwrap_or(ConfigKind::Distill)
}

/// Returns what is typed to resume a run.
pub fn resuming(run: &Path) -> String {
    format!("dsconv {} --resume {}", command(run), names::typed(run.display()))
}

/// Tells whether a run has its results.
fn is_finished(run: &Path) -> bool {
    let last = match command(run) {
        ConfigKind::Distill => RunFolder::METRICS,
        ConfigKind::Train => RunFolder::MODEL,
    };
    run.join(last).is_file()
}

/// Returns the newest run of a config.
///
/// # Errors
/// There is none.
fn newest(name: &str) -> Result<PathBuf> {
    of(name).pop().ok_or_else(|| {
        Error::usage(format!("no run of `{name}` in `{}` to resume", places::runs().display()))
            .hint("without `--resume` one is begun; `--out DIR` names one that lies elsewhere")
    })
}

/// Makes a folder for a new run. Two runs that begin in the same second may mean the same one: one of them takes the next.
fn new_folder(name: &str) -> Result<RunFolder> {
    loop {
        match RunFolder::open(unused(name), false) {
            Ok(folder) if folder.is_empty()? => return Ok(folder),
            Ok(_) | Err(distill::Error::Busy { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn open(path: &Path, resume: bool) -> Result<RunFolder> {
    RunFolder::open(path, resume).map_err(|error| match error {
        distill::Error::Busy { .. } => {
            Error::failed(error).hint("wait until it ends, or choose another folder with `--out`")
        }
        error => error.into(),
    })
}

/// Leaves a folder alone that does not look like a run: `--out ~ --force` must not cost anybody a home.
fn check_run(folder: &RunFolder, option: &str) -> Result<()> {
    let path = folder.path();
    if RunFolder::is_run(path) {
        return Ok(());
    }
    let shown = path.display();
    let error = Error::failed(format!("`{shown}` is not empty and is no run folder: `{option}` does not touch it"));
    Err(error.hint("`--out` names another folder"))
}

/// Returns a path for a new run of this config; a second run within a second gets a number.
fn unused(name: &str) -> PathBuf {
    let now = now();
    let stamped = places::runs().join(format!("{name}-{now}"));
    let numbered = (2..).map(|n| stamped.with_file_name(format!("{name}-{now}-{n}")));
    std::iter::once(stamped.clone()).chain(numbered).find(|path| !path.exists()).unwrap_or(stamped)
}

/// Returns the runs of this config, oldest first.
fn of(name: &str) -> Vec<PathBuf> {
    let prefix = format!("{name}-");
    all().into_iter().filter(|path| run_name(path).strip_prefix(&prefix).is_some_and(is_stamp)).collect()
}

/// Returns all folders in the folder of runs, sorted by name.
pub fn all() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(places::runs()) else { return Vec::new() };
    let mut runs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    runs.sort();
    runs
}

/// Returns the runs in a folder, such as that of a sweep, sorted by name.
pub fn inside(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut runs: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| RunFolder::is_run(path)).collect();
    runs.sort();
    runs
}

/// Returns the folder that `given` means: a path, or a name in the folder of runs.
pub fn find(given: &Path) -> Option<PathBuf> {
    let named = !given.as_os_str().is_empty();
    [given.to_owned(), places::runs().join(given)].into_iter().find(|path| named && path.is_dir())
}

/// Returns the name of a run: the last part of its path.
pub fn run_name(run: &Path) -> String {
    let name = run.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| run.display().to_string())
}

/// Tells whether a text is a time such as `20261124-023301`, perhaps with a number after it.
fn is_stamp(text: &str) -> bool {
    text.len() >= 15 && text.chars().all(|c| c.is_ascii_digit() || c == '-')
}

/// Returns the time as `20261124-023301`, UTC.
pub fn now() -> String {
    stamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// Writes seconds since 1970 as `20261124-023301`, UTC.
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days as i64);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", rest / 3600, rest % 3600 / 60, rest % 60)
}

/// Converts days since 1970 to year, month and day: Hinnant's `civil_from_days`, years beginning in March.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_dates() {
        // `date -u -d @... +%Y%m%d-%H%M%S`
        assert_eq!(stamp(0), "19700101-000000");
        assert_eq!(stamp(951_782_400), "20000229-000000");
        assert_eq!(stamp(1_795_487_581), "20261124-023301");
        assert!(is_stamp("20261124-023301") && is_stamp("20261124-023301-2") && !is_stamp("extra-20261124-023301"));
    }
}
