//! Trains a teacher on the embedded set and adapts its 4-bit student:
//!
//! ```text
//! cargo run --release -p dsconv-distill --example embedded -- alexnet-embedded experiments/runs/example
//! ```
//! Started again after it was stopped, it goes on where it was.
use std::path::PathBuf;

use distill::{Context, DistillConfig, Distillation, Eval, Optimizer, RunFolder, TrainConfig, Training};
use images::Split;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: embedded NETWORK FOLDER".into());
    };
    let folder = PathBuf::from(folder);
    let context = Context::default();
    let eval = images::embedded(Split::Eval);

    let file = folder.join("teacher.safetensors");
    if !file.exists() {
        let graph = zoo::build(&zoo::Config::new(&name))?;
        let train = images::embedded(Split::Train);
        let preprocess = images::embedded_preprocess();
        let config =
            TrainConfig { epochs: 10, optimizer: Optimizer::AdamW, learning_rate: 3e-3, ..TrainConfig::default() };
        let run = RunFolder::open(folder.join("teacher"), true)?;
        let job = Training {
            start: distill::Start::Random(&graph),
            images: &train,
            eval: &eval,
            preprocess: &preprocess,
            config: &config,
        };
        let trained = distill::train(&job, &run, &context)?;
        files::save(&trained.model, &file, &model::SaveOptions::default())?;
    }

    let teacher = files::load(&file)?;
    let images = images::embedded_unlabelled();
    let (eval, config) = (Eval::Labelled(eval), DistillConfig::default());
    let run = RunFolder::open(folder.join("student"), true)?;
    let job = Distillation { teacher: &teacher, images: &images, eval: &eval, config: &config, recipe: None };
    let report = distill::run(&job, &run, &context)?;
    for (name, measured) in [("fp32", report.fp32), ("quantized", report.quantized), ("adapted", report.adapted)] {
        let distill::Measured { scores, bytes } = measured;
        let top1 = scores.top1.unwrap_or_default();
        println!("{name:9} {top1:5.2} top-1  {:6.2} agreement  {bytes:>9} bytes", scores.agreement);
    }
    Ok(())
}
