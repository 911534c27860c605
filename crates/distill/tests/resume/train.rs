//! Training in a folder.
use super::*;

#[test]
fn training_that_diverges_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let config = TrainConfig { epochs: 1, learning_rate: 1e12, warmup: 0.0, ..TrainConfig::default() };
    let folder = RunFolder::open(folder.path(), false).unwrap();
    let context = Context::default();
    let error = trained(&config, &folder, &context).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 2..=3, .. }), "{error}");
    // The caller's own switch was not touched.
    assert!(!context.interrupter.should_stop());
}

fn run_train(folder: &Path, resume: bool, context: &Context) -> Result<distill::Trained, Error> {
    let config = TrainConfig { epochs: 3, batch: 64, monitor: 64, label_smoothing: 0.1, ..TrainConfig::default() };
    trained(&config, &RunFolder::open(folder, resume)?, context)
}

/// Trains the small network on 256 images.
fn trained(config: &TrainConfig, folder: &RunFolder, context: &Context) -> Result<distill::Trained, Error> {
    let (graph, images, preprocess) = (tiny(), images::embedded(Split::Train).take(256), images::embedded_preprocess());
    let job =
        Training { start: Start::Random(&graph), images: &images, eval: &eval(), preprocess: &preprocess, config };
    distill::train(&job, folder, context)
}

#[test]
fn a_resumed_training_ends_with_the_same_bits_and_learns() {
    let folder = tempfile::tempdir().unwrap();
    let unbroken = run_train(&folder.path().join("whole"), false, &Context::default()).unwrap();
    let broken = folder.path().join("broken");
    let stopped = run_train(&broken, false, &stopping_at(256 + 128));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
    let resumed = run_train(&broken, true, &Context::default()).unwrap();
    assert_eq!(resumed.model.weights(), unbroken.model.weights());

    let log = fs::read_to_string(broken.join("log.csv")).unwrap();
    assert_eq!(log, fs::read_to_string(folder.path().join("whole/log.csv")).unwrap());
    let losses: Vec<f32> = log.lines().skip(1).map(|row| row.split(',').nth(2).unwrap().parse().unwrap()).collect();
    assert_eq!(losses.len(), 12);
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    assert!(mean(&losses[8..]) < mean(&losses[..4]) - 0.01, "{losses:?}");
    assert_eq!(resumed.model.info().classes.len(), 16);
}

#[test]
fn trainings_beside_each_other_end_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let train = &|i: usize| run_train(&folder.path().join(i.to_string()), false, &Context::default()).unwrap().model;
    let alone = train(0);
    // With dropout and batch statistics, on more threads than most machines have cores.
    let others: Vec<Model> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4).map(|i| scope.spawn(move || train(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for other in others {
        assert_eq!(other.weights(), alone.weights());
    }
}

/// Teaches the small network on, whose weights have 3 bits and whose inputs 4.
fn taught(rate: f64, folder: &RunFolder, context: &Context) -> Result<(Model, distill::Trained), Error> {
    let policy: Policy = toml::from_str("bits = 3").unwrap();
    let before = teacher().quantize(&policy).unwrap();
    let config = TrainConfig {
        epochs: 3,
        batch: 32,
        held_out: 64,
        optimizer: Optimizer::Adam,
        learning_rate: rate / 10.0,
        code_rate: rate,
        scale_rate: rate / 10.0,
        ..TrainConfig::default()
    };
    let (images, preprocess) = (images::embedded(Split::Train).take(256), images::embedded_preprocess());
    let start = Start::Quantized(&before);
    let job = Training { start, images: &images, eval: &eval(), preprocess: &preprocess, config: &config };
    let trained = distill::train(&job, folder, context)?;
    Ok((before, trained))
}

#[test]
fn a_quantized_network_learns_labels_and_stays_quantized() {
    let root = tempfile::tempdir().unwrap();
    let open = |name: &str, resume| RunFolder::open(root.path().join(name), resume).unwrap();
    let (before, trained) = taught(0.05, &open("whole", false), &Context::default()).unwrap();
    let best = trained.best_epoch.unwrap();
    assert!(best > 0);
    let model = trained.model;
    assert_eq!(model.layers().len(), before.layers().len());
    for (name, layer) in before.layers() {
        let found = &model.layers()[name];
        assert_eq!(
            (found.activation, found.signed, found.codes.bits()),
            (layer.activation, layer.signed, layer.codes.bits())
        );
        assert_eq!(found.codes.block(), layer.codes.block());
    }
    assert!(before.layers().iter().any(|(name, layer)| model.layers()[name].codes.codes() != layer.codes.codes()));

    // The images held out chose it: their loss is the least, that before the first step among them.
    let log = fs::read_to_string(root.path().join("whole/log.csv")).unwrap();
    assert!(log.starts_with("step,learning_rate,loss,held_out_loss,held_out_top1\n0,,,"), "{log}");
    let held: Vec<f32> = log.lines().skip(1).filter_map(|row| row.split(',').nth(3)?.parse().ok()).collect();
    assert_eq!(held.len(), 4, "{log}");
    assert_eq!(held.iter().position(|&loss| loss == held.iter().copied().fold(f32::INFINITY, f32::min)), Some(best));

    let stopped = taught(0.05, &open("broken", false), &stopping_at(192 + 64));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
    let (_, resumed) = taught(0.05, &open("broken", true), &Context::default()).unwrap();
    assert_eq!(resumed.model.layers(), model.layers());
    assert_eq!(resumed.model.weights(), model.weights());
}

#[test]
fn a_quantized_network_that_learns_nothing_stays_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let (before, trained) = taught(30.0, &RunFolder::open(root.path(), false).unwrap(), &Context::default()).unwrap();
    assert_eq!(trained.best_epoch, Some(0));
    assert_eq!(trained.model.layers(), before.layers());
    assert_eq!(Some(trained.top1), trained.top1_before);
}
