use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::args::{Config, ConfigCommand, Keys, NewConfig};
use crate::config::{self, Kind};
use crate::error::{Error, Result};
use crate::keys;
use crate::names;
use crate::output::check_file;
use crate::printer::{Printer, lossy};
use crate::table::Table;

pub fn run(args: &Config, printer: &Printer) -> Result<()> {
    match &args.command {
        ConfigCommand::List => list(printer),
        ConfigCommand::Keys(args) => keys(args, printer),
        ConfigCommand::New(args) => new(args, printer),
    }
}

/// A line of the list.
#[derive(Debug, Serialize)]
struct Recipe {
    name: String,
    command: String,
    /// The file; `None` for one that comes with dsconv.
    path: Option<PathBuf>,
    /// The network.
    model: String,
    /// Images to measure on.
    images: String,
}

fn list(printer: &Printer) -> Result<()> {
    let row = |config::Listed { name, path, text }| {
        let values: toml::Table = toml::from_str(&text).unwrap_or_default();
        let text_at =
            |keys: &[&str]| keys.iter().find_map(|key| keys::value(&values, key)?.as_str().map(str::to_owned));
        Recipe {
            command: Kind::of(&name).to_string(),
            name,
            path,
            model: text_at(&["model", "model.name"]).unwrap_or_default(),
            images: text_at(&["data.eval", "data.adapt"]).unwrap_or_else(|| "embedded".to_owned()),
        }
    };
    let rows: Vec<Recipe> = config::all().into_iter().map(row).collect();
    printer.result(&rows, |printer| {
        let mut table = Table::new(["config", "for", "network", "images"]).left([1, 2, 3]);
        for Recipe { name, command, model, images, .. } in &rows {
            table.row([name.clone(), command.clone(), model.clone(), images.clone()]);
        }
        printer.table(&table);
    });
    printer.talk("`dsconv config new FILE.toml --from CONFIG` copies one");
    Ok(())
}

fn kind(train: bool) -> Kind {
    if train { Kind::Train } else { Kind::Distill }
}

fn keys(args: &Keys, printer: &Printer) -> Result<()> {
    let part = args.part.as_deref().unwrap_or_default();
    let mut rows = keys::rows(kind(args.train))?;
    let all: Vec<&str> = rows.iter().map(|row| row.key).collect();
    let nearest = names::nearest(part, all);
    rows.retain(|row| row.key.contains(part));
    if rows.is_empty() {
        let error = Error::usage(format!("no key of `dsconv {}` has `{part}` in its name", kind(args.train)));
        return Err(match nearest {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`dsconv config keys` lists those of `distill`, with --train those of `train`"),
        });
    }
    printer.result(&rows, |printer| {
        for row in &rows {
            let default = row.default.as_ref().map_or(String::new(), |value| format!(" = {value}"));
            printer.line(format!("{}{default}  ({})", row.key, row.allowed));
            printer.line(format!("    {}", row.what));
        }
    });
    Ok(())
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    #[serde(serialize_with = "lossy")]
    path: PathBuf,
    command: String,
}

fn new(args: &NewConfig, printer: &Printer) -> Result<()> {
    let path = &args.file;
    if !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml")) {
        let error = Error::usage(format!("`{}`: a config is a TOML file", path.display()));
        return Err(error.hint(format!("name it `{}`", path.with_extension("toml").display())));
    }
    check_file(path, args.force, &[])?;
    let (kind, text) = match &args.from {
        Some(name) => config::text(name)?,
        None => {
            let kind = kind(args.train);
            check_model(kind, &args.model)?;
            (kind, keys::template(kind, &args.model)?)
        }
    };
    files::write_atomic(path, text.as_bytes())
        .map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))?;
    let written = Written { path: path.clone(), command: format!("dsconv {kind} {}", path.display()) };
    printer.result(&written, |printer| {
        printer.line(format!("wrote {}: `{}` runs it", written.path.display(), written.command));
    });
    Ok(())
}

/// # Errors
/// No network or file of that name.
fn check_model(kind: Kind, model: &str) -> Result<()> {
    if zoo::variant(model).is_ok() || (kind == Kind::Distill && Path::new(model).exists()) {
        return Ok(());
    }
    let error = Error::usage(match kind {
        Kind::Distill => format!("no network is named `{model}`, and there is no such file or run folder"),
        Kind::Train => format!("no network is named `{model}`"),
    });
    Err(match names::nearest(model, zoo::variants().iter().map(|variant| variant.name)) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("`dsconv models` lists the names"),
    })
}
