//! Constructors of the attributes and tensors of `onnx.proto`.
use crate::proto::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionValue, TensorProto, TensorShapeProto, TensorType,
    TypeProto, ValueInfoProto,
};

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: r#type.into(), ..Default::default() }
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) }
}

pub(super) fn ints(name: &str, values: impl IntoIterator<Item = usize>) -> AttributeProto {
    AttributeProto { ints: values.into_iter().map(|v| v as i64).collect(), ..attribute(name, AttributeType::Ints) }
}

pub(super) fn signed_ints(name: &str, ints: impl Into<Vec<i64>>) -> AttributeProto {
    AttributeProto { ints: ints.into(), ..attribute(name, AttributeType::Ints) }
}

pub(super) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f: Some(f), ..attribute(name, AttributeType::Float) }
}

pub(super) fn tensor(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(t), ..attribute(name, AttributeType::Tensor) }
}

/// Makes an attribute within a function whose value is that of the function's attribute `outer`.
pub(super) fn reference(name: &str, outer: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { ref_attr_name: outer.into(), ..attribute(name, r#type) }
}

/// Makes a tensor of `dims` whose elements are `bytes`, little-endian.
pub(super) fn raw(data_type: DataType, dims: &[usize], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: data_type.into(),
        raw_data: bytes,
        ..Default::default()
    }
}

pub(super) fn floats(dims: &[usize], values: &[f32]) -> TensorProto {
    raw(DataType::Float, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub(super) fn int64s(values: &[i64]) -> TensorProto {
    raw(DataType::Int64, &[values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// Makes the type of a float tensor `[batch, dims...]` with any number of images in a batch.
pub(super) fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    let batch = DimensionValue::DimParam("batch".into());
    let dims = dims.iter().map(|&d| DimensionValue::DimValue(d as i64));
    let dim = std::iter::once(batch).chain(dims).map(|value| Dimension { value: Some(value) }).collect();
    let tensor_type = TensorType { elem_type: DataType::Float.into(), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { tensor_type: Some(tensor_type) }),
        ..Default::default()
    }
}
