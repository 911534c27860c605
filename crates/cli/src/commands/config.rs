//! `dsconv config`: configs are listed, explained and written.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{self, ConfigKind};
use crate::error::{Error, Result};
use crate::keys;
use crate::names;
use crate::output::{check_ending, check_file};
use crate::printer::{Printer, lossy};
use crate::table::Table;

/// A config that has a name, as a row of the list.
#[derive(Debug, Serialize)]
struct ListedRecipe {
    name: String,
    command: String,
    /// The file; `None` for a recipe that comes with dsconv.
    path: Option<PathBuf>,
    /// The network.
    model: String,
    /// The images to measure on.
    images: String,
}

/// Lists the configs that have names.
pub fn list(printer: &Printer) {
    let row = |config::Listed { name, path, text }| {
        let values: toml::Table = toml::from_str(&text).unwrap_or_default();
        let text_at =
            |keys: &[&str]| keys.iter().find_map(|key| keys::value(&values, key)?.as_str().map(str::to_owned));
        ListedRecipe {
            command: ConfigKind::of_name(&name).to_string(),
            name,
            path,
            model: text_at(&["model", "model.name"]).unwrap_or_default(),
            images: text_at(&["data.eval", "data.adapt"]).unwrap_or_else(|| "embedded".to_owned()),
        }
    };
    let rows: Vec<ListedRecipe> = config::all().into_iter().map(row).collect();
    printer.result(&rows, |printer| {
        let mut table = Table::new(["config", "for", "network", "images"]).left([1, 2, 3]);
        for ListedRecipe { name, command, model, images, .. } in &rows {
            table.row([name.clone(), command.clone(), model.clone(), images.clone()]);
        }
        printer.table(&table);
    });
    printer.talk("`dsconv config new FILE.toml --from CONFIG` copies one");
}

/// Lists the keys of a command's config whose names contain `part`.
///
/// # Errors
/// No key has `part` in its name.
pub fn list_keys(kind: ConfigKind, part: &str, printer: &Printer) -> Result<()> {
    let mut rows = keys::rows(kind)?;
    let all: Vec<&str> = rows.iter().map(|row| row.key).collect();
    let nearest = names::nearest(part, all);
    rows.retain(|row| row.key.contains(part));
    if rows.is_empty() {
        let error = Error::usage(format!("no key of `dsconv {}` has `{part}` in its name", kind));
        let list = "`dsconv config keys` lists those of `distill`, with --train those of `train`";
        return Err(error.hint(names::did_you_mean(nearest, list)));
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

/// The width of a text, in letters.
const WIDTH: usize = 80;

/// All that there is to say of a key.
#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    row: keys::Row,
    more: &'static str,
    /// The configs that have names and set it, with its value there.
    set_by: BTreeMap<String, toml::Value>,
}

/// Explains a key of a command's config.
///
/// # Errors
/// There is no such key.
pub fn explain(kind: ConfigKind, key: &str, printer: &Printer) -> Result<()> {
    let rows = keys::rows(kind)?;
    let nearest = names::nearest(key, rows.iter().map(|row| row.key));
    let Some(row) = rows.into_iter().find(|row| row.key == key) else {
        let error = Error::usage(format!("no key of `dsconv {kind}` is named `{key}`"));
        let list = "`dsconv config keys` lists those of `distill`, with --train those of `train`";
        return Err(error.hint(names::did_you_mean(nearest, list)));
    };
    let set = |config: config::Listed| {
        let values: toml::Table = toml::from_str(&config.text).ok()?;
        Some((config.name, keys::value(&values, key)?.clone()))
    };
    let of_kind = config::all().into_iter().filter(|config| ConfigKind::of_name(&config.name) == kind);
    let explained =
        Explained { more: keys::more(key).unwrap_or_default(), set_by: of_kind.filter_map(set).collect(), row };
    printer.result(&explained, |printer| explained.show(kind, printer));
    Ok(())
}

impl Explained {
    fn show(&self, kind: ConfigKind, printer: &Printer) {
        let keys::Row { key, default, allowed, what } = &self.row;
        let default = default.as_ref().map(ToString::to_string);
        printer.line(format!("{key}: {what}"));
        textwrap::wrap(self.more, WIDTH - 4).iter().for_each(|line| printer.line(format!("    {line}")));
        printer.line(format!("values   {allowed}"));
        printer.line(format!("default  {}", default.as_deref().unwrap_or("none")));
        let mut values: Vec<(&toml::Value, Vec<&str>)> = Vec::new();
        for (config, value) in &self.set_by {
            match values.iter_mut().find(|(other, _)| *other == value) {
                Some((_, configs)) => configs.push(config),
                None => values.push((value, vec![config])),
            }
        }
        for (value, configs) in values {
            let others = match configs.len() - 1 {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            printer.line(format!("recipes  {value} in {}{others}", configs[0]));
        }
        printer.line(format!("try it   dsconv {kind} CONFIG --set '{key}=VALUE'"));
    }
}

/// Prints the JSON Schema of a command's configs.
///
/// # Errors
/// None is known.
pub fn print_schema(kind: ConfigKind, printer: &Printer) -> Result<()> {
    let schema = keys::schema(kind)?;
    let text = serde_json::to_string_pretty(&schema)?;
    printer.result(&schema, |printer| text.lines().for_each(|line| printer.line(line)));
    Ok(())
}

/// A config that was written.
#[derive(Debug, Serialize)]
struct NewConfig {
    #[serde(serialize_with = "lossy")]
    path: PathBuf,
    command: String,
}

/// What a new config begins as.
#[derive(Debug, Clone)]
pub enum Beginning {
    /// It has every key of a command's config, for this model.
    Keys(ConfigKind, String),
    /// It is a copy of the config of this name.
    Copy(String),
}

/// Writes a config to begin with. A file that is there is replaced with `force` only.
///
/// # Errors
/// The name is not that of a TOML file; there is no such model or config; the file cannot be written.
pub fn create(path: &Path, beginning: &Beginning, force: bool, printer: &Printer) -> Result<()> {
    check_ending(path, "a config is a TOML file", &["toml"])?;
    check_file(path, force, &[])?;
    let mut has_images = true;
    let (kind, text) = match beginning {
        Beginning::Copy(name) => config::text(name)?,
        Beginning::Keys(kind, model) => {
            check_model(*kind, model)?;
            has_images = *kind == ConfigKind::Train || model.ends_with("-embedded");
            (*kind, keys::template(*kind, model, has_images)?)
        }
    };
    files::write_atomic(path, text.as_bytes())
        .map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))?;
    let written =
        NewConfig { path: path.to_owned(), command: format!("dsconv {kind} {}", names::typed(path.display())) };
    printer.result(&written, |printer| {
        let first = if has_images { "" } else { "put the folder of your images into it: " };
        printer.line(format!("wrote {}: {first}`{}` runs it", written.path.display(), written.command));
    });
    Ok(())
}

/// Checks that a model can be named in a config.
///
/// # Errors
/// There is no network or file of that name.
fn check_model(kind: ConfigKind, model: &str) -> Result<()> {
    if zoo::variant(model).is_ok() || (kind == ConfigKind::Distill && Path::new(model).exists()) {
        return Ok(());
    }
    let error = Error::usage(match kind {
        ConfigKind::Distill => format!("no network is named `{model}`, and there is no such file or run folder"),
        ConfigKind::Train => format!("no network is named `{model}`"),
    });
    Err(error.hint(names::did_you_mean(names::nearest_network(model), names::MODELS)))
}
