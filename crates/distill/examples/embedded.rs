//! Trains a teacher on the embedded set, quantizes it to 4 bits and adapts the student, all in one folder.
//!
//! ```text
//! cargo run --release -p distill --example embedded -- resnet50-embedded runs/example [resume]
//! ```
use std::path::PathBuf;
use std::time::Instant;

use distill::{AdaptConfig, Context, TrainConfig};
use dsconv::Network;
use graph::Model;
use images::Split;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "resnet50-embedded".into());
    let folder: PathBuf = args.next().ok_or("a folder for the run")?.into();
    let resume = args.next().is_some_and(|word| word == "resume");
    let setting = |key: &str, or: &str| std::env::var(key).unwrap_or_else(|_| or.into());

    let context = Context::default();
    let (train, eval) = (images::embedded(Split::Train), images::embedded(Split::Eval));
    let file = folder.join("teacher.safetensors");
    let start = Instant::now();
    let teacher = if file.exists() {
        Model::load(&file)?
    } else {
        let graph = zoo::build(&zoo::Config::new(&name))?;
        let config: TrainConfig = toml::from_str(&setting("TRAIN", ""))?;
        let trained = distill::train(
            &graph,
            None,
            &train,
            &eval,
            &images::embedded_preprocess(),
            &config,
            &folder.join("teacher"),
            resume,
            &context,
        )?;
        println!("teacher: {:.2} top-1, {:.1?}", trained.top1, start.elapsed());
        trained.model.save(&file, &graph::SaveOptions::default())?;
        trained.model
    };

    let policy: graph::Policy = toml::from_str(&setting("POLICY", ""))?;
    let start = Instant::now();
    let quantized = teacher.quantize(&policy)?;
    println!("quantized in {:.1?}", start.elapsed());
    let start = Instant::now();
    let networks = [Network::new(&teacher, &context.device), Network::new(&quantized, &context.device)];
    let [fp32, before] = &networks;
    let images = eval.without_labels();
    let logits = distill::evaluate::predict("evaluate", &[fp32], &images, &context)?.remove(0);
    println!("fp32      {:.2?}, {:.1?}", logits.scores(eval.labels(), &logits), start.elapsed());
    let start = Instant::now();
    let found = distill::evaluate::predict("evaluate", &[before], &images, &context)?.remove(0);
    println!("quantized {:.2?}, {:.1?}", found.scores(eval.labels(), &logits), start.elapsed());

    let start = Instant::now();
    let config: AdaptConfig = toml::from_str(&setting("ADAPT", ""))?;
    let adapted = distill::adapt(
        &teacher,
        &policy,
        &images::embedded_unlabelled(),
        &config,
        0,
        &folder.join(setting("RUN", "adapt")),
        resume,
        &context,
    )?;
    for point in &adapted.points {
        println!("  {point:.4?}");
    }
    println!("best at step {}, {:.1?}", adapted.best_step, start.elapsed());
    let found = distill::evaluate::predict("evaluate", &[&adapted.student], &images, &context)?.remove(0);
    println!("adapted   {:.2?}", found.scores(eval.labels(), &logits));
    Ok(())
}
