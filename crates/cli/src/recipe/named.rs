//! Paths and names of data sets in a config.
use std::path::{Path, PathBuf};

use crate::config::ConfigFile;
use crate::error::Result;
use crate::places;
use crate::printer::Printer;

/// Returns the images that the value of `key` means: a data set keeps its name, a path is resolved.
///
/// # Errors
/// The manifest of the data set cannot be read.
pub fn images_at(key: &str, given: &str, file: &ConfigFile, printer: &Printer) -> Result<String> {
    Ok(match images::Manifest::find(given, &places::datasets())? {
        Some(_) => given.to_owned(),
        None => text(file.resolve(key, Path::new(given), printer)),
    })
}

/// Returns a path that came from a config's text as text again.
pub fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
