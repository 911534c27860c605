//! Adapts a network to generated images of 224x224, and prints a line after each step, for who measures its speed:
//!
//! ```text
//! cargo run --release -p dsconv-distill --example steps -- resnet18 16
//! cargo run --release -p dsconv-distill --example steps -- mobilenet_v2.onnx 16
//! ```
//! A network of the zoo gets weights from a formula, which take the same time as trained ones.
use std::io::Write;
use std::path::Path;

use distill::{AdaptConfig, Adaptation, Context, Progress, RunFolder};
use graph::Preprocess;
use model::{Info, Model, Policy};
use zoo::testing::formula_weights;

/// A listener that prints how many steps of adaptation are done.
struct Lines {
    batch: usize,
}

impl Progress for Lines {
    fn advance(&self, done: usize, note: &str) {
        // Only training says its loss.
        if !note.is_empty() {
            println!("{} {note}", done / self.batch);
            std::io::stdout().flush().expect("someone reads the lines");
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(batch)) = (args.next(), args.next()) else {
        return Err("usage: steps NETWORK BATCH [STEPS]".into());
    };
    let batch = batch.parse()?;
    let steps = args.next().map_or(Ok(1_000_000), |steps| steps.parse())?;
    let (graph, weights) = if Path::new(&name).extension().is_some() {
        let imported = onnx::import(&std::fs::read(&name)?, &onnx::ImportOptions::default())?;
        (imported.graph, imported.weights)
    } else {
        let graph = zoo::build(&zoo::Config::new(&name))?;
        let weights = formula_weights(&graph);
        (graph, weights)
    };
    let info = Info { preprocess: Preprocess::imagenet(), classes: Vec::new(), source: name };
    let teacher = Model::float(graph, weights, info)?;

    let images = images::generated(4 * batch, 1, &Preprocess::imagenet(), [224, 224]);
    let config =
        AdaptConfig { steps, batch, held_out: 1, checkpoint_every: steps, fit_images: 0, ..AdaptConfig::default() };
    let job = Adaptation { teacher: &teacher, policy: &Policy::default(), images: &images, config: &config, seed: 1 };
    let folder = tempfile::tempdir()?;
    let folder = RunFolder::open(folder.path().join("run"), false)?;
    distill::adapt(&job, &folder, &Context::default().with_progress(Lines { batch }))?;
    Ok(())
}
