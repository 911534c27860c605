//! Configs: new ones, and mistakes in them, which are pointed at.
use super::*;

#[test]
fn a_new_config_is_a_config() {
    let place = Place::new();
    let written = place.json(&["config", "new", "mine.toml", "--model", "tiny.safetensors"]);
    assert_eq!(written["command"], "dsconv distill mine.toml");
    let little = [
        "data.adapt=embedded",
        "data.limit=64",
        "data.eval_limit=32",
        "adapt.steps=1",
        "adapt.held_out=8",
        "adapt.fit_images=0",
    ];
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
fn configs_name_a_schema_that_is_the_present_one() {
    let place = Place::new();
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    for (kind, args) in [("distill", &["config", "schema"][..]), ("train", &["config", "schema", "--train"])] {
        let printed = place.run(args).out;
        let path = configs.join(format!("{kind}.schema.json"));
        if std::env::var_os("DSCONV_BLESS").is_some() {
            std::fs::write(&path, &printed).unwrap();
        }
        assert!(std::fs::read_to_string(&path).unwrap() == printed, "`dsconv {}` prints another one", args.join(" "));
    }
    let mut count = 0;
    for recipe in place.json(&["config", "list"]).as_array().unwrap() {
        let name = recipe["name"].as_str().unwrap();
        let path = configs.join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let schema = text.lines().next().unwrap().strip_prefix("#:schema ").unwrap_or_else(|| panic!("{name}"));
        let kind = recipe["for"].as_str().or(recipe["command"].as_str()).unwrap();
        assert!(
            path.parent().unwrap().join(schema).is_file() && schema.ends_with(&format!("{kind}.schema.json")),
            "{name}"
        );
        count += 1;
    }
    assert!(count > 20, "{count}");
}

#[test]
fn a_key_is_explained_with_what_recipes_make_of_it() {
    let place = Place::new();
    place.write("configs/mine.toml", "model = \"tiny.safetensors\"\nadapt.code_rate = 2e-3\n");
    let explained = place.json(&["config", "explain", "adapt.code_rate"]);
    assert_eq!(explained["default"], 0.01);
    assert_eq!(explained["set_by"]["mine"], 2e-3);
    let ran = place.run(&["config", "explain", "adapt.code_rate"]);
    assert!(
        ran.out.contains("recipes  0.002 in mine") && ran.out.contains("--set 'adapt.code_rate=VALUE'"),
        "{}",
        ran.out
    );
    assert!(ran.out.lines().all(|line| line.len() <= 80), "{}", ran.out);
    let ran = place.run(&["config", "explain", "adapt.coderate"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("did you mean `adapt.code_rate`?"), "{}", ran.err);
}

#[test]
fn shells_and_man_know_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = place.run(&["completions", shell]);
        assert_eq!(ran.code, Some(0), "{shell}: {}", ran.err);
        assert!(ran.out.contains("quantize") && ran.out.contains("image-bits"), "{shell}");
        let recipes = ran.out.contains("resnet50_4bit") || ["elvish", "powershell"].contains(&shell);
        assert!(recipes && (shell != "zsh" || ran.out.contains("files:file:_files")), "{shell}: {}", ran.out);
    }
    assert!(place.run(&["man"]).out.contains(".TH dsconv 1"));
    assert_eq!(place.run(&["man", "pages"]).code, Some(0));
    for page in ["dsconv", "dsconv-quantize", "dsconv-config-keys"] {
        let text = std::fs::read_to_string(place.path("pages").join(format!("{page}.1"))).unwrap();
        assert!(text.contains(&format!(".TH {page} 1")), "{page}");
    }
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

hint: did you mean `bits`? the keys here are `bits`, `block`, `rule`, `scales`, `linear`, `activation`, `image_bits`, `image_sum`, `winograd`, `rules`",
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
         hint: `--set model=resnet50-embedded`, or in the file `model = \"resnet50-embedded\"` above all tables; \
         `dsconv config keys` lists all keys",
    );
}
