//! Compares logits with torchvision's, on weights and images that both make from the same formula.

use std::time::Instant;

use zoo::testing::{Golden, LOGITS, formula_weights};

use crate::plain;

/// The largest difference, relative to the largest value of its kind. 8e-6 was measured.
const TOLERANCE: f64 = 1e-4;

/// The variants that run by default; `DSCONV_SLOW=1` runs all.
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
        let graph = zoo::build(&golden.config()).unwrap();
        let values = plain::run(&graph, &formula_weights(&graph), &golden.images());

        let mut worst = golden.difference(values.last().unwrap());
        for tap in &golden.taps {
            let difference = tap.difference(&values[graph.find(&tap.name).unwrap().index()]);
            if difference > TOLERANCE {
                failures.push(format!("{} at {}: {difference:.1e}", golden.name, tap.name));
            }
            worst = worst.max(difference);
        }
        println!("{:24} {worst:.1e}  {:.1?}", golden.name, start.elapsed());
        if worst > TOLERANCE {
            failures.push(format!("{}: {worst:.1e}", golden.name));
        }
    }
    assert!(failures.is_empty(), "relative difference above {TOLERANCE}:\n{}", failures.join("\n"));
}
