//! Tests of refused files and their messages, and of files that could do harm.
use std::path::Path;

use graph::{Activation, Op};
use prost::Message;

use super::{ImportError, ImportOptions, Imported, import};
use crate::proto::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionValue, FunctionProto, GraphProto, ModelProto,
    NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = dims.iter().map(|&n| Dimension { value: Some(DimensionValue::DimValue(n)) }).collect();
    let tensor = TensorType { elem_type: DataType::Float as i32, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { tensor_type: Some(tensor) }),
        ..ValueInfoProto::default()
    }
}

fn floats(name: &str, dims: &[i64], data: Vec<f32>) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: data,
        ..TensorProto::default()
    }
}

fn node(name: &str, op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: name.into(),
        op_type: op.into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

/// Makes a model of `x [1, 4, 8, 8]`, `nodes`, and a pooling to `y [1, 4]`. The last value of the nodes is `out`.
fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let mut node_list = nodes;
    node_list.push(node("/pool", "GlobalAveragePool", &["out"], "pooled"));
    node_list.push(node("/flat", "Flatten", &["pooled"], "y"));
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        graph: Some(GraphProto {
            name: "g".into(),
            node: node_list,
            initializer,
            input: vec![value("x", &[1, 4, 8, 8])],
            output: vec![value("y", &[1, 4])],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

fn read(model: &ModelProto) -> Result<Imported, ImportError> {
    import(&model.encode_to_vec(), &ImportOptions::default())
}

fn refused(model: &ModelProto) -> String {
    read(model).unwrap_err().to_string()
}

#[test]
fn refusals_name_node_and_op() {
    let one = |op: &str| refused(&model(vec![node("/features/3/Resize", op, &["x"], "out")], vec![]));
    assert_eq!(one("Resize"), "node '/features/3/Resize' (op Resize): not supported");
    assert_eq!(one("Erf"), "node '/features/3/Resize' (op Erf): not supported");
    for op in super::lower::SUPPORTED.strip_prefix("operators that are: ").unwrap().split(", ") {
        let found = read(&model(vec![node("n", op, &["x"], "out")], vec![]));
        assert!(found.is_ok() || !found.unwrap_err().to_string().ends_with(": not supported"), "{op}");
    }
    assert!(one("LayerNormalization").contains("(op LayerNormalization): not supported: only batch normalisation"));

    let foreign = NodeProto { domain: "com.microsoft".into(), ..node("gelu", "Gelu", &["x"], "out") };
    let error = read(&model(vec![foreign], vec![])).unwrap_err();
    assert_eq!(error.to_string(), "node 'gelu' (op com.microsoft.Gelu): operators of other domains are not supported");
    assert!(error.hint().unwrap().contains("ai.onnx"));
    // A node without a name is called after its output.
    assert!(refused(&model(vec![node("", "Resize", &["x"], "out")], vec![])).starts_with("node 'out' (op Resize)"));
}

#[test]
fn refusals_say_what_does_not_fit() {
    let conv = |dims: &[i64], attributes: Vec<AttributeProto>| {
        let count: i64 = dims.iter().product();
        let conv = NodeProto { attribute: attributes, ..node("c", "Conv", &["x", "w"], "out") };
        refused(&model(vec![conv], vec![floats("w", dims, vec![1.0; count as usize])]))
    };
    let cases = [
        (conv(&[2, 3, 1, 1], vec![]), "has 3 channels, its input 4"),
        (conv(&[2, 4, 3], vec![]), "its weight has the shape [2, 4, 3]: only 2-D is supported"),
        (conv(&[2, 4, 9, 9], vec![]), "kernel [9, 9] does not fit its input [4, 8, 8]"),
        (conv(&[2, 4, 1, 1], vec![ints("strides", &[0, 1])]), "a kernel, stride or dilation of 0"),
        (conv(&[2, 4, 1, 1], vec![ints("pads", &[0, -1, 0, 0])]), "`pads` has a negative value"),
        (
            conv(&[2, 4, 1, 1], vec![ints("kernel_shape", &[3, 3])]),
            "`kernel_shape` is [3, 3], its weight's kernel [1, 1]",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, format!("node 'c' (op Conv): {expected}"));
    }
    let nan = vec![floats("w", &[1, 4, 1, 1], vec![0.0, f32::NAN, 0.0, 0.0])];
    assert_eq!(
        refused(&model(vec![node("c", "Conv", &["x", "w"], "out")], nan)),
        "node 'c' (op Conv): its weight has values that are NaN or infinite"
    );
    let unknown = refused(&model(vec![node("r", "Relu", &["nothing"], "out")], vec![]));
    assert_eq!(unknown, "node 'r' (op Relu): 'nothing' is not the output of an earlier node");
    let transposed =
        NodeProto { attribute: vec![ints("perm", &[0, 2, 1, 3])], ..node("t", "Transpose", &["x"], "out") };
    assert!(refused(&model(vec![transposed], vec![])).contains("transposed in a way that does not cancel"));
    let squared = vec![node("e", "Sqrt", &["x"], "out")];
    assert_eq!(refused(&model(squared, vec![])), "node 'e' (op Sqrt): not supported");
    let divided = vec![node("r", "Sigmoid", &["x"], "s"), node("d", "Div", &["x", "s"], "out")];
    assert!(refused(&model(divided, vec![])).starts_with("node 'd' (op Div): one value of the image divided"));
}

#[test]
fn refusals_of_the_whole() {
    let relu = || model(vec![node("r", "Relu", &["x"], "out")], vec![]);
    let change = |f: &dyn Fn(&mut ModelProto)| {
        let mut model = relu();
        f(&mut model);
        refused(&model)
    };
    assert!(read(&relu()).is_ok());
    let graph = |f: &dyn Fn(&mut GraphProto)| change(&|model| f(model.graph.as_mut().unwrap()));
    assert_eq!(change(&|m| m.graph = None), "not an ONNX model: it has no graph");
    assert_eq!(change(&|m| m.opset_import.clear()), "not an ONNX model: it names no version of `ai.onnx`");
    assert_eq!(
        change(&|m| m.opset_import[0].version = 6),
        "opset 6 of `ai.onnx`: this reads opset 7 to 25 of `ai.onnx`"
    );
    assert_eq!(graph(&|g| g.input.clear()), "not an ONNX model: it has no input");
    let second = graph(&|g| {
        g.input.push(value("z", &[1]));
        g.node.push(node("z", "Relu", &["z"], "unused"));
    });
    assert_eq!(second, "input 'z': a second input beside 'x'");
    let mut flag = relu();
    flag.graph.as_mut().unwrap().input.push(value("training", &[]));
    assert!(read(&flag).is_ok(), "nothing reads it");
    assert_eq!(graph(&|g| g.input[0] = value("x", &[1, 4])), "input 'x': has 2 axes, an image batch has 4");
    assert_eq!(graph(&|g| g.input[0] = value("x", &[1, 4, 0, 0])), "input 'x': the size of the image is left open");
    assert_eq!(graph(&|g| g.input[0] = value("x", &[1, 4, -8, 8])), "input 'x': has an impossible size");
    assert_eq!(graph(&|g| g.input[0] = value("x", &[-1, 4, -1, -1])), "input 'x': the size of the image is left open");
    assert_eq!(graph(&|g| g.output.clear()), "not an ONNX model: it has 0 outputs, a classifier has one");
    assert_eq!(graph(&|g| g.output[0].name = "q".into()), "output 'q': no node computes it");
    assert_eq!(
        graph(&|g| g.output[0].name = "out".into()),
        "output 'out': has the shape [N, 4, 8, 8], logits are [N, classes]"
    );
    assert!(
        graph(&|g| g.node.insert(1, node("again", "Sigmoid", &["x"], "out"))).contains("has the name of another value")
    );
    assert!(import(b"\x08\x08garbage", &ImportOptions::default()).is_err());
    assert!(import(b"", &ImportOptions::default()).is_err());
}

/// These networks are refused because an engine computes them differently from what they seem to say.
#[test]
fn refusals_of_what_would_be_wrong() {
    let vector = |name: &str| floats(name, &[4], vec![1.0; 4]);
    let norm = |outputs: &[&str], attribute: Vec<AttributeProto>, opset: i64| {
        let mut bn = node("bn", "BatchNormalization", &["x", "s", "b", "m", "v"], "out");
        bn.output.extend(outputs.iter().map(ToString::to_string));
        bn.attribute = attribute;
        let mut model = model(vec![bn], vec![vector("s"), vector("b"), vector("m"), vector("v")]);
        model.opset_import[0].version = opset;
        read(&model)
    };
    let int =
        |name: &str, i: i64| AttributeProto { name: name.into(), r#type: 2, i: Some(i), ..AttributeProto::default() };
    let five = ["mean", "var", "saved_mean", "saved_var"];
    for opset in [7, 9, 13] {
        let error = norm(&five, vec![], opset).unwrap_err();
        let why = "node 'bn' (op BatchNormalization): takes its statistics from the images, as in training";
        assert_eq!((error.to_string().as_str(), error.hint()), (why, Some("export the model after `model.eval()`")));
        assert!(norm(&["", "", "", ""], vec![], opset).is_ok());
    }
    assert!(norm(&[], vec![int("training_mode", 1)], 15).unwrap_err().hint().unwrap().contains("eval()"));
    assert!(norm(&[], vec![int("spatial", 0)], 7).unwrap_err().to_string().contains("`spatial` is 0"));

    let one = |name: &str, op: &str, inputs: &[&str], init: Vec<TensorProto>| {
        refused(&model(vec![node(name, op, inputs, "out")], init))
    };
    let truth = TensorProto { data_type: DataType::Bool as i32, int32_data: vec![1], ..floats("t", &[], vec![]) };
    let training = one("d", "Dropout", &["x", "", "t"], vec![truth]);
    assert_eq!(training, "node 'd' (op Dropout): drops values also at inference");
    let int64 = |name: &str, values: &[i64]| TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    };
    // Neither an image nor a row is a gate.
    for target in [&[1, 4, 8, 16][..], &[2, 4, 8, 8], &[1, 1, 4, 8, 8]] {
        assert!(one("e", "Expand", &["x", "s"], vec![int64("s", target)]).contains("(op Expand): an expansion of"));
    }
    for (bound, why) in [(f32::NAN, "a bound of NaN"), (f32::INFINITY, "a bound of inf")] {
        let found = one("c", "Clip", &["x", "lo"], vec![floats("lo", &[], vec![bound])]);
        assert_eq!(found, format!("node 'c' (op Clip): {why}"));
    }
    let crossed = vec![floats("lo", &[], vec![2.0]), floats("hi", &[], vec![1.0])];
    assert!(one("c", "Clip", &["x", "lo", "hi"], crossed).contains("is not a function"));
    for (op, dims) in [("Add", &[1, 1, 8, 8][..]), ("Mul", &[8]), ("PRelu", &[8, 1]), ("Sub", &[1, 1, 4, 8, 8])] {
        let count: i64 = dims.iter().product();
        let varied = (0..count).map(|i| i as f32 + 1.0).collect();
        assert!(one("a", op, &["x", "c"], vec![floats("c", dims, varied)]).starts_with("node 'a'"), "{op} {dims:?}");
    }
    // There are as many features as images, so that the bias could be one for each image.
    let mut gemm = model(vec![node("r", "Relu", &["x"], "out")], vec![floats("w", &[4, 5], vec![1.0; 20])]);
    let graph = gemm.graph.as_mut().unwrap();
    graph.input[0] = value("x", &[5, 4, 8, 8]);
    graph.initializer.push(floats("c", &[5, 1], vec![1.0, 2.0, 3.0, 4.0, 5.0]));
    graph.node.push(node("fc", "Gemm", &["y", "w", "c"], "logits"));
    graph.output[0].name = "logits".into();
    assert_eq!(refused(&gemm), "node 'fc' (op Gemm): its bias has the shape [5, 1]");

    let same =
        AttributeProto { name: "auto_pad".into(), r#type: 3, s: b"SAME_UPPER".to_vec(), ..AttributeProto::default() };
    let apart = vec![same, ints("strides", &[5, 5]), ints("kernel_shape", &[1, 1])];
    let apart = NodeProto { attribute: apart, ..node("p", "AveragePool", &["x"], "out") };
    let found = refused(&model(vec![apart], vec![]));
    assert_eq!(found, "node 'p' (op AveragePool): windows of 1, 5 apart: `SAME_UPPER` is not clear there");

    let max = NodeProto { attribute: vec![int("axis", 1)], ..node("m", "ArgMax", &["x"], "out") };
    assert!(refused(&model(vec![max], vec![])).contains("only over classes is ArgMax supported"));
    let log = NodeProto { attribute: vec![int("axis", 1)], ..node("l", "LogSoftmax", &["x"], "out") };
    assert_eq!(refused(&model(vec![log], vec![])), "node 'l' (op LogSoftmax): only the last node can be one");
    let odd = NodeProto { attribute: vec![int("axis", 1)], ..node("s", "Split", &["x"], "out") };
    let odd = NodeProto { output: vec!["out".into(), "b".into(), "c".into()], ..odd };
    assert_eq!(refused(&model(vec![odd], vec![])), "node 's' (op Split): 4 into 3 equal parts");
    for op in ["ReduceMean", "ReduceSum", "ReduceMax"] {
        let axes = if op == "ReduceSum" { vec![] } else { vec![ints("axes", &[1])] };
        let inputs = if op == "ReduceSum" { &["x", "a"][..] } else { &["x"] };
        let reduce = NodeProto { attribute: axes, ..node("r", op, inputs, "out") };
        assert!(refused(&model(vec![reduce], vec![int64("a", &[1])])).contains("a reduction over channels"), "{op}");
    }
}

#[test]
fn refusals_of_constants_that_engines_do_not_agree_on() {
    let of = |op: &str, kind: DataType, values: [i32; 2], attribute: Vec<AttributeProto>| {
        let tensor = |name: &str, v: i32| TensorProto {
            data_type: kind as i32,
            int32_data: vec![v],
            ..floats(name, &[1], vec![])
        };
        let op = NodeProto { attribute, ..node("k", op, &["a", "b"], "k") };
        let cast = NodeProto {
            attribute: vec![AttributeProto { name: "to".into(), r#type: 2, i: Some(1), ..AttributeProto::default() }],
            ..node("f", "Cast", &["k"], "f")
        };
        let nodes = vec![op, cast, node("m", "Mul", &["x", "f"], "out")];
        read(&model(nodes, vec![tensor("a", values[0]), tensor("b", values[1])])).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(of("Sub", DataType::Int32, [3, 5], vec![]), Ok(()));
    let wraps = Err("node 'k' (op Sub): -2 is beyond what Uint8 holds".to_owned());
    assert_eq!(of("Sub", DataType::Uint8, [3, 5], vec![]), wraps);
    assert!(of("Add", DataType::Int32, [i32::MAX, 1], vec![]).unwrap_err().contains("beyond what Int32 holds"));
    assert!(of("Div", DataType::Int32, [1, 0], vec![]).is_err());
    assert!(
        of("BitShift", DataType::Uint8, [1, 1], vec![]).unwrap_err().contains("of constants alone is not computed")
    );
}

#[test]
fn refusals_of_quantized_networks_say_which_one_is_needed() {
    let scale = || floats("s", &[], vec![0.5]);
    for op in ["QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv"] {
        let error = read(&model(vec![node("q", op, &["x", "s"], "out")], vec![scale()])).unwrap_err();
        assert_eq!(error.to_string(), format!("node 'q' (op {op}): the network is quantized already"));
        assert!(error.hint().unwrap().contains("quantize_static"));
    }
    let foreign = NodeProto { domain: "com.microsoft".into(), ..node("q", "QLinearAdd", &["x", "s"], "out") };
    assert!(read(&model(vec![foreign], vec![scale()])).unwrap_err().hint().unwrap().contains("quantize_static"));
}

#[test]
fn refusals_of_functions_and_orders() {
    let call =
        |op: &str, inputs: &[&str], output: &str| NodeProto { domain: "own".into(), ..node(op, op, inputs, output) };
    let function = |name: &str, nodes: Vec<NodeProto>| FunctionProto {
        name: name.into(),
        domain: "own".into(),
        input: vec!["in".into()],
        output: vec!["out".into()],
        node: nodes,
        ..FunctionProto::default()
    };
    let with = |nodes: Vec<NodeProto>, functions: Vec<FunctionProto>| ModelProto { functions, ..model(nodes, vec![]) };
    let itself = with(vec![call("F", &["x"], "out")], vec![function("F", vec![call("F", &["in"], "out")])]);
    assert!(refused(&itself).ends_with("its function 'F' calls itself, or others too deep"));
    // These functions would make 2^30 nodes.
    let double = |to: &str| vec![call(to, &["in"], "t"), call(to, &["t"], "out")];
    let names: Vec<String> = (0..30).map(|i| format!("F{i}")).collect();
    let mut functions: Vec<FunctionProto> = (1..30).map(|i| function(&names[i], double(&names[i - 1]))).collect();
    functions.push(function("F0", vec![node("r", "Relu", &["in"], "out")]));
    let found = refused(&with(vec![call("F29", &["x"], "out")], functions));
    assert!(found.contains("its functions make more"), "{found}");
    let mut older = function("F", vec![node("r", "Relu", &["in"], "out")]);
    older.opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 12 }];
    let found = refused(&with(vec![call("F", &["x"], "out")], vec![older]));
    assert_eq!(found, "not an ONNX model: its function 'F' is of opset 12, the model of opset 17");

    let circle =
        vec![node("a", "Add", &["x", "b"], "c"), node("b", "Relu", &["c"], "b"), node("r", "Relu", &["b"], "out")];
    let found = refused(&model(circle, vec![]));
    assert_eq!(found, "not an ONNX model: node 'a' waits for its own output: nodes feed each other");
}

#[test]
fn outputs_that_are_not_of_the_same_logits_are_refused() {
    let mut two = model(vec![node("r", "Relu", &["x"], "out")], vec![floats("w", &[4, 2], vec![1.0; 8])]);
    let graph = two.graph.as_mut().unwrap();
    graph.node.push(node("fc", "Gemm", &["y", "w"], "logits"));
    graph.output.push(value("logits", &[1, 2]));
    let error = read(&two).unwrap_err();
    assert_eq!(error.to_string(), "output 'logits': a second output beside 'y', and not of the same logits");
    assert!(error.hint().unwrap().contains("extract_model"));
}

#[test]
fn bytes_are_moved_and_not_computed_with() {
    let bytes = |nodes: Vec<NodeProto>| {
        let mut model =
            model(nodes, vec![TensorProto { data_type: 2, int32_data: vec![3], ..floats("c", &[], vec![]) }]);
        let image = &mut model.graph.as_mut().unwrap().input[0];
        let tensor = image.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
        tensor.elem_type = DataType::Uint8 as i32;
        read(&model)
    };
    let cast = |from: &str, to: &str| NodeProto {
        attribute: vec![AttributeProto { name: "to".into(), r#type: 2, i: Some(1), ..AttributeProto::default() }],
        ..node("cast", "Cast", &[from], to)
    };
    let imported = bytes(vec![cast("x", "f"), node("r", "Relu", &["f"], "out")]).unwrap();
    assert!(imported.bytes && imported.notes[0].contains("bytes of an image"));
    for op in ["Sub", "Max", "Relu"] {
        let inputs = if op == "Relu" { &["x"][..] } else { &["x", "c"] };
        let error = bytes(vec![node("s", op, inputs, "b"), cast("b", "out")]).unwrap_err();
        assert!(error.to_string().contains("computes with the bytes of the image"), "{error}");
    }
    assert!(bytes(vec![node("i", "Identity", &["x"], "out")]).is_err());
}

/// Small files that ask for much memory are refused.
#[test]
fn a_file_cannot_ask_for_more_than_it_holds() {
    let int64 = |name: &str, values: &[i64]| TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    };
    let huge = vec![node("c", "ConstantOfShape", &["shape"], "zeros"), node("a", "Add", &["x", "zeros"], "out")];
    let error = refused(&model(huge, vec![int64("shape", &[1 << 20, 1 << 20])]));
    assert_eq!(error, "node 'c' (op ConstantOfShape): makes more numbers than the file's size justifies");

    // A weight that thousands of layers share would be stored for each.
    let mut nodes = vec![node("n", "Relu", &["x"], "v0")];
    nodes.extend((0..4000).map(|i| node("c", "Conv", &[&format!("v{i}"), "w"], &format!("v{}", i + 1))));
    nodes.push(node("r", "Relu", &["v4000"], "out"));
    let wide = model(nodes, vec![floats("w", &[4, 4, 15, 15], vec![0.0; 3600])]);
    let mut same = wide.clone();
    for node in same.graph.as_mut().unwrap().node.iter_mut().filter(|node| node.op_type == "Conv") {
        node.attribute.push(ints("pads", &[7, 7, 7, 7]));
    }
    assert_eq!(refused(&same), "node 'c' (op Conv): makes more numbers than the file's size justifies");

    // Channels double at every node, and a border is as wide as memory.
    let axis = || AttributeProto { name: "axis".into(), r#type: 2, i: Some(1), ..AttributeProto::default() };
    let doubled = |i: usize| NodeProto {
        attribute: vec![axis()],
        ..node("k", "Concat", &[&format!("v{i}"), &format!("v{i}")], &format!("v{}", i + 1))
    };
    let mut nodes = vec![node("n", "Relu", &["x"], "v0")];
    nodes.extend((0..60).map(doubled));
    nodes.push(node("r", "Relu", &["v60"], "out"));
    assert!(refused(&model(nodes, vec![])).ends_with("is too large"));
    let border = NodeProto {
        attribute: vec![ints("pads", &[0, 0, i64::MAX, 0, 0, 0, i64::MAX, 0])],
        ..node("p", "Pad", &["x"], "out")
    };
    assert!(read(&model(vec![border], vec![])).is_err());
    let lied = TensorProto { float_data: vec![], ..floats("w", &[1 << 30, 4, 1, 1], vec![]) };
    let error = refused(&model(vec![node("c", "Conv", &["x", "w"], "out")], vec![lied]));
    assert_eq!(error, "tensor 'w': 0 values for 4294967296 elements");
}

#[test]
fn every_prefix_and_every_flipped_byte_is_answered() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ops");
    for name in
        ["shuffle_by_shape", "if_of_shape", "max_pads_at_the_start", "functions", "weight_int4_blocks", "class_names"]
    {
        let bytes = std::fs::read(folder.join(format!("{name}.onnx"))).unwrap();
        for end in 0..bytes.len() {
            let _ = import(&bytes[..end], &ImportOptions::default());
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let _ = import(&changed, &ImportOptions::default());
            }
        }
    }
}

/// Inputs that fuzzing found do no harm: see `fuzz/`.
#[test]
fn kept_files_are_answered() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let Ok(files) = std::fs::read_dir(folder) else { return };
    for file in files {
        let _ = import(&std::fs::read(file.unwrap().path()).unwrap(), &ImportOptions::default());
    }
}

#[test]
fn patterns_become_one_operation() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ops");
    let function = |name: &str| {
        let bytes = std::fs::read(folder.join(format!("{name}.onnx"))).unwrap();
        let imported = import(&bytes, &ImportOptions::default()).unwrap();
        let op = imported.graph.nodes().iter().find_map(|node| match node.op {
            Op::Activation(function) => Some(function),
            _ => None,
        });
        (op, imported.graph.nodes().len())
    };
    // The nodes are the image, a factor of 5 or 8, the function, and flattening.
    for name in ["hard_swish_of_div", "hard_swish_of_gate", "hard_swish_of_mul", "hard_swish_of_hard_sigmoid"] {
        assert_eq!(function(name), (Some(Activation::HardSwish), 4), "{name}");
    }
    assert_eq!(function("silu"), (Some(Activation::Silu), 4));
    let torch = Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };
    assert_eq!(function("hard_sigmoid_of_clip"), (Some(torch), 4));
    for name in ["clip_inputs", "clip_attributes", "clip_by_min_and_max"] {
        assert_eq!(function(name), (Some(Activation::Clip { min: Some(0.0), max: Some(6.0) }), 4), "{name}");
    }
    let ops = |name: &str| {
        let bytes = std::fs::read(folder.join(format!("{name}.onnx"))).unwrap();
        let imported = import(&bytes, &ImportOptions::default()).unwrap();
        imported.graph.nodes().iter().map(|node| node.op.clone()).collect::<Vec<_>>()
    };
    // The nodes are the image, the layer with everything else in it, and flattening.
    for name in ["pad_conv", "pad_attribute", "batch_norm_decomposed", "pad_avg", "gather_channels"] {
        assert_eq!(ops(name).len(), 3, "{name}");
    }
    assert!(matches!(ops("lrn_of_pytorch")[..], [_, Op::Lrn { size: 3, .. }, _]));
    assert!(matches!(ops("shuffle_by_shape")[..], [_, Op::Shuffle { groups: 2 }, Op::Conv2d(_), _]));
    // Borders that differ become those of the pool.
    assert!(matches!(&ops("max_of_relu_pads_differ")[..], [_, _, Op::MaxPool2d(pool), _] if pool.end.is_some()));
    // The nodes are the image, the layer and flattening, so that no channel is moved.
    for name in ["bgr_slice_conv", "bgr_gather_normalise_conv", "bgr_split_concat"] {
        assert!(!ops(name).iter().any(|op| matches!(op, Op::Slice { .. } | Op::Concat)), "{name}");
    }
    assert!(ops("gather_shuffle").contains(&Op::Shuffle { groups: 2 }));
    // A gate is not expanded.
    let expands =
        |name: &str| ops(name).iter().any(|op| matches!(op, Op::AdaptiveAvgPool2d { output } if *output != [1, 1]));
    assert!(!expands("squeeze_excite_expanded") && expands("expand_before_conv"));
}

#[test]
fn names_are_the_parameters() {
    let mut first = node("/a/Conv", "Conv", &["x", "layer1.0.conv1.weight"], "c");
    first.attribute = vec![];
    let nodes =
        vec![first, node("/layer1/layer1.0/relu/Relu", "Relu", &["c"], "d"), node("", "Sigmoid", &["d"], "out")];
    let weight = floats("layer1.0.conv1.weight", &[4, 4, 1, 1], vec![0.5; 16]);
    let imported = read(&model(nodes, vec![weight])).unwrap();
    let names: Vec<&str> = imported.graph.nodes().iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["input", "layer1.0.conv1", "layer1.0.relu", "sigmoid", "pool"]);
    imported.weights.check(&imported.graph).unwrap();
}
