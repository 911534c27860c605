//! Tensors that are still in their file, and the decoding of their values.
use std::ops::Range;
use std::rc::Rc;

use half::{bf16, f16};

use super::fault::{Fault, Result, broken};
use super::source::ByteSource;
use super::zip;

/// The type of a tensor's elements, which are little-endian.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Element {
    F16,
    Bf16,
    F32,
    F64,
    /// A byte, which may be a mask but never a weight.
    U8,
    /// A type that holds no weights, by its name and its size in bytes.
    Other(String, u64),
}

impl Element {
    /// Returns the type of a name of PyTorch, NumPy or safetensors.
    pub(super) fn named(name: &str) -> Self {
        let other = |name: &str, size| Self::Other(name.to_owned(), size);
        let plain = name.strip_suffix("Storage").unwrap_or(name);
        // `I8` is one byte in safetensors, `i8` eight bytes in NumPy.
        match plain {
            "I8" => return other("i8", 1),
            "U8" => return Self::U8,
            "F8" => return other("f8", 1),
            _ => {}
        }
        match plain.to_lowercase().as_str() {
            "half" | "float16" | "f16" | "f2" => Self::F16,
            "bfloat16" | "bf16" => Self::Bf16,
            "float" | "float32" | "f32" | "f4" => Self::F32,
            "double" | "float64" | "f64" | "f8" => Self::F64,
            "byte" | "uint8" | "bool" | "u1" | "b1" => Self::U8,
            "char" | "int8" | "i1" => other("i8", 1),
            "short" | "int16" | "i16" | "i2" => other("i16", 2),
            "uint16" | "u16" | "u2" => other("u16", 2),
            "int" | "int32" | "i32" | "i4" => other("i32", 4),
            "uint32" | "u32" | "u4" => other("u32", 4),
            "long" | "int64" | "i64" | "i8" => other("i64", 8),
            "uint64" | "u64" | "u8" => other("u64", 8),
            "qint32" => other("qint32", 4),
            "complexhalf" | "complex32" => other("complex32", 4),
            "complexfloat" | "complex64" | "c64" | "c8" => other("complex64", 8),
            "complexdouble" | "complex128" | "c16" => other("complex128", 16),
            name => other(name, 1),
        }
    }

    /// Returns the bytes of one element.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Other(_, size) => *size,
        }
    }

    fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Self::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
            Self::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Self::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
            Self::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
            Self::Other(..) => Vec::new(),
        }
    }
}

/// A range of a file with the elements of one or more tensors.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub(super) source: ByteSource,
    pub(super) bytes: Range<u64>,
    /// The entry of a zip archive whose bytes these are.
    pub(super) entry: Option<Rc<zip::ZipEntry>>,
    /// Whether the bytes are the code points of UTF-8 text, as Python writes them in old protocols.
    pub(super) latin1: bool,
}

impl Storage {
    /// Makes a storage of a range of a file.
    pub(super) fn new(source: ByteSource, bytes: Range<u64>) -> Self {
        Self { source, bytes, entry: None, latin1: false }
    }

    fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        if let Some(entry) = &self.entry {
            entry.check(&self.source)?;
        }
        if self.latin1 {
            let bytes = self.source.read(self.bytes.clone())?;
            let text = std::str::from_utf8(&bytes).map_err(|_| Fault::Broken("its bytes are no Latin-1".into()))?;
            let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap_or_default()).collect();
            let part = bytes.get(range.start as usize..range.end as usize);
            return part.map_or_else(|| broken("its bytes are fewer than its shape says"), |part| Ok(part.to_vec()));
        }
        self.source.read(self.bytes.start + range.start..self.bytes.start + range.end)
    }
}

/// A tensor in its file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// The shape.
    pub(super) shape: Vec<usize>,
    data: StoredData,
}

#[derive(Debug, Clone)]
enum StoredData {
    /// The elements lie in a storage, by an offset and strides in elements.
    Strided { storage: Storage, element: Element, offset: u64, strides: Vec<u64> },
    /// The values are not in the file or are not numbers, as the text says.
    Unreadable(String),
    /// The values are a weight times its mask (pruning).
    Pruned(Rc<[Stored; 2]>),
    /// The values are `v * g / |v|` (weight normalisation).
    WeightNorm(Rc<[Stored; 2]>),
    /// The values are `w / (u^T W v)` (spectral normalisation).
    SpectralNorm(Rc<[Stored; 3]>),
}

/// The reason why a tensor gives no values.
#[derive(Debug)]
pub(super) enum ValueError {
    /// The elements are not floats, but what the text says.
    NotFloat(String),
    /// The bytes cannot be read.
    Fault(Fault),
}

impl From<Fault> for ValueError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Stored {
    /// Makes a tensor whose elements lie in a storage.
    ///
    /// # Errors
    /// An element lies outside of the storage.
    pub(super) fn strided(
        storage: Storage,
        element: Element,
        offset: u64,
        shape: Vec<usize>,
        strides: Vec<u64>,
    ) -> Result<Self> {
        let last = shape.iter().zip(&strides).try_fold(offset, |sum, (&size, &stride)| {
            sum.checked_add((size as u64).saturating_sub(1).checked_mul(stride)?)
        });
        let end = last.and_then(|last| last.checked_add(1)?.checked_mul(element.size()));
        let has = storage.bytes.end - storage.bytes.start;
        let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        match (end, elements) {
            (_, Some(0)) => {}
            (Some(end), Some(_)) if end <= has && shape.len() == strides.len() => {}
            _ => return broken(format!("a tensor of shape {shape:?} lies outside of its {has} bytes")),
        }
        Ok(Self { shape, data: StoredData::Strided { storage, element, offset, strides } })
    }

    /// Makes a row-major tensor that fills a storage from its beginning.
    ///
    /// # Errors
    /// The errors of [`Stored::strided`].
    pub(super) fn dense(storage: Storage, element: Element, shape: Vec<usize>) -> Result<Self> {
        let strides = row_major(&shape);
        Self::strided(storage, element, 0, shape, strides)
    }

    /// Makes a tensor whose values cannot be read, for the reason given.
    pub(super) fn unreadable(shape: Vec<usize>, what: impl Into<String>) -> Self {
        Self { shape, data: StoredData::Unreadable(what.into()) }
    }

    /// Makes a weight of `torch.nn.utils.prune`: a weight times its mask.
    pub(super) fn pruned(weight: Self, mask: Self) -> Self {
        Self { shape: weight.shape.clone(), data: StoredData::Pruned(Rc::new([weight, mask])) }
    }

    /// Makes a weight of `torch.nn.utils.weight_norm`: `v`, scaled to the length `g`.
    pub(super) fn weight_norm(g: Self, v: Self) -> Self {
        Self { shape: v.shape.clone(), data: StoredData::WeightNorm(Rc::new([g, v])) }
    }

    /// Makes a weight of `torch.nn.utils.spectral_norm`: the weight divided by its largest singular value, whose vectors are
    /// `u` and `v`.
    pub(super) fn spectral_norm(weight: Self, u: Self, v: Self) -> Self {
        Self { shape: weight.shape.clone(), data: StoredData::SpectralNorm(Rc::new([weight, u, v])) }
    }

    /// Returns the number of elements.
    pub(super) fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product: u64, &size| product.saturating_mul(size as u64))
    }

    /// Returns whether two tensors are the same bytes with the same shape and strides.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.data, &other.data) {
            (
                StoredData::Strided { storage: a, offset, strides, .. },
                StoredData::Strided { storage: b, offset: other_offset, strides: other_strides, .. },
            ) => a.bytes == b.bytes && offset == other_offset && strides == other_strides && self.shape == other.shape,
            _ => false,
        }
    }

    /// Reads the values, row-major.
    pub(super) fn values(&self) -> std::result::Result<Vec<f32>, ValueError> {
        match &self.data {
            StoredData::Strided { element: Element::U8, .. } => Err(ValueError::NotFloat("u8".into())),
            StoredData::Strided { .. } => self.numbers(),
            StoredData::Unreadable(what) => Err(ValueError::NotFloat(what.clone())),
            StoredData::Pruned(parts) => {
                let [weight, mask] = &**parts;
                let (mut values, mask) = (weight.values()?, mask.numbers()?);
                same_len(&values, &mask)?;
                values.iter_mut().zip(mask).for_each(|(value, mask)| *value *= mask);
                Ok(values)
            }
            StoredData::WeightNorm(parts) => {
                let [g, v] = &**parts;
                let (lengths, mut values) = (g.values()?, v.values()?);
                let Some([outer, count, inner]) = axis(&g.shape, &v.shape) else {
                    return Err(Fault::Broken(format!("lengths {:?} of weights {:?}", g.shape, v.shape)).into());
                };
                let index = |i: usize, j: usize, k: usize| (i * count + j) * inner + k;
                for (j, &length) in lengths.iter().enumerate() {
                    let all = || (0..outer).flat_map(|i| (0..inner).map(move |k| index(i, j, k)));
                    let norm = all().map(|at| f64::from(values[at]).powi(2)).sum::<f64>().sqrt();
                    for at in all() {
                        values[at] = (f64::from(values[at]) * (f64::from(length) / norm)) as f32;
                    }
                }
                Ok(values)
            }
            StoredData::SpectralNorm(parts) => {
                let [weight, u, v] = &**parts;
                let (mut values, u, v) = (weight.values()?, u.values()?, v.values()?);
                if u.len().checked_mul(v.len()) != Some(values.len()) {
                    return Err(Fault::Broken("vectors that do not fit the weight".into()).into());
                }
                let rows = values.chunks(v.len().max(1)).zip(&u);
                let dot = |row: &[f32]| row.iter().zip(&v).map(|(&w, &v)| f64::from(w) * f64::from(v)).sum::<f64>();
                let sigma: f64 = rows.map(|(row, &u)| f64::from(u) * dot(row)).sum();
                values.iter_mut().for_each(|value| *value = (f64::from(*value) / sigma) as f32);
                Ok(values)
            }
        }
    }

    /// Reads the elements of any type that holds numbers, a mask's too.
    fn numbers(&self) -> std::result::Result<Vec<f32>, ValueError> {
        let StoredData::Strided { storage, element, offset, strides } = &self.data else { return self.values() };
        if let Element::Other(name, _) = element {
            return Err(ValueError::NotFloat(name.clone()));
        }
        let count = self.elements();
        if count == 0 {
            return Ok(Vec::new());
        }
        let dense = *strides == row_major(&self.shape);
        let span = if dense {
            count
        } else {
            1 + self.shape.iter().zip(strides).map(|(&size, &stride)| (size as u64 - 1) * stride).sum::<u64>()
        };
        let size = element.size();
        let row = element.decode(&storage.read(offset * size..(offset + span) * size)?);
        if row.len() as u64 != span {
            return Err(Fault::Broken("its bytes are fewer than its shape says".into()).into());
        }
        Ok(if dense { row } else { gather(&row, &self.shape, strides) })
    }
}

fn same_len(a: &[f32], b: &[f32]) -> Result<()> {
    if a.len() == b.len() { Ok(()) } else { broken("a mask of another shape than its weight") }
}

/// Returns the strides of a tensor without gaps, as PyTorch counts them; a dimension of 0 counts as 1.
fn row_major(shape: &[usize]) -> Vec<u64> {
    let mut strides = vec![1u64; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i].max(1) as u64);
    }
    strides
}

/// Gathers the elements in row-major order. [`Stored::strided`] has checked all indices.
fn gather(row: &[f32], shape: &[usize], strides: &[u64]) -> Vec<f32> {
    let mut values = vec![0];
    for (&size, &stride) in shape.iter().zip(strides) {
        values = values.iter().flat_map(|&at| (0..size).map(move |i| at + i * stride as usize)).collect();
    }
    values.into_iter().map(|at| row[at]).collect()
}

/// Returns the number of elements before, along and after the axis for which lengths are given. With a single length, all
/// elements count as one axis.
fn axis(lengths: &[usize], shape: &[usize]) -> Option<[usize; 3]> {
    let count: usize = lengths.iter().product();
    if count == 1 && shape.first() != Some(&1) {
        return Some([1, 1, shape.iter().product()]);
    }
    let at = (0..shape.len()).find(|&at| shape[at] == count && lengths.get(at) == Some(&count))?;
    let rest = lengths.iter().enumerate().all(|(i, &length)| i == at || length == 1);
    (rest && lengths.len() == shape.len())
        .then(|| [shape[..at].iter().product(), count, shape[at + 1..].iter().product()])
}
