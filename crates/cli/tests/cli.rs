//! The built `dsconv`, driven as a user drives it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use graph::{Info, Model, Preprocess, SaveOptions, Weights};
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
        tiny().save(folder.path().join("tiny.safetensors"), &SaveOptions::default()).unwrap();
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

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[test]
fn help_names_every_command() {
    let place = Place::new();
    let ran = place.run(&["--help"]);
    assert_eq!(ran.code, Some(0));
    for command in ["distill", "compare", "quantize", "eval", "predict", "export", "train", "models", "data", "doctor"]
    {
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
fn bare_weights_need_a_network() {
    let place = Place::new();
    place.write("w.pth", "x");
    place.run(&["eval", "w.pth"]).refuses(
        2,
        "error: `w.pth`: a PyTorch file holds weights alone, not a network\n\nhint: name the network too, such as `resnet50 --weights w.pth`",
    );
}

#[test]
fn a_device_that_is_not_built_in_names_its_feature() {
    let place = Place::new();
    for (feature, built_in) in
        [("wgpu", cfg!(feature = "wgpu")), ("cuda", cfg!(feature = "cuda")), ("ndarray", cfg!(feature = "ndarray"))]
    {
        if built_in {
            eprintln!("skipped: {feature} is built in");
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
    assert_eq!((&report["devices"][0]["name"], &report["devices"][0]["compiled"]), (&"cpu".into(), &true.into()));
}

#[test]
fn quantize_writes_a_small_file_and_never_over_another() {
    let place = Place::new();
    let written = place.json(&["quantize", "tiny.safetensors"]);
    assert_eq!(written["path"], "tiny_w4a4.safetensors", "named after the model and its bits");
    let bytes = std::fs::metadata(place.path("tiny_w4a4.safetensors")).unwrap().len();
    assert_eq!(written["bytes"], bytes);
    assert!(written["weight_sqnr_db"].as_f64().unwrap() > 15.0);
    assert!(written["layers"]["layer1.0.conv1"]["sqnr_db"].as_f64().unwrap() > 15.0);

    place.run(&["quantize", "tiny.safetensors"]).refuses(
        1,
        "error: `tiny_w4a4.safetensors` exists already\n\nhint: `--force` replaces it, `-o` names another file",
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
fn embedded_images_become_files_that_score_the_same() {
    let place = Place::new();
    let made = place.json(&["data", "make", "pictures", "--limit", "48"]);
    assert_eq!((&made["train"], &made["eval"], &made["adapt"]), (&48.into(), &48.into(), &48.into()));
    let ran = place.run(&["data", "make", "pictures"]);
    assert_eq!(ran.code, Some(1), "a folder that is not empty");

    let scores = |data: &str| {
        let scores = place.json(&["eval", "tiny.safetensors", "--data", data, "--limit", "48"]);
        (scores["count"].clone(), scores["top1"].clone(), scores["top5"].clone())
    };
    assert_eq!(scores("pictures/eval"), scores("embedded"));
}

#[test]
fn predict_names_classes() {
    let place = Place::new();
    place.json(&["data", "make", "pictures", "--limit", "2"]);
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
    let ran = place.run(&["predict", "tiny.safetensors", "missing.jpg"]);
    assert!(ran.code == Some(1) && ran.err.starts_with("error: `missing.jpg`: "), "{}", ran.err);
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
