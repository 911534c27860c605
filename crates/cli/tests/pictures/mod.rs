//! Images that are scored and classified.
use super::*;

#[test]
fn embedded_images_become_files_that_score_the_same() {
    let place = Place::new();
    let made = place.json(&["data", "make", "pictures", "--limit", "48"]);
    assert_eq!((&made["train"], &made["eval"], &made["adapt"]), (&48.into(), &48.into(), &48.into()));
    let ran = place.run(&["data", "make", "pictures"]);
    assert_eq!(ran.code, Some(1), "a folder that is not empty");

    // The same pixels and labels give the same accuracy, whatever the order.
    let network = ["eval", "tiny.safetensors", "--data", "pictures/eval"];
    let scores = place.json(&network);
    let set = images::embedded(images::Split::Eval);
    let names = |label: usize| format!("{label:02}_{}", images::EMBEDDED_CLASSES[label]);
    for i in 0..48 {
        assert!(place.path(&format!("pictures/eval/{}/{i:05}.png", names(set.labels()[i]))).is_file(), "{i}");
    }
    assert_eq!(scores["count"], 48);
    let options = images::OpenOptions::default();
    let folder = place.path("pictures/eval");
    let read = images::open_labelled(folder.to_str().unwrap(), &Preprocess::imagenet_statistics(), &options).unwrap();
    let mut order: Vec<usize> = (0..48).collect();
    order.sort_by_key(|&i| set.labels()[i]);
    let (read, made) = (read.batch(&(0..48).collect::<Vec<_>>()).unwrap(), set.batch(&order).unwrap());
    assert!(read.images.pixels == made.images.pixels && read.labels == made.labels);

    // Folders without images keep the numbers of the classes.
    assert_eq!(place.json(&["data", "make", "few", "--limit", "3"])["eval"], 3);
    let few = place.path("few/eval");
    let read = images::open_labelled(few.to_str().unwrap(), &Preprocess::imagenet_statistics(), &options).unwrap();
    let mut labels = set.labels()[..3].to_vec();
    labels.sort();
    assert_eq!((read.labels(), read.class_names().len()), (&labels[..], 16));
}

#[test]
fn predict_names_classes() {
    let place = Place::new();
    place.json(&["data", "make", "pictures", "--limit", "16"]);
    let images: Vec<String> = ["00000", "00001"].iter().map(|name| format!("pictures/adapt/{name}.png")).collect();
    let result = place.json(&["predict", "tiny.safetensors", &images[0], &images[1], "--logits", "--top", "3"]);
    for (i, image) in images.iter().enumerate() {
        let one = &result[i];
        assert_eq!(one["image"], **image);
        let logits: Vec<f64> = one["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!((logits.len(), one["top"].as_array().unwrap().len()), (16, 3));
        let best = (0..16).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!(one["top"][0]["index"], best);
        assert_eq!(one["top"][0]["name"], images::EMBEDDED_CLASSES[best]);
        // Alone as in company, but for the order of sums.
        let alone = place.json(&["predict", "tiny.safetensors", image, "--logits"])[0]["logits"].clone();
        let alone = alone.as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
        let largest = logits.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        assert!(alone.zip(&logits).all(|(a, b)| (a - b).abs() < 1e-5 * largest), "{one}");
    }
    place.write("broken.png", "no picture");
    let ran = place.run(&["predict", "tiny.safetensors", "broken.png"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("error: `broken.png`: "), "{}", ran.err);
    // A .dsc file needs nothing beside it.
    place.json(&["quantize", "tiny.safetensors", "-o", "a.dsc"]);
    place.json(&["quantize", "tiny.safetensors", "-o", "a.safetensors"]);
    let by =
        |model: &str, more: &[&str]| place.json(&[&["predict", model, images[0].as_str(), "--logits"], more].concat());
    assert_eq!(by("a.dsc", &["--simulate"]), by("a.safetensors", &[]));
    assert_eq!(by("a.dsc", &[])[0]["top"][0]["index"], by("a.safetensors", &[])[0]["top"][0]["index"]);
    let ran = place.run(&["predict", "tiny.safetensors", "missing.jpg"]);
    assert!(ran.code == Some(1) && ran.err.starts_with("error: `missing.jpg`: "), "{}", ran.err);
}

/// Networks of `mistakes/make.py`, whose outputs are not logits of classes.
#[test]
fn outputs_are_read_by_the_networks_head() {
    let place = Place::new();
    let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 99]));
    picture.save(place.path("picture.png")).unwrap();
    let predict = |name: &str| {
        let file = format!("{name}.onnx");
        std::fs::copy(format!("{}/tests/mistakes/{file}", env!("CARGO_MANIFEST_DIR")), place.path(&file)).unwrap();
        let found = place.json(&["predict", &file, "picture.png", "--logits"])[0].clone();
        let outputs: Vec<f64> = found["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let top = found["top"].as_array().unwrap().clone();
        let classes =
            top.iter().map(|class| (class["index"].as_u64().unwrap(), class["probability"].as_f64().unwrap()));
        let classes: std::collections::BTreeMap<u64, f64> = classes.collect();
        let text = place.run(&["predict", &file, "picture.png"]);
        (outputs, classes, found["probabilities"].as_str().unwrap().to_owned(), text)
    };
    let (outputs, classes, kind, text) = predict("one_sigmoid");
    assert_eq!((kind.as_str(), classes.len()), ("sigmoid", 2));
    assert!((classes[&1] - outputs[0]).abs() < 1e-6 && (classes[&0] - (1.0 - outputs[0])).abs() < 1e-6, "{classes:?}");
    assert!(text.out.contains(&format!("{:.1}", 100.0 * outputs[0])), "{}", text.out);

    let (outputs, classes, kind, text) = predict("one_logit");
    assert_eq!(kind, "sigmoid");
    assert!((classes[&1] - 1.0 / (1.0 + (-outputs[0]).exp())).abs() < 1e-6, "{classes:?}");
    assert!(text.err.contains("one_logit.onnx has one output and no sigmoid: it is read as the logit of class 1"));

    let (outputs, classes, kind, text) = predict("labels");
    assert_eq!(kind, "sigmoid_of_each");
    for (index, output) in outputs.iter().enumerate() {
        assert!((classes[&(index as u64)] - output).abs() < 1e-6, "{index}");
    }
    assert!(text.out.contains("percent of each") && text.err.contains("several classes can be right"), "{}", text.err);
    assert_eq!(place.json(&["inspect", "one_logit.onnx"])["outputs"], "the logit of class 1");
    // What is written in integers keeps the head.
    place.json(&["quantize", "one_sigmoid.onnx", "-o", "q.dsc"]);
    assert_eq!(place.json(&["predict", "q.dsc", "picture.png"])[0]["probabilities"], "sigmoid");
}
