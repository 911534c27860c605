//! Logits against torchvision's, on weights and images that both sides make from one formula.

use std::time::Instant;

use zoo::Config;
use zoo::testing::{Golden, LOGITS, formula_input, formula_weights};

use crate::plain;

/// Runs by default; `DSCONV_SLOW=1` runs every variant.
const QUICK: [&str; 12] = [
    "alexnet",
    "vgg11_bn",
    "googlenet",
    "resnet18",
    "densenet121",
    "resnet20",
    "densenet100_bc",
    "alexnet-embedded",
    "vgg-embedded",
    "googlenet-embedded",
    "resnet50-embedded",
    "densenet-embedded",
];

#[test]
fn logits_equal_torchvisions() {
    let slow = std::env::var("DSCONV_SLOW").is_ok_and(|v| v == "1");
    let goldens: Vec<Golden> = serde_json::from_str(LOGITS).unwrap();
    assert!(zoo::variants().iter().all(|v| goldens.iter().any(|g| g.name == v.name)), "a variant has no golden logits");

    let mut failures = Vec::new();
    for golden in goldens.iter().filter(|g| slow || QUICK.contains(&g.name.as_str())) {
        let start = Instant::now();
        let config =
            Config { input: Some(golden.input), transform_input: golden.transform_input, ..Config::new(&golden.name) };
        let graph = zoo::build(&config).unwrap();
        let image = formula_input([golden.batch, 3, golden.input, golden.input]);
        let values = plain::run(&graph, &formula_weights(&graph), &image);

        let mut worst = golden.difference(values.last().unwrap());
        for (name, mean, rms) in &golden.taps {
            let value = &values[graph.find(name).unwrap().index()];
            let n = value.len() as f64;
            let got_mean = value.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let got_rms = (value.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n).sqrt();
            let difference = (got_mean - mean).abs().max((got_rms - rms).abs()) / rms;
            if difference > 1e-4 {
                failures.push(format!("{} at {name}: {difference:.1e}", golden.name));
            }
            worst = worst.max(difference);
        }
        println!("{:24} {worst:.1e}  {:.1?}", golden.name, start.elapsed());
        if worst > 1e-4 {
            failures.push(format!("{}: {worst:.1e}", golden.name));
        }
    }
    assert!(failures.is_empty(), "relative difference above 1e-4:\n{}", failures.join("\n"));
}
