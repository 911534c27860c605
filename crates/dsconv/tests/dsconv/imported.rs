//! Networks from ONNX files against ONNX Runtime: small ones for each way to say something, torchvision's, and trained ones.
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use dsconv::Network;
use graph::{Info, Model, Preprocess};
use onnx::{ImportOptions, Imported};
use safetensors::SafeTensors;
use zoo::testing::formula_input;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx/tests/golden").join(name)
}


/// Logits of `[N, C, H, W]`, row-major.
fn logits(imported: &Imported, input: graph::Tensor) -> Vec<f32> {
    let info = Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: String::new() };
    let model = Model::float(imported.graph.clone(), imported.weights.clone(), info).unwrap();
    let device = Device::flex();
    let shape: [usize; 4] = input.shape().try_into().unwrap();
    let x = Tensor::<4>::from_data(TensorData::new(input.into_data(), shape), &device);
    Network::new(&model, &device).forward(x).into_data().try_to_vec().unwrap()
}

/// Largest difference over largest value of `expected`; infinite where a value is not finite.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |max, v| max.max(f64::from(v.abs())));
    let error = |(a, b): (&f32, &f32)| if a.is_finite() { f64::from((a - b).abs()) } else { f64::INFINITY };
    found.iter().zip(expected).map(error).fold(0.0, f64::max) / largest
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// `tests/golden/ops.py` makes the files.
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
        let input = if name.starts_with("nhwc_input") {
            channels_first(formula_input([images, shape.height, shape.width, shape.channels]))
        } else {
            formula_input([images, shape.channels, shape.height, shape.width])
        };
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
