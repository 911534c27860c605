use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use blockfloat::{ActivationFormat, QuantizedWeights, packed_len};
use serde::{Deserialize, Serialize};

use crate::build::{Graph, Node};
use crate::op::Op;
use crate::pass;
use crate::policy::{Policy, PolicyError, check_blocks};
use crate::precision::{Float, SaveOptions};
use crate::preprocess::Preprocess;
use crate::weights::{Tensor, Weights, WeightsError};

/// A layer in integers.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedLayer {
    /// Its weight; a linear layer's has the shape `[out, in, 1, 1]`.
    pub codes: QuantizedWeights,
    /// What its input is rounded to; `None` keeps it in floats.
    pub activation: Option<ActivationFormat>,
    /// Whether its input can be negative.
    pub signed: bool,
}

/// What a user of a network must know beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Info {
    /// From an image to the network's input.
    pub preprocess: Preprocess,
    /// What each output stands for; empty where unknown.
    pub classes: Vec<String>,
    /// Where the network came from, free text.
    pub source: String,
}

/// A network with its parameters, in floats or with some layers in integers. See [`crate`] for its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The network.
    pub graph: Graph,
    /// All float parameters: those of the graph but the weights of `layers`.
    pub weights: Weights,
    /// The quantized layers, by node name.
    pub layers: BTreeMap<String, QuantizedLayer>,
    /// What goes with it.
    pub info: Info,
}

/// Why a model cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file system.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A file whose content is not a model.
    #[error("`{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ModelError>,
    },
    /// Not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Container(#[from] safetensors::SafeTensorError),
    /// A safetensors file, but not of this format.
    #[error("a safetensors file without `dsconv` metadata: bare weights, not a model")]
    NoHeader,
    /// The header does not read as one.
    #[error("`dsconv` metadata: {0}")]
    Header(#[from] serde_json::Error),
    /// A file of another format or version.
    #[error(
        "format `{format}` version {version}: this reads `{}` version {}",
        crate::file::FORMAT,
        crate::file::VERSION
    )]
    Version {
        /// The format it names.
        format: String,
        /// The version it names.
        version: u64,
    },
    /// Tensors are missing, unexpected or of a wrong shape.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tensor of a type that it cannot have.
    #[error("tensor `{tensor}`: expected {expected}, found {found}")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// The types it may have.
        expected: &'static str,
        /// The type it has.
        found: String,
    },
    /// A NaN or an infinity.
    #[error("tensor `{tensor}`: element {index} is NaN or infinite")]
    NonFinite {
        /// The tensor.
        tensor: String,
        /// Position of the first one, row-major.
        index: usize,
    },
    /// A layer's numbers were refused, when quantizing or when reading codes.
    #[error("layer `{layer}`: {source}")]
    Numbers {
        /// The layer.
        layer: String,
        /// What is wrong with them.
        source: blockfloat::Error,
    },
    /// A quantized layer that does not fit the graph.
    #[error("layer `{layer}`: {why}")]
    Layer {
        /// The layer.
        layer: String,
        /// What does not fit.
        why: String,
    },
    /// The policy does not fit the graph.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Only a model in floats can be quantized.
    #[error("`{graph}` is quantized already: quantize the float model it came from")]
    AlreadyQuantized {
        /// The graph.
        graph: String,
    },
}

impl Model {
    /// A network in floats.
    ///
    /// # Errors
    /// [`WeightsError`] where the weights are not exactly those that the graph needs.
    pub fn float(graph: Graph, weights: Weights, info: Info) -> Result<Self, WeightsError> {
        weights.check(&graph)?;
        Ok(Self { graph, weights, layers: BTreeMap::new(), info })
    }

    /// Quantizes a float model: folds batch normalisation ([`pass::fold_batch_norm`]), plans by the policy
    /// ([`Policy::resolve`]) and rounds the planned layers. Layers that are skipped, biases and affine parameters stay in
    /// [`Model::weights`].
    ///
    /// # Errors
    /// [`ModelError::Policy`]; [`ModelError::Numbers`] or [`ModelError::NonFinite`] naming the layer or tensor with a NaN or
    /// infinity, also one that a negative variance makes; [`ModelError::AlreadyQuantized`]; [`ModelError::Weights`].
    pub fn quantize(&self, policy: &Policy) -> Result<Self, ModelError> {
        if self.is_quantized() {
            return Err(ModelError::AlreadyQuantized { graph: self.graph.name().into() });
        }
        self.weights.check(&self.graph)?;
        let (graph, mut weights) = pass::fold_batch_norm(&self.graph, &self.weights);
        let plan = policy.resolve(&graph)?;
        let mut layers = BTreeMap::new();
        for node in graph.nodes() {
            let Some(plan) = plan.0.get(&node.name) else { continue };
            let shape = codes_shape(node).expect("only layers are planned");
            let weight = weights.0.remove(&weight_name(&node.name)).expect("weights were checked");
            let codes = QuantizedWeights::quantize(weight.data(), shape, plan.weight)
                .map_err(|source| ModelError::Numbers { layer: node.name.clone(), source })?;
            let layer = QuantizedLayer { codes, activation: plan.activation, signed: plan.signed };
            layers.insert(node.name.clone(), layer);
        }
        check_finite(&weights)?;
        Ok(Self { graph, weights, layers, info: self.info.clone() })
    }

    /// Whether any layer is in integers.
    pub fn is_quantized(&self) -> bool {
        !self.layers.is_empty()
    }

    /// All parameters as floats, under the names the graph gives them.
    pub fn dequantized(&self) -> Weights {
        let mut weights = self.weights.clone();
        for (name, layer) in &self.layers {
            let shape = layer.codes.shape();
            let is_linear = self.graph.find(name).is_some_and(|id| matches!(self.graph.node(id).op, Op::Linear { .. }));
            let shape = if is_linear { shape[..2].to_vec() } else { shape.to_vec() };
            weights.insert(weight_name(name), Tensor::new(shape, layer.codes.dequantize()));
        }
        weights
    }

    /// Rounds all values to what [`Model::save`] with these options stores, so that what is evaluated is what is stored.
    pub fn round(&mut self, options: &SaveOptions) {
        for tensor in self.weights.0.values_mut() {
            options.floats.round(tensor.data_mut());
        }
        for layer in self.layers.values_mut() {
            let codes = &layer.codes;
            let mut scales = codes.scales().to_vec();
            options.scales.round(&mut scales);
            layer.codes = QuantizedWeights::from_parts(
                codes.shape(),
                codes.bits(),
                codes.block(),
                codes.codes().to_vec(),
                scales,
            )
            .unwrap_or_else(|error| panic!("rounding scales keeps them valid: {error}"));
        }
    }

    /// [`Model::round`] of the block scales to F16; other floats stay.
    pub fn round_scales_f16(&mut self) {
        self.round(&SaveOptions { floats: Float::F32, scales: Float::F16 });
    }

    /// The narrowest type that stores every block scale as it is: F16 after [`Model::round_scales_f16`], or after loading
    /// a file with F16 scales, unless a layer needs F32. F16 for a model without quantized layers.
    pub fn scale_precision(&self) -> Float {
        let exact = |scales: &[f32]| {
            let mut rounded = scales.to_vec();
            Float::F16.round(&mut rounded);
            Float::F16.for_values(scales) == Float::F16 && rounded == scales
        };
        if self.layers.values().all(|layer| exact(layer.codes.scales())) { Float::F16 } else { Float::F32 }
    }

    /// Bytes of all tensors as [`Model::save`] with these options stores them, without the file's header.
    pub fn storage_bytes(&self, options: &SaveOptions) -> u64 {
        let floats = |values: &[f32], asked: Float| (values.len() * asked.for_values(values).bytes()) as u64;
        let weights = self.weights.0.values().map(|tensor| floats(tensor.data(), options.floats));
        let layers = self.layers.values().map(|QuantizedLayer { codes, .. }| {
            packed_len(codes.codes().len(), codes.bits()) as u64 + floats(codes.scales(), options.scales)
        });
        weights.chain(layers).sum()
    }

    /// Bytes of the graph's parameters as F32: what [`Model::storage_bytes`] is compared with.
    pub fn fp32_bytes(&self) -> u64 {
        self.graph.params().iter().map(|p| 4 * p.shape.iter().product::<usize>() as u64).sum()
    }

    /// Checks that weights and layers fit the graph and that all floats are finite: what [`Model::load`] promises and
    /// [`Model::save`] asks for.
    ///
    /// # Errors
    /// [`ModelError`] with the place.
    pub fn check(&self) -> Result<(), ModelError> {
        let non_negative = pass::non_negative(&self.graph);
        let mut coded = BTreeSet::new();
        for (name, layer) in &self.layers {
            let node = find_layer(&self.graph, name)?;
            let refuse = |why: String| Err(ModelError::Layer { layer: name.clone(), why });
            let (want, got) = (codes_shape(node), layer.codes.shape());
            if want != Some(got) {
                return refuse(format!(
                    "its codes have the shape {got:?}, the graph needs {:?}",
                    want.unwrap_or_default()
                ));
            }
            if layer.activation.is_some() && !layer.signed && !non_negative[node.inputs[0].index()] {
                return refuse("it is said to have no negative inputs, but nothing before it keeps them out".into());
            }
            check_blocks(node, layer.codes.bits(), layer.codes.block(), layer.activation)?;
            if let Some(index) = layer.codes.scales().iter().position(|s| !s.is_finite()) {
                let source = blockfloat::Error::NonFiniteScale { index };
                return Err(ModelError::Numbers { layer: name.clone(), source });
            }
            coded.insert(weight_name(name));
        }
        self.weights.check_except(&self.graph, |name| coded.contains(name))?;
        check_finite(&self.weights)
    }
}

/// The convolution or linear layer of this name.
pub(crate) fn find_layer<'a>(graph: &'a Graph, name: &str) -> Result<&'a Node, ModelError> {
    let node = graph.find(name).map(|id| graph.node(id)).filter(|node| codes_shape(node).is_some());
    node.ok_or_else(|| ModelError::Layer {
        layer: name.into(),
        why: "the graph has no such convolution or linear layer".into(),
    })
}

/// Shape of a layer's codes: the weight's, a linear layer being a 1x1 convolution. `None` for other nodes.
pub(crate) fn codes_shape(node: &Node) -> Option<[usize; 4]> {
    match &node.op {
        Op::Conv2d(conv) => Some(conv.weight_shape()),
        Op::Linear { in_features, out_features, .. } => Some([*out_features, *in_features, 1, 1]),
        _ => None,
    }
}

/// Name of the parameter that a layer's codes replace.
pub(crate) fn weight_name(layer: &str) -> String {
    format!("{layer}.weight")
}

pub(crate) fn check_finite(weights: &Weights) -> Result<(), ModelError> {
    for (name, tensor) in &weights.0 {
        if let Some(index) = tensor.data().iter().position(|v| !v.is_finite()) {
            return Err(ModelError::NonFinite { tensor: name.clone(), index });
        }
    }
    Ok(())
}
