mod layer;
mod ops;

use std::collections::BTreeMap;
use std::sync::Arc;

use blockfloat::QuantizedWeights;
use burn::module::{Content, Module, ModuleDisplay, Param, RunningState};
use burn::nn::{BatchNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor, TensorData};
use graph::{Folded, Graph, Node, NodeId, Op, Role, Weights};
use model::policy::Plan;
use model::{Info, Model, ModelError, QuantizedLayer};

use crate::conv2d::{DsConv2d, Parts};
use crate::convolve::Geometry;
use crate::quantization::{QuantizationConfig, ScaleUpdate};
use crate::shadow::host;
use layer::{Affine, FloatConv, Layer, PRelu};

/// A network is a burn module that computes what a [`Graph`] says, in floats or quantized, with autodiff where its device has
/// it.
///
/// Every value between nodes is `[N, C, H, W]`; the output is `[N, classes]`.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct Network {
    layers: Vec<Layer>,
    /// The index into `layers` for every node that has parameters or state.
    #[module(skip)]
    slots: Vec<Option<usize>>,
    #[module(skip)]
    graph: Arc<Graph>,
}

impl ModuleDisplay for Network {
    fn custom_content(&self, content: Content) -> Option<Content> {
        self.named_layers().fold(content, |content, (name, layer)| content.add(name, layer)).optional()
    }
}

impl Network {
    /// Makes a network that computes a model as it is: in floats, or with exactly its codes and scales.
    pub fn new(model: &Model, device: &Device) -> Self {
        Self::quantized(model, ScaleUpdate::Fixed, device)
    }

    /// Makes a network of a quantized model that is to be trained on: the values of its codes become its shadow weights, and its
    /// scales change as `scale_update` says.
    pub fn quantized(model: &Model, scale_update: ScaleUpdate, device: &Device) -> Self {
        Self::build(model.graph(), model.weights(), device, |node, geometry| {
            let layer = model.layers().get(node)?;
            let quantization = QuantizationConfig {
                weight: blockfloat::WeightFormat {
                    bits: layer.codes.bits(),
                    block: layer.codes.block(),
                    rule: blockfloat::ScaleRule::default(),
                    taps: layer.codes.tap_scales(),
                },
                activation: layer.activation,
                signed: layer.signed,
                scale_update,
            };
            let bias = bias(model.weights(), node, device);
            let parts = Parts { codes: &layer.codes, weight: None, bias, geometry, quantization };
            Some(DsConv2d::new(parts, device))
        })
    }

    /// Makes a float network to be trained: on an autodiff device its batch normalisations use and update batch statistics.
    /// Its dropouts drop in [`Network::forward_with_dropout`].
    ///
    /// # Panics
    /// If `weights` do not fit `graph` (see [`Weights::check`]).
    pub fn trainable(graph: &Graph, weights: &Weights, device: &Device) -> Self {
        Self::build(graph, weights, device, |_, _| None)
    }

    /// Makes a quantized student of a folded float network. Its shadow weights are copies of the teacher's, which stays
    /// untouched.
    ///
    /// # Errors
    /// [`ModelError::Numbers`] for a NaN or infinite weight, with the layer's name.
    pub fn student(
        teacher: &Folded,
        plan: &Plan,
        scale_update: ScaleUpdate,
        device: &Device,
    ) -> Result<Self, ModelError> {
        Self::student_with_batch_norm(teacher.graph(), teacher.weights(), plan, scale_update, device)
    }

    /// Makes a quantized student of a network that keeps its batch normalisation, to find out what statistics it has behind
    /// quantized layers. The plan is that of the folded graph.
    ///
    /// # Errors
    /// [`ModelError::Numbers`] for a NaN or infinite weight, with the layer's name.
    ///
    /// # Panics
    /// If `weights` do not fit `graph` (see [`Weights::check`]).
    pub fn student_with_batch_norm(
        graph: &Graph,
        weights: &Weights,
        plan: &Plan,
        scale_update: ScaleUpdate,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut codes = BTreeMap::new();
        for (node, layer) in plan.layers() {
            let weight = weights.of(node).weight();
            let found = QuantizedWeights::quantize(weight.data(), shape4(weight.shape()), layer.weight)
                .map_err(|error| ModelError::Numbers { layer: node.clone(), error })?;
            codes.insert(node.as_str(), found);
        }
        Ok(Self::build(graph, weights, device, |node, geometry| {
            let (layer, codes) = (plan.get(node)?, codes.get(node)?);
            let quantization = QuantizationConfig {
                weight: layer.weight,
                activation: layer.activation,
                signed: layer.signed,
                scale_update,
            };
            let weight = weights.of(node).weight();
            let bias = bias(weights, node, device);
            let parts = Parts { codes, weight: Some(weight.data()), bias, geometry, quantization };
            Some(DsConv2d::new(parts, device))
        }))
    }

    fn build(
        graph: &Graph,
        weights: &Weights,
        device: &Device,
        quantized: impl Fn(&str, Geometry) -> Option<DsConv2d>,
    ) -> Self {
        let mut layers = Vec::new();
        let mut slots = vec![None; graph.nodes().len()];
        for (slot, node) in slots.iter_mut().zip(graph.nodes()) {
            let layer = match &node.op {
                Op::Conv2d(_) | Op::Linear { .. } => quantized(&node.name, geometry(&node.op)).map(Layer::Ds),
                _ => None,
            };
            if let Some(layer) = layer.or_else(|| float_layer(node, weights, device)) {
                *slot = Some(layers.len());
                layers.push(layer);
            }
        }
        Self { layers, slots, graph: Arc::new(graph.clone()) }
    }

    /// Returns the graph that it computes.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Computes the logits `[N, classes]` of images `[N, C, H, W]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        self.forward_taps(x, &[]).0
    }

    /// Computes the logits `[N, classes]` of images `[N, C, H, W]` in training: each dropout of the graph zeroes values with its
    /// probability and scales the others, which all other passes leave as they are.
    ///
    /// What is dropped depends on `seed`, the node and the shape alone, and on no generator that others draw from.
    pub fn forward_with_dropout(&self, x: Tensor<4>, seed: u64) -> Tensor<2> {
        self.run(x, &[], Some(seed), &|| false).expect("nothing stops it").0
    }

    /// Computes the logits, and gives the outputs of the `taps` in their order beside them, each `[N, C, H, W]`.
    pub fn forward_taps(&self, x: Tensor<4>, taps: &[NodeId]) -> (Tensor<2>, Vec<Tensor<4>>) {
        self.forward_taps_unless(x, taps, &|| false).expect("nothing stops it")
    }

    /// Computes what [`forward_taps`](Self::forward_taps) does, unless `stop`, which is asked before every node, says yes: then the
    /// result is `None`.
    pub fn forward_taps_unless(
        &self,
        x: Tensor<4>,
        taps: &[NodeId],
        stop: &dyn Fn() -> bool,
    ) -> Option<(Tensor<2>, Vec<Tensor<4>>)> {
        self.run(x, taps, None, stop)
    }

    /// Computes logits and taps; dropouts drop where there is a seed.
    fn run(
        &self,
        x: Tensor<4>,
        taps: &[NodeId],
        seed: Option<u64>,
        stop: &dyn Fn() -> bool,
    ) -> Option<(Tensor<2>, Vec<Tensor<4>>)> {
        let nodes = self.graph.nodes();
        let mut uses = self.graph.uses();
        uses[nodes.len() - 1] += 1;
        for tap in taps {
            uses[tap.index()] += 1;
        }
        let mut values: Vec<Option<Tensor<4>>> = vec![None; nodes.len()];
        values[0] = Some(x);
        for (i, node) in nodes.iter().enumerate().skip(1) {
            // Takes a value out at its last use, so that it can be freed or changed in place.
            let mut take = |id: NodeId| {
                let at = id.index();
                uses[at] -= 1;
                if uses[at] == 0 { values[at].take() } else { values[at].clone() }.expect("nodes are in order")
            };
            if stop() {
                return None;
            }
            let inputs: Vec<_> = node.inputs.iter().map(|&id| take(id)).collect();
            let y = self.forward_node(i, inputs);
            values[i] = Some(match (&node.op, seed) {
                (Op::Dropout { p }, Some(seed)) => ops::dropout(y, *p, seed, i),
                _ => y,
            });
        }
        let tapped = taps.iter().map(|tap| values[tap.index()].clone().expect("taps are kept")).collect();
        let output = values.pop().flatten().expect("the last node is the output");
        Some((output.flatten(1, 3), tapped))
    }

    /// Computes the output of the graph's node number `index` from its inputs, each `[N, C, H, W]`.
    ///
    /// # Panics
    /// If there is no such node, if it is the input, or if it takes another number of inputs.
    pub fn forward_node(&self, index: usize, inputs: Vec<Tensor<4>>) -> Tensor<4> {
        match self.slots[index].map(|slot| &self.layers[slot]) {
            Some(layer) => {
                let [x] = <[_; 1]>::try_from(inputs).expect("a layer has one input");
                layer.forward(x)
            }
            None => ops::forward(&self.graph.nodes()[index].op, inputs),
        }
    }

    /// A copy whose batch normalisations keep running statistics of their own, where those of a clone are the network's too.
    ///
    /// burn keeps what a pass finds by the thread that it ran on, so what passes at the same time make of shared statistics
    /// depends on which thread took which.
    pub fn with_own_statistics(&self) -> Self {
        let mut copy = self.clone();
        for layer in &mut copy.layers {
            if let Layer::BatchNorm(norm) = layer {
                // `valid` takes up all that was found, and makes a state that is not shared.
                norm.running_mean = norm.running_mean.valid();
                norm.running_var = norm.running_var.valid();
            }
        }
        copy
    }

    /// Sets the running statistics of its batch normalisations to the means of those of `copies`, added in their order.
    ///
    /// # Panics
    /// If there is no copy, or one is of another graph.
    pub fn average_statistics(&self, copies: &[Self]) {
        for (index, layer) in self.layers.iter().enumerate() {
            for (which, own) in layer.statistics().into_iter().enumerate() {
                let found = copies.iter().map(|copy| copy.layers[index].statistics()[which].valid().value());
                let sum = found.reduce(|sum, value| sum + value).expect("there is a copy");
                own.update(sum.div_scalar(copies.len() as f64));
                // Takes the update up now, so that no pass on another thread does.
                own.value_sync();
            }
        }
    }

    /// Returns the quantized layer of the graph's node number `index`, if it is one.
    pub fn quantized_layer(&self, index: usize) -> Option<&DsConv2d> {
        match &self.layers[self.slots[index]?] {
            Layer::Ds(conv) => Some(conv),
            _ => None,
        }
    }

    /// Makes a quantized layer that can stand for the float convolution or linear layer of the graph's node number `index`: with
    /// these codes for its weights, and its bias and geometry. `None` if that node is no such layer.
    ///
    /// # Panics
    /// If the codes have another shape than the layer's weight.
    pub fn quantized_twin(
        &self,
        index: usize,
        codes: &QuantizedWeights,
        quantization: QuantizationConfig,
    ) -> Option<DsConv2d> {
        let Layer::Float(conv) = &self.layers[self.slots[index]?] else { return None };
        assert_eq!(codes.shape(), conv.weight.dims(), "codes of node {index}");
        let bias = conv.bias.as_ref().map(|bias| bias.val());
        let parts = Parts { codes, weight: None, bias, geometry: conv.geometry.clone(), quantization };
        Some(DsConv2d::new(parts, &conv.weight.device()))
    }

    /// Gives the quantized layer of the graph's node number `index` other codes, whose values become its shadow weight, and
    /// another bias `[Co]` if it has one.
    ///
    /// # Panics
    /// If that node is no quantized layer, or a shape differs.
    pub fn requantize(&mut self, index: usize, codes: &QuantizedWeights, offset: Option<Vec<f32>>) {
        let slot = self.slots[index].expect("a node with a layer");
        let Layer::Ds(old) = &self.layers[slot] else { panic!("node {index} is not quantized") };
        assert_eq!(codes.shape(), old.latent.dims(), "codes of node {index}");
        let device = old.latent.device();
        let bias = old.bias.as_ref().map(|bias| match offset {
            Some(offset) => Tensor::from_data(TensorData::new(offset, bias.dims()), &device),
            None => bias.val(),
        });
        let (geometry, quantization) = (old.geometry().clone(), old.quantization());
        let parts = Parts { codes, weight: None, bias, geometry, quantization };
        self.layers[slot] = Layer::Ds(DsConv2d::new(parts, &device));
    }

    /// Returns the float parameters under the graph's names, running statistics included. Those of a quantized layer are the
    /// values of its codes, `alpha * q`.
    pub fn to_weights(&self) -> Weights {
        let mut weights = Weights::default();
        for (name, layer) in self.named_layers() {
            if let Layer::Ds(conv) = layer {
                let value = host(conv.weight());
                let shape = graph_weight_shape(&self.graph, name);
                weights.insert(Role::Weight.name(name), graph::Tensor::new(shape, value));
                if let Some(bias) = &conv.bias {
                    insert(&mut weights, name, Role::Bias, bias.val());
                }
            } else {
                self.insert_floats(&mut weights, name, layer);
            }
        }
        weights
    }

    /// Makes a model of the student: codes and scales of every quantized layer, everything else in floats.
    ///
    /// # Errors
    /// [`ModelError::Numbers`] with the layer's name where training made a weight or a scale NaN or infinite, and other
    /// [`ModelError`]s where parameters do not fit the graph, as after a record of another network was loaded.
    pub fn to_model(&self, info: Info) -> Result<Model, ModelError> {
        let mut weights = Weights::default();
        let mut layers = BTreeMap::new();
        for (name, layer) in self.named_layers() {
            if let Layer::Ds(conv) = layer {
                let QuantizationConfig { activation, signed, .. } = conv.quantization();
                let codes = conv.codes().map_err(|error| ModelError::Numbers { layer: name.into(), error })?;
                layers.insert(name.to_owned(), QuantizedLayer { codes, activation, signed });
                if let Some(bias) = &conv.bias {
                    insert(&mut weights, name, Role::Bias, bias.val());
                }
            } else {
                self.insert_floats(&mut weights, name, layer);
            }
        }
        Model::new((*self.graph).clone(), weights, layers, info)
    }

    fn named_layers(&self) -> impl Iterator<Item = (&str, &Layer)> {
        let nodes = self.graph.nodes().iter().zip(&self.slots);
        nodes.filter_map(|(node, slot)| Some((node.name.as_str(), &self.layers[(*slot)?])))
    }

    fn insert_floats(&self, weights: &mut Weights, name: &str, layer: &Layer) {
        match layer {
            Layer::Float(conv) => {
                let shape = graph_weight_shape(&self.graph, name);
                weights.insert(Role::Weight.name(name), graph::Tensor::new(shape, host(conv.weight.val())));
                if let Some(bias) = &conv.bias {
                    insert(weights, name, Role::Bias, bias.val());
                }
            }
            Layer::BatchNorm(norm) => {
                insert(weights, name, Role::Gamma, norm.gamma.val());
                insert(weights, name, Role::Bias, norm.beta.val());
                insert(weights, name, Role::Mean, norm.running_mean.value_sync());
                insert(weights, name, Role::Variance, norm.running_var.value_sync());
            }
            Layer::Affine(affine) => {
                insert(weights, name, Role::Gamma, affine.weight.val());
                insert(weights, name, Role::Bias, affine.bias.val());
            }
            Layer::PRelu(layer) => insert(weights, name, Role::Slope, layer.weight.val()),
            Layer::Ds(_) => {}
        }
    }
}

/// Makes the layer of a node in floats; `None` for a node without parameters or state.
fn float_layer(node: &Node, weights: &Weights, device: &Device) -> Option<Layer> {
    let name = &node.name;
    let vector = |role: Role| {
        let data = weights[role.name(name).as_str()].data().to_vec();
        let length = data.len();
        Tensor::<1>::from_data(TensorData::new(data, [length]), device)
    };
    Some(match &node.op {
        Op::Conv2d(_) | Op::Linear { .. } => {
            let weight = weights.of(name).weight().data().to_vec();
            float_conv(node, weight, bias(weights, name, device), device)
        }
        Op::BatchNorm2d { channels, eps } => {
            // burn wants one above 0; this is 0 as a 32-bit float.
            let eps = eps.max(f64::MIN_POSITIVE);
            let mut norm = BatchNormConfig::new(*channels).with_epsilon(eps).init(device);
            norm.gamma = Param::from_tensor(vector(Role::Gamma));
            norm.beta = Param::from_tensor(vector(Role::Bias));
            norm.running_mean = RunningState::new(vector(Role::Mean).inner());
            norm.running_var = RunningState::new(vector(Role::Variance).inner());
            Layer::BatchNorm(norm)
        }
        Op::Affine { .. } => Layer::Affine(Affine {
            weight: Param::from_tensor(vector(Role::Gamma)),
            bias: Param::from_tensor(vector(Role::Bias)),
        }),
        Op::PRelu { .. } => Layer::PRelu(PRelu { weight: Param::from_tensor(vector(Role::Slope)) }),
        _ => return None,
    })
}

/// Makes a convolution or linear layer in floats.
fn float_conv(node: &Node, weight: Vec<f32>, bias: Option<Tensor<1>>, device: &Device) -> Layer {
    let shape = node.weight_shape().expect("a convolution or linear layer");
    Layer::Float(FloatConv {
        weight: Param::from_tensor(Tensor::from_data(TensorData::new(weight, shape), device)),
        bias: bias.map(Param::from_tensor),
        geometry: geometry(&node.op),
    })
}

/// One node of a network, to be run alone, by those who go through a network node by node without holding all of its
/// layers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Step {
    op: Op,
    layer: Option<Layer>,
}

impl Step {
    /// Makes the step of a node in floats. `weights` are those of its graph.
    ///
    /// # Panics
    /// If `weights` lack a parameter of the node.
    pub fn new(node: &Node, weights: &Weights, device: &Device) -> Self {
        Self { op: node.op.clone(), layer: float_layer(node, weights, device) }
    }

    /// Makes the step of a convolution or linear layer with this weight `[Co, Ci/G, Kh, Kw]` and bias `[Co]`.
    ///
    /// # Panics
    /// If the node is neither, or the weight has another length.
    pub fn with_weight(node: &Node, weight: Vec<f32>, bias: Option<&[f32]>, device: &Device) -> Self {
        let bias = bias.map(|b| Tensor::from_data(TensorData::new(b.to_vec(), [b.len()]), device));
        Self { op: node.op.clone(), layer: Some(float_conv(node, weight, bias, device)) }
    }

    /// Computes the node's output from its inputs, each `[N, C, H, W]`.
    ///
    /// # Panics
    /// If the node is a graph's input, or takes another number of inputs.
    pub fn forward(&self, inputs: Vec<Tensor<4>>) -> Tensor<4> {
        match &self.layer {
            Some(layer) => {
                let [x] = <[_; 1]>::try_from(inputs).expect("a layer has one input");
                layer.forward(x)
            }
            None => ops::forward(&self.op, inputs),
        }
    }
}

fn geometry(op: &Op) -> Geometry {
    match op {
        Op::Conv2d(c) => {
            let [y, x] = c.padding;
            let padding = PaddingConfig2d::Explicit(y, x, y, x);
            Geometry { stride: c.stride, padding, dilation: c.dilation, groups: c.groups }
        }
        _ => Geometry::default(),
    }
}

/// Turns a weight's shape into a convolution's: `[out, in]` becomes `[out, in, 1, 1]`.
fn shape4(shape: &[usize]) -> [usize; 4] {
    match *shape {
        [out, input] => [out, input, 1, 1],
        [out, input, kh, kw] => [out, input, kh, kw],
        _ => panic!("a weight has 2 or 4 dimensions, got {shape:?}"),
    }
}

fn graph_weight_shape(graph: &Graph, node: &str) -> Vec<usize> {
    let id = graph.find(node).expect("a layer's node");
    match &graph.node(id).op {
        Op::Conv2d(c) => c.weight_shape().to_vec(),
        Op::Linear { in_features, out_features, .. } => vec![*out_features, *in_features],
        op => panic!("{op:?} has no weight"),
    }
}

fn bias(weights: &Weights, node: &str, device: &Device) -> Option<Tensor<1>> {
    let bias = weights.of(node).bias()?;
    Some(Tensor::from_data(TensorData::new(bias.data().to_vec(), [bias.data().len()]), device))
}

fn insert(weights: &mut Weights, node: &str, role: Role, value: Tensor<1>) {
    let data = host(value);
    weights.insert(role.name(node), graph::Tensor::new([data.len()], data));
}
