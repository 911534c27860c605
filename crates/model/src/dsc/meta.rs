//! The metadata: a description of the other sections, which is checked to fit together.
use std::borrow::Cow;
use std::fmt;

use blockfloat::{ActivationFormat, Bits, BlockSize, QuantizedWeights, ScaleFormat, packed_len};
use graph::{Graph, Op, Role};
use serde::{Deserialize, Serialize};

use crate::model::{Info, Model, QuantizedLayer};
use crate::policy::check_blocks;
use crate::precision::{Float, SaveOptions};

/// How a layer's scales are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StoredScales {
    /// Each block has a binary32.
    F32,
    /// Each block has a binary16.
    F16,
    /// Each output channel has a binary32 and each block an 8-bit integer; a scale is their product.
    TwoLevel,
}

impl fmt::Display for StoredScales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::TwoLevel => "two-level",
        })
    }
}

/// The description of a quantized layer in a file's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LayerInfo {
    /// The name of its node in the graph.
    pub node: String,
    /// The shape of its weight, `[Co, Ci/G, Kh, Kw]`; that of a linear layer is `[out, in, 1, 1]`.
    pub shape: [usize; 4],
    /// The bits of a code.
    pub bits: Bits,
    /// The number of input channels that share a scale.
    pub block: BlockSize,
    /// How its scales are stored.
    pub scales: StoredScales,
    /// The format that its input is rounded to; `None` keeps the input in floats.
    pub activation: Option<ActivationFormat>,
    /// Whether its input can be negative.
    pub signed: bool,
}

impl LayerInfo {
    /// Returns the number of codes. That of a layer in a [`File`](super::File) fits memory.
    ///
    /// # Panics
    /// If the number overflows, where overflow checks are on.
    pub fn weights(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the number of blocks.
    ///
    /// # Panics
    /// If the number overflows, where overflow checks are on.
    pub fn blocks(&self) -> usize {
        self.shape[0] * self.block.count(self.shape[1]) * self.shape[2] * self.shape[3]
    }

    /// Returns the number of bytes of its codes, without the zeros after them.
    pub(super) fn codes_len(&self) -> usize {
        packed_len(self.weights(), self.bits)
    }

    /// Returns the position of its scales in its section.
    pub(super) fn scales_start(&self) -> usize {
        self.codes_len().next_multiple_of(4)
    }

    /// Returns the length of its section.
    pub(super) fn section_len(&self) -> usize {
        let scales = match self.scales {
            StoredScales::F32 => 4 * self.blocks(),
            StoredScales::F16 => 2 * self.blocks(),
            StoredScales::TwoLevel => 4 * self.shape[0] + self.blocks(),
        };
        self.scales_start() + scales
    }
}

/// The description of a float tensor in a file's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FloatInfo {
    pub name: String,
    pub shape: Vec<usize>,
    #[serde(rename = "type")]
    pub float: Float,
}

/// The metadata, as their JSON has them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta<'a> {
    pub info: Cow<'a, Info>,
    pub layers: Vec<LayerInfo>,
    pub floats: Vec<FloatInfo>,
    pub pair: Option<u64>,
    pub graph: Cow<'a, Graph>,
}

impl<'a> Meta<'a> {
    /// Describes a model, which must have passed [`Model::check`].
    pub fn of(model: &'a Model, options: &SaveOptions, pair: Option<u64>) -> Self {
        let stored = |codes: &QuantizedWeights| match codes.two_level() {
            Some(_) => StoredScales::TwoLevel,
            None => match options.scale_precision.for_values(codes.scales()) {
                Float::F32 => StoredScales::F32,
                Float::F16 => StoredScales::F16,
            },
        };
        let layers = model.graph().nodes().iter().filter_map(|node| {
            let QuantizedLayer { codes, activation, signed } = model.layers().get(&node.name)?;
            Some(LayerInfo {
                node: node.name.clone(),
                shape: codes.shape(),
                bits: codes.bits(),
                block: codes.block(),
                scales: stored(codes),
                activation: *activation,
                signed: *signed,
            })
        });
        let floats = model.graph().params().into_iter().filter_map(|param| {
            let tensor = model.weights().get(&param.name)?;
            Some(FloatInfo { name: param.name, shape: param.shape, float: options.floats.for_values(tensor.data()) })
        });
        let (layers, floats) = (layers.collect(), floats.collect());
        Self { info: Cow::Borrowed(model.info()), layers, floats, pair, graph: Cow::Borrowed(model.graph()) }
    }

    /// Checks that layers and floats are those that the graph needs, and that all sizes fit memory.
    pub fn check(&self) -> Result<(), String> {
        let nodes = self.graph.nodes();
        if self.layers.is_empty() {
            return Err("no layer is quantized".into());
        }
        let non_negative = self.graph.non_negative();
        let mut layers = self.layers.iter().peekable();
        for node in nodes {
            if matches!(node.op, Op::BatchNorm2d { .. }) {
                return Err(format!("node `{}`: a batch normalisation that is not folded", node.name));
            }
            let Some(layer) = layers.next_if(|layer| layer.node == node.name) else { continue };
            let refuse = |why: String| Err(format!("layer `{}`: {why}", layer.node));
            let Some(shape) = node.weight_shape() else {
                return refuse("the graph has no such convolution or linear layer".into());
            };
            if layer.shape != shape {
                return refuse(format!("its shape is {:?}, the graph needs {shape:?}", layer.shape));
            }
            fits_memory(&shape).ok_or_else(|| format!("layer `{}`: {shape:?} does not fit memory", layer.node))?;
            if layer.activation.is_some() && !layer.signed && !non_negative[node.inputs[0].index()] {
                return refuse("it is said to have no negative inputs, but nothing before it keeps them out".into());
            }
            let scales = match layer.scales {
                StoredScales::TwoLevel => ScaleFormat::TwoLevel,
                _ => ScaleFormat::Float,
            };
            check_blocks(node, layer.bits, layer.block, scales, layer.activation).map_err(|error| error.to_string())?;
        }
        if let Some(layer) = layers.next() {
            return Err(format!("layer `{}` is not in the graph, or not in its order", layer.node));
        }

        let mut coded = self.layers.iter().map(|layer| Role::Weight.name(&layer.node)).peekable();
        let mut floats = self.floats.iter();
        for param in self.graph.params() {
            if coded.next_if_eq(&param.name).is_some() {
                continue;
            }
            match floats.next() {
                Some(float) if float.name == param.name && float.shape == param.shape => {
                    let shape = &param.shape;
                    fits_memory(shape).ok_or_else(|| format!("`{}`: {shape:?} does not fit memory", param.name))?;
                }
                Some(float) => {
                    let (name, shape) = (&float.name, &float.shape);
                    return Err(format!("`{}` {:?} is due, `{name}` {shape:?} is listed", param.name, param.shape));
                }
                None => return Err(format!("`{}` is not listed", param.name)),
            }
        }
        match floats.next() {
            None => Ok(()),
            Some(float) => Err(format!("`{}` is listed, the graph has no such parameter", float.name)),
        }
    }
}

/// Returns the number of elements if memory can hold them in F32.
fn fits_memory(shape: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    (count <= isize::MAX as usize / 16).then_some(count)
}
