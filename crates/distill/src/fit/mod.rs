//! Fits a quantized network's codes, scales and biases to what the float network's layers say, one layer after the other.
//!
//! ```text
//! teacher   x ---- conv ---- y ----- ...            for every quantized layer, in the graph's order:
//! student   x' --- codes --- y' ---- ...            least squares of y by BFP(x'), over alpha, q and bias
//! ```
//! `x'` comes from layers that are fitted already, so a layer also makes up for what those before it, and the rounding of
//! its own input, did to the values. Where a layer's output is added to a value that is known already (the shortcut of a
//! residual block), the sum is fitted, and the layer makes up for the error of that value too. How far a layer makes up for
//! others depends on the images: [`LayerFit::given`], [`LayerFit::drawn`]. Nothing is trained and no label exists here.
//!
//! Values of the images lie in memory node by node, not all at once: a node with large values is fitted on as many of the
//! images as fit, and the others join where values are smaller. [`FittedLayer`] says how many were used.
mod codes;
mod layer;
mod matrix;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use blockfloat::{ActivationSpec, QuantizedWeights, ScaleFormat, dequantized_activations};
use burn::tensor::{Tensor, TensorData};
use dsconv::Step;
use graph::{Conv2d, Folded, Graph, Node, Op, Role, Weights};
use images::Unlabelled;
use model::policy::{LayerPlan, Plan};
use model::{Info, Model, ModelError, QuantizedLayer};
use serde::{Deserialize, Serialize};

use crate::evaluate::{check_fits, host};
use crate::loader::tensor;
use crate::random::Random;
use crate::workers::{Workers, cores};
use crate::{Context, Error};
use layer::{Solution, Task};
use rows::{Aim, Plane, Rows, Source};

/// The images whose values are one tensor.
const CHUNK: usize = 8;
/// The output pixels that a layer is fitted on for each weight of a filter, and the fewest in all.
const ROWS_PER_WEIGHT: usize = 8;
const LEAST_ROWS: usize = 16_384;
/// The most numbers in the rows of a layer.
const ROW_NUMBERS: usize = 32 << 20;
/// The bytes that the values of all images may take between two nodes.
const MEMORY: usize = 640 << 20;
/// The most weights that are solved at once.
const MOST_WEIGHTS: usize = 16 << 20;

/// What layers aim at on given images.
///
/// The teacher's part: on EfficientNet-Lite0 at 4 bits, fitted on 128 images, the logits of others have 7.2 dB with 1, 7.7 dB with 0,
/// and 9.7 dB with 0.3 to 0.5.
///
/// Smoothing: what an error does to a network's outputs is much the same at neighbouring pixels. The derivatives of EfficientNet-Lite0's
/// logits by a layer's outputs correlate with 0.1 to 0.6 from one pixel to the next; the filter `[0.25, 1, 0.25]`, by rows and by columns,
/// gives noise a correlation of 0.44. So errors that neighbours share, as those of codes are, add up, while the rounding of
/// inputs, which differs from pixel to pixel, is averaged away.
const GIVEN: Aim = Aim { part: 0.4, beside: 0.25 };
/// What they aim at on drawn pictures, whose neighbouring pixels are not like those of photographs. On EfficientNet-Lite0 at 4 bits, fitted on
/// 32 drawn pictures, real images are given the float network's class 85 times of 100 with a part of 0, and 74 times with 0.4.
const DRAWN: Aim = Aim { part: 0.0, beside: 0.0 };

/// What they aim at on synthetic pictures: a part of 0.4 is better with two bits, and worse with four.
const SYNTHETIC: Aim = Aim { part: 0.2, beside: 0.25 };

/// The number of images up to which drawn ones are added.
const ENOUGH: usize = 32;

/// A fit: what is fitted to what, on which images.
#[derive(Debug, Clone, Copy)]
pub struct LayerFit<'a> {
    /// The float network whose layers are the measure.
    pub teacher: &'a Folded,
    /// The weights that layers are quantized from: as a rule the teacher's own.
    pub weights: &'a Weights,
    /// The layers to quantize, and their formats.
    pub plan: &'a Plan,
    /// Images like those that the network is for, whose values layers are fitted to: 0.4 of what a layer aims at is the teacher's
    /// output, the rest is what the float layer itself gives for the input that the quantized network has.
    ///
    /// An output that is fitted to noisy inputs is smaller than the one wanted (regression dilution), and what each layer takes
    /// off adds up; an output that only repeats the float layer leaves the errors of earlier layers as they are.
    pub given: Option<&'a Unlabelled>,
    /// Pictures that are drawn ([`images::generated`]), where there are few or no others. Their means in deep layers are not those
    /// of real images, so that no layer makes up for those before it.
    pub drawn: Option<&'a Unlabelled>,
    /// Pictures that the float network made ([`crate::synthetic`]): nearer to real images than drawn ones, so that layers make up for
    /// those before them, but less than on real ones.
    pub synthetic: Option<&'a Unlabelled>,
    /// The seed decides which pixels of the images are looked at.
    pub seed: u64,
}

/// The result of a [`LayerFit`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fitted {
    layers: BTreeMap<String, Found>,
    report: Vec<FittedLayer>,
}

/// The codes of a layer and its bias, if it has one.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) codes: QuantizedWeights,
    pub(crate) bias: Option<Vec<f32>>,
}

/// How a layer was fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FittedLayer {
    /// The layer's name.
    pub layer: String,
    /// The number of images that it was fitted on.
    pub images: usize,
    /// The number of output pixels of them.
    pub pixels: usize,
    /// The signal-to-noise ratio in dB of its output, smoothed over neighbouring pixels where images or synthetic pictures are given, with
    /// the codes of the plan's scale rule and the bias of the float network;
    /// `None` where nothing is lost. Its inputs are the quantized network's, with the errors of all layers before.
    pub before_db: Option<f64>,
    /// The same with the fitted codes and bias, on the same pixels.
    pub after_db: Option<f64>,
}

impl Fitted {
    /// Returns how each layer was fitted, in the graph's order.
    pub fn report(&self) -> &[FittedLayer] {
        &self.report
    }

    /// Returns what was found for a layer; `None` for one that is not quantized.
    pub(crate) fn found(&self, node: &str) -> Option<&Found> {
        self.layers.get(node)
    }

    /// Makes a model of the fitted layers; all other parameters are those that layers were quantized from.
    ///
    /// # Errors
    /// [`ModelError`] where the fit was of another network.
    pub fn into_model(self, fit: &LayerFit<'_>, info: Info) -> Result<Model, ModelError> {
        let mut weights = Weights::default();
        let mut layers = BTreeMap::new();
        let coded: BTreeSet<String> = self.layers.keys().map(|name| Role::Weight.name(name)).collect();
        for (name, tensor) in fit.weights.iter().filter(|(name, _)| !coded.contains(*name)) {
            weights.insert(name, tensor.clone());
        }
        for (name, Found { codes, bias }) in self.layers {
            if let Some(bias) = bias {
                weights.insert(Role::Bias.name(&name), graph::Tensor::new([bias.len()], bias));
            }
            let Some(&LayerPlan { activation, signed, .. }) = fit.plan.get(&name) else { continue };
            layers.insert(name, QuantizedLayer { codes, activation, signed });
        }
        Model::new((**fit.teacher.graph()).clone(), weights, layers, info)
    }
}

/// The values of some images at every node that is still needed.
struct Chunk {
    teacher: Vec<Option<Tensor<4>>>,
    student: Vec<Option<Tensor<4>>>,
    images: usize,
    aim: Aim,
}

impl LayerFit<'_> {
    /// Fits all layers of the plan. The result depends on the seed and the images, not on the number of cores.
    ///
    /// # Errors
    /// [`Error::Data`] where the images do not fit the network or none can be read; [`Error::Images`];
    /// [`Error::Interrupted`]; [`Error::Model`] with the name of a layer whose weights are not finite.
    pub fn run(&self, context: &Context) -> Result<Fitted, Error> {
        self.run_within(MEMORY, context)
    }

    /// Draws pictures to fit a model's layers on where only so many images are given; `None` where those are enough.
    pub fn drawn_beside(given: usize, seed: u64, model: &Model) -> Option<Unlabelled> {
        let input = model.graph().input();
        let missing = ENOUGH.checked_sub(given).filter(|&missing| missing > 0)?;
        Some(images::generated(missing, seed, &model.preprocess(), [input.height, input.width]))
    }

    /// The images, with what a layer aims at on them: the given ones first.
    fn sets(&self) -> impl Iterator<Item = (&Unlabelled, Aim)> {
        let sets = [(self.given, GIVEN), (self.synthetic, SYNTHETIC), (self.drawn, DRAWN)];
        sets.into_iter().filter_map(|(set, aim)| Some((set?, aim)))
    }

    /// The number of all images.
    fn count(&self) -> usize {
        self.sets().map(|(images, _)| images.len()).sum()
    }

    /// Fits all layers, with values of the images in `memory` bytes.
    fn run_within(&self, memory: usize, context: &Context) -> Result<Fitted, Error> {
        for (images, _) in self.sets() {
            check_fits(self.teacher.graph(), images)?;
        }
        let nodes = self.teacher.graph().nodes();
        let mut course = Course {
            fit: self,
            context,
            workers: Workers::new(&context.device, cores())?,
            last_use: last_uses(self.teacher.graph()),
            found: BTreeMap::new(),
        };
        let counts = course.counts(memory);
        let (mut chunks, mut loaded, mut report) = (Vec::new(), 0, Vec::new());
        context.progress.start("fit layers", nodes.len() - 1);
        for (index, node) in nodes.iter().enumerate().skip(1) {
            context.check()?;
            if counts[index] > loaded {
                chunks.extend(course.join(loaded..counts[index], index)?);
                loaded = counts[index];
            }
            if chunks.is_empty() {
                let set = self.sets().next().map_or("images to fit layers on", |(images, _)| images.name()).to_owned();
                return Err(Error::Data { set, why: "none of its images can be read".to_owned() });
            }
            let images = chunks.iter().map(|chunk: &Chunk| chunk.images).sum();
            let teacher = Step::new(node, self.teacher.weights(), &context.device);
            chunks = course.workers.run(chunks, |mut chunk: Chunk| {
                chunk.teacher[index] = Some(teacher.forward(taken(node, &chunk.teacher)));
                chunk
            });
            drop(teacher);
            if let Some(plan) = self.plan.get(&node.name) {
                let (found, fitted) = course.solve(index, plan, &chunks, images)?;
                course.found.insert(index, found);
                report.push(fitted);
            }
            let student = course.student_step(index);
            chunks = course.workers.run(chunks, |mut chunk: Chunk| {
                chunk.student[index] = Some(course.student(index, &student, &chunk));
                course.forget(&mut chunk, index);
                chunk
            });
            context.progress.advance(index, &format!("{images} images"));
        }
        context.progress.finish();
        let found = course.found.into_iter().map(|(index, found)| (nodes[index].name.clone(), found));
        Ok(Fitted { layers: found.collect(), report })
    }
}

/// The inputs of a node.
fn taken(node: &Node, values: &[Option<Tensor<4>>]) -> Vec<Tensor<4>> {
    node.inputs.iter().map(|id| values[id.index()].clone().expect("nodes are in order")).collect()
}

/// Returns the last node that reads each node's value; that of the output is the output itself.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last: Vec<usize> = (0..graph.nodes().len()).collect();
    for (index, node) in graph.nodes().iter().enumerate() {
        node.inputs.iter().for_each(|input| last[input.index()] = index);
    }
    last
}

/// A fit on its way.
struct Course<'a> {
    fit: &'a LayerFit<'a>,
    context: &'a Context,
    workers: Workers,
    last_use: Vec<usize>,
    /// What was found for the layers before the present one, by node.
    found: BTreeMap<usize, Found>,
}

impl Course<'_> {
    fn nodes(&self) -> &[Node] {
        self.fit.teacher.graph().nodes()
    }

    /// Returns the number of images that each node is run on: as many as memory holds there and at all nodes that follow.
    fn counts(&self, memory: usize) -> Vec<usize> {
        let mut counts = vec![0; self.nodes().len()];
        let mut most = self.fit.count();
        for index in (0..counts.len()).rev() {
            let needed = |&(node, _): &(usize, &Node)| node <= index && self.last_use[node] >= index;
            let live: usize =
                self.nodes().iter().enumerate().filter(needed).map(|(_, node)| node.shape.elements()).sum();
            // Both networks have values of four bytes.
            most = most.min(memory / live.saturating_mul(8).max(1)).max(1);
            counts[index] = most;
        }
        counts
    }

    /// Loads images and runs them through the nodes before `index`, with the layers found so far.
    fn join(&self, images: Range<usize>, index: usize) -> Result<Vec<Chunk>, Error> {
        let mut parts = Vec::new();
        let mut before = 0;
        for (set, aim) in self.fit.sets() {
            // Those of the range that are of this set, by their places in it.
            let (from, to) = (images.start.max(before), images.end.min(before + set.len()));
            let starts = (from..to).step_by(CHUNK);
            parts.extend(starts.map(|start| (set, aim, start - before..to.min(start + CHUNK) - before)));
            before += set.len();
        }
        let mut joined = Vec::new();
        // As many at a time as are worked on at the same time: the values before `index` may be larger.
        for parts in parts.chunks(cores()) {
            let mut chunks = Vec::new();
            for (set, aim, places) in parts {
                let batch = set.batch(&places.clone().collect::<Vec<_>>())?;
                if batch.indices.is_empty() {
                    continue;
                }
                let images = batch.indices.len();
                let mut values = vec![None; self.nodes().len()];
                values[0] = Some(tensor(batch, &self.context.device));
                chunks.push(Chunk { teacher: values.clone(), student: values, images, aim: *aim });
            }
            for (before, node) in self.nodes().iter().enumerate().take(index).skip(1) {
                self.context.check()?;
                let teacher = Step::new(node, self.fit.teacher.weights(), &self.context.device);
                let student = self.student_step(before);
                chunks = self.workers.run(chunks, |mut chunk: Chunk| {
                    chunk.teacher[before] = Some(teacher.forward(taken(node, &chunk.teacher)));
                    chunk.student[before] = Some(self.student(before, &student, &chunk));
                    self.forget(&mut chunk, before);
                    chunk
                });
            }
            joined.append(&mut chunks);
        }
        Ok(joined)
    }

    /// Drops the values that no node after `index` reads.
    fn forget(&self, chunk: &mut Chunk, index: usize) {
        let unread = self.last_use.iter().enumerate().take(index + 1).filter(|&(_, &last)| last <= index);
        unread.for_each(|(node, _)| (chunk.teacher[node], chunk.student[node]) = (None, None));
    }

    /// Makes the step of the quantized network at a node.
    fn student_step(&self, index: usize) -> Step {
        let (node, device) = (&self.nodes()[index], &self.context.device);
        match self.found.get(&index) {
            Some(Found { codes, bias }) => Step::with_weight(node, codes.dequantize(), bias.as_deref(), device),
            None => Step::new(node, self.fit.weights, device),
        }
    }

    /// Computes the quantized network's value at a node.
    fn student(&self, index: usize, step: &Step, chunk: &Chunk) -> Tensor<4> {
        let node = &self.nodes()[index];
        let mut inputs = taken(node, &chunk.student);
        if let Some(plan) = self.fit.plan.get(&node.name) {
            let x = inputs.remove(0);
            let device = x.device();
            let Plane { shape, data } = rounded(x, plan, &node.op);
            inputs = vec![Tensor::from_data(TensorData::new(data, shape), &device)];
        }
        step.forward(inputs)
    }

    /// Finds codes, scales and bias of a layer.
    fn solve(
        &self,
        index: usize,
        plan: &LayerPlan,
        chunks: &[Chunk],
        images: usize,
    ) -> Result<(Found, FittedLayer), Error> {
        let node = &self.nodes()[index];
        let conv = convolution(&node.op);
        let shape = conv.weight_shape();
        let k: usize = shape[1..].iter().product();
        let other = self.added(index);
        let numbers = k * conv.groups + conv.out_channels;
        let wanted = (ROWS_PER_WEIGHT * k).max(LEAST_ROWS).min(ROW_NUMBERS / numbers).max(1);
        let each = wanted.div_ceil(images);
        let value = |values: &[Option<Tensor<4>>], at: usize| values[at].clone().expect("it was computed");
        let input = node.inputs[0].index();
        let take = |(number, chunk): (usize, &Chunk)| -> Rows {
            let target = value(&chunk.teacher, index);
            // What is missing to the teacher's sum, where the output is added to another value.
            let target = match other {
                Some(other) => target + value(&chunk.teacher, other) - value(&chunk.student, other),
                None => target,
            };
            let source = Source {
                input: rounded(value(&chunk.student, input), plan, &node.op),
                target: plane(target),
                aim: chunk.aim,
                conv: &conv,
            };
            source.rows(each, Random::new(self.fit.seed, &[5, index as u64, number as u64]))
        };
        let mut rows = Rows::new(conv.groups);
        for more in self.workers.run(chunks.iter().enumerate().collect(), take) {
            rows.append(more);
        }
        let weights = self.fit.weights.of(&node.name);
        let task = Task {
            name: &node.name,
            shape,
            groups: conv.groups,
            most_weights: MOST_WEIGHTS,
            weight: weights.weight().data(),
            bias: weights.bias().map(|bias| bias.data()),
            format: plan.weight,
        };
        let pixels = rows.len();
        let Solution { mut codes, bias, power } = task.solve(rows, self.context)?;
        if plan.scales == ScaleFormat::TwoLevel {
            codes = codes.to_two_level();
        }
        let decibels = |missed: f64| (missed > 0.0).then(|| 10.0 * (power.signal / missed).log10());
        let report = FittedLayer {
            layer: node.name.clone(),
            images,
            pixels,
            before_db: decibels(power.before),
            after_db: decibels(power.after),
        };
        Ok((Found { codes, bias }, report))
    }

    /// Returns the node whose value is added to that of `index`, where that is all that is done to it and the value is known
    /// already.
    fn added(&self, index: usize) -> Option<usize> {
        let mut readers = self.nodes().iter().filter(|node| node.inputs.iter().any(|id| id.index() == index));
        let sum = readers.next().filter(|node| node.op == Op::Add)?;
        let other = sum.inputs.iter().map(|id| id.index()).find(|&other| other != index)?;
        (readers.next().is_none() && other < index).then_some(other)
    }
}

/// The geometry of a layer; a linear layer is a convolution of one pixel.
fn convolution(op: &Op) -> Conv2d {
    match op {
        Op::Conv2d(conv) => conv.clone(),
        &Op::Linear { in_features, out_features, bias } => Conv2d { bias, ..Conv2d::new(in_features, out_features, 1) },
        op => panic!("{op:?} is no layer"),
    }
}

fn plane(x: Tensor<4>) -> Plane {
    Plane { shape: x.dims(), data: host(x) }
}

/// Rounds an input as the quantized layer does.
fn rounded(x: Tensor<4>, plan: &LayerPlan, op: &Op) -> Plane {
    let Plane { shape, data } = plane(x);
    let Some(format) = plan.activation else { return Plane { shape, data } };
    let spec = ActivationSpec { shape, groups: convolution(op).groups, format, signed: plan.signed };
    let mut out = vec![0.0; data.len()];
    dequantized_activations(&data, &spec, &mut out);
    Plane { shape, data: out }
}

#[cfg(test)]
mod tests {
    use graph::{Builder, Shape};
    use model::Policy;

    use super::*;

    /// A network whose values become smaller, with a residual block.
    fn network() -> Folded {
        let mut b = Builder::new("narrowing", Shape::new(3, 32, 32));
        let x = b.conv("conv1", Conv2d::new(3, 8, 3).padding(1).bias(), b.input());
        let x = b.relu("relu1", x);
        let y = b.conv("conv2", Conv2d::new(8, 16, 3).stride(4).padding(1).bias(), x);
        let skip = b.relu("relu2", y);
        let y = b.conv("conv3", Conv2d::new(16, 16, 3).padding(1).bias(), skip);
        let y = b.push("sum", Op::Add, vec![y, skip]);
        let y = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![y]);
        let y = b.push("flatten", Op::Flatten, vec![y]);
        b.linear("fc", 5, y);
        let graph = b.finish().unwrap();
        let weights = Weights::init(&graph, 1);
        Folded::new(&graph, weights).unwrap()
    }

    #[test]
    fn images_that_do_not_fit_in_memory_join_where_values_are_smaller() {
        let folded = network();
        let plan = toml::from_str::<Policy>("bits = 3").unwrap().resolve(folded.graph()).unwrap();
        let images = images::embedded_unlabelled().take(40);
        let fit = LayerFit {
            teacher: &folded,
            weights: folded.weights(),
            plan: &plan,
            given: Some(&images),
            drawn: None,
            synthetic: None,
            seed: 0,
        };
        let context = Context::default();
        let whole = fit.run(&context).unwrap();
        assert!(whole.report().iter().all(|layer| layer.images == 40), "{:?}", whole.report());
        // Both networks hold 16 x 32 x 32 floats of an image at relu1, and 9 x 32 x 32 at conv2.
        let tight = fit.run_within(13 * 2 * 8 * 1024 * 8, &context).unwrap();
        let counts: Vec<usize> = tight.report().iter().map(|layer| layer.images).collect();
        assert_eq!(counts, [13, 23, 40, 40]);
        for fitted in [&whole, &tight] {
            for layer in fitted.report() {
                assert!(layer.after_db > layer.before_db, "{layer:?}");
            }
        }
        // Again: the same codes, whatever the threads.
        let again = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let again = again.install(|| fit.run(&context)).unwrap();
        for (name, found) in &whole.layers {
            assert_eq!(again.layers[name].codes, found.codes, "{name}");
            assert_eq!(again.layers[name].bias, found.bias, "{name}");
        }
        let preprocess = images::embedded_preprocess();
        let info = Info { preprocess, classes: Vec::new(), source: String::new() };
        let model = whole.into_model(&fit, info).unwrap();
        assert_eq!(model.layers().len(), 4);
        model.check().unwrap();
    }

    #[test]
    fn few_images_are_joined_by_drawn_ones_that_no_layer_makes_up_for() {
        let folded = network();
        let plan = toml::from_str::<Policy>("bits = 3").unwrap().resolve(folded.graph()).unwrap();
        let preprocess = images::embedded_preprocess();
        let info = Info { preprocess, classes: Vec::new(), source: String::new() };
        let plain = Model::quantize_folded(&folded, &plan, info).unwrap();
        let (given, drawn) =
            (images::embedded_unlabelled().take(3), LayerFit::drawn_beside(3, 0, &plain).expect("three are few"));
        assert_eq!(drawn.len(), 29);
        assert!(LayerFit::drawn_beside(32, 0, &plain).is_none());
        let context = Context::default();
        let run = |given, drawn, memory| {
            let fit = LayerFit {
                teacher: &folded,
                weights: folded.weights(),
                plan: &plan,
                given,
                drawn,
                synthetic: None,
                seed: 0,
            };
            fit.run_within(memory, &context).unwrap()
        };
        let both = run(Some(&given), Some(&drawn), MEMORY);
        assert!(both.report().iter().all(|layer| layer.images == 32), "{:?}", both.report());
        let codes = |fitted: &Fitted| fitted.layers["conv2"].codes.clone();
        assert_ne!(codes(&both), codes(&run(Some(&given), None, MEMORY)));
        // Where memory holds few, they are the given ones.
        let tight = run(Some(&given), Some(&drawn), 3 * 2 * 8 * 1024 * 8);
        let counts: Vec<usize> = tight.report().iter().map(|layer| layer.images).collect();
        assert_eq!(counts[0], 3, "{counts:?}");
        assert!(counts[3] > 3 && counts.is_sorted(), "{counts:?}");
    }

    #[test]
    fn a_stopped_fit_is_interrupted() {
        let folded = network();
        let plan = Policy::default().resolve(folded.graph()).unwrap();
        let images = images::embedded_unlabelled().take(8);
        let context = Context::default();
        context.interrupter.stop(Some("test"));
        let fit = LayerFit {
            teacher: &folded,
            weights: folded.weights(),
            plan: &plan,
            given: Some(&images),
            drawn: None,
            synthetic: None,
            seed: 0,
        };
        assert!(matches!(fit.run(&context), Err(Error::Interrupted { .. })));
    }
}
