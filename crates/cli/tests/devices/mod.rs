//! `--device`: what is built in and found here, and what is not.
use super::*;

#[test]
fn a_device_that_is_not_built_in_names_its_feature() {
    let place = Place::new();
    for (feature, built_in) in
        [("wgpu", cfg!(feature = "wgpu")), ("cuda", cfg!(feature = "cuda")), ("ndarray", cfg!(feature = "ndarray"))]
    {
        if built_in {
            println!("SKIPPED: {feature} is built in");
            continue;
        }
        place.run(&["eval", "tiny.safetensors", "--device", feature]).refuses(
            2,
            &format!(
                "error: this dsconv was built without `{feature}`\n\nhint: build it in: `cargo run --release -p dsconv-cli --features {feature} -- ...`, \
                 or `just features={feature} ...`"
            ),
        );
    }
    let ran = place.run(&["eval", "tiny.safetensors", "--device", "gpu"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("devices are cpu, ndarray, wgpu, wgpu:N, cuda and cuda:N, not `gpu`"), "{}", ran.err);
}

/// The names of `--device` beside `cpu` that are built in and found here; says which are not.
fn devices(place: &Place) -> Vec<String> {
    let report = place.json(&["doctor"]);
    let others = report["devices"].as_array().unwrap().iter().filter(|device| device["name"] != "cpu");
    let (found, missing): (Vec<&Value>, Vec<&Value>) = others.partition(|device| device["found"] != 0);
    for device in missing {
        let why = if device["compiled"] == true { "not on this machine" } else { "not built in" };
        println!("SKIPPED: {} is {why}", device["name"].as_str().unwrap());
    }
    found.iter().map(|device| device["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_device_predicts_and_adapts_as_the_cpu() {
    let place = Place::new();
    place.json(&["quantize", "tiny.safetensors"]);
    place.write("configs/mine.toml", RECIPE);
    let on = |device: &str| {
        let eval = ["eval", "tiny_w4a4.safetensors", "--against", "tiny.safetensors", "--limit", "64"];
        let scores = place.json(&[&eval[..], &["--device", device]].concat());
        let metrics = place.json(&["distill", "mine", "--device", device, "--out", device]);
        ([&scores, &metrics["quantized"], &metrics["adapted"]]).map(|scores| scores["sqnr_db"].as_f64().unwrap())
    };
    let cpu = on("cpu");
    for device in devices(&place) {
        let [quantized, before, after] = on(&device);
        assert!((quantized - cpu[0]).abs() < 0.5, "{device}: {quantized} dB, cpu: {} dB", cpu[0]);
        assert!(after > before && (after - cpu[2]).abs() < 1.0, "{device}: {before} to {after} dB, cpu: {cpu:?}");
        println!("{device}: {quantized:.2}, {before:.2}, {after:.2} dB; cpu: {cpu:.2?} dB");
    }
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let place = Place::new();
    for kind in ["wgpu", "cuda"] {
        let report = place.json(&["doctor"]);
        let device = report["devices"].as_array().unwrap().iter().find(|device| device["name"] == kind).unwrap();
        if device["compiled"] == false {
            println!("SKIPPED: {kind} is not built in");
            continue;
        }
        let ran = place.run(&["eval", "tiny.safetensors", "--device", &format!("{kind}:7")]);
        let start = format!("error: no device `{kind}:7`: {} found", device["found"]);
        let end = "\n\nhint: `dsconv doctor` shows what there is; `--device cpu` is always there";
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{}", ran.err);
        // A driver may have words of its own before.
        assert!(ran.err.contains(&start) && ran.err.trim_end().ends_with(end), "{}", ran.err);
    }
}
