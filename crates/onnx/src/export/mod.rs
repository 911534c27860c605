//! Exports networks to `.onnx` files, in three profiles.
use std::collections::BTreeMap;

use model::Model;
use prost::Message;

use crate::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};

mod attribute;
mod block_float;
mod emit;
mod network;
mod ops;
mod quantized;
#[cfg(test)]
mod tests;
mod weights;

pub use quantized::{ActivationCodes, Range, Ranges, observed};

/// The number formats of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Profile {
    /// Weights are codes of 4 bits (8 for those that need more than 4) with block scales. The inputs of layers are in block
    /// floating point or, without `activations`, in floats.
    Int4 {
        /// Whether inputs of layers are rounded as the model says.
        activations: bool,
    },
    /// Weights have 8 bits and one scale for each output channel, from two-level scales. Activations have 8 bits and one
    /// scale for each value.
    Int8 {
        /// The ranges of the values that [`observed`] names, for a model with folded batch normalisation.
        ranges: Ranges,
        /// The 8-bit integers of activations.
        codes: ActivationCodes,
    },
    /// Weights are floats, the values of the codes.
    Fp32,
}

impl Profile {
    /// Returns the name of the profile: `int4`, `int8` or `fp32`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Int4 { .. } => "int4",
            Self::Int8 { .. } => "int8",
            Self::Fp32 => "fp32",
        }
    }
}

/// The reason why a model cannot be exported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The profile needs integers, and the model has floats.
    #[error("`{graph}` is not quantized: the profile `{profile}` needs integer weights")]
    NotQuantized {
        /// The name of the graph.
        graph: String,
        /// The name of the profile.
        profile: &'static str,
    },
    /// The model's weights do not fit its graph.
    #[error(transparent)]
    Weights(#[from] graph::WeightsError),
    /// The block scales of a layer are floats.
    #[error("layer `{layer}`: the profile `int8` needs two-level scales")]
    BlockScales {
        /// The name of the layer.
        layer: String,
    },
    /// The range of a value is not known.
    #[error("node `{node}`: the range of its values is not known")]
    Range {
        /// The name of the node.
        node: String,
    },
    /// The file would be larger than a protocol buffer can be.
    #[error("the file would have {bytes} bytes: ONNX files end at 2 GiB")]
    TooLarge {
        /// The size of the file in bytes.
        bytes: u64,
    },
}

/// The first opset with `DequantizeLinear` by blocks and `INT4`, and its IR version.
const OPSET_BLOCKS: i64 = 21;
const IR_BLOCKS: i64 = 10;
/// The first opset with a scale for each channel, and its IR version.
const OPSET_CHANNELS: i64 = 13;
const IR_CHANNELS: i64 = 7;

/// Writes a model as the bytes of an `.onnx` file. The page of this crate says which runtimes run it.
///
/// # Errors
/// [`ExportError`].
pub fn export(model: &Model, profile: &Profile) -> Result<Vec<u8>, ExportError> {
    encode(&translate(model, profile)?, i32::MAX as u64)
}

fn encode(proto: &ModelProto, limit: u64) -> Result<Vec<u8>, ExportError> {
    let bytes = proto.encoded_len() as u64;
    if bytes > limit {
        return Err(ExportError::TooLarge { bytes });
    }
    Ok(proto.encode_to_vec())
}

/// Translates a model to the messages of an `.onnx` file.
///
/// # Errors
/// The errors of [`export`], except for the size.
fn translate(model: &Model, profile: &Profile) -> Result<ModelProto, ExportError> {
    if *profile != Profile::Fp32 && !model.is_quantized() {
        return Err(ExportError::NotQuantized { graph: model.graph().name().into(), profile: profile.name() });
    }
    let folded;
    let model = if model.is_quantized() {
        model
    } else {
        let (graph, weights) = graph::Folded::new(model.graph(), model.weights().clone())?.into_parts();
        folded = Model::float(graph.into_graph(), weights, model.info().clone())?;
        &folded
    };
    let mut network = network::Translation::new(model, profile)?;
    network.run()?;

    let (ir_version, version) = match profile {
        Profile::Int4 { .. } => (IR_BLOCKS, OPSET_BLOCKS),
        Profile::Int8 { .. } | Profile::Fp32 => (IR_CHANNELS, OPSET_CHANNELS),
    };
    let mut opset_import = vec![OperatorSetIdProto { domain: String::new(), version }];
    if !network.functions.is_empty() {
        opset_import.push(OperatorSetIdProto { domain: block_float::DOMAIN.into(), version: 1 });
    }
    Ok(ModelProto {
        ir_version,
        producer_name: "dsconv".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import,
        metadata_props: metadata(model, profile),
        functions: network.functions.iter().map(|&kind| block_float::function(kind)).collect(),
        graph: Some(network.out.graph),
        ..Default::default()
    })
}

/// Returns the metadata of the file.
fn metadata(model: &Model, profile: &Profile) -> Vec<StringStringEntryProto> {
    let json = |value: serde_json::Result<String>| value.expect("strings and numbers are JSON");
    let mut entries = vec![
        ("profile", profile.name().to_owned()),
        ("format", format(model, profile)),
        ("source", model.info().source.clone()),
        ("preprocess", json(serde_json::to_string(&model.info().preprocess))),
    ];
    if !model.info().classes.is_empty() {
        entries.push(("classes", json(serde_json::to_string(&model.info().classes))));
    }
    entries.into_iter().map(|(key, value)| StringStringEntryProto { key: key.into(), value }).collect()
}

/// Lists the number formats of the layers, most frequent first: `W4 B32 A4 B32 float x 52, float x 1`.
fn format(model: &Model, profile: &Profile) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for node in model.graph().nodes() {
        if node.weight_shape().is_none() {
            continue;
        }
        let name = match (model.layers().get(&node.name), profile) {
            (None, _) | (_, Profile::Fp32) => "floats".to_owned(),
            (Some(_), Profile::Int8 { codes, .. }) => format!("int8 weights, {} activations", codes.name()),
            (Some(layer), Profile::Int4 { activations }) => {
                let weights = format!("{}-bit weights in blocks of {}", layer.codes.bits(), layer.codes.block());
                match layer.activation.filter(|_| *activations) {
                    Some(a) => format!("{weights}, {}-bit activations in blocks of {} ({})", a.bits, a.block, a.scale),
                    None => format!("{weights}, float activations"),
                }
            }
        };
        *counts.entry(name).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let layers = |count: usize| if count == 1 { "1 layer".to_owned() } else { format!("{count} layers") };
    counts.iter().map(|(name, count)| format!("{}: {name}", layers(*count))).collect::<Vec<_>>().join("; ")
}
