//! Constants, which are read from the file or folded.
use half::{bf16, f16};

use super::ImportError;
use super::error::{Refusal, Result};
use crate::proto::{DataType, TensorProto};

/// The limit of axes of a constant.
pub(super) const MAX_RANK: usize = 32;

/// A value that does not depend on the image.
#[derive(Debug, Clone)]
pub(super) struct Constant {
    /// The name of its initializer, after which layers are named; empty where there is none.
    pub name: String,
    /// The type in the file, which limits the integers.
    pub kind: DataType,
    pub dims: Vec<usize>,
    pub data: Data,
}

/// The elements of a constant. All floats are f32, all integers and booleans are i64.
#[derive(Debug, Clone)]
pub(super) enum Data {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

impl Data {
    pub fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Int(values) => values.len(),
        }
    }
}

/// Returns whether elements of this type are floats that can be read.
pub(super) fn is_float(kind: DataType) -> bool {
    matches!(kind, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
}

/// Returns the smallest and the largest integer of a type, or `None` where it is not an integer type.
pub(super) fn integers(kind: DataType) -> Option<(i64, i64)> {
    let signed = |bits: u32| (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1);
    let unsigned = |bits: u32| (0, (1i64 << bits) - 1);
    Some(match kind {
        DataType::Bool => (0, 1),
        DataType::Int4 => signed(4),
        DataType::Uint4 => unsigned(4),
        DataType::Int8 => signed(8),
        DataType::Uint8 => unsigned(8),
        DataType::Int16 => signed(16),
        DataType::Uint16 => unsigned(16),
        DataType::Int32 => signed(32),
        DataType::Uint32 => unsigned(32),
        DataType::Int64 => (i64::MIN, i64::MAX),
        // Larger ones are refused where they are read.
        DataType::Uint64 => (0, i64::MAX),
        _ => return None,
    })
}

impl Constant {
    /// Makes a constant of f32 or of 64-bit integers.
    pub fn new(dims: impl Into<Vec<usize>>, data: Data) -> Self {
        let kind = match &data {
            Data::Float(_) => DataType::Float,
            Data::Int(_) => DataType::Int64,
        };
        Self { name: String::new(), kind, dims: dims.into(), data }
    }

    /// Makes a constant of integers or booleans.
    ///
    /// # Errors
    /// The type cannot hold a value, which an engine would wrap around.
    pub fn of(kind: DataType, dims: impl Into<Vec<usize>>, values: Vec<i64>) -> Result<Self> {
        let (low, high) = integers(kind).ok_or("integers where floats belong")?;
        match values.iter().find(|v| !(low..=high).contains(*v)) {
            None => Ok(Self { name: String::new(), kind, dims: dims.into(), data: Data::Int(values) }),
            Some(value) => Err(format!("{value} is beyond what {kind:?} holds").into()),
        }
    }

    pub fn ints(values: Vec<i64>) -> Self {
        Self::new([values.len()], Data::Int(values))
    }

    /// Returns the integers.
    pub fn as_ints(&self) -> Result<&[i64]> {
        match &self.data {
            Data::Int(values) => Ok(values),
            Data::Float(_) => Err("has floats where integers belong".into()),
        }
    }

    /// Returns the floats.
    pub fn as_floats(&self) -> Result<&[f32]> {
        match &self.data {
            Data::Float(values) => Ok(values),
            Data::Int(_) => Err("has integers where floats belong".into()),
        }
    }

    /// Returns the only element as a float.
    pub fn scalar(&self) -> Option<f32> {
        match &self.data {
            Data::Float(values) if values.len() == 1 => Some(values[0]),
            Data::Int(values) if values.len() == 1 => Some(values[0] as f32),
            _ => None,
        }
    }

    /// Reads a tensor whose raw data is `raw`, from the tensor itself or from another file.
    ///
    /// # Errors
    /// The type is not supported, or the data does not have the size of the tensor.
    pub fn read(tensor: &TensorProto, raw: &[u8]) -> std::result::Result<Self, ImportError> {
        decode(tensor, raw).map_err(|refusal| refuse(tensor, refusal))
    }
}

/// Makes the error of a tensor.
pub(super) fn refuse(tensor: &TensorProto, refusal: Refusal) -> ImportError {
    ImportError::Tensor { tensor: tensor.name.clone(), why: refusal.why, hint: refusal.hint }
}

/// Returns the dimensions of a tensor and the number of its elements.
pub(super) fn dims(tensor: &TensorProto) -> Result<(Vec<usize>, usize)> {
    if tensor.dims.len() > MAX_RANK {
        return Err(format!("{} axes", tensor.dims.len()).into());
    }
    let dims: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&n| usize::try_from(n).map_err(|_| Refusal::from("a negative size")))
        .collect::<Result<_>>()?;
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or("too many elements")?;
    Ok((dims, count))
}

/// Returns the bytes that `count` elements of a type take in raw data, or `None` for types that are not supported.
pub(super) fn raw_bytes(kind: i32, count: usize) -> Option<usize> {
    let size = match DataType::try_from(kind).ok()? {
        DataType::Int4 | DataType::Uint4 => return Some(count.div_ceil(2)),
        DataType::Bool | DataType::Int8 | DataType::Uint8 => 1,
        DataType::Int16 | DataType::Uint16 | DataType::Float16 | DataType::Bfloat16 => 2,
        DataType::Int32 | DataType::Uint32 | DataType::Float => 4,
        DataType::Int64 | DataType::Uint64 | DataType::Double => 8,
        _ => return None,
    };
    count.checked_mul(size)
}

fn decode(tensor: &TensorProto, bytes: &[u8]) -> Result<Constant> {
    let (dims, count) = dims(tensor)?;
    let raw = |size: usize| -> Result<Option<std::slice::ChunksExact<'_, u8>>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match count.checked_mul(size) {
            Some(expected) if expected == bytes.len() => Ok(Some(bytes.chunks_exact(size))),
            _ => Err(format!("{} bytes of data for {count} elements of {size} bytes", bytes.len()).into()),
        }
    };
    let fits = |found: usize| -> Result<()> {
        if found == count { Ok(()) } else { Err(format!("{found} values for {count} elements").into()) }
    };
    macro_rules! little_endian {
        ($type:ty, $typed:expr, $data:path) => {{
            let values: Vec<_> = match raw(size_of::<$type>())? {
                Some(chunks) => {
                    chunks.map(|b| <$type>::from_le_bytes(b.try_into().expect("chunks of this size")) as _).collect()
                }
                None => {
                    fits($typed.len())?;
                    $typed.iter().map(|&v| v as _).collect()
                }
            };
            $data(values)
        }};
    }
    let bits16 = |from: fn(u16) -> f32| -> Result<Data> {
        Ok(Data::Float(match raw(2)? {
            Some(chunks) => chunks.map(|b| from(u16::from_le_bytes([b[0], b[1]]))).collect(),
            None => {
                fits(tensor.int32_data.len())?;
                tensor.int32_data.iter().map(|&v| from(v as u16)).collect()
            }
        }))
    };
    // A byte holds two elements, the first in its low half.
    let nibbles = |value: fn(u8) -> i64| -> Result<Data> {
        let packed: Vec<u8> = match bytes {
            [] => tensor.int32_data.iter().map(|&v| v as u8).collect(),
            bytes => bytes.to_vec(),
        };
        if packed.len() != count.div_ceil(2) {
            return Err(format!("{} bytes of data for {count} elements of 4 bits", packed.len()).into());
        }
        Ok(Data::Int(packed.iter().flat_map(|b| [value(b & 15), value(b >> 4)]).take(count).collect()))
    };
    let kind = DataType::try_from(tensor.data_type)
        .map_err(|_| format!("elements of the unknown type {}", tensor.data_type))?;
    let data = match kind {
        DataType::Float => little_endian!(f32, tensor.float_data, Data::Float),
        DataType::Double => little_endian!(f64, tensor.double_data, Data::Float),
        DataType::Float16 => bits16(|v| f16::from_bits(v).to_f32())?,
        DataType::Bfloat16 => bits16(|v| bf16::from_bits(v).to_f32())?,
        DataType::Int64 => little_endian!(i64, tensor.int64_data, Data::Int),
        DataType::Int32 => little_endian!(i32, tensor.int32_data, Data::Int),
        DataType::Int16 => little_endian!(i16, tensor.int32_data, Data::Int),
        DataType::Uint16 => little_endian!(u16, tensor.int32_data, Data::Int),
        DataType::Int8 => little_endian!(i8, tensor.int32_data, Data::Int),
        DataType::Uint8 | DataType::Bool => little_endian!(u8, tensor.int32_data, Data::Int),
        DataType::Uint32 => little_endian!(u32, tensor.uint64_data, Data::Int),
        // Integers beyond i64 become negative, and are refused below.
        DataType::Uint64 => little_endian!(u64, tensor.uint64_data, Data::Int),
        DataType::Int4 => nibbles(|v| i64::from(v) - if v > 7 { 16 } else { 0 })?,
        DataType::Uint4 => nibbles(i64::from)?,
        other => return Err(format!("elements of type {other:?} are not read").into()),
    };
    let name = tensor.name.clone();
    match data {
        // A boolean that is stored as another byte than 0 and 1 is true.
        Data::Int(values) if kind == DataType::Bool => {
            let values = values.into_iter().map(|v| i64::from(v != 0)).collect();
            Ok(Constant { name, kind, dims, data: Data::Int(values) })
        }
        Data::Int(values) => Ok(Constant { name, ..Constant::of(kind, dims, values)? }),
        data => Ok(Constant { name, kind, dims, data }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(data_type: DataType, dims: &[i64]) -> TensorProto {
        TensorProto { name: "t".into(), data_type: data_type as i32, dims: dims.to_vec(), ..TensorProto::default() }
    }

    #[test]
    fn reads_every_type_raw_and_typed() {
        // 1.5 and -2 in each float type.
        let floats = [
            TensorProto { float_data: vec![1.5, -2.0], ..tensor(DataType::Float, &[2]) },
            TensorProto {
                raw_data: [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
                ..tensor(DataType::Float, &[2])
            },
            TensorProto { double_data: vec![1.5, -2.0], ..tensor(DataType::Double, &[2]) },
            TensorProto {
                raw_data: [1.5f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
                ..tensor(DataType::Double, &[2])
            },
            TensorProto { int32_data: vec![0x3e00, 0xc000], ..tensor(DataType::Float16, &[2]) },
            TensorProto { raw_data: vec![0x00, 0x3e, 0x00, 0xc0], ..tensor(DataType::Float16, &[2]) },
            TensorProto { raw_data: vec![0xc0, 0x3f, 0x00, 0xc0], ..tensor(DataType::Bfloat16, &[2]) },
        ];
        for tensor in floats {
            assert_eq!(
                Constant::read(&tensor, &tensor.raw_data).unwrap().as_floats().unwrap(),
                [1.5, -2.0],
                "{tensor:?}"
            );
        }
        // 3 and -1 (255 unsigned).
        let ints = [
            (TensorProto { int64_data: vec![3, -1], ..tensor(DataType::Int64, &[2]) }, -1),
            (TensorProto { int32_data: vec![3, -1], ..tensor(DataType::Int32, &[2]) }, -1),
            (TensorProto { raw_data: vec![3, 0, 255, 255], ..tensor(DataType::Int16, &[2]) }, -1),
            (TensorProto { raw_data: vec![3, 255], ..tensor(DataType::Int8, &[2]) }, -1),
            (TensorProto { raw_data: vec![3, 255], ..tensor(DataType::Uint8, &[2]) }, 255),
            (
                TensorProto { raw_data: vec![3, 0, 0, 0, 255, 255, 255, 255], ..tensor(DataType::Uint32, &[2]) },
                0xffff_ffff,
            ),
            (TensorProto { raw_data: vec![0xf3], ..tensor(DataType::Int4, &[2]) }, -1),
            (TensorProto { int32_data: vec![0xf3], ..tensor(DataType::Uint4, &[2]) }, 15),
        ];
        for (tensor, last) in ints {
            assert_eq!(Constant::read(&tensor, &tensor.raw_data).unwrap().as_ints().unwrap(), [3, last], "{tensor:?}");
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let refused = |tensor: TensorProto| Constant::read(&tensor, &tensor.raw_data).unwrap_err().to_string();
        assert_eq!(refused(tensor(DataType::Float, &[2, -1])), "tensor 't': a negative size");
        assert_eq!(refused(tensor(DataType::Float, &[1 << 40, 1 << 40])), "tensor 't': too many elements");
        assert_eq!(refused(tensor(DataType::Float, &[3])), "tensor 't': 0 values for 3 elements");
        let short = TensorProto { raw_data: vec![0; 5], ..tensor(DataType::Float, &[3]) };
        assert_eq!(refused(short), "tensor 't': 5 bytes of data for 3 elements of 4 bytes");
        assert_eq!(refused(tensor(DataType::String, &[3])), "tensor 't': elements of type String are not read");
        assert_eq!(refused(tensor(DataType::Int4, &[3])), "tensor 't': 0 bytes of data for 3 elements of 4 bits");
        let large = TensorProto { raw_data: vec![255; 8], ..tensor(DataType::Uint64, &[1]) };
        assert_eq!(refused(large), "tensor 't': -1 is beyond what Uint64 holds");
    }
}
