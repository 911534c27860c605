//! The built `dsconv`, driven as a user drives it.

mod engine;
mod folders;
mod mistakes;
mod onnx;
mod runs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use graph::{Preprocess, Weights};
use model::{Info, Model, SaveOptions};
use serde_json::Value;

/// A folder of its own, with a `configs` and a small float network, `tiny.safetensors`.
struct Place {
    folder: tempfile::TempDir,
}

/// What a command did.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("configs/imagenet")).unwrap();
        std::fs::create_dir_all(folder.path().join("datasets")).unwrap();
        files::save(&tiny(), folder.path().join("tiny.safetensors"), &SaveOptions::default()).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsconv"));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env("COLUMNS", "100");
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    /// The JSON of a command that succeeds.
    fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["--json"]].concat());
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.err);
        serde_json::from_str(&ran.out)
            .unwrap_or_else(|e| panic!("{args:?}: stdout is no JSON document: {e}\n{}", ran.out))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    /// Fails with this status and these words, and nothing on stdout.
    #[track_caller]
    fn refuses(&self, code: i32, err: &str) {
        assert_eq!((self.code, self.err.trim_end()), (Some(code), err), "stdout: {}", self.out);
        assert_eq!(self.out, "");
    }
}

/// ResNet-20 a quarter as wide, with random weights, for the embedded set.
fn tiny() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let config = zoo::Config { classes: Some(16), width: Some(0.25), ..zoo::Config::new("resnet20") };
        let graph = zoo::build(&config).unwrap();
        let weights = Weights::init(&graph, 1);
        let classes = images::EMBEDDED_CLASSES.iter().map(|&name| name.to_owned()).collect();
        let info = Info { preprocess: Preprocess::imagenet_statistics(), classes, source: "random".into() };
        Model::float(graph, weights, info).unwrap()
    })
}

#[test]
fn help_names_every_command() {
    let place = Place::new();
    let ran = place.run(&["--help"]);
    assert_eq!(ran.code, Some(0));
    for command in [
        "distill", "compare", "quantize", "eval", "predict", "export", "inspect", "verify", "bench", "train", "models",
        "data", "doctor",
    ] {
        assert!(ran.out.lines().any(|line| line.trim_start().starts_with(command)), "{command}\n{}", ran.out);
        let help = place.run(&[command, "--help"]);
        assert_eq!(help.code, Some(0), "{command}");
        assert!(help.out.contains("--json"), "{command}");
    }
    assert!(ran.out.contains("dsconv distill resnet50_4bit"));
    assert!(!ran.out.contains('\x1b'), "no colour off a terminal");
}

#[test]
fn wrong_usage_is_status_2() {
    let place = Place::new();
    for args in [
        &["distil"][..],
        &["eval"],
        &["eval", "tiny.safetensors", "--nope"],
        &["quantize", "tiny.safetensors", "--bits", "9"],
    ] {
        let ran = place.run(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty() && ran.err.starts_with("error: "), "{args:?}: {}", ran.err);
    }
    assert!(place.run(&["distil"]).err.contains("'distill'"), "the nearest command");
}

#[test]
fn unknown_models_are_answered_with_the_nearest() {
    let place = Place::new();
    let cases = [
        (
            &["eval", "resnt50"][..],
            2,
            "error: no model is named `resnt50`, and there is no such file or run folder\n\nhint: did you mean `resnet50`?",
        ),
        (
            &["eval", "transformer"],
            2,
            "error: no model is named `transformer`, and there is no such file or run folder\n\nhint: `dsconv models` lists the names",
        ),
        (
            &["eval", "no/such.safetensors"],
            2,
            "error: no model at `no/such.safetensors`: there is no such file or run folder",
        ),
        (
            &["eval", "resnet32"],
            1,
            "error: the weights of `resnet32` are not here\n\nhint: `dsconv data get resnet32` downloads them, or give your own with `--weights FILE`",
        ),
        (
            &["quantize", "resnet5", "--weights", "tiny.safetensors"],
            2,
            "error: no network is named `resnet5`: `--weights` needs one\n\nhint: did you mean `resnet50`?",
        ),
    ];
    for (args, code, err) in cases {
        place.run(args).refuses(code, err);
    }
}

#[test]
fn what_is_no_checkpoint_is_named() {
    let place = Place::new();
    place.write("w.pth", "version https://git-lfs.github.com/spec/v1\n");
    let expected = "error: w.pth is a pointer of Git LFS, not the file itself\n\nhint: `git lfs pull` fetches the file";
    place.run(&["eval", "w.pth"]).refuses(1, expected);
    place.run(&["eval", "resnet50", "--weights", "w.pth"]).refuses(1, expected);
    place.run(&["export", "resnet50-embedded", "--width", "0.5"]).refuses(
        2,
        "error: `resnet50-embedded` is no checkpoint: `--width` and `--stem` are for those\n\n\
         hint: give the weights with `--weights FILE`, or name their file as the model",
    );
}

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
                "error: this dsconv was built without `{feature}`\n\nhint: build it in: `cargo run --release -p cli --features {feature} -- ...`, \
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

#[test]
fn models_have_torchvisions_sizes() {
    let place = Place::new();
    let rows = place.json(&["models"]);
    let row = |name: &str| rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    // torchvision's documentation.
    assert_eq!(row("resnet50")["params"], 25_557_032);
    assert_eq!(row("vgg16")["params"], 138_357_544);
    assert_eq!(row("densenet121")["params"], 7_978_856);
    assert_eq!(row("alexnet")["top1"], 56.522);
    let table = place.run(&["models", "vgg1"]).out;
    assert!(table.starts_with("name "), "{table}");
    assert!(table.contains("138.4 M") && !table.contains("resnet"), "{table}");
}

#[test]
fn data_sets_are_listed() {
    let place = Place::new();
    let rows = place.json(&["data", "list"]);
    let embedded = rows.as_array().unwrap().iter().find(|row| row["name"] == "embedded").unwrap();
    assert_eq!((&embedded["classes"], &embedded["here"]), (&Value::from(16), &Value::from(true)));
    place
        .run(&["data", "get", "imagenett"])
        .refuses(2, "error: no image set and no network is named `imagenett`\n\nhint: did you mean `imagenet`?");
    let ran = place.run(&["data", "get", "imagenet"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("error: `imagenet` cannot be downloaded\n\nhint: "), "{}", ran.err);
}

#[test]
fn doctor_reports() {
    let report = Place::new().json(&["doctor"]);
    assert_eq!(report["dsconv"], env!("CARGO_PKG_VERSION"));
    assert!(report["cores"].as_u64().unwrap() > 0);
    assert_eq!(report["kernels"][0], "scalar");
    assert_eq!((&report["devices"][0]["name"], &report["devices"][0]["compiled"]), (&"cpu".into(), &true.into()));
}

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
    let bare: Vec<_> = tiny().weights.0.iter().collect();
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = bare
        .iter()
        .map(|(name, t)| ((*name).clone(), t.shape().to_vec(), t.data().iter().flat_map(|v| v.to_le_bytes()).collect()))
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
        let scores = place.json(&["eval", model, "--limit", "32", "--against", "tiny.safetensors"]);
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
        // Alone as in company.
        assert_eq!(place.json(&["predict", "tiny.safetensors", image, "--logits"])[0]["logits"], one["logits"]);
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

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_names() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let name = |ending: &[u8]| std::ffi::OsStr::from_bytes(&[b"\xff\xfe", ending].concat()).to_owned();
    image::RgbImage::new(32, 32).save(place.path("picture.png")).unwrap();
    std::fs::rename(place.path("picture.png"), place.folder.path().join(name(b".png"))).unwrap();
    let run = |args: &[&str], file: &[u8]| -> Ran { place.command(args).arg(name(file)).output().unwrap().into() };
    let ran = run(&["predict", "--json", "tiny.safetensors"], b".png");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(found[0]["image"], "\u{fffd}\u{fffd}.png");
    let ran = run(&["quantize", "--json", "tiny.safetensors", "-o"], b".dsc");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(place.folder.path().join(name(b".dsc")).is_file());
    // A model is named by text.
    let ran = run(&["eval"], b".dsc");
    assert!(ran.code == Some(2) && ran.err.contains("invalid UTF-8"), "{}", ran.err);
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_said() {
    let place = Place::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let child = place.command(&["models"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("error: cannot write the result: "), "{}", ran.err);
    // `dsconv models | head -1` has had enough.
    let mut child = place.command(&["models"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.err.contains("panicked")), (Some(0), false), "{}", ran.err);
}

#[test]
fn a_new_config_is_a_config() {
    let place = Place::new();
    let written = place.json(&["config", "new", "mine.toml", "--model", "tiny.safetensors"]);
    assert_eq!(written["command"], "dsconv distill mine.toml");
    let little = ["data.limit=64", "data.eval_limit=32", "adapt.steps=1", "adapt.held_out=8", "adapt.fit_images=0"];
    let set = little.iter().flat_map(|change| ["--set", change]);
    let outcome = place.json(&["distill", "mine.toml", "--out", "run"].into_iter().chain(set).collect::<Vec<_>>());
    assert_eq!(outcome["model"], "tiny.safetensors");
    place.json(&["config", "new", "copy.toml", "--from", "vgg_4bit"]);
    let recipe = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/vgg_4bit.toml")).unwrap();
    assert_eq!(std::fs::read_to_string(place.path("copy.toml")).unwrap(), recipe);
    let keys = place.json(&["config", "keys", "steps"]);
    assert_eq!((&keys[0]["key"], &keys[0]["default"]), (&"adapt.steps".into(), &200.into()));
    let recipes = place.json(&["config", "list"]);
    assert!(recipes.as_array().unwrap().iter().any(|recipe| recipe["name"] == "imagenet/resnet50_4bit"));
}

#[test]
fn colour_is_for_terminals() {
    let place = Place::new();
    assert!(!place.run(&["models", "vgg"]).out.contains('\x1b'));
    assert!(place.run(&["models", "vgg", "--color", "always"]).out.contains('\x1b'));
    let ran: Ran = place.command(&["eval", "nothing", "--color", "never"]).output().unwrap().into();
    assert!(!ran.err.contains('\x1b'));
}

#[test]
fn quiet_says_nothing_but_results() {
    let place = Place::new();
    let ran = place.run(&["eval", "tiny.safetensors", "--limit", "16", "--quiet"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(ran.out.starts_with("model "), "{}", ran.out);
}

/// A distillation of a second or two.
const RECIPE: &str = "\
model = \"tiny.safetensors\"

[data]
limit = 96
eval_limit = 64

[adapt]
steps = 12
checkpoint_every = 3
batch = 8
held_out = 24
";

#[test]
fn distill_measures_adapts_and_exports() {
    let place = Place::new();
    place.write("configs/mine_4bit.toml", RECIPE);
    let metrics = place.json(&["distill", "config/mine_4bit.toml", "--out", "run"]);
    for network in ["fp32", "quantized", "adapted"] {
        for key in ["top1", "top5", "agreement", "bytes"] {
            assert!(metrics[network][key].is_number(), "{network}.{key}");
        }
    }
    assert_eq!((&metrics["fp32"]["agreement"], &metrics["fp32"]["sqnr_db"]), (&Value::from(100.0), &Value::Null));
    assert!(metrics["adapted"]["sqnr_db"].as_f64() > metrics["quantized"]["sqnr_db"].as_f64(), "{metrics}");
    let kept: Value = serde_json::from_slice(&std::fs::read(place.path("run/metrics.json")).unwrap()).unwrap();
    assert_eq!([&kept["fp32"], &kept["adapted"]], [&metrics["fp32"], &metrics["adapted"]]);
    for file in ["config.toml", "loss.csv", "model.safetensors", "model.dsc"] {
        assert!(place.path("run").join(file).is_file(), "{file}");
    }

    // The run folder is a model, and scores what the table said; the resolved config is a config, for the same bits.
    let scores = place.json(&["eval", "run", "--limit", "64", "--against", "tiny.safetensors"]);
    for key in ["top1", "top5", "agreement", "sqnr_db", "bytes"] {
        assert_eq!(scores[key], metrics["adapted"][key], "{key}");
    }
    let stored = |file: &str| files::load(place.path("run").join(file)).unwrap();
    assert_eq!(stored("model.dsc"), stored("model.safetensors"));
    place.json(&["distill", "run/config.toml", "--out", "again"]);
    let model = |run: &str| std::fs::read(place.path(run).join("model.safetensors")).unwrap();
    assert!(model("run") == model("again"), "one config, one result");

    let rows = place.json(&["compare", "run", "again"]);
    assert_eq!(rows[0]["adapted"], rows[1]["adapted"]);
    let table = place.run(&["compare", "run", "again"]).out;
    assert!(table.starts_with("run ") && table.lines().count() == 4, "{table}");

    place.run(&["distill", "mine_4bit", "--out", "run"]).refuses(
        1,
        "error: `run` is not empty\n\nhint: `--resume` goes on with the run in it, `--force` replaces it, `--out` names another folder",
    );
    let ran = place.run(&["distill", "mine_4bit", "--out", "run", "--resume", "--set", "adapt.steps=6"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("`run` holds another run: its settings: `steps = 6` differs"), "{}", ran.err);
    // `--force` is for runs alone.
    place.run(&["distill", "mine_4bit", "--out", "configs", "--force"]).refuses(
        1,
        "error: `configs` is not empty and is no run folder: `--force` does not touch it\n\nhint: `--out` names another folder",
    );
}

#[test]
fn recipes_and_their_networks_come_with_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsconv"));
        command.args(args).current_dir(folder.path()).env("XDG_CACHE_HOME", folder.path().join("cache"));
        command.output().unwrap().into()
    };
    let little = ["data.limit=64", "data.eval_limit=32", "adapt.steps=1", "adapt.held_out=8", "adapt.fit_images=0"];
    let set = little.iter().flat_map(|change| ["--set", change]);
    let ran = run(&["distill", "alexnet_4bit", "--json"].into_iter().chain(set).collect::<Vec<_>>());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("config configs/alexnet_4bit.toml: the one that comes with dsconv"), "{}", ran.err);
    let outcome: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(outcome["run"].as_str().unwrap().starts_with("runs/alexnet_4bit-2"), "{outcome}");
    assert!(folder.path().join(outcome["run"].as_str().unwrap()).join("model.dsc").is_file());
    // What is downloaded goes to the user's cache.
    let ran = run(&["doctor"]);
    assert!(ran.out.contains(&format!("{}/cache/dsconv/datasets", folder.path().display())), "{}", ran.out);
}

#[test]
fn runs_are_named_after_their_config_and_the_time() {
    let place = Place::new();
    place.write("configs/imagenet/mine.toml", RECIPE);
    std::fs::create_dir(place.path("experiments")).unwrap();
    let metrics = place.json(&["distill", "imagenet/mine", "--set", "adapt.steps=3"]);
    let run = metrics["run"].as_str().unwrap().to_owned();
    let name = run.strip_prefix("experiments/runs/").unwrap();
    assert!(name.starts_with("imagenet-mine-2") && name.len() == "imagenet-mine-20261124-023301".len(), "{name}");
    // A run is found by its name, the newest one of a config is resumed, and all runs are compared.
    assert_eq!(place.json(&["eval", name, "--limit", "16"])["model"], name);
    let resumed = place.json(&["distill", "imagenet/mine", "--set", "adapt.steps=3", "--resume"]);
    assert_eq!((&resumed["run"], &resumed["adapted"]), (&metrics["run"], &metrics["adapted"]));
    assert_eq!(place.json(&["compare"]).as_array().unwrap().len(), 1);
}

#[test]
fn config_errors_show_the_line() {
    let place = Place::new();
    let cases = [
        (
            "model = \"tiny.safetensors\"\n[quantize]\nbitz = 4\n",
            "error: unknown key `bitz`
   ╭─[configs/mine.toml:3:1]
 2 │ [quantize]
 3 │ bitz = 4
   · ──┬─
   ·   ╰── not a key here
   ╰────

hint: did you mean `bits`? the keys here are `bits`, `block`, `rule`, `scales`, `linear`, `activation`, `rules`",
        ),
        (
            "model = \"tiny.safetensors\"\n[quantize]\nbits = 9\n",
            "error: 9 bits: expected 2 to 8
   ╭─[configs/mine.toml:3:8]
 2 │ [quantize]
 3 │ bits = 9
   ·        ─
   ╰────",
        ),
        (
            "model = \"tiny.safetensors\"\n[[quantize.rules]]\nlayers = \"layer1.0.con1\"\nskip = true\n",
            "error: no layer of `resnet20` is named `layer1.0.con1`
   ╭─[configs/mine.toml:3:10]
 2 │ [[quantize.rules]]
 3 │ layers = \"layer1.0.con1\"
   ·          ───────────────
 4 │ skip = true
   ╰────

hint: the nearest names are `layer1.0.conv1`, `layer1.0.conv2`, `layer1.1.conv1`; `*` and `?` stand for any letters",
        ),
        (
            "model = \"resnt20\"\n",
            "error: no model is named `resnt20`, and there is no such file or run folder
   ╭─[configs/mine.toml:1:9]
 1 │ model = \"resnt20\"
   ·         ─────────
   ╰────

hint: did you mean `resnet20`?",
        ),
        (
            "model = \"tiny.safetensors\"\n[adapt]\nbatch = 0\n",
            "error: `batch` must be more than 0
   ╭─[configs/mine.toml:3:9]
 2 │ [adapt]
 3 │ batch = 0
   ·         ─
   ╰────",
        ),
        (
            "model = \"tiny.safetensors\"\n[data]\neval = \"embeded\"\n",
            "error: no images at `embeded`: it is no file or folder, and no data set has that name
   ╭─[configs/mine.toml:3:8]
 2 │ [data]
 3 │ eval = \"embeded\"
   ·        ─────────
   ╰────

hint: data sets are cifar10, embedded, imagenet",
        ),
        (
            "device = \"gpu\"\nmodel = \"tiny.safetensors\"\n",
            "error: devices are cpu, ndarray, wgpu, wgpu:N, cuda and cuda:N, not `gpu`
   ╭─[configs/mine.toml:1:10]
 1 │ device = \"gpu\"
   ·          ─────
 2 │ model = \"tiny.safetensors\"
   ╰────",
        ),
    ];
    for (text, expected) in cases {
        place.write("configs/mine.toml", text);
        let ran = place.run(&["distill", "config/mine.toml", "--out", "run"]);
        assert_eq!((ran.err.trim_end(), ran.code), (expected, Some(2)));
        assert!(ran.out.is_empty() && !place.path("run").exists(), "nothing is begun");
    }
    place
        .run(&["distill", "config/mien.toml"])
        .refuses(2, "error: no config is named `config/mien.toml`\n\nhint: did you mean `mine`?");
    place.write("configs/empty.toml", "");
    place.run(&["distill", "empty"]).refuses(
        2,
        "error: configs/empty.toml: missing key `model`: the network to quantize, by name or as a file\n\n\
         hint: add `model = \"resnet50-embedded\"`; `dsconv config keys` lists all keys",
    );
}

/// Kills a distillation at moments spread by a fixed sequence, resumes it each time, and compares with an unbroken run. A
/// run that gets to its end before enough kills is compared too, and another is begun.
fn killed_and_resumed(recipe: &str, kills: usize) {
    let place = Place::new();
    place.write("configs/mine.toml", recipe);
    let begun = Instant::now();
    place.json(&["distill", "mine", "--out", "unbroken"]);
    let unbroken = begun.elapsed();
    let model = |run: &str| std::fs::read(place.path(run).join("model.safetensors")).unwrap();

    let (mut killed, mut run, mut state) = (0, 0, 0x9e37_79b9_u64);
    for _ in 0..10 * kills {
        let folder = format!("broken{run}");
        let args = ["distill", "mine", "--out", &folder, "--resume"];
        let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if killed < kills {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(unbroken.mul_f64((state >> 40) as f64 / (1u64 << 24) as f64 * 0.6));
            // SIGKILL: nothing is tidied up.
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        if status.code().is_none() {
            killed += 1;
            continue;
        }
        assert!(status.success());
        assert!(model("unbroken") == model(&folder), "killed and resumed, another result");
        if killed == kills {
            return;
        }
        run += 1;
    }
    panic!("{killed} kills, {run} runs: it gets nowhere");
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    killed_and_resumed(RECIPE, 3);
}

/// Sums are cut and ordered the same way on any number of cores.
#[cfg(target_os = "linux")]
#[test]
fn a_result_does_not_depend_on_the_number_of_cores() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = allowed.split([',', '-']).next().unwrap();
    if cores == 1 || Command::new("taskset").arg("--version").output().is_err() {
        println!("SKIPPED: needs two cores and `taskset`");
        return;
    }
    let place = Place::new();
    // Two parts a batch.
    place.write("configs/mine.toml", &RECIPE.replace("batch = 8", "batch = 16"));
    let model = |cores: &str, run: &str| {
        let distill = place.command(&["distill", "mine", "--quiet", "--out", run]);
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", cores]).arg(distill.get_program()).args(distill.get_args());
        assert!(pinned.current_dir(place.folder.path()).stdout(Stdio::null()).status().unwrap().success());
        std::fs::read(place.path(run).join("model.safetensors")).unwrap()
    };
    assert!(model(allowed, "all") == model(first, "one"), "other bits on one core");
}

/// `DSCONV_SLOW=1 cargo test --release -p cli slow -- --nocapture`
#[test]
fn slow_ten_kills_resume_to_the_same_bits() {
    if std::env::var_os("DSCONV_SLOW").is_none() {
        eprintln!("skipped: DSCONV_SLOW is not set");
        return;
    }
    let recipe = RECIPE.replace("steps = 12", "steps = 200").replace("limit = 96", "limit = 1000");
    killed_and_resumed(&recipe.replace("checkpoint_every = 3", "checkpoint_every = 10"), 10);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_cleanly() {
    let place = Place::new();
    place.write("configs/mine.toml", &RECIPE.replace("steps = 12", "steps = 100000"));
    let child = place
        .command(&["distill", "mine", "--out", "run"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let checkpoint = place.path("run/loss.csv");
    let begun = Instant::now();
    while !checkpoint.exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, Some(130), "{}", ran.err);
    assert!(
        ran.err.trim_end().ends_with("error: stopped\n\nhint: the same command with `--resume --out run` goes on"),
        "{}",
        ran.err
    );
    assert!(ran.out.is_empty() && !place.path("run/model.safetensors").exists());
}

#[test]
fn train_writes_a_model_and_resumes() {
    let place = Place::new();
    place.write(
        "configs/teacher.toml",
        "model = { name = \"resnet20\", classes = 16, width = 0.25 }\n[data]\ntrain_images = 256\neval_images = 64\n[train]\nepochs = 2\n",
    );
    let trained = place.json(&["train", "teacher", "--out", "run"]);
    assert!(trained["top1"].is_number());
    let again = place.json(&["train", "teacher", "--out", "run", "--resume"]);
    assert_eq!(again["top1"], trained["top1"]);
    assert_eq!(place.json(&["eval", "run", "--limit", "64"])["top1"], trained["top1"]);
}

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
    assert!(ran.err.contains("net.onnx does not say how its images are normalised: ImageNet's"), "{}", ran.err);
    let quantized = files::load(place.path("net_w4a4.safetensors")).unwrap();
    assert_eq!(quantized.layers.keys().collect::<Vec<_>>(), ["conv", "fc"]);

    // What the file does not say, said once.
    let say = ["--order", "bgr", "--divide", "1", "--mean", "104,117,123", "--std", "1,1,1"];
    let ran = place.run(&[&["export", "net.onnx", "-o", "net.safetensors"], &say[..]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(!ran.err.contains("ImageNet"), "{}", ran.err);
    let preprocess = files::load(place.path("net.safetensors")).unwrap().info.preprocess;
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

/// ImageNet networks of others, where ../shared/data is: 16 images, of which PyTorch names these many.
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
