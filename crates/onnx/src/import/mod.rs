//! Classification networks from ONNX files: see [`import`].
mod arithmetic;
mod constant;
mod error;
mod external;
mod fold;
mod inline;
mod input;
mod layers;
mod layout;
mod lower;
mod metadata;
mod names;
mod node;
mod output;
mod pattern;
mod picked;
mod pool;
#[cfg(test)]
mod tests;
mod view;
mod wire;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use graph::{Builder, Graph, Op, Preprocess, Shape, Weights};
use prost::Message;

use crate::proto::{GraphProto, ModelProto};
pub use error::ImportError;
use error::Refusal;
use input::Image;
use lower::{Kind, Lowered, Lowering};
use names::Names;
use pattern::Rewriter;

/// Opsets of `ai.onnx` that are read.
pub const OPSETS: RangeInclusive<i64> = 7..=25;

/// Images in a batch where the file leaves their number open: primes that few sizes of a network are, so that axes are told
/// apart by their sizes. A network for any batch is the same for both.
const ANY_BATCH: [usize; 2] = [97, 89];

/// What a file does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportOptions {
    /// Name of the graph; the file's own where there is none here.
    pub name: Option<String>,
    /// `[rows, columns]` of the image, for a file that leaves them open.
    pub input: Option<[usize; 2]>,
    /// The folder of the file, for data that lies in other files there; without it such files are refused.
    pub folder: Option<PathBuf>,
}

/// A network from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The network, batch normalisations as they are in the file.
    pub graph: Graph,
    /// Its parameters.
    pub weights: Weights,
    /// Name of the image among the file's inputs.
    pub input: String,
    /// Version of the operators.
    pub opset: i64,
    /// The program that wrote the file.
    pub producer: String,
    /// The names of the classes, where the file's metadata has one for each.
    pub classes: Vec<String>,
    /// How images are prepared, where the file says it: dsconv's own exports do.
    pub preprocess: Option<Preprocess>,
    /// Whether the network takes the bytes of an image, 0 to 255, and not normalised floats.
    pub bytes: bool,
    /// What was changed that a user should know.
    pub notes: Vec<String>,
}

impl Imported {
    fn same_network(&self, other: &Self) -> bool {
        self.graph == other.graph && self.weights == other.weights
    }
}

/// Reads a classification network from the bytes of an ONNX file.
///
/// The file has one input, the image `[N, C, H, W]` (or `[N, H, W, C]` as TensorFlow writes it) of floats or of bytes, and
/// one output, the logits `[N, classes]` (or `[classes]` of one image). Its opset lies in [`OPSETS`], its weights are
/// constants of any float type, in the file itself or in others of its folder ([`ImportOptions::folder`]).
///
/// | of the graph | from |
/// |---|---|
/// | `Conv2d` | `Conv` with groups, dilation, `auto_pad`, borders that differ (then with a `Pad2d`); `Pad` before it |
/// | `Linear` | `Gemm`, `MatMul` and `Add` |
/// | `BatchNorm2d`, `Affine` | `BatchNormalization`; `Add`, `Sub`, `Mul`, `Div` with a constant for each channel; `Neg` |
/// | `Relu`, `Activation` | `Relu`, `Clip`, `Min` and `Max` with a number, `LeakyRelu`, `Sigmoid`, `HardSigmoid`, `HardSwish`, `Tanh`, `Elu`, `Softplus`, and what is made of them: SiLU and hard swish as older opsets write them, `Selu`, `Celu`, `Mish`, `Swish` |
/// | `PRelu` | `PRelu` with a slope for each channel |
/// | `MaxPool2d`, `AvgPool2d` | `MaxPool`, `AveragePool`, `GlobalMaxPool`, `ReduceMax`, `ReduceMin`; a `Slice` with steps |
/// | `AdaptiveAvgPool2d` | `GlobalAveragePool`, `ReduceMean`, `ReduceSum` over rows and columns; a value `[N, C, 1, 1]` beside an image, or expanded to one |
/// | `Add`, `Mul`, `Max`, `Concat` | the same of two values, `Sum`, `Mean`, `Max`, `Min` of more, `Abs`; a gate `[N, C, 1, 1]` for `Mul` |
/// | `Slice`, `Shuffle` | `Split`, `Slice`, `Gather` of channels; `Reshape`, `Transpose`, `Reshape` |
/// | a layer's weights | channels in another order before it, as from RGB to BGR: `Slice` backwards, `Gather`, `Split` and `Concat` |
/// | `Pad2d`, `PadShortcut` | `Pad` with a constant |
/// | `Lrn` | `LRN`, or what PyTorch writes for it |
/// | `Softmax` | `Softmax` over classes; the last one is left out, as are `LogSoftmax` and `ArgMax` there, with a note |
/// | `Flatten` or nothing | `Flatten`, `Reshape`, `Squeeze`, `Unsqueeze`, `Transpose` that cancels, `Identity`, `Dropout`, `Cast` |
///
/// Not among them are layer normalisation and GELU (`LayerNormalization`, `Erf`), without which no ConvNeXt and no
/// transformer can be read, `Resize`, `ConvTranspose`, recurrent operators, operators of other domains, and networks that
/// are in training mode. Of a quantized network (`QuantizeLinear` between its layers) the float one is needed; one whose
/// weights alone are integers with scales is a float network.
///
/// Whatever depends on constants and shapes alone is computed. The model's own functions are put where they are called, and
/// nodes may stand in any order. A file that leaves the number of images open gives the same network for any of them, or
/// else that for one image. Outputs beside the logits that are computed from these alone are left out, with a note.
///
/// A node is named after its parameter (`layer1.0.conv1.weight` belongs to `layer1.0.conv1`), else after the node of the
/// file, and names are unique. A weight that several nodes share is stored once for each. Names of classes come from the
/// metadata (`classes`, `names` and the like: a list or dictionary in JSON or as Python prints it, or what commas or lines
/// separate).
///
/// ```no_run
/// let bytes = std::fs::read("squeezenet.onnx")?;
/// let network = onnx::import(&bytes, &onnx::ImportOptions::default())?;
/// println!("{} nodes", network.graph.nodes().len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ImportError`], which names the node and its operator where it is about one. A file cannot make this panic, nor use
/// more memory than a small multiple of its own size and 100 MB.
pub fn import(bytes: &[u8], options: &ImportOptions) -> Result<Imported, ImportError> {
    wire::check(bytes)?;
    let mut model = ModelProto::decode(bytes)?;
    let opset = opset(&model)?;
    inline::prepare(&mut model, opset, bytes.len())?;
    let graph = model.graph.as_ref().ok_or_else(|| malformed("it has no graph"))?;
    let image = input::read(input::find(graph)?, options)?;
    let attempt = |batch: usize| network(graph, &image, batch, opset, bytes.len(), options);
    let mut imported = match image.batch {
        Some(batch) => attempt(batch)?,
        None => any_batch(attempt)?,
    };
    imported.producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_owned();
    imported.preprocess = metadata::preprocess(&model.metadata_props)
        .filter(|preprocess| preprocess.channels() == imported.graph.input().channels);
    if let Some((key, names)) = metadata::classes(&model.metadata_props) {
        let count = imported.graph.head().classes();
        match names.len() {
            0 => imported.notes.push(format!("its metadata `{key}` do not read as names of classes: left out")),
            named if named == count => imported.classes = names,
            named => imported.notes.push(format!(
                "its metadata `{key}` names {named} classes, its output has {count}: the names are left out"
            )),
        }
    }
    Ok(imported)
}

/// A network whose file leaves the number of images open: the same for two numbers, or else for one image.
fn any_batch(attempt: impl Fn(usize) -> Result<Imported, ImportError>) -> Result<Imported, ImportError> {
    let [first, second] = ANY_BATCH;
    match attempt(first) {
        Ok(network) if attempt(second).is_ok_and(|other| other.same_network(&network)) => Ok(network),
        // A file may leave the batch open and still reshape to one image, or have a size that is taken for the batch.
        Ok(_) => attempt(1),
        Err(error) => attempt(1).map_err(|_| error),
    }
}

fn malformed(why: impl Into<String>) -> ImportError {
    ImportError::Malformed { why: why.into() }
}

fn opset(model: &ModelProto) -> Result<i64, ImportError> {
    let version = |domain: &[&str]| {
        model.opset_import.iter().find(|set| domain.contains(&set.domain.as_str())).map(|set| set.version)
    };
    let version = version(&["", "ai.onnx"]).ok_or_else(|| malformed("it names no version of `ai.onnx`"))?;
    if OPSETS.contains(&version) { Ok(version) } else { Err(ImportError::Opset { domain: "ai.onnx".into(), version }) }
}

fn network<'a>(
    graph: &'a GraphProto,
    image: &Image<'a>,
    batch: usize,
    opset: i64,
    bytes: usize,
    options: &'a ImportOptions,
) -> Result<Imported, ImportError> {
    let mut lowering = Lowering::new(opset, batch, bytes, options.folder.as_deref());
    lowering.count(graph);
    let shape = image.shape;
    let at_input =
        |refusal: Refusal| ImportError::Input { input: image.name.to_owned(), why: refusal.why, hint: refusal.hint };
    lowering.input(image.name, shape, &image.order, image.bytes).map_err(at_input)?;
    lowering.graph(graph)?;
    let logits = output::logits(graph, &mut lowering)?;
    let refuse = |why: String| ImportError::Output { output: graph.output[0].name.clone(), why, hint: None };
    if lowering.nodes[logits].bytes {
        return Err(refuse("is of bytes, logits are floats".into()));
    }

    let mut notes = std::mem::take(&mut lowering.notes);
    if lowering.stored_as_codes {
        notes.push("its weights are stored as integers: their values are taken as floats".into());
    }
    if image.bytes {
        notes.push("it takes the bytes of an image, 0 to 255, and normalises them itself".into());
    }
    let mut rewriter = Rewriter::new(std::mem::take(&mut lowering.nodes), logits);
    rewriter.run();
    // An index of a class, and one softmax before it.
    for kinds in [[Kind::ArgMax, Kind::ArgMax], [Kind::Op(Op::Softmax), Kind::LogSoftmax]] {
        let last = &rewriter.nodes[rewriter.output];
        if kinds.contains(&last.kind) {
            notes.push(format!("the final {} '{}' is left out: the outputs are logits", last.origin.1, last.origin.0));
            rewriter.output = last.inputs[0];
        }
    }
    let mut nodes = rewriter.finish();
    name_all(&mut nodes);
    let last = nodes.last().map(|node| node.shape);
    if let Some(shape) = last.filter(|shape| shape.height != 1 || shape.width != 1) {
        return Err(refuse(format!(
            "has the shape [N, {}, {}, {}], logits are [N, classes]",
            shape.channels, shape.height, shape.width
        )));
    }
    let name = match &options.name {
        Some(name) => name.clone(),
        None => graph.name.chars().filter(|c| !c.is_control()).take(100).collect(),
    };
    let (graph, weights) = assemble(name, shape, nodes)?;
    let (input, bytes) = (image.name.to_owned(), image.bytes);
    Ok(Imported {
        graph,
        weights,
        input,
        opset,
        producer: String::new(),
        classes: vec![],
        preprocess: None,
        bytes,
        notes,
    })
}

/// Makes names unique; what has parameters comes first, so that a layer keeps the name of its parameters.
fn name_all(nodes: &mut [Lowered]) {
    let mut names = Names::default();
    let has_params = |node: &Lowered| !node.params.is_empty() || node.inputs.is_empty();
    for pass in [true, false] {
        for node in nodes.iter_mut().filter(|node| has_params(node) == pass) {
            node.name = names.unique(&node.name);
        }
    }
}

fn assemble(name: String, input: Shape, nodes: Vec<Lowered>) -> Result<(Graph, Weights), ImportError> {
    let mut weights = Weights::default();
    let mut parts: Vec<(String, Op, Vec<usize>)> = Vec::with_capacity(nodes.len());
    for Lowered { name, kind, inputs, params, origin: (title, op), .. } in nodes {
        let refuse = |why: &str| Refusal::from(why).at(&title, &op);
        let operation = match kind {
            Kind::Op(op) => op,
            Kind::Divide => return Err(refuse("one value of the image divided by another is not supported")),
            Kind::Power { .. } => return Err(refuse("not supported, but for the squares and roots of `LRN`")),
            Kind::ChannelMean { .. } => return Err(refuse("a 3-D pooling is not supported")),
            Kind::Reordered(_) => {
                return Err(refuse("flattens a transposed image for something else than a fully connected layer"));
            }
            Kind::LogSoftmax | Kind::ArgMax => return Err(refuse("only the last node can be one")),
            Kind::Float | Kind::Pick(_) => unreachable!("the rewriter leaves none"),
        };
        for (suffix, tensor) in params {
            if tensor.data().iter().any(|v| !v.is_finite()) {
                return Err(refuse("its parameters overflow"));
            }
            weights.insert(format!("{name}.{suffix}"), tensor);
        }
        parts.push((name, operation, inputs));
    }
    Ok((build(&name, input, &parts)?, weights))
}

fn build(name: &str, input: Shape, parts: &[(String, Op, Vec<usize>)]) -> Result<Graph, ImportError> {
    let mut builder = Builder::new(name, input);
    let mut ids = vec![builder.input()];
    for (name, op, inputs) in &parts[1..] {
        let inputs = inputs.iter().map(|&input| ids[input]).collect();
        ids.push(builder.push(name.clone(), op.clone(), inputs));
    }
    Ok(builder.finish()?)
}
