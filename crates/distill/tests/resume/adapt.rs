//! Adaptation in a folder.
use super::*;

/// All values of a student, to be compared to the bit.
fn bits(adapted: &distill::Adapted) -> (usize, Vec<u32>, Vec<distill::Point>) {
    let model = &adapted.student;
    let floats = model.weights().tensors().flat_map(|t| t.data().to_vec());
    let layers = model.layers().values();
    let scales = layers.clone().flat_map(|l| l.codes.scales().to_vec());
    let codes = layers.flat_map(|l| l.codes.codes().iter().map(|&q| f32::from(q)).collect::<Vec<_>>());
    let bits = floats.chain(scales).chain(codes).map(f32::to_bits).collect();
    (adapted.best_step, bits, adapted.points.clone())
}

#[test]
fn a_resumed_adaptation_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    // Layers fitted on a few images leave something to learn.
    let settings = || AdaptConfig { fit_images: 8, ..settings() };
    let whole = folder.path().join("whole");
    let unbroken = run_adapt(&whole, &settings(), false, &Context::default()).unwrap();
    assert_eq!(unbroken.points.len(), 5);
    assert!(unbroken.best_step > 0, "{:?}", unbroken.points);

    // 16 images a step: stopped in step 8, after the second checkpoint and before the third.
    let broken = folder.path().join("broken");
    let stopped = run_adapt(&broken, &settings(), false, &stopping_at(8 * 16));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
    let checkpoints = broken.join("checkpoints");
    assert!(checkpoints.join("000002/state.json").exists());
    assert!(!checkpoints.join("000003").exists());

    // What a kill may leave: a newer checkpoint without its end, and a file that is cut.
    fs::create_dir(checkpoints.join("000003")).unwrap();
    fs::write(checkpoints.join("000003/model.bpk"), b"garbage").unwrap();
    fs::write(checkpoints.join("000002/.dsconv-123.tmp"), b"").unwrap();
    fs::write(broken.join(".dsconv-456.tmp"), b"").unwrap();
    let resumed = run_adapt(&broken, &settings(), true, &Context::default()).unwrap();
    assert_eq!(bits(&resumed), bits(&unbroken));
    let csv = |folder: &Path| fs::read_to_string(folder.join("loss.csv")).unwrap();
    assert_eq!(csv(&broken), csv(&whole));
    assert_eq!(csv(&whole).lines().count(), 1 + 1 + 12);
    let left =
        |folder: &Path| fs::read_dir(folder).unwrap().any(|f| f.unwrap().file_name().as_encoded_bytes()[0] == b'.');
    assert!(!left(&broken) && !left(&checkpoints.join("000004")), "unfinished files are removed");

    // Once more, from the last checkpoint but one, as its successor is damaged.
    fs::write(checkpoints.join("000004/optimizer.bpk"), b"damaged").unwrap();
    let repaired = run_adapt(&broken, &settings(), true, &Context::default()).unwrap();
    assert_eq!(bits(&repaired), bits(&unbroken));
}

#[test]
fn taps_and_recomputed_scales_train_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = AdaptConfig {
        scale_update: dsconv::ScaleUpdate::Recomputed,
        feature_weight: 1.0,
        features: vec!["relu?".into()],
        steps: 5,
        ..settings()
    };
    let adapted = run_adapt(folder.path(), &config, false, &Context::default()).unwrap();
    // The last checkpoint comes after what is left of its three steps.
    assert_eq!(adapted.points.iter().map(|p| p.step).collect::<Vec<_>>(), [0, 3, 5]);
    let wrong = AdaptConfig { features: vec!["rule*".into()], ..config };
    let error = run_adapt(&folder.path().join("wrong"), &wrong, false, &Context::default()).unwrap_err();
    assert!(error.to_string().contains("`rule*`, which no node of `tiny` matches"), "{error}");
}

#[test]
fn batch_statistics_are_the_students_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut moved = teacher();
    // Statistics of other images than those to adapt to.
    moved.values_mut("bn1.running_mean").unwrap().fill(1.0);
    moved.values_mut("bn1.running_var").unwrap().fill(9.0);
    let largest_mean = |batch_norm: distill::BatchNormPolicy| {
        // Fitting layers would give them the teacher's means again.
        let config = AdaptConfig { steps: 1, batch_norm, fit_images: 0, ..settings() };
        let images = adapt_images();
        let folder = RunFolder::open(folder.path().join(format!("{batch_norm:?}")), false).unwrap();
        let context = Context::default();
        let found = adapted(&moved, &Policy::default(), &images, &config, &folder, &context).unwrap();
        let student = dsconv::Network::new(&found.student, &context.device);
        let (_, taps) = student.forward_taps(
            burn::tensor::Tensor::from_data(
                burn::tensor::TensorData::new(
                    images.batch(&(0..96).collect::<Vec<_>>()).unwrap().pixels,
                    [96, 3, 32, 32],
                ),
                &context.device,
            ),
            &[student.graph().find("conv1").unwrap()],
        );
        let means = taps[0].clone().mean_dim(0).mean_dim(2).mean_dim(3).try_into_vec_as::<f32>().unwrap();
        means.iter().map(|m| m.abs()).fold(0.0, f32::max)
    };
    // Normalised values have the mean 0 on the images that the statistics are of, but for what a running average misses.
    let [fold, own] = [distill::BatchNormPolicy::Fold, distill::BatchNormPolicy::Reestimate].map(largest_mean);
    assert!(fold > 0.3 && own < 0.2 && own < fold / 2.0, "{fold} {own}");
}

#[test]
fn a_student_that_only_gets_worse_is_not_returned() {
    let folder = tempfile::tempdir().unwrap();
    let config = AdaptConfig { code_rate: 30.0, learning_rate: 3.0, clip: 0.0, patience: 2, ..settings() };
    let adapted = run_adapt(folder.path(), &config, false, &Context::default()).unwrap();
    assert_eq!(adapted.best_step, 0, "{:?}", adapted.points);
    // Two checkpoints without a better one end it.
    assert_eq!(adapted.points.len(), 3);
    // A resume finds it ended.
    let again = run_adapt(folder.path(), &config, true, &Context::default()).unwrap();
    assert_eq!(bits(&again), bits(&adapted));
}

#[test]
fn a_loss_that_is_out_of_all_bounds_ends_training_and_keeps_the_best_step() {
    let folder = tempfile::tempdir().unwrap();
    for (name, learning_rate) in [("no number", 1e38), ("a number", 1e12)] {
        let path = folder.path().join(name);
        let config = AdaptConfig { learning_rate, warmup: 0, clip: 0.0, ..settings() };
        let adapted = run_adapt(&path, &config, false, &Context::default()).unwrap();
        assert!(matches!(adapted.diverged_at, Some(2..=3)), "{name}: {:?}", adapted.diverged_at);
        assert_eq!(adapted.best_step, 0);
        assert!(adapted.points.iter().all(|point| point.loss.is_finite()));
        // It happens again, and the table tells how.
        assert_eq!(bits(&run_adapt(&path, &config, true, &Context::default()).unwrap()), bits(&adapted));
        let log = fs::read_to_string(path.join("loss.csv")).unwrap();
        let last = log.lines().last().unwrap().split(',').nth(2).unwrap().parse::<f32>().unwrap();
        assert!(last.is_nan() || last > 1e4, "{log}");
    }
}

#[test]
fn a_folder_is_not_overwritten_and_not_resumed_with_other_settings() {
    let folder = tempfile::tempdir().unwrap();
    let config = AdaptConfig { steps: 3, ..settings() };
    run_adapt(folder.path(), &config, false, &Context::default()).unwrap();
    let again = run_adapt(folder.path(), &config, false, &Context::default()).unwrap_err();
    assert!(matches!(again, Error::RunExists { .. }), "{again}");
    let other = AdaptConfig { temperature: 3.0, ..config };
    let error = run_adapt(folder.path(), &other, true, &Context::default()).unwrap_err();
    assert!(
        error.to_string().contains("its settings: `temperature = 3.0` differs from its `temperature = "),
        "{error}"
    );
}

#[test]
fn images_must_fit_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let mut b = Builder::new("other", graph::Shape::new(3, 16, 16));
    let x = b.push("flatten", Op::Flatten, vec![b.input()]);
    b.linear("fc", 2, x);
    let graph = b.finish().unwrap();
    let weights = Weights::init(&graph, 0);
    let teacher = Model::float(graph, weights, teacher().info().clone()).unwrap();
    let error = adapted(
        &teacher,
        &Policy::default(),
        &adapt_images(),
        &settings(),
        &RunFolder::open(folder.path().join("run"), false).unwrap(),
        &Context::default(),
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "embedded/adapt: its images are 3x32x32, `other` takes 3x16x16");
    assert!(!folder.path().join("run").exists(), "nothing is begun");
}

#[test]
fn layers_fitted_to_the_teacher_say_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let policy: Policy = toml::from_str("bits = 2\nactivation = { bits = 3 }").unwrap();
    let run = |name: &str, fit_images: usize, resume: bool| {
        let config = AdaptConfig { steps: 1, code_rate: 0.0, scale_rate: 0.0, learning_rate: 0.0, ..settings() };
        let config = AdaptConfig { fit_images, ..config };
        let (path, context) = (RunFolder::open(folder.path().join(name), resume).unwrap(), Context::default());
        adapted(&teacher(), &policy, &adapt_images(), &config, &path, &context).unwrap()
    };
    // Rates of 0: what differs is the fit. The images held out are not those it was made on.
    let (plain, fitted) = (run("plain", 0, false), run("fitted", 72, false));
    let divergence = |adapted: &distill::Adapted| adapted.points[0].loss;
    assert!(divergence(&fitted) < 0.5 * divergence(&plain), "{:?} {:?}", fitted.points, plain.points);

    // Where a kill left neither checkpoint nor fit, the fit is made again; where it left a fit alone, a resume takes that.
    let broken = folder.path().join("broken");
    fs::create_dir_all(broken.join("checkpoints")).unwrap();
    for file in ["adapt.toml", "origin.json"] {
        fs::copy(folder.path().join("fitted").join(file), broken.join(file)).unwrap();
    }
    assert_eq!(bits(&run("broken", 72, true)), bits(&fitted));
    let fit = fs::read(broken.join("checkpoints/fitted.bpk")).unwrap();
    for entry in fs::read_dir(broken.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            fs::remove_dir_all(entry).unwrap();
        }
    }
    assert_eq!(bits(&run("broken", 72, true)), bits(&fitted));
    assert_eq!(fs::read(broken.join("checkpoints/fitted.bpk")).unwrap(), fit);
}
