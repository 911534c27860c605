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
    let job = Training { graph: &graph, start: None, images: &images, eval: &eval(), preprocess: &preprocess, config };
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
