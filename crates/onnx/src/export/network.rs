//! Translates a graph to a `GraphProto`, node by node.
use std::collections::BTreeSet;

use graph::{Node, NodeId, Op};
use model::{Model, QuantizedLayer};

use crate::proto::DataType;

use super::attribute::{floats, int, ints, raw, value};
use super::block_float::{self, BlockFloatFunction};
use super::emit::{Emitter, INPUT, OUTPUT};
use super::quantized::{ActivationCodes, Grid, Int8Layer, grids};
use super::{ExportError, Profile, ops, weights};

/// The output of a node.
#[derive(Clone, Default)]
struct NodeOutput {
    name: String,
    /// Whether the value is `[N, C]`, as fully connected layers have it, instead of `[N, C, H, W]`.
    flat: bool,
    /// The name of the value in the other form, if that was needed.
    other: Option<String>,
    /// The grid to which it is rounded, with the names of scale and zero point.
    grid: Option<(Grid, [String; 2])>,
}

/// A graph under translation; `model` has its batch normalisation folded.
pub(super) struct Translation<'a> {
    model: &'a Model,
    profile: &'a Profile,
    grids: Vec<Option<Grid>>,
    values: Vec<NodeOutput>,
    pub(super) out: Emitter,
    /// The functions that are called.
    pub(super) functions: BTreeSet<BlockFloatFunction>,
}

impl<'a> Translation<'a> {
    pub(super) fn new(model: &'a Model, profile: &'a Profile) -> Result<Self, ExportError> {
        let grids = match profile {
            Profile::Int8 { ranges, codes } => grids(model.graph(), ranges, *codes)?,
            _ => vec![None; model.graph().nodes().len()],
        };
        let out = Emitter::new(model.graph().name());
        Ok(Self { model, profile, grids, values: vec![], out, functions: BTreeSet::new() })
    }

    /// Translates all nodes.
    pub(super) fn run(&mut self) -> Result<(), ExportError> {
        let graph = self.model.graph();
        let input = graph.input();
        self.out.graph.input.push(value(INPUT, &[input.channels, input.height, input.width]));
        for (i, node) in graph.nodes().iter().enumerate() {
            let mut made = if i == 0 {
                NodeOutput { name: INPUT.into(), ..NodeOutput::default() }
            } else {
                let made = self.node(node)?;
                let shape = node.shape;
                let dims = [shape.channels, shape.height, shape.width];
                self.out.shape(&made.name, if made.flat { &dims[..1] } else { &dims });
                made
            };
            if let Some(grid) = self.grids[i] {
                made.grid = Some((grid, self.constants(&node.name, node, grid)));
                made.name = self.round(&made.name, &node.name, made.grid.as_ref());
            }
            self.values.push(made);
        }
        self.output();
        Ok(())
    }

    /// Gives the last value, as `[N, classes]`, the name of the output.
    fn output(&mut self) {
        let last = NodeId::clone(&self.model.graph().find(&self.last().name).expect("the last node"));
        let name = self.flat(last);
        let made = self.out.graph.node.iter_mut().find(|node| node.output[0] == name);
        let made = made.expect("the last value is a node's output");
        made.output[0] = OUTPUT.into();
        for node in &mut self.out.graph.node {
            node.input.iter_mut().filter(|input| **input == name).for_each(|input| *input = OUTPUT.into());
        }
        self.out.graph.value_info.retain(|value| value.name != name);
        let shape = self.last().shape;
        self.out.graph.output.push(value(OUTPUT, &[shape.elements()]));
    }

    fn last(&self) -> &'a Node {
        self.model.graph().nodes().last().expect("a graph has nodes")
    }

    fn value(&self, id: NodeId) -> &NodeOutput {
        &self.values[id.index()]
    }

    /// Returns the name of a value as `[N, C, H, W]`.
    fn square(&mut self, id: NodeId) -> String {
        self.form(id, false)
    }

    /// Returns the name of a value as `[N, C * H * W]`.
    fn flat(&mut self, id: NodeId) -> String {
        self.form(id, true)
    }

    fn form(&mut self, id: NodeId, flat: bool) -> String {
        let value = self.value(id).clone();
        if value.flat == flat {
            return value.name;
        }
        if let Some(other) = value.other {
            return other;
        }
        let node = &self.model.graph().node(id).name;
        let other = if flat {
            self.out.node(&format!("{node}.flat"), "Flatten", &[&value.name], [int("axis", 1)])
        } else {
            ops::reshape(&mut self.out, &format!("{node}.square"), &value.name, &[0, -1, 1, 1])
        };
        let other = self.round(&other, &other, value.grid.as_ref());
        self.values[id.index()].other = Some(other.clone());
        other
    }

    /// Returns the names of scale and zero point of a value. A value that is only moved has those of its origin.
    fn constants(&mut self, name: &str, node: &Node, grid: Grid) -> [String; 2] {
        let of_input = node.inputs.first().and_then(|&id| self.value(id).grid.clone());
        if let Some((_, names)) = of_input.filter(|(input, _)| *input == grid) {
            return names;
        }
        let zero = match grid.unsigned {
            true => ops::scalar_u8(grid.zero as u8),
            false => raw(DataType::Int8, &[], vec![0]),
        };
        [
            self.out.constant(&format!("{name}.scale"), floats(&[], &[grid.scale])),
            self.out.constant(&format!("{name}.zero_point"), zero),
        ]
    }

    /// Rounds a value to 8 bits and back, if it has a grid.
    fn round(&mut self, x: &str, name: &str, grid: Option<&(Grid, [String; 2])>) -> String {
        let Some((_, [scale, zero])) = grid else { return x.into() };
        let codes = self.out.node(&format!("{name}.quantized"), "QuantizeLinear", &[x, scale, zero], []);
        self.out.node(&format!("{name}.value"), "DequantizeLinear", &[&codes, scale, zero], [])
    }

    fn node(&mut self, node: &Node) -> Result<NodeOutput, ExportError> {
        let name = node.name.as_str();
        let inputs = node.inputs.as_slice();
        let from = inputs.first().map(|&id| self.model.graph().node(id).shape).unwrap_or(node.shape);
        let all_flat = inputs.iter().all(|&id| self.value(id).flat);
        let spatial = |name: String| NodeOutput { name, ..NodeOutput::default() };
        // Operations that take either form keep the form of their inputs.
        let alike = |name: String| NodeOutput { name, flat: all_flat, ..NodeOutput::default() };
        let takes = |this: &mut Self| -> Vec<String> { inputs.iter().map(|&id| this.form(id, all_flat)).collect() };
        Ok(match &node.op {
            Op::Input => unreachable!("only the first node is an input"),
            Op::Conv2d(conv) => {
                let x = self.square(inputs[0]);
                let [weight, bias, x] = self.layer(node, &x, conv.groups)?;
                let [v, h] = conv.padding;
                let attributes = [
                    ints("kernel_shape", conv.kernel),
                    ints("strides", conv.stride),
                    ints("pads", [v, h, v, h]),
                    ints("dilations", conv.dilation),
                    int("group", conv.groups as i64),
                ];
                spatial(self.out.node(name, "Conv", &present(&[&x, &weight, &bias]), attributes))
            }
            Op::Linear { .. } => {
                let x = self.flat(inputs[0]);
                let [weight, bias, x] = self.layer(node, &x, 1)?;
                let made = self.out.node(name, "Gemm", &present(&[&x, &weight, &bias]), [int("transB", 1)]);
                NodeOutput { name: made, flat: true, ..NodeOutput::default() }
            }
            Op::Affine { .. } => {
                let x = self.square(inputs[0]);
                let own = self.model.weights().of(name);
                let (scale, shift) = (own.weight().data(), own.bias().map_or(&[][..], graph::Tensor::data));
                if let Some(grid) = self.grid(inputs[0]) {
                    // This is an integer operation, which neither ONNX Runtime nor OpenVINO makes of a normalisation.
                    let layer = Int8Layer::affine(scale, shift, grid.scale);
                    let channels = layer.scales.len();
                    let [weight, bias] = self.integers(name, &[channels, 1, 1, 1], layer, grid.scale);
                    let attributes = [ints("kernel_shape", [1, 1]), int("group", channels as i64)];
                    return Ok(spatial(self.out.node(name, "Conv", &[&x, &weight, &bias], attributes)));
                }
                spatial(ops::affine(&mut self.out, name, &x, scale, shift))
            }
            Op::PRelu { .. } => {
                let x = self.square(inputs[0]);
                let slopes = self.model.weights().of(name).weight().data();
                spatial(ops::prelu(&mut self.out, name, &x, slopes))
            }
            Op::BatchNorm2d { .. } => unreachable!("batch normalisation was folded"),
            Op::Relu | Op::Add | Op::Max | Op::Mul | Op::Dropout { .. } => {
                let x = takes(self);
                let op = match node.op {
                    Op::Relu => "Relu",
                    Op::Add => "Add",
                    Op::Max => "Max",
                    Op::Mul => "Mul",
                    _ => "Identity",
                };
                let x: Vec<&str> = x.iter().map(String::as_str).collect();
                alike(self.out.node(name, op, &x, []))
            }
            Op::Activation(function) => {
                let x = takes(self);
                alike(ops::activation(&mut self.out, name, &x[0], *function))
            }
            Op::Concat => {
                let x = takes(self);
                let x: Vec<&str> = x.iter().map(String::as_str).collect();
                alike(self.out.node(name, "Concat", &x, [int("axis", 1)]))
            }
            Op::Softmax => {
                let x = takes(self);
                alike(self.out.node(name, "Softmax", &[&x[0]], [int("axis", 1)]))
            }
            Op::Flatten => {
                let x = takes(self);
                let made = self.out.node(name, "Flatten", &[&x[0]], [int("axis", 1)]);
                NodeOutput { name: made, flat: true, ..NodeOutput::default() }
            }
            Op::MaxPool2d(pool) => {
                let x = self.square(inputs[0]);
                spatial(ops::max_pool(&mut self.out, name, &x, pool, [from, node.shape]))
            }
            Op::AvgPool2d(pool) => {
                let x = self.square(inputs[0]);
                spatial(ops::avg_pool(&mut self.out, name, &x, pool, [from, node.shape]))
            }
            Op::AdaptiveAvgPool2d { output } => {
                let x = self.square(inputs[0]);
                spatial(ops::adaptive(&mut self.out, name, &x, from, *output))
            }
            Op::Slice { start, channels } => {
                let x = takes(self);
                alike(ops::channels(&mut self.out, name, &x[0], *start, *channels))
            }
            Op::Shuffle { groups } => {
                let x = self.square(inputs[0]);
                spatial(ops::shuffle(&mut self.out, name, &x, node.shape, *groups))
            }
            Op::Pad2d { sides, value } => {
                let x = self.square(inputs[0]);
                spatial(ops::pad2d(&mut self.out, name, &x, *sides, *value))
            }
            Op::Lrn { size, alpha, beta, k } => {
                let x = self.square(inputs[0]);
                spatial(ops::lrn(&mut self.out, name, &x, *size, [*alpha, *beta, *k]))
            }
            Op::PadShortcut { stride, before, after } => {
                let x = self.square(inputs[0]);
                spatial(ops::shortcut(&mut self.out, name, &x, from, [*stride, *before, *after]))
            }
        })
    }

    /// Adds the weight, the bias (empty where there is none) and the rounded input of a convolution or linear layer, and
    /// returns their names.
    fn layer(&mut self, node: &Node, x: &str, groups: usize) -> Result<[String; 3], ExportError> {
        let name = node.name.as_str();
        let layer = self.model.layers().get(name);
        let linear = matches!(node.op, Op::Linear { .. });
        let bias = self.model.weights().of(name).bias().map(graph::Tensor::data);
        if let (Profile::Int8 { .. }, Some(layer)) = (self.profile, layer) {
            return self.int8_layer(node, x, layer, bias);
        }
        let bias = match bias {
            Some(bias) => self.out.constant(&format!("{name}.bias"), floats(&[bias.len()], bias)),
            None => String::new(),
        };
        let Some(layer) = layer else {
            let weight = self.model.weights().of(name).weight();
            let weight = self.out.constant(&format!("{name}.weight"), floats(weight.shape(), weight.data()));
            return Ok([weight, bias, x.into()]);
        };
        let Profile::Int4 { activations } = self.profile else {
            let shape = layer.codes.shape();
            let shape = if linear { &shape[..2] } else { &shape[..] };
            let weight = floats(shape, &layer.codes.dequantize());
            return Ok([self.out.constant(&format!("{name}.weight"), weight), bias, x.into()]);
        };
        let weight = weights::coded(&mut self.out, name, &layer.codes, linear);
        let x = match layer.activation.filter(|_| *activations) {
            Some(format) => {
                let size = [layer.codes.shape()[1] * groups, groups];
                let (x, kind) = block_float::call(&mut self.out, name, x, size, format, layer.signed);
                self.functions.insert(kind);
                x
            }
            None => x.into(),
        };
        Ok([weight, bias, x])
    }

    fn int8_layer(
        &mut self,
        node: &Node,
        x: &str,
        layer: &QuantizedLayer,
        bias: Option<&[f32]>,
    ) -> Result<[String; 3], ExportError> {
        let name = node.name.as_str();
        let grid = self.grid(node.inputs[0]).ok_or_else(|| ExportError::Range { node: name.into() })?;
        let shape = layer.codes.shape();
        let dims = if matches!(node.op, Op::Linear { .. }) { &shape[..2] } else { &shape[..] };
        let layer = Int8Layer::new(name, &layer.codes, bias, grid.scale)?;
        let [weight, bias] = self.integers(name, dims, layer, grid.scale);
        Ok([weight, bias, x.into()])
    }

    fn grid(&self, id: NodeId) -> Option<Grid> {
        self.value(id).grid.as_ref().map(|(grid, _)| *grid)
    }

    /// Adds a weight of these `dims` and a bias (empty where there is none) from integers, for inputs of the scale `input`, and
    /// returns their names.
    fn integers(&mut self, name: &str, dims: &[usize], layer: Int8Layer, input: f32) -> [String; 2] {
        let Int8Layer { codes, scales, bias } = layer;
        let out = &mut self.out;
        let channels = [scales.len()];
        let bytes = codes.iter().map(|q| q.cast_unsigned()).collect();
        let codes = out.constant(&format!("{name}.codes"), raw(DataType::Int8, dims, bytes));
        let steps = out.constant(&format!("{name}.scales"), floats(&channels, &scales));
        let zeros = out.constant(&format!("{name}.zeros"), raw(DataType::Int8, &channels, vec![0; channels[0]]));
        let axis = || [int("axis", 0)];
        let weight = out.node(&format!("{name}.weight"), "DequantizeLinear", &[&codes, &steps, &zeros], axis());
        let bias = match bias {
            None => String::new(),
            Some(bias) => {
                let bytes = bias.iter().flat_map(|b| b.to_le_bytes()).collect();
                let codes = out.constant(&format!("{name}.bias_codes"), raw(DataType::Int32, &channels, bytes));
                let scales: Vec<f32> = scales.iter().map(|s| s * input).collect();
                let steps = out.constant(&format!("{name}.bias_scales"), floats(&channels, &scales));
                let zeros = raw(DataType::Int32, &channels, vec![0; 4 * channels[0]]);
                let zeros = out.constant(&format!("{name}.bias_zeros"), zeros);
                out.node(&format!("{name}.bias"), "DequantizeLinear", &[&codes, &steps, &zeros], axis())
            }
        };
        [weight, bias]
    }
}

/// Returns the names that are not empty.
fn present<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| !name.is_empty()).collect()
}

impl ActivationCodes {
    /// Returns the name that is written in a file's metadata.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "uint8",
            Self::Symmetric => "int8",
        }
    }
}
