use std::collections::BTreeMap;
use std::sync::Arc;

use blockfloat::QuantizedWeights;
use burn::module::{Module, Param, RunningState};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, PaddingConfig2d};
use burn::tensor::module::{adaptive_avg_pool2d, avg_pool2d, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions, PadMode};
use burn::tensor::{Device, Tensor, TensorData, activation};
use graph::{Activation, Graph, NodeId, Op, Pool2d, Weights};
use model::policy::Plan;
use model::{Info, Model, ModelError, QuantizedLayer};

use crate::conv2d::{DsConv2d, Parts};
use crate::convolve::{Geometry, convolve};
use crate::quantization::{QuantizationConfig, ScaleUpdate};
use crate::shadow::host;

/// A convolution or a fully connected layer (as a 1x1 convolution) in floats.
#[derive(Module, Debug)]
struct FloatConv {
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    geometry: Geometry,
}

/// `y = x * weight[c] + bias[c]`.
#[derive(Module, Debug)]
struct Affine {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

/// `y = max(x, 0) + weight[c] * min(x, 0)`.
#[derive(Module, Debug)]
struct PRelu {
    weight: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
enum Layer {
    Float(FloatConv),
    Ds(DsConv2d),
    BatchNorm(BatchNorm),
    Affine(Affine),
    PRelu(PRelu),
    Dropout(Dropout),
}

/// A [`Graph`] as a burn module, in floats or quantized, with autodiff where its device has it.
///
/// Every value between nodes is `[N, C, H, W]`; the output is `[N, classes]`.
#[derive(Module, Debug)]
pub struct Network {
    layers: Vec<Layer>,
    /// Index into `layers` of every node that has parameters or state.
    #[module(skip)]
    slots: Vec<Option<usize>>,
    #[module(skip)]
    graph: Arc<Graph>,
}

impl Network {
    /// Runs a model as it is: in floats, or with exactly its codes and scales.
    ///
    /// # Panics
    /// If the model's weights do not fit its graph, which [`Model`]'s constructors rule out.
    pub fn new(model: &Model, device: &Device) -> Self {
        Self::build(&model.graph, &model.weights, device, |node, geometry| {
            let layer = model.layers.get(node)?;
            let quantization = QuantizationConfig {
                weight: blockfloat::WeightFormat {
                    bits: layer.codes.bits(),
                    block: layer.codes.block(),
                    rule: blockfloat::ScaleRule::default(),
                },
                activation: layer.activation,
                signed: layer.signed,
                scale_update: ScaleUpdate::Fixed,
            };
            let bias = bias(&model.weights, node, device);
            let parts = Parts { codes: &layer.codes, weight: None, bias, geometry, quantization };
            Some(DsConv2d::new(parts, device))
        })
    }

    /// A float network to be trained: on an autodiff device its batch normalisations use and update batch statistics,
    /// and its dropouts drop.
    ///
    /// # Panics
    /// If `weights` do not fit `graph` (see [`Weights::check`]).
    pub fn trainable(graph: &Graph, weights: &Weights, device: &Device) -> Self {
        Self::build(graph, weights, device, |_, _| None)
    }

    /// A quantized student of a float model with folded batch normalisation (see [`graph::pass::fold_batch_norm`]):
    /// shadow weights are copies of the teacher's, which stays untouched.
    ///
    /// # Errors
    /// A NaN or infinite weight, with the layer's name.
    pub fn student(
        folded: &Graph,
        weights: &Weights,
        plan: &Plan,
        scale_update: ScaleUpdate,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut codes = BTreeMap::new();
        for (node, layer) in &plan.0 {
            let weight = weights.get(&format!("{node}.weight"));
            let found = QuantizedWeights::quantize(weight.data(), shape4(weight.shape()), layer.weight)
                .map_err(|source| ModelError::Numbers { layer: node.clone(), source })?;
            codes.insert(node.as_str(), found);
        }
        Ok(Self::build(folded, weights, device, |node, geometry| {
            let (layer, codes) = (plan.0.get(node)?, codes.get(node)?);
            let quantization = QuantizationConfig {
                weight: layer.weight,
                activation: layer.activation,
                signed: layer.signed,
                scale_update,
            };
            let weight = weights.get(&format!("{node}.weight"));
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
            let name = &node.name;
            let vector = |suffix: &str| {
                let data = weights.get(&format!("{name}.{suffix}")).data().to_vec();
                let length = data.len();
                Tensor::<1>::from_data(TensorData::new(data, [length]), device)
            };
            let layer = match &node.op {
                Op::Conv2d(_) | Op::Linear { .. } => {
                    let geometry = geometry(&node.op);
                    match quantized(name, geometry.clone()) {
                        Some(layer) => Layer::Ds(layer),
                        None => {
                            let weight = weights.get(&format!("{name}.weight"));
                            let data = TensorData::new(weight.data().to_vec(), shape4(weight.shape()));
                            Layer::Float(FloatConv {
                                weight: Param::from_tensor(Tensor::from_data(data, device)),
                                bias: bias(weights, name, device).map(Param::from_tensor),
                                geometry,
                            })
                        }
                    }
                }
                Op::BatchNorm2d { channels, eps } => {
                    // burn wants one above 0; this is 0 as a 32-bit float.
                    let eps = eps.max(f64::MIN_POSITIVE);
                    let mut norm = BatchNormConfig::new(*channels).with_epsilon(eps).init(device);
                    norm.gamma = Param::from_tensor(vector("weight"));
                    norm.beta = Param::from_tensor(vector("bias"));
                    norm.running_mean = RunningState::new(vector("running_mean").inner());
                    norm.running_var = RunningState::new(vector("running_var").inner());
                    Layer::BatchNorm(norm)
                }
                Op::Affine { .. } => Layer::Affine(Affine {
                    weight: Param::from_tensor(vector("weight")),
                    bias: Param::from_tensor(vector("bias")),
                }),
                Op::PRelu { .. } => Layer::PRelu(PRelu { weight: Param::from_tensor(vector("weight")) }),
                Op::Dropout { p } => Layer::Dropout(DropoutConfig::new(*p).init()),
                _ => continue,
            };
            *slot = Some(layers.len());
            layers.push(layer);
        }
        Self { layers, slots, graph: Arc::new(graph.clone()) }
    }

    /// The graph it runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// `[N, C, H, W]` to logits `[N, classes]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        self.forward_taps(x, &[]).0
    }

    /// Logits, and the outputs of the `taps` in their order, each `[N, C, H, W]`.
    pub fn forward_taps(&self, x: Tensor<4>, taps: &[NodeId]) -> (Tensor<2>, Vec<Tensor<4>>) {
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
            let inputs: Vec<_> = node.inputs.iter().map(|&id| take(id)).collect();
            values[i] = Some(self.forward_node(i, inputs));
        }
        let tapped = taps.iter().map(|tap| values[tap.index()].clone().expect("taps are kept")).collect();
        let output = values.pop().flatten().expect("the last node is the output");
        (output.flatten(1, 3), tapped)
    }

    /// The output of the graph's node number `index` (not of node 0, the input), given its inputs, each `[N, C, H, W]`.
    ///
    /// # Panics
    /// If there is no such node, or it takes another number of inputs.
    pub fn forward_node(&self, index: usize, inputs: Vec<Tensor<4>>) -> Tensor<4> {
        let layer = self.slots[index].map(|slot| &self.layers[slot]);
        run(&self.graph.nodes()[index].op, layer, inputs)
    }

    /// The quantized layer of the graph's node number `index`, if it is one.
    pub fn quantized_layer(&self, index: usize) -> Option<&DsConv2d> {
        match &self.layers[self.slots[index]?] {
            Layer::Ds(conv) => Some(conv),
            _ => None,
        }
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

    /// The weights of a float network under the graph's names, running statistics included.
    ///
    /// Quantized layers give their shadow weights' values, `alpha * q`.
    pub fn to_weights(&self) -> Weights {
        let mut weights = Weights::default();
        for (name, layer) in self.named_layers() {
            if let Layer::Ds(conv) = layer {
                let value = host(conv.weight());
                let shape = graph_weight_shape(&self.graph, name);
                weights.insert(format!("{name}.weight"), graph::Tensor::new(shape, value));
                if let Some(bias) = &conv.bias {
                    insert(&mut weights, name, "bias", bias.val());
                }
            } else {
                self.insert_floats(&mut weights, name, layer);
            }
        }
        weights
    }

    /// The student as a model: codes and scales of every quantized layer, everything else in floats.
    ///
    /// # Errors
    /// [`ModelError::Numbers`] with the layer's name where training made a weight or a scale NaN or infinite.
    pub fn to_model(&self, info: Info) -> Result<Model, ModelError> {
        let mut weights = Weights::default();
        let mut layers = BTreeMap::new();
        for (name, layer) in self.named_layers() {
            if let Layer::Ds(conv) = layer {
                let QuantizationConfig { activation, signed, .. } = conv.quantization();
                let codes = conv.codes().map_err(|source| ModelError::Numbers { layer: name.into(), source })?;
                layers.insert(name.to_owned(), QuantizedLayer { codes, activation, signed });
                if let Some(bias) = &conv.bias {
                    insert(&mut weights, name, "bias", bias.val());
                }
            } else {
                self.insert_floats(&mut weights, name, layer);
            }
        }
        Ok(Model { graph: (*self.graph).clone(), weights, layers, info })
    }

    fn named_layers(&self) -> impl Iterator<Item = (&str, &Layer)> {
        let nodes = self.graph.nodes().iter().zip(&self.slots);
        nodes.filter_map(|(node, slot)| Some((node.name.as_str(), &self.layers[(*slot)?])))
    }

    fn insert_floats(&self, weights: &mut Weights, name: &str, layer: &Layer) {
        match layer {
            Layer::Float(conv) => {
                let shape = graph_weight_shape(&self.graph, name);
                weights.insert(format!("{name}.weight"), graph::Tensor::new(shape, host(conv.weight.val())));
                if let Some(bias) = &conv.bias {
                    insert(weights, name, "bias", bias.val());
                }
            }
            Layer::BatchNorm(norm) => {
                insert(weights, name, "weight", norm.gamma.val());
                insert(weights, name, "bias", norm.beta.val());
                insert(weights, name, "running_mean", norm.running_mean.value_sync());
                insert(weights, name, "running_var", norm.running_var.value_sync());
            }
            Layer::Affine(affine) => {
                insert(weights, name, "weight", affine.weight.val());
                insert(weights, name, "bias", affine.bias.val());
            }
            Layer::PRelu(layer) => insert(weights, name, "weight", layer.weight.val()),
            Layer::Dropout(_) | Layer::Ds(_) => {}
        }
    }
}

fn run(op: &Op, layer: Option<&Layer>, inputs: Vec<Tensor<4>>) -> Tensor<4> {
    let mut inputs = inputs.into_iter();
    let mut x = || inputs.next().expect("arity was checked");
    match layer {
        Some(Layer::Float(conv)) => {
            return convolve(x(), conv.weight.val(), conv.bias.as_ref().map(|b| b.val()), &conv.geometry);
        }
        Some(Layer::Ds(conv)) => return conv.forward(x()),
        Some(Layer::BatchNorm(norm)) => return norm.forward(x()),
        Some(Layer::Affine(affine)) => {
            let channels = affine.weight.dims()[0];
            let shape = [1, channels, 1, 1];
            return x() * affine.weight.val().reshape(shape) + affine.bias.val().reshape(shape);
        }
        Some(Layer::PRelu(layer)) => {
            let (x, channels) = (x(), layer.weight.dims()[0]);
            let negative = x.clone().clamp_max(0.0) * layer.weight.val().reshape([1, channels, 1, 1]);
            return activation::relu(x) + negative;
        }
        Some(Layer::Dropout(dropout)) => return dropout.forward(x()),
        None => {}
    }
    match op {
        Op::Relu => activation::relu(x()),
        Op::MaxPool2d(p) => {
            let mut options = MaxPoolOptions::new(p.kernel);
            options.stride = p.stride;
            options.padding = sides(p);
            options.ceil_mode = p.ceil_mode;
            max_pool2d(x(), options)
        }
        Op::AvgPool2d(p) => {
            let mut options = AvgPoolOptions::new(p.kernel);
            options.stride = p.stride;
            options.padding = sides(p);
            options.ceil_mode = p.ceil_mode;
            options.count_include_pad = p.count_include_pad;
            avg_pool2d(x(), options)
        }
        Op::AdaptiveAvgPool2d { output } => adaptive_avg_pool2d(x(), *output),
        Op::Activation(function) => apply(*function, x()),
        Op::Add => x() + x(),
        Op::Max => x().max_pair(x()),
        Op::Mul => x() * x(),
        Op::Softmax => activation::softmax(x(), 1),
        Op::Lrn { size, alpha, beta, k } => {
            let x = x();
            let channels = x.dims()[1];
            let squares = pad_channels(x.clone().powi_scalar(2), (size - 1) / 2, size / 2);
            let windows = (0..*size).map(|i| squares.clone().narrow(1, i, channels));
            let sum = windows.reduce(|sum, window| sum + window).expect("size is at least 1");
            x / (sum * (alpha / *size as f64) + *k).powf_scalar(*beta)
        }
        Op::Slice { start, channels } => x().narrow(1, *start, *channels),
        Op::Shuffle { groups } => {
            let x = x();
            let [n, c, h, w] = x.dims();
            x.reshape([n, *groups, c / groups, h * w]).swap_dims(1, 2).reshape([n, c, h, w])
        }
        Op::Pad2d { sides: [top, left, bottom, right], value } => {
            x().pad([(*top, *bottom), (*left, *right)], PadMode::Constant(*value as f32))
        }
        Op::Concat => Tensor::cat(inputs.collect(), 1),
        Op::Flatten => {
            let x = x();
            let [n, c, h, w] = x.dims();
            x.reshape([n, c * h * w, 1, 1])
        }
        Op::PadShortcut { stride, before, after } => {
            let x = x();
            let [_, _, h, w] = x.dims();
            let every = burn::tensor::s![.., .., 0..h;*stride, 0..w;*stride];
            let kept = if *stride == 1 { x } else { x.slice(every) };
            pad_channels(kept, *before, *after)
        }
        Op::Input
        | Op::Conv2d(_)
        | Op::Linear { .. }
        | Op::BatchNorm2d { .. }
        | Op::Affine { .. }
        | Op::PRelu { .. }
        | Op::Dropout { .. } => {
            unreachable!("handled with their layers")
        }
    }
}

/// Padding before and after the input, for each axis.
fn sides(pool: &Pool2d) -> [(usize, usize); 2] {
    let ([top, left], [bottom, right]) = (pool.padding, pool.padding_after());
    [(top, bottom), (left, right)]
}

fn apply(function: Activation, x: Tensor<4>) -> Tensor<4> {
    match function {
        Activation::Clip { min, max } => {
            let x = if let Some(min) = min { x.clamp_min(min) } else { x };
            if let Some(max) = max { x.clamp_max(max) } else { x }
        }
        Activation::LeakyRelu { slope } => activation::leaky_relu(x, slope),
        Activation::Sigmoid => activation::sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => activation::hard_sigmoid(x, alpha, beta),
        Activation::HardSwish => x.clone() * activation::hard_sigmoid(x, 1.0 / 6.0, 0.5),
        Activation::Silu => activation::silu(x),
        Activation::Tanh => x.tanh(),
        Activation::Elu { alpha } => {
            activation::relu(x.clone()) + x.clamp_max(0.0).exp().sub_scalar(1.0).mul_scalar(alpha)
        }
        // max(x, 0) + ln(1 + exp(-|x|)), which does not overflow.
        Activation::Softplus => activation::relu(x.clone()) + x.abs().neg().exp().log1p(),
    }
}

/// Zero channels put before and after.
fn pad_channels(x: Tensor<4>, before: usize, after: usize) -> Tensor<4> {
    let ([n, _, h, w], device) = (x.dims(), x.device());
    let zeros = |channels: usize| (channels > 0).then(|| Tensor::zeros([n, channels, h, w], &device));
    match (zeros(before), zeros(after)) {
        (None, None) => x,
        (first, last) => Tensor::cat([first, Some(x), last].into_iter().flatten().collect(), 1),
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

/// A weight's shape as a convolution's: `[out, in]` becomes `[out, in, 1, 1]`.
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
    let bias = weights.0.get(&format!("{node}.bias"))?;
    Some(Tensor::from_data(TensorData::new(bias.data().to_vec(), [bias.data().len()]), device))
}

fn insert(weights: &mut Weights, node: &str, suffix: &str, value: Tensor<1>) {
    let data = host(value);
    weights.insert(format!("{node}.{suffix}"), graph::Tensor::new([data.len()], data));
}
