//! What each layer's quantization does, formats chosen by it, and the verdict on a quantized network.
use super::*;

/// The noise of a part of a layer in the JSON of `dsconv analyze`.
fn noise(layer: &Value, part: &str, bits: u64) -> f64 {
    let formats = layer["formats"].as_array().unwrap();
    let format = formats.iter().find(|format| format["part"] == part && format["bits"] == bits).unwrap();
    format["noise"].as_f64().unwrap()
}

#[test]
fn layers_are_told_worst_first() {
    let place = Place::new();
    let found = place.json(&["analyze", "tiny.safetensors", "--count", "4", "--svg", "bars.svg"]);
    assert_eq!((&found["count"], &found["estimated"]), (&4.into(), &false.into()));
    let layers = found["layers"].as_array().unwrap();
    // 19 convolutions and a linear layer.
    assert_eq!(layers.len(), 20);
    let worst = |layer: &Value| {
        let formats = layer["formats"].as_array().unwrap();
        formats.iter().map(|format| format["noise"].as_f64().unwrap()).fold(0.0, f64::max)
    };
    assert!(layers.windows(2).all(|pair| worst(&pair[0]) >= worst(&pair[1])));
    for layer in layers {
        let name = &layer["layer"];
        assert_eq!(layer["formats"].as_array().unwrap().len(), 6, "{name}: weights, inputs and both at 4 and 8 bits");
        for part in ["weights", "activations", "both"] {
            // The input of the first layer is the image, which has 8 bits whatever the others have.
            match (name.as_str(), part) {
                (Some("conv1"), "activations") => assert_eq!(noise(layer, part, 4), noise(layer, part, 8)),
                _ => assert!(noise(layer, part, 4) > 10.0 * noise(layer, part, 8), "{name} {part}"),
            }
        }
        let format = &layer["formats"][0];
        let sqnr = -10.0 * format["noise"].as_f64().unwrap().log10();
        assert!((format["sqnr_db"].as_f64().unwrap() - sqnr).abs() < 1e-9, "{name}");
        assert!(format["divergence"].as_f64().unwrap() >= 0.0 && format["agreement"].as_f64().unwrap() <= 100.0);
    }
    let svg = std::fs::read_to_string(place.path("bars.svg")).unwrap();
    // A bar for each of 20 layers and 6 formats, 6 in the legend, and the ground.
    assert_eq!(svg.matches("<rect").count(), 20 * 6 + 6 + 1);
    let again = place.run(&["analyze", "tiny.safetensors", "--count", "4", "--svg", "bars.svg"]);
    again.refuses(1, "error: `bars.svg` exists already\n\nhint: `--force` replaces it; or name another file");

    // The estimate names the same worst layers, and is of the same size.
    let estimated = place.json(&["analyze", "tiny.safetensors", "--count", "32", "--proxy", "--images", "embedded"]);
    let exact = place.json(&["analyze", "tiny.safetensors", "--count", "32", "--images", "embedded"]);
    assert_eq!(estimated["images"], "embedded/adapt");
    let exact = exact["layers"].as_array().unwrap();
    for layer in estimated["layers"].as_array().unwrap() {
        let other = exact.iter().find(|other| other["layer"] == layer["layer"]).unwrap();
        assert!(layer["formats"][0].get("divergence").is_none());
        for part in ["weights", "activations", "both"] {
            let ratio = noise(layer, part, 8) / noise(other, part, 8);
            assert!((0.3..3.0).contains(&ratio), "{} {part}: {ratio}", layer["layer"]);
        }
    }
    let table = place.run(&["analyze", "tiny.safetensors", "--count", "2", "--bits", "3"]);
    let head = table.out.lines().next().unwrap();
    assert!(head.starts_with("layer") && head.contains("W3    A4  W3A4"), "{}", table.out);
}

#[test]
fn a_budget_becomes_rules_that_quantize_and_distill_take() {
    let place = Place::new();
    let analyze = |more: &[&str]| {
        place.json(&[&["analyze", "tiny.safetensors", "--count", "4", "--proxy", "--budget"], more].concat())
    };
    let found = analyze(&["4bits"])["allocation"].clone();
    assert_eq!(found["rules"], "tiny_4bits.toml");
    let mean = found["mean_bits"].as_f64().unwrap();
    assert!((3.0..4.05).contains(&mean), "{mean}");
    let quantize = |name: &str, more: &[&str]| {
        let file = format!("{name}.safetensors");
        place.json(&[&["quantize", "tiny.safetensors", "-o", &file], more].concat())
    };
    let mixed = quantize("mixed", &["--rule-file", "tiny_4bits.toml"]);
    let plain = quantize("plain", &[]);
    // A byte of padding for each layer, and a header that names more formats.
    let size = |found: &Value| found["bytes"].as_i64().unwrap();
    assert!((size(&mixed) - size(&plain)).abs() < 400, "{} {}", size(&mixed), size(&plain));
    let noise = |found: &Value| found["verdict"]["noise"].as_f64().unwrap();
    assert!(noise(&mixed) < noise(&plain), "{} {}", noise(&mixed), noise(&plain));
    let at: std::collections::BTreeMap<String, usize> =
        serde_json::from_value(found["layers_at_bits"].clone()).unwrap();
    let formats = mixed["layers"].as_object().unwrap().values().map(|layer| layer["format"].as_str().unwrap());
    let mut counted = std::collections::BTreeMap::new();
    for format in formats {
        *counted.entry(format[1..2].to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counted, at);

    // The rules without a file.
    let to = |output: &str| {
        place.run(&["analyze", "tiny.safetensors", "--count", "4", "--proxy", "--budget", "4bits", "-o", output])
    };
    let (printed, written) = (to("-").out, std::fs::read_to_string(place.path("tiny_4bits.toml")).unwrap());
    assert_eq!(printed.replace("FILE", "tiny_4bits.toml"), written);
    let svg = place.run(&["analyze", "tiny.safetensors", "--svg", "-"]);
    svg.refuses(2, "error: `-`: this is written to a file, not to stdout\n\nhint: `./-` is a file of that name");

    // --layer comes after the file.
    let changed = quantize("changed", &["--rule-file", "tiny_4bits.toml", "--layer", "conv1=float"]);
    assert_eq!(changed["float_layers"], serde_json::json!(["conv1"]));
    // The file is a config.
    let options =
        ["--set", "data.limit=64", "--set", "data.eval_limit=32", "--set", "adapt.steps=1", "--set", "adapt.batch=8"];
    let distilled = place.json(&[&["distill", "tiny_4bits.toml", "--out", "run"], &options[..]].concat());
    assert!((distilled["exported"]["bytes"].as_i64().unwrap() - size(&mixed)).abs() < 400);

    // A size is that of the file: its header counts, too.
    let least = analyze(&["34kB"])["allocation"].clone();
    let file = quantize("small", &["--rule-file", least["rules"].as_str().unwrap()]);
    let most = least["file_bytes"].as_i64().unwrap();
    assert!((32_000..=most).contains(&size(&file)) && most <= 34_000, "{} {least}", size(&file));
    let ran = place.run(&["analyze", "tiny.safetensors", "--budget", "1.5bits"]);
    assert!(ran.code == Some(2) && ran.err.contains("a budget of 1.5bits cannot be met"), "{}", ran.err);

    // Time is measured: with a minute for an image nothing is in the way of the most bits.
    let found =
        place.json(&["analyze", "tiny.safetensors", "--count", "4", "--proxy", "--bits", "4,8", "--budget", "60000ms"]);
    assert_eq!(found["allocation"]["layers_at_bits"], serde_json::json!({ "8": 20 }));
    let ms = found["allocation"]["milliseconds"].as_f64().unwrap();
    assert!(ms > 0.0 && ms < 60_000.0, "{ms}");
    let ran = place.run(&["analyze", "tiny.safetensors", "--budget", "0.0001ms"]);
    assert!(ran.code == Some(2) && ran.err.contains("cannot be met: the fastest formats take"), "{}", ran.err);
}

#[test]
fn single_layers_get_their_own_bits() {
    let place = Place::new();
    let quantize = |more: &[&str]| place.json(&[&["quantize", "tiny.safetensors", "--force"], more].concat());
    let found = quantize(&["--layer", "*=3", "--layer", "conv1=8", "--layer", "linear=float"]);
    let format = |name: &str| found["layers"][name]["format"].as_str().unwrap_or("float").to_owned();
    assert_eq!(format("conv1"), "W8 block 32 mse, A8 block 32 float");
    assert_eq!(format("layer1.0.conv1"), "W3 block 32 mse, A3 block 32 float");
    assert_eq!(found["float_layers"], serde_json::json!(["linear"]));
    // Inputs stay in floats where all do.
    let found = quantize(&["--weights-only", "--layer", "conv1=8"]);
    assert_eq!(found["layers"]["conv1"]["format"], "W8 block 32 mse, A float");
    let ran = place.run(&["quantize", "tiny.safetensors", "-o", "x.dsc", "--layer", "convl=8"]);
    assert!(ran.code == Some(2) && ran.err.contains("no layer of `resnet20` is named `convl`"), "{}", ran.err);
}

#[test]
fn the_layer_that_reads_the_image_keeps_its_bits_and_is_named() {
    let place = Place::new();
    let quantize = |more: &[&str]| {
        place.json(&[&["quantize", "tiny.safetensors", "-o", "x.dsc", "--force", "--images", "none"], more].concat())
    };
    let found = quantize(&[]);
    assert_eq!(found["image_layers"], serde_json::json!(["conv1"]));
    assert_eq!(found["layers"]["conv1"]["format"], "W4 block 32 mse, A8 block 32 float");
    let plain = quantize(&["--image-bits", "4"]);
    assert!(plain.get("image_layers").is_none());
    assert_eq!(plain["layers"]["conv1"]["format"], "W4 block 32 mse, A4 block 32 float");
    assert_eq!(found["bytes"], plain["bytes"]);
    let ran = place.run(&["quantize", "tiny.safetensors", "-o", "y.dsc", "--images", "none"]);
    assert!(ran.out.contains("\ninputs that keep more bits, since they are the image: of conv1\n"), "{}", ran.out);
    let ran = place.run(&["quantize", "tiny.safetensors", "--images", "none", "--image-count", "3"]);
    ran.refuses(2, "error: --image-count has no effect with `--images none`");
}

#[test]
fn the_worst_layers_are_kept_for_three_percent_of_the_size() {
    let place = Place::new();
    let quantize =
        |file: &str, more: &[&str]| place.json(&[&["quantize", "tiny.safetensors", "-o", file], more].concat());
    let (plain, kept) = (quantize("plain.safetensors", &[]), quantize("kept.safetensors", &["--keep-worst"]));
    let names = kept["kept"].as_array().unwrap();
    assert!(!names.is_empty() && names.len() < 10, "{names:?}");
    for (name, layer) in kept["layers"].as_object().unwrap() {
        let bits = if names.iter().any(|kept| kept == name) { "W8 " } else { "W4 " };
        assert!(layer["format"].as_str().unwrap().starts_with(bits), "{name}: {layer}");
    }
    let size = |found: &Value| found["bytes"].as_f64().unwrap();
    assert!(size(&kept) <= 1.03 * size(&plain), "{} {}", size(&kept), size(&plain));
    let noise = |found: &Value| found["verdict"]["noise"].as_f64().unwrap();
    assert!(noise(&kept) < noise(&plain), "{} {}", noise(&kept), noise(&plain));
}

#[test]
fn layers_of_other_options_are_not_kept() {
    let place = Place::new();
    let worst = place.json(&["quantize", "tiny.safetensors", "--keep-worst", "-o", "worst.safetensors"]);
    let worst = worst["kept"][0].as_str().unwrap().to_owned();
    let three = format!("{worst}=3");
    let found =
        place.json(&["quantize", "tiny.safetensors", "--keep-worst", "--layer", &three, "-o", "other.safetensors"]);
    let kept = found["kept"].as_array().unwrap();
    // The 3 % go to others.
    assert!(!kept.is_empty() && kept.iter().all(|name| *name != *worst), "{kept:?}");
    assert!(found["layers"][&worst]["format"].as_str().unwrap().starts_with("W3 "), "{found}");
    for name in kept {
        assert!(found["layers"][name.as_str().unwrap()]["format"].as_str().unwrap().starts_with("W8 "), "{name}");
    }
    // Neither what was given nor what is refused beside it is advised.
    let two = ["quantize", "resnet50-embedded", "--images", "none", "-o", "two.dsc", "--force"];
    let advised = |more: &[&str]| {
        let ran = place.run(&[&two[..], more].concat());
        assert!(ran.code == Some(0) && ran.err.contains("the quantized network is broken"), "{}", ran.err);
        ran.err.contains("`--keep-worst`")
    };
    let bits = ["--bits", "2", "--activation-bits", "2", "--image-bits", "2"];
    assert!(advised(&bits));
    assert!(!advised(&[&bits[..], &["--keep-worst"]].concat()));
    assert!(!advised(&["--layer", "*=2"]));
    place.write("rules.toml", "[[quantize.rules]]\nlayers = \"*\"\nbits = 2\nactivation = { bits = 2 }\n");
    assert!(!advised(&["--rule-file", "rules.toml"]));
}

#[test]
fn what_decides_between_options_is_said() {
    let place = Place::new();
    place.write(
        "rules.toml",
        "[[quantize.rules]]\nlayers = \"layer1*\"\nbits = 8\n[[quantize.rules]]\nlayers = \"linear\"\nbits = 8\n",
    );
    let said = |more: &[&str]| {
        let ran = place.run(&[&["quantize", "tiny.safetensors", "--dry-run"], more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.err
    };
    let rules = said(&["--rule-file", "rules.toml", "--bits", "3"]);
    assert!(
        rules.contains("rules.toml decides of 7 of 20 layers, other options of the 13 that it does not name"),
        "{rules}"
    );
    let rules = said(&["--rule-file", "rules.toml", "--convolutions-only"]);
    assert!(
        rules.contains("linear stays in floats, whatever rules.toml says: `--convolutions-only` decides"),
        "{rules}"
    );
    let layer = said(&["--layer", "conv1=3"]);
    assert!(layer.contains("conv1 reads the image with 3 bits, not 8: `--layer` decides"), "{layer}");
    assert!(!said(&["--layer", "layer1*=3"]).contains("decides"));
}

#[test]
fn a_broken_network_is_called_so() {
    let place = Place::new();
    let fine = place.run(&["quantize", "resnet50-embedded", "--bits", "8", "--activation-bits", "8", "-o", "fine.dsc"]);
    assert_eq!(fine.code, Some(0), "{}", fine.err);
    assert!(fine.out.contains("\non 8 drawn pictures: the class of FP32 for "), "{}", fine.out);
    assert!(!fine.err.contains("warning"), "{}", fine.err);
    let broken = ["quantize", "resnet50-embedded", "--bits", "2", "--activation-bits", "2"];
    let ran = place.run(&[&broken[..], &["-o", "broken.dsc"]].concat());
    assert!(ran.code == Some(0) && ran.err.contains("warning: the quantized network is broken"), "{}", ran.err);
    let verdict = place.json(&[&broken[..], &["-o", "broken.safetensors"]].concat())["verdict"].clone();
    assert_eq!((&verdict["broken"], &verdict["images"]), (&true.into(), &8.into()));
    assert!(verdict["sqnr_db"].as_f64().unwrap() < 6.0, "{verdict}");
}

#[cfg(unix)]
#[test]
fn a_signal_stops_an_analysis() {
    for signal in ["-INT", "-TERM"] {
        let place = Place::new();
        let args = ["analyze", "resnet50-embedded", "--images", "embedded", "--count", "2000", "-v"];
        let child = place.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(2));
        let begun = Instant::now();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.code, Some(130), "{}", ran.err);
        assert!(ran.out.is_empty() && ran.err.trim_end().ends_with("error: stopped"), "{}", ran.err);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
