//! How much the quantization of one layer alone changes a network's outputs.
//!
//! ```text
//! float   x -- a -- b -- c -- d -- logits      what comes before a layer is the same: it is computed once
//! trial          \- b' - c -- d -- logits'     only what follows the layer is computed again, for each format
//! ```
//! The estimate needs no second run of what follows: to first order the outputs change by `J n`, where `n = b' - b` is what the
//! format does to the layer's own output and `J` the derivative of the logits by that. One backward pass with random signs `v`
//! gives `g = J' v` for all layers at once, and the square of `g . n` is `|J n|^2` in the mean over `v`.
use std::collections::BTreeSet;
use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use dsconv::{DsConv2d, Network, QuantizationConfig, ScaleUpdate};
use graph::{Folded, Graph, Op, Outputs, Role};
use images::Unlabelled;
use model::{LayerPlan, ModelError, Plan};
use serde::{Deserialize, Serialize};

use crate::evaluate::{check_fits, host};
use crate::fidelity::{Fidelity, Tally, decibels};
use crate::loader::tensor;
use crate::logits::Logits;
use crate::loss::Loss;
use crate::random::Random;
use crate::workers::{Workers, cores};
use crate::{Context, Error};

/// The images whose values are one tensor.
const CHUNK: usize = 8;
/// The bytes that values of the images at work may take.
const MEMORY: u64 = 1 << 30;
/// The parts of the work that progress counts.
const STEPS: usize = 100;

/// What of a layer is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The weight; the input stays in floats.
    Weights,
    /// The input; the weight stays in floats.
    Activations,
    /// Both.
    Both,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 3] = [Self::Weights, Self::Activations, Self::Both];
}

/// How the change of the outputs is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Everything that follows the layer is run again.
    Exact,
    /// The change is estimated to first order, with one backward pass for all layers and formats: several times as fast. Of
    /// `n` images the estimate is off by about `sqrt(2 / n)` of itself, and more where the change is so large that the network
    /// is not linear there.
    FirstOrder,
}

/// A float network, the formats that each of its layers may have, and the images on which they are compared.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// The network. What is compared are logits where it has no softmax or sigmoid at its end: see
    /// [`model::Model::without_head`].
    pub network: &'a Folded,
    /// The formats to try: a plan for each.
    pub plans: &'a [Plan],
    /// What of a layer is quantized.
    pub parts: &'a [Part],
    /// The images.
    pub images: &'a Unlabelled,
}

/// What the quantization of one layer alone does to a network's outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensitivity {
    /// The name of the layer's node.
    pub layer: String,
    /// The place of the format in [`Candidates::plans`].
    pub plan: usize,
    /// What of the layer was quantized.
    pub part: Part,
    /// The power of the change of the outputs over that of what tells images apart: see [`Fidelity::noise`].
    pub noise: f64,
    /// How far the outputs are from the float network's; `None` where the noise was estimated.
    pub fidelity: Option<Fidelity>,
}

impl Sensitivity {
    /// The ratio of signal to noise in dB, `-10 log10(noise)`; `None` where there is no noise.
    pub fn sqnr_db(&self) -> Option<f64> {
        decibels(self.noise)
    }
}

/// Finds what the quantization of each layer alone does to the outputs. The results are in the graph's order of layers; for one
/// layer in the order of plans, then of parts.
///
/// A layer that a plan leaves in floats has no result there, nor has one for [`Part::Activations`] whose input stays in floats.
/// Codes and scales are those of [`model::Model::quantize_folded`]. The same images give the same numbers with any number of
/// cores.
///
/// # Errors
/// [`Error::Data`] where the images do not fit the network, none of them can be read, or a change is NaN or infinite;
/// [`Error::Model`] where a weight is, or a plan is for another graph; [`Error::Images`], [`Error::Interrupted`].
pub fn sensitivity(candidates: &Candidates<'_>, method: Method, context: &Context) -> Result<Vec<Sensitivity>, Error> {
    let &Candidates { network, images, .. } = candidates;
    let graph: &Graph = network.graph();
    check_fits(graph, images)?;
    let mut trials = Trial::all(candidates)?;
    let tried: BTreeSet<usize> = trials.iter().map(|trial| trial.node).collect();
    let kept = match method {
        Method::Exact => 0,
        Method::FirstOrder => tried.iter().map(|&node| graph.nodes()[node].shape.elements() as u64 * 4).sum(),
    };
    let group = usize::try_from(MEMORY / (graph.cost().bytes + kept).max(1)).unwrap_or(usize::MAX);
    let group = group.clamp(1, images.len());
    let walker = Walker {
        candidates,
        tried: &tried,
        method,
        teacher: Network::trainable(graph, network.weights(), &context.device),
        workers: Workers::new(&context.device, cores().min(group))?,
        context,
    };
    let mut clock = Clock::new(graph, &trials, method, images.len().div_ceil(group));
    let (mut seen, mut outputs) = (Vec::new(), Vec::new());
    context.progress.start("analyze", STEPS);
    for first in (0..images.len()).step_by(group) {
        for chunk in walker.run(first..images.len().min(first + group), &mut trials, &mut clock)? {
            seen.extend(chunk.images);
            outputs.extend(chunk.outputs);
        }
    }
    context.progress.finish();
    if seen.is_empty() {
        return Err(Error::Data { set: images.name().to_owned(), why: "none of its images can be read".to_owned() });
    }
    let contrast = Logits::of_images(graph.head(), seen, outputs).contrast();
    trials.into_iter().map(|trial| trial.finish(graph, contrast, method, images)).collect()
}

/// A layer with one format of one part.
struct Trial {
    node: usize,
    plan: usize,
    part: Part,
    tally: Tally,
    /// The estimated power of the change, summed over images.
    estimate: f64,
}

impl Trial {
    /// Every trial, in the graph's order of layers.
    fn all(candidates: &Candidates<'_>) -> Result<Vec<Self>, Error> {
        let graph: &Graph = candidates.network.graph();
        for name in candidates.plans.iter().flat_map(|plan| plan.layers().keys()) {
            if graph.find(name).is_none_or(|id| graph.node(id).weight_shape().is_none()) {
                let why = "the graph has no such convolution or linear layer".to_owned();
                return Err(ModelError::Layer { layer: name.clone(), why }.into());
            }
        }
        let mut trials = Vec::new();
        for (node, layer) in graph.nodes().iter().enumerate() {
            for (plan, formats) in candidates.plans.iter().enumerate() {
                let Some(formats) = formats.get(&layer.name) else { continue };
                for &part in candidates.parts {
                    if part != Part::Activations || formats.activation.is_some() {
                        trials.push(Self { node, plan, part, tally: Tally::default(), estimate: 0.0 });
                    }
                }
            }
        }
        Ok(trials)
    }

    fn finish(self, graph: &Graph, contrast: f64, method: Method, images: &Unlabelled) -> Result<Sensitivity, Error> {
        let layer = graph.nodes()[self.node].name.clone();
        let fidelity = (method == Method::Exact).then(|| self.tally.finish(contrast));
        let noise =
            fidelity.map_or_else(|| if self.estimate == 0.0 { 0.0 } else { self.estimate / contrast }, |f| f.noise);
        if !noise.is_finite() {
            let why = format!("with `{layer}` quantized the outputs are NaN or infinite");
            return Err(Error::Data { set: images.name().to_owned(), why });
        }
        Ok(Sensitivity { layer, plan: self.plan, part: self.part, noise, fidelity })
    }
}

/// Some images, with the float network's values that are still needed.
struct Chunk {
    images: Vec<usize>,
    values: Vec<Option<Tensor<4>>>,
    /// The float network's outputs, row after row.
    outputs: Vec<f32>,
    /// `J' v` at the layers that are tried, for the estimate.
    gradients: Vec<Option<Tensor<4>>>,
}

/// Goes through the float network with some images at a time, and tries the formats of each layer that it comes to.
struct Walker<'a> {
    candidates: &'a Candidates<'a>,
    /// The nodes that are tried.
    tried: &'a BTreeSet<usize>,
    method: Method,
    teacher: Network,
    workers: Workers,
    context: &'a Context,
}

impl Walker<'_> {
    fn graph(&self) -> &Graph {
        self.teacher.graph()
    }

    /// Adds what the images of `range` say to the trials, and returns them with the float network's outputs.
    fn run(&self, range: Range<usize>, trials: &mut [Trial], clock: &mut Clock) -> Result<Vec<Chunk>, Error> {
        let Self { teacher, workers, context, .. } = self;
        let mut parts = self.load(range)?;
        let mut uses = self.graph().uses();
        let mut trials = trials.iter_mut().peekable();
        for (index, node) in self.graph().nodes().iter().enumerate().skip(1) {
            while let Some(first) = trials.next_if(|trial| trial.node == index) {
                let twins = self.twins(index, first.plan)?;
                let plan = first.plan;
                let mut of_plan = Some(first);
                while let Some(trial) =
                    of_plan.take().or_else(|| trials.next_if(|trial| trial.node == index && trial.plan == plan))
                {
                    context.check()?;
                    self.try_one(trial, &twins, &parts)?;
                    context.progress.advance(clock.advance(index), &node.name);
                }
            }
            context.check()?;
            let inputs: Vec<usize> = node.inputs.iter().map(|id| id.index()).collect();
            parts = workers.run(parts, |chunks: Vec<Chunk>| {
                let forward = |mut chunk: Chunk| {
                    let taken = inputs.iter().map(|&at| chunk.values[at].clone().expect("nodes are in order"));
                    chunk.values[index] = Some(teacher.forward_node(index, taken.collect()));
                    chunk
                };
                chunks.into_iter().map(forward).collect()
            });
            for &input in &inputs {
                uses[input] -= 1;
                if uses[input] == 0 {
                    parts.iter_mut().flatten().for_each(|chunk: &mut Chunk| chunk.values[input] = None);
                }
            }
        }
        Ok(parts.into_iter().flatten().collect())
    }

    /// Loads images as the network's input, a share for each worker, with the network's outputs.
    fn load(&self, range: Range<usize>) -> Result<Vec<Vec<Chunk>>, Error> {
        let Self { teacher, workers, context, .. } = self;
        let &Candidates { images, network, .. } = self.candidates;
        let nodes = self.graph().nodes().len();
        let most = self.graph().at_once(CHUNK);
        let trained = (self.method == Method::FirstOrder).then(|| {
            let device = context.device.clone().autodiff();
            Network::trainable(self.graph(), network.weights(), &device).no_grad()
        });
        let mut parts = Vec::new();
        for part in workers.parts(range.len()) {
            let (start, end) = (range.start + part.start, range.start + part.end);
            let chunk = |first: usize| images.batch(&(first..end.min(first + most)).collect::<Vec<_>>());
            parts.push((start..end).step_by(most).map(chunk).collect::<Result<Vec<_>, _>>()?);
        }
        let stop = || context.interrupter.should_stop();
        let chunk = |batch: images::Batch| {
            let seen = batch.indices.clone();
            let gradients = match &trained {
                Some(network) => self.gradients(network, &batch),
                None => vec![None; nodes],
            };
            let x = tensor(batch, &context.device);
            let mut values = vec![None; nodes];
            values[0] = Some(x.clone());
            let outputs = host(rest(teacher, 0, x, &values, &stop)?);
            Some(Chunk { images: seen, values, outputs, gradients })
        };
        let parts = workers.run(parts, |batches: Vec<images::Batch>| {
            let wanted = |batch: &images::Batch| !batch.indices.is_empty() && !stop();
            batches.into_iter().filter(wanted).filter_map(chunk).collect::<Vec<_>>()
        });
        context.check()?;
        self.check_finite(&parts)?;
        Ok(parts)
    }

    fn check_finite(&self, parts: &[Vec<Chunk>]) -> Result<(), Error> {
        let (count, images) = (self.graph().head().count, self.candidates.images);
        for chunk in parts.iter().flatten() {
            if let Some(at) = chunk.outputs.iter().position(|v| !v.is_finite()) {
                return Err(Error::NotFinite {
                    network: self.graph().name().to_owned(),
                    value: chunk.outputs[at],
                    image: images.image_name(chunk.images[at / count]),
                    set: images.name().to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The derivative of the outputs, added up with random signs for each image, by the output of each layer that is tried.
    fn gradients(&self, network: &Network, batch: &images::Batch) -> Vec<Option<Tensor<4>>> {
        let graph = network.graph();
        let device = self.context.device.clone().autodiff();
        let mut uses = graph.uses();
        let mut values: Vec<Option<Tensor<4>>> = vec![None; graph.nodes().len()];
        let mut leaves: Vec<Option<Tensor<4>>> = vec![None; graph.nodes().len()];
        values[0] = Some(tensor(batch.clone(), &device));
        for (index, node) in graph.nodes().iter().enumerate().skip(1) {
            let mut inputs = take(&mut values, &mut uses, &node.inputs.iter().map(|id| id.index()).collect::<Vec<_>>());
            let y = match node.op {
                // On a device that trains it would drop.
                Op::Dropout { .. } => inputs.remove(0),
                _ => network.forward_node(index, inputs),
            };
            values[index] = Some(if self.tried.contains(&index) {
                let leaf = Tensor::zeros(y.dims(), &device).require_grad();
                leaves[index] = Some(leaf.clone());
                y + leaf
            } else {
                y
            });
        }
        let output: Tensor<2> = values.pop().flatten().expect("the last node is the output").flatten(1, 3);
        let head = graph.head();
        let signs: Vec<f32> = batch.indices.iter().flat_map(|&image| signs(image, head)).collect();
        let signs = Tensor::from_data(TensorData::new(signs, output.dims()), &device);
        let found = (output * signs).sum().backward();
        leaves.into_iter().map(|leaf| leaf.and_then(|leaf| leaf.grad(&found)).map(|g| g.without_autodiff())).collect()
    }

    /// The layer of a node in the formats of a plan: with its input in floats, and rounded.
    fn twins(&self, index: usize, plan: usize) -> Result<[DsConv2d; 2], Error> {
        let node = &self.graph().nodes()[index];
        let formats = self.candidates.plans[plan].get(&node.name).expect("a trial is of a planned layer");
        let shape = node.weight_shape().expect("a planned layer has a weight");
        let weight = self.candidates.network.weights()[&Role::Weight.name(&node.name)].data();
        let stop = || self.context.interrupter.should_stop();
        let codes = formats
            .quantize_unless(weight, shape, &stop)
            .map_err(|error| ModelError::Numbers { layer: node.name.clone(), error })?
            .ok_or_else(|| self.context.interrupted())?;
        let twin = |activation| {
            let &LayerPlan { weight, signed, .. } = formats;
            let quantization = QuantizationConfig { weight, activation, signed, scale_update: ScaleUpdate::Fixed };
            self.teacher.quantized_twin(index, &codes, quantization).expect("the float network has the layer")
        };
        Ok([twin(None), twin(formats.activation)])
    }

    /// Adds to a trial what its layer does to the outputs for all images.
    fn try_one(&self, trial: &mut Trial, [plain, rounded]: &[DsConv2d; 2], parts: &[Vec<Chunk>]) -> Result<(), Error> {
        let Self { teacher, workers, method, context, .. } = self;
        let index = trial.node;
        let input = self.graph().nodes()[index].inputs[0].index();
        let apply = |x: Tensor<4>| match trial.part {
            Part::Weights => plain.forward(x),
            Part::Activations => teacher.forward_node(index, vec![rounded.input(x)]),
            Part::Both => rounded.forward(x),
        };
        let stop = || context.interrupter.should_stop();
        let found = workers.run(parts.iter().collect(), |chunks: &Vec<Chunk>| {
            let one = |chunk: &Chunk| {
                if stop() {
                    return Vec::new();
                }
                let x = chunk.values[input].clone().expect("nodes are in order");
                let y = apply(x.clone());
                match &chunk.gradients[index] {
                    Some(gradient) => {
                        let change = y - teacher.forward_node(index, vec![x]);
                        host((change * gradient.clone()).flatten::<2>(1, 3).sum_dim(1))
                    }
                    None => rest(teacher, index, y, &chunk.values, &stop).map_or(Vec::new(), host),
                }
            };
            chunks.iter().map(one).collect::<Vec<_>>()
        });
        context.check()?;
        let found: Vec<f32> = found.into_iter().flatten().flatten().collect();
        match method {
            Method::Exact => {
                let chunks = || parts.iter().flatten();
                let images: Vec<usize> = chunks().flat_map(|chunk| chunk.images.iter().copied()).collect();
                let outputs = chunks().flat_map(|chunk| chunk.outputs.iter().copied()).collect();
                let logits = |values| Logits::of_images(self.graph().head(), images.clone(), values);
                trial.tally.add(&logits(found), &logits(outputs), Loss::of(self.graph()));
            }
            Method::FirstOrder => trial.estimate += found.iter().map(|&dot| f64::from(dot).powi(2)).sum::<f64>(),
        }
        Ok(())
    }
}

/// Computes the outputs where the node number `index` gives `y`, and nodes before it what `values` hold of them; `None` where `stop`
/// says yes before it is done.
fn rest(
    network: &Network,
    index: usize,
    y: Tensor<4>,
    values: &[Option<Tensor<4>>],
    stop: &dyn Fn() -> bool,
) -> Option<Tensor<2>> {
    let nodes = network.graph().nodes();
    let inputs = |node: &graph::Node| node.inputs.iter().map(|id| id.index()).collect::<Vec<_>>();
    let mut uses = vec![0; nodes.len()];
    nodes[index + 1..].iter().flat_map(inputs).for_each(|input| uses[input] += 1);
    let mut values = values.to_vec();
    values[index] = Some(y);
    for (at, node) in nodes.iter().enumerate().skip(index + 1) {
        if stop() {
            return None;
        }
        let taken = take(&mut values, &mut uses, &inputs(node));
        values[at] = Some(network.forward_node(at, taken));
    }
    Some(values.pop().flatten().expect("the last node is the output").flatten(1, 3))
}

/// Takes the values of the nodes `inputs`, out of `values` at their last use.
fn take(values: &mut [Option<Tensor<4>>], uses: &mut [usize], inputs: &[usize]) -> Vec<Tensor<4>> {
    let one = |&at: &usize| {
        uses[at] -= 1;
        if uses[at] == 0 { values[at].take() } else { values[at].clone() }.expect("nodes are in order")
    };
    inputs.iter().map(one).collect()
}

/// Random signs for the outputs of an image, without their mean where outputs are compared without theirs.
fn signs(image: usize, head: graph::Head) -> Vec<f32> {
    let mut random = Random::new(image as u64, &[6]);
    let mut signs: Vec<f32> = (0..head.count).map(|_| if random.next() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
    if head.outputs != Outputs::Sigmoid && !head.is_binary() {
        let mean = signs.iter().sum::<f32>() / signs.len() as f32;
        signs.iter_mut().for_each(|sign| *sign -= mean);
    }
    signs
}

/// Counts the work done, by the operations that it takes.
struct Clock {
    /// The operations of one trial of each node.
    each: Vec<f64>,
    done: f64,
    total: f64,
}

impl Clock {
    fn new(graph: &Graph, trials: &[Trial], method: Method, groups: usize) -> Self {
        let mut each: Vec<f64> = graph.operations().iter().map(|&operations| operations as f64).collect();
        if method == Method::Exact {
            let mut after = 0.0;
            for operations in each.iter_mut().rev() {
                after += *operations;
                *operations = after;
            }
        }
        let total = trials.iter().map(|trial| each[trial.node]).sum::<f64>() * groups as f64;
        Self { each, done: 0.0, total }
    }

    /// Counts a trial of a node, and returns how many of all [`STEPS`] are done.
    fn advance(&mut self, node: usize) -> usize {
        self.done += self.each[node];
        (STEPS as f64 * self.done / self.total.max(1.0)) as usize
    }
}
