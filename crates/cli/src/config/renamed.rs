//! Keys whose names changed: a config that was written for an earlier version is told the new ones.
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Keys that had other names in earlier versions: the old name and the new one.
pub const RENAMED: &[(&str, &str)] =
    &[("adapt.scales", "adapt.scale_update"), ("export.scales", "export.scale_precision")];

/// Where the text of a config has the key `table.key` itself, not its value.
pub fn place(text: &str, key: &str) -> Option<Range<usize>> {
    let config = DeTable::parse(text).ok()?;
    let (table, key) = key.split_once('.')?;
    let DeValue::Table(table) = config.get_ref().get(table)?.get_ref() else { return None };
    table.keys().find(|found| found.get_ref() == key).map(|found| found.span())
}
