//! Block floating point of activations, as functions made of standard operators.
//!
//! The arithmetic is that of [`blockfloat::quantize_activations`], step by step, so that a runtime with correctly
//! rounded division gives the same values. `x` is `[N, C, H, W]` or `[N, C]`; the last channels of a group are padded
//! with zeros to a whole block, which changes no maximum.
use blockfloat::{ActivationFormat, ActivationScale};

use crate::proto::{AttributeProto, AttributeType, FunctionProto, NodeProto, OperatorSetIdProto};

use super::OPSET_BLOCKS;
use super::attribute::{float, floats, int, int64s, reference, signed_ints, tensor};
use super::emit::Emitter;

/// The domain of the functions.
pub(super) const DOMAIN: &str = "dsconv";

/// The smallest and the largest scale, `2^-126` and `2^126`.
const SCALES: [f32; 2] = [f32::MIN_POSITIVE, 1.0 / f32::MIN_POSITIVE];
/// `2^127`.
const LARGEST: f32 = 2.0 / f32::MIN_POSITIVE;

/// A function that rounds to block floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockFloatFunction {
    pow2: bool,
    ragged: bool,
}

impl BlockFloatFunction {
    fn name(self) -> String {
        let scale = if self.pow2 { "Pow2" } else { "" };
        let ragged = if self.ragged { "Ragged" } else { "" };
        format!("BlockFloat{scale}{ragged}")
    }
}

/// Rounds the value `x` of `channels` channels in `groups` groups as the layer `layer` does. Returns the name of the result
/// and the function that is called.
pub(super) fn call(
    out: &mut Emitter,
    layer: &str,
    x: &str,
    [channels, groups]: [usize; 2],
    format: ActivationFormat,
    signed: bool,
) -> (String, BlockFloatFunction) {
    let group = channels / groups;
    let len = format.block.len_in(group);
    let blocks = format.block.count(group);
    let kind = BlockFloatFunction { pow2: format.scale == ActivationScale::Pow2, ragged: blocks * len > group };
    let (lo, hi) = format.code_range(signed);
    let size = |n: usize| n as i64;
    let whole = format.block.is_image();
    let mut attributes = vec![
        int("bits", format.bits.get().into()),
        float("lo", lo as f32),
        float("hi", hi as f32),
        // Elements that share a scale lie along the third axis.
        signed_ints("blocks", if whole { [0, size(groups), -1, 1] } else { [0, size(groups * blocks), size(len), -1] }),
    ];
    if kind.pow2 {
        let shift = i32::from(format.bits.get()) - if signed { 2 } else { 1 };
        attributes.push(float("unit", (-shift as f32).exp2()));
    }
    if kind.ragged {
        attributes.push(signed_ints("groups", [0, size(groups), size(group), -1]));
        attributes.push(signed_ints("whole", [0, size(groups), size(blocks * len), -1]));
        attributes.push(signed_ints("pads", [0, 0, 0, 0, 0, 0, size(blocks * len - group), 0]));
        attributes.push(signed_ints("channels", [size(group)]));
    }
    let y = out.node(&format!("{layer}.block_float"), &kind.name(), &[x], attributes);
    let node = out.last();
    node.domain = DOMAIN.into();
    let sign = if signed { "signed" } else { "unsigned" };
    let share = if whole { "each image".to_owned() } else { format!("every {len} channels") };
    node.doc_string = format!("{} bits, {sign}, one {} scale for {share}", format.bits, format.scale);
    (y, kind)
}

/// The nodes of a function.
struct Body(Vec<NodeProto>);

impl Body {
    fn node(&mut self, output: &str, op_type: &str, inputs: &[&str], attribute: impl Into<Vec<AttributeProto>>) {
        self.0.push(NodeProto {
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![output.into()],
            name: output.into(),
            op_type: op_type.into(),
            attribute: attribute.into(),
            ..Default::default()
        });
    }

    fn number(&mut self, output: &str, value: f32) {
        self.node(output, "Constant", &[], [float("value_float", value)]);
    }

    fn outer(&mut self, names: &[&str], to: &str, r#type: AttributeType) {
        for name in names {
            self.node(&format!("{name}_"), "Constant", &[], [reference(to, name, r#type)]);
        }
    }
}

/// Returns the definition of a function.
pub(super) fn function(kind: BlockFloatFunction) -> FunctionProto {
    let mut body = Body(vec![]);
    let mut attributes = vec!["bits", "lo", "hi", "blocks"];
    body.outer(&["lo", "hi"], "value_float", AttributeType::Float);
    body.outer(&["blocks"], "value_ints", AttributeType::Ints);
    body.number("smallest", SCALES[0]);
    body.number("largest", SCALES[1]);
    body.number("two", 2.0);
    body.node("axis", "Constant", &[], [tensor("value", int64s(&[2]))]);

    // [N, groups * blocks, B, H*W]
    body.node("shape", "Shape", &["x"], []);
    if kind.ragged {
        attributes.extend(["groups", "whole", "pads", "channels"]);
        body.outer(&["groups", "whole", "pads", "channels"], "value_ints", AttributeType::Ints);
        body.node("grouped", "Reshape", &["x", "groups_"], []);
        body.node("padded", "Pad", &["grouped", "pads_"], []);
        body.node("split", "Reshape", &["padded", "blocks_"], []);
    } else {
        body.node("split", "Reshape", &["x", "blocks_"], []);
    }
    body.node("magnitude", "Abs", &["split"], []);
    body.node("max", "ReduceMax", &["magnitude", "axis"], [int("keepdims", 1)]);
    if kind.pow2 {
        attributes.push("unit");
        body.outer(&["unit"], "value_float", AttributeType::Float);
        power_of_two(&mut body);
    } else {
        body.number("limit", LARGEST);
        body.node("limited", "Min", &["max", "limit"], []);
        body.node("quotient", "Div", &["limited", "hi_"], []);
    }
    body.node("scale", "Clip", &["quotient", "smallest", "largest"], []);
    // This is 1 / scale, rounded once. ONNX Runtime would turn `x * (1 / scale)` into `x / scale`, which rounds differently.
    body.node("double", "Mul", &["scale", "two"], []);
    body.node("inverse", "Div", &["two", "double"], []);
    body.node("scaled", "Mul", &["split", "inverse"], []);
    body.node("rounded", "Round", &["scaled"], []);
    body.node("mantissa", "Clip", &["rounded", "lo_", "hi_"], []);
    if kind.ragged {
        body.node("value", "Mul", &["mantissa", "scale"], []);
        body.node("wide", "Reshape", &["value", "whole_"], []);
        body.node("start", "Constant", &[], [tensor("value", int64s(&[0]))]);
        body.node("narrow", "Slice", &["wide", "start", "channels_", "axis"], []);
        body.node("y", "Reshape", &["narrow", "shape"], []);
    } else {
        body.node("value", "Mul", &["mantissa", "scale"], []);
        body.node("y", "Reshape", &["value", "shape"], []);
    }

    FunctionProto {
        name: kind.name(),
        domain: DOMAIN.into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        attribute: attributes.into_iter().map(String::from).collect(),
        node: body.0,
        doc_string: format!(
            "Block floating point: the elements of a block, channels at one pixel or a whole image, share {}; y = clip(round(x / scale), lo, hi) * scale.",
            if kind.pow2 { "a power of two, 2^floor(log2(max|x|)) * unit," } else { "the scale max|x| / hi" }
        ),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET_BLOCKS }],
        ..Default::default()
    }
}

/// Computes `quotient = 2^floor(log2(max)) * unit` exactly. A logarithm may be off by one at a power of two, so comparisons
/// correct it, and powers come from a table.
fn power_of_two(body: &mut Body) {
    let table: Vec<f32> = (-126..=127).map(|e| (e as f32).exp2()).collect();
    body.node("powers", "Constant", &[], [tensor("value", floats(&[table.len()], &table))]);
    body.number("log2_e", std::f32::consts::LOG2_E);
    body.number("lowest", -126.0);
    body.number("highest", 127.0);
    body.number("bias", 126.0);
    body.number("half", 0.5);
    // A zero or denormal maximum counts as 2^-126, to which its scale is limited.
    body.node("positive", "Max", &["max", "smallest"], []);
    body.node("log", "Log", &["positive"], []);
    body.node("log2", "Mul", &["log", "log2_e"], []);
    body.node("floor", "Floor", &["log2"], []);
    body.node("guess", "Clip", &["floor", "lowest", "highest"], []);
    body.node("position", "Add", &["guess", "bias"], []);
    body.node("index", "Cast", &["position"], [int("to", crate::proto::DataType::Int64 as i64)]);
    body.node("power", "Gather", &["powers", "index"], [int("axis", 0)]);
    body.node("too_high", "Greater", &["power", "positive"], []);
    body.node("halved", "Mul", &["power", "half"], []);
    body.node("lowered", "Where", &["too_high", "halved", "power"], []);
    body.node("raised", "Mul", &["lowered", "two"], []);
    body.node("too_low", "LessOrEqual", &["raised", "positive"], []);
    body.node("exact", "Where", &["too_low", "raised", "lowered"], []);
    body.node("quotient", "Mul", &["exact", "unit_"], []);
}
