//! Whole runs.
use super::*;

#[test]
fn a_run_measures_the_files_that_it_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let config = DistillConfig { adapt: settings(), seed: 5, ..DistillConfig::default() };
    let run = |folder: &Path, resume, context: &Context| {
        let folder = RunFolder::open(folder, resume)?;
        distilled(&teacher(), &adapt_images(), &Eval::Labelled(eval()), &config, &folder, context)
    };
    let report = run(&whole, false, &Context::default()).unwrap();
    assert_eq!(report.fp32.scores.agreement, 100.0);
    assert_eq!(report.fp32.scores.sqnr_db, None);
    assert!(report.adapted.scores.sqnr_db.unwrap() > report.quantized.scores.sqnr_db.unwrap());
    assert_eq!(report.adapted.bytes, fs::metadata(whole.join(RunFolder::MODEL)).unwrap().len());
    let stored = files::load(whole.join(RunFolder::MODEL)).unwrap();
    assert!(stored.is_quantized());
    let mut files: Vec<String> =
        fs::read_dir(&whole).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let expected = ["config.toml", "loss.csv", "metrics.json", "model.safetensors", "origin.json"];
    assert_eq!(files, [&expected[..], &["predictions.csv", "quantized.safetensors"]].concat());
    assert_eq!(report.chosen, Chosen::Adapted);
    let divergence = report.divergence.unwrap();
    assert!(divergence.adapted < divergence.quantized, "{divergence:?}");

    // Stopped in adaptation, then after its end, then finished: nothing is done twice, all is the same.
    let broken = folder.path().join("broken");
    assert!(matches!(run(&broken, false, &stopping_at(7 * 16)), Err(Error::Interrupted { .. })));
    let resumed = run(&broken, true, &Context::default()).unwrap();
    let without_costs = |report: &distill::Report| {
        let mut report = report.clone();
        report.stages.iter_mut().for_each(|stage| stage.cost = distill::Cost::default());
        report
    };
    assert_eq!(without_costs(&resumed), without_costs(&report));
    assert!(resumed.stages.iter().all(|stage| stage.cost.seconds > 0.0), "{:?}", resumed.stages);
    for file in [RunFolder::MODEL, RunFolder::PREDICTIONS] {
        assert_eq!(fs::read(broken.join(file)).unwrap(), fs::read(whole.join(file)).unwrap(), "{file}");
    }
    assert_eq!(run(&broken, true, &stopping_at(0)).unwrap(), resumed);
    assert!(matches!(run(&broken, false, &Context::default()), Err(Error::RunExists { .. })));
}

#[test]
fn a_run_is_not_resumed_with_other_images_or_weights() {
    let (pictures, measured, root) = (Pictures::new(40), Pictures::new(12), tempfile::tempdir().unwrap());
    let path = root.path().join("run");
    let config = DistillConfig { adapt: settings(), ..DistillConfig::default() };
    let run = |model: &Model, resume, context: &Context| {
        let folder = RunFolder::open(&path, resume)?;
        distilled(model, &pictures.unlabelled(), &Eval::Labelled(measured.labelled()), &config, &folder, context)
    };
    let refused = |model: &Model| match run(model, true, &Context::default()) {
        Err(Error::OtherRun { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert!(matches!(run(&teacher(), false, &stopping_at(7 * 16)), Err(Error::Interrupted { .. })));
    // Once stopped in adaptation, and once finished.
    for _ in 0..2 {
        pictures.paint(1, 50);
        pictures.paint(7, 51);
        assert_eq!(refused(&teacher()), "images to adapt to: 2 of 40 images changed, first dog/001.png");
        fs::remove_file(pictures.file(7)).unwrap();
        pictures.paint(1, 1);
        assert_eq!(refused(&teacher()), "images to adapt to: 1 of 40 images gone, first dog/007.png");
        pictures.paint(7, 7);
        pictures.paint(40, 9);
        assert_eq!(refused(&teacher()), "images to adapt to: 1 new, first cat/040.png");
        fs::remove_file(pictures.file(40)).unwrap();

        let moved = measured.0.path().join("dog/002.png");
        fs::rename(measured.file(2), &moved).unwrap();
        let what = refused(&teacher());
        assert!(what.starts_with("images to measure on: 1 of 12 images gone, first cat/002.png; 1 new"), "{what}");
        fs::rename(moved, measured.file(2)).unwrap();

        let mut other = teacher();
        other.values_mut("conv2.weight").unwrap()[3] += 1e-3;
        assert_eq!(refused(&other), "teacher: the network or its weights changed");
        let mut other = teacher();
        other.info_mut().classes = vec!["a".into()];
        assert_eq!(refused(&other), "teacher: the names of its classes, or how it takes images, changed");
        // With everything as it was, it goes on.
        run(&teacher(), true, &Context::default()).unwrap();
    }
}

#[test]
fn only_one_works_in_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let held = RunFolder::open(root.path(), false).unwrap();
    let error = run_adapt(root.path(), &settings(), true, &Context::default()).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    drop(held);
    assert!(fs::read_dir(root.path()).unwrap().next().is_none(), "a lock leaves nothing");
}

#[test]
fn images_without_labels_give_agreement_and_no_accuracy() {
    let root = tempfile::tempdir().unwrap();
    let config = DistillConfig { adapt: settings(), seed: 5, ..DistillConfig::default() };
    let run = |name: &str, eval: &Eval| {
        let folder = RunFolder::open(root.path().join(name), false).unwrap();
        distilled(&teacher(), &adapt_images(), eval, &config, &folder, &Context::default()).unwrap()
    };
    let labelled = run("labelled", &Eval::Labelled(eval()));
    let plain = run("plain", &Eval::Unlabelled(eval().without_labels()));
    for (with, without) in [(&labelled.adapted, &plain.adapted), (&labelled.quantized, &plain.quantized)] {
        assert!(with.scores.top1.is_some());
        let expected = distill::Scores { top1: None, top5: None, ..with.scores };
        assert_eq!(without.scores, expected);
    }
    // Labels have no part in the result.
    let model = |name: &str| fs::read(root.path().join(name).join(RunFolder::MODEL)).unwrap();
    assert_eq!(model("labelled"), model("plain"));
    let held = run("held", &Eval::HeldOut);
    assert_eq!((held.eval.as_str(), held.adapted.scores.count), ("embedded/adapt, held out", 24));
    let metrics = fs::read_to_string(root.path().join("held").join(RunFolder::METRICS)).unwrap();
    assert!(metrics.contains("\"top1\": null"), "{metrics}");
    assert_eq!(serde_json::from_str::<distill::Report>(&metrics).unwrap(), held);
}

#[test]
fn the_student_before_adaptation_is_exported_where_it_is_the_better_one() {
    let root = tempfile::tempdir().unwrap();
    // Layers fitted on three images say little about others, and no step makes up for it.
    let adapt =
        AdaptConfig { fit_images: 1, code_rate: 0.0, scale_rate: 0.0, learning_rate: 0.0, steps: 1, ..settings() };
    let policy: Policy = toml::from_str("bits = 8").unwrap();
    let config = DistillConfig { adapt, quantize: policy, ..DistillConfig::default() };
    let folder = RunFolder::open(root.path(), false).unwrap();
    let images = images::embedded_unlabelled().take(24);
    let report =
        distilled(&teacher(), &images, &Eval::Labelled(eval()), &config, &folder, &Context::default()).unwrap();
    let divergence = report.divergence.unwrap();
    assert!(divergence.adapted > divergence.quantized, "{divergence:?}");
    assert_eq!(report.chosen, Chosen::Quantized);
    let file = |name: &str| fs::read(root.path().join(name)).unwrap();
    assert_eq!(file(RunFolder::MODEL), file(RunFolder::QUANTIZED));
    assert_eq!(report.adapted.bytes, file(RunFolder::ADAPTED).len() as u64);
    // What the table says of either is what its file does.
    assert!(report.adapted.scores.sqnr_db < report.quantized.scores.sqnr_db);
}

#[test]
fn outputs_that_are_not_finite_are_no_score() {
    let root = tempfile::tempdir().unwrap();
    let mut broken = teacher();
    // Beyond F32 for most images.
    broken.values_mut("conv1.weight").unwrap().iter_mut().for_each(|w| *w *= 1e30);
    broken.values_mut("fc.weight").unwrap().iter_mut().for_each(|w| *w *= 1e30);
    let folder = RunFolder::open(root.path(), false).unwrap();
    let config = DistillConfig { adapt: settings(), ..DistillConfig::default() };
    let eval = Eval::Labelled(eval());
    let error = distilled(&broken, &adapt_images(), &eval, &config, &folder, &Context::default()).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    assert!(error.to_string().contains("`tiny` gives"), "{error}");
}
