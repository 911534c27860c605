//! A trial takes a graph through everything that is done with an imported network.
use std::cell::Cell;

use burn::tensor::{Device, Tensor, TensorData};
use dsconv::Network;
use graph::{Op, Preprocess};
use model::{Info, Model, Policy, SaveOptions, dsc};
use onnx::{ImportOptions, Imported};
use runtime::KernelName;

use super::Case;
use super::numbers::{self, Random};

/// How far logits in floats may differ, relative to the largest one: only the order of sums differs.
const FLOAT: f64 = 1e-4;

/// The reason why a graph is not right.
pub enum Failure {
    Refused(String),
    Wrong(String),
}

type Result<T = ()> = std::result::Result<T, Failure>;

fn wrong<T>(why: impl Into<String>) -> Result<T> {
    Err(Failure::Wrong(why.into()))
}

/// A graph under trial.
pub struct Trial<'a> {
    pub case: &'a Case,
    /// The name of what is being done.
    pub stage: &'a Cell<&'static str>,
    /// How many times engine and simulation rounded a value to two codes.
    pub turned: Cell<usize>,
}

impl Trial<'_> {
    pub fn run(&self) -> Result {
        let side = |i: usize| self.case.header["sides"][i].as_u64().map(|n| n as usize);
        let options = ImportOptions { input: side(0).zip(side(1)).map(|(h, w)| [h, w]), ..ImportOptions::default() };
        let imported = onnx::import(&self.case.onnx, &options).map_err(|error| Failure::Refused(error.to_string()))?;
        let input = self.input(&imported)?;
        let info = Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: "random".into() };
        let float = Model::float(imported.graph.clone(), imported.weights.clone(), info)
            .or_else(|error| wrong(error.to_string()))?;

        self.stage.set("floats");
        let logits = self.floats(&float, &input)?;
        let found = normalised(&imported, logits.clone(), float.graph().output().elements());
        near(&found, &self.case.logits, FLOAT)?;

        self.stage.set("fold");
        let (graph, weights) = float.clone().fold().or_else(|error| wrong(error.to_string()))?.into_parts();
        let folded = Model::float(graph.into_graph(), weights, float.info().clone());
        let folded = folded.or_else(|error| wrong(error.to_string()))?;
        near(&forward(&folded, &input), &logits, FLOAT)?;

        self.export(&float, &input, &logits)?;

        let mut random = Random::new(self.case.seed());
        self.integers(&float, &numbers::w8a8(), &input, &mut random)?;
        if random.pick(&[true, false]) {
            self.integers(&float, &numbers::any(&mut random), &input, &mut random)?;
        }
        Ok(())
    }

    /// Gives the images as `[N, C, H, W]`, whatever their order in the file.
    fn input(&self, imported: &Imported) -> Result<Images> {
        let [n, a, b, c] = self.case.shape();
        let shape = imported.graph.input();
        let [channels, height, width] = [shape.channels, shape.height, shape.width];
        let x = &self.case.input;
        // Where all sizes are equal, a file that leaves two of them open means the channels to be last.
        let is_last = self.case.header["last_of_open"] == true;
        let pixels = if [a, b, c] == [channels, height, width] && !is_last {
            x.clone()
        } else if [a, b, c] == [height, width, channels] {
            let at = |i: usize, k: usize, p: usize| x[(i * height * width + p) * channels + k];
            let places =
                (0..n).flat_map(|i| (0..channels).flat_map(move |k| (0..height * width).map(move |p| (i, k, p))));
            places.map(|(i, k, p)| at(i, k, p)).collect()
        } else {
            return wrong(format!("images {shape} of {a} x {b} x {c}"));
        };
        Ok(Images { pixels, shape: [n, channels, height, width] })
    }

    /// Computes the logits in floats, and checks what the graph says of shapes and signs between nodes.
    fn floats(&self, model: &Model, input: &Images) -> Result<Vec<f32>> {
        let graph = model.graph();
        let taps: Vec<_> = graph.nodes().iter().map(|node| graph.find(&node.name).expect("a node")).collect();
        let (logits, values) = Network::new(model, &Device::flex()).forward_taps(input.tensor(), &taps);
        for ((node, value), positive) in graph.nodes().iter().zip(values).zip(graph.non_negative()) {
            let dims = value.dims();
            if dims[1..] != [node.shape.channels, node.shape.height, node.shape.width] {
                return wrong(format!("node '{}' gives {dims:?}, not {}", node.name, node.shape));
            }
            if positive && !matches!(node.op, Op::Input) && host(value).iter().any(|&v| v < 0.0) {
                return wrong(format!("node '{}' is said not to be negative", node.name));
            }
        }
        Ok(host(logits))
    }

    /// Writes the model as ONNX and as a model file, and reads both again.
    fn export(&self, float: &Model, input: &Images, logits: &[f32]) -> Result {
        self.stage.set("export");
        let bytes = onnx::export(float, &onnx::Profile::Fp32).or_else(|error| wrong(error.to_string()))?;
        // Two products of matrices, which are not read again; and an image of one column or three, whose channels seem to
        // be last.
        let is_adaptive = |op: &Op| matches!(op, Op::AdaptiveAvgPool2d { output } if *output != [1, 1]);
        let shape = float.graph().input();
        let seems_last = matches!(shape.width, 1 | 3) && shape.height >= 8 && shape.channels >= 8;
        if !seems_last && !float.graph().nodes().iter().any(|node| is_adaptive(&node.op)) {
            let again = onnx::import(&bytes, &ImportOptions::default()).or_else(|error| wrong(error.to_string()))?;
            let again = Model::float(again.graph, again.weights, float.info().clone());
            let again = again.or_else(|error| wrong(error.to_string()))?;
            // What ends in a softmax is read without it.
            let ends_alike = again.graph().nodes().last().map(|n| &n.op) == float.graph().nodes().last().map(|n| &n.op);
            if ends_alike {
                near(&forward(&again, input), logits, FLOAT)?;
            }
        }
        self.stage.set("file");
        let bytes =
            files::packed::to_bytes(float, &SaveOptions::default()).or_else(|error| wrong(error.to_string()))?;
        let read = files::from_bytes(&bytes).or_else(|error| wrong(error.to_string()))?;
        if read == *float { Ok(()) } else { wrong("a model file gives another model") }
    }

    /// Quantizes the model, writes it as a `.dsc` file, and compares the engine on several kernels with the simulation.
    fn integers(&self, float: &Model, policy: &Policy, input: &Images, random: &mut Random) -> Result {
        self.stage.set("quantize");
        let model = match float.quantize(policy) {
            Ok(model) => model,
            // Blocks that are too long for these sums.
            Err(model::ModelError::Policy(_)) => return Ok(()),
            Err(error) => return wrong(error.to_string()),
        };
        if !model.is_quantized() {
            return Ok(());
        }
        self.stage.set("dsc");
        let bytes = dsc::write(&model, &dsc::Options::EXACT).or_else(|error| wrong(error.to_string()))?;
        let read =
            dsc::File::parse(&bytes).and_then(|file| file.to_model()).or_else(|error| wrong(error.to_string()))?;
        if read != model {
            return wrong("a .dsc file gives another model");
        }
        self.stage.set("engine");
        let fastest = runtime::Model::from_bytes(&bytes).or_else(|error| wrong(error.to_string()))?;
        let found = engine(&fastest, &input.pixels, random.pick(&[1, 1, 1, 2]))?;
        let all = runtime::kernels();
        let others = if random.pick(&[0, 1, 2, 3, 4, 5, 6, 7]) == 0 { all.as_slice() } else { &[KernelName::Scalar] };
        self.stage.set("kernels");
        for &kernel in others {
            let other =
                runtime::Model::with_kernel(model.clone(), Some(kernel)).or_else(|error| wrong(error.to_string()))?;
            // One by one: an image's logits do not depend on those beside it.
            let mut logits = Vec::new();
            for image in input.pixels.chunks_exact(input.image()) {
                logits.extend(engine(&other, image, 1)?);
            }
            if logits.iter().map(|v| v.to_bits()).ne(found.iter().map(|v| v.to_bits())) {
                return wrong(format!("{}: {logits:?}, {kernel}: {found:?}, with {policy:?}", fastest.kernel()));
            }
        }
        self.stage.set("simulation");
        self.explained(&model, input, &found, random).or_else(|why| {
            if let Failure::Wrong(why) = why { wrong(format!("{why}, with {policy:?}")) } else { Err(why) }
        })
    }

    /// Checks that the engine's logits are the simulation's. Both round the same numbers but for the order of their sums. A
    /// value that lies between two codes, up to that, becomes one here and the other there, and logits move by what one code
    /// is worth. So where they are not near, they have to lie among those that the simulation itself gives when all its
    /// floats are moved by a millionth, which turns the same codes over.
    fn explained(&self, model: &Model, input: &Images, found: &[f32], random: &mut Random) -> Result {
        let expected = forward(model, input);
        let Err(why) = near(found, &expected, FLOAT) else { return Ok(()) };
        let mut spread = vec![0.0f64; expected.len()];
        for _ in 0..32 {
            let pixels = numbers::moved_pixels(&input.pixels, random);
            let other = forward(&numbers::moved(model, random), &Images { pixels, shape: input.shape });
            for (spread, (a, b)) in spread.iter_mut().zip(other.iter().zip(&expected)) {
                *spread = spread.max(f64::from((a - b).abs()));
            }
        }
        let slack = FLOAT * largest(&expected);
        let is_explained = found
            .iter()
            .zip(&expected)
            .zip(&spread)
            .all(|((a, b), spread)| a.is_finite() && f64::from((a - b).abs()) <= 2.0 * spread + slack);
        self.turned.set(self.turned.get() + 1);
        if is_explained { Ok(()) } else { Err(why) }
    }
}

/// Images `[N, C, H, W]`.
struct Images {
    pixels: Vec<f32>,
    shape: [usize; 4],
}

impl Images {
    fn tensor(&self) -> Tensor<4> {
        Tensor::from_data(TensorData::new(self.pixels.clone(), self.shape), &Device::flex())
    }

    /// The number of elements of one image.
    fn image(&self) -> usize {
        self.shape[1..].iter().product()
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("floats")
}

fn forward(model: &Model, input: &Images) -> Vec<f32> {
    host(Network::new(model, &Device::flex()).forward(input.tensor()))
}

fn engine(model: &runtime::Model, images: &[f32], threads: usize) -> Result<Vec<f32>> {
    let logits = model.session(threads).and_then(|mut session| session.run(images).map(<[f32]>::to_vec));
    logits.or_else(|error| wrong(error.to_string()))
}

/// Normalises logits as the file's last node does, where the import leaves that node out.
fn normalised(imported: &Imported, mut logits: Vec<f32>, classes: usize) -> Vec<f32> {
    let Some(note) = imported.notes.iter().find(|note| note.contains("the outputs are logits")) else { return logits };
    for row in logits.chunks_exact_mut(classes) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|v| (v - most).exp()).sum();
        row.iter_mut().for_each(|v| {
            *v = if note.contains("LogSoftmax") { *v - most - sum.ln() } else { (*v - most).exp() / sum }
        });
    }
    logits
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |most, v| most.max(f64::from(v.abs())))
}

/// Checks that all differences are within `tolerance` of the largest value.
fn near(found: &[f32], expected: &[f32], tolerance: f64) -> Result {
    if found.len() != expected.len() {
        return wrong(format!("{} logits, not {}", found.len(), expected.len()));
    }
    let error = |(a, b): (&f32, &f32)| if a.is_finite() { f64::from((a - b).abs()) } else { f64::INFINITY };
    let difference = found.iter().zip(expected).map(error).fold(0.0, f64::max) / largest(expected).max(1e-6);
    if difference <= tolerance {
        return Ok(());
    }
    let first = |values: &[f32]| values.iter().take(4).map(|v| v.to_string()).collect::<Vec<_>>().join(" ");
    wrong(format!("differs by {difference:.1e}: {} for {}", first(found), first(expected)))
}
