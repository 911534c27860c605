//! Classification networks from ONNX files: see [`import`].
mod arithmetic;
mod constant;
mod error;
mod fold;
mod layers;
mod layout;
mod lower;
mod names;
mod node;
mod pattern;
#[cfg(test)]
mod tests;
mod view;
mod wire;

use std::ops::RangeInclusive;

use graph::{Builder, Graph, Op, Shape, Weights, pass};
use prost::Message;

use crate::proto::{DimensionValue, GraphProto, ModelProto, ValueInfoProto};
pub use error::ImportError;
use error::Refusal;
use lower::{Kind, Lowered, Lowering, Value};
use names::Names;
use pattern::Rewriter;

/// Opsets of `ai.onnx` that are read.
pub const OPSETS: RangeInclusive<i64> = 7..=25;

/// Images in a batch where the file leaves their number open: a prime that no size of a network is likely to be, so that
/// axes are told apart by their sizes.
const ANY_BATCH: usize = 97;

/// What a file does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportOptions {
    /// Name of the graph; the file's own where there is none here.
    pub name: Option<String>,
    /// `[rows, columns]` of the image, for a file that leaves them open.
    pub input: Option<[usize; 2]>,
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
    /// What was changed that a user should know.
    pub notes: Vec<String>,
}

/// Reads a classification network from the bytes of an ONNX file.
///
/// The file has one input, the image `[N, C, H, W]` (or `[N, H, W, C]` as TensorFlow writes it), and one output, the
/// logits `[N, classes]`. Its opset lies in [`OPSETS`], its weights are constants in the file itself, of any float type.
///
/// | of the graph | from |
/// |---|---|
/// | `Conv2d` | `Conv` with groups, dilation, `auto_pad`, borders that differ (then with a `Pad2d`); `Pad` before it |
/// | `Linear` | `Gemm`, `MatMul` and `Add` |
/// | `BatchNorm2d`, `Affine` | `BatchNormalization`; `Add`, `Sub`, `Mul`, `Div` with a constant for each channel |
/// | `Relu`, `Activation` | `Relu`, `Clip`, `Min`, `Max`, `LeakyRelu`, `PRelu` with one slope, `Sigmoid`, `HardSigmoid`, `HardSwish`, and what these are written as in older opsets: SiLU, hard swish, hard sigmoid |
/// | `MaxPool2d`, `AvgPool2d` | `MaxPool`, `AveragePool`, `GlobalMaxPool`; a `Slice` with steps |
/// | `AdaptiveAvgPool2d` | `GlobalAveragePool`, `ReduceMean` |
/// | `Add`, `Mul`, `Concat` | the same of two values; a gate `[N, C, 1, 1]` for `Mul` |
/// | `Slice`, `Shuffle` | `Split`, `Slice`, `Gather` of channels; `Reshape`, `Transpose`, `Reshape` |
/// | `Pad2d`, `PadShortcut` | `Pad` with a constant |
/// | `Lrn` | `LRN`, or what PyTorch writes for it |
/// | `Softmax` | `Softmax` over classes; the last one is left out, with a note |
/// | `Flatten` or nothing | `Flatten`, `Reshape`, `Squeeze`, `Unsqueeze`, `Transpose` that cancels, `Identity`, `Dropout`, `Cast` |
///
/// Not among them are layer normalisation and GELU (`LayerNormalization`, `Erf`), without which no ConvNeXt and no
/// transformer can be read, `Resize`, `ConvTranspose`, recurrent operators, and operators of other domains.
///
/// Whatever depends on constants and shapes alone is computed. A node is named after its parameter
/// (`layer1.0.conv1.weight` belongs to `layer1.0.conv1`), else after the node of the file, and names are unique.
/// A weight that several nodes share is stored once for each.
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
    let model = ModelProto::decode(bytes)?;
    let opset = opset(&model)?;
    let graph = model.graph.as_ref().ok_or_else(|| malformed("it has no graph"))?;
    let image = read_image(image(graph)?, options)?;
    let attempt = |batch: usize| network(graph, &image, batch, opset, bytes.len(), options);
    let mut imported = match image.batch {
        Some(batch) => attempt(batch)?,
        // A file may leave the batch open and still reshape to one image.
        None => attempt(ANY_BATCH).or_else(|error| attempt(1).map_err(|_| error))?,
    };
    imported.producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_owned();
    Ok(imported)
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

/// The one input that is no constant.
fn image(graph: &GraphProto) -> Result<&ValueInfoProto, ImportError> {
    // Files of 2018 list constants among the inputs.
    let constants: std::collections::HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let inputs: Vec<&ValueInfoProto> =
        graph.input.iter().filter(|input| !constants.contains(input.name.as_str())).collect();
    match inputs.as_slice() {
        [input] => Ok(input),
        [] => Err(malformed("it has no input")),
        [first, second, ..] => Err(ImportError::Input {
            input: second.name.clone(),
            why: format!("a second input beside '{}'", first.name),
            hint: Some("only networks that look at one image are supported"),
        }),
    }
}

/// The input.
struct Image<'a> {
    name: &'a str,
    shape: Shape,
    /// Of the axes `[N, C, H, W]` in the file.
    order: [usize; 4],
    /// Number of images, where it is fixed.
    batch: Option<usize>,
}

fn read_image<'a>(input: &'a ValueInfoProto, options: &ImportOptions) -> Result<Image<'a>, ImportError> {
    let refuse = |why: String, hint: Option<&'static str>| ImportError::Input { input: input.name.clone(), why, hint };
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let shape = tensor.and_then(|t| t.shape.as_ref()).ok_or_else(|| refuse("has no shape".into(), None))?;
    // float, float16, double, bfloat16
    if !tensor.is_some_and(|t| [1, 10, 11, 16].contains(&t.elem_type)) {
        return Err(refuse("is not of floats".into(), Some("the network must take the normalised image")));
    }
    if shape.dim.len() != 4 {
        return Err(refuse(format!("has {} axes, an image batch has 4", shape.dim.len()), None));
    }
    let mut sizes = [None; 4];
    for (size, dim) in sizes.iter_mut().zip(&shape.dim) {
        if let Some(DimensionValue::DimValue(value)) = dim.value
            && value != 0
        {
            let value = usize::try_from(value).ok().filter(|&v| v <= 1 << 16);
            *size = Some(value.ok_or_else(|| refuse("has an impossible size".into(), None))?);
        }
    }
    let [batch, a, b, c] = sizes;
    // Channels last where only that makes sense.
    let is_side = |size: Option<usize>| size.is_none_or(|size| size >= 8);
    let is_last = matches!(c, Some(1 | 3)) && is_side(a) && is_side(b);
    let (channels, rows, columns) = if is_last { (c, a, b) } else { (a, b, c) };
    let channels = channels.ok_or_else(|| refuse("the number of channels is left open".into(), None))?;
    let given = options.input.unwrap_or_default();
    let side = |stated: Option<usize>, given: usize| match (stated, given) {
        (Some(stated), 0) => Ok(stated),
        (Some(stated), given) if stated == given => Ok(stated),
        (Some(stated), given) => Err(refuse(format!("takes images of {stated} pixels a side, not of {given}"), None)),
        (None, 0) => Err(ImportError::OpenSize { input: input.name.clone() }),
        (None, given) => Ok(given),
    };
    let (rows, columns) = (side(rows, given[0])?, side(columns, given[1])?);
    let order = if is_last { [0, 2, 3, 1] } else { [0, 1, 2, 3] };
    Ok(Image { name: &input.name, shape: Shape::new(channels, rows, columns), order, batch })
}

fn network<'a>(
    graph: &'a GraphProto,
    image: &Image<'a>,
    batch: usize,
    opset: i64,
    bytes: usize,
    options: &ImportOptions,
) -> Result<Imported, ImportError> {
    let [output] = graph.output.as_slice() else {
        return Err(malformed(format!("it has {} outputs, a classifier has one", graph.output.len())));
    };
    let mut lowering = Lowering::new(opset, batch, bytes);
    lowering.count(graph);
    let shape = image.shape;
    let at_input =
        |refusal: Refusal| ImportError::Input { input: image.name.to_owned(), why: refusal.why, hint: refusal.hint };
    lowering.input(image.name, shape, &image.order).map_err(at_input)?;
    lowering.graph(graph)?;

    let refuse = |why: String| ImportError::Output { output: output.name.clone(), why };
    let logits = match lowering.values.get(output.name.as_str()).cloned() {
        None => return Err(refuse("no node computes it".into())),
        Some(Value::Constant(_)) => return Err(refuse("does not depend on the image".into())),
        Some(Value::View(view)) => lowering.nchw(&view).map_err(|refusal| refuse(refusal.why))?,
    };
    let mut rewriter = Rewriter::new(std::mem::take(&mut lowering.nodes), logits);
    rewriter.run();
    let mut notes = lowering.notes;
    let last = &rewriter.nodes[rewriter.output];
    if matches!(last.op(), Some(Op::Softmax)) {
        notes.push(format!("the final {} '{}' is left out: the outputs are logits", last.origin.1, last.origin.0));
        rewriter.output = last.inputs[0];
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
    Ok(Imported { graph, weights, input: image.name.to_owned(), opset, producer: String::new(), notes })
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
        };
        if operation == Op::Softmax && op == "LogSoftmax" {
            return Err(refuse("only the last node can be one"));
        }
        for (suffix, tensor) in params {
            if tensor.data().iter().any(|v| !v.is_finite()) {
                return Err(refuse("its parameters overflow"));
            }
            weights.insert(format!("{name}.{suffix}"), tensor);
        }
        parts.push((name, operation, inputs));
    }
    let graph = build(&name, input, &parts)?;
    // A border that no maximum sees is zero where the image within is not negative, so that it stays so.
    let known = pass::non_negative(&graph);
    for (_, op, inputs) in &mut parts {
        if let Op::Pad2d { value, .. } = op
            && *value == f64::from(f32::MIN)
            && known[inputs[0]]
        {
            *value = 0.0;
        }
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
