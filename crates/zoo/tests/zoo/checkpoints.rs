//! Tests with files written by torch.save and safetensors (`tests/golden/checkpoints.py`), broken files, and real networks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use graph::{Builder, Conv2d, Graph, Op, Preprocess, Shape, Tensor, Weights};
use zoo::checkpoint::{Assumption, Checkpoint, CheckpointError, load};
use zoo::testing::formula_weights;
use zoo::{Config, Stem};

use crate::plain;

/// Builds the network `Tiny` of make.py.
fn tiny() -> Graph {
    let mut b = Builder::new("tiny", Shape::new(3, 8, 8));
    let x = b.conv("conv1", Conv2d::new(3, 4, 3), b.input());
    let x = b.batch_norm("bn1", 1e-5, x);
    let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    b.linear("fc", 3, x);
    b.finish().unwrap()
}

/// The message of an error, and its hint after a blank line.
fn told(error: &CheckpointError) -> String {
    match error.hint() {
        Some(hint) => format!("{error}\n\n{hint}"),
        None => error.to_string(),
    }
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints").join(file)
}

/// The golden files that all hold the formula's weights.
const EXACT: [&str; 46] = [
    "arrays.npz",
    "arrays.pth",
    "arrays2.pkl",
    "arrays5.pkl",
    "averaged.pth",
    "backbone_head.pth",
    "channels_last.pth",
    "checkpoint_epoch_0199.pth",
    "compiled.pth",
    "cuda.pth",
    "data_parallel.pth",
    "data_parallel_legacy.pth",
    "ema_beside.pth",
    "ema_in_one.pth",
    "expanded.pth",
    "f32.safetensors",
    "f64.pth",
    "f64.safetensors",
    "head_sequential.pth",
    "legacy.pth",
    "legacy_protocol4.pth",
    "lightning.ckpt",
    "mixed.pth",
    "model_key.pt",
    "model.safetensors.index.json",
    "nested.pth",
    "net_key.pth",
    "no_checksums.pth",
    "objects.pth",
    "objects_protocol4.pth",
    "protocol5.pth",
    "script.pt",
    "tar.pth",
    "teacher_student.pth",
    "tensors.pkl",
    "thop.pth",
    "trainer.pth",
    "tuple.pth",
    "twice_the_same.pth",
    "two_dicts.pth",
    "views.pth",
    "views_legacy.pth",
    "whole.pth",
    "whole_legacy.pth",
    "whole_parallel.pth",
    "zip.pth",
];

#[test]
fn every_container_gives_the_same_weights() {
    let graph = tiny();
    let expected = formula_weights(&graph);
    for file in EXACT {
        assert_eq!(load(golden(file), &graph).unwrap_or_else(|error| panic!("{error}")), expected, "{file}");
        if !file.ends_with(".index.json") {
            let read = Checkpoint::from_bytes(file, &fs::read(golden(file)).unwrap()).unwrap();
            assert_eq!(read.load(&graph).unwrap().weights, expected, "{file} in memory");
        }
    }
    let error =
        Checkpoint::from_bytes("a dictionary", &fs::read(golden("f32.safetensors")).unwrap()[..200]).unwrap_err();
    assert!(error.to_string().starts_with("a dictionary: it was cut off"), "{error}");
    // Half precision keeps 11 bits, bfloat16 8: relative error 2^-11 and 2^-8.
    for (file, bits) in [("f16.safetensors", 11), ("half.pth", 11), ("bf16.safetensors", 8), ("bf16.pth", 8)] {
        let weights = load(golden(file), &graph).unwrap();
        for (name, tensor) in expected.iter() {
            for (want, got) in tensor.data().iter().zip(weights[name].data()) {
                assert!((want - got).abs() <= want.abs() * 0.5f32.powi(bits) + 1e-7, "{file} {name}: {want} {got}");
            }
        }
    }
}

#[test]
fn weights_in_parts_are_what_pytorch_computes_with() {
    let graph = tiny();
    let formula = formula_weights(&graph);
    let text = fs::read_to_string(golden("expected.json")).unwrap();
    let expected: BTreeMap<String, BTreeMap<String, Vec<f32>>> = serde_json::from_str(&text).unwrap();
    assert_eq!(expected.len(), 5);
    for (file, changed) in expected {
        let weights = load(golden(&file), &graph).unwrap_or_else(|error| panic!("{error}"));
        for (name, tensor) in weights.iter() {
            let own = formula[name].data();
            let want = changed.get(name).map_or(own, Vec::as_slice);
            let close =
                want.iter().zip(tensor.data()).all(|(want, got)| (want - got).abs() <= 2e-6 * (1.0 + want.abs()));
            assert!(close && want.len() == tensor.data().len(), "{file} {name}: {want:?} {:?}", tensor.data());
            assert_eq!(want == own, !changed.contains_key(name), "{file} changes nothing");
        }
    }
}

#[test]
fn what_was_taken_and_left_out_is_said() {
    let cases: [(&str, &[&str], Option<&str>); 8] = [
        ("zip.pth", &[], None),
        ("twice_the_same.pth", &[], None),
        ("backbone_head.pth", &["its classifier is `head.fc`"], None),
        ("averaged.pth", &[], None),
        (
            "lightning.ckpt",
            &["left out, as they are not the network's: `state_dict.criterion.weight`, `state_dict.train_acc.confmat`"],
            None,
        ),
        (
            "ema_beside.pth",
            &[],
            Some("it holds the network more than once: `state_dict` is taken, not `state_dict_ema`"),
        ),
        (
            "ema_in_one.pth",
            &[],
            Some("it holds the network more than once: `state_dict.model` is taken, not `state_dict.ema_model`"),
        ),
        ("teacher_student.pth", &[], Some("it holds the network more than once: `student` is taken, not `teacher`")),
    ];
    for (file, notes, choice) in cases {
        let loaded = Checkpoint::open(golden(file)).unwrap().load(&tiny()).unwrap();
        assert_eq!(
            (&loaded.notes[..], loaded.choice.as_deref()),
            (&notes.iter().map(ToString::to_string).collect::<Vec<_>>()[..], choice),
            "{file}"
        );
    }
    let details = Checkpoint::open(golden("net_key.pth")).unwrap().load(&tiny()).unwrap().details;
    assert_eq!(details[0], "its names begin with `net.module.`");
}

#[test]
fn class_names_are_found_where_their_number_fits() {
    for file in ["lightning.ckpt", "objects.pth", "trainer.pth"] {
        let checkpoint = Checkpoint::open(golden(file)).unwrap();
        let names: Vec<String> = ["cat", "dog", "owl"].map(str::to_owned).to_vec();
        assert_eq!((checkpoint.class_names(3), checkpoint.class_names(4)), (Some(&names[..]), None), "{file}");
    }
}

#[test]
fn what_has_no_weights_or_other_ones_is_refused_by_name() {
    let cases = [
        ("quantized.pth", "tensor `conv1.weight` has quantized integers, not floats"),
        ("sparse.pth", "tensor `fc.weight` has a sparse layout, not floats"),
        ("meta.pth", "tensor `fc.weight` has no values, as it was on the device `meta`, not floats"),
        ("float8.pth", "tensor `conv1.weight` has float8_e4m3fn, not floats"),
        ("parametrized.pth", "tensor `fc.weight` has a parametrization of its own, not floats"),
        ("integers.pth", "tensor `fc.bias` has i64, not floats"),
        ("extra_layer.pth", "the weights do not fit `tiny`:\n  unexpected  bn1.se.weight"),
        ("other_stride.pth", "the weights do not fit `tiny`:\n  unexpected  conv1: stride [2.0, 2.0], not [1.0, 1.0]"),
        ("other_eps.pth", "the weights do not fit `tiny`:\n  unexpected  bn1: eps [0.001], not [1e-5]"),
        (
            "two_heads.pth",
            "the weights do not fit `tiny`:\n  missing     fc.bias\n  missing     fc.weight\n  unexpected  a.bias\n  \
             unexpected  a.weight\n  unexpected  b.bias\n  unexpected  b.weight",
        ),
        (
            "no_statistics.pth",
            "the running statistics of the batch normalisations of `tiny` are missing\n\n\
             save `model.state_dict()`, which has them, not `model.named_parameters()`",
        ),
    ];
    for (file, expected) in cases {
        let error = told(&load(golden(file), &tiny()).unwrap_err());
        let (_, message) = error.split_once(": ").unwrap();
        assert_eq!(message, expected, "{file}");
    }
    let error = told(&load(golden("no_tensors.pth"), &tiny()).unwrap_err());
    assert!(error.ends_with("/no_tensors.pth is a pickle without tensors\n\nsave the parameters: `torch.save(model.state_dict(), \"weights.pth\")`"), "{error}");
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], &str); 7] = [
        ("empty.pth", b"", "is an empty file"),
        ("page.pth", b"\n<!DOCTYPE html>\n<html></html>", "is a web page"),
        ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("keras.pth", b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        ("config.json", b"{\"a\": 1}", "is JSON"),
        ("packed.pth", b"\x1f\x8b\x08", "is a compressed archive"),
        ("text.pth", b"not a checkpoint", "is not a checkpoint: neither a file of `torch.save` nor safetensors"),
    ];
    for (name, bytes, expected) in cases {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = load(&path, &tiny()).unwrap_err();
        assert!(matches!(error, CheckpointError::NotACheckpoint { .. }), "{name}: {error}");
        assert!(error.to_string().contains(&format!("{name} {expected}")) && error.hint().is_some(), "{error}");
    }
    let zip = fs::read(golden("zip.pth")).unwrap();
    let path = folder.path().join("cut.pth");
    fs::write(&path, &zip[..zip.len() / 2]).unwrap();
    let error = load(&path, &tiny()).unwrap_err().to_string();
    assert!(error.ends_with("a zip archive without its directory, which is at the end: it was cut off"), "{error}");
    let part = "model-00002-of-00002.safetensors";
    fs::copy(golden("model.safetensors.index.json"), folder.path().join("model.safetensors.index.json")).unwrap();
    fs::copy(golden("model-00001-of-00002.safetensors"), folder.path().join("model-00001-of-00002.safetensors"))
        .unwrap();
    let error = load(folder.path().join("model.safetensors.index.json"), &tiny()).unwrap_err().to_string();
    assert!(error.contains(&format!("its part `{part}`: ")), "{error}");
}

#[test]
fn an_index_that_names_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    fs::write(&path, r#"{"weight_map": {"fc.weight": "index"}}"#).unwrap();
    let error = load(&path, &tiny()).unwrap_err().to_string();
    assert!(error.contains("not a checkpoint"), "{error}");
}

#[test]
fn the_network_is_found_by_its_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let narrow = |name: &str| Config { width: Some(0.125), classes: Some(7), ..Config::new(name) };
    let small = |name: &str, stem| Config { stem: Some(stem), input: Some(32), ..narrow(name) };
    let cases = [
        narrow("resnet18"),
        narrow("resnet34"),
        narrow("resnet50"),
        Config { width: Some(0.5), ..narrow("resnet20") },
        Config { width: Some(0.5), ..narrow("resnet56") },
        narrow("densenet121"),
        Config { width: Some(0.5), ..narrow("densenet100_bc") },
        narrow("googlenet"),
        narrow("alexnet"),
        narrow("vgg11"),
        narrow("vgg16_bn"),
        small("resnet18", Stem::Cifar),
        small("vgg11_bn", Stem::Small),
        small("googlenet", Stem::Small),
        Config { channels: Some(1), ..narrow("resnet18") },
        Config::new("resnet50-embedded"),
        Config::new("vgg-embedded"),
        Config::new("densenet-embedded"),
        Config { classes: Some(3), ..Config::new("resnet20") },
    ];
    for config in cases {
        let graph = zoo::build(&config).unwrap();
        let path = write(&folder, &formula_weights(&graph));
        let found =
            Checkpoint::open(&path).unwrap().identify(&Config::default()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found.config, config);
    }
    // With stride 2, if that is said.
    let given = Config { stem: Some(Stem::Small), ..Config::default() };
    let config = small("resnet18", Stem::Small);
    let path = write(&folder, &formula_weights(&zoo::build(&config).unwrap()));
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.identify(&given).unwrap().config, config);
    let assumed = checkpoint.identify(&Config::default()).unwrap().assumed;
    assert_eq!(assumed, [Assumption::CifarStem, Assumption::ImageSide(32)]);
}

#[test]
fn another_network_is_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let other = Config { classes: Some(7), width: Some(0.125), ..Config::new("resnet34") };
    let path = write(&folder, &formula_weights(&zoo::build(&other).unwrap()));
    let error = told(&load(&path, &zoo::build(&Config::new("resnet18")).unwrap()).unwrap_err());
    assert!(
        error.ends_with(
            ": the weights do not fit `resnet18`: this looks like resnet34 of width 0.125 with 7 classes\n\n\
         name that network, or the file alone"
        ),
        "{error}"
    );

    // Squeeze and excitation: more than a ResNet has.
    let config = Config { width: Some(0.125), ..Config::new("resnet18") };
    let mut weights = formula_weights(&zoo::build(&config).unwrap());
    weights.insert("layer1.0.se.fc.weight", Tensor::new([8, 8], vec![1.0; 64]));
    let error = told(&Checkpoint::open(write(&folder, &weights)).unwrap().identify(&Config::default()).unwrap_err());
    assert!(
        error.contains(
            ": these parameters are of no network that dsconv can build; nearest is `resnet18`: the weights do not fit \
         `resnet18`:\n  unexpected  layer1.0.se.fc.weight\n\nany other network comes as an ONNX file"
        ),
        "{error}"
    );
    let mut weights = Weights::default();
    weights.insert("blocks.0.attn.qkv.weight", Tensor::new([2, 2], vec![1.0; 4]));
    let error = Checkpoint::open(write(&folder, &weights)).unwrap().identify(&Config::default()).unwrap_err();
    let message = error.to_string();
    assert!(message.ends_with("are of no network that dsconv can build: `blocks.0.attn.qkv.weight`"), "{message}");
    assert!(error.hint().is_some());
}

#[test]
fn names_of_others_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { width: Some(0.125), stem: Some(Stem::Cifar), input: Some(32), ..Config::new("resnet18") };
    let graph = zoo::build(&config).unwrap();
    let expected = formula_weights(&graph);
    // github.com/kuangliu/pytorch-cifar
    let theirs = |name: &str| name.replace("downsample", "shortcut").replace("fc.", "linear.");
    let file: Weights = expected.iter().map(|(name, tensor)| (theirs(name), tensor.clone())).collect();
    let checkpoint = Checkpoint::open(write(&folder, &file)).unwrap();
    assert_eq!(checkpoint.identify(&Config::default()).unwrap().config, config);
    assert_eq!(checkpoint.load(&graph).unwrap().weights, expected);
}

/// Good files are damaged at random. None may cause a panic or use more memory than its size justifies.
#[test]
fn damaged_files_never_panic() {
    let rounds: u64 = std::env::var("DSCONV_FUZZ").ok().and_then(|count| count.parse().ok()).unwrap_or(3_000);
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<Vec<u8>> = fs::read_dir(golden(""))
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .filter(|bytes| bytes.len() < 20_000)
        .collect();
    let graph = tiny();
    let path = folder.path().join("damaged.pth");
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let mut opened = 0;
    for round in 0..rounds {
        let mut bytes = files[random(files.len())].clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(6) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes.truncate(at.max(1)),
                // A size or count.
                3 => {
                    let value = [0, 1, 0xff, 0x7fff_ffff, u64::MAX, 1 << 40][random(6)].to_le_bytes();
                    let len = [1, 2, 4, 8][random(4)].min(bytes.len() - at);
                    bytes[at..at + len].copy_from_slice(&value[..len]);
                }
                // A piece of itself elsewhere.
                4 => {
                    let (from, len) = (random(bytes.len()), random(64));
                    let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let end = (at + random(16)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(&path) {
            opened += u64::from(checkpoint.load(&graph).is_ok());
            if round % 16 == 0 {
                let _ = checkpoint.identify(&Config::default());
            }
        }
    }
    assert!(opened > rounds / 100, "{opened} of {rounds} still open: damage is too rough to test anything");
}

/// A pickle for which Python runs a command, as it does when that is there to read it, runs nothing here.
#[test]
fn nothing_in_a_pickle_is_run() {
    let folder = tempfile::tempdir().unwrap();
    let (made, path) = (folder.path().join("made"), folder.path().join("pickle.pth"));
    let command = format!("touch '{}'", made.display());
    // The function `posix.system`, its argument, a tuple of that, the call.
    let length = (command.len() as u32).to_le_bytes();
    let call = [&b"cposix\nsystem\nX"[..], &length, command.as_bytes(), b"\x85R"].concat();
    // Alone, and as the value of a dictionary.
    for (before, after) in [(&b""[..], &b""[..]), (b"}X\x01\0\0\0a", b"s")] {
        fs::write(&path, [&b"\x80\x02"[..], before, &call, after, b"."].concat()).unwrap();
        let opened = Checkpoint::open(&path).and_then(|checkpoint| checkpoint.load(&tiny()));
        assert!(opened.is_err() && !made.exists(), "{before:?}");
        let load = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))";
        if std::process::Command::new("python3").args(["-c", load]).arg(&path).status().is_ok() {
            assert!(made.exists(), "Python does not run it: {before:?}");
            fs::remove_file(&made).unwrap();
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let CheckpointError::NotFinite { tensor, index, .. } = load(golden("nan.pth"), &tiny()).unwrap_err() else {
        panic!("nan.pth loads");
    };
    assert_eq!((tensor.as_str(), index), ("fc.bias", 1));
    let CheckpointError::NotFloat { tensor, what, .. } = load(golden("integers.pth"), &tiny()).unwrap_err() else {
        panic!("integers.pth loads");
    };
    assert_eq!((tensor.as_str(), what.as_str()), ("fc.bias", "i64"));

    let mut b = Builder::new("other", Shape::new(3, 8, 8));
    let x = b.conv("conv1", Conv2d::new(3, 5, 3).bias(), b.input());
    b.batch_norm("bn1", 1e-5, x);
    let other = b.finish().unwrap();
    for file in ["zip.pth", "f32.safetensors"] {
        let CheckpointError::Weights { differences, .. } = load(golden(file), &other).unwrap_err() else {
            panic!("{file} fits another graph");
        };
        assert_eq!(differences.missing, ["conv1.bias"]);
        assert_eq!(differences.unexpected, ["fc.bias", "fc.weight"]);
        assert_eq!(differences.wrong_shape[3], ("bn1.weight".into(), vec![5], vec![4]));
        assert_eq!(differences.wrong_shape[4], ("conv1.weight".into(), vec![5, 3, 3, 3], vec![4, 3, 3, 3]));
        assert_eq!(differences.wrong_shape.len(), 5);
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
    let mut file: Weights =
        expected.clone().into_iter().filter(|(name, _)| !name.starts_with("transform_input")).collect();
    file.insert("aux1.conv.conv.weight", Tensor::new([1], vec![1.0]));
    file.insert("aux2.fc2.bias", Tensor::new([1], vec![1.0]));
    assert_eq!(load(write(&folder, &file), &graph).unwrap(), expected);

    let graph = zoo::build(&small("densenet121")).unwrap();
    let expected = formula_weights(&graph);
    let old = |name: &str| {
        ["norm", "conv"].iter().fold(name.to_owned(), |name, kind| {
            if !name.contains("denselayer") {
                return name;
            }
            name.replace(&format!(".{kind}1."), &format!(".{kind}.1."))
                .replace(&format!(".{kind}2."), &format!(".{kind}.2."))
        })
    };
    let file: Weights = expected.iter().map(|(name, tensor)| (old(name), tensor.clone())).collect();
    assert!(file.get("features.denseblock1.denselayer1.norm.1.running_mean").is_some());
    assert_eq!(load(write(&folder, &file), &graph).unwrap(), expected);
}

fn write(folder: &tempfile::TempDir, weights: &Weights) -> PathBuf {
    let path = folder.path().join("weights.safetensors");
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = weights
        .iter()
        .map(|(name, t)| (name, t.shape(), t.data().iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, shape, data)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
    path
}

/// The number of the first 300 images of `cifar10/test_batch.bin` that PyTorch classifies right with each file.
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

/// Normalises three planes of 32x32 pixels to `[1, 3, 32, 32]`.
fn normalise(pixels: &[u8], preprocess: &Preprocess) -> Tensor {
    let value = |(i, &pixel): (usize, &u8)| {
        let c = i / (32 * 32);
        (f32::from(pixel) / preprocess.divide - preprocess.mean[c]) / preprocess.std[c]
    };
    Tensor::new([1, 3, 32, 32], pixels.iter().enumerate().map(value).collect())
}
