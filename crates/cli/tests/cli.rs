//! The built `dsconv`, driven as a user drives it.

mod analysis;
mod configs;
mod devices;
mod distillation;
mod engine;
mod folders;
mod guides;
mod imports;
mod mistakes;
mod onnx;
mod pictures;
mod reports;
mod resume;
mod runs;
mod written;

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

/// The exit status and the output of a command.
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
        files::save(tiny(), folder.path().join("tiny.safetensors"), &SaveOptions::default()).unwrap();
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
    /// Checks that the command fails with this status and these words, and writes nothing to stdout.
    #[track_caller]
    fn refuses(&self, code: i32, err: &str) {
        assert_eq!((self.code, self.err.trim_end()), (Some(code), err), "stdout: {}", self.out);
        assert_eq!(self.out, "");
    }
}

/// Returns a ResNet-20 a quarter as wide, with random weights, for the embedded set.
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
        "distill", "compare", "quantize", "analyze", "eval", "predict", "export", "inspect", "verify", "bench",
        "train", "models", "data", "doctor",
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
fn colour_is_for_terminals() {
    let place = Place::new();
    assert!(!place.run(&["models", "vgg"]).out.contains('\x1b'));
    assert!(place.run(&["models", "vgg", "--color", "always"]).out.contains('\x1b'));
    let ran: Ran = place.command(&["eval", "nothing", "--color", "never"]).output().unwrap().into();
    assert!(!ran.err.contains('\x1b'));
    // `--color` comes before the environment, and no colour before colour.
    let coloured = |variables: &[(&str, &str)], args: &[&str]| {
        let ran: Ran = place.command(args).envs(variables.iter().copied()).output().unwrap().into();
        (ran.out + &ran.err).contains('\x1b')
    };
    for args in [&["models", "vgg"][..], &["eval", "nothing"]] {
        assert!(coloured(&[("CLICOLOR_FORCE", "1")], args), "{args:?}");
        assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], args), "{args:?}");
        assert!(!coloured(&[("CLICOLOR_FORCE", "1")], &[args, &["--color", "never"]].concat()), "{args:?}");
        assert!(coloured(&[("NO_COLOR", "1")], &[args, &["--color", "always"]].concat()), "{args:?}");
    }
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
