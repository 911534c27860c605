//! These tests compare networks from ONNX files with ONNX Runtime: small ones for each way to say something, and torchvision's.
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::{Device, Tensor, TensorData};
use dsconv::Network;
use graph::Preprocess;
use model::{Info, Model};
use onnx::{ImportOptions, Imported};
use safetensors::SafeTensors;
use zoo::testing::formula_input;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx/tests/golden").join(name)
}

/// Computes the logits `[N, classes]` of `input` `[N, C, H, W]`, row-major.
fn logits(imported: &Imported, input: graph::Tensor) -> Vec<f32> {
    let info = Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: String::new() };
    let model = Model::float(imported.graph.clone(), imported.weights.clone(), info).unwrap();
    let device = Device::flex();
    let shape: [usize; 4] = input.shape().try_into().unwrap();
    let x = Tensor::<4>::from_data(TensorData::new(input.into_data(), shape), &device);
    Network::new(&model, &device).forward(x).into_data().try_to_vec().unwrap()
}

/// Divides the largest difference by the largest value of `expected`. A value that is not finite gives infinity.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |max, v| max.max(f64::from(v.abs())));
    let error = |(a, b): (&f32, &f32)| if a.is_finite() { f64::from((a - b).abs()) } else { f64::INFINITY };
    found.iter().zip(expected).map(error).fold(0.0, f64::max) / largest
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// `tests/golden/ops.py` of the crate `onnx` makes the files.
#[test]
fn every_way_to_say_something_is_computed_as_onnx_runtime_does() {
    let stored = std::fs::read(golden("ops.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&stored).unwrap();
    assert!(stored.len() >= 100);
    let mut failed = Vec::new();
    for (name, expected) in stored.tensors() {
        let path = golden("ops").join(format!("{name}.onnx"));
        let bytes = std::fs::read(&path).unwrap();
        let imported = match onnx::import(&bytes, &ImportOptions::default()) {
            Ok(imported) => imported,
            Err(error) => {
                failed.push(format!("{name}: {error}"));
                continue;
            }
        };
        let shape = imported.graph.input();
        let images = expected.shape()[0];
        let mut input = if name.ends_with("nhwc_input") {
            channels_first(formula_input([images, shape.height, shape.width, shape.channels]))
        } else {
            formula_input([images, shape.channels, shape.height, shape.width])
        };
        assert_eq!(imported.bytes, name.starts_with("bytes"), "{name}");
        if imported.bytes {
            input.data_mut().iter_mut().for_each(|v| *v = (*v * 128.0 + 128.0).floor());
        }
        let expected = floats(expected.data());
        let found = logits(&imported, input);
        if found.len() != expected.len() {
            failed.push(format!("{name}: {} values, not {}", found.len(), expected.len()));
            continue;
        }
        let difference = difference(&found, &expected);
        if difference > 1e-5 {
            failed.push(format!("{name}: differs by {difference:.1e}"));
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), stored.len(), failed.join("\n"));
}

fn channels_first(x: graph::Tensor) -> graph::Tensor {
    let &[n, h, w, c] = x.shape() else { panic!("an image") };
    let at = |i: usize, k: usize, p: usize| x.data()[(i * h * w + p) * c + k];
    let data = (0..n).flat_map(|i| (0..c).flat_map(move |k| (0..h * w).map(move |p| (i, k, p))));
    graph::Tensor::new([n, c, h, w], data.map(|(i, k, p)| at(i, k, p)).collect::<Vec<_>>())
}

/// `tests/golden/nets.py` of the crate `onnx` writes torchvision's networks with both of PyTorch's exporters, where a Python
/// with torch and ONNX Runtime is there (`DSCONV_PYTHON`, else `python3`): four networks, and all with `DSCONV_SLOW=1`.
#[test]
fn torchvisions_networks_compute_what_onnx_runtime_does() {
    let python = std::env::var("DSCONV_PYTHON").unwrap_or_else(|_| "python3".into());
    let imports = "import torch, torchvision, onnx, onnxscript, onnxruntime, safetensors";
    let found = Command::new(&python).args(["-c", imports]).output();
    if !found.is_ok_and(|found| found.status.success()) {
        println!("SKIPPED: `{python}` has no torch, onnx and onnxruntime; DSCONV_PYTHON names one that has");
        return;
    }
    let folder = std::env::temp_dir().join(format!("dsconv-nets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let slow = std::env::var_os("DSCONV_SLOW").is_some();
    let names = if slow { &[][..] } else { &["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "convnext_tiny"] };
    let ran = Command::new(&python).arg(golden("nets.py")).arg(&folder).args(names).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let mut compared = 0;
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "onnx")).collect();
    files.sort();
    for path in files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let imported = onnx::import(&std::fs::read(&path).unwrap(), &ImportOptions::default());
        if name.starts_with("convnext") {
            let error = imported.unwrap_err();
            println!("{name}: {error}");
            assert!(
                error.to_string().contains("layer normalisation") || error.to_string().contains("LayerNormalization")
            );
            assert!(error.hint().unwrap().contains("GELU"));
            continue;
        }
        let imported = imported.unwrap_or_else(|error| panic!("{name}: {error}"));
        let stored = std::fs::read(path.with_extension("safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&stored).unwrap();
        let tensor = |key: &str| {
            let view = stored.tensor(key).unwrap();
            graph::Tensor::new(view.shape(), floats(view.data()))
        };
        let difference = difference(&logits(&imported, tensor("input")), tensor("logits").data());
        println!("{name}: {} nodes, largest relative difference {difference:.1e}", imported.graph.nodes().len());
        assert!(difference <= 1e-4, "{name}: {difference}");
        if name.starts_with("resnet18") {
            let id = imported.graph.find("layer1.0.conv1").expect("torchvision's name");
            assert!(matches!(imported.graph.node(id).op, graph::Op::Conv2d(_)));
        }
        compared += 1;
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(compared >= if slow { 20 } else { 6 }, "only {compared} networks");
}
