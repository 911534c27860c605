//! `.dsc` files in the integer engine.
use blockfloat::{Bits, BlockSize};
use model::dsc;

use super::*;

/// A quantized model as `name` in `place`.
fn write_dsc(place: &Place, name: &str, model: &Model, bits: u8) {
    let bits = Bits::new(bits).unwrap();
    let mut policy = model::Policy { bits, rule: blockfloat::ScaleRule::L2, ..model::Policy::default() };
    let activation = policy.activation.as_mut().unwrap();
    (activation.bits, activation.block, policy.block) =
        (bits, BlockSize::new(16).unwrap(), BlockSize::new(16).unwrap());
    let quantized = model.quantize(&policy).unwrap();
    std::fs::write(place.path(name), dsc::write(&quantized, &dsc::Options::EXACT).unwrap()).unwrap();
}

/// The simulation sums in another order: a value at the edge of two codes may get either one. So logits differ a little,
/// and classes do not.
#[test]
fn the_engine_names_the_classes_that_the_simulation_names() {
    let place = Place::new();
    let teachers = concat!(env!("CARGO_MANIFEST_DIR"), "/../zoo/teachers");
    let mut networks = 0;
    for file in std::fs::read_dir(teachers).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let file = format!("{name}.dsc");
        write_dsc(&place, &file, &files::load(&path).unwrap(), 8);
        let scores = place.json(&["eval", &file, "--against", &file, "--limit", "64"]);
        let sqnr = scores["sqnr_db"].as_f64().unwrap_or(f64::INFINITY);
        println!("{name}: top-1 {}, agreement {}, SQNR {sqnr:.1} dB", scores["top1"], scores["agreement"]);
        assert_eq!(scores["agreement"], 100.0, "{name}");
        assert!(sqnr > 40.0, "{name}: {sqnr} dB");
        assert_eq!(scores["against"], format!("{name}, simulated"));
        // Two files that are compared run the same way.
        std::fs::copy(place.path(&file), place.path("copy.dsc")).unwrap();
        for way in [&[][..], &["--simulate"]] {
            let scores = place.json(&[&["eval", &file, "--against", "copy.dsc", "--limit", "16"], way].concat());
            let expected = (&100.0.into(), &Value::Null, &"copy".into());
            assert_eq!((&scores["agreement"], &scores["sqnr_db"], &scores["against"]), expected, "{name}");
        }
        networks += 1;
    }
    assert_eq!(networks, 5);
}

#[test]
fn predictions_come_from_the_engine_unless_the_simulation_is_asked_for() {
    let place = Place::new();
    write_dsc(&place, "tiny.dsc", tiny(), 8);
    place.json(&["data", "make", "pictures", "--limit", "16"]);
    let image = "pictures/adapt/00000.png";
    let logits = |extra: &[&str]| -> Vec<f64> {
        let result = place.json(&[&["predict", "tiny.dsc", image, "--logits"], extra].concat());
        result[0]["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let (engine, simulated) = (logits(&[]), logits(&["--simulate"]));
    let largest = simulated.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let difference = engine.iter().zip(&simulated).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference < 0.02 * largest, "{difference} of {largest}");

    // Every kernel gives the same bits, and one that is not known is refused.
    let report = place.json(&["doctor"]);
    for kernel in report["kernels"].as_array().unwrap() {
        let mut command = place.command(&["predict", "tiny.dsc", image, "--logits", "--json"]);
        let ran: Ran = command.env("DSCONV_KERNEL", kernel.as_str().unwrap()).output().unwrap().into();
        let result: Value = serde_json::from_str(&ran.out).unwrap();
        let found: Vec<f64> = result[0]["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(found, engine, "{kernel}");
    }
    let mut command = place.command(&["predict", "tiny.dsc", image]);
    let ran: Ran = command.env("DSCONV_KERNEL", "mmx").output().unwrap().into();
    assert!(ran.code == Some(1) && ran.err.contains("kernel `mmx` is not known"), "{}", ran.err);
}

#[test]
fn bench_times_every_layer() {
    let place = Place::new();
    write_dsc(&place, "tiny.dsc", tiny(), 4);
    let result = place.json(&["bench", "tiny.dsc", "--runs", "5", "--batch", "2", "--threads", "2"]);
    let latency = |key: &str| result["latency_ms"][key].as_f64().unwrap();
    assert!(latency("min") > 0.0 && latency("min") <= latency("median") && latency("median") <= latency("p95"));
    assert_eq!((&result["batch"], &result["threads"], &result["runs"]), (&2.into(), &2.into(), &5.into()));
    if cfg!(target_os = "linux") {
        assert!(result["peak_bytes"].as_u64().unwrap() > 1_000_000);
    }
    let layers = result["layers"].as_array().unwrap();
    let share: f64 = layers.iter().map(|layer| layer["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-9, "{share}");
    let integers = layers.iter().filter(|layer| layer["kind"] == "integer convolution");
    // 3 stages of 3 blocks of 2 convolutions, the first one and the classifier.
    assert_eq!(integers.count(), 20);
    for layer in layers {
        // Of two threads together.
        let [sums, rounding, floats] =
            ["sums", "rounding", "floats"].map(|work| layer["works"][work].as_f64().unwrap());
        let (works, is_convolution) = (sums + rounding + floats, layer["kind"] == "integer convolution");
        assert!(
            works > 0.0 && works <= 2.0 * layer["ms"].as_f64().unwrap() && (sums > 0.0) == is_convolution,
            "{layer}"
        );
    }
    let shown = place.run(&["bench", "tiny.dsc", "--runs", "2"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    assert!(shown.out.lines().all(|line| line.len() <= 100), "{}", shown.out);
    assert!(shown.out.contains("layer3.2.conv2") && shown.out.contains("ms median"), "{}", shown.out);
    place.run(&["bench", "missing.dsc"]).refuses(1, "error: `missing.dsc`: No such file or directory (os error 2)");
}

#[test]
fn a_network_without_layers_that_suit_winograds_algorithm_is_told_so() {
    let place = Place::new();
    let quantize = ["quantize", "alexnet-embedded", "--layer", "*=8", "--winograd", "--images", "none", "-o", "w.dsc"];
    let ran = place.run(&quantize);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("warning: `--winograd` is without effect"), "{}", ran.err);
    let ran = place.run(&["quantize", "vgg-embedded", "--winograd=7", "-o", "w.dsc"]);
    assert!(ran.code == Some(2) && ran.err.contains("from 2 to 6"), "{}", ran.err);
}

#[test]
fn layers_that_suit_winograds_algorithm_have_the_same_logits_on_every_kernel() {
    let place = Place::new();
    place.json(&["quantize", "vgg-embedded", "--winograd=5", "--images", "drawn", "--image-count", "2", "-o", "w.dsc"]);
    let layers = place.json(&["inspect", "w.dsc"])["layers"].clone();
    let whole = |layer: &&Value| layer["activation"]["block"] == "image" && layer["activation"]["bits"] == 5;
    let suited = layers.as_array().unwrap().iter().filter(whole).count();
    assert!(suited > 2, "{layers:#}");
    place.json(&["data", "make", "pictures", "--limit", "2"]);
    let logits = |kernel: Option<&str>, extra: &[&str]| -> Vec<f64> {
        let image = "pictures/adapt/00000.png";
        let mut command = place.command(&[&["predict", "w.dsc", image, "--logits", "--json"], extra].concat());
        kernel.map(|kernel| command.env("DSCONV_KERNEL", kernel));
        let ran: Ran = command.output().unwrap().into();
        let result: Value = serde_json::from_str(&ran.out).unwrap();
        result[0]["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let engine = logits(None, &[]);
    for kernel in place.json(&["doctor"])["kernels"].as_array().unwrap() {
        assert_eq!(logits(kernel.as_str(), &[]), engine, "{kernel}");
    }
    let simulated = logits(None, &["--simulate"]);
    let largest = simulated.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let difference = engine.iter().zip(&simulated).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference < 0.02 * largest, "{difference} of {largest}");
}

/// A layer of 8 bits beside others of 4, whose kernels are others: each has the ceiling of its own.
#[test]
fn bench_measures_each_layer_by_the_ceiling_of_its_format() {
    let place = Place::new();
    let of = ["quantize", "tiny.safetensors", "-o", "mixed.dsc", "--images", "none"];
    place.json(&[&of[..], &["--layer", "layer3*=8", "--image-sum", "--skip", "linear"]].concat());
    let result = place.json(&["bench", "mixed.dsc", "--runs", "1"]);
    let number = |value: &Value| value.as_f64().unwrap();
    let mut ceilings = std::collections::BTreeMap::new();
    for layer in result["layers"].as_array().unwrap() {
        let name = layer["name"].as_str().unwrap();
        let Some(ceiling) = layer.get("ceiling_gmacs").map(number) else {
            assert!(layer.get("of_ceiling").is_none() && layer["kind"] != "integer convolution", "{layer}");
            continue;
        };
        let part = number(&layer["gmacs"]) / ceiling;
        assert!((number(&layer["of_ceiling"]) - part).abs() < 1e-9 && part > 0.0, "{layer}");
        ceilings.insert(name.to_owned(), ceiling);
    }
    let of = |name: &str| ceilings[name];
    assert!(!ceilings.contains_key("linear") && of("conv1") > 0.0, "{ceilings:?}");
    // Measured once for a format.
    assert_eq!(of("layer1.0.conv1"), of("layer1.2.conv2"));
    assert_eq!(of("layer3.1.conv1"), of("layer3.2.conv2"));
    assert_ne!(of("layer1.0.conv1"), of("layer3.1.conv1"));
    assert!(ceilings.values().any(|ceiling| *ceiling == number(&result["ceiling_gmacs"])), "{result}");
}
