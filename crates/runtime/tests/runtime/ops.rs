//! Operations that the zoo does not have, files, and what is refused.
use blockfloat::{ActivationScale, QuantizedWeights};
use graph::{Activation, Builder, Conv2d, NodeId, Op, Pool2d, Preprocess, Shape};
use model::{Info, Model, Policy, SaveOptions, dsc};
use zoo::testing::{formula_input, formula_weights};

use crate::networks::check;
use crate::plain;

pub fn info() -> Info {
    Info { preprocess: Preprocess::imagenet(), classes: vec![], source: "a test".into() }
}

fn quantize(b: Builder) -> Model {
    let graph = b.finish().unwrap();
    let weights = formula_weights(&graph);
    Model::float(graph, weights, info()).unwrap().quantize(&Policy::default()).unwrap()
}

/// 3x11x11, two convolutions, a shuffle, gates, padding, slices, pools, concatenations that share parts, and a head.
pub fn every_exact_operation() -> Builder {
    let mut b = Builder::new("many", Shape::new(3, 11, 11));
    let clip = |min, max| Op::Activation(Activation::Clip { min, max });
    let stem = b.conv("stem", Conv2d::new(3, 24, 3).stride(2).padding(1).bias(), b.input());
    let relu6 = b.push("relu6", clip(Some(0.0), Some(6.0)), vec![stem]);
    let depth = b.conv("depth", Conv2d { groups: 24, ..Conv2d::new(24, 24, 3).padding(1) }, relu6);
    let shuffled = b.push("shuffle", Op::Shuffle { groups: 3 }, vec![depth]);
    let low = b.push("low", Op::Slice { start: 0, channels: 10 }, vec![shuffled]);
    let high = b.push("high", Op::Slice { start: 10, channels: 14 }, vec![shuffled]);
    let grouped = b.conv("grouped", Conv2d { groups: 2, ..Conv2d::new(14, 20, 1) }, high);
    let leaky = b.push("leaky", Op::Activation(Activation::LeakyRelu { slope: 0.1 }), vec![grouped]);
    // `leaky` is part of both, so that one of them must copy it.
    let first = b.push("first", Op::Concat, vec![low, leaky]);
    let second = b.push("second", Op::Concat, vec![leaky, relu6]);
    let a = b.conv("a", Conv2d::new(30, 40, 1), first);
    let c = b.conv("c", Conv2d::new(44, 40, 3).padding(1), second);
    let sum = b.push("sum", Op::Add, vec![a, c]);
    let hard = b.push("hard", Op::Activation(Activation::HardSwish), vec![sum]);
    let pooled = b.push("squeeze", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![hard]);
    let gate = b.conv("gate", Conv2d::new(40, 40, 1).bias(), pooled);
    let sigmoid = Op::Activation(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 });
    let gate = b.push("hard_sigmoid", sigmoid, vec![gate]);
    let scaled = b.push("scale", Op::Mul, vec![hard, gate]);
    let twice = b.push("twice", Op::Add, vec![scaled, scaled]);
    let padded = b.push("pad", Op::Pad2d { sides: [1, 0, 2, 1], value: 0.5 }, vec![twice]);
    let pool = Pool2d { count_include_pad: false, ..Pool2d::new(3, 2).padding(1).ceil_mode() };
    let mean = b.push("mean", Op::AvgPool2d(pool.clone()), vec![padded]);
    let max = b.max_pool("max", pool, padded);
    let both = b.push("both", Op::Concat, vec![max, mean]);
    let drop = b.push("drop", Op::Dropout { p: 0.5 }, vec![both]);
    let flat = b.push("flatten", Op::Flatten, vec![drop]);
    let hidden = b.linear("hidden", 37, flat);
    let hidden = b.relu("relu", hidden);
    let other = b.linear("other", 37, flat);
    let all = b.push("all", Op::Concat, vec![hidden, other]);
    let all = b.push("shuffle_head", Op::Shuffle { groups: 2 }, vec![all]);
    b.linear("out", 7, all);
    b
}

#[test]
fn imported_operations_give_the_interpreters_bits() {
    check(&quantize(every_exact_operation()), 3);
}

#[test]
fn slopes_maxima_and_uneven_pools_give_the_interpreters_bits() {
    let mut b = Builder::new("more", Shape::new(3, 9, 8));
    let stem = b.conv("stem", Conv2d::new(3, 12, 3).padding(1).bias(), b.input());
    let slopes = b.push("slopes", Op::PRelu { channels: 12 }, vec![stem]);
    let low = b.push("low", Op::Slice { start: 0, channels: 6 }, vec![slopes]);
    let high = b.push("high", Op::Slice { start: 6, channels: 6 }, vec![slopes]);
    let larger = b.push("larger", Op::Max, vec![low, high]);
    let uneven = Pool2d { kernel: [4, 4], padding: [1, 0], end: Some([2, 3]), ..Pool2d::new(1, 1) };
    let max = b.max_pool("max", uneven.clone(), larger);
    let mean = b.push("mean", Op::AvgPool2d(uneven.clone()), vec![larger]);
    let inside = Pool2d { count_include_pad: false, ceil_mode: true, stride: [2, 3], ..uneven };
    let joined = b.push("joined", Op::Concat, vec![max, mean]);
    let small = b.push("inside", Op::AvgPool2d(inside), vec![joined]);
    let pooled = b.push("pooled", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![small]);
    let Shape { height, width, .. } = b.shape(small);
    let spread = b.push("spread", Op::AdaptiveAvgPool2d { output: [height, width] }, vec![pooled]);
    let sum = b.push("sum", Op::Add, vec![small, spread]);
    let flat = b.push("flatten", Op::Flatten, vec![sum]);
    b.linear("out", 5, flat);
    check(&quantize(b), 2);
}

#[test]
fn residuals_and_concatenations_that_alias_are_kept_apart() {
    let mut b = Builder::new("alias", Shape::new(16, 6, 6));
    let conv = |b: &mut Builder, name: &str, x: NodeId| b.conv(name, Conv2d::new(16, 16, 3).padding(1), x);
    let input = b.input();
    let x = conv(&mut b, "a", input);
    let y = conv(&mut b, "b", x);
    // `x` is read again after the sum that could have taken its place.
    let sum = b.push("sum", Op::Add, vec![y, x]);
    let again = b.push("again", Op::Add, vec![sum, x]);
    // A part of the concatenation is computed from another part.
    let relu = b.relu("relu", again);
    let joined = b.push("joined", Op::Concat, vec![again, relu]);
    let nested = b.push("nested", Op::Concat, vec![joined, x]);
    let z = b.conv("z", Conv2d::new(48, 16, 1), nested);
    let w = conv(&mut b, "w", sum);
    // Both operands are convolutions that nobody else reads.
    let last = b.push("last", Op::Add, vec![z, w]);
    b.relu("end", last);
    check(&quantize(b), 2);
}

/// Convolutions whose outputs take more than the nearest caches, as the input of depthwise ones: both run together, a band of
/// rows at a time.
fn bands() -> Builder {
    let clip = |max| Op::Activation(Activation::Clip { min: Some(0.0), max });
    let mut b = Builder::new("bands", Shape::new(3, 47, 90));
    let depthwise = |channels: usize, size: usize| Conv2d { groups: channels, ..Conv2d::new(channels, channels, size) };
    let stem = b.conv("stem", Conv2d::new(3, 40, 3).padding(1).bias(), b.input());
    let x = b.push("relu6", clip(Some(6.0)), vec![stem]);
    let x = b.conv("depth", depthwise(40, 3).padding(1), x);
    let block = b.conv("project", Conv2d::new(40, 12, 1), x);
    // Not limited above, and read without a border.
    let x = b.conv("expand", Conv2d::new(12, 40, 1).bias(), block);
    let x = b.push("relu", clip(None), vec![x]);
    let x = b.conv("narrow", depthwise(40, 5).stride(2), x);
    let x = b.push("clip", clip(Some(2.0)), vec![x]);
    let x = b.conv("end", Conv2d::new(40, 7, 1), x);
    // Signed values, with more rows between taps than rows that are kept.
    let signed = b.conv("signed", Conv2d::new(12, 56, 1).bias(), block);
    let y = b.conv("dilated", Conv2d { dilation: [19, 2], ..depthwise(56, 3).padding(3) }, signed);
    let y = b.conv("other_end", Conv2d::new(56, 7, 1), y);
    let [x, y] = [("x", x), ("y", y)].map(|(name, x)| b.push(name, Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]));
    let sum = b.push("sum", Op::Add, vec![x, y]);
    let flat = b.push("flatten", Op::Flatten, vec![sum]);
    b.linear("out", 5, flat);
    b
}

#[test]
fn steps_that_run_together_give_the_interpreters_bits() {
    let graph = bands().finish().unwrap();
    let [float, pow2] = [ActivationScale::Float, ActivationScale::Pow2];
    for (two_level, image_sum, scale) in [(false, false, float), (false, true, float), (true, true, pow2)] {
        let mut policy = Policy { image_sum, ..Policy::default() };
        policy.activation.as_mut().unwrap().scale = scale;
        let model = Model::float(graph.clone(), formula_weights(&graph), info()).unwrap().quantize(&policy).unwrap();
        let model = if two_level { model.to_two_level().unwrap() } else { model };
        let reports = |model: &Model| {
            let model = runtime::Model::new(model.clone()).unwrap();
            let input = formula_input([1, 3, 47, 90]);
            model.session(1).unwrap().profile(input.data()).unwrap()
        };
        let steps = reports(&model);
        for step in &steps {
            let spent = step.convolving + step.rounding + step.floats;
            assert!(spent > 0.0 && spent <= step.seconds, "{step:?}");
            assert_eq!(step.convolving > 0.0, step.kind == "integer convolution", "{step:?}");
        }
        let names: Vec<String> = steps.into_iter().map(|step| step.name).collect();
        for (first, second) in [("stem", "depth"), ("expand", "narrow"), ("signed", "dilated")] {
            let is_step = |name: &str| names.iter().any(|step| step == name);
            assert!(is_step(first) && !is_step(second), "{first} and {second} in {names:?}");
        }
        check(&model, 1);
    }
}

/// The rows of a tall image are shared out to threads: all but the first begin further down than a band is long.
#[test]
fn bands_begin_anywhere() {
    let mut b = Builder::new("tall", Shape::new(3, 3000, 14));
    let x = b.conv("stem", Conv2d::new(3, 8, 3).padding(1).bias(), b.input());
    let x = b.relu("relu", x);
    let x = b.conv("depth", Conv2d { groups: 8, ..Conv2d::new(8, 8, 3).padding(1) }, x);
    let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [3, 1] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("out", 5, x);
    let model = quantize(b);
    let steps = runtime::Model::new(model.clone()).unwrap().session(1).unwrap();
    let input = formula_input([1, 3, 3000, 14]);
    let names: Vec<String> = { steps }.profile(input.data()).unwrap().into_iter().map(|step| step.name).collect();
    assert!(names.iter().any(|name| name == "stem") && !names.iter().any(|name| name == "depth"), "{names:?}");
    check(&model, 1);
}

#[test]
fn the_first_of_steps_that_run_together_is_blamed_for_its_infinities() {
    let graph = bands().finish().unwrap();
    let weights = formula_weights(&graph);
    let image = formula_input([1, 3, 47, 90]);
    for (layer, blamed) in [("expand", "expand"), ("narrow", "narrow"), ("stem", "stem")] {
        let model = Model::float(graph.clone(), weights.clone(), info()).unwrap().quantize(&Policy::default()).unwrap();
        let model = model
            .map_layers(|name, quantized| {
                if name == layer {
                    let w = &quantized.codes;
                    let scales = w.scales().iter().map(|s| s.signum() * 1e38).collect();
                    let parts = (w.shape(), w.bits(), w.block(), w.codes().to_vec(), scales);
                    quantized.codes =
                        QuantizedWeights::from_parts(parts.0, parts.1, parts.2, parts.3, parts.4).unwrap();
                }
            })
            .unwrap();
        for kernel in runtime::kernels() {
            let engine = runtime::Model::with_kernel(model.clone(), Some(kernel)).unwrap();
            for threads in [1, 3] {
                let error = engine.session(crate::threads(threads)).unwrap().run(image.data()).unwrap_err();
                let start = format!("`{blamed}` gives a value that is NaN or infinite");
                assert!(error.to_string().starts_with(&start), "{kernel}, {threads} threads: {error}");
            }
        }
    }
}

#[test]
fn functions_with_transcendentals_are_near_the_interpreter() {
    let mut b = Builder::new("functions", Shape::new(12, 5, 5));
    let x = b.push("lrn", Op::Lrn { size: 5, alpha: 0.5, beta: 0.75, k: 2.0 }, vec![b.input()]);
    let functions = Activation::examples().into_iter().enumerate();
    let functions =
        functions.map(|(i, function)| b.push(format!("function{i}"), Op::Activation(function), vec![x])).collect();
    let x = b.push("functions", Op::Concat, functions);
    let x = b.push("lrn2", Op::Lrn { size: 4, alpha: 0.5, beta: 0.6, k: 1.0 }, vec![x]);
    let x = b.conv("conv", Conv2d::new(b.channels(x), 9, 1), x);
    b.push("softmax", Op::Softmax, vec![x]);
    let graph = b.finish().unwrap();
    let weights = formula_weights(&graph);
    let model = Model::float(graph, weights, info()).unwrap();
    let image: Vec<f32> = (0..300).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let expected = plain::run(&model, &image);
    for kernel in runtime::kernels() {
        let engine = runtime::Model::with_kernel(model.clone(), Some(kernel)).unwrap();
        let found = engine.session(1).unwrap().run(&image).unwrap().to_vec();
        let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-6, "{kernel}: {difference}");
    }
}

#[test]
#[cfg_attr(target_family = "wasm", ignore = "there are no folders")]
fn a_dsc_file_runs_as_the_model_it_was_made_from() {
    let model = quantize(every_exact_operation());
    let bytes = runtime::to_dsc(&model, &SaveOptions::EXACT).unwrap();
    let image: Vec<f32> = (0..363).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let from_file = runtime::Model::from_bytes(&bytes).unwrap().session(1).unwrap().run(&image).unwrap().to_vec();
    let file = dsc::File::parse(&bytes).unwrap();
    let stored = file.to_model().unwrap();
    let from_model = runtime::Model::new(stored.clone()).unwrap().session(1).unwrap().run(&image).unwrap().to_vec();
    assert_eq!(from_file, from_model);
    assert_eq!(from_file, plain::run(&stored, &image));
    let seed = file.pair().unwrap().seed;
    file.check_logits(&plain::run(&stored, &dsc::Pair::input(seed, model.graph().input()))).unwrap();

    let folder = std::env::temp_dir().join(format!("dsconv-runtime-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("model.dsc");
    std::fs::write(&path, &bytes[..bytes.len() - 64]).unwrap();
    let error = runtime::Model::load(&path).unwrap_err().to_string();
    assert!(error.contains("model.dsc"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(runtime::Model::load(&path).unwrap_err(), runtime::Error::Io { .. }));
}

#[test]
fn a_session_is_shown_without_its_values() {
    let mut b = Builder::new("wide", Shape::new(3, 32, 32));
    let x = b.conv("conv", Conv2d::new(3, 32, 3).padding(1), b.input());
    let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    b.linear("fc", 1000, x);
    let mut session = runtime::Model::new(quantize(b)).unwrap().session(crate::threads(2)).unwrap();
    session.run(formula_input([1, 3, 32, 32]).data()).unwrap();
    let text = format!("{session:?}");
    assert!(text.starts_with("Session {") && text.len() < 2000, "{} characters: {text:.500}", text.len());
}

#[test]
fn what_is_no_image_is_refused() {
    let model = runtime::Model::new(quantize(every_exact_operation())).unwrap();
    let mut session = model.session(crate::threads(2)).unwrap();
    for wrong in [0, 362, 364] {
        let error = session.run(&vec![0.0; wrong]).unwrap_err();
        assert!(matches!(error, runtime::Error::Input { image: 363, .. }), "{error}");
    }
    let mut image = vec![f32::MAX; 2 * 363];
    assert!(matches!(session.run(&image).unwrap_err(), runtime::Error::NonFinite { step } if step == "stem"));
    image.fill(1e20);
    assert_eq!(session.run(&image).unwrap().len(), 14);
    image[400] = f32::NAN;
    assert!(matches!(session.run(&image).unwrap_err(), runtime::Error::NonFiniteInput { index: 400 }));
    assert_eq!(session.classify(&image[..363]).unwrap().len(), 1);
    assert!("sse9".parse::<runtime::KernelName>().unwrap_err().to_string().contains("scalar"));
}

#[test]
fn what_asks_for_too_much_is_refused_before_it_is_allocated() {
    let model = runtime::Model::new(quantize(every_exact_operation())).unwrap();
    let error = model.session(100_000).unwrap_err();
    assert_eq!(error.to_string(), "100000 threads cannot be had: a session has at most 1024");
    // Two channels a pixel are 8 bytes of floats, and a whole vector as a depthwise layer's input.
    let mut b = Builder::new("wide", Shape::new(2, 4600, 4600));
    let x = b.conv("depth", Conv2d { groups: 2, ..Conv2d::new(2, 2, 1) }, b.input());
    b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let error = runtime::Model::new(quantize(b)).unwrap().session(1).unwrap_err();
    assert!(
        matches!(error, runtime::Error::Memory { images: 1, takes: 1_400_000_000.., most: 1_073_742_080 }),
        "{error}"
    );
}

#[test]
#[cfg_attr(target_family = "wasm", ignore = "there are no threads")]
fn long_chains_of_views_take_neither_stack_nor_time() {
    let run = |step: fn(&mut Builder, usize, NodeId) -> NodeId, count: usize| {
        let mut b = Builder::new("chain", Shape::new(4, 1, 1));
        let mut x = b.conv("conv", Conv2d::new(4, 4, 1), b.input());
        for i in 0..count {
            x = step(&mut b, i, x);
        }
        let model = runtime::Model::new(quantize(b)).unwrap();
        assert_eq!(model.session(1).unwrap().run(&[1.0; 4]).unwrap().len(), 4);
    };
    let views = move || {
        run(|b, i, x| b.push(format!("drop{i}"), Op::Dropout { p: 0.5 }, vec![x]), 16_000);
        run(|b, i, x| b.push(format!("concat{i}"), Op::Concat, vec![x]), 16_000);
        // A part twice, and a part that is computed from another: all concatenations are copies.
        run(
            |b, i, x| {
                let all = b.push(format!("concat{i}"), Op::Concat, vec![x, x]);
                b.push(format!("slice{i}"), Op::Slice { start: 2, channels: 4 }, vec![all])
            },
            8_000,
        );
        run(
            |b, i, x| {
                let relu = b.relu(format!("relu{i}"), x);
                let all = b.push(format!("concat{i}"), Op::Concat, vec![x, relu]);
                b.push(format!("slice{i}"), Op::Slice { start: 2, channels: 4 }, vec![all])
            },
            5_000,
        );
    };
    std::thread::Builder::new().stack_size(512 * 1024).spawn(views).unwrap().join().unwrap();
}

#[test]
#[cfg_attr(target_family = "wasm", ignore = "there are no threads")]
fn sessions_of_one_model_run_at_the_same_time() {
    let model = runtime::Model::new(quantize(every_exact_operation())).unwrap();
    let image = |seed: usize| (0..363).map(|i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect::<Vec<f32>>();
    let expected: Vec<Vec<f32>> = (0..4).map(|s| model.session(1).unwrap().run(&image(s)).unwrap().to_vec()).collect();
    std::thread::scope(|scope| {
        for (seed, expected) in expected.iter().enumerate() {
            let model = &model;
            scope.spawn(move || {
                let mut session = model.session(1).unwrap();
                for _ in 0..20 {
                    assert_eq!(session.run(&image(seed)).unwrap(), expected);
                }
            });
        }
    });
}
