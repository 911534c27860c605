//! `dsconv compare`: the results of several runs in one table.
use std::path::{Path, PathBuf};

use distill::{Chosen, Report, RunFolder};
use report::{Item, Page, Plot, Points, Section};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::html::{self, Html};
use crate::printer::{Printer, lossy};
use crate::table::Table;
use crate::{names, places, runs, scores};

/// The results of a run.
#[derive(Debug, Serialize)]
pub struct Run {
    /// The folder.
    #[serde(serialize_with = "lossy")]
    pub run: PathBuf,
    /// What was measured.
    #[serde(flatten)]
    pub report: Report,
}

/// Puts the results of runs in one table: those that are named, or all finished ones.
///
/// # Errors
/// There is no run of a name, or it is not finished.
pub fn run(given: &[PathBuf], html: &Html, printer: &Printer) -> Result<()> {
    html.check(&[])?;
    let runs = if given.is_empty() { finished()? } else { given.iter().map(|run| find(run)).collect::<Result<_>>()? };
    let rows = runs.iter().map(|run| read(run)).collect::<Result<Vec<_>>>()?;
    printer.result(&rows, |printer| printer.table(&table(&rows)));
    for Run { run, report } in rows.iter().filter(|row| row.report.chosen == Chosen::Quantized) {
        let (name, d) = (runs::run_name(run), report.divergence);
        let how = d.map_or(String::new(), |d| format!(" ({:.3e}, adapted {:.3e})", d.quantized, d.adapted));
        printer.talk(format!("{name} exports the quantized network: on images held out it is closer to FP32{how}"));
    }
    printer.talk(COLUMNS);
    html.write(printer, || page(&rows, printer))
}

/// What the columns of the table are.
const COLUMNS: &str = "FP32, quantized, adapted: top-1, percent; the columns after them are the adapted network's";

fn table(rows: &[Run]) -> Table {
    let mut table = Table::new(["run"].into_iter().chain(scores::run_headings()));
    for Run { run, report } in rows {
        table.row([runs::run_name(run)].into_iter().chain(scores::of_run(report)));
    }
    table
}

fn page(rows: &[Run], printer: &Printer) -> Result<Page> {
    let runs: Vec<(String, &Path, &Report)> =
        rows.iter().map(|row| (runs::run_name(&row.run), row.run.as_path(), &row.report)).collect();
    let mut sections = vec![Section::new("Results", COLUMNS).with(html::table(&table(rows)))];
    sections.extend(costs(&runs, printer)?);
    let summary = match rows.len() {
        1 => "One run of `dsconv distill`.".to_owned(),
        count => format!("{count} runs of `dsconv distill`."),
    };
    Ok(Page { title: "Runs side by side".to_owned(), summary, sections })
}

/// Shows what the adapted networks of some runs get right by their size, and by the time that the engine takes here and now.
/// A run has a name, its folder and its results.
///
/// # Errors
/// The engine does not run a network.
pub fn costs(runs: &[(String, &Path, &Report)], printer: &Printer) -> Result<[Section; 2]> {
    let sizes: Vec<Option<f64>> = runs.iter().map(|(.., report)| Some(report.adapted.bytes as f64 / 1e6)).collect();
    // A run without the engine's file is of an older version.
    let time = |(_, run, _): &(String, &Path, &Report)| {
        let file = run.join(super::distill::DEPLOYED);
        file.is_file().then(|| super::bench::median_ms(&crate::engine::load(&file)?, printer)).transpose()
    };
    let times = runs.iter().map(time).collect::<Result<Vec<_>>>()?;
    let better = "Better networks are higher and further to the left.";
    let how = "An image in the integer engine on one thread of this machine, just now: the median of 20 runs.";
    Ok([
        against(runs, &sizes, "megabytes", Section::new("Accuracy and size", better)),
        against(runs, &times, "milliseconds", Section::new("Accuracy and time", how)),
    ])
}

/// Adds to a section where the adapted networks lie by what they cost and what they get right.
fn against(runs: &[(String, &Path, &Report)], costs: &[Option<f64>], unit: &str, mut section: Section) -> Section {
    type Value = fn(&Report) -> Option<f64>;
    let kinds: [(&str, Value); 2] = [
        ("Top-1", |report| report.adapted.scores.top1),
        ("Agreement with FP32", |report| Some(report.adapted.scores.agreement)),
    ];
    for (what, value) in kinds {
        let points = runs
            .iter()
            .zip(costs)
            .filter_map(|((name, _, report), cost)| Some((name.clone(), [(*cost)?, value(report)?])));
        let points: Vec<(String, [f64; 2])> = points.collect();
        if !points.is_empty() {
            let caption = format!("{what} of the adapted networks by {unit}.");
            let axes = [unit.to_owned(), format!("{what}, %")];
            section = section.with(Item::Plot(Plot::Points(Points { caption, axes, points })));
        }
    }
    section
}

/// The most runs of a folder that a hint names.
const SHOWN: usize = 3;

/// Returns all runs that have results.
fn finished() -> Result<Vec<PathBuf>> {
    let runs: Vec<PathBuf> = runs::all().into_iter().filter(|run| run.join(RunFolder::METRICS).is_file()).collect();
    if runs.is_empty() {
        let error = Error::failed(format!("`{}` has no finished runs", places::runs().display()));
        return Err(error.hint("`dsconv distill resnet50_4bit` makes one"));
    }
    Ok(runs)
}

/// Finds the run of this name.
///
/// # Errors
/// There is none.
pub fn find(given: &Path) -> Result<PathBuf> {
    runs::find(given).ok_or_else(|| {
        let known = runs::all();
        let known: Vec<String> = known.iter().map(|run| runs::run_name(run)).collect();
        let name = given.display().to_string();
        let error = Error::usage(format!("no run folder at `{name}`")).into_missing();
        let near = names::nearest(&name, known.iter().map(String::as_str));
        error.hint(names::did_you_mean(near, &format!("runs are in `{}`", places::runs().display())))
    })
}

/// Reads the results of a run.
///
/// # Errors
/// It is not finished, or the file of its results is damaged.
pub fn read(run: &Path) -> Result<Run> {
    let path = run.join(RunFolder::METRICS);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let is_missing = error.kind() == std::io::ErrorKind::NotFound;
        let error = Error::failed(format!("`{}`: {error}", path.display()));
        let error = if is_missing { error.into_missing() } else { error };
        match RunFolder::is_run(run) {
            true => error.hint(format!("the run is not finished: `{}` goes on with it", runs::resuming(run))),
            false => error.hint(match runs::inside(run).as_slice() {
                [] => "that is no run folder of `dsconv distill`".to_owned(),
                inside => {
                    let some = inside.iter().take(SHOWN).map(|run| names::typed(run.display()));
                    let more = if inside.len() > SHOWN { " ..." } else { "" };
                    let some = some.collect::<Vec<_>>().join(" ");
                    format!("that is no run, but a folder of {}: `dsconv compare {some}{more}`", inside.len())
                }
            }),
        }
    })?;
    let report =
        serde_json::from_str(&text).map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))?;
    Ok(Run { run: run.to_owned(), report })
}
