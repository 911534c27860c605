use std::collections::{BTreeMap, HashMap, HashSet};

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize};
use graph::{Builder, Conv2d, Op, Pool2d, Preprocess, Shape, Weights};
use model::{Info, Model, Policy};
use prost::Message;

use super::*;
use crate::proto::{DataType, GraphProto, NodeProto, TensorProto};
use crate::{ImportOptions, import};

/// Makes a model with ragged blocks, groups, a residual sum and a fully connected layer, and with nodes that have the names of the
/// file's input and output.
fn float() -> Model {
    let mut b = Builder::new("small", Shape::new(3, 8, 8));
    let x = b.conv("conv1", Conv2d::new(3, 10, 3).padding(1), b.input());
    let x = b.batch_norm("bn1", 1e-5, x);
    let x = b.relu("relu1", x);
    let y = b.conv("image", Conv2d { groups: 2, ..Conv2d::new(10, 10, 1).bias() }, x);
    let x = b.push("add", Op::Add, vec![x, y]);
    let x = b.relu("relu2", x);
    let x = b.max_pool("pool", Pool2d::new(3, 2).ceil_mode(), x);
    let x = b.push("mean", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("logits", 4, x);
    let graph = b.finish().unwrap();
    let weights = Weights::init(&graph, 5);
    let classes = ["a", "b", "c", "d \"e\""].map(String::from).to_vec();
    Model::float(graph, weights, Info { preprocess: Preprocess::imagenet(), classes, source: "a test".into() }).unwrap()
}

fn quantized(bits: u8, block: usize) -> Model {
    let (bits, block) = (Bits::new(bits).unwrap(), BlockSize::new(block).unwrap());
    let activation = Some(ActivationFormat { bits, block, scale: ActivationScale::Float });
    float().quantize(&Policy { bits, block, activation, ..Policy::default() }).unwrap()
}

const INT4: Profile = Profile::Int4 { activations: true };

fn int8(model: &Model, codes: ActivationCodes) -> Profile {
    let nodes = observed(model.graph());
    let range = |id| (model.graph().node(id).name.clone(), Range { min: -1.0, max: 3.0 });
    Profile::Int8 { ranges: nodes.into_iter().map(range).collect(), codes }
}

/// Exports a model and reads the file.
fn graph_of(model: &Model, profile: &Profile) -> (ModelProto, GraphProto) {
    let file = ModelProto::decode(&*export(model, profile).unwrap()).unwrap();
    let graph = file.graph.clone().unwrap();
    (file, graph)
}

fn node<'a>(graph: &'a GraphProto, name: &str) -> &'a NodeProto {
    graph.node.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no node `{name}`"))
}

fn operators(graph: &GraphProto) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    graph.node.iter().for_each(|node| *counts.entry(node.op_type.as_str()).or_default() += 1);
    counts
}

fn constant<'a>(graph: &'a GraphProto, name: &str) -> &'a TensorProto {
    graph.initializer.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no constant `{name}`"))
}

/// Returns the numbers of a constant.
fn numbers(tensor: &TensorProto) -> Vec<f32> {
    let count = tensor.dims.iter().product::<i64>() as usize;
    let bytes = &tensor.raw_data;
    let values: Vec<f32> = match DataType::try_from(tensor.data_type).unwrap() {
        DataType::Float => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DataType::Float16 => bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        DataType::Int32 => bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
        DataType::Int8 => bytes.iter().map(|b| f32::from(b.cast_signed())).collect(),
        // Sign extension by shifting the half byte to the top.
        DataType::Int4 => bytes
            .iter()
            .flat_map(|b| [b << 4, b & 0xf0].map(|top| f32::from(top.cast_signed() >> 4)))
            .take(count)
            .collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(values.len(), count, "`{}`", tensor.name);
    values
}

/// Computes `value` from constants by `DequantizeLinear` with `axis` 1, `Cast` and `Concat`, and returns its dims and numbers.
fn computed(graph: &GraphProto, value: &str) -> (Vec<usize>, Vec<f32>) {
    let dims = |tensor: &TensorProto| tensor.dims.iter().map(|&d| d as usize).collect::<Vec<_>>();
    let Some(node) = graph.node.iter().find(|node| node.output[0] == value) else {
        let tensor = constant(graph, value);
        return (dims(tensor), numbers(tensor));
    };
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name).and_then(|a| a.i);
    match node.op_type.as_str() {
        "Cast" => computed(graph, &node.input[0]),
        "DequantizeLinear" => {
            assert_eq!(attribute("axis"), Some(1));
            let block = attribute("block_size").unwrap() as usize;
            let ((dims, codes), (scale_dims, scales)) =
                (computed(graph, &node.input[0]), computed(graph, &node.input[1]));
            let taps: usize = dims[2..].iter().product();
            assert_eq!(dims[1], scale_dims[1] * block, "whole blocks");
            let scale = |i: usize| {
                let (filter, channel, tap) = (i / (dims[1] * taps), i / taps % dims[1], i % taps);
                scales[(filter * scale_dims[1] + channel / block) * taps + tap]
            };
            let values = codes.iter().enumerate().map(|(i, code)| scale(i) * code).collect();
            (dims, values)
        }
        "Concat" => {
            let (head, tail) = (computed(graph, &node.input[0]), computed(graph, &node.input[1]));
            let row = |(dims, _): &(Vec<usize>, _)| dims[1..].iter().product::<usize>();
            let rows = head.1.chunks(row(&head)).zip(tail.1.chunks(row(&tail)));
            let mut dims = head.0.clone();
            dims[1] += tail.0[1];
            (dims, rows.flat_map(|(head, tail)| [head, tail].concat()).collect())
        }
        other => panic!("{other}"),
    }
}

#[test]
fn codes_and_scales_stand_for_the_models_weights() {
    // Blocks that divide 3, 5 and 10 channels and blocks that do not; 4-bit and 8-bit codes; both kinds of scales.
    for (bits, block, four) in [(4, 64, true), (4, 4, true), (3, 5, true), (2, 2, true), (5, 3, false), (8, 1, false)] {
        for half in [false, true] {
            let mut model = quantized(bits, block);
            if half {
                model.round_scales_f16();
            }
            let (_, graph) = graph_of(&model, &INT4);
            let exact = model.dequantized();
            for layer in ["conv1", "image", "logits"] {
                let (dims, values) = computed(&graph, &format!("{layer}.weight"));
                let weight = exact.of(layer).weight();
                assert_eq!((&*dims, &*values), (weight.shape(), weight.data()), "{layer} {bits} bits {block}");
            }
            let types: HashSet<i32> = graph.initializer.iter().map(|tensor| tensor.data_type).collect();
            assert_eq!(types.contains(&DataType::Int4.into()), four);
            assert_eq!(types.contains(&DataType::Int8.into()), !four);
            assert_eq!(types.contains(&DataType::Float16.into()), half);
        }
    }
}

#[test]
fn int4_is_packed_two_to_a_byte_and_scales_are_halves_where_they_can_be() {
    let mut model = quantized(4, 64);
    model.round_scales_f16();
    let (_, graph) = graph_of(&model, &INT4);
    // 10 * 5 codes of the grouped layer, one scale each of its filters.
    assert_eq!(constant(&graph, "image.codes").raw_data.len(), 25);
    assert_eq!(constant(&graph, "image.scales_f16").raw_data.len(), 20);
    assert_eq!(constant(&graph, "image.scales_f16").dims, [10, 1, 1, 1]);
}

#[test]
fn layers_call_block_float_unless_it_is_off() {
    let model = quantized(4, 4);
    let (file, graph) = graph_of(&model, &INT4);
    let call = node(&graph, "image.block_float");
    assert_eq!((call.domain.as_str(), call.op_type.as_str()), ("dsconv", "BlockFloatRagged"));
    let attribute = |name: &str| call.attribute.iter().find(|a| a.name == name).unwrap();
    // After a ReLU: 0 to 15. Two groups of 5 channels in two blocks each, 3 zero channels put behind every group.
    assert_eq!((attribute("lo").f, attribute("hi").f), (Some(0.0), Some(15.0)));
    assert_eq!(attribute("blocks").ints, [0, 4, 4, -1]);
    assert_eq!(attribute("pads").ints, [0, 0, 0, 0, 0, 0, 3, 0]);
    let functions: Vec<&str> = file.functions.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(functions, ["BlockFloat", "BlockFloatRagged"]);
    assert_eq!(file.opset_import.iter().map(|set| set.version).collect::<Vec<_>>(), [21, 1]);

    let (file, graph) = graph_of(&model, &Profile::Int4 { activations: false });
    assert!(file.functions.is_empty() && graph.node.iter().all(|node| node.domain.is_empty()));
    assert_eq!(file.opset_import.len(), 1);
}

#[test]
fn functions_use_their_attributes_and_define_every_value_once() {
    let kinds = [ActivationScale::Float, ActivationScale::Pow2].map(|scale| {
        let block = BlockSize::new(4).unwrap();
        let activation = Some(ActivationFormat { bits: Bits::new(4).unwrap(), block, scale });
        let policy = Policy { block, activation, ..Policy::default() };
        graph_of(&float().quantize(&policy).unwrap(), &INT4).0.functions
    });
    for function in kinds.into_iter().flatten() {
        let mut defined: HashSet<&str> = function.input.iter().map(String::as_str).collect();
        let mut used: HashSet<&str> = HashSet::from(["bits"]);
        for node in &function.node {
            assert!(node.input.iter().all(|input| defined.contains(input.as_str())), "{}: {node:?}", function.name);
            assert!(defined.insert(&node.output[0]), "{}", node.name);
            used.extend(node.attribute.iter().map(|a| a.ref_attr_name.as_str()).filter(|name| !name.is_empty()));
        }
        assert_eq!(used, function.attribute.iter().map(String::as_str).collect(), "{}", function.name);
        assert!(defined.contains(function.output[0].as_str()));
    }
}

#[test]
fn every_file_is_a_graph_in_order_with_unique_names_and_a_free_batch() {
    let model = quantized(4, 4).to_two_level().unwrap();
    let profiles = [
        INT4,
        Profile::Int4 { activations: false },
        int8(&model, ActivationCodes::Unsigned),
        int8(&model, ActivationCodes::Symmetric),
        Profile::Fp32,
    ];
    for profile in &profiles {
        let (file, graph) = graph_of(&model, profile);
        let mut defined: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(defined.len(), graph.initializer.len());
        assert!(defined.insert("image"), "the input is not a constant");
        let mut names = HashSet::new();
        for node in &graph.node {
            assert!(node.input.iter().all(|input| defined.contains(input.as_str())), "{node:?}");
            assert!(defined.insert(&node.output[0]) && names.insert(&node.name), "{node:?}");
        }
        let used: HashSet<&str> = graph.node.iter().flat_map(|node| &node.input).map(String::as_str).collect();
        assert!(graph.initializer.iter().all(|tensor| used.contains(tensor.name.as_str())), "no idle constant");
        let shape = |value: &crate::proto::ValueInfoProto| {
            let shape = value.r#type.clone().unwrap().tensor_type.unwrap().shape.unwrap();
            let dim = |d: &crate::proto::Dimension| match d.value.clone().unwrap() {
                crate::proto::DimensionValue::DimValue(n) => n.to_string(),
                crate::proto::DimensionValue::DimParam(name) => name,
            };
            (value.name.clone(), shape.dim.iter().map(dim).collect::<Vec<_>>().join(","))
        };
        assert_eq!(shape(&graph.input[0]), ("image".into(), "batch,3,8,8".into()));
        assert_eq!(shape(&graph.output[0]), ("logits".into(), "batch,4".into()));
        let shapes: HashMap<String, String> = graph.value_info.iter().map(shape).collect();
        assert_eq!(shapes["pool"], "batch,10,4,4", "{}", profile.name());
        // The layers of those names: the tensors `image` and `logits` are the file's.
        assert_eq!(node(&graph, "image_2").op_type, "Conv");
        assert_eq!(node(&graph, "logits_2").output, ["logits"]);

        let entry = |key: &str| &file.metadata_props.iter().find(|entry| entry.key == key).unwrap().value;
        assert_eq!(entry("profile"), profile.name());
        assert_eq!(entry("source"), "a test");
        assert_eq!(serde_json::from_str::<Vec<String>>(entry("classes")).unwrap(), model.info().classes);
        assert_eq!(serde_json::from_str::<Preprocess>(entry("preprocess")).unwrap(), model.info().preprocess);
        let format = entry("format");
        // The layer that reads the image has an input of 8 bits.
        let counted = if matches!(profile, Profile::Int4 { activations: true }) {
            ["2 layers: ", "; 1 layer: "]
        } else {
            ["3 layers: ", ""]
        };
        assert!(format.starts_with(counted[0]) && format.contains(counted[1]), "{}: {format}", profile.name());
        let versions = (file.ir_version, file.opset_import[0].version);
        assert_eq!(versions, if matches!(profile, Profile::Int4 { .. }) { (10, 21) } else { (7, 13) });
    }
}

#[test]
fn int8_rounds_before_every_layer_sum_and_pool_but_not_between_a_layer_and_its_relu() {
    let model = quantized(4, 4).to_two_level().unwrap();
    let (_, graph) = graph_of(&model, &int8(&model, ActivationCodes::Unsigned));
    let reader = |value: &str| graph.node.iter().find(|node| node.input.iter().any(|i| i == value)).unwrap();
    assert_eq!(reader(&node(&graph, "conv1").output[0]).op_type, "Relu");
    assert_eq!(reader(&node(&graph, "add").output[0]).op_type, "Relu");
    for name in ["conv1", "image_2", "add", "pool", "mean", "logits_2"] {
        for input in &node(&graph, name).input {
            let from = graph.node.iter().find(|node| node.output[0] == *input).unwrap();
            assert_eq!(from.op_type, "DequantizeLinear", "{input} of {name}");
        }
    }
    // The image, after relu1, image, relu2, and pool; the mean goes on to the last layer through a move.
    assert_eq!(operators(&graph)["QuantizeLinear"], 7);
    assert_eq!(node(&graph, "pool.quantized").input[1..], ["relu2.scale", "relu2.zero_point"], "only moved");
    // -1 to 3 in 255 steps: zero lies at 1 / (4 / 255) = 63.75; after a ReLU at 0.
    assert_eq!(constant(&graph, "input.zero_point").raw_data, [64]);
    assert_eq!(constant(&graph, "relu1.zero_point").raw_data, [0]);

    let (_, graph) = graph_of(&model, &int8(&model, ActivationCodes::Symmetric));
    assert_eq!(constant(&graph, "input.zero_point").data_type, i32::from(DataType::Int8));
    assert!(graph.initializer.iter().filter(|t| t.name.ends_with("zero_point")).all(|t| t.raw_data == [0]));
}

#[test]
fn floats_are_the_models_own_and_import_gives_them_back() {
    let float = float();
    let bytes = export(&float, &Profile::Fp32).unwrap();
    let again = import(&bytes, &ImportOptions::default()).unwrap();
    let (graph, weights) = float.clone().fold().unwrap().into_parts();
    assert_eq!((again.input.as_str(), again.opset), ("image", 13));
    let parameters = |weights: &Weights| -> Vec<Vec<f32>> { weights.tensors().map(|t| t.data().to_vec()).collect() };
    assert_eq!(parameters(&again.weights), parameters(&weights));
    let ops =
        |graph: &graph::Graph| -> Vec<String> { graph.params().iter().map(|p| format!("{:?}", p.shape)).collect() };
    assert_eq!(ops(&again.graph), ops(&graph));

    let quantized = quantized(4, 4);
    let (_, graph) = graph_of(&quantized, &Profile::Fp32);
    let weight = quantized.dequantized();
    assert_eq!(numbers(constant(&graph, "conv1.weight")), weight["conv1.weight"].data());
}

#[test]
fn what_cannot_be_written_is_refused() {
    let refused = |model: &Model, profile: &Profile| export(model, profile).unwrap_err().to_string();
    assert_eq!(refused(&float(), &INT4), "`small` is not quantized: the profile `int4` needs integer weights");
    let blocks = quantized(4, 4);
    let profile = int8(&blocks, ActivationCodes::Unsigned);
    assert_eq!(refused(&blocks, &profile), "layer `conv1`: the profile `int8` needs two-level scales");
    let two_level = blocks.to_two_level().unwrap();
    let Profile::Int8 { mut ranges, codes } = profile else { unreachable!() };
    ranges.insert("add".into(), Range { min: 0.0, max: 1.0 });
    ranges.get_mut("relu2").unwrap().max = f32::NAN;
    let without = Profile::Int8 { ranges, codes };
    assert_eq!(refused(&two_level, &without), "node `relu2`: the range of its values is not known");

    let file = translate(&two_level, &Profile::Fp32).unwrap();
    let size = file.encoded_len() as u64;
    assert_eq!(encode(&file, size).unwrap().len() as u64, size);
    assert_eq!(encode(&file, size - 1), Err(ExportError::TooLarge { bytes: size }));
}

#[test]
fn an_attribute_of_zero_is_there() {
    let bytes = attribute::int("axis", 0).encode_to_vec();
    assert_eq!(crate::proto::AttributeProto::decode(&*bytes).unwrap().i, Some(0));
    assert!(bytes.len() > attribute::int("axis", 0).name.len() + 2 + 2 + 1);
}

#[test]
fn the_same_model_makes_the_same_bytes() {
    assert_eq!(export(&quantized(4, 4), &INT4), export(&quantized(4, 4), &INT4));
}
