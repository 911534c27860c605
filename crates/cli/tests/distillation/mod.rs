//! `dsconv distill` and `dsconv train` from the config to the files of the run.
use super::*;

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
    // Every stage says what it won and cost, and one of them is exported.
    let stages = metrics["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(names, ["quantize", "fit", "distill"]);
    assert_eq!(stages.iter().filter(|stage| stage["exported"] == true).count(), 1, "{metrics}");
    for stage in stages {
        assert!(stage["seconds"].as_f64().unwrap() > 0.0 && stage["agreement"].as_f64().unwrap() > 0.0, "{stage}");
        assert!(cfg!(not(target_os = "linux")) || stage["peak_bytes"].as_u64().unwrap() > 1 << 20, "{stage}");
    }
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
    let again = place.run(&["train", "--resume", "run", "--json"]);
    assert!(again.code == Some(0) && again.err.contains("the run in run is finished"), "{}", again.err);
    assert_eq!(serde_json::from_str::<Value>(&again.out).unwrap()["top1"], trained["top1"]);
    place.run(&["train", "run"]).refuses(
        2,
        "error: `run` is a folder, not a TOML file\n\nhint: `dsconv train --resume run` goes on with the run in it",
    );
    place.run(&["bench", "run"]).refuses(
        2,
        "error: `run` is a folder, in which there is no model.dsc\n\nhint: `dsconv quantize run -o run/model.dsc` makes one",
    );
    assert_eq!(place.json(&["eval", "run", "--limit", "64"])["top1"], trained["top1"]);
}

#[test]
fn train_goes_on_with_a_quantized_network() {
    let place = Place::new();
    place.json(&["quantize", "tiny.safetensors", "--bits", "3", "--images", "none", "-o", "q.safetensors"]);
    let name = place.json(&["inspect", "q.safetensors"])["network"].as_str().unwrap().to_owned();
    let recipe = format!(
        "start = \"../q.safetensors\"\nmodel = {{ name = \"{name}\" }}\n[data]\ntrain_images = 128\neval_images = 64\n\
         [train]\nepochs = 1\noptimizer = \"adam\"\nlearning_rate = 3e-4\n"
    );
    place.write("configs/qat.toml", &recipe);
    let trained = place.json(&["train", "qat", "--out", "run"]);
    assert!(trained["best_epoch"].is_u64(), "{trained}");
    let eval = |file: &str| place.json(&["eval", file, "--limit", "64"])["top1"].clone();
    assert_eq!([eval("q.safetensors"), eval("run")], [trained["top1_before"].clone(), trained["top1"].clone()]);
    let formats = |file: &str| {
        let layers = place.json(&["inspect", file])["layers"].clone();
        let layers = layers.as_array().unwrap().iter();
        layers.map(|l| ["name", "bits", "block", "scales", "activation"].map(|key| l[key].clone())).collect::<Vec<_>>()
    };
    assert_eq!(formats("run"), formats("q.safetensors"));

    // What would be passed over is refused.
    place.write("configs/wrong.toml", &recipe.replace(&format!("\"{name}\""), "\"resnet50\""));
    let ran = place.run(&["train", "wrong", "--out", "other"]);
    assert!(ran.code == Some(2) && ran.err.contains(&format!("`start` is a quantized `{name}`")), "{}", ran.err);
    place.write("configs/wrong.toml", &recipe.replace(" }", ", classes = 3 }"));
    assert!(place.run(&["train", "wrong", "--out", "other"]).err.contains("trained as it is"));
    place.write("configs/wrong.toml", &recipe.replace("adam", "sgd"));
    assert!(place.run(&["train", "wrong", "--out", "other"]).err.contains("optimizer = \"adam\""));
    assert!(!place.path("other").exists());
}

#[test]
fn quantize_fits_layers_on_images_and_says_what_that_won() {
    let place = Place::new();
    let args = ["quantize", "tiny.safetensors", "--bits", "2", "--images", "embedded", "--image-count", "64"];
    let outcome = place.json(&[&args[..], &["-o", "fitted.safetensors"]].concat());
    let fit = &outcome["fit"];
    assert_eq!((&fit["count"], &fit["held_out"]["count"]), (&56.into(), &8.into()), "{fit}");
    let sqnr = |of: &Value| of["sqnr_db"].as_f64().unwrap();
    assert!(sqnr(&fit["held_out"]["after"]) > sqnr(&fit["held_out"]["before"]) + 2.0, "{fit}");
    assert_eq!(fit["layers"].as_array().unwrap().len(), outcome["layers"].as_object().unwrap().len());
    // Other images say the same.
    let plain = ["quantize", "tiny.safetensors", "--bits", "2", "--images", "none", "-o", "plain.safetensors"];
    assert_eq!(place.json(&plain)["fit"], Value::Null);
    let scores = |file: &str| place.json(&["eval", file, "--limit", "64", "--against", "tiny.safetensors"]);
    assert!(sqnr(&scores("fitted.safetensors")) > sqnr(&scores("plain.safetensors")) + 2.0);
    // The same images, the same file.
    place.json(&[&args[..], &["-o", "again.safetensors"]].concat());
    let bytes = |file: &str| std::fs::read(place.path(file)).unwrap();
    assert!(bytes("fitted.safetensors") == bytes("again.safetensors"));

    let few = ["quantize", "tiny.safetensors", "--images", "embedded", "--image-count", "1", "-o", "few.dsc"];
    let fit = place.json(&few)["fit"].clone();
    assert_eq!((&fit["count"], &fit["drawn"], &fit["held_out"]), (&1.into(), &31.into(), &Value::Null));
    let ran = place.run(&["quantize", "tiny.safetensors", "--images", "nowhere", "-o", "no.dsc"]);
    assert!(ran.code == Some(1) || ran.code == Some(2), "{:?}", ran.code);
    assert!(ran.err.contains("nowhere") && !place.path("no.dsc").exists(), "{}", ran.err);
}

#[test]
fn quantize_fits_layers_on_pictures_that_are_made_where_there_are_no_images() {
    let place = Place::new();
    let sqnr = |name: &str, more: &[&str]| {
        let outcome = place.json(&[&["quantize", "tiny.safetensors", "--bits", "2", "-o", name], more].concat());
        let scores = place.json(&["eval", name, "--limit", "64", "--against", "tiny.safetensors"]);
        (outcome["fit"]["count"].clone(), scores["sqnr_db"].as_f64().unwrap())
    };
    let (none, plain) = sqnr("plain.safetensors", &["--images", "none"]);
    let (drawn, on_drawn) = sqnr("drawn.safetensors", &["--images", "drawn"]);
    let (made, on_made) = sqnr("made.safetensors", &[]);
    assert_eq!((&none, &drawn, &made), (&Value::Null, &32.into(), &32.into()));
    // On real images.
    assert!(on_drawn > plain + 1.0 && on_made > plain + 1.0, "{plain} {on_drawn} {on_made}");
    assert_eq!(sqnr("few.safetensors", &["--images", "drawn", "--image-count", "4"]).0, 4);
    let ran = place.run(&["quantize", "tiny.safetensors"]);
    assert!(ran.out.contains("layers fitted on 32 synthetic pictures"), "{}", ran.out);
}
