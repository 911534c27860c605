//! `dsconv sweep`: a config runs once for every combination of some values, and all results come into one table.
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use report::{Page, Section};
use serde::Serialize;

use super::compare;
use super::distill::{self, Ran};
use crate::config::{ConfigFile, ConfigKind};
use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::output::check_folder;
use crate::printer::{Printer, lossy};
use crate::runs::{Existing, RunOptions, RunPlace};
use crate::table::{Table, counted};
use crate::{html, places, progress, scores};

/// The files that a sweep leaves beside its runs.
const CSV: &str = "results.csv";
const JSON: &str = "results.json";
const REPORT: &str = "report.html";

/// The config to run, and what to vary.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// The config: a TOML file, or its name in `configs/`.
    pub config: String,
    /// The keys to vary with their values.
    pub vary: Vec<Varied>,
    /// The changes of the config's values in all runs, each `key=value`.
    pub set: Vec<String>,
    /// The folder of all runs; `None` for one in the folder of runs.
    pub out: Option<PathBuf>,
    /// Whether a sweep that lies there goes on.
    pub resume: bool,
    /// The device to compute on; `None` for the config's.
    pub device: Option<DeviceName>,
}

/// A key of a config with the values to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Varied {
    key: String,
    values: Vec<String>,
}

impl FromStr for Varied {
    type Err = String;

    /// Reads `key=value,value`. A comma within brackets or quotes belongs to a value.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wanted = "a key and its values, as `quantize.bits=4,3,2`";
        let (key, list) = text.split_once('=').ok_or(wanted)?;
        let (mut values, mut depth, mut quoted) = (vec![String::new()], 0usize, false);
        for c in list.chars() {
            match c {
                '"' => quoted = !quoted,
                '[' | '{' if !quoted => depth += 1,
                ']' | '}' if !quoted => depth = depth.saturating_sub(1),
                ',' if depth == 0 && !quoted => {
                    values.push(String::new());
                    continue;
                }
                _ => {}
            }
            values.last_mut().expect("there is one at least").push(c);
        }
        let values: Vec<String> = values.iter().map(|value| value.trim().to_owned()).collect();
        if key.trim().is_empty() || values.iter().any(String::is_empty) {
            return Err(wanted.to_owned());
        }
        if values.iter().collect::<BTreeSet<_>>().len() < values.len() {
            return Err("a value is there twice".to_owned());
        }
        Ok(Self { key: key.trim().to_owned(), values })
    }
}

/// The values of one run, by the keys that vary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Combination(Vec<(String, String)>);

/// Writes `quantize.bits=4 quantize.block=32`.
impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes: Vec<String> = self.changes().collect();
        f.write_str(&changes.join(" "))
    }
}

impl Combination {
    /// Makes all combinations; the last key varies fastest.
    fn all(vary: &[Varied]) -> Vec<Self> {
        let with = |so_far: Vec<Self>, Varied { key, values }: &Varied| {
            let longer = so_far.iter().flat_map(|Self(before)| {
                values.iter().map(|value| {
                    let mut pairs = before.clone();
                    pairs.push((key.clone(), value.clone()));
                    Self(pairs)
                })
            });
            longer.collect()
        };
        vary.iter().fold(vec![Self(Vec::new())], with)
    }

    fn changes(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(key, value)| format!("{key}={value}"))
    }

    /// The name of its folder, which only its values decide, so that a sweep finds what it has run already.
    fn folder(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
        self.changes().map(|change| change.chars().map(plain).collect::<String>()).collect::<Vec<_>>().join("+")
    }
}

/// The result of `dsconv sweep`, and a row of its tables.
#[derive(Debug, Serialize)]
struct Row {
    /// The values that vary, by key.
    values: serde_json::Map<String, serde_json::Value>,
    #[serde(flatten)]
    ran: Ran,
}

#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(serialize_with = "lossy")]
    folder: PathBuf,
    rows: Vec<Row>,
}

/// Runs a config once for every combination of values.
///
/// # Errors
/// The config or a value is wrong, which is found out before the first run; a run fails or is interrupted: a sweep with
/// `--resume` goes on.
pub fn run(options: &SweepOptions, printer: &Printer) -> Result<()> {
    let combinations = combinations(options, printer)?;
    let folder = folder(options, printer)?;
    progress::goes_on("the same command with `--resume` goes on".to_owned());
    let mut rows: Vec<Row> = Vec::new();
    for (number, combination) in combinations.iter().enumerate() {
        printer.talk(format!("run {} of {}: {combination}", number + 1, combinations.len()));
        let out = folder.join(combination.folder());
        // A folder that is not there yet is begun.
        let place = RunPlace { out: Some(out), existing: Existing::ResumeOrBegin };
        let set = options.set.iter().cloned().chain(combination.changes()).collect();
        let run = RunOptions { config: options.config.clone(), set, place, device: options.device, tui: false };
        let ran = distill::ran(&run, printer).map_err(|error| match error.is_interruption() {
            true => error,
            false => error.at(combination.to_string()),
        })?;
        let value = |(key, value): &(String, String)| (key.clone(), value.clone().into());
        rows.push(Row { values: combination.0.iter().map(value).collect(), ran });
        write(&folder, &rows)?;
    }
    let outcome = Outcome { folder, rows };
    printer.result(&outcome, |printer| printer.table(&table(&outcome.rows)));
    html::write(&outcome.folder.join(REPORT), page(&outcome.rows, options, printer)?, printer)
}

/// Checks every combination before any runs.
///
/// # Errors
/// A key is varied twice; the config or a value is wrong; two combinations would have one folder.
fn combinations(options: &SweepOptions, printer: &Printer) -> Result<Vec<Combination>> {
    let mut keys = BTreeSet::new();
    if let Some(twice) = options.vary.iter().find(|varied| !keys.insert(&varied.key)) {
        return Err(Error::usage(format!("--vary names `{}` twice", twice.key)).hint("give all its values at once"));
    }
    let combinations = Combination::all(&options.vary);
    let mut folders = BTreeSet::new();
    for combination in &combinations {
        let set: Vec<String> = options.set.iter().cloned().chain(combination.changes()).collect();
        let quiet = printer.quiet();
        let file = ConfigFile::open(&options.config, ConfigKind::Distill, &set, &quiet)?;
        crate::recipe::DistillRecipe::read(&file, &quiet)?;
        if !folders.insert(combination.folder()) {
            return Err(Error::usage(format!(
                "two of the combinations would have the folder `{}`",
                combination.folder()
            )));
        }
    }
    Ok(combinations)
}

/// Makes the folder of all runs.
///
/// # Errors
/// It holds something and is not to go on; it cannot be made.
fn folder(options: &SweepOptions, printer: &Printer) -> Result<PathBuf> {
    let file = ConfigFile::open(&options.config, ConfigKind::Distill, &options.set, &printer.quiet())?;
    let folder = options.out.clone().unwrap_or_else(|| places::runs().join(format!("{}-sweep", file.name())));
    check_folder(&folder, "a sweep")?;
    let shown = folder.display();
    let is_empty = std::fs::read_dir(&folder).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty && !options.resume {
        let error = Error::failed(format!("`{shown}` is not empty"));
        return Err(error.hint("`--resume` goes on with the sweep in it, `--out` names another folder"));
    }
    std::fs::create_dir_all(&folder).map_err(|error| Error::failed(format!("`{shown}`: {error}")))?;
    printer.talk(format!("sweep folder {shown}"));
    Ok(folder)
}

/// Writes the results so far.
fn write(folder: &Path, rows: &[Row]) -> Result<()> {
    let at =
        |name: &str, error: &dyn fmt::Display| Error::failed(format!("`{}`: {error}", folder.join(name).display()));
    let json = serde_json::to_string_pretty(rows).map_err(|error| at(JSON, &error))? + "\n";
    files::write_atomic(&folder.join(JSON), json.as_bytes()).map_err(|error| at(JSON, &error))?;
    let bytes = csv(rows).map_err(|error| at(CSV, &error))?;
    files::write_atomic(&folder.join(CSV), &bytes).map_err(|error| at(CSV, &error))
}

/// The results as a table with a column for each key and figure.
fn csv(rows: &[Row]) -> std::result::Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let keys = rows.first().into_iter().flat_map(|row| row.values.keys().map(String::as_str));
    let figures =
        ["fp32_top1", "quantized_top1", "adapted_top1", "agreement", "sqnr_db", "bytes", "fp32_bytes", "best_step"];
    table.write_record(keys.chain(figures))?;
    let figure = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for Row { values, ran } in rows {
        let report = &ran.report;
        let adapted = &report.adapted;
        let of_run = [
            figure(report.fp32.scores.top1),
            figure(report.quantized.scores.top1),
            figure(adapted.scores.top1),
            adapted.scores.agreement.to_string(),
            figure(adapted.scores.sqnr_db),
            adapted.bytes.to_string(),
            report.fp32.bytes.to_string(),
            report.best_step.to_string(),
        ];
        let given = values.values().map(|value| value.as_str().unwrap_or_default().to_owned());
        table.write_record(given.chain(of_run))?;
    }
    table.into_inner().map_err(|error| error.into_error().into())
}

fn table(rows: &[Row]) -> Table {
    let keys = rows.first().into_iter().flat_map(|row| row.values.keys().map(String::as_str));
    let mut table = Table::new(keys.chain(scores::run_headings()));
    for Row { values, ran } in rows {
        let given = values.values().map(|value| value.as_str().unwrap_or_default().to_owned());
        table.row(given.chain(scores::of_run(&ran.report)));
    }
    table
}

fn page(rows: &[Row], options: &SweepOptions, printer: &Printer) -> Result<Page> {
    let name = |row: &Row| {
        let values: Vec<&str> = row.values.values().filter_map(|value| value.as_str()).collect();
        values.join(", ")
    };
    let runs: Vec<(String, &Path, &::distill::Report)> =
        rows.iter().map(|row| (name(row), row.ran.run.as_path(), &row.ran.report)).collect();
    let keys: Vec<&str> = options.vary.iter().map(|varied| varied.key.as_str()).collect();
    let note = format!("A run for each combination of {}.", keys.join(", "));
    let mut sections = vec![Section::new("Results", note).with(html::table(&table(rows)))];
    sections.extend(compare::costs(&runs, printer)?);
    let summary =
        format!("{} of `{}`; points are named by {}.", counted(rows.len(), "run"), options.config, keys.join(", "));
    Ok(Page { title: format!("{}: sweep", options.config), summary, sections })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_lists() {
        let read = |text: &str| text.parse::<Varied>().map(|varied| (varied.key, varied.values));
        let of =
            |key: &str, values: &[&str]| (key.to_owned(), values.iter().map(|&v| v.to_owned()).collect::<Vec<_>>());
        assert_eq!(read("quantize.bits=4, 3"), Ok(of("quantize.bits", &["4", "3"])));
        assert_eq!(read("image.mean=[0.5,0.5],[0,0]"), Ok(of("image.mean", &["[0.5,0.5]", "[0,0]"])));
        assert_eq!(read("a=\"x,y\",{ b = 1, c = 2 }"), Ok(of("a", &["\"x,y\"", "{ b = 1, c = 2 }"])));
        for wrong in ["quantize.bits", "=4", "a=", "a=4,", "a=4,4"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn combinations_vary_the_last_key_fastest_and_have_a_folder_each() {
        let vary: Vec<Varied> = ["a=1,2", "b=x,\"y z\""].iter().map(|text| text.parse().unwrap()).collect();
        let all = Combination::all(&vary);
        let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a=1 b=x", "a=1 b=\"y z\"", "a=2 b=x", "a=2 b=\"y z\""]);
        assert_eq!(all[1].folder(), "a-1+b--y-z-");
    }
}
