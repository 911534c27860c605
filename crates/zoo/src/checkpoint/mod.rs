//! Checkpoints: what people have of a trained network, into [`Weights`] that fit a [`Graph`].
//!
//! Read are `torch.save`'s files (zip archives, the pickle streams and tar archives before them, whole pickled modules,
//! TorchScript), `pickle.dump` of tensors or arrays, `numpy.savez`, safetensors, and the index of a checkpoint in several
//! files. Nothing in a pickle is run, and names and shapes are compared before any tensor is read, so that a file costs no
//! more memory than the graph asks for.
//!
//! What may differ from the graph's names, and nothing else:
//! - whatever stands before all names, of wrappers around the state dict (`{"model": ...}`) or of modules around the
//!   network (`module.`, `backbone.`);
//! - the name of the classifier, where one linear layer alone can be it; `shortcut` for `downsample`; DenseNet's old
//!   names, `denselayer1.norm.1` for `denselayer1.norm1`;
//! - weights in parts: pruned (`weight_orig`, `weight_mask`), with weight or spectral normalisation;
//! - counters, metrics and losses, averaged copies, and GoogLeNet's auxiliary heads, which inference does not need.
//!
//! A tensor more than that is another network's, and is refused.
mod content;
mod fault;
mod fit;
mod identify;
mod layer;
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

use self::content::Content;
use self::fault::Fault;
use self::fit::{Fit, Index, some};
use self::identify::Nearest;
use self::layer::Layer;
use self::names::Named;
use self::source::Source;
use self::tensor::Trouble;
use crate::config::Config;
use crate::googlenet;

pub use self::identify::Identified;

/// Why a checkpoint cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A checkpoint that contradicts its own format: cut off or damaged.
    #[error("{}: {why}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something else than a checkpoint, or one of a kind that is not read.
    #[error("{} is {what}\n\nhint: {hint}", path.display())]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A parameter whose elements are no floats, or not in the file.
    #[error("{}: tensor `{tensor}` has {what}, not floats", path.display())]
    NotFloat {
        /// The file.
        path: PathBuf,
        /// The tensor, by the graph's name.
        tensor: String,
        /// What it has.
        what: String,
    },
    /// A parameter that is infinite or not a number, or too large for f32.
    #[error("{}: tensor `{tensor}` has {value} at element {index}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor, by the graph's name.
        tensor: String,
        /// Position, row-major.
        index: usize,
        /// The value.
        value: f32,
    },
    /// Tensors are missing, unexpected or of a wrong shape.
    #[error("{}: {}", path.display(), misfit(source, looks_like.as_deref(), prefix))]
    Weights {
        /// The file.
        path: PathBuf,
        /// Every difference.
        source: Box<WeightsError>,
        /// The network of the zoo that the parameters are of, if one is.
        looks_like: Option<String>,
        /// What stands before the names in the file.
        prefix: String,
    },
    /// The parameters are of no network of the zoo.
    #[error("{}: these parameters are of no network that dsconv can build{}\n\nhint: {}", path.display(),
        nearest.as_ref().map_or_else(|| format!(": {names}"), |error| format!("; nearest is `{}`: {}", error.graph, reason(error))),
        advice(path, nearest.as_deref()))]
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
    /// Every difference in names and shapes, where the message shows the first ones.
    pub fn differences(&self) -> Option<&WeightsError> {
        match self {
            Self::Weights { source, .. } => Some(source),
            Self::Unknown { nearest, .. } => nearest.as_deref(),
            _ => None,
        }
    }
}

/// What to do about parameters of no known network.
fn advice(path: &Path, nearest: Option<&WeightsError>) -> &'static str {
    let is_part = path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("-of-"));
    if is_part {
        "it is one part of a checkpoint in several files: name the index of them, `.index.json`"
    } else if nearest.is_some_and(lacks_statistics) {
        "save `model.state_dict()`, which has them, not `model.named_parameters()`"
    } else {
        "any other network comes as an ONNX file: `torch.onnx.export(model, image, \"model.onnx\")`"
    }
}

/// Whether nothing is missing but the running statistics of normalisations.
fn lacks_statistics(error: &WeightsError) -> bool {
    let WeightsError { missing, unexpected, wrong_shape, .. } = error;
    let statistics = |name: &String| name.ends_with(".running_mean") || name.ends_with(".running_var");
    wrong_shape.is_empty() && unexpected.is_empty() && !missing.is_empty() && missing.iter().all(statistics)
}

/// Why weights do not fit, in as few lines as possible.
fn misfit(error: &WeightsError, looks_like: Option<&str>, prefix: &str) -> String {
    let graph = &error.graph;
    match looks_like {
        Some(other) => format!(
            "the weights do not fit `{graph}`: this looks like {other}\n\nhint: name that network, or the file alone"
        ),
        None if lacks_statistics(error) => format!("{}\n\nhint: {}", reason(error), advice(Path::new(""), Some(error))),
        None if prefix.is_empty() => reason(error),
        None => format!("under `{prefix}`, {}", reason(error)),
    }
}

/// The differences, or what they all come from.
fn reason(error: &WeightsError) -> String {
    if lacks_statistics(error) {
        return format!("the running statistics of the batch normalisations of `{}` are missing", error.graph);
    }
    error.to_string()
}

/// A network's parameters, as a file has them.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    names: Vec<Named>,
    /// Settings of layers, of whole modules.
    layers: Vec<Layer>,
    classes: Vec<Vec<String>>,
    /// Of all its files.
    bytes: u64,
}

/// Weights from a checkpoint.
#[derive(Debug)]
pub struct Loaded {
    /// They fit the graph.
    pub weights: Weights,
    /// What the user should know: where its classifier is, what was left out.
    pub notes: Vec<String>,
    /// Which of several copies of the network was taken, if there are several.
    pub choice: Option<String>,
    /// What was left out as it never matters, and what stood before the names.
    pub details: Vec<String>,
}

impl Checkpoint {
    /// Opens a file, without reading its tensors.
    ///
    /// # Errors
    /// [`CheckpointError`] says what the file is instead, or where it is broken.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let opened = Source::open(path).map_err(Fault::from).and_then(|source| Content::open(path, &source));
        let Content { entries, layers, classes, bytes, .. } = opened.map_err(|fault| fault.at(path))?;
        Ok(Self { path: path.to_owned(), names: names::plain(entries), layers, classes, bytes })
    }

    /// The network of the zoo that the parameters are of, with the classes, width and first layers that the file has.
    /// Fixed is what `given` sets; an empty name leaves the network open.
    ///
    /// # Errors
    /// [`CheckpointError::Unknown`] names the nearest.
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
    /// [`CheckpointError`] names the tensor, or the network that the parameters are of.
    pub fn load(&self, graph: &Graph) -> Result<Loaded, CheckpointError> {
        let index = Index::new(&self.names, &self.layers);
        let fit = index.fit(graph);
        if !fit.fits() {
            let found = identify::identify(&index, &Config::default()).ok();
            let looks_like = found.map(|found| describe(&found.config));
            let (path, prefix) = (self.path.clone(), fit.prefix);
            return Err(CheckpointError::Weights { path, source: Box::new(fit.differences), looks_like, prefix });
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

    /// What the classes are called, if the file says it of this many.
    pub fn class_names(&self, count: usize) -> Option<&[String]> {
        self.classes.iter().find(|names| names.len() == count).map(Vec::as_slice)
    }

    fn weights(&self, graph: &Graph, fit: &Fit) -> Result<Weights, CheckpointError> {
        let elements = fit.tensors.values().fold(0, |sum: u64, named| sum.saturating_add(named.tensor.elements()));
        // Every element has its byte, but for the few that are expanded from one.
        if elements > self.bytes.saturating_add(1 << 20) {
            return Err(Fault::Broken("its tensors are larger than the file".into()).at(&self.path));
        }
        let mut weights = Weights::default();
        if graph.find(googlenet::TRANSFORM_INPUT).is_some() {
            googlenet::transform_input(&mut weights);
        }
        for param in graph.params() {
            let Some(named) = fit.tensors.get(&param.name) else { continue };
            let data = named.tensor.values().map_err(|trouble| self.trouble(&param.name, trouble))?;
            if let Some(index) = data.iter().position(|x| !x.is_finite()) {
                let (path, tensor) = (self.path.clone(), param.name);
                return Err(CheckpointError::NotFinite { path, tensor, index, value: data[index] });
            }
            weights.insert(param.name, Tensor::new(param.shape, data));
        }
        Ok(weights)
    }

    fn trouble(&self, tensor: &str, trouble: Trouble) -> CheckpointError {
        match trouble {
            Trouble::NotFloat(what) => {
                CheckpointError::NotFloat { path: self.path.clone(), tensor: tensor.to_owned(), what }
            }
            Trouble::Fault(Fault::Broken(why)) => Fault::Broken(format!("tensor `{tensor}`: {why}")).at(&self.path),
            Trouble::Fault(fault) => fault.at(&self.path),
        }
    }
}

impl Fault {
    fn at(self, path: &Path) -> CheckpointError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => CheckpointError::Io { path, source },
            Self::Broken(why) => CheckpointError::Broken { path, why },
            Self::Refused { what, hint } => CheckpointError::NotACheckpoint { path, what, hint },
        }
    }
}

/// `resnet34 with 7 classes`.
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
/// As these.
pub fn load(path: impl AsRef<Path>, graph: &Graph) -> Result<Weights, CheckpointError> {
    Ok(Checkpoint::open(path)?.load(graph)?.weights)
}
