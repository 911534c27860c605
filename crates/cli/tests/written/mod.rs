//! Files that are written: quantized models, their formats, and what is never lost.
use super::*;

#[test]
fn quantize_writes_a_small_file_and_never_over_another() {
    let place = Place::new();
    let written = place.json(&["quantize", "tiny.safetensors"]);
    assert_eq!(written["path"], "tiny_w4a4.safetensors", "named after the model and its bits");
    let bytes = std::fs::metadata(place.path("tiny_w4a4.safetensors")).unwrap().len();
    assert_eq!(written["bytes"], bytes);
    let sqnr = &written["weight_sqnr"];
    let layers = written["layers"].as_object().unwrap();
    let each = layers.values().map(|layer| layer["sqnr_db"].as_f64().unwrap());
    assert_eq!(sqnr["worst_db"].as_f64().unwrap(), each.fold(f64::INFINITY, f64::min));
    assert_eq!(sqnr["worst_db"], layers[sqnr["worst_layer"].as_str().unwrap()]["sqnr_db"]);
    assert!(sqnr["median_db"].as_f64() > sqnr["worst_db"].as_f64());
    assert!(written["layers"]["layer1.0.conv1"]["sqnr_db"].as_f64().unwrap() > 15.0);

    place.run(&["quantize", "tiny.safetensors"]).refuses(
        1,
        "error: `tiny_w4a4.safetensors` exists already\n\nhint: `--force` replaces it; or name another file",
    );
    assert_eq!(place.run(&["quantize", "tiny.safetensors", "--force"]).code, Some(0));
    place.run(&["quantize", "tiny.safetensors", "-o", "no/x.safetensors"]).refuses(1, "error: there is no folder `no`");

    let ran = place.run(&["quantize", "tiny.safetensors", "--bits", "3", "--weights-only", "--skip", "conv1", "-v"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("W3 block 32 mse, A float"), "{}", ran.out);
    assert!(ran.out.contains("in floats: conv1\n"), "{}", ran.out);
    let last = ran.out.lines().last().unwrap();
    assert!(
        last.starts_with("wrote tiny_w3.safetensors: ") && last.contains(" times smaller than FP32, in "),
        "{last}"
    );

    // Once quantized is enough.
    let ran = place.run(&["quantize", "tiny_w4a4.safetensors"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("is quantized already"), "{}", ran.err);
    let ran = place.run(&["quantize", "tiny.safetensors", "--skip", "convl", "--force"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("no layer of `resnet20` is named `convl`") && ran.err.contains("`conv1`"), "{}", ran.err);
}

#[test]
fn an_exported_file_scores_as_its_model() {
    let place = Place::new();
    let eval = |model: &str| {
        place.json(&["eval", model, "--data", "embedded", "--limit", "160", "--against", "tiny.safetensors"])
    };
    place.json(&["quantize", "tiny.safetensors", "-o", "a.safetensors"]);
    place.json(&["export", "a.safetensors", "-o", "b.safetensors"]);
    let (a, b) = (eval("a.safetensors"), eval("b.safetensors"));
    for key in ["count", "top1", "top5", "agreement", "sqnr_db", "bytes"] {
        assert_eq!(a[key], b[key], "{key}");
        assert!(a[key].is_number(), "{key}");
    }
    assert_eq!(a["count"], 160);
    assert_eq!(
        std::fs::read(place.path("a.safetensors")).unwrap(),
        std::fs::read(place.path("b.safetensors")).unwrap()
    );
    // A model agrees with itself.
    assert_eq!(eval("tiny.safetensors")["agreement"], 100.0);
}

#[test]
fn a_dsc_file_is_a_model_that_can_be_inspected_and_verified() {
    let place = Place::new();
    place.json(&["quantize", "tiny.safetensors", "-o", "a.safetensors"]);
    place.json(&["quantize", "tiny.safetensors", "-o", "a.dsc"]);
    place.json(&["export", "a.safetensors", "--format", "dsc", "-o", "b.dsc"]);
    let read = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(read("a.dsc") == read("b.dsc"), "equal models, equal files");
    // The same codes and scales in both formats, so the same predictions.
    assert_eq!(files::load(place.path("a.dsc")).unwrap(), files::load(place.path("a.safetensors")).unwrap());
    let eval =
        |more: &[&str]| place.json(&[&["eval", "--limit", "160", "--against", "tiny.safetensors"], more].concat());
    let (a, b) = (eval(&["a.safetensors"]), eval(&["a.dsc", "--simulate"]));
    for key in ["top1", "top5", "agreement", "sqnr_db"] {
        assert_eq!(a[key], b[key], "{key}");
    }
    assert_eq!(b["bytes"], read("a.dsc").len());
    // The engine sums in another order: a code may differ where a value lies at a half, a class hardly ever.
    let engine = eval(&["a.dsc"]);
    let points = |value: &Value| value["agreement"].as_f64().unwrap();
    assert!((points(&engine) - points(&a)).abs() < 2.0, "{engine} {a}");

    let found = place.json(&["inspect", "a.dsc", "--source", "tiny.safetensors"]);
    let layers = found["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 20);
    assert_eq!(
        (&layers[0]["name"], &layers[0]["scales"], &layers[0]["bits"]),
        (&"conv1".into(), &"f16".into(), &4.into())
    );
    assert!(layers.iter().all(|layer| layer["sqnr_db"].as_f64().unwrap() > 15.0));
    let ran = place.run(&["inspect", "a.dsc"]);
    assert!(ran.out.contains("layer3.2.conv2") && !ran.out.contains("SQNR"), "{}", ran.out);
    let ran = place.run(&["inspect", "a.dsc", "--source", "a.safetensors"]);
    assert!(ran.code == Some(2) && ran.err.contains("--source takes the float model"), "{}", ran.err);

    let verified = place.json(&["verify", "a.dsc"]);
    assert_eq!((&verified["layers"], &verified["run"]), (&20.into(), &true.into()));
    let mut bytes = read("a.dsc");
    let last = bytes.len() - 200;
    bytes[last] ^= 1;
    std::fs::write(place.path("damaged.dsc"), &bytes).unwrap();
    let ran = place.run(&["verify", "damaged.dsc"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.starts_with("error: `damaged.dsc`: ") && ran.err.contains("the file is damaged"), "{}", ran.err);
    place.run(&["verify", "a.safetensors"]).refuses(
        1,
        "error: `a.safetensors`: header, byte 0: not a .dsc file\n\n\
         hint: `dsconv inspect` shows what is in other files; `-o x.dsc` makes .dsc files",
    );

    // Logits of another network: right checksums, wrong content.
    let model = files::load(place.path("a.dsc")).unwrap();
    let pair = Some(model::dsc::Pair { seed: 1, logits: vec![1.0; 16] });
    let forged = model::dsc::Options { pair, ..model::dsc::Options::EXACT };
    files::save_dsc(&model, place.path("forged.dsc"), &forged).unwrap();
    let ran = place.run(&["verify", "forged.dsc"]);
    assert!(ran.code == Some(1) && ran.err.contains("forged.dsc`: logits, byte "), "{}", ran.err);
    assert_eq!(place.run(&["verify", "forged.dsc", "--no-run"]).code, Some(0));

    let ran = place.run(&["export", "tiny.safetensors", "--format", "dsc"]);
    assert!(ran.code == Some(2) && ran.err.contains("a .dsc file holds integers"), "{}", ran.err);
}

#[test]
fn two_level_scales_cost_little_and_survive_both_formats() {
    let place = Place::new();
    let float = place.json(&["quantize", "tiny.safetensors", "-o", "float.safetensors"]);
    let two = place.json(&["quantize", "tiny.safetensors", "--scales", "two-level", "-o", "two.safetensors"]);
    let db = |found: &Value| found["weight_sqnr"]["median_db"].as_f64().unwrap();
    assert!(db(&two) > db(&float) - 0.5, "{} dB for {}", db(&two), db(&float));
    place.json(&["export", "two.safetensors", "--format", "dsc", "-o", "two.dsc"]);
    assert_eq!(files::load(place.path("two.dsc")).unwrap(), files::load(place.path("two.safetensors")).unwrap());
    // What is quantized already is converted.
    place.json(&["export", "float.safetensors", "--scales", "two-level", "--format", "dsc", "-o", "converted.dsc"]);
    let found = place.json(&["inspect", "converted.dsc"]);
    assert!(found["layers"].as_array().unwrap().iter().all(|layer| layer["scales"] == "two-level"));
    assert_eq!(place.json(&["verify", "converted.dsc"])["run"], true);
}

#[test]
fn a_network_that_is_not_quite_the_zoos_becomes_a_file() {
    let place = Place::new();
    // Bare weights of the tiny network, under torch's names; the classes are read from them.
    let bare: Vec<_> = tiny().weights().iter().collect();
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = bare
        .iter()
        .map(|(name, t)| {
            ((*name).to_owned(), t.shape().to_vec(), t.data().iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    std::fs::write(place.path("bare.safetensors"), bare_safetensors(&bytes)).unwrap();

    let ran = place.run(&["export", "resnet32", "--weights", "bare.safetensors", "-o", "no.safetensors"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("do not fit `resnet32`: this looks like resnet20 of width 0.25 with 16 classes"),
        "{}",
        ran.err
    );
    let mean = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"];
    let args = ["export", "resnet20", "--weights", "bare.safetensors", "--width", "0.25", "-o", "mine.safetensors"];
    place.json(&[&args[..], &mean].concat());
    // Or found by its parameters.
    for model in ["mine.safetensors", "bare.safetensors"] {
        let args = ["eval", model, "--data", "embedded", "--limit", "32", "--against", "tiny.safetensors"];
        let scores = place.json(&args);
        assert_eq!((&scores["agreement"], &scores["sqnr_db"]), (&Value::from(100.0), &Value::Null), "{scores}");
    }
    let ran = place.run(&["quantize", "bare.safetensors"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(
        ran.err.lines().take(2).collect::<Vec<_>>().join("\n"),
        "bare.safetensors is resnet20 of width 0.25 with 16 classes, found by its parameters\n\
         assumed: images of 32x32 (--input); ImageNet's mean and deviation of RGB in 0..1 (--mean, --std, --order, --divide)"
    );
    assert!(place.path("bare_w4a4.safetensors").is_file());
}

/// A safetensors file of F32 tensors and nothing else.
fn bare_safetensors(tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat()
}

#[test]
fn the_ending_decides_the_format() {
    let place = Place::new();
    place.json(&["quantize", "tiny.safetensors", "-o", "Q.DSC"]);
    assert_eq!(place.json(&["verify", "Q.DSC"])["layers"], 20);
    place.json(&["export", "Q.DSC", "-o", "back.safetensors"]);
    let stored = |file: &str| files::load(place.path(file)).unwrap();
    assert_eq!(stored("back.safetensors"), stored("Q.DSC"));
    let written = place.json(&["export", "tiny.safetensors", "-o", "tiny.onnx"]);
    assert_eq!(written["profile"], "fp32");
    let eval = ["eval", "tiny.onnx", "--limit", "16", "--against", "tiny.safetensors"];
    assert_eq!(place.json(&eval)["agreement"], 100.0);
    assert_eq!(place.json(&["export", "Q.DSC", "-o", "q.onnx"])["profile"], "int4");
    // Nothing is written where ending and options do not go together.
    let before = std::fs::read_dir(place.folder.path()).unwrap().count();
    for refused in [
        &["-o", "x.pth", "--format", "state-dict"][..],
        &["-o", "x.onnx", "--format", "safetensors"],
        &["-o", "x.dsc", "--format", "onnx"],
        &["-o", "x.dsc", "--symmetric"],
        &["-o", "x.safetensors", "--format", "state-dict", "--floats", "f16"],
        &["-o", "x.safetensors", "--format", "state-dict", "--mean", "0.5"],
        &["-o", "x.onnx", "--profile", "fp32", "--activations", "off"],
        &["-o", "x.onnx", "--scales", "f32"],
        &["-o", "x"],
        &["-o", ""],
        &["-o", "Q.DSC", "--force"],
    ] {
        let ran = place.run(&[&["export", "Q.DSC"], refused].concat());
        assert!(ran.code == Some(2) && ran.err.starts_with("error: "), "{refused:?}: {}", ran.err);
    }
    assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), before);
    // Scales stay as they are unless one says otherwise.
    place.json(&["quantize", "tiny.safetensors", "--scales", "f32", "-o", "wide.safetensors"]);
    place.json(&["export", "wide.safetensors", "-o", "wide.dsc"]);
    assert_eq!(stored("wide.dsc"), stored("wide.safetensors"));
}

/// torchvision loads the file strictly and computes what the simulation does: a network whose normalisations fold, and one
/// with normalisations that do not.
#[test]
fn torchvision_loads_a_state_dict() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torch/state_dict.py");
    let python = std::env::var("DSCONV_PYTHON").unwrap_or_else(|_| "python3".into());
    let run = |args: &[&str]| Command::new(&python).arg(script).args(args).output();
    if !run(&["check"]).is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: `{python}` has no torch, torchvision and safetensors; DSCONV_PYTHON names one that has");
        return;
    }
    let place = Place::new();
    let path = |name: &str| place.path(name).display().to_string();
    let python = |args: &[&str]| {
        let output = run(args).unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    python(&["image", &path("image.png")]);
    for network in ["resnet18", "densenet121"] {
        let weights = format!("{network}.safetensors");
        python(&["make", network, &path(&weights)]);
        place.json(&["quantize", network, "--weights", &weights, "--weights-only", "-o", "q.dsc", "--force"]);
        place.json(&["export", "q.dsc", "--format", "state-dict", "-o", "back.safetensors", "--force"]);
        let torch: Vec<f64> =
            serde_json::from_slice(&python(&["logits", network, &path("back.safetensors"), &path("image.png")]))
                .unwrap();
        let ours = &place.json(&["predict", "q.dsc", "image.png", "--logits"])[0]["logits"];
        let ours: Vec<f64> = ours.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let largest = torch.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let off = torch.iter().zip(&ours).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("{network}: {:.1e} of the largest logit", off / largest);
        assert!(ours.len() == 1000 && off <= 1e-4 * largest, "{network}: {off} of {largest}");
    }
}

/// A reader in NumPy, written from the page of the format alone, lists the layers, has the weights of the state dict, and runs
/// the stored input to the same bits.
#[test]
fn a_reader_written_from_the_page_runs_networks() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/run_dsc.py");
    let python = std::env::var("DSCONV_PYTHON").unwrap_or_else(|_| "python3".into());
    if !Command::new(&python).args(["-c", "import numpy"]).output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: `{python}` has no numpy; DSCONV_PYTHON names one that has");
        return;
    }
    let place = Place::new();
    let cases: [(&str, &[&str]); 6] = [
        ("alexnet-embedded", &["--bits", "3", "--activation-bits", "8"]),
        ("vgg-embedded", &["--activation-scale", "pow2", "--block", "16"]),
        ("googlenet-embedded", &["--scales", "two-level", "--block", "8", "--activation-block", "24"]),
        ("resnet50-embedded", &["--scales", "two-level", "--activation-block", "pixel", "--activation-bits", "8"]),
        ("resnet50-embedded", &["--scales", "f32", "--block", "20", "--activation-block", "40", "--bits", "5"]),
        ("densenet-embedded", &[]),
    ];
    for (network, options) in cases {
        place.json(&[&["quantize", network, "--images", "none", "-o", "q.dsc", "--force"], options].concat());
        place.json(&["export", "q.dsc", "--format", "state-dict", "-o", "dense.safetensors", "--force"]);
        let output = Command::new(&python)
            .arg(script)
            .args([place.path("q.dsc"), place.path("dense.safetensors")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{network}: {}", String::from_utf8_lossy(&output.stderr));
        let read: Value = serde_json::from_slice(&output.stdout).unwrap();
        let ours = place.json(&["inspect", "q.dsc"]);
        let (layers, listed) = (read["layers"].as_array().unwrap(), ours["layers"].as_array().unwrap());
        assert_eq!(layers.len(), listed.len(), "{network}");
        for layer in layers {
            let same = listed.iter().find(|other| other["name"] == layer["node"]).unwrap();
            for key in ["shape", "bits", "activation", "signed"] {
                assert_eq!(layer[key], same[key], "{network}: {key} of {}", layer["node"]);
            }
        }
        assert_eq!(read["equal_weights"], layers.len(), "{network}");
        assert_eq!((&read["logits"], &read["equal_logits"]), (&16.into(), &16.into()), "{network} {options:?}");
    }
}

#[test]
fn a_dry_run_tells_sizes_and_writes_nothing() {
    let place = Place::new();
    let files = || std::fs::read_dir(place.folder.path()).unwrap().count();
    let before = files();
    let args = ["quantize", "tiny.safetensors", "--images", "none", "--layer", "conv1=8", "--skip", "linear"];
    let plan = place.json(&[&args[..], &["--dry-run"]].concat());
    assert_eq!(files(), before);
    let layer = |name: &str| {
        let layers = plan["layers"].as_array().unwrap().iter();
        layers.clone().find(|layer| layer["layer"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert!(layer("conv1")["format"].as_str().unwrap().starts_with("W8 "), "{}", layer("conv1"));
    assert_eq!((&layer("linear")["format"], &layer("linear")["bytes"]), (&Value::Null, &layer("linear")["fp32_bytes"]));
    // The sizes are those of the file that is written.
    let written = place.json(&[&args[..], &["-o", "tiny_q.safetensors"]].concat());
    let parameters = place.json(&["inspect", "tiny_q.safetensors"])["bytes"].as_u64().unwrap();
    assert_eq!(plan["bytes"].as_u64().unwrap(), parameters);
    assert!(written["bytes"].as_u64().unwrap() > parameters);

    place.write("configs/mine_4bit.toml", RECIPE);
    let plan = place.json(&["distill", "mine_4bit", "--out", "run", "--dry-run"]);
    assert!(plan["layers"].as_array().unwrap().len() > 10 && !place.path("run").exists());
}

#[test]
fn a_dry_run_of_an_export_tells_the_size_of_the_file() {
    let place = Place::new();
    place.json(&["quantize", "tiny.safetensors", "--images", "none", "--layer", "conv1=8", "-o", "q.safetensors"]);
    let formats: [(&str, &[&str], [&str; 2]); 5] = [
        ("e.dsc", &[], ["W8 block 32, A8", "W4 block 32, A4"]),
        ("e.safetensors", &["--scales", "two-level"], ["W8 block 32 two-level, A8", "W4 block 32 two-level, A4"]),
        ("e.onnx", &[], ["W8 block 32, A8", "W4 block 32, A4"]),
        (
            "e8.onnx",
            &["--profile", "int8", "--calibrate", "embedded", "--calibration-images", "8"],
            ["W8 filter, A8"; 2],
        ),
        ("s.safetensors", &["--format", "state-dict"], [""; 2]),
    ];
    for (file, options, expected) in formats {
        let args = [&["export", "q.safetensors", "-o", file][..], options].concat();
        let plan = place.json(&[&args[..], &["--dry-run"]].concat());
        assert!(!place.path(file).exists());
        let written = place.json(&args);
        assert_eq!(plan["bytes"], written["bytes"], "{file}");
        let layers = plan["layers"].as_array().unwrap();
        let format = |layer: &Value| layer["format"].as_str().unwrap_or_default().to_owned();
        let first = layers.iter().find(|layer| layer["layer"] == "conv1").unwrap();
        assert!(format(first).starts_with(expected[0]), "{file}: {first}");
        assert!(layers.iter().any(|layer| format(layer).starts_with(expected[1])), "{file}");
        let weights: u64 = layers.iter().map(|layer| layer["bytes"].as_u64().unwrap()).sum();
        assert_eq!(weights + plan["other_bytes"].as_u64().unwrap(), written["bytes"], "{file}");
    }
}

#[test]
fn each_of_two_models_gets_images_as_its_own_file_says() {
    let place = Place::new();
    let other = ["export", "tiny.safetensors", "-o", "other.safetensors", "--mean", "0.2", "--std", "1"];
    place.json(&other);
    let eval = |args: &[&str]| place.json(&[&["eval"], args, &["--limit", "64"]].concat());
    let top1 = |file: &str| eval(&[file])["top1"].as_f64().unwrap();
    let both = eval(&["tiny.safetensors", "--against", "other.safetensors"]);
    let count = |key: &str| both["flips"][key].as_f64().unwrap();
    let expected = 64.0 * (top1("tiny.safetensors") - top1("other.safetensors")) / 100.0;
    assert!((count("won") - count("lost") - expected).abs() < 0.01, "{both}, not {expected}");
    assert!(both["sqnr_db"].as_f64().unwrap() < 10.0, "they see other values: {both}");
    // The same values by other numbers.
    let same = ["export", "tiny.safetensors", "-o", "same.safetensors", "--divide", "127.5"];
    place.json(&[&same[..], &["--mean", "0.97,0.912,0.812", "--std", "0.458,0.448,0.45"]].concat());
    let both = eval(&["tiny.safetensors", "--against", "same.safetensors"]);
    assert!(both["sqnr_db"].as_f64().is_none_or(|db| db > 60.0), "{both}");
}
