//! Writes weights as constants: floats, or codes and block scales with a `DequantizeLinear`.
use blockfloat::QuantizedWeights;

use crate::proto::{DataType, TensorProto};

use super::attribute::{floats, int, raw};
use super::emit::Emitter;

/// Adds the codes and block scales of a layer, and returns the name of the weight in floats.
///
/// `linear` weights are `[out, in]`, others `[Co, Cg, Kh, Kw]`. A shorter last block is a `DequantizeLinear` of its own, joined
/// to the whole blocks, since OpenVINO does not take one that is shorter; ONNX and ONNX Runtime do.
pub(super) fn coded(out: &mut Emitter, layer: &str, codes: &QuantizedWeights, linear: bool) -> String {
    let [_, channels, _, _] = codes.shape();
    let block = codes.block().len_in(channels);
    let whole = channels / block;
    let tail = channels % block;
    let weight = format!("{layer}.weight");
    if tail == 0 {
        return part(out, layer, &weight, codes, linear, block, 0..whole);
    }
    if whole == 0 {
        return part(out, layer, &weight, codes, linear, tail, 0..1);
    }
    let head = part(out, layer, &format!("{layer}.weight_head"), codes, linear, block, 0..whole);
    let tail =
        part(out, &format!("{layer}.tail"), &format!("{layer}.weight_tail"), codes, linear, tail, whole..whole + 1);
    out.node(&weight, "Concat", &[&head, &tail], [int("axis", 1)])
}

/// Adds some blocks of every filter, each of `len` channels.
fn part(
    out: &mut Emitter,
    prefix: &str,
    name: &str,
    codes: &QuantizedWeights,
    linear: bool,
    len: usize,
    blocks: std::ops::Range<usize>,
) -> String {
    let [filters, channels, kh, kw] = codes.shape();
    let taps = kh * kw;
    let first = blocks.start * codes.block().len_in(channels);
    let count = blocks.len() * len;
    let values: Vec<i8> = codes
        .codes()
        .chunks_exact(channels * taps)
        .flat_map(|filter| &filter[first * taps..(first + count) * taps])
        .copied()
        .collect();
    let scales: Vec<f32> = codes
        .scales()
        .chunks_exact(codes.scale_shape()[1] * taps)
        .flat_map(|filter| &filter[blocks.start * taps..blocks.end * taps])
        .copied()
        .collect();
    let dims = |channels: usize| if linear { vec![filters, channels] } else { vec![filters, channels, kh, kw] };

    let values = out.constant(&format!("{prefix}.codes"), integers(&dims(count), &values, codes.bits().get() <= 4));
    let scale_dims = dims(blocks.len());
    let scales = match halves(&scales) {
        Some(halves) => {
            let stored = out.constant(&format!("{prefix}.scales_f16"), raw(DataType::Float16, &scale_dims, halves));
            out.node(&format!("{prefix}.scales"), "Cast", &[&stored], [int("to", DataType::Float as i64)])
        }
        None => out.constant(&format!("{prefix}.scales"), floats(&scale_dims, &scales)),
    };
    out.node(name, "DequantizeLinear", &[&values, &scales], [int("axis", 1), int("block_size", len as i64)])
}

/// Makes a tensor of INT4, two to a byte with the first in the low half, or of INT8.
fn integers(dims: &[usize], values: &[i8], four: bool) -> TensorProto {
    if !four {
        return raw(DataType::Int8, dims, values.iter().map(|&v| v.cast_unsigned()).collect());
    }
    let nibble = |v: i8| v.cast_unsigned() & 15;
    let bytes = values.chunks(2).map(|pair| nibble(pair[0]) | pair.get(1).map_or(0, |&v| nibble(v) << 4)).collect();
    raw(DataType::Int4, dims, bytes)
}

/// Returns the bytes of these values as F16, if all of them are F16 values.
fn halves(values: &[f32]) -> Option<Vec<u8>> {
    let half = |&v: &f32| {
        let half = half::f16::from_f32(v);
        (half.to_f32() == v).then_some(half.to_le_bytes())
    };
    values.iter().map(half).collect::<Option<Vec<_>>>().map(|bytes| bytes.into_iter().flatten().collect())
}
