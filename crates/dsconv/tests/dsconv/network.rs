//! These tests compare whole networks with torchvision's logits, and say what quantization and training may touch.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use dsconv::{Network, ScaleUpdate};
use graph::{Builder, Preprocess, Shape, Weights};
use model::policy::Policy;
use model::{Info, Model};
use zoo::testing::{Golden, LOGITS, formula_input, formula_weights};

fn info() -> Info {
    Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: "formula".into() }
}

fn model(config: &zoo::Config) -> Model {
    let graph = zoo::build(config).unwrap();
    let weights = formula_weights(&graph);
    Model::float(graph, weights, info()).unwrap()
}

fn input(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(formula_input(shape).into_data(), shape), device)
}

fn logits(network: &Network, x: Tensor<4>) -> Vec<f32> {
    network.forward(x).inner().into_data().try_to_vec().unwrap()
}

/// The test runs one member of each family, and every variant with `DSCONV_SLOW=1`.
#[test]
fn logits_are_torchvisions() {
    let device = Device::flex();
    let all: Vec<Golden> = serde_json::from_str(LOGITS).unwrap();
    let slow = std::env::var_os("DSCONV_SLOW").is_some();
    let small = ["alexnet", "vgg11_bn", "googlenet", "resnet18", "resnet50", "densenet121", "resnet20"];
    let mut ran = 0;
    for golden in all.iter().filter(|g| slow || small.contains(&g.name.as_str())) {
        let config = zoo::Config {
            input: Some(golden.input),
            transform_input: golden.transform_input,
            ..zoo::Config::new(golden.name.clone())
        };
        let network = Network::new(&model(&config), &device);
        let x = input([golden.batch, 3, golden.input, golden.input], &device);
        let difference = golden.difference(&logits(&network, x));
        println!("{}: largest relative difference {difference:.1e}", golden.name);
        assert!(difference <= 1e-4, "{}: {difference}", golden.name);
        ran += 1;
    }
    assert!(ran >= small.len(), "a family lacks its golden logits");
}

fn small() -> Model {
    model(&zoo::Config { width: Some(0.5), ..zoo::Config::new("resnet20") })
}

#[test]
fn a_student_starts_as_the_quantized_model_and_leaves_its_teacher_alone() {
    let device = Device::flex();
    let teacher = small();
    let before = teacher.clone();
    let policy = Policy::default();
    let quantized = teacher.quantize(&policy).unwrap();
    let folded = teacher.clone().fold().unwrap();
    let plan = policy.resolve(folded.graph()).unwrap();
    let student = Network::student(&folded, &plan, ScaleUpdate::Trained, &device).unwrap();
    assert_eq!(student.to_model(info()).unwrap(), quantized);
    let x = input([2, 3, 32, 32], &device);
    assert_eq!(logits(&student, x.clone()), logits(&Network::new(&quantized, &device), x));
    assert_eq!(teacher, before);
}

#[test]
fn a_layer_takes_other_codes_and_another_bias() {
    let device = Device::flex();
    let teacher = small();
    let folded = teacher.clone().fold().unwrap();
    let plan = Policy::default().resolve(folded.graph()).unwrap();
    let index = folded.graph().find("layer1.0.conv1").unwrap().index();
    for scale_update in [ScaleUpdate::Trained, ScaleUpdate::Fixed, ScaleUpdate::Recomputed] {
        let mut student = Network::student(&folded, &plan, scale_update, &device).unwrap();
        let before = student.to_model(info()).unwrap();
        let mut codes = before.layers()["layer1.0.conv1"].codes.clone();
        codes.scale_channels(&[2.0; 8]).unwrap();
        student.requantize(index, &codes, Some(vec![0.5; 8]));
        let after = student.to_model(info()).unwrap();
        assert_eq!(after.layers()["layer1.0.conv1"].codes.dequantize(), codes.dequantize(), "{scale_update:?}");
        assert_eq!(after.weights()["layer1.0.conv1.bias"].data(), [0.5; 8]);
        assert_eq!(after.layers()["layer1.0.conv2"], before.layers()["layer1.0.conv2"]);
        assert!(student.quantized_layer(index).is_some() && student.quantized_layer(index + 1).is_none());
    }
}

#[test]
fn a_float_network_gives_its_weights_back() {
    let teacher = small();
    let network = Network::trainable(teacher.graph(), teacher.weights(), &Device::flex().autodiff());
    assert_eq!(network.to_weights(), *teacher.weights());
    assert_eq!(network.valid().to_weights(), *teacher.weights());
}

#[test]
fn taps_are_the_values_between_nodes() {
    let device = Device::flex();
    let teacher = small();
    let network = Network::new(&teacher, &device);
    let id = |name: &str| teacher.graph().find(name).unwrap();
    let (_, taps) = network.forward_taps(input([1, 3, 32, 32], &device), &[id("layer2.0.conv1"), id("conv1")]);
    assert_eq!(taps[0].dims(), [1, 16, 16, 16]);
    assert_eq!(taps[1].dims(), [1, 8, 32, 32]);
}

#[test]
fn folding_batch_norm_keeps_the_function() {
    let device = Device::flex();
    for name in ["resnet20", "densenet-embedded"] {
        let model = model(&zoo::Config::new(name));
        let (graph, weights) = model.clone().fold().unwrap().into_parts();
        let folded = Model::float(graph.into_graph(), weights, info()).unwrap();
        let x = input([2, 3, 32, 32], &device);
        let (a, b) = (logits(&Network::new(&model, &device), x.clone()), logits(&Network::new(&folded, &device), x));
        let largest = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() <= 1e-4 * largest, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn a_normalisation_may_add_nothing_to_the_variance_but_nothing_less() {
    let normed = |eps: f64| {
        let mut b = Builder::new("n", Shape::new(1, 1, 1));
        b.batch_norm("bn", eps, b.input());
        b.finish()
    };
    let graph = normed(0.0).unwrap();
    let mut weights = Weights::default();
    for (suffix, value) in [("weight", 3.0), ("bias", 1.0), ("running_mean", 2.0), ("running_var", 4.0)] {
        weights.insert(format!("bn.{suffix}"), graph::Tensor::new([1], vec![value]));
    }
    let device = Device::flex();
    let network = Network::new(&Model::float(graph, weights, info()).unwrap(), &device);
    // (6 - 2) / sqrt(4) * 3 + 1
    assert_eq!(logits(&network, Tensor::full([1, 1, 1, 1], 6.0, &device)), [7.0]);
    for eps in [-1e-3, f64::NAN, f64::INFINITY] {
        assert!(normed(eps).unwrap_err().to_string().contains("needs a finite eps >= 0"), "{eps}");
    }
}

#[test]
fn a_network_displays_a_line_for_each_layer() {
    let graph = |name: &str| {
        let mut b = Builder::new(name, Shape::new(3, 8, 8));
        let x = b.conv("stem.conv", graph::Conv2d { bias: true, ..graph::Conv2d::new(3, 8, 3).padding(1) }, b.input());
        let x = b.batch_norm("stem.norm", 1e-5, x);
        let x = b.push("stem.act", graph::Op::PRelu { channels: 8 }, vec![x]);
        let x = b.push("pool", graph::Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
        b.linear("head", 5, x);
        b.finish().unwrap()
    };
    let graph = graph("n");
    let weights = formula_weights(&graph);
    let float = Model::float(graph, weights, info()).unwrap();
    let quantized = float.quantize(&Policy::default()).unwrap();
    let device = Device::flex();
    assert_eq!(
        Network::new(&float, &device).to_string(),
        "Network {
  stem.conv: FloatConv {ch_in: 3, ch_out: 8, kernel_size: [3, 3], stride: [1, 1], dilation: [1, 1], groups: 1, \
         padding: Explicit(1, 1, 1, 1), params: 224}
  stem.norm: BatchNorm {num_features: 8, momentum: 0.1, epsilon: 0.00001, params: 32}
  stem.act: PRelu {channels: 8, params: 8}
  head: FloatConv {ch_in: 8, ch_out: 5, kernel_size: [1, 1], stride: [1, 1], dilation: [1, 1], groups: 1, \
         padding: Valid, params: 45}
  params: 309
}"
    );
    let text = Network::new(&quantized, &device).to_string();
    assert_eq!(text.lines().count(), 2 + quantized.layers().len() + 2, "{text}");
    assert!(text.contains("  head: DsConv2d {ch_in: 8, ch_out: 5, kernel_size: [1, 1]"), "{text}");
}

#[test]
fn dropout_is_a_function_of_its_seed_and_drops_in_training_alone() {
    let mut b = Builder::new("drops", Shape::new(4, 16, 16));
    let x = b.push("first", graph::Op::Dropout { p: 0.25 }, vec![b.input()]);
    let x = b.push("second", graph::Op::Dropout { p: 0.5 }, vec![x]);
    b.push("flatten", graph::Op::Flatten, vec![x]);
    let network = Network::trainable(&b.finish().unwrap(), &Weights::default(), &Device::flex().autodiff());
    let ones = || Tensor::<4>::ones([8, 4, 16, 16], &Device::flex().autodiff());
    let host = |x: Tensor<2>| x.inner().into_data().try_to_vec::<f32>().unwrap();
    let drop = |seed| host(network.forward_with_dropout(ones(), seed));
    let dropped = drop(7);
    // Another draws from burn's generator, which is one for all threads.
    Tensor::<1>::random([3], burn::tensor::Distribution::Default, &Device::flex());
    assert_eq!(drop(7), dropped);
    assert_ne!(drop(8), dropped);
    assert_eq!(host(network.forward(ones())), [1.0; 8192]);
    // What both keep is 3/8 of all, times 1 / (3/4 * 1/2).
    let kept = dropped.iter().filter(|&&v| v != 0.0).count();
    assert!(dropped.iter().all(|v| *v == 0.0 || (v - 8.0 / 3.0).abs() < 1e-6));
    assert!((kept as f32 / 8192.0 - 0.375).abs() < 0.03, "{kept}");
}

#[test]
fn statistics_are_averages_of_copies_whichever_thread_they_run_on() {
    let device = Device::flex().autodiff();
    let mut b = Builder::new("norm", Shape::new(1, 2, 2));
    b.batch_norm("bn", 1e-5, b.input());
    let graph = b.finish().unwrap();
    let network = Network::trainable(&graph, &Weights::init(&graph, 0), &device);
    let mean = |network: &Network| network.to_weights()["bn.running_mean"].data()[0];
    let constant = |value: f32| Tensor::<4>::ones([2, 1, 2, 2], &device).mul_scalar(value);

    for _ in 0..2 {
        let copies = [network.with_own_statistics(), network.with_own_statistics()];
        let before = mean(&network);
        // All on one thread, which burn would take for two steps.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                [10.0, 30.0].into_iter().zip(copies.clone()).for_each(|(x, copy)| drop(copy.forward(constant(x))))
            });
        });
        assert_eq!(mean(&network), before);
        network.average_statistics(&copies);
        // A tenth of each new mean, as burn has it: (10 + 30) / 2 * 0.1 + before * 0.9.
        assert!((mean(&network) - (2.0 + 0.9 * before)).abs() < 1e-5, "{}", mean(&network));
    }
}
