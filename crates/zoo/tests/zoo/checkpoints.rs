//! Files written by torch.save and safetensors (`tests/golden/make.py`), broken files, and real networks.

use std::fs;
use std::path::{Path, PathBuf};

use graph::{Builder, Conv2d, Graph, Op, Preprocess, Shape, Tensor, Weights};
use zoo::checkpoint::{CheckpointError, load};
use zoo::testing::formula_weights;
use zoo::{Config, Stem};

use crate::plain;

/// `Tiny` of make.py.
fn tiny() -> Graph {
    let mut b = Builder::new("tiny", Shape::new(3, 8, 8));
    let x = b.conv("conv1", Conv2d::new(3, 4, 3), b.input());
    let x = b.batch_norm("bn1", 1e-5, x);
    let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    b.linear("fc", 3, x);
    b.finish().unwrap()
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints").join(file)
}

#[test]
fn every_container_gives_the_same_weights() {
    let graph = tiny();
    let expected = formula_weights(&graph);
    let exact = [
        "zip.pth",
        "legacy.pth",
        "data_parallel.pth",
        "data_parallel_legacy.pth",
        "model_key.pt",
        "views.pth",
        "f64.pth",
        "f32.safetensors",
        "f64.safetensors",
    ];
    for file in exact {
        assert_eq!(load(golden(file), &graph).unwrap(), expected, "{file}");
    }
    // Half precision keeps 11 bits, bfloat16 8: relative error 2^-11 and 2^-8.
    for (file, bits) in [("f16.safetensors", 11), ("bf16.safetensors", 8), ("bf16.pth", 8)] {
        let weights = load(golden(file), &graph).unwrap();
        for (name, tensor) in &expected.0 {
            for (want, got) in tensor.data().iter().zip(weights.get(name).data()) {
                assert!((want - got).abs() <= want.abs() * 0.5f32.powi(bits) + 1e-7, "{file} {name}: {want} {got}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let CheckpointError::NotFinite { tensor, index, .. } = load(golden("nan.pth"), &tiny()).unwrap_err() else {
        panic!("nan.pth loads");
    };
    assert_eq!((tensor.as_str(), index), ("fc.bias", 1));
    let CheckpointError::NotFloat { tensor, dtype, .. } = load(golden("integers.pth"), &tiny()).unwrap_err() else {
        panic!("integers.pth loads");
    };
    assert_eq!((tensor.as_str(), dtype.as_str()), ("fc.bias", "I64"));

    let mut b = Builder::new("other", Shape::new(3, 8, 8));
    let x = b.conv("conv1", Conv2d::new(3, 5, 3).bias(), b.input());
    b.batch_norm("bn1", 1e-5, x);
    let other = b.finish().unwrap();
    for file in ["zip.pth", "f32.safetensors"] {
        let CheckpointError::Weights { source, .. } = load(golden(file), &other).unwrap_err() else {
            panic!("{file} fits another graph");
        };
        assert_eq!(source.missing, ["conv1.bias"]);
        assert_eq!(source.unexpected, ["fc.bias", "fc.weight"]);
        assert_eq!(source.wrong_shape[3], ("bn1.weight".into(), vec![5], vec![4]));
        assert_eq!(source.wrong_shape[4], ("conv1.weight".into(), vec![5, 3, 3, 3], vec![4, 3, 3, 3]));
        assert_eq!(source.wrong_shape.len(), 5);
    }
}

#[test]
fn broken_files_are_errors() {
    let graph = tiny();
    let folder = tempfile::tempdir().unwrap();
    let try_load = |bytes: &[u8], name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        load(path, &graph)
    };
    for file in ["zip.pth", "legacy.pth", "f32.safetensors"] {
        let bytes = fs::read(golden(file)).unwrap();
        for length in (0..bytes.len() - 1).step_by(13) {
            assert!(try_load(&bytes[..length], file).is_err(), "{file} cut to {length} bytes loads");
        }
        // A flipped byte may only change a value; it must not panic.
        for at in (0..bytes.len()).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            let _ = try_load(&flipped, file);
        }
    }
    assert!(try_load(b"not a checkpoint", "text.pth").is_err());
    assert!(try_load(&[0xff; 64], "ones.safetensors").is_err());
    assert!(matches!(load(folder.path().join("absent.pth"), &graph), Err(CheckpointError::Io { .. })));
}

#[test]
fn googlenet_heads_and_old_densenet_names_load() {
    let folder = tempfile::tempdir().unwrap();
    let small = |name: &str| Config { width: Some(0.1), stem: Some(Stem::Small), input: Some(32), ..Config::new(name) };

    let config = Config { transform_input: true, ..small("googlenet") };
    let graph = zoo::build(&config).unwrap();
    let expected = formula_weights(&graph);
    let mut file = expected.clone();
    file.0.retain(|name, _| !name.starts_with("transform_input"));
    file.insert("aux1.conv.conv.weight", Tensor::new([1], vec![1.0]));
    file.insert("aux2.fc2.bias", Tensor::new([1], vec![1.0]));
    assert_eq!(load(write(&folder, &file), &graph).unwrap(), expected);

    let graph = zoo::build(&small("densenet121")).unwrap();
    let expected = formula_weights(&graph);
    let old = |name: &String| {
        ["norm", "conv"].iter().fold(name.clone(), |name, kind| {
            if !name.contains("denselayer") {
                return name;
            }
            name.replace(&format!(".{kind}1."), &format!(".{kind}.1."))
                .replace(&format!(".{kind}2."), &format!(".{kind}.2."))
        })
    };
    let file = Weights(expected.0.iter().map(|(name, tensor)| (old(name), tensor.clone())).collect());
    assert!(file.0.contains_key("features.denseblock1.denselayer1.norm.1.running_mean"));
    assert_eq!(load(write(&folder, &file), &graph).unwrap(), expected);
}

fn write(folder: &tempfile::TempDir, weights: &Weights) -> PathBuf {
    let path = folder.path().join("weights.safetensors");
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = weights
        .0
        .iter()
        .map(|(name, t)| (name.as_str(), t.shape(), t.data().iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, shape, data)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

/// Number of the first 300 images of `cifar10/test_batch.bin` that PyTorch classifies right with each file.
const REAL: [(&str, &str, usize); 2] =
    [("resnet20", "resnet20_cifar10.th", 234), ("resnet56", "resnet56_cifar10.th", 244)];

#[test]
fn real_cifar_networks_load_and_classify() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let images = fs::read(data.join("cifar10/test_batch.bin"));
    for (name, file, right) in REAL {
        let (Ok(images), Ok(true)) = (&images, fs::exists(data.join("weights").join(file))) else {
            eprintln!("SKIPPED: {file} or the CIFAR-10 images are not in {}", data.display());
            continue;
        };
        let config = Config::new(name);
        let graph = zoo::build(&config).unwrap();
        let weights = load(data.join("weights").join(file), &graph).unwrap();
        weights.check(&graph).unwrap();
        if std::env::var("DSCONV_SLOW").is_ok_and(|v| v == "1") {
            let preprocess = config.preprocess().unwrap();
            let got = images.as_chunks::<3073>().0[..300].iter().filter(|image| {
                let logits = plain::run(&graph, &weights, &normalise(&image[1..], &preprocess)).pop().unwrap();
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
                best == Some(usize::from(image[0]))
            });
            assert_eq!(got.count(), right, "{file}");
        }
    }
}

/// Three planes of 32x32 pixels to `[1, 3, 32, 32]`.
fn normalise(pixels: &[u8], preprocess: &Preprocess) -> Tensor {
    let value = |(i, &pixel): (usize, &u8)| {
        let c = i / (32 * 32);
        (f32::from(pixel) / preprocess.divide - preprocess.mean[c]) / preprocess.std[c]
    };
    Tensor::new([1, 3, 32, 32], pixels.iter().enumerate().map(value).collect())
}
