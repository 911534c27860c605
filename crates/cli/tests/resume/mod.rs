//! Runs that are killed, stopped and resumed.
use super::*;

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

/// This test runs with `DSCONV_SLOW=1 cargo test --release --workspace slow -- --nocapture`.
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
    place.write("configs/mine.toml", &RECIPE.replace("steps = 12", "steps = 100000\npatience = 0"));
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
        ran.err.trim_end().ends_with("error: stopped\n\nhint: `dsconv distill --resume run` goes on"),
        "{}",
        ran.err
    );
    assert!(ran.out.is_empty() && !place.path("run/model.safetensors").exists());
}

#[test]
fn a_run_goes_on_by_its_folder() {
    let place = Place::new();
    place.write("configs/mine.toml", RECIPE);
    let mut child = place.command(&["distill", "mine", "--out", "a run"]).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !place.path("a run/config.toml").exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let refused = place.run(&["distill", "a run"]);
    refused.refuses(
        2,
        "error: `a run` is a folder, not a TOML file\n\nhint: `dsconv distill --resume 'a run'` goes on with the run in it",
    );
    let ran = place.run(&["distill", "--resume", "a run", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(place.path("a run/report.html").is_file());
}

/// A fully connected layer of 16 million weights takes the better part of a minute at two bits by the slowest rule.
#[cfg(unix)]
#[test]
fn work_is_stopped_in_the_middle_of_a_layer() {
    let place = Place::new();
    let mut b = graph::Builder::new("large", graph::Shape::new(3, 32, 32));
    let x = b.push("flatten", graph::Op::Flatten, vec![b.input()]);
    b.linear("fc", 6000, x);
    let graph = b.finish().unwrap();
    let weights = Weights::init(&graph, 1);
    let info = Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: String::new() };
    let model = Model::float(graph, weights, info).unwrap();
    files::save(&model, place.path("large.safetensors"), &SaveOptions::default()).unwrap();
    let args = ["quantize", "large.safetensors", "--images", "none", "--rule", "balanced", "--bits", "8", "--json"];
    let child = place.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let begun = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    if ran.code == Some(0) {
        println!("SKIPPED: it was done before it was stopped");
        return;
    }
    assert_eq!((ran.code, ran.err.trim_end()), (Some(130), "error: stopped"));
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(document, serde_json::json!({ "error": "stopped", "hint": null, "status": 130 }));
    assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), 4, "no traces");
}
