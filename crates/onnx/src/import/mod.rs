//! Imports classification networks from ONNX files.
mod add;
mod arithmetic;
mod channels;
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
use lower::{Lowered, LoweredOp, Lowering};
use names::UniqueNames;
use pattern::Rewriter;

/// The opsets of `ai.onnx` that can be imported.
pub const OPSETS: RangeInclusive<i64> = 7..=25;

/// The numbers of images for which a file is read that leaves the number open. They are primes, which are seldom sizes in a
/// network, so that the batch is told from other axes. A network for any batch is the same for both.
const ANY_BATCH: [usize; 2] = [97, 89];

/// Settings that a file may leave open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportOptions {
    /// The name of the graph, in place of the one in the file.
    pub name: Option<String>,
    /// The height and width of the image, for a file that leaves them open.
    pub input: Option<[usize; 2]>,
    /// The folder of the file, for tensors whose data is in other files there. Without it such a file is refused.
    pub folder: Option<PathBuf>,
}

/// A network that was imported.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Imported {
    /// The network. Batch normalisations are not folded.
    pub graph: Graph,
    /// The parameters, which fit the graph.
    pub weights: Weights,
    /// The name of the file's input that is the image.
    pub input: String,
    /// The version of the operators.
    pub opset: i64,
    /// The program that wrote the file.
    pub producer: String,
    /// The names of the classes, where the file's metadata has one for each.
    pub classes: Vec<String>,
    /// The preprocessing of images, where the file says it, as those of [`crate::export`] do.
    pub preprocess: Option<Preprocess>,
    /// Whether the network takes the bytes of an image, 0 to 255, instead of normalised floats.
    pub bytes: bool,
    /// The changes that a user should know, each a line.
    pub notes: Vec<String>,
}

impl Imported {
    fn same_network(&self, other: &Self) -> bool {
        self.graph == other.graph && self.weights == other.weights
    }
}

/// Imports a classification network from the bytes of an ONNX file.
///
/// The file has one input, the image `[N, C, H, W]` (or `[N, H, W, C]` as TensorFlow writes it) of floats or of bytes, and
/// one output, the logits `[N, classes]` (or `[classes]` of one image). Its opset lies in [`OPSETS`], and its weights are
/// constants of any float type, in the file itself or in others of its folder ([`ImportOptions::folder`]).
///
/// | operation of the graph | operators of the file |
/// |---|---|
/// | `Conv2d` | `Conv` with groups, dilation, `auto_pad`, borders that differ (then with a `Pad2d`); `Pad` before it |
/// | `Linear` | `Gemm`, `MatMul` and `Add` |
/// | `BatchNorm2d`, `Affine` | `BatchNormalization`; `Add`, `Sub`, `Mul`, `Div` with a constant for each channel; `Neg` |
/// | `Relu`, `Activation` | `Relu`, `Clip`, `Min` and `Max` with a number, `LeakyRelu`, `Sigmoid`, `HardSigmoid`, `HardSwish`, `Tanh`, `Elu`, `Softplus`; SiLU and hard swish as older opsets write them; `Selu`, `Celu`, `Mish`, `Swish` |
/// | `PRelu` | `PRelu` with a slope for each channel |
/// | `MaxPool2d`, `AvgPool2d` | `MaxPool`, `AveragePool`, `GlobalMaxPool`, `ReduceMax`, `ReduceMin`; a `Slice` with steps |
/// | `AdaptiveAvgPool2d` | `GlobalAveragePool`, `ReduceMean`, `ReduceSum` over rows and columns; a value `[N, C, 1, 1]` beside an image, or expanded to one |
/// | `Add`, `Mul`, `Max`, `Concat` | the same operators on two values, `Sum`, `Mean`, `Max`, `Min` of more, `Abs`; a gate `[N, C, 1, 1]` for `Mul` |
/// | `Slice`, `Shuffle` | `Split`, `Slice`, `Gather` of channels; `Reshape`, `Transpose`, `Reshape` |
/// | the order of a layer's weights | channels in another order before it, as from RGB to BGR: `Slice` backwards, `Gather`, `Split` and `Concat` |
/// | `Pad2d`, `PadShortcut` | `Pad` with a constant |
/// | `Lrn` | `LRN`, or the operators that PyTorch writes for it |
/// | `Softmax` | `Softmax` over classes; the last one is left out, as are `LogSoftmax` and `ArgMax` there, with a note |
/// | `Flatten` or nothing | `Flatten`, `Reshape`, `Squeeze`, `Unsqueeze`, `Transpose` that cancels, `Identity`, `Dropout`, `Cast` |
///
/// Layer normalisation and GELU (`LayerNormalization`, `Erf`) are not supported, and so no ConvNeXt and no transformer; nor
/// are `Resize`, `ConvTranspose`, recurrent operators, operators of other domains, and networks in training mode. A quantized
/// network (with `QuantizeLinear` between its layers) is refused, since its float network is needed. A network of which only
/// the weights are integers with scales is imported as a float network.
///
/// Values that depend on constants and shapes alone are computed. Functions of the model are inlined, and nodes may stand in
/// any order. A file that leaves the number of images open is imported for any number, or if that fails for one image.
/// Outputs that are computed from the logits alone are left out, with a note.
///
/// A node is named after its parameter (`layer1.0.conv1.weight` belongs to `layer1.0.conv1`) or else after the node of the
/// file, and names are unique. A weight that several nodes share is stored once for each. The names of classes come from the
/// metadata, under `classes`, `names` and similar keys: a list or dictionary in JSON or as Python prints it, or a text that
/// is separated by commas or lines.
///
/// ```no_run
/// let bytes = std::fs::read("squeezenet.onnx")?;
/// let network = onnx::import(&bytes, &onnx::ImportOptions::default())?;
/// println!("{} nodes", network.graph.nodes().len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ImportError`] says what is wrong, and names the node and its operator where one is at fault. No file makes this panic,
/// or use more memory than a small multiple of its size and 100 MB.
pub fn import(bytes: &[u8], options: &ImportOptions) -> Result<Imported, ImportError> {
    wire::check(bytes)?;
    let mut model = ModelProto::decode(bytes)?;
    let opset = opset(&model)?;
    inline::prepare(&mut model, opset, bytes.len())?;
    let graph = model.graph.as_ref().ok_or_else(|| malformed("it has no graph"))?;
    let image = input::read(input::find(graph)?, options)?;
    let attempt = |batch: usize| network(graph, &image, batch, opset, bytes.len(), options);
    let imported = match image.batch {
        Some(batch) => attempt(batch),
        None => any_batch(attempt),
    };
    let mut imported = imported.map_err(|error| own(&model, error))?;
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

/// Imports a file that leaves the number of images open: for two numbers with the same result, or else for one image.
fn any_batch(attempt: impl Fn(usize) -> Result<Imported, ImportError>) -> Result<Imported, ImportError> {
    let [first, second] = ANY_BATCH;
    match attempt(first) {
        Ok(network) if attempt(second).is_ok_and(|other| other.same_network(&network)) => Ok(network),
        // A file may leave the batch open and still reshape to one image, or have a size that looks like the batch.
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

/// Says of a quantized network that this crate wrote that it is one: its rounding of inputs reads as operators that are not supported.
fn own(model: &ModelProto, error: ImportError) -> ImportError {
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    let coded = nodes.filter(|_| model.producer_name == "dsconv").find(|node| node.op_type == "DequantizeLinear");
    match coded {
        Some(node) => Refusal::hint(
            "dsconv wrote this file of a quantized network, and reads it no more",
            "the file that it was exported from, `.safetensors` or `.dsc`, is a model",
        )
        .at(&node.name, &node.op_type),
        None => error,
    }
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
    // The index of a class, and one softmax before it, are left out.
    for kinds in [[LoweredOp::ArgMax, LoweredOp::ArgMax], [LoweredOp::Op(Op::Softmax), LoweredOp::LogSoftmax]] {
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

/// Makes names unique. Nodes with parameters come first, so that a layer keeps the name of its parameters.
fn name_all(nodes: &mut [Lowered]) {
    let mut names = UniqueNames::default();
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
            LoweredOp::Op(op) => op,
            LoweredOp::Divide => return Err(refuse("one value of the image divided by another is not supported")),
            LoweredOp::Power { .. } => return Err(refuse("not supported, but for the squares and roots of `LRN`")),
            LoweredOp::ChannelMean { .. } => return Err(refuse("a 3-D pooling is not supported")),
            LoweredOp::Reordered(_) => {
                return Err(refuse("flattens a transposed image for something else than a fully connected layer"));
            }
            LoweredOp::LogSoftmax | LoweredOp::ArgMax => return Err(refuse("only the last node can be one")),
            LoweredOp::Float | LoweredOp::Pick(_) => unreachable!("the rewriter leaves none"),
        };
        for (role, tensor) in params {
            if tensor.data().iter().any(|v| !v.is_finite()) {
                return Err(refuse("its parameters overflow"));
            }
            weights.insert(role.name(&name), tensor);
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
