//! Exported ONNX files, run by ONNX Runtime: `check.py` beside this file.

use std::path::Path;
use std::process::Command;

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, ScaleFormat};
use burn::tensor::{Device, Tensor, TensorData};
use dsconv::Network;
use graph::{Activation, Builder, Conv2d, Op, Pool2d, Preprocess, Shape, Weights};
use images::OpenOptions;
use model::policy::{ActivationChange, ActivationRule, Rule};
use model::{Info, Model, Policy};
use serde_json::{Value, json};

use crate::Place;

/// A Python with `onnx` and `onnxruntime`: the one that `DSCONV_PYTHON` names, else `python3`.
///
/// # Panics
/// If `DSCONV_PYTHON` names one that has not.
fn python() -> Option<String> {
    let named = std::env::var("DSCONV_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let found = Command::new(&python).args(["-c", "import numpy, onnx, onnxruntime"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(named.is_none(), "DSCONV_PYTHON={python} cannot import numpy, onnx and onnxruntime");
    eprintln!("SKIPPED: python3 cannot import numpy, onnx and onnxruntime; DSCONV_PYTHON names another");
    None
}

/// The cases of one run of `check.py`.
struct Cases<'a> {
    place: &'a Place,
    cases: Vec<Value>,
}

impl Cases<'_> {
    /// A file that was exported as `profile`, with images and the logits that `model` gives for them.
    fn push(&mut self, file: &str, profile: &str, model: &Model, images: &Tensor<4>) {
        let logits = source_network(model).forward(images.clone());
        let (x, y) = (format!("{file}.images.npy"), format!("{file}.logits.npy"));
        write_npy(&self.place.path(&x), images.clone().into_data());
        write_npy(&self.place.path(&y), logits.into_data());
        self.cases.push(json!({"file": file, "profile": profile, "images": x, "logits": y}));
    }

    fn run(self, python: &str) -> Vec<Value> {
        let file = self.place.path("cases.json");
        std::fs::write(&file, json!({"cases": self.cases}).to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx/check.py");
        let output = Command::new(python).arg(script).arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let results: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(results.len(), self.cases.len());
        for result in &results {
            let of = |level: &str| {
                let [same, within, median, largest] = ["agreement", "within_1e-3", "median_error", "largest_error"]
                    .map(|key| number(&result[level][key]));
                format!("{level}: {same:.1}% same class, {within:.1}% within 1e-3, error {median:.0e} to {largest:.0e}")
            };
            let levels = ["disabled", "all", "folded"].map(of).join("; ");
            eprintln!("{}: {} bytes; {levels}; {}", result["file"], result["bytes"], result["operators"]);
        }
        results
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// The network that runs: in floats with its batch normalisation folded.
fn source_network(model: &Model) -> Network {
    if model.is_quantized() {
        return Network::new(model, &Device::flex());
    }
    let folded = model.clone().fold().unwrap();
    Network::trainable(folded.graph(), folded.weights(), &Device::flex())
}

/// The same weights, with every layer's input in floats.
fn weights_only(model: &Model) -> Model {
    model.clone().map_layers(|_, layer| layer.activation = None).unwrap()
}

/// NumPy's file of 32-bit floats, version 1.0.
fn write_npy(path: &Path, data: TensorData) {
    let shape: Vec<String> = data.shape().iter().map(|n| format!("{n},")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", shape.join(" "));
    let padded = format!("{header:<width$}\n", width = (header.len() + 11).next_multiple_of(64) - 11);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded.len() as u16).to_le_bytes());
    bytes.extend(padded.as_bytes());
    bytes.extend(data.convert::<f32>().try_into_vec::<f32>().unwrap().into_iter().flat_map(f32::to_le_bytes));
    std::fs::write(path, bytes).unwrap();
}

fn embedded_images(preprocess: &Preprocess, count: usize) -> Tensor<4> {
    let options = OpenOptions { limit: Some(count), ..OpenOptions::default() };
    let set = images::open_labelled("embedded", preprocess, &options).unwrap();
    let batch = set.without_labels().batch(&(0..count).collect::<Vec<_>>()).unwrap();
    Tensor::from_data(TensorData::new(batch.pixels, batch.shape), &Device::flex())
}

/// At every optimisation level all classes are the simulation's, and the logits of at least `near` percent of the images
/// are within 1e-3 of their largest one.
#[track_caller]
fn assert_same(result: &Value, near: f64) {
    for level in ["disabled", "all", "folded"] {
        let scores = &result[level];
        let context = format!("{} {level}: {scores}", result["file"]);
        assert_eq!(scores["agreement"], 100.0, "{context}");
        assert!(number(&scores["median_error"]) <= 1e-5, "{context}");
        assert!(number(&scores["within_1e-3"]) >= near, "{context}");
    }
}

/// Of the images of a network whose activations are rounded to few bits: sums are rounded in another order there, and a
/// value that lies at a half, up to that rounding, becomes the neighbouring code.
const NEAR_WITH_CODES: f64 = 75.0;

#[test]
fn embedded_networks_give_the_same_in_onnx_runtime() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let mut cases = Cases { place: &place, cases: vec![] };
    let teachers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zoo/teachers");
    for network in ["alexnet", "vgg", "googlenet", "resnet50", "densenet"] {
        let teacher = teachers.join(format!("{network}-embedded.safetensors"));
        let file = |suffix: &str| format!("{network}_{suffix}.onnx");
        let quantized = format!("{network}.safetensors");
        place.json(&["quantize", teacher.to_str().unwrap(), "-o", &quantized]);
        let export = |profile: &str, more: &[&str], suffix: &str| {
            let output = file(suffix);
            let args = ["export", &quantized, "--format", "onnx", "--profile", profile, "-o", &output];
            let written = place.json(&[&args[..], more].concat());
            assert_eq!(written["profile"], profile);
            output
        };
        let model = files::load(place.path(&quantized)).unwrap();
        let images = embedded_images(&model.info().preprocess, 64);
        cases.push(&export("int4", &[], "int4"), "int4", &model, &images);
        let floats = weights_only(&model);
        cases.push(&export("int4", &["--activations", "off"], "int4_weights"), "int4_weights", &floats, &images);
        cases.push(&export("fp32", &[], "fp32"), "fp32", &floats, &images);
        let two_level = weights_only(&model.to_two_level().unwrap());
        let calibrate = ["--calibrate", "embedded", "--calibration-images", "128"];
        cases.push(&export("int8", &calibrate, "int8"), "int8", &two_level, &images);
        let percentile = [&calibrate[..], &["--calibration", "percentile", "--symmetric"]].concat();
        cases.push(&export("int8", &percentile, "int8_symmetric"), "int8_symmetric", &two_level, &images);
    }
    for result in cases.run(&python) {
        let operators = &result["operators"];
        let count = |name: &str| operators[name].as_u64().unwrap_or(0);
        match result["profile"].as_str().unwrap() {
            profile @ ("int8" | "int8_symmetric") => {
                // Rounded to 8 bits once more: near, not the same.
                for level in ["disabled", "all"] {
                    assert!(number(&result[level]["agreement"]) >= 95.0, "{result}");
                }
                // Every layer is an integer kernel. Of codes that do not end at 0, ONNX Runtime makes none before a ReLU.
                if profile == "int8" {
                    assert_eq!(["Conv", "FusedConv", "Gemm", "FusedGemm"].map(count), [0; 4], "{operators}");
                    assert!(count("QLinearConv") > 0 && count("QGemm") > 0, "{operators}");
                }
            }
            profile => {
                let rounded = profile == "int4";
                assert_same(&result, if rounded { NEAR_WITH_CODES } else { 100.0 });
                let (ir, opset) = if profile == "fp32" { (7, 13) } else { (10, 21) };
                assert_eq!((&result["ir_version"], &result["opset"][""]), (&json!(ir), &json!(opset)));
            }
        }
        assert!(result["metadata"]["classes"].as_str().unwrap().contains("triangle_up"), "{}", result["metadata"]);
    }
}

/// A network with every operation, and nodes named like the file's input and output.
fn every_operation() -> Model {
    let mut b = Builder::new("every", Shape::new(3, 19, 17));
    let conv = |from: usize, to: usize| Conv2d::new(from, to, 3).padding(1).bias();
    let x = b.conv("stem", conv(3, 12).stride(2), b.input());
    let functions = Activation::examples().into_iter().enumerate();
    let functions = functions.map(|(i, function)| b.push(format!("function{i}"), Op::Activation(function), vec![x]));
    let functions = functions.collect();
    let x = b.push("functions", Op::Concat, functions);
    let x = b.conv("mixed", Conv2d::new(b.channels(x), 12, 1), x);
    let x = b.push("lrn", Op::Lrn { size: 5, alpha: 0.3, beta: 0.75, k: 1.5 }, vec![x]);
    let x = b.push("pad", Op::Pad2d { sides: [1, 0, 2, 1], value: 0.25 }, vec![x]);
    let grouped = Conv2d { groups: 3, dilation: [1, 2], ..Conv2d::new(12, 15, 3) };
    let x = b.conv("grouped", grouped, x);
    let x = b.batch_norm("grouped_bn", 1e-3, x);
    let x = b.push("shuffle", Op::Shuffle { groups: 5 }, vec![x]);
    let x = b.push("relu6", Op::Activation(Activation::Clip { min: Some(0.0), max: Some(6.0) }), vec![x]);
    let depthwise = Conv2d { groups: 15, ..conv(15, 15) };
    let y = b.conv("depthwise", depthwise, x);
    let y = b.push("leaky", Op::Activation(Activation::LeakyRelu { slope: 0.1 }), vec![y]);
    // Squeeze and excitation through fully connected layers and 1x1 convolutions.
    let gate = b.push("squeeze", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![y]);
    let gate = b.push("gate_flat", Op::Flatten, vec![gate]);
    let gate = b.linear("gate_fc", 7, gate);
    let gate = b.push("gate_silu", Op::Activation(Activation::Silu), vec![gate]);
    let gate = b.conv("gate_conv", Conv2d::new(7, 15, 1).bias(), gate);
    let gate = b.push("gate", Op::Activation(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }), vec![gate]);
    let y = b.push("excite", Op::Mul, vec![y, gate]);
    let Shape { height, width, .. } = b.shape(y);
    let spread = b.push("spread", Op::AdaptiveAvgPool2d { output: [height, width] }, vec![gate]);
    let y = b.push("shift", Op::Add, vec![y, spread]);
    let x = b.push("add", Op::Add, vec![x, y]);
    let low = b.push("low", Op::Slice { start: 0, channels: 6 }, vec![x]);
    let high = b.push("high", Op::Slice { start: 6, channels: 9 }, vec![x]);
    let low = b.push("low_sigmoid", Op::Activation(Activation::Sigmoid), vec![low]);
    let low = b.push("low_slopes", Op::PRelu { channels: 6 }, vec![low]);
    let soft = b.push("high_softplus", Op::Activation(Activation::Softplus), vec![high]);
    let high = b.push("high_larger", Op::Max, vec![high, soft]);
    let high = b.push("high_cap", Op::Activation(Activation::Clip { min: None, max: Some(2.0) }), vec![high]);
    let x = b.push("joined", Op::Concat, vec![low, high]);
    let x = b.batch_norm("norm", 1e-5, x);
    let x = b.relu("relu", x);
    let same = b.push("shortcut", Op::PadShortcut { stride: 2, before: 1, after: 2 }, vec![x]);
    let x = b.conv("down", Conv2d { stride: [2, 2], ..conv(15, 18) }, x);
    let x = b.push("residual", Op::Add, vec![x, same]);
    let x = b.max_pool("max_ceil", Pool2d::new(2, 2).ceil_mode(), x);
    let x = b.push(
        "average_inside",
        Op::AvgPool2d(Pool2d { count_include_pad: false, ..Pool2d::new(3, 1).padding(1) }),
        vec![x],
    );
    let x = b.push("average", Op::AvgPool2d(Pool2d::new(3, 1).padding(1)), vec![x]);
    let x = b.push("windows", Op::AdaptiveAvgPool2d { output: [2, 3] }, vec![x]);
    let x = b.push("flat", Op::Flatten, vec![x]);
    let x = b.push("drop", Op::Dropout { p: 0.5 }, vec![x]);
    let x = b.linear("logits", 11, x);
    b.push("image", Op::Softmax, vec![x]);
    let graph = b.finish().unwrap();
    let weights = Weights::init(&graph, 3);
    let info = Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: "random".into() };
    Model::float(graph, weights, info).unwrap()
}

#[test]
fn every_operation_and_format_gives_the_same_in_onnx_runtime() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let mut cases = Cases { place: &place, cases: vec![] };
    let pixels = |i: usize| ((i as f32 * 0.7).sin() + (i as f32 * 0.013).cos()) * 1.3;
    let pixels: Vec<f32> = (0..6 * 3 * 19 * 17).map(pixels).collect();
    let images = Tensor::<4>::from_data(TensorData::new(pixels, [6, 3, 19, 17]), &Device::flex());
    let mut export = |name: &str, profile: &onnx::Profile, model: &Model, simulated: &Model| {
        let file = format!("{name}.onnx");
        std::fs::write(place.path(&file), onnx::export(model, profile).unwrap()).unwrap();
        cases.push(&file, profile.name(), simulated, &images);
    };
    let whole = |layer: &str| Rule {
        layers: layer.into(),
        scales: Some(ScaleFormat::TwoLevel),
        activation: Some(ActivationRule::Change(ActivationChange {
            block: Some(BlockSize::IMAGE),
            ..ActivationChange::default()
        })),
        ..Rule::default()
    };
    let float = every_operation();
    export("floats", &onnx::Profile::Fp32, &float, &float);
    // Weight bits and block, activation bits, block and scale: ragged blocks, whole pixels, codes beyond 4 bits.
    let int4 = onnx::Profile::Int4 { activations: true };
    for (bits, block, activation_bits, activation_block, scale) in [
        (4, Some(4), 8, Some(8), ActivationScale::Float),
        (3, Some(5), 6, Some(5), ActivationScale::Pow2),
        (2, None, 8, None, ActivationScale::Float),
        (8, Some(2), 7, None, ActivationScale::Pow2),
        (5, Some(7), 8, Some(14), ActivationScale::Float),
    ] {
        let block_size = |n: Option<usize>| n.map_or(BlockSize::PIXEL, |n| BlockSize::new(n).unwrap());
        let width = |n: u8| Bits::new(n).unwrap();
        let activation = ActivationFormat { bits: width(activation_bits), block: block_size(activation_block), scale };
        let policy = Policy {
            bits: width(bits),
            block: block_size(block),
            activation: Some(activation),
            // One scale of either kind for all pixels of the image.
            image_sum: [3, 5].contains(&bits),
            // One for all pixels of values inside of the network, signed or not.
            rules: ["mixed", "down"].map(whole).into_iter().filter(|_| [3, 5].contains(&bits)).collect(),
            ..Policy::default()
        };
        let mut model = float.quantize(&policy).unwrap();
        if bits == 4 {
            model.round_scales_f16();
        }
        export(&format!("w{bits}a{activation_bits}"), &int4, &model, &model);
        export(&format!("w{bits}"), &onnx::Profile::Fp32, &model, &weights_only(&model));
    }
    for result in cases.run(&python) {
        assert_same(&result, 100.0);
    }
}

#[test]
fn an_export_says_what_it_needs_and_names_its_file_after_the_profile() {
    let place = Place::new();
    place.run(&["export", "tiny.safetensors", "--format", "onnx", "--profile", "int4"]).refuses(
        2,
        "error: `tiny` is not quantized: the profile int4 needs integer weights\n\n\
         hint: `dsconv quantize tiny.safetensors` makes some, and `--profile fp32` writes floats",
    );
    fn export<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["export", model, "--format", "onnx"], more].concat()
    }
    let written = place.json(&export("tiny.safetensors", &[]));
    assert_eq!((&written["path"], &written["profile"]), (&json!("tiny_fp32.onnx"), &json!("fp32")));

    place.json(&["quantize", "tiny.safetensors", "-o", "a.safetensors"]);
    place.run(&export("a.safetensors", &["--profile", "int8"])).refuses(
        2,
        "error: the profile int8 has one scale for each activation, found on images\n\n\
         hint: `--calibrate DATA` names some: a folder, a file, `embedded`; labels are not read",
    );
    let written = place.json(&export("a.safetensors", &[]));
    assert_eq!((&written["path"], &written["profile"]), (&json!("a_int4.onnx"), &json!("int4")));
    assert_eq!(written["bytes"], std::fs::metadata(place.path("a_int4.onnx")).unwrap().len());
    place.json(&export("a.safetensors", &["--activations", "off"]));
    assert!(place.path("a_int4_weights.onnx").is_file());
    place
        .run(&export("a.safetensors", &[]))
        .refuses(1, "error: `a_int4.onnx` exists already\n\nhint: `--force` replaces it; or name another file");
}
