//! Fits a student's codes, scales and biases to what its teacher's layers say, one layer after the other.
//!
//! ```text
//! teacher   x ---- conv ---- y ----- ...            for every quantized layer, in the graph's order:
//! student   x' --- codes --- y' ---- ...            least squares of y by BFP(x'), over alpha, q and bias
//! ```
//! `x'` comes from layers that are fitted already, so a layer also makes up for what those before it, and the rounding of
//! its own input, did to the values. Nothing is trained and no label exists here: [`blockfloat::reconstruct`] solves each
//! layer from sums over the images.

use blockfloat::QuantizedWeights;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use dsconv::{DsConv2d, Network, ScaleUpdate};
use graph::{Graph, Role, Weights};
use images::Unlabelled;
use model::{Model, ModelError, Policy};

use crate::folder::RunFolder;
use crate::least_squares::{Pixels, Problem, Sums};
use crate::loader::tensor;
use crate::random::{Order, Random};
use crate::workers::Workers;
use crate::{Context, Error, checkpoint, write};

/// The images whose values are one tensor.
const CHUNK: usize = 32;
/// The output pixels that a layer is fitted on for each weight of a filter, and the fewest in all.
const ROWS_PER_WEIGHT: usize = 32;
const LEAST_ROWS: usize = 8192;
/// The most weights of a filter whose codes are fitted. Larger filters keep theirs, since the sums over them would take
/// gigabytes; only their biases are fitted.
const MOST_WEIGHTS: usize = 4608;
/// The bytes that the values of all images may take.
const MEMORY: usize = 2 << 30;

/// A fit: the teacher, what its student is quantized from, and the images.
pub(crate) struct Fit<'a> {
    /// The teacher, of the same graph as the student: batch normalisation is folded.
    pub(crate) teacher: &'a Network,
    /// The weights that the student is quantized from.
    pub(crate) weights: &'a Weights,
    /// The images whose values layers are fitted to.
    pub(crate) images: &'a Unlabelled,
    pub(crate) workers: &'a Workers,
    pub(crate) context: &'a Context,
}

impl Fit<'_> {
    /// The student, which runs on an autodiff device, with layers fitted to the teacher's on the first `count` images, or as it
    /// is for none. It is found in the folder where an earlier start of this run got so far.
    pub(crate) fn fitted(&self, mut student: Network, count: usize, folder: &RunFolder) -> Result<Network, Error> {
        if count == 0 {
            return Ok(student);
        }
        let path = folder.file(RunFolder::CHECKPOINTS).join("fitted.bpk");
        if path.exists() {
            return Ok(student.load_record(checkpoint::load_record(&path)?));
        }
        self.fit_layers(&mut student, count)?;
        let record = student.clone().into_record().into_bytes().map_err(|e| Error::file(&path, e))?;
        write::write(&path, &record)?;
        Ok(student)
    }

    /// Fits all layers on the first `count` images, or on fewer where their values would not fit in memory.
    fn fit_layers(&self, student: &mut Network, count: usize) -> Result<(), Error> {
        let Self { teacher, images, workers, context, .. } = *self;
        let graph = teacher.graph().clone();
        let nodes = graph.nodes();
        let count = count.min(images.len()).min(MEMORY / (8 * live_elements(&graph)).max(1)).max(1);
        let mut parts = load(images, count, nodes.len(), workers, &context.device)?;
        let mut plain = student.valid();
        let mut uses = graph.uses();
        context.progress.start("fit layers", nodes.len() - 1);
        for (index, node) in nodes.iter().enumerate().skip(1) {
            context.check()?;
            let inputs: Vec<usize> = node.inputs.iter().map(|id| id.index()).collect();
            let taken = |values: &[Option<Tensor<4>>]| -> Vec<Tensor<4>> {
                inputs.iter().map(|&at| values[at].clone().expect("nodes are in order")).collect()
            };
            parts = run(workers, parts, |mut chunk| {
                chunk.teacher[index] = Some(teacher.clone().forward_node(index, taken(&chunk.teacher)));
                chunk
            });
            if let Some(layer) = plain.quantized_layer(index) {
                let values = Values { parts: &parts, count, index, input: inputs[0] };
                let weight = self.weights.of(&node.name).weight().data();
                let fitted = fit(layer, weight, &values, workers)
                    .map_err(|source| ModelError::Numbers { layer: node.name.clone(), source })?;
                plain.requantize(index, &fitted.codes, fitted.bias.clone());
                student.requantize(index, &fitted.codes, fitted.bias);
            }
            parts = run(workers, parts, |mut chunk| {
                chunk.student[index] = Some(plain.clone().forward_node(index, taken(&chunk.student)));
                chunk
            });
            for &input in &inputs {
                uses[input] -= 1;
                if uses[input] == 0 {
                    parts
                        .iter_mut()
                        .flatten()
                        .for_each(|chunk| (chunk.teacher[input], chunk.student[input]) = (None, None));
                }
            }
            context.progress.advance(index, "");
        }
        context.progress.finish();
        Ok(())
    }
}

/// The values of some images at every node that is still needed.
struct Chunk {
    teacher: Vec<Option<Tensor<4>>>,
    student: Vec<Option<Tensor<4>>>,
}

/// Does `work` on every chunk, those of a worker one after the other.
fn run(workers: &Workers, parts: Vec<Vec<Chunk>>, work: impl Fn(Chunk) -> Chunk + Sync) -> Vec<Vec<Chunk>> {
    workers.run(parts, |chunks: Vec<Chunk>| chunks.into_iter().map(&work).collect())
}

/// Loads the images as both networks' input, a share for each worker.
fn load(
    images: &Unlabelled,
    count: usize,
    nodes: usize,
    workers: &Workers,
    device: &Device,
) -> Result<Vec<Vec<Chunk>>, Error> {
    let chunk = |range: std::ops::Range<usize>| -> Result<Option<Chunk>, Error> {
        let batch = images.batch(&range.collect::<Vec<_>>())?;
        let mut values = vec![None; nodes];
        if batch.indices.is_empty() {
            return Ok(None);
        }
        values[0] = Some(tensor(batch, device));
        Ok(Some(Chunk { teacher: values.clone(), student: values }))
    };
    let cut = |part: std::ops::Range<usize>| -> Result<Vec<Chunk>, Error> {
        let starts = part.clone().step_by(CHUNK);
        starts.filter_map(|start| chunk(start..part.end.min(start + CHUNK)).transpose()).collect()
    };
    let mut parts = workers.parts(count).into_iter().map(cut).collect::<Result<Vec<_>, _>>()?;
    parts.retain(|chunks| !chunks.is_empty());
    match parts.is_empty() {
        true => Err(Error::Data { set: images.name().to_owned(), why: "none of its images can be read".to_owned() }),
        false => Ok(parts),
    }
}

/// The most elements that one network's values of one image take at the same time.
fn live_elements(graph: &Graph) -> usize {
    let mut uses = graph.uses();
    let sizes: Vec<usize> = graph.nodes().iter().map(|node| node.shape.elements()).collect();
    let (mut live, mut most) = (sizes[0], sizes[0]);
    for (index, node) in graph.nodes().iter().enumerate().skip(1) {
        live += sizes[index];
        most = most.max(live);
        for input in &node.inputs {
            uses[input.index()] -= 1;
            if uses[input.index()] == 0 {
                live -= sizes[input.index()];
            }
        }
    }
    most
}

struct Fitted {
    codes: QuantizedWeights,
    bias: Option<Vec<f32>>,
}

/// What a layer is fitted to: the values of the node `input`, which the layer sees, and of its own node `index`.
struct Values<'a> {
    parts: &'a [Vec<Chunk>],
    /// The number of images.
    count: usize,
    index: usize,
    input: usize,
}

/// Fits one layer, whose weights are quantized from `weight`.
fn fit(layer: &DsConv2d, weight: &[f32], values: &Values<'_>, workers: &Workers) -> Result<Fitted, blockfloat::Error> {
    let Values { parts, count, index, input } = *values;
    let [co, cg, kh, kw] = layer.latent.dims();
    let (k, groups) = (cg * kh * kw, layer.groups());
    let filters = co / groups;
    let format = layer.quantization().weight;
    let each = (ROWS_PER_WEIGHT * k).max(LEAST_ROWS).div_ceil(count);
    let work = |(part, chunks): (usize, Vec<[Tensor<4>; 2]>)| {
        let layer = layer.clone();
        let sums = |(i, [x, y]): (usize, [Tensor<4>; 2])| -> Vec<Sums> {
            let random = Random::new(index as u64, &[5, part as u64, i as u64]);
            let [_, _, h, w] = x.dims();
            let options = layer.options([h, w]);
            let pixels = Pixels::new(layer.input(x), y, &options, [kh, kw], each, random);
            (0..groups).map(|group| pixels.sums(group)).collect()
        };
        chunks.into_iter().enumerate().map(sums).reduce(together).expect("a part has images")
    };
    let value = |values: &[Option<Tensor<4>>], at: usize| values[at].clone().expect("it was computed");
    let items = parts.iter().enumerate().map(|(part, chunks)| {
        (part, chunks.iter().map(|c| [value(&c.student, input), value(&c.teacher, index)]).collect())
    });
    let sums = workers.run(items.collect(), work).into_iter().reduce(together).expect("there is a part");

    let (mut codes, mut scales) = (Vec::with_capacity(weight.len()), Vec::new());
    let mut bias = Vec::with_capacity(co);
    for (sums, weight) in sums.iter().zip(weight.chunks_exact(filters * k)) {
        let problem = Problem::new(sums, weight, k, layer.bias.is_some());
        let shape = [filters, cg, kh, kw];
        let found = if k <= MOST_WEIGHTS {
            blockfloat::reconstruct(weight, shape, format, &problem.gram, &problem.cross)?
        } else {
            QuantizedWeights::quantize(weight, shape, format)?
        };
        bias.extend(problem.bias(&found.dequantize()));
        codes.extend_from_slice(found.codes());
        scales.extend_from_slice(found.scales());
    }
    let codes = QuantizedWeights::from_parts([co, cg, kh, kw], format.bits, format.block, codes, scales)?;
    Ok(Fitted { codes, bias: layer.bias.is_some().then_some(bias) })
}

fn together(mut sums: Vec<Sums>, more: Vec<Sums>) -> Vec<Sums> {
    sums.iter_mut().zip(&more).for_each(|(sum, more)| sum.add(more));
    sums
}

/// Estimates batch statistics anew behind quantized layers, and returns the teacher's weights with them.
///
/// burn's running averages take a tenth from each batch: after the last one the teacher's own count for half a percent.
/// Folding the new statistics scales whole filters, which changes scales but no code.
pub(crate) fn reestimated(
    teacher: &Model,
    policy: &Policy,
    images: &Unlabelled,
    order: &Order,
    context: &Context,
) -> Result<Weights, Error> {
    const BATCHES: usize = 50;
    let device = context.device.clone().autodiff();
    let (graph, weights) = (teacher.graph(), teacher.weights());
    let plan = policy.resolve(&graph.fold())?;
    let student = Network::student_with_batch_norm(graph, weights, &plan, ScaleUpdate::Fixed, &device)?;
    context.progress.start("estimate batch statistics", BATCHES);
    for step in 0..BATCHES {
        context.check()?;
        student.forward(tensor(images.batch_of_some(&order.indices(step))?, &device));
        context.progress.advance(step + 1, "");
    }
    context.progress.finish();
    let mut weights = teacher.weights().clone();
    let found = student.to_weights();
    for param in teacher.graph().params().iter().filter(|p| matches!(p.role, Role::Mean | Role::Variance)) {
        weights.insert(&param.name, found[param.name.as_str()].clone());
    }
    Ok(weights)
}
