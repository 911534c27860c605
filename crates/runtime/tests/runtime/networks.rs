//! Whole networks: the plain interpreter's logits from every kernel and any number of threads.
use blockfloat::{ActivationScale, Bits, BlockSize};
use graph::Shape;
use model::{Info, Model, Policy};
use zoo::testing::{formula_input, formula_weights};
use zoo::{Config, Stem};

use crate::plain;

/// The bits of every image's logits, from all kernels and thread counts, are those of the interpreter.
pub fn check(model: &Model, images: usize) {
    let Shape { channels, height, width } = model.graph().input();
    let input = formula_input([images, channels, height, width]);
    let one = model.graph().input().elements();
    let expected: Vec<f32> = input.data().chunks(one).flat_map(|image| plain::run(model, image)).collect();
    assert!(expected.iter().all(|x| x.is_finite()) && expected.iter().any(|x| *x != expected[0]), "degenerate logits");
    for kernel in runtime::kernels() {
        let engine = runtime::Model::with_kernel(model.clone(), Some(kernel)).unwrap();
        for threads in [1, 2, 3] {
            let mut session = engine.session(crate::threads(threads)).unwrap();
            // A second run finds the buffers as the first one left them.
            for batch in [images, 1, images] {
                let found = session.run(&input.data()[..batch * one]).unwrap();
                let wrong = found.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits());
                if let Some(i) = wrong {
                    panic!(
                        "{}: {kernel}, {threads} threads, batch {batch}: logit {i} is {}, not {}",
                        model.graph().name(),
                        found[i],
                        expected[i]
                    );
                }
                assert_eq!(found.len(), batch * engine.outputs());
            }
        }
    }
}

fn policy(weight_bits: u8, activation_bits: u8, block: usize, scale: ActivationScale) -> Policy {
    let (bits, block) = (Bits::new(weight_bits).unwrap(), BlockSize::new(block).unwrap());
    let mut policy = Policy { bits, block, rule: blockfloat::ScaleRule::L2, ..Policy::default() };
    let activation = policy.activation.as_mut().unwrap();
    (activation.bits, activation.block, activation.scale) = (Bits::new(activation_bits).unwrap(), block, scale);
    policy
}

fn quantize(config: &Config, policy: &Policy) -> Model {
    let graph = zoo::build(config).unwrap();
    let weights = formula_weights(&graph);
    let info = Info { preprocess: config.preprocess().unwrap(), classes: vec![], source: "a formula".into() };
    Model::float(graph, weights, info).unwrap().quantize(policy).unwrap()
}

#[test]
fn every_family_of_the_zoo_gives_the_interpreters_bits() {
    let small = |name: &str, width: f64| Config {
        classes: Some(10),
        width: Some(width),
        stem: Some(Stem::Small),
        input: Some(64),
        ..Config::new(name)
    };
    let float = ActivationScale::Float;
    if crate::quick() {
        check(&quantize(&small("googlenet", 0.25), &policy(4, 8, 64, float)), 1);
        return check(&quantize(&Config { width: Some(0.5), ..Config::new("resnet20") }, &policy(2, 5, 32, float)), 1);
    }
    check(&quantize(&small("alexnet", 0.25), &policy(4, 8, 64, float)), 2);
    check(&quantize(&small("vgg11", 0.25), &policy(4, 4, 32, ActivationScale::Pow2)), 2);
    // Layers by Winograd's algorithm: some whose output is the sum of a block, some with a shortcut's convolution beside them.
    let winograd = |bits| Policy { winograd: Some(Bits::new(bits).unwrap()), ..policy(4, 8, 64, float) };
    check(&quantize(&small("resnet18", 0.5), &winograd(6)), 2);
    check(&quantize(&small("googlenet", 0.5), &winograd(5)), 2);
    check(&quantize(&small("googlenet", 0.5), &Policy { image_sum: true, ..policy(4, 8, 64, float) }), 2);
    check(&quantize(&small("resnet18", 0.5), &policy(8, 8, 16, float)), 2);
    check(&quantize(&small("resnet50", 0.25), &policy(4, 8, 64, float)), 2);
    check(&quantize(&small("densenet121", 0.5), &policy(3, 6, 24, float)), 1);
    check(&quantize(&Config::new("resnet20"), &policy(2, 5, 32, float)), 2);
}

#[test]
fn layers_in_floats_and_activations_in_floats_run_too() {
    let mut policy = policy(4, 8, 64, ActivationScale::Float);
    policy.activation.as_mut().unwrap().block = BlockSize::PIXEL;
    let rule = |layers: &str| model::policy::Rule { layers: layers.into(), ..Default::default() };
    policy.rules = vec![
        model::policy::Rule { skip: Some(true), ..rule("conv1") },
        model::policy::Rule { activation: Some(model::policy::ActivationRule::Off), ..rule("layer2.0.*") },
        model::policy::Rule { bits: Some(Bits::MAX), ..rule("fc") },
    ];
    let input = if crate::quick() { 32 } else { 64 };
    let config = Config { classes: Some(10), width: Some(0.25), input: Some(input), ..Config::new("resnet18") };
    check(&quantize(&config, &policy), 3);
}

#[test]
fn an_image_that_shares_a_scale_can_be_read_in_other_ways_too() {
    // By two convolutions with borders of their own, one of which adds the other's value, by one in floats, and by a pool.
    let mut b = graph::Builder::new("readers", Shape::new(3, 20, 18));
    let conv = |name: &str, side: usize, b: &mut graph::Builder| {
        let conv = graph::Conv2d { padding: [side / 2; 2], ..graph::Conv2d::new(3, 24, side) };
        b.conv(name, conv, b.input())
    };
    let (five, three, float) = (conv("five", 5, &mut b), conv("three", 3, &mut b), conv("float", 3, &mut b));
    let sum = b.push("sum", graph::Op::Add, vec![five, three]);
    let pool = graph::Pool2d::new(3, 1).padding(1);
    let pool = b.push("pool", graph::Op::MaxPool2d(pool), vec![b.input()]);
    let all = b.push("all", graph::Op::Concat, vec![sum, float, pool]);
    let x = b.push("mean", graph::Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![all]);
    let x = b.push("flatten", graph::Op::Flatten, vec![x]);
    b.linear("fc", 7, x);
    let graph = b.finish().unwrap();
    let weights = formula_weights(&graph);
    let info = Info { preprocess: graph::Preprocess::imagenet(), classes: vec![], source: "a formula".into() };
    let mut policy = Policy { image_sum: true, ..Policy::default() };
    policy.rules =
        vec![model::policy::Rule { layers: "float".into(), skip: Some(true), ..model::policy::Rule::default() }];
    check(&Model::float(graph, weights, info).unwrap().quantize(&policy).unwrap(), 2);
}
