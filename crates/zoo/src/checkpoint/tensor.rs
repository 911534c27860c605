//! Tensors that are still in their file, and how their values come out of it.
use std::ops::Range;
use std::rc::Rc;

use half::{bf16, f16};

use super::fault::{Fault, Result, broken};
use super::source::Source;
use super::zip;

/// Type of a tensor's elements, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Element {
    F16,
    Bf16,
    F32,
    F64,
    /// A byte: a mask, never a weight.
    U8,
    /// A type that holds no weight, with its size in bytes.
    Other(String, u64),
}

impl Element {
    /// By the name that PyTorch, NumPy or safetensors gives it.
    pub(super) fn named(name: &str) -> Self {
        let other = |name: &str, size| Self::Other(name.to_owned(), size);
        let plain = name.strip_suffix("Storage").unwrap_or(name);
        // `I8` is a byte to safetensors, `i8` eight bytes to NumPy.
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

    /// Bytes of one.
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

/// A row of elements in a file.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub(super) source: Source,
    pub(super) bytes: Range<u64>,
    /// The entry of a zip archive that it is.
    pub(super) entry: Option<Rc<zip::Entry>>,
    /// Its bytes are the code points of UTF-8, as Python writes them in old protocols.
    pub(super) latin1: bool,
}

impl Storage {
    /// A range of a file.
    pub(super) fn new(source: Source, bytes: Range<u64>) -> Self {
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
    /// Its shape.
    pub(super) shape: Vec<usize>,
    data: Data,
}

#[derive(Debug, Clone)]
enum Data {
    /// Elements of a storage, by an offset and strides in elements.
    Strided { storage: Storage, element: Element, offset: u64, strides: Vec<u64> },
    /// Its values are not in the file or not numbers: what it is.
    Unreadable(String),
    /// Pruning: weight times mask.
    Pruned(Rc<[Stored; 2]>),
    /// Weight normalisation: `v * g / |v|`.
    WeightNorm(Rc<[Stored; 2]>),
    /// Spectral normalisation: `w / (u^T W v)`.
    SpectralNorm(Rc<[Stored; 3]>),
}

/// Why a tensor gives no values.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is not of floats: of what.
    NotFloat(String),
    /// Its bytes cannot be read.
    Fault(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Stored {
    /// A tensor whose elements lie in a storage.
    ///
    /// # Errors
    /// Elements outside of the storage.
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
        Ok(Self { shape, data: Data::Strided { storage, element, offset, strides } })
    }

    /// A row-major tensor that fills a storage from its beginning.
    ///
    /// # Errors
    /// As [`Stored::strided`].
    pub(super) fn dense(storage: Storage, element: Element, shape: Vec<usize>) -> Result<Self> {
        let strides = row_major(&shape);
        Self::strided(storage, element, 0, shape, strides)
    }

    /// A tensor that has no values here, and what it is.
    pub(super) fn unreadable(shape: Vec<usize>, what: impl Into<String>) -> Self {
        Self { shape, data: Data::Unreadable(what.into()) }
    }

    /// `torch.nn.utils.prune`: the weight times its mask.
    pub(super) fn pruned(weight: Self, mask: Self) -> Self {
        Self { shape: weight.shape.clone(), data: Data::Pruned(Rc::new([weight, mask])) }
    }

    /// `torch.nn.utils.weight_norm`: `v` at the length `g`.
    pub(super) fn weight_norm(g: Self, v: Self) -> Self {
        Self { shape: v.shape.clone(), data: Data::WeightNorm(Rc::new([g, v])) }
    }

    /// `torch.nn.utils.spectral_norm`: the weight over its largest singular value, as `u` and `v` tell it.
    pub(super) fn spectral_norm(weight: Self, u: Self, v: Self) -> Self {
        Self { shape: weight.shape.clone(), data: Data::SpectralNorm(Rc::new([weight, u, v])) }
    }

    /// Number of elements.
    pub(super) fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product: u64, &size| product.saturating_mul(size as u64))
    }

    /// Whether another tensor is the same bytes seen in the same way.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.data, &other.data) {
            (
                Data::Strided { storage: a, offset, strides, .. },
                Data::Strided { storage: b, offset: other_offset, strides: other_strides, .. },
            ) => a.bytes == b.bytes && offset == other_offset && strides == other_strides && self.shape == other.shape,
            _ => false,
        }
    }

    /// Its values, row-major.
    pub(super) fn values(&self) -> std::result::Result<Vec<f32>, Trouble> {
        match &self.data {
            Data::Strided { element: Element::U8, .. } => Err(Trouble::NotFloat("u8".into())),
            Data::Strided { .. } => self.numbers(),
            Data::Unreadable(what) => Err(Trouble::NotFloat(what.clone())),
            Data::Pruned(parts) => {
                let [weight, mask] = &**parts;
                let (mut values, mask) = (weight.values()?, mask.numbers()?);
                same_len(&values, &mask)?;
                values.iter_mut().zip(mask).for_each(|(value, mask)| *value *= mask);
                Ok(values)
            }
            Data::WeightNorm(parts) => {
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
            Data::SpectralNorm(parts) => {
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

    /// Its elements as they are, also those of a mask.
    fn numbers(&self) -> std::result::Result<Vec<f32>, Trouble> {
        let Data::Strided { storage, element, offset, strides } = &self.data else { return self.values() };
        if let Element::Other(name, _) = element {
            return Err(Trouble::NotFloat(name.clone()));
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

/// Strides of a tensor without gaps, as PyTorch counts them; a side of 1 or 0 has the stride it would have as 1.
fn row_major(shape: &[usize]) -> Vec<u64> {
    let mut strides = vec![1u64; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i].max(1) as u64);
    }
    strides
}

/// The elements in row-major order. All indices were checked by [`Stored::strided`].
fn gather(row: &[f32], shape: &[usize], strides: &[u64]) -> Vec<f32> {
    let mut values = vec![0];
    for (&size, &stride) in shape.iter().zip(strides) {
        values = values.iter().flat_map(|&at| (0..size).map(move |i| at + i * stride as usize)).collect();
    }
    values.into_iter().map(|at| row[at]).collect()
}

/// Elements before, along and behind the axis that lengths are given for; all count as one axis where there is one length.
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
