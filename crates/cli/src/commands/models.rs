//! `dsconv models`: the networks that can be named.
use serde::Serialize;

use crate::error::{Error, Result};
use crate::places;
use crate::printer::Printer;
use crate::table::{NOTHING, Table, count};

/// A network of the zoo, as a row of the table.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    family: String,
    /// The side of the square image.
    input: usize,
    classes: usize,
    params: u64,
    macs: u64,
    /// The published top-1 accuracy of the float network, in percent.
    top1: Option<f64>,
    /// The published top-5 accuracy of the float network, in percent.
    top5: Option<f64>,
    /// Where the published weights are.
    url: Option<&'static str>,
    licence: Option<&'static str>,
    weights: Weights,
}

/// The place of a network's weights.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Weights {
    /// They are in the binary.
    Embedded,
    /// They have been downloaded.
    Here,
    /// They can be downloaded.
    Published,
    /// Nobody published any: the user brings them.
    None,
}

/// Lists the networks whose names contain `part`.
///
/// # Errors
/// There are none.
pub fn run(part: &str, printer: &Printer) -> Result<()> {
    let part = part.to_lowercase();
    let wanted = zoo::variants().iter().filter(|variant| variant.name.contains(&part));
    let rows = wanted.map(row).collect::<Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Err(Error::usage(format!("no network has `{part}` in its name")).hint("`dsconv models` lists all"));
    }
    printer.result(&rows, |printer| {
        let mut table =
            Table::new(["name", "input", "classes", "params", "MACs", "top-1", "top-5", "weights"]).left([7]);
        for row in &rows {
            let percent = |value: Option<f64>| value.map_or(NOTHING.to_owned(), |percent| format!("{percent:.1}"));
            table.row([
                row.name.to_owned(),
                format!("{0}x{0}", row.input),
                row.classes.to_string(),
                count(row.params),
                count(row.macs),
                percent(row.top1),
                percent(row.top5),
                match row.weights {
                    Weights::Embedded => "embedded",
                    Weights::Here => "downloaded",
                    Weights::Published => "data get",
                    Weights::None => "your own",
                }
                .to_owned(),
            ]);
        }
        printer.table(&table);
    });
    printer.talk(
        "top-1, top-5: as published for the float network, percent; `data get`: `dsconv data get NAME` downloads",
    );
    Ok(())
}

fn row(variant: &'static zoo::Variant) -> Result<Row> {
    let graph = zoo::build(&zoo::Config::new(variant.name))?;
    let params = graph.params();
    // Running statistics are no parameters.
    let learned = params.iter().filter(|param| !matches!(param.role, graph::Role::Mean | graph::Role::Variance));
    let source = variant.source.as_ref();
    Ok(Row {
        name: variant.name,
        family: variant.family.to_string(),
        input: variant.input,
        classes: variant.classes,
        params: learned.map(|param| param.shape.iter().product::<usize>() as u64).sum(),
        macs: graph.macs(),
        top1: source.map(|source| source.top1),
        top5: source.and_then(|source| source.top5),
        url: source.map(|source| source.url.as_str()),
        licence: source.map(|source| source.licence),
        weights: match places::fetched(variant) {
            _ if zoo::teachers().any(|name| name == variant.name) => Weights::Embedded,
            Some(path) if path.is_file() => Weights::Here,
            Some(_) => Weights::Published,
            None => Weights::None,
        },
    })
}
