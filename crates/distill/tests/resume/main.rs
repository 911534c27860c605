//! A run that was stopped anywhere and resumed ends with the same bits as one that was not.
mod adapt;
mod run;
mod train;
mod unreadable;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use distill::{
    AdaptConfig, Adaptation, Augment, Chosen, Context, DistillConfig, Distillation, Error, Eval, Interrupter,
    Optimizer, Progress, RunFolder, Start, TrainConfig, Training,
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
    weights.get_mut("fc.weight").unwrap().data_mut().iter_mut().for_each(|w| *w *= 20.0);
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
    adapted(&teacher(), &Policy::default(), &adapt_images(), config, &folder, context)
}

/// Adapts with a seed of 5.
fn adapted(
    teacher: &Model,
    policy: &Policy,
    images: &Unlabelled,
    config: &AdaptConfig,
    folder: &RunFolder,
    context: &Context,
) -> Result<distill::Adapted, Error> {
    distill::adapt(&Adaptation { teacher, policy, images, config, seed: 5 }, folder, context)
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
