//! Run folders: what they hold, who works in them, and what a resume notices.
use super::*;

/// Twelve steps on pictures in `pictures/adapt`, measured on those in `pictures/eval`.
const ON_PICTURES: &str = "\
model = \"../tiny.safetensors\"
[data]
adapt = \"../pictures/adapt\"
eval = \"../pictures/eval\"
[adapt]
steps = 12
checkpoint_every = 3
batch = 8
held_out = 12
";

fn with_pictures() -> Place {
    let place = Place::new();
    place.json(&["data", "make", "pictures", "--limit", "48"]);
    place.write("configs/mine.toml", ON_PICTURES);
    place
}

/// Waits for a file of a command that runs.
fn until(path: &Path) {
    let begun = Instant::now();
    while !path.exists() && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(path.exists(), "{}", path.display());
}

#[test]
fn a_second_process_is_kept_out_and_a_killed_one_is_not_missed() {
    let place = with_pictures();
    let endless = ["distill", "mine", "--set", "adapt.steps=100000", "--set", "adapt.patience=0", "--out", "run"];
    let mut first = place.command(&endless).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until(&place.path("run/loss.csv"));
    let busy =
        "error: `run` is in use by another process\n\nhint: wait until it ends, or choose another folder with `--out`";
    for how in [&["--resume"][..], &["--force"], &[]] {
        place.run(&[&endless[..], how].concat()).refuses(1, busy);
    }
    place.write("configs/teacher.toml", "model = { name = \"resnet20\", classes = 16, width = 0.25 }\n");
    place.run(&["train", "teacher", "--out", "run", "--force"]).refuses(1, busy);
    assert!(place.path("run/loss.csv").exists());
    first.kill().unwrap();
    first.wait().unwrap();
    let ran = place.run(&["distill", "mine", "--out", "run", "--force"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn a_resume_notices_what_changed() {
    let place = with_pictures();
    place.json(&["distill", "mine", "--out", "run"]);
    let resume = ["distill", "mine", "--out", "run", "--resume"];
    let finished = place.json(&resume);
    assert_eq!(finished["adapt"], "adapt");
    let refused = |what: &str| {
        let ran = place.run(&resume);
        assert_eq!(ran.code, Some(2));
        assert!(ran.err.contains(&format!("error: `run` holds another run: {what}")), "{}", ran.err);
    };
    let image = |i: usize| place.path(&format!("pictures/adapt/{i:05}.png"));
    let original = std::fs::read(image(3)).unwrap();
    std::fs::copy(image(4), image(3)).unwrap();
    refused("images to adapt to: 1 of 48 images changed, first 00003.png");
    std::fs::remove_file(image(3)).unwrap();
    refused("images to adapt to: 1 of 48 images gone, first 00003.png");
    std::fs::write(image(3), original).unwrap();

    let mut other = tiny().clone();
    other.values_mut("conv1.weight").unwrap()[0] += 0.25;
    files::save(&other, place.path("tiny.safetensors"), &SaveOptions::default()).unwrap();
    refused("teacher: the network or its weights changed");
    files::save(tiny(), place.path("tiny.safetensors"), &SaveOptions::default()).unwrap();
    let again = place.json(&resume);
    assert_eq!(again["adapted"], finished["adapted"]);
}

#[test]
fn a_training_that_was_killed_goes_on_by_its_folder() {
    let place = Place::new();
    let config =
        "model = { name = \"resnet20\", classes = 16, width = 0.25 }\n[data]\ntrain_images = 256\neval_images = 64\n";
    place.write("configs/teacher.toml", &format!("{config}[train]\nepochs = 3\n"));
    let mut first = place.command(&["train", "teacher", "--out", "run"]);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until(&place.path("run/log.csv"));
    first.kill().unwrap();
    first.wait().unwrap();
    let unbroken = place.json(&["train", "teacher", "--out", "unbroken"]);
    let gone_on = place.run(&["train", "--resume", "run", "--json"]);
    assert_eq!(gone_on.code, Some(0), "{}", gone_on.err);
    let gone_on: Value = serde_json::from_str(&gone_on.out).unwrap();
    assert_eq!((&gone_on["run"], &gone_on["top1"]), (&"run".into(), &unbroken["top1"]));
}

#[test]
fn the_commands_of_a_dsc_file_take_a_run() {
    let place = with_pictures();
    place.json(&["distill", "mine", "--out", "all/run"]);
    for command in ["bench", "verify"] {
        let found = place.json(&[command, "all/run"]);
        let file = found.get("path").or(found.get("model")).unwrap();
        assert_eq!(file, "all/run/model.dsc");
    }
    let again = place.run(&["distill", "--resume", "all/run"]);
    assert!(again.code == Some(0) && again.err.contains("the run in all/run is finished"), "{}", again.err);
    let begun = place.run(&["distill", "mine", "--resume", "--out", "tipo"]);
    assert!(begun.err.contains("warning: there is no run in tipo to resume: a new one begins there"), "{}", begun.err);
    let ran = place.run(&["compare", "all"]);
    assert!(ran.err.contains("that is no run, but a folder of 1: `dsconv compare all/run`"), "{}", ran.err);
}

#[test]
fn images_without_labels_are_measured_on_all_the_same() {
    let place = with_pictures();
    let run = |args: &[&str]| {
        let ran = place.run(&[&["distill", "mine", "--json"], args].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        (serde_json::from_str::<Value>(&ran.out).unwrap(), ran.err)
    };
    let (labelled, _) = run(&["--out", "labelled"]);
    let (plain, said) = run(&["--out", "plain", "--set", "data.eval=pictures/adapt"]);
    assert!(said.contains("has no labels: agreement and SQNR are measured, accuracy is not"), "{said}");
    for network in ["fp32", "quantized", "adapted"] {
        assert_eq!((&plain[network]["top1"], &plain[network]["top5"]), (&Value::Null, &Value::Null));
        assert!(plain[network]["agreement"].is_number() && labelled[network]["top1"].is_number());
    }
    // Nothing named: what was held out is measured on, and said.
    place.write("configs/mine.toml", &ON_PICTURES.replace("eval = \"../pictures/eval\"\n", ""));
    let (held, said) = run(&["--out", "held"]);
    assert_eq!((&held["eval"], &held["adapted"]["count"]), (&Value::from("adapt, held out"), &Value::from(12)));
    assert!(said.contains("the ones held out of `data.adapt` are measured on"), "{said}");

    let table = place.run(&["compare", "labelled", "plain"]).out;
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert_eq!(row("plain").split_whitespace().skip(1).take(5).collect::<Vec<_>>(), ["-"; 5], "{table}");
    assert!(!row("labelled").contains(" - "), "{table}");
}

#[test]
fn wrong_settings_are_told_before_the_work_and_cost_nothing() {
    let place = with_pictures();
    place.json(&["distill", "mine", "--out", "run"]);
    let files = || {
        let mut names: Vec<_> = std::fs::read_dir(place.path("run")).unwrap().map(|f| f.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = files();
    let wrong = [
        ["adapt.feature_weight=1.0", "adapt.features=[\"rule*\"]"],
        ["adapt.batch=0", "adapt.steps=1"],
        ["quantize.bits=9", "adapt.steps=1"],
        ["data.adapt=nowhere", "adapt.steps=1"],
    ];
    for [one, two] in wrong {
        for folder in ["run", "other/new"] {
            let ran = place.run(&["distill", "mine", "--set", one, "--set", two, "--out", folder, "--force"]);
            assert_eq!(ran.code, Some(2), "{one}: {}", ran.err);
        }
        assert!(!place.path("other").exists(), "{one}");
        assert_eq!(files(), before, "{one}");
    }
    place.write("configs/teacher.toml", "model = { name = \"resnet20\", classes = 16, width = 0.25 }\n");
    for wrong in ["train.epochs=0", "train.weight_decay=-1.0", "data.train=nowhere"] {
        let ran = place.run(&["train", "teacher", "--set", wrong, "--out", "other/new"]);
        assert_eq!(ran.code, Some(2), "{wrong}: {}", ran.err);
        assert!(!place.path("other").exists(), "{wrong}");
    }
}

#[cfg(unix)]
#[test]
fn files_of_a_run_have_the_mode_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let place = with_pictures();
    place.json(&["distill", "mine", "--out", "run"]);
    place.write("plain", "");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    let mut count = 0;
    for file in std::fs::read_dir(place.path("run")).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), mode(&place.path("plain")), "{}", path.display());
        count += 1;
    }
    // config, origin, metrics, loss, predictions, report, and three models.
    assert_eq!(count, 9);
}

/// Runs a command on a terminal of its own, with these keys typed once the dashboard is there.
#[cfg(target_os = "linux")]
fn on_a_terminal(place: &Place, args: &[&str], keys: &[u8]) -> Option<(Option<i32>, String)> {
    use std::io::{Read, Write};
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: needs `script` of util-linux");
        return None;
    }
    let typed = place.command(args);
    let words = typed.get_args().map(|word| format!(" '{}'", word.to_str().unwrap()));
    let line =
        format!("stty rows 40 cols 120; '{}'{}", typed.get_program().to_str().unwrap(), words.collect::<String>());
    let mut child = Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .current_dir(place.folder.path())
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut shown, mut part, mut keys) = (Vec::new(), [0; 4096], keys.iter());
    while let Ok(count @ 1..) = from.read(&mut part) {
        shown.extend_from_slice(&part[..count]);
        // Each is typed after something was drawn.
        if String::from_utf8_lossy(&shown).contains("Controls")
            && let Some(&key) = keys.next()
        {
            std::thread::sleep(Duration::from_millis(300));
            to.write_all(&[key]).unwrap();
        }
    }
    Some((child.wait().unwrap().code(), String::from_utf8_lossy(&shown).into_owned()))
}

/// What opens the other screen of a terminal, and what closes it.
#[cfg(target_os = "linux")]
const SCREEN: [&str; 2] = ["\u{1b}[?1049h", "\u{1b}[?1049l"];

#[cfg(target_os = "linux")]
#[test]
fn a_dashboard_shows_training_and_changes_no_bit() {
    let place = Place::new();
    place.write("configs/mine.toml", RECIPE);
    place.json(&["distill", "mine", "--out", "plain"]);
    let Some((code, shown)) = on_a_terminal(&place, &["distill", "mine", "--out", "shown", "--tui"], b"") else {
        return;
    };
    assert_eq!(code, Some(0), "{shown}");
    let at = SCREEN.map(|part| shown.find(part).unwrap_or_else(|| panic!("{part:?} in {shown}")));
    assert!(at[0] < at[1] && shown[at[1]..].contains("top-1"), "the table comes after it: {shown}");
    assert!(shown[at[0]..at[1]].contains("Controls") && shown[at[0]..at[1]].contains("Loss"), "{shown}");
    let model = |run: &str| std::fs::read(place.path(run).join("model.safetensors")).unwrap();
    assert!(model("plain") == model("shown"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_dashboard_is_left_by_its_keys_and_by_ctrl_c() {
    let place = Place::new();
    place.write("configs/mine.toml", &RECIPE.replace("steps = 12", "steps = 100000\npatience = 0"));
    for (keys, run) in [(&b"qs"[..], "stopped"), (b"qk", "ended"), (b"\x03", "interrupted")] {
        let args = ["distill", "mine", "--out", run, "--tui"];
        let Some((code, shown)) = on_a_terminal(&place, &args, keys) else { return };
        assert_eq!(code, Some(130), "{run}: {shown}");
        let after = &shown[shown.rfind(SCREEN[1]).unwrap()..];
        assert!(after.contains(&format!("`dsconv distill --resume {run}` goes on")), "{run}: {shown}");
    }
}

#[test]
fn a_dashboard_needs_a_terminal() {
    let place = Place::new();
    place.write("configs/mine.toml", RECIPE);
    let ran = place.run(&["distill", "mine", "--tui"]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("`--tui` needs a terminal"), "{}", ran.err);
}
