//! Config files: they are found by the name that the user types, and their errors show the line at fault.
mod change;
mod complaint;
mod drawing;
mod find;
mod kind;
mod renamed;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::names;
use crate::printer::Printer;

use change::Change;
use complaint::Complaint;
use find::{FOLDER, Found, find};
pub use find::{Listed, all, text};
pub use kind::ConfigKind;
pub use renamed::RENAMED;

/// The text of a config file, with the changes of `--set` that are to be applied.
#[derive(Debug)]
pub struct ConfigFile {
    /// The path that is shown. For a recipe in the binary it is the one in the repository.
    path: PathBuf,
    /// The folder in which the paths of the config are looked for first; `None` for a recipe in the binary.
    folder: Option<PathBuf>,
    text: String,
    changes: Vec<Change>,
}

impl ConfigFile {
    /// Opens the config that `typed` means: a path, a path into `config/` or `configs/`, or a bare name there, with or
    /// without `.toml`. The folder is looked for here and in the folders above; the recipes in the binary come last.
    ///
    /// # Errors
    /// There is no such file, and the error names the nearest; the file cannot be read; a `--set` is malformed.
    pub fn open(typed: &str, kind: ConfigKind, set: &[String], printer: &Printer) -> Result<Self> {
        let changes = set.iter().map(|typed| Change::parse(typed)).collect::<Result<_>>()?;
        let file = match find(typed, kind, Path::new("."))? {
            Found::File(path) => {
                let text = find::read(&path)?;
                let folder = path.parent().map(Path::to_owned);
                Self { path, folder, text, changes }
            }
            Found::BuiltIn(name, text) => {
                let path = Path::new(FOLDER).join(format!("{name}.toml"));
                Self { path, folder: None, text: text.to_owned(), changes }
            }
        };
        match ConfigKind::of_text(&file.text) {
            Some(other) if other != kind => Err(Error::usage(format!("`{typed}` is a config of `dsconv {other}`"))
                .hint(format!("`dsconv {other} {}` runs it", names::typed(typed)))),
            _ => {
                if file.folder.is_none() {
                    printer.talk(format!("config {}: the one that comes with dsconv", file.path.display()));
                }
                Ok(file)
            }
        }
    }

    /// Returns the name of the config: its path below `configs/` without `.toml`, with `-` for `/`.
    pub fn name(&self) -> String {
        let stem = self.path.with_extension("");
        let parts: Vec<String> = stem.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        match parts.iter().rposition(|part| part == FOLDER) {
            Some(folder) => parts[folder + 1..].join("-"),
            None => parts.last().cloned().unwrap_or_default(),
        }
    }

    /// Reads the values, with `--set` applied.
    ///
    /// # Errors
    /// A key or a value is wrong. The error shows its line with a caret under it, and a hint.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        self.check_names()?;
        let parsed: T = toml::from_str(&self.text).map_err(|error| {
            let message = error.message().to_owned();
            let span = error.span().map(|span| self.narrow(&message, span));
            self.diagnostic(Complaint::read(&message), span)
        })?;
        if self.changes.is_empty() {
            return Ok(parsed);
        }
        let mut table: Table = toml::from_str(&self.text)?;
        for change in &self.changes {
            change.apply(&mut table)?;
            // One by one, so that the message names the change at fault.
            if let Err(error) = Value::Table(table.clone()).try_into::<T>() {
                let complaint = Complaint::read(error.message());
                return Err(complaint.into_error().at(format!("--set {}", change.typed)));
            }
        }
        Ok(Value::Table(table).try_into()?)
    }

    /// Refuses a key by the name that it had in an earlier version, and tells the name that it has now.
    fn check_names(&self) -> Result<()> {
        for &(old, new) in RENAMED {
            let complaint = || Complaint {
                message: format!("unknown key `{old}`"),
                label: "renamed".into(),
                hint: Some(format!("it is called `{new}` now")),
            };
            if let Some(change) = self.changes.iter().find(|change| change.keys.join(".") == old) {
                return Err(complaint().into_error().at(format!("--set {}", change.typed)));
            }
            if let Some(span) = renamed::place(&self.text, old) {
                return Err(self.diagnostic(complaint(), Some(span)));
            }
        }
        Ok(())
    }

    /// Makes an error about the value of `key`, such as `quantize.bits`. It points at the place where the file has it.
    pub fn error_at(&self, key: &str, message: impl fmt::Display, hint: Option<String>) -> Error {
        let complaint = Complaint { message: message.to_string(), label: String::new(), hint };
        let set = self.changes.iter().rev().find(|change| change.keys.join(".") == key);
        if let Some(change) = set {
            return complaint.into_error().at(format!("--set {}", change.typed));
        }
        let span = self.place(key);
        self.diagnostic(complaint, span)
    }

    /// Points an error at the value of `key`.
    pub fn point(&self, key: &str, error: &Error) -> Error {
        self.error_at(key, error.message(), error.advice().map(str::to_owned))
    }

    /// Checks that the file, or `--set`, has a value for `key`.
    ///
    /// # Errors
    /// It has none. The error says `what` the key is, and gives an example of a value, a text.
    pub fn require(&self, key: &str, what: &str, example: &str) -> Result<()> {
        if self.says(key) {
            return Ok(());
        }
        let error = Error::usage(format!("missing key `{key}`: {what}")).at(self.path.display());
        // A line at the end of a file belongs to the last table in it.
        let line = match key.rsplit_once('.') {
            Some((table, last)) => format!("`{last} = \"{example}\"` under `[{table}]`"),
            None => format!("`{key} = \"{example}\"` above all tables"),
        };
        Err(error.hint(format!("`--set {key}={example}`, or in the file {line}; `dsconv config keys` lists all keys")))
    }

    /// Tells whether the file, or `--set`, has a value for `key`.
    pub fn says(&self, key: &str) -> bool {
        self.is_set(key) || self.place(key).is_some()
    }

    /// Tells whether `--set` changes the value of `key`.
    fn is_set(&self, key: &str) -> bool {
        self.changes.iter().any(|change| {
            let changed = change.keys.join(".");
            changed == key || key.strip_prefix(&changed).is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// Resolves the path `given` under `key`. What lies beside the config comes before what lies in the current folder, and a
    /// name that is in both is said. Paths of `--set` are relative to the current folder.
    pub fn resolve(&self, key: &str, given: &Path, printer: &Printer) -> PathBuf {
        let Some(folder) = self.folder.as_ref().filter(|_| !self.is_set(key)) else { return given.to_owned() };
        let beside = folder.join(given);
        if !beside.exists() {
            return given.to_owned();
        }
        let same = || matches!((beside.canonicalize(), given.canonicalize()), (Ok(a), Ok(b)) if a == b);
        if given.exists() && !same() {
            let (given, beside) = (given.display(), beside.display());
            printer.warn(format!("{key}: `{given}` is beside the config and in this folder: `{beside}` is taken"));
        }
        beside
    }

    /// Returns the span of the value under `key`.
    fn place(&self, key: &str) -> Option<Range<usize>> {
        DeTable::parse(&self.text).ok().and_then(|table| span_of(table.get_ref(), key))
    }

    /// Narrows a span to its first line where serde points at a whole table for a missing key.
    fn narrow(&self, message: &str, span: Range<usize>) -> Range<usize> {
        if message.starts_with("missing field") {
            let line = self.text[span.clone()].lines().next().map_or(0, str::len);
            return span.start..span.start + line;
        }
        span
    }

    fn diagnostic(&self, complaint: Complaint, span: Option<Range<usize>>) -> Error {
        let Some(span) = span.filter(|span| span.end <= self.text.len()) else {
            return complaint.into_error().at(self.path.display());
        };
        let drawing = drawing::draw(&self.path.display().to_string(), &self.text, span, &complaint.label);
        complaint.into_error().snippet(drawing)
    }
}

/// Returns the span of the value under `key.path`. Items of lists go by their index: `rules.0.layers`.
fn span_of(table: &DeTable, key: &str) -> Option<Range<usize>> {
    let (first, mut rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let mut value = table.get(first)?;
    while let Some(path) = rest {
        let (next, after) = path.split_once('.').map_or((path, None), |(next, after)| (next, Some(after)));
        value = match value.get_ref() {
            DeValue::Table(table) => table.get(next)?,
            DeValue::Array(items) => items.get(next.parse::<usize>().ok()?)?,
            _ => return None,
        };
        rest = after;
    }
    Some(value.span())
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Recipe {
        epochs: usize,
        rate: f64,
        quantize: model::Policy,
        labels: Vec<String>,
    }

    impl Default for Recipe {
        fn default() -> Self {
            Self { epochs: 1, rate: 0.1, quantize: model::Policy::default(), labels: Vec::new() }
        }
    }

    fn file(text: &str, set: &[&str]) -> ConfigFile {
        let changes = set.iter().map(|typed| Change::parse(typed).unwrap()).collect();
        ConfigFile { path: "configs/x.toml".into(), folder: None, text: text.into(), changes }
    }

    /// Returns message, drawing and hint as the user sees them.
    fn shown(error: &Error) -> String {
        let drawing = error.drawing().map(|drawing| strip_str(drawing).to_string());
        let parts = [Some(error.message()), drawing.as_deref(), error.advice()];
        parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn errors_show_the_line() {
        let cases = [
            (
                "epochs = 3\nrat = 0.1\n",
                "unknown key `rat`
   ╭─[configs/x.toml:2:1]
 1 │ epochs = 3
 2 │ rat = 0.1
   · ─┬─
   ·  ╰── not a key here
   ╰────
did you mean `rate`? the keys here are `epochs`, `rate`, `quantize`, `labels`",
            ),
            (
                "[quantize]\nrule = \"mes\"\n",
                "unknown value `mes`
   ╭─[configs/x.toml:2:8]
 1 │ [quantize]
 2 │ rule = \"mes\"
   ·        ──┬──
   ·          ╰── not a value of this key
   ╰────
did you mean `mse`? allowed are `l2`, `kl`, `mse`, `balanced`",
            ),
            (
                "epochs = \"three\"\n",
                "expected a whole number, found string \"three\"
   ╭─[configs/x.toml:1:10]
 1 │ epochs = \"three\"
   ·          ───────
   ╰────",
            ),
            (
                "epochs = = 3\n",
                "extra `=`, expected nothing
   ╭─[configs/x.toml:1:10]
 1 │ epochs = = 3
   ·          ─
   ╰────",
            ),
        ];
        for (text, expected) in cases {
            let error = file(text, &[]).parse::<Recipe>().unwrap_err();
            assert_eq!(shown(&error), expected, "{text}");
            assert_eq!(error.code(), 2);
        }
    }

    #[test]
    fn a_renamed_key_is_told_its_new_name() {
        let error = file("[adapt]\nsteps = 1\nscales = \"fixed\"\n", &[]).parse::<Recipe>().unwrap_err();
        let expected = "unknown key `adapt.scales`
   ╭─[configs/x.toml:3:1]
 2 │ steps = 1
 3 │ scales = \"fixed\"
   · ───┬──
   ·    ╰── renamed
   ╰────
it is called `adapt.scale_update` now";
        assert_eq!(shown(&error), expected);
        for &(old, new) in RENAMED {
            let (table, key) = old.split_once('.').unwrap();
            let set = format!("{old}=x");
            for file in [file(&format!("{table} = {{ {key} = 1 }}"), &[]), file("", &[&set])] {
                let error = file.parse::<Recipe>().unwrap_err();
                assert!(error.message().contains(&format!("unknown key `{old}`")), "{}", shown(&error));
                assert_eq!(error.advice(), Some(format!("it is called `{new}` now").as_str()));
                assert_eq!(error.code(), 2);
            }
        }
    }

    #[test]
    fn library_messages_are_kept_with_their_place() {
        let error = file("[quantize]\nbits = 9\n", &[]).parse::<Recipe>().unwrap_err();
        assert!(shown(&error).contains("configs/x.toml:2:8"), "{}", shown(&error));
        assert!(error.message().contains('9'), "{}", error.message());
        let error = file("[[quantize.rules]]\nbits = 8\n", &[]).parse::<Recipe>().unwrap_err();
        assert!(error.message().contains("missing key `layers`"), "{}", error.message());
    }

    #[test]
    fn semantic_errors_point_at_their_key() {
        let file = file("[quantize]\nbits = 4\n[[quantize.rules]]\nlayers = \"convl\"\n", &[]);
        let error = file.error_at("quantize.rules.0.layers", "no such layer", None);
        assert!(shown(&error).contains("configs/x.toml:4:10"), "{}", shown(&error));
        // A key that the file leaves to its default has no place in it.
        assert_eq!(shown(&file.error_at("rate", "too high", None)), "configs/x.toml: too high");
    }

    #[test]
    fn set_changes_values() {
        let recipe: Recipe =
            file("epochs = 3\n", &["epochs=5", "quantize.bits=3", "quantize.rule=l2"]).parse().unwrap();
        assert_eq!((recipe.epochs, recipe.quantize.bits.get()), (5, 3));
        assert_eq!(recipe.quantize.rule, blockfloat::ScaleRule::L2);
        let error = file("", &["quantize.bitz=3"]).parse::<Recipe>().unwrap_err();
        assert_eq!(error.message(), "--set quantize.bitz=3: unknown key `bitz`");
        assert!(error.advice().unwrap().starts_with("did you mean `bits`?"));
        assert_eq!(Change::parse("bits").unwrap_err().message(), "--set `bits`: no `=`");
    }

    #[test]
    fn paths_are_looked_for_beside_the_config_first() {
        let root = tempfile::tempdir().unwrap();
        let beside = root.path().join("net.onnx");
        std::fs::write(&beside, "").unwrap();
        let printer = Printer::new(&crate::printer::Manner { quiet: true, ..Default::default() });
        let mut config = file("model = \"net.onnx\"", &[]);
        config.folder = Some(root.path().to_owned());
        assert_eq!(config.resolve("model", Path::new("net.onnx"), &printer), beside);
        assert_eq!(config.resolve("weights", Path::new("src"), &printer), Path::new("src"));
        config.changes.push(Change::parse("model=net.onnx").unwrap());
        assert_eq!(config.resolve("model", Path::new("net.onnx"), &printer), Path::new("net.onnx"));
    }

    #[test]
    fn required_keys_are_in_the_file_or_set() {
        let error = file("seed = 1", &[]).require("model", "the network", "\"x\"").unwrap_err();
        assert_eq!(error.message(), "configs/x.toml: missing key `model`: the network");
        file("model = \"a\"", &[]).require("model", "", "").unwrap();
        file("", &["model=a"]).require("model", "", "").unwrap();
        file("", &["model.name=a"]).require("model.name", "", "").unwrap();
    }

    #[test]
    fn a_config_is_named_after_its_place() {
        let named =
            |path: &str| ConfigFile { path: path.into(), folder: None, text: String::new(), changes: vec![] }.name();
        assert_eq!(named("configs/vgg_4bit.toml"), "vgg_4bit");
        assert_eq!(named("/x/configs/imagenet/vgg16_4bit.toml"), "imagenet-vgg16_4bit");
        assert_eq!(named("/tmp/mine.toml"), "mine");
    }
}
