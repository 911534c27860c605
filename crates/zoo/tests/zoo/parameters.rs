//! Compares names, shapes and sizes with torchvision's.

use serde::Deserialize;
use zoo::{Config, Stem, variants};

#[derive(Deserialize)]
struct Golden {
    name: String,
    tensors: usize,
    elements: usize,
    macs: u64,
    hash: String,
}

#[test]
fn parameters_and_macs_of_every_variant_equal_torchvisions() {
    let goldens: Vec<Golden> = serde_json::from_str(include_str!("../golden/parameters.json")).unwrap();
    let names: Vec<&str> = goldens.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(names, variants().iter().map(|v| v.name).collect::<Vec<_>>());

    for golden in goldens {
        let graph = zoo::build(&Config::new(&golden.name)).unwrap();
        let mut lines: Vec<String> = graph
            .params()
            .iter()
            .map(|p| format!("{} {}", p.name, p.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")))
            .collect();
        lines.sort();
        let lines_text = lines.join("\n");
        if fnv64(&lines_text) != golden.hash {
            panic!("{0}: compare with `make.py --list {0}`:\n{lines_text}", golden.name);
        }
        assert_eq!(lines.len(), golden.tensors, "{}", golden.name);
        assert_eq!(elements(&graph), golden.elements, "{}", golden.name);
        assert_eq!(graph.macs(), golden.macs, "{}", golden.name);
    }
}

#[test]
fn embedded_variants_are_small() {
    println!("{:20} {:>9} {:>9} {:>6}", "variant", "params", "MACs", "nodes");
    for variant in variants().iter().filter(|v| v.name.ends_with("-embedded")) {
        let graph = zoo::build(&Config::new(variant.name)).unwrap();
        let (params, macs) = (elements(&graph) as f64 / 1e6, graph.macs() as f64 / 1e6);
        println!("{:20} {params:8.2}M {macs:8.1}M {:6}", variant.name, graph.nodes().len());
        assert_eq!(graph.output().channels, 16);
        assert!((0.3..=1.6).contains(&params), "{}: {params}M parameters", variant.name);
        assert!((5.0..=30.0).contains(&macs), "{}: {macs}M MACs", variant.name);
    }
}

#[test]
fn every_variant_takes_any_classes_width_and_small_stem() {
    for variant in variants() {
        for (width, input) in [(0.1, 32), (0.3, 48), (0.75, 64)] {
            let config = Config {
                classes: Some(7),
                width: Some(width),
                stem: Some(Stem::Small),
                input: Some(input),
                ..Config::new(variant.name)
            };
            let graph = zoo::build(&config).unwrap_or_else(|e| panic!("{config:?}: {e}"));
            assert_eq!(graph.output().channels, 7, "{config:?}");
        }
    }
}

#[test]
fn table_is_consistent() {
    for variant in variants() {
        let graph = zoo::build(&Config::new(variant.name)).unwrap();
        assert_eq!(graph.output().channels, variant.classes, "{}", variant.name);
        assert_eq!(graph.input().height, variant.input, "{}", variant.name);
        assert!(variant.preprocess.crop.is_none_or(|crop| crop == [variant.input; 2]), "{}", variant.name);
        if let Some(source) = &variant.source {
            assert_eq!(source.sha256_prefix.len(), 8, "{}", source.url);
            assert!(source.url.contains(&format!("-{}.", source.sha256_prefix)), "{}", source.url);
            assert!(source.sha256.is_none_or(|sha| sha.len() == 64 && sha.starts_with(&source.sha256_prefix)));
        }
    }
}

/// Counts the trained elements, without running statistics.
fn elements(graph: &graph::Graph) -> usize {
    let trained = |p: &graph::Param| !matches!(p.role, graph::Role::Mean | graph::Role::Variance);
    graph.params().iter().filter(|p| trained(p)).map(|p| p.shape.iter().product::<usize>()).sum()
}

fn fnv64(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
