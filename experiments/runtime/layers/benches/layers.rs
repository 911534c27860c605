//! Single layers of well-known networks at W4A8: time of the layer's step alone, rounding for the next layer included.
//! One element is one multiply-accumulate, so that `Gelem/s` reads as GMAC/s. Every kernel of this CPU runs but the
//! scalar one, which is not for speed; `cargo bench ... -- avx2` picks those whose name it has.
use std::collections::BTreeMap;
use std::time::Duration;

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, QuantizedWeights};
use criterion::{Criterion, Throughput};
use graph::{Builder, Conv2d, Preprocess, Shape, Weights};
use model::{Info, Model, QuantizedLayer};

/// Name; channels in and out, kernel, stride, groups; side of the input.
const LAYERS: [(&str, [usize; 5], usize); 9] = [
    ("resnet50 stem 7x7", [3, 64, 7, 2, 1], 224),
    ("resnet50 layer1 3x3", [64, 64, 3, 1, 1], 56),
    ("resnet50 layer1 1x1 widening", [64, 256, 1, 1, 1], 56),
    ("resnet50 layer3 3x3", [256, 256, 3, 1, 1], 14),
    ("resnet50 layer3 1x1 narrowing", [1024, 256, 1, 1, 1], 14),
    ("resnet50 layer4 3x3", [512, 512, 3, 1, 1], 7),
    ("vgg16 conv2 3x3", [128, 128, 3, 1, 1], 112),
    ("mobilenet_v2 depthwise 3x3", [144, 144, 3, 1, 144], 56),
    ("alexnet fc", [9216, 4096, 1, 1, 1], 1),
];

/// The layer, behind a ReLU and before another one: its outputs are limited and rounded as in a network.
fn model([cin, cout, kernel, stride, groups]: [usize; 5], side: usize, block: Option<usize>) -> Model {
    let mut b = Builder::new("layer", Shape::new(cin, side, side));
    let conv = Conv2d { stride: [stride; 2], padding: [kernel / 2; 2], groups, ..Conv2d::new(cin, cout, kernel) };
    let narrow = Conv2d::new(cout, 16, 1);
    let input = b.input();
    let mut x = if cin == 3 { input } else { b.relu("positive", input) };
    x = b.conv("layer", conv.clone(), x);
    x = b.relu("relu", x);
    b.conv("next", narrow.clone(), x);
    let graph = b.finish().expect("a valid graph");
    let block = block.map(|n| BlockSize::new(n).expect("a block"));
    let quantized = |conv: &Conv2d, signed: bool| {
        let (shape, bits) = (conv.weight_shape(), Bits::new(4).expect("4 bits"));
        let size = block.unwrap_or(BlockSize::new(64).expect("a block"));
        let codes = (0..shape.iter().product::<usize>()).map(|i| (i * 7 % 15) as i8 - 7).collect();
        let scales = vec![0.01; shape[0] * size.count(shape[1]) * shape[2] * shape[3]];
        let codes = QuantizedWeights::from_parts(shape, bits, size, codes, scales).expect("weights");
        let codes = if block.is_none() { codes.to_two_level() } else { codes };
        let format = ActivationFormat {
            bits: Bits::MAX,
            block: block.unwrap_or(BlockSize::PIXEL),
            scale: ActivationScale::Pow2,
        };
        QuantizedLayer { codes, activation: Some(format), signed }
    };
    let layers =
        BTreeMap::from([("layer".into(), quantized(&conv, cin == 3)), ("next".into(), quantized(&narrow, false))]);
    let mut weights = Weights::default();
    for (name, conv) in [("layer", &conv), ("next", &narrow)] {
        if conv.bias {
            let bias = graph::Tensor::new([conv.out_channels], vec![0.1; conv.out_channels]);
            weights.insert(format!("{name}.bias"), bias);
        }
    }
    let info = Info { preprocess: Preprocess::imagenet(), classes: vec![], source: "a bench".into() };
    Model::new(graph, weights, layers, info).expect("a model whose parts fit")
}

fn layers(c: &mut Criterion) {
    for (name, sizes, side) in LAYERS {
        let mut group = c.benchmark_group(name);
        let schemes = [("B=64", Some(64)), ("B=128", Some(128)), ("two-level", None)];
        let kernels = runtime::kernels().into_iter().filter(|&kernel| kernel != runtime::KernelName::Scalar);
        for (kernel, (scheme, block)) in kernels.flat_map(|kernel| schemes.map(|scheme| (kernel, scheme))) {
            let model = runtime::Model::with_kernel(model(sizes, side, block), Some(kernel)).expect("a model");
            let mut session = model.session(1).expect("a session");
            let image: Vec<f32> = (0..sizes[0] * side * side).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let step = |session: &mut runtime::Session| {
                let steps = session.profile(&image).expect("a run");
                steps.into_iter().find(|s| s.name == "layer").expect("the layer's step")
            };
            group.throughput(Throughput::Elements(step(&mut session).macs));
            group.bench_function(format!("{kernel} {scheme}"), |b| {
                b.iter_custom(|runs| (0..runs).map(|_| Duration::from_secs_f64(step(&mut session).seconds)).sum());
            });
        }
        group.finish();
    }
}

fn main() {
    let time = Duration::from_millis;
    let criterion = Criterion::default().sample_size(20).warm_up_time(time(200)).measurement_time(time(800));
    let mut criterion = criterion.configure_from_args();
    layers(&mut criterion);
    criterion.final_summary();
}
