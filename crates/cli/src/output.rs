//! Files and folders that are written: their names say what they are, they can be written, and nothing is lost.
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use model::{Float, Model, SaveOptions};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::names;
use crate::printer::lossy;
use crate::table::{bytes, duration};

/// The format that a file's ending names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The ending is `.safetensors`.
    Safetensors,
    /// The ending is `.dsc`.
    Dsc,
    /// The ending is `.onnx`.
    Onnx,
}

impl Ending {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Safetensors, Self::Dsc, Self::Onnx];

    /// Returns the ending with its dot.
    fn as_str(self) -> &'static str {
        match self {
            Self::Safetensors => ".safetensors",
            Self::Dsc => ".dsc",
            Self::Onnx => ".onnx",
        }
    }

    /// Reads the ending of a file to write, in upper or lower case. `written` are the formats that are offered where it is none.
    ///
    /// # Errors
    /// There is no ending, or it is that of a format that is not written.
    pub fn of(path: &Path, written: &[Self]) -> Result<Self> {
        let shown = path.display();
        let stem = path.with_extension("");
        let offered = |stem: &str| {
            let names: Vec<String> = written.iter().map(|ending| format!("{stem}{}", ending.as_str())).collect();
            format!("{} can be written", names::quoted(names.iter().map(String::as_str)))
        };
        let Some(ending) = path.extension() else {
            return Err(Error::usage(format!("`{shown}`: the ending names the format, and there is none"))
                .hint(offered(&stem.to_string_lossy())));
        };
        match ending.to_string_lossy().to_lowercase().as_str() {
            "safetensors" => Ok(Self::Safetensors),
            "dsc" => Ok(Self::Dsc),
            "onnx" => Ok(Self::Onnx),
            "pth" | "pt" | "th" | "bin" | "ckpt" | "pkl" => {
                Err(Error::usage(format!("`{shown}`: PyTorch's own format is not written")).hint(format!(
                    "`dsconv export MODEL --format state-dict -o {}` writes what \
                     `model.load_state_dict(safetensors.torch.load_file(\"{stem}.safetensors\"))` loads",
                    names::typed(format!("{}.safetensors", stem.display())),
                    stem = stem.display()
                )))
            }
            other => Err(Error::usage(format!("`{shown}`: the ending names the format, and `.{other}` names none"))
                .hint(offered(""))),
        }
    }
}

/// A file to write, as the user asks for it.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The file; `None` for one that is named after the model.
    pub path: Option<PathBuf>,
    /// Whether a file that is there is replaced.
    pub force: bool,
    /// How weight scales are stored; `None` where the command decides.
    pub scales: Option<StoredScales>,
    /// How the other floats are stored; `None` for f32.
    pub floats: Option<Float>,
}

/// How weight scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoredScales {
    /// A half a block
    F16,
    /// A float a block
    F32,
    /// A float a filter, an 8-bit integer a block
    TwoLevel,
}

impl Target {
    /// Returns how floats are stored; block scales as `scales` where the user does not say it.
    pub fn options(&self, scales: Float) -> SaveOptions {
        let scale_precision = match self.scales {
            Some(StoredScales::F32) => Float::F32,
            Some(StoredScales::F16) => Float::F16,
            Some(StoredScales::TwoLevel) | None => scales,
        };
        SaveOptions { floats: self.floats.unwrap_or(Float::F32), scale_precision }
    }

    /// Tells whether scales are to be stored in two levels.
    pub fn is_two_level(&self) -> bool {
        self.scales == Some(StoredScales::TwoLevel)
    }
}

/// A file that a command has written.
#[derive(Debug, Serialize)]
pub struct Written {
    /// The file.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// The size of the file.
    pub bytes: u64,
    /// The size of the same network in FP32.
    pub fp32_bytes: u64,
    /// How many times smaller the file is.
    pub ratio: f64,
    /// The time that the command took.
    pub seconds: f64,
}

impl Written {
    /// Describes a file of `bytes` with a network that takes `fp32_bytes` in floats; the command began at `start`.
    pub fn new(path: PathBuf, bytes: u64, fp32_bytes: u64, start: Instant) -> Self {
        let ratio = fp32_bytes as f64 / bytes as f64;
        Self { path, bytes, fp32_bytes, ratio, seconds: start.elapsed().as_secs_f64() }
    }
}

/// Writes `wrote x.safetensors: 1.52 MB, 7.4 times smaller than FP32, in 0.8 s`.
impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = duration(std::time::Duration::from_secs_f64(self.seconds));
        let smaller = match self.ratio {
            ..1.05 => "as large as FP32".to_owned(),
            ratio => format!("{ratio:.1} times smaller than FP32"),
        };
        write!(f, "wrote {}: {}, {smaller}, in {time}", self.path.display(), bytes(self.bytes))
    }
}

/// A file that may be written.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
}

impl Output {
    /// Returns the file that the user names, or `default` in the current folder. Call it before the work, so that a refusal
    /// comes at once.
    ///
    /// # Errors
    /// As [`check_file`].
    pub fn new(target: &Target, default: &str, inputs: &[&Path]) -> Result<Self> {
        let path = target.path.clone().unwrap_or_else(|| PathBuf::from(default));
        check_file(&path, target.force, inputs)?;
        Ok(Self { path })
    }

    /// Writes a model, whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, model: &Model, options: &SaveOptions, start: Instant) -> Result<Written> {
        let size = files::save(model, &self.path, options)?;
        Ok(self.written(model, size, start))
    }

    /// Writes a model in another format, whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub fn save_bytes(&self, bytes: &[u8], model: &Model, start: Instant) -> Result<Written> {
        files::write_atomic(&self.path, bytes).map_err(|e| Error::failed(format!("`{}`: {e}", self.path.display())))?;
        Ok(self.written(model, bytes.len() as u64, start))
    }

    fn written(&self, model: &Model, bytes: u64, start: Instant) -> Written {
        Written::new(self.path.clone(), bytes, model.fp32_bytes(), start)
    }
}

/// Checks that the ending of a file to write is one of those that such files have. `what` says what it is: `a config is a TOML file`.
///
/// # Errors
/// It is another.
pub fn check_ending(path: &Path, what: &str, endings: &[&str]) -> Result<()> {
    match path.extension() {
        Some(found) if endings.iter().any(|ending| found.eq_ignore_ascii_case(ending)) => Ok(()),
        _ => Err(Error::usage(format!("`{}`: {what}", path.display()))
            .hint(format!("name it `{}`", path.with_extension(endings[0]).display()))),
    }
}

/// Checks that a file can be written without losing anything.
///
/// # Errors
/// The file is there and `force` is not given; it is one of `inputs`, a folder or a device; its folder is not there or cannot
/// be written.
pub fn check_file(path: &Path, force: bool, inputs: &[&Path]) -> Result<()> {
    let shown = path.display();
    if path.as_os_str().is_empty() {
        return Err(Error::usage("the name of the file to write is empty"));
    }
    if path == Path::new("-") {
        return Err(Error::usage("`-`: this is written to a file, not to stdout").hint("`./-` is a file of that name"));
    }
    if path.is_dir() {
        return Err(Error::usage(format!("`{shown}` is a folder, not a file to write")));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Error::failed(format!("there is no folder `{}`", folder.display())).into_missing());
    }
    // Also what cannot be looked up, such as a name that is too long.
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::failed(format!("`{shown}`: {error}"))),
        Ok(_) if path.exists() && !path.is_file() => {
            return Err(Error::usage(format!("`{shown}` is no ordinary file: it is not replaced")));
        }
        Ok(_) if inputs.iter().any(|input| same(input, path)) => {
            return Err(Error::usage(format!("`{shown}` is the file that is read")).hint("name another file to write"));
        }
        Ok(_) if force => {}
        Ok(_) => {
            let error = Error::failed(format!("`{shown}` exists already"));
            return Err(error.hint("`--force` replaces it; or name another file"));
        }
    }
    probe(folder)
}

/// Checks that a folder is there or can be made, and that it can be written. `what` says what it is for: `a run`.
///
/// # Errors
/// There is a file of that name; the name reads as a file's; the system does not permit it.
pub fn check_folder(path: &Path, what: &str) -> Result<()> {
    let shown = path.display();
    if path.as_os_str().is_empty() {
        return Err(Error::usage(format!("the name of the folder for {what} is empty")));
    }
    if path.exists() && !path.is_dir() {
        return Err(Error::usage(format!("`{shown}` is a file: {what} goes into a folder")));
    }
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let files = ["dsc", "onnx", "safetensors", "pth", "pt", "bin", "toml", "json", "csv", "zip", "tar"];
    if !path.is_dir() && files.contains(&ending.as_str()) {
        return Err(Error::usage(format!("`{shown}` reads as a file: {what} goes into a folder")));
    }
    let here = if path.is_absolute() { None } else { Some(Path::new(".")) };
    let mut above = path.ancestors().filter(|above| !above.as_os_str().is_empty()).chain(here);
    match above.find(|above| above.exists()) {
        Some(above) if !above.is_dir() => Err(Error::failed(format!("`{}` is not a folder", above.display()))),
        Some(above) => probe(above),
        None => Ok(()),
    }
}

/// Tells whether two paths lead to one file.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Checks that a file can be made in a folder.
fn probe(folder: &Path) -> Result<()> {
    match tempfile::Builder::new().prefix(".dsconv-").suffix(".tmp").tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(error) => {
            // The temporary file's name says nothing to anybody.
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Err(Error::failed(format!("`{}` cannot be written: {why}", folder.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_name_formats() {
        let of = |name: &str| Ending::of(Path::new(name), &Ending::ALL);
        assert_eq!(of("a/b.DSC").unwrap(), Ending::Dsc);
        assert_eq!(of("x.y.safetensors").unwrap(), Ending::Safetensors);
        assert_eq!(of("x.Onnx").unwrap(), Ending::Onnx);
        for (name, message) in [
            ("x", "`x`: the ending names the format, and there is none"),
            (".dsc", "`.dsc`: the ending names the format, and there is none"),
            ("x.tflite", "`x.tflite`: the ending names the format, and `.tflite` names none"),
            ("x.PTH", "`x.PTH`: PyTorch's own format is not written"),
        ] {
            let error = of(name).unwrap_err();
            assert_eq!((error.message(), error.code()), (message, 2));
            assert!(error.advice().is_some());
        }
        let hint = |written| Ending::of(Path::new("x.foo"), written).unwrap_err().advice().unwrap().to_owned();
        assert_eq!(hint(&Ending::ALL), "`.safetensors`, `.dsc`, `.onnx` can be written");
        assert_eq!(hint(&[Ending::Dsc]), "`.dsc` can be written");
        check_ending(Path::new("a/x.HTML"), "a report is a page", &["html", "htm"]).unwrap();
        let error = check_ending(Path::new("a/x.txt"), "a report is a page", &["html", "htm"]).unwrap_err();
        assert_eq!((error.message(), error.advice()), ("`a/x.txt`: a report is a page", Some("name it `a/x.html`")));
    }

    #[test]
    fn nothing_is_lost_by_writing() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("there.dsc"), "x").unwrap();
        check_file(&path("new.dsc"), false, &[]).unwrap();
        check_file(&path("there.dsc"), true, &[&path("other")]).unwrap();
        let refused = |name: &str, force: bool, part: &str| {
            let error = check_file(&path(name), force, &[&path("there.dsc")]).unwrap_err();
            assert!(error.message().contains(part), "{}", error.message());
        };
        refused("there.dsc", true, "is the file that is read");
        refused("", true, "is a folder");
        refused("no/x.dsc", true, "there is no folder");
        refused("there.dsc/x.dsc", true, "there is no folder");
        refused(&"x".repeat(300), true, "too long");
        assert!(check_file(&path("there.dsc"), false, &[]).unwrap_err().message().contains("exists already"));
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "no traces");
    }

    #[test]
    fn folders_are_checked_before_the_work() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        check_folder(&path("a/b/c"), "a run").unwrap();
        check_folder(Path::new("a-new-one"), "a run").unwrap();
        for (name, part) in [("file", "is a file"), ("file/x", "is not a folder"), ("x.dsc", "reads as a file")] {
            let error = check_folder(&path(name), "a run").unwrap_err();
            assert!(error.message().contains(part), "{}", error.message());
        }
    }
}
