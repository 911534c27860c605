//! Changes of a config's values on the command line.
use toml::{Table, Value};

use crate::error::{Error, Result};

/// A change of one value: `key.path=value` of `--set`.
#[derive(Debug)]
pub struct Change {
    /// The text that was typed.
    pub typed: String,
    /// The parts of the key's path.
    pub keys: Vec<String>,
    value: Value,
}

impl Change {
    /// Reads `key.path=value`.
    ///
    /// # Errors
    /// The key, the value or the `=` is missing.
    pub fn parse(typed: &str) -> Result<Self> {
        let malformed = |why: &str| {
            Error::usage(format!("--set `{typed}`: {why}"))
                .hint("write `--set quantize.bits=3`; `dsconv config keys` lists the keys")
        };
        let (keys, value) = typed.split_once('=').ok_or_else(|| malformed("no `=`"))?;
        let keys: Vec<String> = keys.trim().split('.').map(str::to_owned).collect();
        if keys.iter().any(String::is_empty) {
            return Err(malformed("no key"));
        }
        let value = value.trim();
        if value.is_empty() {
            return Err(malformed("no value"));
        }
        // What is no TOML value is a string that the shell has robbed of its quotes.
        let parsed = toml::from_str::<Table>(&format!("value = {value}")).ok().and_then(|mut t| t.remove("value"));
        Ok(Self { typed: typed.to_owned(), keys, value: parsed.unwrap_or_else(|| Value::String(value.to_owned())) })
    }

    /// Changes the value in a config.
    ///
    /// # Errors
    /// A part of the path is no table.
    pub fn apply(&self, table: &mut Table) -> Result<()> {
        let (last, path) = self.keys.split_last().expect("at least one key");
        let mut table = table;
        for key in path {
            let entry = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            table = entry
                .as_table_mut()
                .ok_or_else(|| Error::usage(format!("--set {}: `{key}` is not a table", self.typed)))?;
        }
        table.insert(last.clone(), self.value.clone());
        Ok(())
    }
}
