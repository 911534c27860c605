//! Reads checkpoints of trained networks into [`Weights`] that fit a [`Graph`].
//!
//! The formats are those of `torch.save` (zip archives, the older pickle streams and tar archives, whole pickled modules,
//! TorchScript), `pickle.dump` of tensors or arrays, `numpy.savez`, safetensors, and the index of a checkpoint in several
//! files. Nothing in a pickle is run, and names and shapes are compared before any tensor is read, so that a file costs no
//! more memory than the graph asks for.
//!
//! A file may differ from the graph's names in these ways only:
//! - all names have a prefix, of wrappers around the state dict (`{"model": ...}`) or of modules around the network
//!   (`module.`, `backbone.`);
//! - the classifier has another name, where only one linear layer can be it; `downsample` is called `shortcut`; DenseNet
//!   has its old names, `denselayer1.norm.1` for `denselayer1.norm1`;
//! - weights are stored in parts: pruned (`weight_orig`, `weight_mask`), or with weight or spectral normalisation;
//! - there are counters, metrics and losses, averaged copies, or GoogLeNet's auxiliary heads, which inference does not need.
//!
//! Any other tensor belongs to another network, and the file is refused.
mod content;
mod fault;
mod fit;
mod identify;
mod module;
mod names;
mod object;
mod pickle;
mod source;
mod tar;
mod tensor;
mod torch;
mod walk;
mod zip;

use std::io;
use std::path::{Path, PathBuf};

use graph::{Graph, Tensor, Weights, WeightsError};

use self::content::CheckpointContent;
use self::fault::Fault;
use self::fit::{FoundTensors, Index, some};
use self::identify::Nearest;
use self::module::ModuleSettings;
use self::names::Named;
use self::source::ByteSource;
use self::tensor::ValueError;
use crate::config::Config;
use crate::googlenet;

pub use self::identify::{Assumption, Identified};

/// The reason why a checkpoint cannot be loaded. [`CheckpointError::hint`] says what the user can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be opened or read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason that the system gives.
        error: io::Error,
    },
    /// The file contradicts its own format: it was cut off or damaged.
    #[error("{}: {why}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        why: String,
    },
    /// The file is something else than a checkpoint, or a checkpoint of a kind that is not supported.
    #[error("{} is {what}", path.display())]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
        /// The kind of file that it is.
        what: String,
        /// The advice for the user.
        hint: String,
    },
    /// The elements of a parameter are not floats, or not in the file.
    #[error("{}: tensor `{tensor}` has {what}, not floats", path.display())]
    NotFloat {
        /// The file.
        path: PathBuf,
        /// The name of the parameter in the graph.
        tensor: String,
        /// The elements that it has instead.
        what: String,
    },
    /// An element of a parameter is infinite or not a number, or too large for f32.
    #[error("{}: tensor `{tensor}` has {} at element {index}", path.display(), infinite(*value))]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The name of the parameter in the graph.
        tensor: String,
        /// The row-major position of the element.
        index: usize,
        /// The element.
        value: f32,
    },
    /// Tensors are missing, unexpected or of a wrong shape.
    #[error("{}: {}", path.display(), misfit(differences, looks_like.as_deref(), prefix))]
    Weights {
        /// The file.
        path: PathBuf,
        /// Every difference from the graph.
        differences: Box<WeightsError>,
        /// The network of the zoo to which the parameters belong, if there is one.
        looks_like: Option<String>,
        /// The prefix of the names in the file.
        prefix: String,
    },
    /// The parameters belong to no network of the zoo.
    #[error("{}: these parameters are of no network that dsconv can build{}", path.display(),
        nearest.as_ref().map_or_else(|| format!(": {names}"), |error| format!("; nearest is `{}`: {}", error.graph, reason(error))))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The differences from the network with the nearest names.
        nearest: Option<Box<WeightsError>>,
        /// Some names of the parameters.
        names: String,
    },
}

impl CheckpointError {
    /// Returns what the user can do about the error; `None` where the message says all.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::NotACheckpoint { hint, .. } => Some(hint),
            Self::Weights { looks_like: Some(_), .. } => Some("name that network, or the file alone"),
            Self::Weights { differences, .. } if lacks_statistics(differences) => Some(WITH_STATISTICS),
            Self::Unknown { path, nearest, .. } => Some(advice(path, nearest.as_deref())),
            _ => None,
        }
    }

    /// Returns every difference in names and shapes; the message shows only the first ones.
    pub fn differences(&self) -> Option<&WeightsError> {
        match self {
            Self::Weights { differences, .. } => Some(differences),
            Self::Unknown { nearest, .. } => nearest.as_deref(),
            _ => None,
        }
    }
}

/// The advice on how a checkpoint comes to have its running statistics.
const WITH_STATISTICS: &str = "save `model.state_dict()`, which has them, not `model.named_parameters()`";

/// Returns the advice for parameters that belong to no known network.
fn advice(path: &Path, nearest: Option<&WeightsError>) -> &'static str {
    let is_part = path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("-of-"));
    if is_part {
        "it is one part of a checkpoint in several files: name the index of them, `.index.json`"
    } else if nearest.is_some_and(lacks_statistics) {
        WITH_STATISTICS
    } else {
        "any other network comes as an ONNX file: `torch.onnx.export(model, image, \"model.onnx\")`"
    }
}

/// Returns whether only the running statistics of normalisations are missing.
fn lacks_statistics(error: &WeightsError) -> bool {
    let WeightsError { missing, unexpected, wrong_shape, .. } = error;
    let statistics = |name: &String| name.ends_with(".running_mean") || name.ends_with(".running_var");
    wrong_shape.is_empty() && unexpected.is_empty() && !missing.is_empty() && missing.iter().all(statistics)
}

/// Writes a value that is no finite f32.
fn infinite(value: f32) -> String {
    if value.is_infinite() { format!("{value}, or a number too large for f32,") } else { value.to_string() }
}

/// Says in as few lines as possible why weights do not fit.
fn misfit(error: &WeightsError, looks_like: Option<&str>, prefix: &str) -> String {
    let graph = &error.graph;
    match looks_like {
        Some(other) => format!("the weights do not fit `{graph}`: this looks like {other}"),
        None if prefix.is_empty() || lacks_statistics(error) => reason(error),
        None => format!("under `{prefix}`, {}", reason(error)),
    }
}

/// Lists the differences, or names their common cause.
fn reason(error: &WeightsError) -> String {
    if lacks_statistics(error) {
        return format!("the running statistics of the batch normalisations of `{}` are missing", error.graph);
    }
    error.to_string()
}

/// An open checkpoint: the names and shapes of its tensors, whose values are still in the file.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    names: Vec<Named>,
    /// The settings of layers, which whole pickled modules hold.
    layers: Vec<ModuleSettings>,
    classes: Vec<Vec<String>>,
    /// The size of the file, or of all its parts.
    bytes: u64,
}

/// The weights that were read from a checkpoint.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The weights, which fit the graph.
    pub weights: Weights,
    /// Remarks that a user should see: the name of the classifier, the tensors that were left out.
    pub notes: Vec<String>,
    /// The copy of the network that was taken, where the file has several.
    pub choice: Option<String>,
    /// Remarks that seldom matter: the prefix of the names, and the tensors that inference never needs.
    pub details: Vec<String>,
}

impl Checkpoint {
    /// Opens a file, without reading its tensors.
    ///
    /// # Errors
    /// [`CheckpointError`] says what the file is instead, or where it is broken.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        Self::read(path, ByteSource::open(path).map_err(Fault::from))
    }

    /// Opens the bytes of a file; `name` stands in messages for its path.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, CheckpointError> {
        Self::read(Path::new(name), Ok(ByteSource::memory(bytes)))
    }

    fn read(path: &Path, source: Result<ByteSource, Fault>) -> Result<Self, CheckpointError> {
        let opened = source.and_then(|source| CheckpointContent::open(path, &source));
        let CheckpointContent { entries, layers, classes, bytes, .. } = opened.map_err(|fault| fault.at(path))?;
        Ok(Self { path: path.to_owned(), names: names::plain(entries), layers, classes, bytes })
    }

    /// Finds the network of the zoo to which the parameters belong, with the classes, the width and the stem of the file.
    /// The settings of `given` are kept; an empty name leaves the network open.
    ///
    /// # Errors
    /// [`CheckpointError::Unknown`] names the nearest network.
    pub fn identify(&self, given: &Config) -> Result<Identified, CheckpointError> {
        identify::identify(&Index::new(&self.names, &self.layers), given).map_err(|nearest| CheckpointError::Unknown {
            path: self.path.clone(),
            nearest: nearest.map(|Nearest { differences, .. }| Box::new(differences)),
            names: some(&self.names.iter().map(|name| name.original.clone()).collect::<Vec<_>>()),
        })
    }

    /// Reads the parameters of a graph.
    ///
    /// # Errors
    /// [`CheckpointError`] names the tensor, or the network to which the parameters belong.
    pub fn load(&self, graph: &Graph) -> Result<Loaded, CheckpointError> {
        let index = Index::new(&self.names, &self.layers);
        let fit = index.fit(graph);
        if !fit.fits() {
            let found = identify::identify(&index, &Config::default()).ok();
            let looks_like = found.map(|found| describe(&found.config));
            let (path, prefix) = (self.path.clone(), fit.prefix);
            return Err(CheckpointError::Weights { path, differences: Box::new(fit.differences), looks_like, prefix });
        }
        let weights = self.weights(graph, &fit)?;
        let mut details = Vec::new();
        if !fit.prefix.is_empty() {
            details.push(format!("its names begin with `{}`", fit.prefix));
        }
        if !fit.dropped.is_empty() {
            details.push(format!("not needed: {}", fit.dropped.join(", ")));
        }
        Ok(Loaded { weights, notes: fit.notes, choice: fit.choice, details })
    }

    /// Returns the names of the classes, if the file holds a list of `count` names.
    pub fn class_names(&self, count: usize) -> Option<&[String]> {
        self.classes.iter().find(|names| names.len() == count).map(Vec::as_slice)
    }

    fn weights(&self, graph: &Graph, fit: &FoundTensors) -> Result<Weights, CheckpointError> {
        let elements = fit.tensors.values().fold(0, |sum: u64, named| sum.saturating_add(named.tensor.elements()));
        // Every element takes at least a byte of the file, but for a few that are expanded from one.
        if elements > self.bytes.saturating_add(1 << 20) {
            return Err(Fault::Broken("its tensors are larger than the file".into()).at(&self.path));
        }
        let mut weights = Weights::default();
        if graph.find(googlenet::TRANSFORM_INPUT).is_some() {
            googlenet::transform_input(&mut weights);
        }
        for param in graph.params() {
            let Some(named) = fit.tensors.get(&param.name) else { continue };
            let data = named.tensor.values().map_err(|error| self.error(&param.name, error))?;
            if let Some(index) = data.iter().position(|x| !x.is_finite()) {
                let (path, tensor) = (self.path.clone(), param.name);
                return Err(CheckpointError::NotFinite { path, tensor, index, value: data[index] });
            }
            weights.insert(param.name, Tensor::new(param.shape, data));
        }
        Ok(weights)
    }

    fn error(&self, tensor: &str, error: ValueError) -> CheckpointError {
        match error {
            ValueError::NotFloat(what) => {
                CheckpointError::NotFloat { path: self.path.clone(), tensor: tensor.to_owned(), what }
            }
            ValueError::Fault(Fault::Broken(why)) => Fault::Broken(format!("tensor `{tensor}`: {why}")).at(&self.path),
            ValueError::Fault(fault) => fault.at(&self.path),
        }
    }
}

impl Fault {
    fn at(self, path: &Path) -> CheckpointError {
        let path = path.to_owned();
        match self {
            Self::Io(error) => CheckpointError::Io { path, error },
            Self::Broken(why) => CheckpointError::Broken { path, why },
            Self::Refused { what, hint } => CheckpointError::NotACheckpoint { path, what, hint },
        }
    }
}

/// Describes a network for a message, for example `resnet34 with 7 classes`.
pub fn describe(config: &Config) -> String {
    let mut text = config.name.clone();
    if let Some(width) = config.width {
        text += &format!(" of width {width}");
    }
    match config.classes.or_else(|| crate::variant(&config.name).ok().map(|variant| variant.classes)) {
        Some(1) => text + " with 1 output",
        Some(classes) => format!("{text} with {classes} classes"),
        None => text,
    }
}

/// Loads the parameters of `graph` from a file: [`Checkpoint::open`] and [`Checkpoint::load`].
///
/// # Errors
/// The errors of these two functions.
pub fn load(path: impl AsRef<Path>, graph: &Graph) -> Result<Weights, CheckpointError> {
    Ok(Checkpoint::open(path)?.load(graph)?.weights)
}
