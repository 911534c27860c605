//! Keys whose names changed: a config that was written for an earlier version is told the new ones.
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// The keys that had other names in earlier versions: each with its old name and its new one.
pub const RENAMED: &[(&str, &str)] =
    &[("adapt.scales", "adapt.scale_update"), ("export.scales", "export.scale_precision")];

/// Returns the place in the text of a config where the key `table.key` itself is, not its value.
pub fn place(text: &str, key: &str) -> Option<Range<usize>> {
    let config = DeTable::parse(text).ok()?;
    let (table, key) = key.split_once('.')?;
    let DeValue::Table(table) = config.get_ref().get(table)?.get_ref() else { return None };
    table.keys().find(|found| found.get_ref() == key).map(|found| found.span())
}
