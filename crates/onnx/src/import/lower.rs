//! Lowers the nodes of the file to those of the graph, one after the other.
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use graph::{Op, Role, Shape, Tensor};

use super::ImportError;
use super::constant::{self, Constant};
use super::error::{Refusal, Result};
use super::external::External;
use super::fold;
use super::names;
use super::node::Node;
use super::view::View;
use crate::proto::{DataType, GraphProto, TensorProto};

/// The operation of a lowered node. Those that the graph does not have are replaced later, or refused.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LoweredOp {
    /// An operation of the graph.
    Op(Op),
    /// The mean of `size` channels, from each channel on. It is only a part of a pattern.
    ChannelMean { size: usize },
    /// `x^exponent`. It is only a part of a pattern.
    Power { exponent: f64 },
    /// The first value divided by the second. It is only a part of a pattern.
    Divide,
    /// The features of a view that is not in its node's order. It may only stand before a fully connected layer.
    Reordered(View),
    /// These channels of the input, in this order. They become a part of the layer after it, or slices that are joined.
    Pick(Vec<usize>),
    /// The conversion of bytes to floats, which keeps the values.
    Float,
    /// The logarithm of a softmax. It may only be the last operation.
    LogSoftmax,
    /// The index of the largest class. It may only be the last operation, and counts as `[1, 1, 1]`.
    ArgMax,
}

/// A node of the graph that is made.
#[derive(Debug, Clone)]
pub(super) struct Lowered {
    /// The name, which need not be unique yet.
    pub name: String,
    pub kind: LoweredOp,
    /// The positions of earlier nodes.
    pub inputs: Vec<usize>,
    /// The parameters, by their roles.
    pub params: Vec<(Role, Tensor)>,
    pub shape: Shape,
    /// The title and the operator of the node of the file.
    pub origin: (String, String),
    /// Whether the value consists of bytes, as the image before a `Cast` may.
    pub bytes: bool,
}

impl Lowered {
    pub fn op(&self) -> Option<&Op> {
        match &self.kind {
            LoweredOp::Op(op) => Some(op),
            _ => None,
        }
    }

    /// Returns the values of a parameter.
    ///
    /// # Panics
    /// Panics if the node has no parameter of this role.
    pub fn param(&self, role: Role) -> &[f32] {
        let found = self.params.iter().find(|(other, _)| *other == role);
        found.unwrap_or_else(|| panic!("no parameter `{}`", role.suffix())).1.data()
    }
}

/// A value of the file.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Constant(Rc<Constant>),
    View(View),
}

/// The state of lowering.
pub(super) struct Lowering<'a> {
    pub opset: i64,
    /// The images in a batch: the file's number, or one that stands for any.
    pub batch: usize,
    pub values: HashMap<&'a str, Value>,
    /// The number of times that each value of the file is read.
    pub uses: HashMap<&'a str, usize>,
    pub nodes: Vec<Lowered>,
    /// The position of the flattened value of a node.
    pub flattened: HashMap<usize, usize>,
    /// The elements of constants and parameters that may still be made.
    budget: usize,
    /// The multiply-adds of constants so far.
    pub work: usize,
    external: External<'a>,
    /// The sizes of other files that the budget has counted.
    external_size: u64,
    /// Whether weights were integers with scales.
    pub stored_as_codes: bool,
    /// The title and the operator of the current node.
    pub origin: (String, String),
    /// The name for nodes that are made of the current node.
    pub wanted: String,
    pub notes: Vec<String>,
}

impl<'a> Lowering<'a> {
    /// Starts for a file of `bytes` bytes, which limits the elements that may be made of it.
    pub fn new(opset: i64, batch: usize, bytes: usize, folder: Option<&'a Path>) -> Self {
        Self {
            opset,
            batch,
            values: HashMap::new(),
            uses: HashMap::new(),
            nodes: Vec::new(),
            flattened: HashMap::new(),
            budget: bytes.saturating_mul(2).saturating_add(1 << 20),
            work: 0,
            external: External::new(folder),
            external_size: 0,
            stored_as_codes: false,
            origin: Default::default(),
            wanted: String::new(),
            notes: Vec::new(),
        }
    }

    /// Adds the image as the first node; `perm` is the permutation of its view.
    pub fn input(&mut self, name: &'a str, shape: Shape, perm: &[usize], bytes: bool) -> Result<()> {
        let node = self.add_named("input", LoweredOp::Op(Op::Input), vec![], vec![], Some(shape))?;
        self.nodes[node].bytes = bytes;
        let view = View::plain(node, vec![self.batch, shape.channels, shape.height, shape.width]).transpose(perm);
        self.values.insert(name, Value::View(view));
        Ok(())
    }

    /// Takes `elements` from the budget before they are made.
    ///
    /// # Errors
    /// The budget has fewer.
    pub fn charge(&mut self, elements: usize) -> Result<()> {
        let left = self.budget.checked_sub(elements);
        self.budget = left.ok_or("makes more numbers than the file's size justifies")?;
        Ok(())
    }

    /// Counts the readers of each value, in this graph and those within it.
    pub fn count(&mut self, graph: &'a GraphProto) {
        for node in &graph.node {
            for input in &node.input {
                *self.uses.entry(input).or_default() += 1;
            }
            for inner in node.attribute.iter().filter_map(|attribute| attribute.g.as_deref()) {
                self.count(inner);
            }
        }
        for output in &graph.output {
            *self.uses.entry(&output.name).or_default() += 1;
        }
    }

    /// Reads the constants and lowers the nodes of `graph` that its outputs need.
    pub fn graph(&mut self, graph: &'a GraphProto) -> std::result::Result<(), ImportError> {
        let mut needed: std::collections::HashSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        let mut wanted = vec![false; graph.node.len()];
        for (node, wanted) in graph.node.iter().zip(&mut wanted).rev() {
            *wanted = node.output.iter().any(|output| needed.contains(output.as_str()));
            if *wanted {
                needed.extend(node.input.iter().map(String::as_str));
                for inner in node.attribute.iter().filter_map(|attribute| attribute.g.as_deref()) {
                    needs(inner, &mut needed);
                }
            }
        }
        for tensor in graph.initializer.iter().filter(|tensor| needed.contains(tensor.name.as_str())) {
            let constant = self.read(tensor)?;
            if self.values.insert(&tensor.name, Value::Constant(Rc::new(constant))).is_some() {
                let why = "another value has its name".into();
                return Err(ImportError::Tensor { tensor: tensor.name.clone(), why, hint: None });
            }
        }
        for (proto, _) in graph.node.iter().zip(wanted).filter(|(_, wanted)| *wanted) {
            self.node(Node(proto))?;
        }
        Ok(())
    }

    /// Reads a tensor of the file, or of a file beside it.
    fn read(&mut self, tensor: &TensorProto) -> std::result::Result<Constant, ImportError> {
        let constant = self.external.read(tensor)?;
        let more = usize::try_from(self.external.size - self.external_size).unwrap_or(usize::MAX);
        self.external_size = self.external.size;
        // Elements of a byte or less take fewer bytes in the file than the floats that are made of them.
        let range = constant::integers(constant.kind).and_then(|(low, high)| high.checked_sub(low));
        let small = range.is_some_and(|range| range < 256);
        let small = if small { constant.data.len().saturating_mul(4) } else { 0 };
        self.budget = self.budget.saturating_add(more.saturating_mul(2)).saturating_add(small);
        Ok(constant)
    }

    /// Reads a tensor within a node.
    pub fn tensor(&mut self, tensor: &TensorProto) -> Result<Constant> {
        self.read(tensor).map_err(|error| Refusal { why: String::new(), hint: None, whole: Some(Box::new(error)) })
    }

    fn node(&mut self, node: Node<'a>) -> std::result::Result<(), ImportError> {
        let op = node.full_op();
        self.origin = (node.title().to_owned(), op.clone());
        self.wanted = names::of_node(node);
        let results = self.dispatch(node).map_err(|refusal| refusal.at(node.title(), &op))?;
        for (output, value) in node.0.output.iter().zip(results) {
            if let Some(value) = value
                && !output.is_empty()
                && self.values.insert(output, value).is_some()
            {
                return Err(
                    Refusal::from(format!("its output '{output}' has the name of another value")).at(node.title(), &op)
                );
            }
        }
        Ok(())
    }

    /// Lowers a node and returns the values of its outputs.
    fn dispatch(&mut self, node: Node<'a>) -> Result<Vec<Option<Value>>> {
        if !node.is_standard() {
            if is_quantized(node.op()) {
                return Err(Refusal::hint("the network is quantized already", FLOAT_ONE));
            }
            return Err(Refusal::hint(
                "operators of other domains are not supported",
                "export with the standard operators alone (`ai.onnx`)",
            ));
        }
        if let Some(results) = self.fold(node)? {
            return Ok(results.into_iter().map(|result| Some(Value::Constant(result))).collect());
        }
        self.refuse_bytes(node)?;
        if node.op() == "CastLike"
            && let Value::Constant(constant) = self.value(node, 0)?
        {
            let kind = if self.nodes[self.view(node, 1)?.node].bytes { DataType::Uint8 } else { DataType::Float };
            return Ok(vec![Some(Value::Constant(Rc::new(fold::cast(&constant, kind as i64)?)))]);
        }
        let one = |view: View| Ok(vec![Some(Value::View(view))]);
        match node.op() {
            "Conv" => one(self.conv(node)?),
            "Gemm" => one(self.gemm(node)?),
            "MatMul" => one(self.matmul(node)?),
            "BatchNormalization" => one(self.batch_norm(node)?),
            "MaxPool" | "AveragePool" => one(self.pool(node)?),
            "GlobalAveragePool" | "GlobalMaxPool" => one(self.global_pool(node)?),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" => one(self.reduce(node)?),
            "LRN" => one(self.lrn(node)?),
            "Log" => one(self.log(node)?),
            "Softmax" | "LogSoftmax" | "ArgMax" => one(self.softmax(node)?),
            "Relu" | "Clip" | "LeakyRelu" | "PRelu" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Tanh" | "Elu"
            | "Selu" | "Celu" | "Softplus" | "Mish" | "Swish" | "Abs" => one(self.activation(node)?),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Neg" => one(self.arithmetic(node)?),
            "Sum" | "Mean" | "Min" | "Max" => one(self.joined_values(node)?),
            "Identity" | "Dropout" | "Cast" | "CastLike" => one(self.pass(node)?),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" | "Expand" => one(self.rearrange(node)?),
            "Slice" => one(self.slice(node)?),
            "Split" => Ok(self.split(node)?),
            "Gather" => one(self.gather(node)?),
            "Pad" => one(self.pad(node)?),
            "Concat" => one(self.concat(node)?),
            "If" => self.branch(node),
            "LayerNormalization" | "InstanceNormalization" | "GroupNormalization" => Err(Refusal::hint(
                "not supported: only batch normalisation is, whose statistics are constants",
                super::layers::NORMALISATION,
            )),
            op if is_quantized(op) => Err(Refusal::hint("the network is quantized already", FLOAT_ONE)),
            // Each name above is one of these.
            _ => Err(Refusal::hint("not supported", SUPPORTED)),
        }
    }

    /// Refuses arithmetic with bytes, whose sums would wrap around. They may only be moved.
    fn refuse_bytes(&self, node: Node<'a>) -> Result<()> {
        let moves = [
            "Cast",
            "CastLike",
            "Identity",
            "Reshape",
            "Flatten",
            "Squeeze",
            "Unsqueeze",
            "Transpose",
            "Expand",
            "Slice",
            "Split",
            "Gather",
            "Concat",
            "If",
        ];
        let is_bytes = |index: usize| match self.value(node, index) {
            Ok(Value::View(view)) => self.nodes[view.node].bytes,
            _ => false,
        };
        let reads = (0..node.0.input.len()).any(|index| node.input(index).is_some() && is_bytes(index));
        match moves.contains(&node.op()) || !reads {
            true => Ok(()),
            false => {
                Err("computes with the bytes of the image: only a `Cast` to floats is supported before that".into())
            }
        }
    }

    /// Lowers the branch of an `If` whose condition is known.
    fn branch(&mut self, node: Node<'a>) -> Result<Vec<Option<Value>>> {
        let Value::Constant(condition) = self.value(node, 0)? else {
            return Err("its condition depends on the image".into());
        };
        let taken = match condition.scalar() {
            Some(0.0) => "else_branch",
            Some(_) => "then_branch",
            None => return Err("its condition is not one value".into()),
        };
        let graph = node.graph(taken)?;
        let origin = self.origin.clone();
        self.graph(graph).map_err(|error| Refusal { why: String::new(), hint: None, whole: Some(Box::new(error)) })?;
        self.origin = origin;
        let value = |name: &str| self.values.get(name).cloned().ok_or_else(|| unknown(name));
        graph.output.iter().map(|output| value(&output.name).map(Some)).collect()
    }

    /// Returns the value of input `index`.
    pub fn value(&self, node: Node<'_>, index: usize) -> Result<Value> {
        let name = node.input(index).ok_or_else(|| format!("lacks input {index}"))?;
        self.values.get(name).cloned().ok_or_else(|| unknown(name))
    }

    /// Returns the value of an input that is computed from the image.
    pub fn view(&self, node: Node<'_>, index: usize) -> Result<View> {
        match self.value(node, index)? {
            Value::View(view) => Ok(view),
            Value::Constant(_) => Err(format!("input {index} is a constant").into()),
        }
    }

    /// Returns the value of an input that must be constant, or `None` where it is left out.
    pub fn constant(&self, node: Node<'_>, index: usize) -> Result<Option<Rc<Constant>>> {
        if node.input(index).is_none() {
            return Ok(None);
        }
        match self.value(node, index)? {
            Value::Constant(constant) => Ok(Some(constant)),
            Value::View(_) => Err(format!("input {index} is not a constant").into()),
        }
    }

    /// Returns integers that are an attribute in older opsets and an input in newer ones.
    pub fn ints(&self, node: Node<'_>, attribute: &str, input: usize) -> Result<Option<Vec<i64>>> {
        if let Some(values) = node.ints(attribute)? {
            return Ok(Some(values.to_vec()));
        }
        match self.constant(node, input)? {
            Some(constant) => Ok(Some(constant.as_ints()?.to_vec())),
            None => Ok(None),
        }
    }
}

/// Makes the refusal of a name that is no value.
pub(super) fn unknown(name: &str) -> Refusal {
    format!("'{name}' is not the output of an earlier node").into()
}

/// Collects all names that a graph within a node may read.
fn needs<'a>(graph: &'a GraphProto, needed: &mut std::collections::HashSet<&'a str>) {
    needed.extend(graph.output.iter().map(|output| output.name.as_str()));
    for node in &graph.node {
        needed.extend(node.input.iter().map(String::as_str));
        for inner in node.attribute.iter().filter_map(|attribute| attribute.g.as_deref()) {
            needs(inner, needed);
        }
    }
}

/// The hint of an operator that is not supported. Between constants there may be others.
pub(super) const SUPPORTED: &str = "operators that are: Abs, Add, ArgMax, AveragePool, BatchNormalization, Cast, CastLike, Celu, Clip, \
                                    Concat, Conv, Div, Dropout, Elu, Expand, Flatten, Gather, Gemm, GlobalAveragePool, GlobalMaxPool, \
                                    HardSigmoid, HardSwish, Identity, If, LRN, LeakyRelu, Log, LogSoftmax, MatMul, Max, MaxPool, Mean, \
                                    Min, Mish, Mul, Neg, PRelu, Pad, Pow, ReduceMax, ReduceMean, ReduceMin, ReduceSum, Relu, Reshape, \
                                    Selu, Sigmoid, Slice, Softmax, Softplus, Split, Squeeze, Sub, Sum, Swish, Tanh, Transpose, Unsqueeze";

/// The advice for a quantized network.
const FLOAT_ONE: &str = "import the float network it came from: the file before `quantize_static`, or the model exported \
                         before it was converted. Files of which only the weights are quantized are read";

fn is_quantized(op: &str) -> bool {
    let whole = ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"];
    whole.contains(&op) || op.starts_with("QLinear")
}

/// Returns axes counted from the front, and refuses an axis that comes twice.
pub(super) fn axes_once(axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    if axes.len() > rank {
        return Err("an axis twice".into());
    }
    let axes = axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>>>()?;
    match axes.iter().enumerate().any(|(i, a)| axes[..i].contains(a)) {
        true => Err("an axis twice".into()),
        false => Ok(axes),
    }
}

/// Returns an axis counted from the front; a negative one is counted from the end.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let rank_i = i64::try_from(rank).unwrap_or(i64::MAX);
    let from_front = if axis < 0 { axis.saturating_add(rank_i) } else { axis };
    usize::try_from(from_front)
        .ok()
        .filter(|&axis| axis < rank)
        .ok_or_else(|| format!("axis {axis} of a value with {rank} axes").into())
}
