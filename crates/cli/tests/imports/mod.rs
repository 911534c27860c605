//! ONNX files as models.
use super::*;

/// The model that `crates/onnx/tests/golden/ops.py` writes: 3x32x32 to 16 classes.
fn classifier() -> String {
    format!("{}/../onnx/tests/golden/ops/classifier.onnx", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn an_onnx_file_is_a_model() {
    let place = Place::new();
    std::fs::copy(classifier(), place.path("net.onnx")).unwrap();
    let ran = place.run(&["quantize", "net.onnx", "--bits", "4"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("net.onnx does not say how its images are prepared; assumed: ImageNet's"), "{}", ran.err);
    let quantized = files::load(place.path("net_w4a4.safetensors")).unwrap();
    assert_eq!(quantized.layers().keys().collect::<Vec<_>>(), ["conv", "fc"]);

    // What the file does not say, said once.
    let say = ["--order", "bgr", "--divide", "1", "--mean", "104,117,123", "--std", "1,1,1"];
    let ran = place.run(&[&["export", "net.onnx", "-o", "net.safetensors"], &say[..]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(!ran.err.contains("ImageNet"), "{}", ran.err);
    let preprocess = files::load(place.path("net.safetensors")).unwrap().info().preprocess.clone();
    let order = graph::ChannelOrder::Bgr;
    let expected = Preprocess {
        order,
        divide: 1.0,
        mean: vec![104.0, 117.0, 123.0],
        std: vec![1.0; 3],
        ..Preprocess::imagenet_statistics()
    };
    assert_eq!(preprocess, expected);

    // The same network, so the same answers, as a file and as what it became.
    let data = ["--data", "embedded", "--limit", "32"];
    let file = place.json(&[&["eval", "net.onnx"], &say[..], &data[..], &["--against", "net.safetensors"]].concat());
    assert_eq!((file["agreement"].as_f64(), file["sqnr_db"].as_f64()), (Some(100.0), None));
}

#[test]
fn an_onnx_file_that_is_not_supported_is_refused_with_its_node() {
    let place = Place::new();
    let golden = |name: &str| format!("{}/../onnx/tests/golden/ops/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
    std::fs::copy(golden("relu0"), place.path("four.onnx")).unwrap();
    place
        .run(&["quantize", "four.onnx"])
        .refuses(1, "error: `four.onnx`: takes 4 channels, an image has 3, or 1 of grey");
    // Another operator of as many letters.
    let mut changed = std::fs::read(classifier()).unwrap();
    for at in 0..changed.len() - 4 {
        if changed[at..].starts_with(b"Relu") {
            changed[at] = b'G';
        }
    }
    std::fs::write(place.path("gelu.onnx"), changed).unwrap();
    let ran = place.run(&["quantize", "gelu.onnx"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("(op Gelu): not supported") && ran.err.contains("hint: "), "{}", ran.err);
    place.write("broken.onnx", "not an onnx file");
    let ran = place.run(&["eval", "broken.onnx"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("error: `broken.onnx`: not an ONNX"), "{}", ran.err);
    let ran = place.run(&["quantize", "resnet18", "--weights", "gelu.onnx"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("an ONNX file is a whole network"), "{}", ran.err);
}

/// ImageNet networks of other projects name as many of 16 photographs rightly as in PyTorch. The photographs lie in
/// `../shared/data`; without that folder the test says that it is skipped.
#[test]
fn trained_onnx_networks_name_what_is_in_photographs() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let data = std::env::var_os("DSCONV_SHARED_DATA").map_or(data, PathBuf::from);
    if !data.is_dir() {
        println!("SKIPPED: {} is not here", data.display());
        return;
    }
    let place = Place::new();
    let images = data.join("imagenet/val");
    for (net, right) in [("squeezenet1_0", 7.0), ("googlenet_bvlc", 6.0)] {
        let file = data.join("weights").join(format!("{net}.onnx"));
        let (file, images) = (file.to_str().unwrap(), images.to_str().unwrap());
        let say = ["--order", "bgr", "--divide", "1", "--mean", "104,117,123", "--std", "1,1,1"];
        let scores = place.json(&[&["eval", file, "--data", images, "--limit", "16"], &say[..]].concat());
        let top1 = scores["top1"].as_f64().unwrap() / 100.0 * 16.0;
        // One may lie between two classes on another processor.
        assert!((top1 - right).abs() <= 1.0, "{net}: {top1} of 16");
    }
}
