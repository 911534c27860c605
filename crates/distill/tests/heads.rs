//! Networks that do not end in the logits of several classes are adapted all the same.
use distill::{
    AdaptConfig, Augment, Context, DistillConfig, Distillation, Error, Eval, Report, RunFolder, Start, TrainConfig,
    Training,
};
use graph::{Activation, Builder, Conv2d, Op, Weights};
use model::{Info, Model, Policy};

/// Dark pictures and bright ones, of every hue.
fn shades() -> (tempfile::TempDir, images::Labelled) {
    let folder = tempfile::tempdir().unwrap();
    for (class, low) in [("dark", 0u8), ("light", 150)] {
        std::fs::create_dir(folder.path().join(class)).unwrap();
        for i in 0..24u8 {
            let pixel = |x: u32, y: u32| image::Rgb([low + i, low + x as u8, low + y as u8]);
            image::RgbImage::from_fn(32, 32, pixel).save(folder.path().join(format!("{class}/{i:02}.png"))).unwrap();
        }
    }
    let options = images::OpenOptions::default();
    let spec = folder.path().to_str().unwrap().to_owned();
    let set = images::open_labelled(&spec, &images::embedded_preprocess(), &options).unwrap();
    (folder, set)
}

#[test]
fn one_output_is_trained_on_two_classes() {
    let root = tempfile::tempdir().unwrap();
    let (_folder, set) = shades();
    let train = |name: &str, model: &Model| {
        let config = TrainConfig { epochs: 12, batch: 12, learning_rate: 0.02, clip: 1.0, ..TrainConfig::default() };
        let run = RunFolder::open(root.path().join(name), false).unwrap();
        let preprocess = images::embedded_preprocess();
        let (graph, preprocess) = (model.graph(), &preprocess);
        let job = Training { start: Start::Random(graph), images: &set, eval: &set, preprocess, config: &config };
        distill::train(&job, &run, &Context::default())
    };
    // By the softmax of one output nothing would be learned: half would be right.
    let trained = train("one", &teacher(1, None)).unwrap();
    assert!(trained.top1 > 95.0, "{}", trained.top1);
    let error = train("sigmoid", &teacher(1, Some(Op::Activation(Activation::Sigmoid)))).unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    assert!(!root.path().join("sigmoid").exists());
}

/// 3x3 conv, 8, /4, 3x3 conv, 16, /2, pooling, a linear layer of so many outputs, and this operation.
fn teacher(outputs: usize, last: Option<Op>) -> Model {
    let mut b = Builder::new("tiny", graph::Shape::new(3, 32, 32));
    let x = b.conv("conv1", Conv2d::new(3, 8, 3).stride(4).padding(1), b.input());
    let x = b.relu("relu1", x);
    let x = b.conv("conv2", Conv2d::new(8, 16, 3).stride(2).padding(1), x);
    let x = b.relu("relu2", x);
    let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    let x = b.linear("fc", outputs, x);
    if let Some(op) = last {
        b.push("head", op, vec![x]);
    }
    let graph = b.finish().unwrap();
    let mut weights = Weights::init(&graph, 1);
    weights.get_mut("fc.weight").unwrap().data_mut().iter_mut().for_each(|w| *w *= 20.0);
    let info = Info { preprocess: images::embedded_preprocess(), classes: vec![], source: "a test".into() };
    let mut model = Model::float(graph, weights, info).unwrap();
    if outputs == 1 {
        // The decision falls in the middle of the images.
        let bias = -mean_logit(&model);
        model.values_mut("fc.bias").unwrap()[0] += bias;
    }
    model
}

fn mean_logit(model: &Model) -> f32 {
    let context = Context::default();
    let network = dsconv::Network::new(&model.clone().without_head(), &context.device);
    let logits = distill::evaluate::predict("mean", &[&network], &images::embedded_unlabelled().take(64), &context);
    let logits = logits.unwrap().remove(0);
    logits.values().iter().sum::<f32>() / 64.0
}

/// Adapts at 2 bits, steps alone: layers are not fitted.
fn adapted(model: &Model) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let adapt = AdaptConfig {
        steps: 40,
        batch: 16,
        checkpoint_every: 10,
        held_out: 32,
        patience: 0,
        code_rate: 0.03,
        fit_images: 0,
        augment: Augment::default(),
        ..AdaptConfig::default()
    };
    let quantize: Policy = toml::from_str("bits = 2\nactivation = { bits = 4 }").unwrap();
    let config = DistillConfig { adapt, quantize, ..DistillConfig::default() };
    let folder = RunFolder::open(folder.path().join("run"), false).unwrap();
    let images = images::embedded_unlabelled().take(256);
    let eval = Eval::Unlabelled(images::embedded(images::Split::Eval).take(128).without_labels());
    let job = Distillation { teacher: model, images: &images, eval: &eval, config: &config, recipe: None };
    let report = distill::run(&job, &folder, &Context::default()).unwrap();
    let stored = files::load(folder.path().join(RunFolder::MODEL)).unwrap();
    assert_eq!(stored.graph().head(), model.graph().head(), "the student ends as its teacher does");
    report
}

#[test]
fn every_kind_of_head_learns() {
    let sigmoid = || Some(Op::Activation(Activation::Sigmoid));
    let hard = Op::Activation(Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 });
    let heads = [
        ("logits", 8, None),
        ("softmax", 8, Some(Op::Softmax)),
        ("one logit", 1, None),
        ("one sigmoid", 1, sigmoid()),
        ("eight sigmoids", 8, sigmoid()),
        ("one hard sigmoid", 1, Some(hard)),
    ];
    for (name, outputs, last) in heads {
        let report = adapted(&teacher(outputs, last));
        let first = report.held_out[0].loss;
        let best = report.held_out.iter().map(|point| point.loss).fold(f32::INFINITY, f32::min);
        assert!(first > 1e-3, "{name}: there is something to learn: {:?}", report.held_out);
        assert!(report.best_step > 0 && best < 0.7 * first, "{name}: {:?}", report.held_out);
        let divergence = report.divergence.unwrap();
        assert!(divergence.adapted < 0.7 * divergence.quantized, "{name}: {divergence:?}");
        let (before, after) = (&report.quantized.scores, &report.adapted.scores);
        assert!(after.sqnr_db > before.sqnr_db, "{name}: {before:?} {after:?}");
        assert!(after.agreement >= before.agreement, "{name}: {before:?} {after:?}");
    }
}
