//! Constants: read from the file, or folded.
use half::{bf16, f16};

use super::ImportError;
use super::error::{Refusal, Result};
use crate::proto::{DataType, TensorProto};

/// A value that is known.
#[derive(Debug, Clone)]
pub(super) struct Constant {
    /// The initializer it was, for naming layers; empty where unknown.
    pub name: String,
    pub dims: Vec<usize>,
    pub data: Data,
}

/// All floats as f32, all integers and booleans as i64.
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

impl Constant {
    pub fn new(dims: impl Into<Vec<usize>>, data: Data) -> Self {
        Self { name: String::new(), dims: dims.into(), data }
    }

    pub fn ints(values: Vec<i64>) -> Self {
        Self::new([values.len()], Data::Int(values))
    }

    /// As integers.
    pub fn as_ints(&self) -> Result<&[i64]> {
        match &self.data {
            Data::Int(values) => Ok(values),
            Data::Float(_) => Err("has floats where integers belong".into()),
        }
    }

    /// As floats.
    pub fn as_floats(&self) -> Result<&[f32]> {
        match &self.data {
            Data::Float(values) => Ok(values),
            Data::Int(_) => Err("has integers where floats belong".into()),
        }
    }

    /// The only element, as a float.
    pub fn scalar(&self) -> Option<f32> {
        match &self.data {
            Data::Float(values) if values.len() == 1 => Some(values[0]),
            Data::Int(values) if values.len() == 1 => Some(values[0] as f32),
            _ => None,
        }
    }

    /// Reads a tensor, taking its data.
    ///
    /// # Errors
    /// A type, a size or a place that this does not read.
    pub fn read(tensor: &TensorProto) -> std::result::Result<Self, ImportError> {
        let refuse = |refusal: Refusal| ImportError::Tensor {
            tensor: tensor.name.clone(),
            why: refusal.why,
            hint: refusal.hint,
        };
        decode(tensor).map_err(refuse)
    }
}

fn decode(tensor: &TensorProto) -> Result<Constant> {
    if tensor.data_location != 0 || !tensor.external_data.is_empty() {
        return Err(Refusal::hint(
            "its data lies in another file",
            "save the model in one file: `onnx.save(onnx.load(\"x.onnx\"), \"one.onnx\", save_as_external_data=False)`",
        ));
    }
    let dims: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&n| usize::try_from(n).map_err(|_| Refusal::from("a negative size")))
        .collect::<Result<_>>()?;
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or("too many elements")?;
    let raw = |size: usize| -> Result<Option<std::slice::ChunksExact<'_, u8>>> {
        let bytes = &tensor.raw_data;
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
    let data = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => little_endian!(f32, tensor.float_data, Data::Float),
        Ok(DataType::Double) => little_endian!(f64, tensor.double_data, Data::Float),
        Ok(DataType::Float16) => bits16(|v| f16::from_bits(v).to_f32())?,
        Ok(DataType::Bfloat16) => bits16(|v| bf16::from_bits(v).to_f32())?,
        Ok(DataType::Int64) => little_endian!(i64, tensor.int64_data, Data::Int),
        Ok(DataType::Int32) => little_endian!(i32, tensor.int32_data, Data::Int),
        Ok(DataType::Int16) => little_endian!(i16, tensor.int32_data, Data::Int),
        Ok(DataType::Uint16) => little_endian!(u16, tensor.int32_data, Data::Int),
        Ok(DataType::Int8) => little_endian!(i8, tensor.int32_data, Data::Int),
        Ok(DataType::Uint8 | DataType::Bool) => little_endian!(u8, tensor.int32_data, Data::Int),
        Ok(other) => return Err(format!("elements of type {other:?} are not read").into()),
        Err(_) => return Err(format!("elements of the unknown type {}", tensor.data_type).into()),
    };
    Ok(Constant { name: tensor.name.clone(), dims, data })
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
            assert_eq!(Constant::read(&tensor).unwrap().as_floats().unwrap(), [1.5, -2.0], "{tensor:?}");
        }
        // 3 and -1 (255 unsigned).
        let ints = [
            (TensorProto { int64_data: vec![3, -1], ..tensor(DataType::Int64, &[2]) }, -1),
            (TensorProto { int32_data: vec![3, -1], ..tensor(DataType::Int32, &[2]) }, -1),
            (TensorProto { raw_data: vec![3, 0, 255, 255], ..tensor(DataType::Int16, &[2]) }, -1),
            (TensorProto { raw_data: vec![3, 255], ..tensor(DataType::Int8, &[2]) }, -1),
            (TensorProto { raw_data: vec![3, 255], ..tensor(DataType::Uint8, &[2]) }, 255),
        ];
        for (tensor, last) in ints {
            assert_eq!(Constant::read(&tensor).unwrap().as_ints().unwrap(), [3, last], "{tensor:?}");
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let refused = |tensor: TensorProto| Constant::read(&tensor).unwrap_err().to_string();
        assert_eq!(refused(tensor(DataType::Float, &[2, -1])), "tensor 't': a negative size");
        assert_eq!(refused(tensor(DataType::Float, &[1 << 40, 1 << 40])), "tensor 't': too many elements");
        assert_eq!(refused(tensor(DataType::Float, &[3])), "tensor 't': 0 values for 3 elements");
        let short = TensorProto { raw_data: vec![0; 5], ..tensor(DataType::Float, &[3]) };
        assert_eq!(refused(short), "tensor 't': 5 bytes of data for 3 elements of 4 bytes");
        assert_eq!(refused(tensor(DataType::Int4, &[3])), "tensor 't': elements of type Int4 are not read");
        let external = TensorProto { data_location: 1, ..tensor(DataType::Float, &[3]) };
        assert!(Constant::read(&external).unwrap_err().hint().unwrap().starts_with("save the model in one file"));
    }
}
