//! A run that was stopped anywhere and resumed ends with the same bits as one that was not.
use std::fs;
use std::path::Path;
use std::sync::Arc;

use distill::{
    AdaptConfig, Augment, Chosen, Context, DistillConfig, Distillation, Error, Eval, Interrupter, Progress, RunFolder,
    TrainConfig,
};
use graph::{Builder, Conv2d, Graph, Op, Weights};
use images::{Labelled, Split, Unlabelled};
use model::{Info, Model, Policy};

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
    let folder = RunFolder::open(folder, resume)?;
    distill::adapt(&teacher(), &Policy::default(), &adapt_images(), config, 5, &folder, context)
}

/// Runs a whole recipe.
fn distilled(
    teacher: &Model,
    images: &Unlabelled,
    eval: &Eval,
    config: &DistillConfig,
    folder: &RunFolder,
    context: &Context,
) -> Result<distill::Report, Error> {
    distill::run(&Distillation { teacher, images, eval, config, recipe: None }, folder, context)
}

/// All values of a student, to be compared to the bit.
fn bits(adapted: &distill::Adapted) -> (usize, Vec<u32>, Vec<distill::Point>) {
    let model = &adapted.student;
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

/// Images that are decoded as they are used, of which some turn out to be cut off: the others' labels and what the teacher says
/// of them do not move.
#[test]
fn files_that_cannot_be_read_are_left_out_with_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    let raw = graph::Preprocess::bytes(graph::ChannelOrder::Rgb);
    let options = images::OpenOptions { limit: Some(64), ..images::OpenOptions::default() };
    let set = images::open_labelled("embedded", &raw, &options).unwrap();
    let planes = set.batch(&(0..64).collect::<Vec<_>>()).unwrap().images.pixels;
    for (i, planes) in planes.chunks_exact(3 * 32 * 32).enumerate() {
        let at = |c: usize, x: u32, y: u32| planes[(c * 32 + y as usize) * 32 + x as usize] as u8;
        let class = root.join(images::EMBEDDED_CLASSES[set.labels()[i]]);
        fs::create_dir_all(&class).unwrap();
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([0, 1, 2].map(|c| at(c, x, y))));
        picture.save(class.join(format!("{i:02}.png"))).unwrap();
    }
    let open = |memory| {
        let options = images::OpenOptions { memory, ..images::OpenOptions::default() };
        let set = images::open_labelled(root.to_str().unwrap(), &images::embedded_preprocess(), &options).unwrap();
        let names = images::ClassNames::from(images::EMBEDDED_CLASSES.map(str::to_owned).as_slice());
        set.for_network(16, images::Classes::OfNetwork(&names)).unwrap().set
    };
    let cut = |name: &Path| fs::write(name, &fs::read(name).unwrap()[..200]).unwrap();
    let files = || fs::read_dir(root.join("heart")).unwrap().map(|file| file.unwrap().path());
    // One that is evaluated first of its class, and one more.
    let lazy = open(0);
    let mut bad: Vec<_> = files().collect();
    bad.sort();
    cut(&bad[0]);
    cut(&bad[2]);

    let network = dsconv::Network::new(&teacher(), &Context::default().device);
    let scores = |set: &Labelled| {
        let logits = distill::evaluate::predict("x", &[&network], &set.without_labels(), &Context::default()).unwrap();
        logits[0].scores(Some(set.labels()), &logits[0])
    };
    let (found, expected) = (scores(&lazy), scores(&open(usize::MAX)));
    assert_eq!((found.count, lazy.skipped().len()), (62, 2));
    assert_eq!(found, expected, "as where the files were found bad before");

    let config = AdaptConfig { augment: Augment::default(), fit_images: 64, ..settings() };
    let run = RunFolder::open(folder.path().join("run"), false).unwrap();
    distill::adapt(&teacher(), &Policy::default(), &open(0).without_labels(), &config, 5, &run, &Context::default())
        .unwrap();
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
    moved.weights.0.get_mut("bn1.running_mean").unwrap().data_mut().fill(1.0);
    moved.weights.0.get_mut("bn1.running_var").unwrap().data_mut().fill(9.0);
    let largest_mean = |batch_norm: distill::BatchNormPolicy| {
        // Fitting layers would give them the teacher's means again.
        let config = AdaptConfig { steps: 1, batch_norm, fit_images: 0, ..settings() };
        let images = adapt_images();
        let folder = RunFolder::open(folder.path().join(format!("{batch_norm:?}")), false).unwrap();
        let context = Context::default();
        let adapted = distill::adapt(&moved, &Policy::default(), &images, &config, 5, &folder, &context).unwrap();
        let student = dsconv::Network::new(&adapted.student, &context.device);
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
fn training_that_diverges_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let config = TrainConfig { epochs: 1, learning_rate: 1e12, warmup: 0.0, ..TrainConfig::default() };
    let set = images::embedded(Split::Train).take(256);
    let folder = RunFolder::open(folder.path(), false).unwrap();
    let context = Context::default();
    let preprocess = images::embedded_preprocess();
    let error = distill::train(&tiny(), None, &set, &eval(), &preprocess, &config, &folder, &context).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 2..=3, .. }), "{error}");
    // The caller's own switch was not touched.
    assert!(!context.interrupter.should_stop());
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
    assert!(error.to_string().contains("its settings: `temperature = 3.0` differs"), "{error}");
}

fn run_train(folder: &Path, resume: bool, context: &Context) -> Result<distill::Trained, Error> {
    let config = TrainConfig { epochs: 3, batch: 64, monitor: 64, label_smoothing: 0.1, ..TrainConfig::default() };
    let train = images::embedded(Split::Train).take(256);
    let preprocess = images::embedded_preprocess();
    let folder = RunFolder::open(folder, resume)?;
    distill::train(&tiny(), None, &train, &eval(), &preprocess, &config, &folder, context)
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
        let folder = RunFolder::open(folder, resume)?;
        distilled(&teacher(), &adapt_images(), &Eval::Labelled(eval()), &config, &folder, context)
    };
    let report = run(&whole, false, &Context::default()).unwrap();
    assert_eq!(report.fp32.scores.agreement, 100.0);
    assert_eq!(report.fp32.scores.sqnr_db, None);
    assert!(report.adapted.scores.sqnr_db.unwrap() > report.quantized.scores.sqnr_db.unwrap());
    assert_eq!(report.adapted.bytes, fs::metadata(whole.join(distill::MODEL)).unwrap().len());
    let stored = files::load(whole.join(distill::MODEL)).unwrap();
    assert!(stored.is_quantized());
    let mut files: Vec<String> =
        fs::read_dir(&whole).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let expected = ["config.toml", "loss.csv", "metrics.json", "model.safetensors", "origin.json"];
    assert_eq!(files, [&expected[..], &["quantized.safetensors"]].concat());
    assert_eq!(report.chosen, Chosen::Adapted);
    let divergence = report.divergence.unwrap();
    assert!(divergence.adapted < divergence.quantized, "{divergence:?}");

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
        distill::adapt(&teacher(), &policy, &adapt_images(), &config, 5, &path, &context).unwrap()
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

/// A folder of pictures, one file an image: three shades of each of the four corners lit.
struct Pictures(tempfile::TempDir);

impl Pictures {
    fn new(count: usize) -> Self {
        let pictures = Self(tempfile::tempdir().unwrap());
        (0..count).for_each(|i| pictures.paint(i, i));
        pictures
    }

    fn file(&self, i: usize) -> std::path::PathBuf {
        self.0.path().join(format!("{}/{i:03}.png", ["cat", "dog"][i % 2]))
    }

    fn paint(&self, i: usize, look: usize) {
        let pixels = images::embedded_unlabelled().batch(&[look]).unwrap().pixels;
        let image = image::RgbImage::from_fn(32, 32, |x, y| {
            let at = |c: u32| (pixels[(c * 1024 + y * 32 + x) as usize] * 40.0 + 128.0) as u8;
            image::Rgb([at(0), at(1), at(2)])
        });
        fs::create_dir_all(self.file(i).parent().unwrap()).unwrap();
        image.save(self.file(i)).unwrap();
    }

    /// A set whose files are decoded as they are used.
    fn lazy(&self) -> images::OpenOptions {
        images::OpenOptions { memory: 0, ..images::OpenOptions::default() }
    }

    fn unlabelled(&self) -> Unlabelled {
        images::open_unlabelled(&self.spec(), &images::embedded_preprocess(), &images::OpenOptions::default()).unwrap()
    }

    fn labelled(&self) -> Labelled {
        images::open_labelled(&self.spec(), &images::embedded_preprocess(), &images::OpenOptions::default()).unwrap()
    }

    fn spec(&self) -> String {
        self.0.path().to_str().unwrap().to_owned()
    }
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
        other.weights.0.get_mut("conv2.weight").unwrap().data_mut()[3] += 1e-3;
        assert_eq!(refused(&other), "teacher: the network or its weights changed");
        let mut other = teacher();
        other.info.classes = vec!["a".into()];
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
    let model = |name: &str| fs::read(root.path().join(name).join(distill::MODEL)).unwrap();
    assert_eq!(model("labelled"), model("plain"));
    let held = run("held", &Eval::HeldOut);
    assert_eq!((held.eval.as_str(), held.adapted.scores.count), ("embedded/adapt, held out", 24));
    let metrics = fs::read_to_string(root.path().join("held").join(distill::METRICS)).unwrap();
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
    assert_eq!(file(distill::MODEL), file(distill::QUANTIZED));
    assert_eq!(report.adapted.bytes, file(distill::ADAPTED).len() as u64);
    // What the table says of either is what its file does.
    assert!(report.adapted.scores.sqnr_db < report.quantized.scores.sqnr_db);
}

#[test]
fn outputs_that_are_not_finite_are_no_score() {
    let root = tempfile::tempdir().unwrap();
    let mut broken = teacher();
    // Beyond F32 for most images.
    broken.weights.0.get_mut("conv1.weight").unwrap().data_mut().iter_mut().for_each(|w| *w *= 1e30);
    broken.weights.0.get_mut("fc.weight").unwrap().data_mut().iter_mut().for_each(|w| *w *= 1e30);
    let folder = RunFolder::open(root.path(), false).unwrap();
    let config = DistillConfig { adapt: settings(), ..DistillConfig::default() };
    let eval = Eval::Labelled(eval());
    let error = distilled(&broken, &adapt_images(), &eval, &config, &folder, &Context::default()).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    assert!(error.to_string().contains("`tiny` gives"), "{error}");
}

#[test]
fn an_image_that_cannot_be_read_leaves_with_its_label() {
    let (pictures, measured, root) = (Pictures::new(40), Pictures::new(12), tempfile::tempdir().unwrap());
    let preprocess = images::embedded_preprocess();
    let config = DistillConfig { adapt: settings(), ..DistillConfig::default() };
    let adapt = images::open_unlabelled(&pictures.spec(), &preprocess, &pictures.lazy()).unwrap();
    let eval = images::open_labelled(&measured.spec(), &preprocess, &measured.lazy()).unwrap();
    // Found bad when they are used. The second is held out, or not: one of the sets has both.
    let spoil = |file: &Path| fs::write(file, "no picture").unwrap();
    spoil(&pictures.file(6));
    spoil(&pictures.file(11));
    spoil(&measured.file(5));
    let run = |name: &str, adapt: &Unlabelled, eval: &Labelled| {
        let folder = RunFolder::open(root.path().join(name), false)?;
        let eval = Eval::Labelled(eval.clone());
        distilled(&teacher(), adapt, &eval, &config, &folder, &Context::default())
    };
    let report = run("some", &adapt, &eval).unwrap();
    let left_out = |skipped: Vec<images::Skipped>| skipped.into_iter().map(|file| file.path).collect::<Vec<_>>();
    let mut of_adapt = left_out(adapt.skipped());
    of_adapt.sort();
    assert_eq!(of_adapt, [pictures.file(6), pictures.file(11)]);
    assert_eq!(left_out(eval.skipped()), [measured.file(5)]);
    // The same as without that image.
    fs::remove_file(measured.file(5)).unwrap();
    let fewer = images::open_labelled(&measured.spec(), &preprocess, &measured.lazy()).unwrap();
    let expected = run("fewer", &adapt, &fewer).unwrap();
    assert_eq!((report.fp32.scores.count, &report.fp32.scores), (11, &expected.fp32.scores));
    assert_eq!(report.adapted.scores, expected.adapted.scores);

    // More than may be: an error that names one, not a smaller set.
    (20..32).for_each(|i| spoil(&pictures.file(i)));
    let adapt = images::open_unlabelled(&pictures.spec(), &preprocess, &pictures.lazy());
    let error = adapt.map_err(Error::from).and_then(|adapt| run("none", &adapt, &fewer)).unwrap_err();
    assert!(matches!(error, Error::Images(_) | Error::Training(_)), "{error}");
    assert!(error.to_string().contains(".png"), "{error}");
}
