//! Reads PyTorch's files: zip archives, and the pickle streams and tar archives of versions before 1.6 and 0.2.
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::fault::{Fault, Result, broken, refused};
use super::object::{Arena, Id, Instance, Object};
use super::pickle;
use super::source::{ByteSource, Cursor};
use super::tensor::{Element, Storage, Stored};
use super::zip;

/// The number that a pickle stream begins with, `0x1950a86a20f9469cfc6c`.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The limit of wrappers (parameters, subclasses) around a tensor.
const MAX_WRAPPING: usize = 8;

/// The objects of a file that `torch.save` wrote, and the storages of their tensors.
#[derive(Debug)]
pub(super) struct TorchFile {
    /// All objects.
    pub(super) arena: Arena,
    /// The object that was saved.
    pub(super) root: Id,
    /// Whether the file is a TorchScript archive.
    pub(super) scripted: bool,
    source: ByteSource,
    storages: HashMap<String, Storage>,
    /// The tensors of a tar archive, by their keys.
    pub(super) tensors: HashMap<i64, Stored>,
    /// The storages of files within this file, by the positions of those files.
    nested: HashMap<u64, (Storage, Element)>,
}

impl TorchFile {
    pub(super) fn new(source: &ByteSource, arena: Arena, root: Id, storages: HashMap<String, Storage>) -> Self {
        let source = source.clone();
        Self { arena, root, scripted: false, source, storages, tensors: HashMap::new(), nested: HashMap::new() }
    }

    /// Opens a zip archive with these entries.
    ///
    /// # Errors
    /// The archive holds something else, or is broken.
    pub(super) fn zip(source: &ByteSource, entries: Vec<zip::ZipEntry>) -> Result<Self> {
        let prefix = entries.iter().find_map(|entry| {
            let prefix = entry.name.strip_suffix("data.pkl")?;
            // An entry whose name only ends alike is a tensor.
            (prefix.is_empty() || prefix.ends_with('/')).then(|| prefix.to_owned())
        });
        let Some(prefix) = prefix else { return other_archive(&entries) };
        let named = |name: &str| entries.iter().find(|entry| entry.name.strip_prefix(&prefix) == Some(name));
        if let Some(entry) = named("byteorder")
            && source.read(entry.data.start..entry.data.end.min(entry.data.start + 16))?.starts_with(b"big")
        {
            return refused("a checkpoint of a big-endian computer", "save it again with `torch.save` on another one");
        }
        let scripted = named("constants.pkl").is_some();
        let entry = named("data.pkl").ok_or_else(|| Fault::Broken("no `data.pkl` in it".into()))?;
        entry.check(source)?;
        let mut arena = Arena::default();
        let root = pickle::read(&mut source.cursor(entry.data.clone()), &mut arena)?;
        let mut storages = HashMap::new();
        for entry in entries {
            let key = entry.name.strip_prefix(&prefix).and_then(|name| name.strip_prefix("data/"));
            if let Some(key) = key.map(str::to_owned) {
                let entry = Rc::new(entry);
                let storage = Storage::new(source.clone(), entry.data.clone());
                storages.insert(key, Storage { entry: Some(entry), ..storage });
            }
        }
        Ok(Self { scripted, ..Self::new(source, arena, root, storages) })
    }

    /// Opens a pickle stream, or a plain pickle of tensors or arrays.
    ///
    /// # Errors
    /// The pickle is broken, or the file ends before its tensors do.
    pub(super) fn pickles(source: &ByteSource) -> Result<Self> {
        let mut cursor = source.cursor(0..source.len());
        let mut arena = Arena::default();
        let root = pickle::read(&mut cursor, &mut arena)?;
        if is_magic(source, &arena, root)? {
            return Self::stream(&mut cursor, arena);
        }
        let nested = nested(source, &mut arena)?;
        Ok(Self { nested, ..Self::new(source, arena, root, HashMap::new()) })
    }

    /// Reads a stream after the number with which it begins.
    fn stream(cursor: &mut Cursor, mut arena: Arena) -> Result<Self> {
        let protocol = pickle::read(cursor, &mut arena)?;
        if arena.int(protocol) != Some(1001) {
            return broken("a protocol of PyTorch that is not known");
        }
        // A description of the machine that wrote the file.
        pickle::read(cursor, &mut arena)?;
        let root = pickle::read(cursor, &mut arena)?;
        let keys = pickle::read(cursor, &mut arena)?;
        let storages = stream_storages(cursor, &arena, keys)?;
        let source = cursor.source().clone();
        Ok(Self::new(&source, arena, root, storages))
    }

    /// Returns the tensor, if the object is one.
    ///
    /// # Errors
    /// The tensor lies outside of its storage.
    pub(super) fn tensor(&self, id: Id) -> Result<Option<Stored>> {
        self.tensor_in(id, MAX_WRAPPING)
    }

    fn tensor_in(&self, id: Id, depth: usize) -> Result<Option<Stored>> {
        let arena = &self.arena;
        if let Object::Persistent(key) = arena.get(id) {
            let key = arena.text(*key).and_then(|key| key.parse().ok()).or_else(|| arena.int(*key));
            return Ok(key.and_then(|key| self.tensors.get(&key)).cloned());
        }
        let Some((class, instance)) = arena.instance(id) else { return Ok(None) };
        let (module, function) = class.rsplit_once('.').unwrap_or(("", class));
        if module.starts_with("numpy") {
            return self.array(function, instance);
        }
        if !module.starts_with("torch.") || depth == 0 {
            return Ok(None);
        }
        let args = arena.sequence(instance.args).unwrap_or_default();
        let sizes = |at: usize| args.get(at).and_then(|&id| arena.sizes(id)).unwrap_or_default();
        let unreadable = |at: usize, what: &str| Ok(Some(Stored::unreadable(sizes(at), what)));
        match (function, args) {
            (
                "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3",
                &[storage, offset, shape, strides, ..],
            ) => {
                let element = match (function, args.get(6)) {
                    ("_rebuild_tensor_v3", Some(&dtype)) => Some(element_of(arena, dtype)),
                    _ => None,
                };
                self.strided(storage, [offset, shape, strides], element).map(Some)
            }
            ("_rebuild_parameter" | "_rebuild_parameter_with_state", &[data, ..]) => self.tensor_in(data, depth - 1),
            ("_rebuild_from_type_v2", &[function, _, args, ..]) => {
                // `function` and `args` are a call that makes the tensor.
                let call = |id| matches!(arena.get(function), Object::Class(name) if name.contains(id));
                match arena.sequence(args) {
                    Some(&[storage, offset, shape, strides, ..]) if call("_rebuild_tensor") => {
                        self.strided(storage, [offset, shape, strides], None).map(Some)
                    }
                    Some(&[data, ..]) if call("_rebuild_parameter") => self.tensor_in(data, depth - 1),
                    _ => Ok(Some(Stored::unreadable(vec![], "a subclass of Tensor"))),
                }
            }
            ("_rebuild_qtensor", _) => unreadable(2, "quantized integers"),
            ("_rebuild_sparse_tensor", &[_, data]) => {
                let shape = arena.sequence(data).and_then(|data| arena.sizes(*data.get(2)?)).unwrap_or_default();
                Ok(Some(Stored::unreadable(shape, "a sparse layout")))
            }
            ("_rebuild_sparse_csr_tensor", _) => unreadable(99, "a sparse layout"),
            ("_rebuild_meta_tensor_no_storage", _) => unreadable(1, "no values, as it was on the device `meta`"),
            ("_rebuild_nested_tensor", _) => unreadable(99, "a nested layout"),
            ("_rebuild_wrapper_subclass" | "_rebuild_device_tensor_from_numpy", _) => {
                unreadable(99, "a subclass of Tensor")
            }
            ("_rebuild_device_tensor_from_cpu_tensor", &[data, ..]) => self.tensor_in(data, depth - 1),
            _ => Ok(None),
        }
    }

    fn strided(&self, storage: Id, [offset, shape, strides]: [Id; 3], element: Option<Element>) -> Result<Stored> {
        let arena = &self.arena;
        let (storage, stored) = self.storage(storage)?;
        let number = |id| arena.int(id).and_then(|value| u64::try_from(value).ok());
        let (Some(offset), Some(shape), Some(strides)) = (number(offset), arena.sizes(shape), arena.sizes(strides))
        else {
            return broken("a tensor in it has no shape");
        };
        let strides = strides.into_iter().map(|stride| stride as u64).collect();
        Stored::strided(storage, element.unwrap_or(stored), offset, shape, strides)
    }

    /// Returns a storage, in whichever way the file holds it.
    fn storage(&self, id: Id) -> Result<(Storage, Element)> {
        let arena = &self.arena;
        if let Object::Persistent(key) = arena.get(id)
            && let Some(place) = StoragePlace::of(arena, *key)
        {
            let Some(whole) = self.storages.get(place.key) else {
                return broken(format!("its storage `{}` is missing: it was cut off", place.key));
            };
            let element = element_of(arena, place.class);
            let Some((start, count)) = place.view else { return Ok((whole.clone(), element)) };
            let part = |elements: u64| elements.checked_mul(element.size())?.checked_add(whole.bytes.start);
            return match (part(start), start.checked_add(count).and_then(part)) {
                (Some(start), Some(end)) if end <= whole.bytes.end => {
                    Ok((Storage { bytes: start..end, entry: None, ..whole.clone() }, element))
                }
                _ => broken("a part of a storage in it lies outside of it"),
            };
        }
        match stored_within(arena, arena.get(id)).and_then(|range| self.nested.get(&range.start)) {
            Some(storage) => Ok(storage.clone()),
            None => broken("a tensor in it has no storage"),
        }
    }

    /// Returns an array of NumPy.
    fn array(&self, function: &str, instance: &Instance) -> Result<Option<Stored>> {
        let arena = &self.arena;
        let parts = match (function, instance.state) {
            ("_reconstruct", Some(state)) => match arena.sequence(state) {
                Some(&[_, shape, dtype, order, data]) => (shape, dtype, arena.int(order) == Some(1), data),
                _ => return Ok(None),
            },
            ("_frombuffer", _) => match arena.sequence(instance.args) {
                Some(&[data, dtype, shape, order]) => (shape, dtype, arena.text(order) == Some("F"), data),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let (shape, dtype, column_major, data) = parts;
        let Some(shape) = arena.sizes(shape) else { return Ok(None) };
        let (Some(element), Some(storage)) = (self.dtype(dtype), self.buffer(data)) else {
            return Ok(Some(Stored::unreadable(shape, "a type of NumPy's that is not read")));
        };
        if !column_major {
            return Stored::dense(storage, element, shape).map(Some);
        }
        let mut strides = vec![1u64; shape.len()];
        for i in 1..shape.len() {
            strides[i] = strides[i - 1].saturating_mul(shape[i - 1] as u64);
        }
        Stored::strided(storage, element, 0, shape, strides).map(Some)
    }

    /// Returns the type of a `numpy.dtype('f4')`, if it is little-endian.
    fn dtype(&self, id: Id) -> Option<Element> {
        let (class, instance) = self.arena.instance(id)?;
        let name = self.arena.text(*self.arena.sequence(instance.args)?.first()?)?;
        let order = instance.state.and_then(|state| self.arena.text(*self.arena.sequence(state)?.get(1)?));
        (class.ends_with("dtype") && order != Some(">")).then(|| Element::named(name))
    }

    /// Returns the bytes of an array, which are stored plainly or as the code points of a string.
    fn buffer(&self, id: Id) -> Option<Storage> {
        let plain = |id| match self.arena.get(id) {
            Object::Bytes(range) => Some(Storage::new(self.source.clone(), range.clone())),
            Object::Text(text, Some(at)) => Some(Storage::new(self.source.clone(), *at..at + text.len() as u64)),
            _ => None,
        };
        let Some((class, instance)) = self.arena.instance(id) else { return plain(id) };
        let latin1 = class == "_codecs.encode";
        Some(Storage { latin1, ..plain(*self.arena.sequence(instance.args)?.first()?)? })
    }
}

/// Returns the storages of files within a pickle, by their positions. `pickle.dump` stores a tensor as a whole file, with
/// which `torch.storage._load_from_bytes` is called.
fn nested(source: &ByteSource, arena: &mut Arena) -> Result<HashMap<u64, (Storage, Element)>> {
    let ranges: HashMap<u64, Range<u64>> = arena
        .objects()
        .iter()
        .filter_map(|object| stored_within(arena, object))
        .map(|range| (range.start, range))
        .collect();
    let mut storages = HashMap::new();
    for range in ranges.into_values() {
        let mut cursor = source.cursor(range.clone());
        // The limits hold for all of them together.
        let mut inner = arena.next();
        let first = pickle::read(&mut cursor, &mut inner)?;
        if !is_magic(source, &inner, first)? {
            return broken("a tensor in it is stored in an unknown way");
        }
        let file = TorchFile::stream(&mut cursor, inner)?;
        storages.insert(range.start, file.storage(file.root)?);
        arena.resume(&file.arena);
    }
    Ok(storages)
}

/// Returns the range of the file that a call of `torch.storage._load_from_bytes` reads.
fn stored_within(arena: &Arena, object: &Object) -> Option<Range<u64>> {
    let Object::Instance(instance) = object else { return None };
    if class_of(arena, instance) != "torch.storage._load_from_bytes" {
        return None;
    }
    match *arena.sequence(instance.args)? {
        [bytes] => match arena.get(bytes) {
            Object::Bytes(range) => Some(range.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// The place of a storage: `('storage', torch.FloatStorage, key, location, count)`, before PyTorch 1.6 followed by `None`
/// or by the part of another storage that it is.
struct StoragePlace<'a> {
    class: Id,
    key: &'a str,
    /// The first element and the number of elements, if it is a part.
    view: Option<(u64, u64)>,
}

impl<'a> StoragePlace<'a> {
    fn of(arena: &'a Arena, id: Id) -> Option<Self> {
        let parts = arena.sequence(id)?;
        if arena.text(*parts.first()?)? != "storage" {
            return None;
        }
        let view = parts.get(5).and_then(|&view| match *arena.sequence(view)? {
            [_, start, count] => Some((arena.int(start)?.try_into().ok()?, arena.int(count)?.try_into().ok()?)),
            _ => None,
        });
        Some(Self { class: *parts.get(1)?, key: arena.text(*parts.get(2)?)?, view })
    }
}

/// Returns the type of elements of a class such as `torch.FloatStorage` or `torch.float32`.
pub(super) fn element_of(arena: &Arena, class: Id) -> Element {
    match arena.get(class) {
        Object::Class(name) => Element::named(name.rsplit('.').next().unwrap_or(name)),
        _ => Element::Other("unknown".into(), 1),
    }
}

fn class_of<'a>(arena: &'a Arena, instance: &Instance) -> &'a str {
    match arena.get(instance.class) {
        Object::Class(class) => class,
        _ => "",
    }
}

fn is_magic(source: &ByteSource, arena: &Arena, id: Id) -> Result<bool> {
    match arena.get(id) {
        Object::Bytes(range) if range.end - range.start == MAGIC.len() as u64 => {
            Ok(source.read(range.clone())? == MAGIC)
        }
        _ => Ok(false),
    }
}

/// Reads the storages that follow the pickles of a stream, in the order of the keys.
fn stream_storages(cursor: &mut Cursor, arena: &Arena, keys: Id) -> Result<HashMap<String, Storage>> {
    let elements: HashMap<&str, Element> = arena
        .objects()
        .iter()
        .filter_map(|object| match object {
            Object::Persistent(id) => {
                StoragePlace::of(arena, *id).map(|place| (place.key, element_of(arena, place.class)))
            }
            _ => None,
        })
        .collect();
    let mut storages = HashMap::new();
    for &key in arena.sequence(keys).ok_or_else(damaged)? {
        let (key, element) = arena.text(key).and_then(|key| Some((key, elements.get(key)?))).ok_or_else(damaged)?;
        storages.insert(key.to_owned(), next_storage(cursor, element)?);
    }
    Ok(storages)
}

/// Reads a storage: a count of elements, then the elements.
pub(super) fn next_storage(cursor: &mut Cursor, element: &Element) -> Result<Storage> {
    let count = u64::from_le_bytes(cursor.array()?);
    let bytes = count.checked_mul(element.size()).ok_or_else(Fault::too_large)?;
    Ok(Storage::new(cursor.source().clone(), cursor.skip(bytes)?))
}

/// Makes the error of a list of tensors that contradicts itself.
pub(super) fn damaged() -> Fault {
    Fault::Broken("its list of tensors is damaged".into())
}

/// Says what an archive holds that `torch.save` did not write.
fn other_archive<T>(entries: &[zip::ZipEntry]) -> Result<T> {
    let has = |part: &str| entries.iter().any(|entry| entry.name.contains(part));
    if has("archive_format") || has("serialized_exported_program") || has("data/weights/") || has("models/") {
        return refused(
            "a program of `torch.export`, not a checkpoint",
            "save its parameters, `torch.save(program.state_dict, \"weights.pth\")`, or export it with `torch.onnx.export`",
        );
    }
    if has("model.json") || has("config.json") || has(".weights.h5") {
        return refused("an archive of Keras, not of PyTorch", "export the network as an ONNX file, and name that");
    }
    let names: Vec<&str> = entries.iter().take(3).map(|entry| entry.name.as_str()).collect();
    refused(
        format!("a zip archive without a checkpoint in it ({})", names.join(", ")),
        "unpack it, and name the checkpoint inside",
    )
}
