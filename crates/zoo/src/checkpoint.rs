//! Checkpoints: PyTorch files and safetensors into [`Weights`] that fit a [`Graph`].
//!
//! Names and shapes are compared before any tensor is read, so a file costs no more memory than the graph asks for.
//! What may differ, and nothing else:
//! - a wrapper around the state dict: `{"state_dict": ...}`, `{"model_state_dict": ...}`, `{"model": ...}`;
//! - a prefix that all names share: `module.` (`DataParallel`), `_orig_mod.` (`torch.compile`), `model.`;
//! - DenseNet's old names, `denselayer1.norm.1` for `denselayer1.norm1`;
//! - `num_batches_tracked` and GoogLeNet's auxiliary heads, `aux1` and `aux2`, which inference does not need.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use graph::{Graph, Tensor, Weights, WeightsError};
use half::{bf16, f16};
use pytorch_reader::{DType, PytorchError, PytorchReader};
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::googlenet;

/// Keys under which training scripts put the state dict.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];
/// Prefixes that wrapper modules put before every name.
const PREFIXES: [&str; 3] = ["module.", "_orig_mod.", "model."];

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
    /// Not a PyTorch file, or a broken one.
    #[error("{}: {source}", path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        source: Box<PytorchError>,
    },
    /// Not a safetensors file, or a broken one.
    #[error("{}: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        source: SafeTensorError,
    },
    /// A tensor's bytes cannot be read.
    #[error("{}: tensor `{tensor}`: {source}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor, by the graph's name.
        tensor: String,
        /// The reader's reason.
        source: io::Error,
    },
    /// A parameter whose elements are not floating point.
    #[error("{}: tensor `{tensor}` has elements of type {dtype}, not a float", path.display())]
    NotFloat {
        /// The file.
        path: PathBuf,
        /// The tensor, by the graph's name.
        tensor: String,
        /// Its element type.
        dtype: String,
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
    #[error("{}: {source}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Every difference.
        source: Box<WeightsError>,
    },
}

/// Loads the parameters of `graph` from a `.pth`, `.pt`, `.th` or `.safetensors` file.
///
/// PyTorch's zip format, its older pickle streams and tar archives are read; elements may be f64, f32, f16 or bf16.
///
/// # Errors
/// [`CheckpointError`] names the file and the tensor.
pub fn load(path: impl AsRef<Path>, graph: &Graph) -> Result<Weights, CheckpointError> {
    let path = path.as_ref();
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    if is_safetensors(path).map_err(io)? {
        let bytes = std::fs::read(path).map_err(io)?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|source| CheckpointError::Safetensors { path: path.to_owned(), source })?;
        assemble(
            path,
            graph,
            file.tensors().into_iter().map(|(name, view)| (name, Stored::safetensors(&view))).collect(),
        )
    } else {
        let tensors = open_torch(path)
            .map_err(|source| CheckpointError::Torch { path: path.to_owned(), source: Box::new(source) })?;
        assemble(path, graph, tensors.into_iter().map(|(name, tensor)| (name, Stored::torch(tensor))).collect())
    }
}

/// By its name, or by how it begins: a `u64` length and the `{` of the header.
fn is_safetensors(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    std::fs::File::open(path)?.take(9).read_to_end(&mut head)?;
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"));
    // A header has at most 100 MB, so bytes 4 to 8 of its length are zero.
    Ok(named || (head.len() == 9 && head[4..8] == [0; 4] && head[8] == b'{'))
}

/// The tensors of the state dict, inside its wrapper if there is one.
fn open_torch(path: &Path) -> Result<impl IntoIterator<Item = (String, pytorch_reader::Tensor)>, PytorchError> {
    for key in WRAPPERS {
        // Any other failure comes again, with its own message, from the plain open below.
        if let Ok(reader) = PytorchReader::with_top_level_key(path, key)
            && !reader.is_empty()
        {
            return Ok(reader.into_tensors());
        }
    }
    Ok(PytorchReader::new(path)?.into_tensors())
}

/// Element types that hold a weight.
#[derive(Debug, Clone, Copy)]
enum Float {
    F16,
    Bf16,
    F32,
    F64,
}

/// A tensor still in its file.
struct Stored<'a> {
    shape: Vec<usize>,
    /// `Err` names a type that is not floating point.
    float: Result<Float, String>,
    read: Box<dyn Fn() -> io::Result<Cow<'a, [u8]>> + 'a>,
}

impl<'a> Stored<'a> {
    fn torch(tensor: pytorch_reader::Tensor) -> Self {
        let float = match tensor.dtype() {
            DType::F16 => Ok(Float::F16),
            DType::BF16 => Ok(Float::Bf16),
            DType::F32 => Ok(Float::F32),
            DType::F64 => Ok(Float::F64),
            other => Err(format!("{other:?}")),
        };
        Self { shape: tensor.shape().to_vec(), float, read: Box::new(move || tensor.read().map(Cow::Owned)) }
    }

    fn safetensors(view: &safetensors::tensor::TensorView<'a>) -> Self {
        let float = match view.dtype() {
            Dtype::F16 => Ok(Float::F16),
            Dtype::BF16 => Ok(Float::Bf16),
            Dtype::F32 => Ok(Float::F32),
            Dtype::F64 => Ok(Float::F64),
            other => Err(format!("{other:?}")),
        };
        let data = view.data();
        Self { shape: view.shape().to_vec(), float, read: Box::new(move || Ok(Cow::Borrowed(data))) }
    }
}

/// Renames, compares, reads.
fn assemble(path: &Path, graph: &Graph, stored: BTreeMap<String, Stored>) -> Result<Weights, CheckpointError> {
    let params: BTreeMap<String, Vec<usize>> = graph.params().into_iter().map(|p| (p.name, p.shape)).collect();
    let stored = rename(stored, &params);
    let constants = constants(graph);
    compare(graph, &params, &constants, &stored)
        .map_err(|source| CheckpointError::Weights { path: path.to_owned(), source: Box::new(source) })?;

    let mut weights = constants;
    for (name, tensor) in stored {
        let place = || (path.to_owned(), name.clone());
        let float = tensor.float.map_err(|dtype| {
            let (path, tensor) = place();
            CheckpointError::NotFloat { path, tensor, dtype }
        })?;
        let data = (tensor.read)().and_then(|bytes| decode(float, &bytes, &tensor.shape)).map_err(|source| {
            let (path, tensor) = place();
            CheckpointError::Tensor { path, tensor, source }
        })?;
        if let Some(index) = data.iter().position(|x| !x.is_finite()) {
            let (path, tensor) = place();
            return Err(CheckpointError::NotFinite { path, tensor, index, value: data[index] });
        }
        weights.insert(name, Tensor::new(tensor.shape, data));
    }
    Ok(weights)
}

/// From the file's names to the graph's, dropping what inference does not need.
fn rename<'a>(
    mut stored: BTreeMap<String, Stored<'a>>,
    params: &BTreeMap<String, Vec<usize>>,
) -> BTreeMap<String, Stored<'a>> {
    let shared = |names: &BTreeMap<String, Stored>| {
        PREFIXES.into_iter().find(|prefix| {
            !names.is_empty()
                && names.keys().all(|name| name.starts_with(prefix))
                && !params.keys().any(|name| name.starts_with(prefix))
        })
    };
    while let Some(prefix) = shared(&stored) {
        stored = stored.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
    }

    let is_googlenet = params.contains_key("inception3a.branch1.conv.weight");
    let is_aux = |name: &str| is_googlenet && (name.starts_with("aux1.") || name.starts_with("aux2."));
    stored.retain(|name, _| params.contains_key(name) || !(name.ends_with(".num_batches_tracked") || is_aux(name)));

    let old: Vec<String> = stored.keys().filter(|name| !params.contains_key(*name)).cloned().collect();
    for old in old {
        if let Some(new) = densenet_name(&old)
            && !stored.contains_key(&new)
            && let Some(tensor) = stored.remove(&old)
        {
            stored.insert(new, tensor);
        }
    }
    stored
}

/// `...denselayer1.norm.1.weight` to `...denselayer1.norm1.weight`: names of torchvision's DenseNet files, written when
/// modules could have a point in their name.
fn densenet_name(name: &str) -> Option<String> {
    let (at, _) = name.match_indices("denselayer").last()?;
    let parts: Vec<&str> = name[at..].split('.').collect();
    match parts[..] {
        [layer, kind @ ("norm" | "relu" | "conv"), index @ ("1" | "2"), role] => {
            Some(format!("{}{layer}.{kind}{index}.{role}", &name[..at]))
        }
        _ => None,
    }
}

/// Parameters that the architecture fixes.
fn constants(graph: &Graph) -> Weights {
    let mut weights = Weights::default();
    if graph.find(googlenet::TRANSFORM_INPUT).is_some() {
        googlenet::transform_input(&mut weights);
    }
    weights
}

/// What [`Weights::check`] does, on shapes alone.
fn compare(
    graph: &Graph,
    params: &BTreeMap<String, Vec<usize>>,
    constants: &Weights,
    stored: &BTreeMap<String, Stored>,
) -> Result<(), WeightsError> {
    let mut error =
        WeightsError { graph: graph.name().into(), missing: vec![], unexpected: vec![], wrong_shape: vec![] };
    for (name, shape) in params {
        match stored.get(name) {
            Some(tensor) if tensor.shape == *shape => {}
            Some(tensor) => error.wrong_shape.push((name.clone(), shape.clone(), tensor.shape.clone())),
            None if constants.0.contains_key(name) => {}
            None => error.missing.push(name.clone()),
        }
    }
    error.unexpected = stored.keys().filter(|name| !params.contains_key(*name)).cloned().collect();
    let fits = error.missing.is_empty() && error.unexpected.is_empty() && error.wrong_shape.is_empty();
    if fits { Ok(()) } else { Err(error) }
}

/// Little-endian bytes to f32.
fn decode(float: Float, bytes: &[u8], shape: &[usize]) -> io::Result<Vec<f32>> {
    let data: Vec<f32> = match float {
        Float::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Float::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        Float::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Float::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
    };
    if data.len() == shape.iter().product::<usize>() {
        Ok(data)
    } else {
        let why = format!("{} bytes for shape {shape:?}", bytes.len());
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_densenet_names_are_torchvisions() {
        let cases = [
            ("features.denseblock1.denselayer1.norm.1.weight", Some("features.denseblock1.denselayer1.norm1.weight")),
            ("features.denseblock4.denselayer16.conv.2.weight", Some("features.denseblock4.denselayer16.conv2.weight")),
            ("features.denseblock1.denselayer1.norm1.weight", None),
            ("features.denseblock1.denselayer1.norm.3.weight", None),
            ("features.transition1.norm.weight", None),
        ];
        for (old, new) in cases {
            assert_eq!(densenet_name(old).as_deref(), new, "{old}");
        }
    }
}
