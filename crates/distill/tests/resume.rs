//! A run that was stopped anywhere and resumed ends with the same bits as one that was not.
use std::fs;
use std::path::Path;
use std::sync::Arc;

use distill::{AdaptConfig, Augment, Context, DistillConfig, Error, Interrupter, Progress, TrainConfig};
use graph::{Builder, Conv2d, Graph, Info, Model, Op, Policy, Weights};
use images::{Labelled, Split, Unlabelled};

/// 3x3 conv, 8, /4 with batch normalisation, then 3x3 conv, 16, then the classifier: enough to have all kinds of layers.
fn tiny() -> Graph {
    let mut b = Builder::new("tiny", graph::Shape::new(3, 32, 32));
    let x = b.conv("conv1", Conv2d::new(3, 8, 3).stride(4).padding(1), b.input());
    let x = b.batch_norm("bn1", 1e-5, x);
    let x = b.relu("relu1", x);
    let x = b.conv("conv2", Conv2d::new(8, 16, 3).stride(2).padding(1), x);
    let x = b.relu("relu2", x);
    let x = b.push("drop", Op::Dropout { p: 0.1 }, vec![x]);
    let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("fc", 16, x);
    b.finish().unwrap()
}

fn teacher() -> Model {
    let graph = tiny();
    let mut weights = Weights::init(&graph, 1);
    // Logits that are far apart: quantization then shows.
    weights.0.get_mut("fc.weight").unwrap().data_mut().iter_mut().for_each(|w| *w *= 20.0);
    let info = Info { preprocess: images::embedded_preprocess(), classes: vec![], source: "a test".into() };
    Model::float(graph, weights, info).unwrap()
}

fn eval() -> Labelled {
    images::embedded(Split::Eval).take(64)
}

fn adapt_images() -> Unlabelled {
    images::embedded_unlabelled().take(96)
}

fn settings() -> AdaptConfig {
    AdaptConfig {
        steps: 12,
        batch: 16,
        checkpoint_every: 3,
        held_out: 24,
        patience: 0,
        warmup: 2,
        code_rate: 0.05,
        augment: Augment { shift: 1, flip: false },
        ..AdaptConfig::default()
    }
}

/// Stops when so many images were trained on.
struct StopAt {
    images: usize,
    interrupter: Interrupter,
}

impl Progress for StopAt {
    fn start(&self, phase: &str, _: usize) {
        if phase != "adapt" && phase != "train" {
            assert!(!self.interrupter.should_stop(), "stopped before {phase}");
        }
    }

    fn advance(&self, done: usize, _: &str) {
        // Only training counts beyond the sets' sizes.
        if done >= self.images {
            self.interrupter.stop(Some("the test"));
        }
    }
}

fn stopping_at(images: usize) -> Context {
    let context = Context::default();
    let interrupter = context.interrupter.clone();
    Context { progress: Arc::new(StopAt { images, interrupter }), ..context }
}

fn run_adapt(folder: &Path, config: &AdaptConfig, resume: bool, context: &Context) -> Result<distill::Adapted, Error> {
    distill::adapt(&teacher(), &Policy::default(), &adapt_images(), config, 5, folder, resume, context)
}

/// All values of a student, to be compared to the bit.
fn bits(adapted: &distill::Adapted) -> (usize, Vec<u32>, Vec<distill::Point>) {
    let info = teacher().info;
    let model = adapted.student.to_model(info);
    let floats = model.weights.0.values().flat_map(|t| t.data().to_vec());
    let layers = model.layers.values();
    let scales = layers.clone().flat_map(|l| l.codes.scales().to_vec());
    let codes = layers.flat_map(|l| l.codes.codes().iter().map(|&q| f32::from(q)).collect::<Vec<_>>());
    let bits = floats.chain(scales).chain(codes).map(f32::to_bits).collect();
    (adapted.best_step, bits, adapted.points.clone())
}

#[test]
fn a_resumed_adaptation_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
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
    fs::write(checkpoints.join("000003/.tmp123"), b"").unwrap();
    let resumed = run_adapt(&broken, &settings(), true, &Context::default()).unwrap();
    assert_eq!(bits(&resumed), bits(&unbroken));
    let csv = |folder: &Path| fs::read_to_string(folder.join("loss.csv")).unwrap();
    assert_eq!(csv(&broken), csv(&whole));
    assert_eq!(csv(&whole).lines().count(), 1 + 1 + 12);

    // Once more, from the last checkpoint but one, as its successor is damaged.
    fs::write(checkpoints.join("000004/optimizer.bpk"), b"damaged").unwrap();
    let repaired = run_adapt(&broken, &settings(), true, &Context::default()).unwrap();
    assert_eq!(bits(&repaired), bits(&unbroken));
}

#[test]
fn taps_and_recomputed_scales_train_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = AdaptConfig {
        scales: distill::Scales::Recomputed,
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
    moved.weights.0.get_mut("bn1.running_mean").unwrap().data_mut().fill(1.0);
    moved.weights.0.get_mut("bn1.running_var").unwrap().data_mut().fill(9.0);
    let largest_mean = |batch_norm: distill::BatchNormPolicy| {
        // Fitting layers would give them the teacher's means again.
        let config = AdaptConfig { steps: 1, batch_norm, fit_images: 0, ..settings() };
        let images = adapt_images();
        let folder = folder.path().join(format!("{batch_norm:?}"));
        let context = Context::default();
        let adapted =
            distill::adapt(&moved, &Policy::default(), &images, &config, 5, &folder, false, &context).unwrap();
        let (_, taps) = adapted.student.forward_taps(
            burn::tensor::Tensor::from_data(
                burn::tensor::TensorData::new(
                    images.batch(&(0..96).collect::<Vec<_>>()).unwrap().pixels,
                    [96, 3, 32, 32],
                ),
                &context.device,
            ),
            &[adapted.student.graph().find("conv1").unwrap()],
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
fn a_loss_that_is_no_number_is_an_error_with_its_step() {
    let folder = tempfile::tempdir().unwrap();
    let config = AdaptConfig { learning_rate: 1e38, warmup: 0, clip: 0.0, ..settings() };
    let error = run_adapt(folder.path(), &config, false, &Context::default()).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 2..=3, .. }), "{error}");
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
    assert!(error.to_string().contains("its `temperature = 3.0` differs"), "{error}");
}

fn run_train(folder: &Path, resume: bool, context: &Context) -> Result<distill::Trained, Error> {
    let config = TrainConfig { epochs: 3, batch: 64, monitor: 64, label_smoothing: 0.1, ..TrainConfig::default() };
    let train = images::embedded(Split::Train).take(256);
    let preprocess = images::embedded_preprocess();
    distill::train(&tiny(), None, &train, &eval(), &preprocess, &config, folder, resume, context)
}

#[test]
fn a_resumed_training_ends_with_the_same_bits_and_learns() {
    let folder = tempfile::tempdir().unwrap();
    let unbroken = run_train(&folder.path().join("whole"), false, &Context::default()).unwrap();
    let broken = folder.path().join("broken");
    let stopped = run_train(&broken, false, &stopping_at(256 + 128));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
    let resumed = run_train(&broken, true, &Context::default()).unwrap();
    assert_eq!(resumed.model.weights, unbroken.model.weights);

    let log = fs::read_to_string(broken.join("log.csv")).unwrap();
    assert_eq!(log, fs::read_to_string(folder.path().join("whole/log.csv")).unwrap());
    let losses: Vec<f32> = log.lines().skip(1).map(|row| row.split(',').nth(2).unwrap().parse().unwrap()).collect();
    assert_eq!(losses.len(), 12);
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    assert!(mean(&losses[8..]) < mean(&losses[..4]) - 0.01, "{losses:?}");
    assert_eq!(resumed.model.info.classes.len(), 16);
}

#[test]
fn a_run_measures_the_files_that_it_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let config = DistillConfig { adapt: settings(), seed: 5, ..DistillConfig::default() };
    let run = |folder: &Path, resume, context: &Context| {
        distill::run(&teacher(), &adapt_images(), &eval(), &config, folder, resume, context)
    };
    let report = run(&whole, false, &Context::default()).unwrap();
    assert_eq!(report.fp32.scores.agreement, 100.0);
    assert_eq!(report.fp32.scores.sqnr_db, None);
    assert!(report.adapted.scores.sqnr_db.unwrap() > report.quantized.scores.sqnr_db.unwrap());
    assert_eq!(report.adapted.bytes, fs::metadata(whole.join(distill::MODEL)).unwrap().len());
    let stored = Model::load(whole.join(distill::MODEL)).unwrap();
    assert!(stored.is_quantized());
    let mut files: Vec<String> =
        fs::read_dir(&whole).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let expected = ["adapt.toml", "config.toml", "loss.csv", "metrics.json", "model.safetensors"];
    assert_eq!(files, [&expected[..], &["quantized.safetensors", "student.bpk"]].concat());

    // Stopped in adaptation, then after its end, then finished: nothing is done twice, all is the same.
    let broken = folder.path().join("broken");
    assert!(matches!(run(&broken, false, &stopping_at(7 * 16)), Err(Error::Interrupted { .. })));
    let resumed = run(&broken, true, &Context::default()).unwrap();
    assert_eq!(resumed, report);
    assert_eq!(fs::read(broken.join(distill::MODEL)).unwrap(), fs::read(whole.join(distill::MODEL)).unwrap());
    assert_eq!(run(&broken, true, &stopping_at(0)).unwrap(), report);
    assert!(matches!(run(&broken, false, &Context::default()), Err(Error::RunExists { .. })));
}

#[test]
fn images_must_fit_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let mut teacher = teacher();
    let mut b = Builder::new("other", graph::Shape::new(3, 16, 16));
    let x = b.push("flatten", Op::Flatten, vec![b.input()]);
    b.linear("fc", 2, x);
    teacher.graph = b.finish().unwrap();
    teacher.weights = Weights::init(&teacher.graph, 0);
    let error = distill::adapt(
        &teacher,
        &Policy::default(),
        &adapt_images(),
        &settings(),
        0,
        folder.path(),
        false,
        &Context::default(),
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "embedded/adapt: its images are 3x32x32, `other` takes 3x16x16");
}

#[test]
fn layers_fitted_to_the_teacher_say_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let policy: Policy = toml::from_str("bits = 2\nactivation = { bits = 3 }").unwrap();
    let run = |name: &str, fit_images: usize, resume: bool| {
        let config = AdaptConfig { steps: 1, code_rate: 0.0, scale_rate: 0.0, learning_rate: 0.0, ..settings() };
        let config = AdaptConfig { fit_images, ..config };
        let (path, context) = (folder.path().join(name), Context::default());
        distill::adapt(&teacher(), &policy, &adapt_images(), &config, 5, &path, resume, &context).unwrap()
    };
    // Rates of 0: what differs is the fit. The images held out are not those it was made on.
    let (plain, fitted) = (run("plain", 0, false), run("fitted", 72, false));
    let divergence = |adapted: &distill::Adapted| adapted.points[0].loss;
    assert!(divergence(&fitted) < 0.5 * divergence(&plain), "{:?} {:?}", fitted.points, plain.points);

    // Where a kill left neither checkpoint nor fit, the fit is made again; where it left a fit alone, a resume takes that.
    let broken = folder.path().join("broken");
    fs::create_dir_all(broken.join("checkpoints")).unwrap();
    fs::copy(folder.path().join("fitted/adapt.toml"), broken.join("adapt.toml")).unwrap();
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
