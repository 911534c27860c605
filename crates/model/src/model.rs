use std::collections::{BTreeMap, BTreeSet};

use blockfloat::{ActivationFormat, QuantizedWeights, ScaleFormat, TwoLevel, packed_len};
use graph::{Folded, Graph, Node, Op, Preprocess, Role, Tensor, Weights, WeightsError};
use serde::{Deserialize, Serialize};

use crate::policy::{Plan, Policy, PolicyError, check_blocks};
use crate::precision::{Float, SaveOptions};

/// A quantized layer: its weight as integer codes with scales, and how its input is rounded.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedLayer {
    /// The weight; that of a linear layer has the shape `[out, in, 1, 1]`.
    pub codes: QuantizedWeights,
    /// The format that the input is rounded to; `None` keeps the input in floats.
    pub activation: Option<ActivationFormat>,
    /// Whether the input can be negative.
    pub signed: bool,
}

/// What a user of a network must know beside its graph and parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Info {
    /// How an image becomes the network's input.
    pub preprocess: Preprocess,
    /// The name of the class that each output stands for; empty if unknown.
    pub classes: Vec<String>,
    /// Where the network came from, as free text.
    pub source: String,
}

/// A network with its parameters, in floats or with some layers quantized. Parameters and layers always fit the graph;
/// [`Model::check`] tells whether all values are finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub(crate) graph: Graph,
    /// All parameters of the graph except the weights of `layers`.
    pub(crate) weights: Weights,
    pub(crate) layers: BTreeMap<String, QuantizedLayer>,
    pub(crate) info: Info,
}

/// Why a model cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A `.dsc` file is not valid, or cannot hold the model.
    #[error(transparent)]
    Dsc(#[from] crate::dsc::DscError),
    /// Tensors are missing, unexpected or of a wrong shape.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A float parameter has a NaN or an infinity.
    #[error("tensor `{tensor}`: element {index} is NaN or infinite")]
    NonFinite {
        /// The parameter's name.
        tensor: String,
        /// The position of the first such element, row-major.
        index: usize,
    },
    /// A layer's weight cannot be quantized, or its codes or scales are not valid.
    #[error("layer `{layer}`: {error}")]
    Numbers {
        /// The name of the layer's node.
        layer: String,
        /// What is wrong with the numbers.
        error: blockfloat::Error,
    },
    /// A quantized layer does not fit the graph.
    #[error("layer `{layer}`: {why}")]
    Layer {
        /// The name of the layer's node.
        layer: String,
        /// What does not fit, in words.
        why: String,
    },
    /// The policy does not fit the graph.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The model is quantized already; only one in floats can be quantized.
    #[error("`{graph}` is quantized already: quantize the float model it came from")]
    AlreadyQuantized {
        /// The name of the graph.
        graph: String,
    },
}

impl Model {
    /// Makes a model in floats.
    ///
    /// # Errors
    /// [`WeightsError`] if the weights are not exactly those that the graph needs.
    pub fn float(graph: Graph, weights: Weights, info: Info) -> Result<Self, WeightsError> {
        weights.check(&graph)?;
        Ok(Self { graph, weights, layers: BTreeMap::new(), info })
    }

    /// Makes a model with quantized layers, by node name; `weights` are all other parameters of the graph.
    ///
    /// # Errors
    /// [`ModelError`] if weights or layers do not fit the graph.
    pub fn new(
        graph: Graph,
        weights: Weights,
        layers: BTreeMap<String, QuantizedLayer>,
        info: Info,
    ) -> Result<Self, ModelError> {
        let model = Self { graph, weights, layers, info };
        model.check_fit()?;
        Ok(model)
    }

    /// Returns the network's graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Returns all float parameters: those of the graph except the weights of the quantized layers.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Returns the values of a float parameter, row-major, to change them; `None` if there is no parameter of this name.
    pub fn values_mut(&mut self, name: &str) -> Option<&mut [f32]> {
        self.weights.get_mut(name).map(Tensor::data_mut)
    }

    /// Returns the quantized layers, by node name.
    pub fn layers(&self) -> &BTreeMap<String, QuantizedLayer> {
        &self.layers
    }

    /// Changes the quantized layers; `change` gets the name and the layer of each.
    ///
    /// # Errors
    /// [`ModelError`] if a changed layer does not fit the graph.
    pub fn map_layers(mut self, mut change: impl FnMut(&str, &mut QuantizedLayer)) -> Result<Self, ModelError> {
        self.layers.iter_mut().for_each(|(name, layer)| change(name, layer));
        self.check_fit()?;
        Ok(self)
    }

    /// Returns the preprocessing, the names of the classes and where the network came from.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Returns the preprocessing, the names of the classes and where the network came from, to change them.
    pub fn info_mut(&mut self) -> &mut Info {
        &mut self.info
    }

    /// Removes a softmax or sigmoid at the end, so that the outputs are logits; see [`Graph::without_head`].
    pub fn without_head(mut self) -> Self {
        if let Some(graph) = self.graph.without_head() {
            self.graph = graph;
        }
        self
    }

    /// Returns the graph, the float parameters, the quantized layers and the [`Info`], without a copy.
    pub fn into_parts(self) -> (Graph, Weights, BTreeMap<String, QuantizedLayer>, Info) {
        (self.graph, self.weights, self.layers, self.info)
    }

    /// Returns how images become the network's input; sizes that [`Info::preprocess`] leaves open follow from the input's
    /// shape.
    pub fn preprocess(&self) -> Preprocess {
        self.info.preprocess.fitted(self.graph.input())
    }

    /// Quantizes a float model: folds batch normalisation ([`Model::fold`]), plans by the policy ([`Policy::resolve`]) and
    /// rounds the weights of the planned layers ([`Model::quantize_folded`]). Layers that are skipped, biases and affine parameters
    /// stay in [`Model::weights`].
    ///
    /// # Errors
    /// As [`Model::fold`] and [`Model::quantize_folded`]; [`ModelError::Policy`].
    pub fn quantize(&self, policy: &Policy) -> Result<Self, ModelError> {
        let folded = self.clone().fold()?;
        let plan = policy.resolve(folded.graph())?;
        Self::quantize_folded(&folded, &plan, self.info.clone())
    }

    /// Folds the batch normalisation of a float model, without a copy of its weights.
    ///
    /// # Errors
    /// [`ModelError::AlreadyQuantized`]; [`ModelError::Weights`] if the weights do not fit the graph.
    pub fn fold(self) -> Result<Folded, ModelError> {
        if self.is_quantized() {
            return Err(ModelError::AlreadyQuantized { graph: self.graph.name().into() });
        }
        Ok(Folded::new(&self.graph, self.weights)?)
    }

    /// Rounds the weights of the planned layers of a folded network to integers.
    ///
    /// # Errors
    /// [`ModelError::Numbers`] or [`ModelError::NonFinite`] with the layer or parameter that has a NaN or an infinity, which
    /// a negative variance also makes; [`ModelError::Layer`] or [`ModelError::Policy`] if the plan is for another graph.
    pub fn quantize_folded(folded: &Folded, plan: &Plan, info: Info) -> Result<Self, ModelError> {
        Ok(Self::quantize_folded_unless(folded, plan, info, &|| false)?.expect("nothing stops it"))
    }

    /// Quantizes as [`quantize_folded`](Self::quantize_folded) does, unless `stop`, which is asked before every filter, says yes: then
    /// the result is `None`.
    ///
    /// # Errors
    /// As [`quantize_folded`](Self::quantize_folded).
    pub fn quantize_folded_unless(
        folded: &Folded,
        plan: &Plan,
        info: Info,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Self>, ModelError> {
        let (graph, mut weights) = ((**folded.graph()).clone(), Weights::default());
        let mut layers = BTreeMap::new();
        for name in plan.layers().keys() {
            find_layer(&graph, name)?;
        }
        for node in graph.nodes() {
            let (Some(plan), Some(shape)) = (plan.get(&node.name), node.weight_shape()) else { continue };
            let (name, weight) = (&node.name, folded.weights().of(&node.name).weight());
            let refused = |error| ModelError::Numbers { layer: name.clone(), error };
            let codes = plan.quantize_unless(weight.data(), shape, stop).map_err(refused)?;
            let Some(codes) = codes else { return Ok(None) };
            let layer = QuantizedLayer { codes, activation: plan.activation, signed: plan.signed };
            layers.insert(name.clone(), layer);
        }
        let coded: BTreeSet<String> = layers.keys().map(|name| Role::Weight.name(name)).collect();
        for (name, tensor) in folded.weights().iter() {
            if !coded.contains(name) {
                weights.insert(name, tensor.clone());
            }
        }
        check_finite(&weights)?;
        Self::new(graph, weights, layers, info).map(Some)
    }

    /// Tells whether any layer is quantized.
    pub fn is_quantized(&self) -> bool {
        !self.layers.is_empty()
    }

    /// Returns the model with two-level scales in every quantized layer, fitted to the layer's present weights
    /// ([`QuantizedWeights::to_two_level`]).
    ///
    /// # Errors
    /// [`ModelError::Policy`] if a layer's activation blocks are too long for the integer sums of two-level scales.
    pub fn to_two_level(&self) -> Result<Self, ModelError> {
        self.two_level_where(|_| true)
    }

    /// Returns the model with two-level scales, as [`Model::to_two_level`] fits them, in the layers where another one has them.
    ///
    /// # Errors
    /// As [`Model::to_two_level`].
    pub fn with_scales_as(&self, other: &Self) -> Result<Self, ModelError> {
        self.two_level_where(|name| other.layers.get(name).is_some_and(|layer| layer.codes.two_level().is_some()))
    }

    fn two_level_where(&self, chosen: impl Fn(&str) -> bool) -> Result<Self, ModelError> {
        let mut model = self.clone();
        for (name, layer) in model.layers.iter_mut().filter(|(name, _)| chosen(name)) {
            let node = find_layer(&self.graph, name)?;
            let codes = &layer.codes;
            check_blocks(node, codes.bits(), codes.block(), ScaleFormat::TwoLevel, layer.activation)?;
            layer.codes = codes.to_two_level();
        }
        Ok(model)
    }

    /// Returns all parameters of the graph in floats; weights of quantized layers are codes times scales.
    pub fn dequantized(&self) -> Weights {
        let mut weights = self.weights.clone();
        for (name, layer) in &self.layers {
            let shape = layer.codes.shape();
            let is_linear = self.graph.find(name).is_some_and(|id| matches!(self.graph.node(id).op, Op::Linear { .. }));
            let shape = if is_linear { shape[..2].to_vec() } else { shape.to_vec() };
            weights.insert(Role::Weight.name(name), Tensor::new(shape, layer.codes.dequantize()));
        }
        weights
    }

    /// Rounds all float parameters and scales as a file written with these options stores them, so that the model that is
    /// evaluated is the one that is stored.
    pub fn round(&mut self, options: &SaveOptions) {
        for tensor in self.weights.tensors_mut() {
            options.floats.round(tensor.data_mut());
        }
        for layer in self.layers.values_mut() {
            let codes = &layer.codes;
            if codes.two_level().is_some() {
                continue;
            }
            let mut scales = codes.scales().to_vec();
            options.scale_precision.round(&mut scales);
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

    /// Rounds the block scales to F16 ([`Model::round`]); other floats stay as they are.
    pub fn round_scales_f16(&mut self) {
        self.round(&SaveOptions { scale_precision: Float::F16, ..SaveOptions::EXACT });
    }

    /// Returns the smallest type that stores every float block scale exactly: F16 after [`Model::round_scales_f16`], or after
    /// loading a file with F16 scales, unless a layer needs F32; also F16 for a model without quantized layers.
    pub fn scale_precision(&self) -> Float {
        if self.layers.values().all(|layer| layer.codes.two_level().is_some() || Float::F16.holds(layer.codes.scales()))
        {
            Float::F16
        } else {
            Float::F32
        }
    }

    /// Returns the bytes of all tensors in a packed safetensors file written with these options, without the file's header.
    pub fn storage_bytes(&self, options: &SaveOptions) -> u64 {
        let floats = |values: &[f32], asked: Float| (values.len() * asked.for_values(values).bytes()) as u64;
        let weights = self.weights.tensors().map(|tensor| floats(tensor.data(), options.floats));
        let layers = self.layers.values().map(|QuantizedLayer { codes, .. }| {
            let scales = match codes.two_level() {
                Some(two_level) => storage_of(two_level),
                None => floats(codes.scales(), options.scale_precision),
            };
            packed_len(codes.codes().len(), codes.bits()) as u64 + scales
        });
        weights.chain(layers).sum()
    }

    /// Returns the bytes of all parameters of the graph in F32, to compare [`Model::storage_bytes`] with.
    pub fn fp32_bytes(&self) -> u64 {
        self.graph.params().iter().map(|p| 4 * p.shape.iter().product::<usize>() as u64).sum()
    }

    /// Checks that weights and layers fit the graph and that all floats are finite. Every model read from a file passes, and
    /// only a model that passes is written.
    ///
    /// # Errors
    /// [`ModelError`] with the layer or parameter at fault.
    pub fn check(&self) -> Result<(), ModelError> {
        self.check_fit()?;
        for (name, layer) in &self.layers {
            if let Some(index) = layer.codes.scales().iter().position(|s| !s.is_finite()) {
                let error = blockfloat::Error::NonFiniteScale { index };
                return Err(ModelError::Numbers { layer: name.clone(), error });
            }
        }
        check_finite(&self.weights)
    }

    /// Checks that weights and layers fit the graph, but not their values.
    fn check_fit(&self) -> Result<(), ModelError> {
        let non_negative = self.graph.non_negative();
        let mut coded = BTreeSet::new();
        for (name, layer) in &self.layers {
            let node = find_layer(&self.graph, name)?;
            let refuse = |why: String| Err(ModelError::Layer { layer: name.clone(), why });
            let (want, got) = (node.weight_shape(), layer.codes.shape());
            if want != Some(got) {
                return refuse(format!(
                    "its codes have the shape {got:?}, the graph needs {:?}",
                    want.unwrap_or_default()
                ));
            }
            if layer.activation.is_some() && !layer.signed && !non_negative[node.inputs[0].index()] {
                return refuse("it is said to have no negative inputs, but nothing before it keeps them out".into());
            }
            let scales = layer.codes.two_level().map_or(ScaleFormat::Float, |_| ScaleFormat::TwoLevel);
            check_blocks(node, layer.codes.bits(), layer.codes.block(), scales, layer.activation)?;
            coded.insert(Role::Weight.name(name));
        }
        Ok(self.weights.check_except(&self.graph, |name| coded.contains(name))?)
    }
}

/// Returns the bytes of two-level scales: 4 for each channel, 1 for each block.
fn storage_of(two_level: &TwoLevel) -> u64 {
    (4 * two_level.channel().len() + two_level.factors().len()) as u64
}

/// Finds the convolution or linear layer of this name.
pub(crate) fn find_layer<'a>(graph: &'a Graph, name: &str) -> Result<&'a Node, ModelError> {
    let node = graph.find(name).map(|id| graph.node(id)).filter(|node| node.weight_shape().is_some());
    node.ok_or_else(|| ModelError::Layer {
        layer: name.into(),
        why: "the graph has no such convolution or linear layer".into(),
    })
}

pub(crate) fn check_finite(weights: &Weights) -> Result<(), ModelError> {
    for (name, tensor) in weights.iter() {
        if let Some(index) = tensor.data().iter().position(|v| !v.is_finite()) {
            return Err(ModelError::NonFinite { tensor: name.into(), index });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn quantizing_leaves_in_floats_what_has_no_codes() {
        let rule = crate::policy::Rule { layers: "depth*".into(), skip: Some(true), ..Default::default() };
        let policy = Policy { rules: vec![rule], ..fixture::policy(4, 4) };
        let model = fixture::float().quantize(&policy).unwrap();
        model.check().unwrap();
        let floats: Vec<&str> = model.weights.iter().map(|(name, _)| name).collect();
        assert_eq!(floats, ["conv1.bias", "depthwise.bias", "depthwise.weight", "fc.bias", "norm.bias", "norm.weight"]);
        let shapes: Vec<_> =
            model.layers.iter().map(|(name, l)| (name.as_str(), l.codes.shape(), l.codes.scale_shape())).collect();
        assert_eq!(
            shapes,
            [
                ("conv1", [10, 3, 3, 3], [10, 1, 3, 3]),
                ("fc", [3, 4, 1, 1], [3, 1, 1, 1]),
                ("grouped", [4, 5, 1, 1], [4, 2, 1, 1]),
            ]
        );
    }

    #[test]
    fn dequantized_weights_fit_the_graph_and_are_near() {
        let model = fixture::float().quantize(&fixture::policy(8, 4)).unwrap();
        let (graph, exact) = fixture::float().fold().unwrap().into_parts();
        let near = model.dequantized();
        near.check(&graph).unwrap();
        for (name, tensor) in exact.iter() {
            let largest = tensor.data().iter().fold(0.0f32, |m, v| m.max(v.abs()));
            // 8 bits: half a step is 1/256 of a block's largest weight.
            let close = tensor.data().iter().zip(near[name].data()).all(|(a, b)| (a - b).abs() <= largest / 250.0);
            assert!(close, "{name}");
        }
    }

    #[test]
    fn quantizing_names_what_it_cannot_do() {
        let with = |tensor: &str, index: usize, value: f32| {
            let mut model = fixture::float();
            model.weights.get_mut(tensor).unwrap().data_mut()[index] = value;
            model.quantize(&fixture::policy(4, 4)).unwrap_err().to_string()
        };
        assert_eq!(with("grouped.weight", 3, f32::NAN), "layer `grouped`: element 3 is NaN or infinite");
        assert_eq!(with("fc.bias", 1, f32::INFINITY), "tensor `fc.bias`: element 1 is NaN or infinite");
        // sqrt(-1) is NaN: filter 1 of 27 weights.
        assert_eq!(with("bn1.running_var", 1, -1.0), "layer `conv1`: element 27 is NaN or infinite");
        assert_eq!(with("norm.running_var", 2, -1.0), "tensor `norm.bias`: element 2 is NaN or infinite");

        let again = fixture::quantized().quantize(&Policy::default()).unwrap_err();
        assert_eq!(again.to_string(), "`tiny` is quantized already: quantize the float model it came from");
        let mut model = fixture::float();
        model.weights.remove("fc.bias");
        assert!(matches!(model.quantize(&Policy::default()), Err(ModelError::Weights(_))));
    }

    #[test]
    fn sizes_are_counted_by_hand() {
        let options = |scale_precision| SaveOptions { floats: Float::F32, scale_precision };
        let model = fixture::float().quantize(&fixture::policy(3, 4)).unwrap();
        // Parameters: conv1 270 + 10, norm 10 + 10, grouped 20, depthwise 36 + 4, fc 12 + 3.
        assert_eq!(model.fp32_bytes(), 4 * 375);
        // Codes of 3 bits: ceil(810 / 8) + ceil(60 / 8) + ceil(108 / 8) + ceil(36 / 8) = 102 + 8 + 14 + 5 = 129.
        // Scales: 90 + 8 + 36 + 3 = 137. Floats: 10 + 20 + 4 + 3 = 37.
        assert_eq!(model.storage_bytes(&options(Float::F32)), 129 + 4 * 137 + 4 * 37);
        assert_eq!(model.storage_bytes(&options(Float::F16)), 129 + 2 * 137 + 4 * 37);
        // The plan knows what its layers take.
        let plan = fixture::policy(3, 4).resolve(fixture::float().fold().unwrap().graph()).unwrap();
        let planned =
            |float| plan.layers().iter().map(|(n, l)| l.bytes(model.layers[n].codes.shape(), float)).sum::<u64>();
        assert_eq!(planned(Float::F16), 129 + 2 * 137);
        assert_eq!(planned(Float::F32), 129 + 4 * 137);
        // Unfolded: normalisations of 4 * 10 each, no bias of conv1.
        let float = fixture::float();
        assert_eq!(float.fp32_bytes(), 4 * (375 - 10 - 20 + 80));
        assert_eq!(float.storage_bytes(&SaveOptions::default()), float.fp32_bytes());
    }

    #[test]
    fn rounding_shows_in_the_scale_precision() {
        let mut model = fixture::quantized();
        assert_eq!(model.scale_precision(), Float::F32);
        model.round_scales_f16();
        assert_eq!(model.scale_precision(), Float::F16);
        let once = model.clone();
        model.round_scales_f16();
        assert_eq!(model, once);
    }

    #[test]
    fn check_refuses_layers_that_do_not_fit() {
        let change = |f: &dyn Fn(&mut Model)| {
            let mut model = fixture::quantized();
            f(&mut model);
            model.check().unwrap_err().to_string()
        };
        let rename = change(&|m| {
            let layer = m.layers.remove("fc").unwrap();
            m.layers.insert("relu".into(), layer);
        });
        assert_eq!(rename, "layer `relu`: the graph has no such convolution or linear layer");
        let swap = change(&|m| {
            let layer = m.layers["fc"].clone();
            m.layers.insert("grouped".into(), layer);
        });
        assert_eq!(swap, "layer `grouped`: its codes have the shape [3, 4, 1, 1], the graph needs [4, 5, 1, 1]");
        let unsigned = change(&|m| m.layers.get_mut("conv1").unwrap().signed = false);
        assert!(unsigned.starts_with("layer `conv1`: it is said to have no negative inputs"), "{unsigned}");
        let both = change(&|m| {
            m.weights = m.dequantized();
        });
        assert!(both.contains("unexpected  conv1.weight"), "{both}");
        let neither = change(&|m| {
            m.layers.remove("fc");
        });
        assert!(neither.contains("missing     fc.weight"), "{neither}");
    }
}
