//! Files of a run folder, each whole or not there.
use std::fs;
use std::path::Path;

use crate::Error;

/// Writes a file whole or not at all, and makes its folder if need be: see [`files::write_atomic`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().expect("a file in a folder");
    fs::create_dir_all(folder).and_then(|()| files::write_atomic(path, bytes)).map_err(Error::io(path))
}

/// Writes a value as indented JSON, as [`write`] does.
pub(crate) fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    text.push('\n');
    write(path, text.as_bytes())
}

/// Reads the value in a JSON file; `None` where there is no file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::file(path, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}
