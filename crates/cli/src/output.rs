//! Files that are written: named, not overwritten unasked, reported.
use std::path::{Path, PathBuf};
use std::time::Instant;

use graph::{Model, SaveOptions};
use serde::Serialize;

use crate::args::Target;
use crate::deploy::EXTENSION;
use crate::error::{Error, Result};
use crate::table::{bytes, duration};

/// What was written.
#[derive(Debug, Serialize)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Size of the same network in FP32.
    pub fp32_bytes: u64,
    /// How many times smaller it is.
    pub ratio: f64,
    /// How long the command took.
    pub seconds: f64,
}

impl Written {
    /// A file of `bytes` of a network that takes `fp32_bytes` in floats.
    pub fn new(path: PathBuf, bytes: u64, fp32_bytes: u64, start: Instant) -> Self {
        let ratio = fp32_bytes as f64 / bytes as f64;
        Self { path, bytes, fp32_bytes, ratio, seconds: start.elapsed().as_secs_f64() }
    }
}

/// A file that may be written.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    options: SaveOptions,
}

impl Output {
    /// The file of `-o`, or `default` in the current folder. Say it before the work: a refusal should come at once.
    ///
    /// # Errors
    /// There is such a file already and no `--force`, or no such folder.
    pub fn new(target: &Target, default: &str) -> Result<Self> {
        let path = target.output.clone().unwrap_or_else(|| PathBuf::from(default));
        refuse_overwrite(&path, target.force)?;
        Ok(Self { path, options: target.options() })
    }

    /// Writes a model, whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, model: &Model, start: Instant) -> Result<Written> {
        let size = model.save(&self.path, &self.options)?;
        Ok(self.written(model, size, start))
    }

    /// Writes a model in another format, whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub fn save_bytes(&self, bytes: &[u8], model: &Model, start: Instant) -> Result<Written> {
        graph::write_atomic(&self.path, bytes).map_err(|e| Error::failed(format!("`{}`: {e}", self.path.display())))?;
        Ok(self.written(model, bytes.len() as u64, start))
    }

    /// Whether the file's name asks for a .dsc file.
    pub fn is_dsc(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
    }

    fn written(&self, model: &Model, bytes: u64, start: Instant) -> Written {
        Written::new(self.path.clone(), bytes, model.fp32_bytes(), start)
    }
}

/// # Errors
/// There is such a file and no `--force`, it is a folder, or its folder is not there.
pub fn refuse_overwrite(path: &Path, force: bool) -> Result<()> {
    let shown = path.display();
    if path.is_dir() {
        return Err(Error::usage(format!("`{shown}` is a folder, not a file to write")));
    }
    if path.exists() && !force {
        return Err(
            Error::failed(format!("`{shown}` exists already")).hint("`--force` replaces it, `-o` names another file")
        );
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(Error::failed(format!("there is no folder `{}`", folder.display()))),
        _ => Ok(()),
    }
}

/// `wrote x.safetensors: 1.52 MB, 7.4 times smaller than FP32, in 0.8 s`.
impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = duration(std::time::Duration::from_secs_f64(self.seconds));
        let smaller = format!("{:.1} times smaller than FP32", self.ratio);
        write!(f, "wrote {}: {}, {smaller}, in {time}", self.path.display(), bytes(self.bytes))
    }
}
