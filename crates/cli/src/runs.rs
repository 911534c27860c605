//! Run folders: `<name>-<time>/` in the folder of runs.
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::places::runs as folder;

/// A folder for a new run of this config; a second run within a second gets a number.
pub fn new(name: &str) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let stamped = folder().join(format!("{name}-{}", stamp(now)));
    let numbered = (2..).map(|n| stamped.with_file_name(format!("{name}-{}-{n}", stamp(now))));
    std::iter::once(stamped.clone()).chain(numbered).find(|path| !path.exists()).unwrap_or(stamped)
}

/// The runs of this config, oldest first.
pub fn of(name: &str) -> Vec<PathBuf> {
    let prefix = format!("{name}-");
    all().into_iter().filter(|path| run_name(path).strip_prefix(&prefix).is_some_and(is_stamp)).collect()
}

/// All run folders, by name.
pub fn all() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder()) else { return Vec::new() };
    let mut runs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    runs.sort();
    runs
}

/// The folder that `given` means: a path, or a name in the folder of runs.
pub fn find(given: &Path) -> Option<PathBuf> {
    let named = !given.as_os_str().is_empty();
    [given.to_owned(), folder().join(given)].into_iter().find(|path| named && path.is_dir())
}

/// The last part of its path.
pub fn run_name(run: &Path) -> String {
    let name = run.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| run.display().to_string())
}

/// `20261124-023301`, perhaps with a number after it.
fn is_stamp(text: &str) -> bool {
    text.len() >= 15 && text.chars().all(|c| c.is_ascii_digit() || c == '-')
}

/// Seconds since 1970 as `20261124-023301`, UTC.
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days as i64);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", rest / 3600, rest % 3600 / 60, rest % 60)
}

/// Days since 1970 as year, month and day: Hinnant's `civil_from_days`, years beginning in March.
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
