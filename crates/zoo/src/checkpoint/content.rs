//! The content of a checkpoint: its tensors by their paths, and the lists of class names beside them.
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, SafeTensors};

use super::fault::{Fault, Result, broken, refused};
use super::module::ModuleSettings;
use super::source::ByteSource;
use super::tensor::{Element, Storage, Stored};
use super::{tar, torch, walk, zip};

/// The longest header of a safetensors file that its format allows.
const MAX_HEADER: u64 = 100_000_000;

/// The keys under which class names are stored, in lower case.
pub(super) const CLASS_KEYS: [&str; 14] = [
    "classes",
    "class_names",
    "classnames",
    "class_to_idx",
    "class2idx",
    "idx_to_class",
    "idx2class",
    "names",
    "labels",
    "label_names",
    "id2label",
    "label2id",
    "categories",
    "idx2label",
];

/// A tensor with its path, the keys and modules that lead to it with points between.
#[derive(Debug, Clone)]
pub(super) struct TensorEntry {
    pub(super) path: String,
    /// The number of the dictionary or module tree that contains the tensor.
    pub(super) group: usize,
    pub(super) tensor: Stored,
}

/// The content of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct CheckpointContent {
    pub(super) entries: Vec<TensorEntry>,
    /// The settings of layers, which whole pickled modules hold.
    pub(super) layers: Vec<ModuleSettings>,
    /// The lists of class names.
    pub(super) classes: Vec<Vec<String>>,
    /// The size of the file, or of all its parts.
    pub(super) bytes: u64,
    /// The number of dictionaries and module trees.
    pub(super) groups: usize,
}

impl CheckpointContent {
    /// Opens a file of any kind, which its first bytes tell.
    ///
    /// # Errors
    /// The file is broken or something else than a checkpoint.
    pub(super) fn open(path: &Path, source: &ByteSource) -> Result<Self> {
        Self::read(path, source, true)
    }

    /// Opens a file, which may be the index of others where `whole` is true, and is else a part of a checkpoint.
    fn read(path: &Path, source: &ByteSource, whole: bool) -> Result<Self> {
        let head = source.head(512)?;
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        // A header has at most 100 MB, so bytes 4 to 8 of its length are zero.
        let is_safetensors = head.len() > 8 && head[4..8] == [0; 4] && head[8] == b'{';
        let content = match &head[..] {
            [] => refused("an empty file", "copy or download it again"),
            [b'P', b'K', 3 | 5, ..] => Self::zip(source),
            _ if is_safetensors => Self::safetensors(source),
            [0x80, 1..=5, ..] => walk::content(&torch::TorchFile::pickles(source)?),
            _ if head.get(257..262) == Some(b"ustar") || head.starts_with(b"storages\0") => {
                walk::content(&tar::open(source)?)
            }
            [b'{' | b'[', ..] if whole => Self::index(path, source),
            _ => other(&head, &extension),
        }?;
        Ok(Self { bytes: content.bytes + source.len(), ..content })
    }

    fn zip(source: &ByteSource) -> Result<Self> {
        let entries = zip::entries(source)?;
        let arrays = |entry: &zip::ZipEntry| entry.name.ends_with(".npy");
        if entries.is_empty() || !entries.iter().all(arrays) {
            return walk::content(&torch::TorchFile::zip(source, entries)?);
        }
        let mut content = Self { groups: 1, ..Self::default() };
        for entry in entries {
            entry.check(source)?;
            let tensor = npy(source, &entry)?;
            let path = entry.name.trim_end_matches(".npy").to_owned();
            content.entries.push(TensorEntry { path, group: 0, tensor });
        }
        Ok(content)
    }

    fn safetensors(source: &ByteSource) -> Result<Self> {
        let length = source.head(8)?;
        let header = u64::from_le_bytes(length.try_into().map_err(|_| Fault::too_large())?);
        if header > MAX_HEADER {
            return broken("its header is too long");
        }
        let bytes = source.read(0..8 + header).map_err(|_| Fault::Broken("it was cut off in its header".into()))?;
        let metadata = metadata(&bytes).map_err(|error| Fault::Broken(error.to_string()))?;
        let start = bytes.len() as u64;
        let end = start.saturating_add(metadata.data_len() as u64);
        if end > source.len() {
            return broken(format!("it was cut off: {} of its {end} bytes are here", source.len()));
        }
        let mut content = Self { groups: 1, ..Self::default() };
        for (path, info) in metadata.tensors() {
            let (from, to) = (start + info.data_offsets.0 as u64, start + info.data_offsets.1 as u64);
            let element = Element::named(&format!("{:?}", info.dtype));
            let tensor = Stored::dense(Storage::new(source.clone(), from..to), element, info.shape.clone())?;
            content.entries.push(TensorEntry { path, group: 0, tensor });
        }
        for (key, value) in metadata.metadata().iter().flatten() {
            if CLASS_KEYS.contains(&key.to_lowercase().as_str()) {
                content.classes.extend(serde_json::from_str::<Vec<String>>(value));
            }
        }
        content.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(content)
    }

    /// Opens the files beside an index such as `model.safetensors.index.json`, which names the file of each tensor.
    fn index(path: &Path, source: &ByteSource) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        if source.len() > MAX_HEADER {
            return broken("its JSON is too long");
        }
        let Ok(index) = serde_json::from_slice::<Index>(&source.read(0..source.len())?) else {
            return refused("JSON, not a checkpoint", "name the file with the weights");
        };
        let files: HashSet<&String> = index.weight_map.values().collect();
        let mut content = Self::default();
        for name in files {
            if name.contains(['/', '\\']) || name.ends_with(".json") {
                return refused(format!("its part `{name}` is no file beside it"), "put all parts into one folder");
            }
            let part = path.with_file_name(name);
            let at = |fault| match fault {
                Fault::Broken(why) => Fault::Broken(format!("its part `{name}`: {why}")),
                Fault::Io(error) => Fault::Broken(format!("its part `{name}`: {error}")),
                other => other,
            };
            let source = ByteSource::open(&part).map_err(|error| at(error.into()))?;
            let opened = Self::read(&part, &source, false).map_err(at)?;
            content.classes.extend(opened.classes);
            content.bytes += opened.bytes;
            content.entries.extend(opened.entries.into_iter().map(|entry| TensorEntry { group: 0, ..entry }));
        }
        content.groups = 1;
        content.entries.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some((name, file)) =
            index.weight_map.iter().find(|(name, _)| !content.entries.iter().any(|entry| entry.path == **name))
        {
            return broken(format!("its part `{file}` has no tensor `{name}`"));
        }
        Ok(content)
    }
}

/// Reads and checks the header of a safetensors file: every tensor is as long as its shape says, and they follow each other.
fn metadata(header: &[u8]) -> std::result::Result<Metadata, SafeTensorError> {
    match SafeTensors::read_metadata(header) {
        Ok((_, metadata)) => Ok(metadata),
        // `read_metadata` checks the header first, and then finds that the data is not in the slice.
        Err(SafeTensorError::MetadataIncompleteBuffer) => {
            serde_json::from_slice(&header[8..]).map_err(SafeTensorError::InvalidHeaderDeserialization)
        }
        Err(error) => Err(error),
    }
}

/// Reads an array that `numpy.save` wrote.
fn npy(source: &ByteSource, entry: &zip::ZipEntry) -> Result<Stored> {
    let bad = || Fault::Broken(format!("`{}` in it is no array of NumPy", entry.name));
    let mut cursor = source.cursor(entry.data.clone());
    if cursor.array::<6>()? != *b"\x93NUMPY" {
        return Err(bad());
    }
    let [major, _] = cursor.array()?;
    let length =
        if major == 1 { u16::from_le_bytes(cursor.array()?).into() } else { u32::from_le_bytes(cursor.array()?) };
    if length > 1 << 16 {
        return Err(bad());
    }
    let header = cursor.bytes(length.into())?;
    let header = String::from_utf8_lossy(&header).replace(' ', "");
    // The header is such as {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }.
    let field = |name: &str| header.split_once(&format!("'{name}':")).map(|(_, rest)| rest);
    let dtype = field("descr").and_then(|rest| rest.strip_prefix('\'')?.split('\'').next()).ok_or_else(bad)?;
    let shape = field("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next()).ok_or_else(bad)?;
    let shape: Vec<usize> = shape
        .split(',')
        .filter(|size| !size.is_empty())
        .map(|size| size.parse().map_err(|_| bad()))
        .collect::<Result<_>>()?;
    let row_major = field("fortran_order").is_some_and(|rest| rest.starts_with("False"));
    if !row_major || dtype.starts_with('>') {
        return Ok(Stored::unreadable(shape, "NumPy's column-major or big-endian order"));
    }
    let storage = Storage::new(source.clone(), cursor.at()..entry.data.end);
    Stored::dense(storage, Element::named(dtype.trim_start_matches(['<', '|', '='])), shape)
}

/// Says what a file is that is no checkpoint.
fn other(head: &[u8], extension: &str) -> Result<CheckpointContent> {
    let begins = |with: &[u8]| head.starts_with(with);
    let text = String::from_utf8_lossy(head).trim_start().to_lowercase();
    let export = "export the network as an ONNX file, and name that";
    if text.starts_with("version https://git-lfs") {
        return refused("a pointer of Git LFS, not the file itself", "`git lfs pull` fetches the file");
    }
    if text.starts_with('<') {
        return refused(
            "a web page, not a checkpoint: the download did not give the file",
            "download it again, signed in where the page asks for it",
        );
    }
    if begins(&[0x1f, 0x8b])
        || begins(b"BZh")
        || begins(b"\xfd7zXZ")
        || begins(b"\x28\xb5\x2f\xfd")
        || begins(b"7z\xbc\xaf")
        || begins(b"Rar!")
    {
        return refused("a compressed archive", "unpack it, and name the checkpoint inside");
    }
    if begins(b"\x89HDF") {
        return refused("an HDF5 file, as Keras writes, not PyTorch's", export);
    }
    if begins(b"\x93NUMPY") {
        return refused(
            "one array of NumPy, not a checkpoint",
            "save all parameters: `numpy.savez(\"weights.npz\", **arrays)`",
        );
    }
    if begins(b"GGUF") || head.get(4..8) == Some(b"TFL3") {
        return refused("a file of another runtime (GGUF or TensorFlow Lite), not a checkpoint", export);
    }
    if extension == "safetensors" {
        return broken("it does not begin like a safetensors file: it was damaged or is something else");
    }
    if head.iter().all(|&byte| byte == 0) {
        return refused("a file of zeros: a download or copy that was never finished", "copy or download it again");
    }
    refused(
        "not a checkpoint: neither a file of `torch.save` nor safetensors",
        "save the parameters, `torch.save(model.state_dict(), \"weights.pth\")`, or export the network as an ONNX file",
    )
}
