//! These tests compare quantized weights of anybody's module with the layers of this crate, and say what stays as it is.

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, QuantizedWeights, ScaleRule, WeightFormat};
use burn::module::{Lora, Module, ModuleMapper, Param, ParamGroup, ParamId};
use burn::nn::conv::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, Conv3d, Conv3dConfig};
use burn::nn::conv::{ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, LinearLayout};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor, Tolerance, activation::relu, module::adaptive_avg_pool2d};
use dsconv::{DsConv2d, DsConv2dConfig, DsLinear, Error, Network, QuantizationConfig, block_float, codes, quantize};
use graph::{Builder, Graph, Op, Preprocess, Shape};
use model::Info;

#[derive(Module, Debug)]
struct Net {
    blocks: Vec<Conv2d>,
    norm: BatchNorm,
    up: ConvTranspose2d,
    head: Linear,
    own: Param<Tensor<4>>,
}

impl Net {
    fn new(device: &Device) -> Self {
        let conv = |groups: usize| Conv2dConfig::new([6, 6], [3, 2]).with_groups(groups).init(device);
        Self {
            blocks: vec![conv(1), conv(2)],
            norm: BatchNormConfig::new(6).init(device),
            up: ConvTranspose2dConfig::new([6, 4], [2, 2]).init(device),
            head: LinearConfig::new(4, 3).with_layout(LinearLayout::Col).init(device),
            own: Param::from_tensor(Tensor::random([2, 2, 1, 1], Distribution::Default, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.blocks.iter().fold(x, |x, conv| conv.forward(x));
        let x = self.up.forward(self.norm.forward(x));
        self.head.forward(x.mean_dim(3).mean_dim(2).flatten(1, 3))
    }
}

fn format(bits: u8, block: usize) -> WeightFormat {
    WeightFormat::new(Bits::new(bits).unwrap(), BlockSize::new(block).unwrap(), ScaleRule::Mse)
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.inner().into_data().try_to_vec().unwrap()
}

fn paths(net: &Net) -> Vec<String> {
    codes(net).unwrap().into_keys().collect()
}

#[test]
fn convolutions_and_linear_layers_become_what_this_crates_layers_are() {
    let device = Device::flex();
    let net = Net::new(&device);
    let weight = format(3, 4);
    let quantized = quantize(net.clone(), weight, &ParamGroup::all()).unwrap();
    let config = QuantizationConfig::new().with_weight(weight).with_activation(None);
    let codes = codes(&quantized).unwrap();
    assert_eq!(codes.keys().collect::<Vec<_>>(), ["blocks.0.weight", "blocks.1.weight", "head.weight"]);
    for (i, conv) in net.blocks.iter().enumerate() {
        let layer = DsConv2d::from_conv(conv.clone(), config).unwrap();
        assert_eq!(codes[&format!("blocks.{i}.weight")], layer.codes().unwrap());
        assert_eq!(values(quantized.blocks[i].weight.val()), layer.codes().unwrap().dequantize());
        let x = Tensor::random([2, 6, 5, 5], Distribution::Default, &device);
        let (got, want) = (quantized.blocks[i].forward(x.clone()), layer.forward(x));
        // The sums run in another order.
        got.into_data().assert_approx_eq::<f32>(&want.into_data(), Tolerance::absolute(1e-5));
    }
    let layer = DsLinear::from_linear(net.head.clone(), config).unwrap();
    assert_eq!(codes["head.weight"], layer.codes().unwrap());
    // burn's weight is the transpose.
    assert_eq!(values(quantized.head.weight.val().transpose()), layer.codes().unwrap().dequantize());
    assert_eq!(values(quantized.up.weight.val()), values(net.up.weight.val()));
    assert_eq!(values(quantized.own.val()), values(net.own.val()));
    assert_eq!(values(quantized.norm.gamma.val()), values(net.norm.gamma.val()));
}

#[test]
fn convolutions_of_one_and_of_three_dimensions_have_blocks_of_channels_too() {
    #[derive(Module, Debug)]
    struct Both {
        line: Conv1d,
        volume: Conv3d,
    }
    let device = Device::flex();
    let both = Both {
        line: Conv1dConfig::new(5, 2, 3).init(&device),
        volume: Conv3dConfig::new([5, 2], [3, 2, 2]).init(&device),
    };
    let quantized = quantize(both.clone(), format(4, 2), &ParamGroup::all()).unwrap();
    let codes = codes(&quantized).unwrap();
    let line = QuantizedWeights::quantize(&values(both.line.weight.val()), [2, 5, 3, 1], format(4, 2)).unwrap();
    let volume = QuantizedWeights::quantize(&values(both.volume.weight.val()), [2, 5, 3, 4], format(4, 2)).unwrap();
    assert_eq!(values(quantized.line.weight.val()), line.dequantize());
    assert_eq!(values(quantized.volume.weight.val()), volume.dequantize());
    assert_eq!([&codes["line.weight"], &codes["volume.weight"]], [&line, &volume]);
}

#[test]
fn a_group_restricts_what_is_quantized_and_formats_may_differ() {
    let net = Net::new(&Device::flex());
    let net = quantize(net, format(4, 2), &ParamGroup::from_predicate("blocks")).unwrap();
    assert_eq!(paths(&net), ["blocks.0.weight", "blocks.1.weight"]);
    let net = quantize(net, format(8, 4), &ParamGroup::from_predicate("head")).unwrap();
    let codes = codes(&net).unwrap();
    let formats: Vec<_> = codes.values().map(|codes| (codes.bits().get(), codes.block().get())).collect();
    assert_eq!(formats, [(4, Some(2)), (4, Some(2)), (8, Some(4))]);
}

#[test]
fn what_cannot_be_quantized_is_an_error() {
    let net = Net::new(&Device::flex());
    let all = ParamGroup::all();
    let nothing = quantize(net.clone(), format(4, 2), &ParamGroup::from_predicate("norm")).unwrap_err();
    assert_eq!(nothing, Error::NothingToQuantize);

    let twice = quantize(net.clone(), format(4, 2), &all).and_then(|net| quantize(net, format(4, 2), &all));
    assert_eq!(twice.unwrap_err(), Error::Reparameterized { path: "blocks.0.weight".into() });
    let adapted = net.clone().apply_lora(Lora::new(2, 4.0));
    assert_eq!(
        quantize(adapted, format(4, 2), &all).unwrap_err(),
        Error::Reparameterized { path: "head.weight".into() }
    );

    let mut bad = net;
    bad.head.weight = bad.head.weight.map(|weight| weight * f32::NAN);
    let error = quantize(bad, format(4, 2), &all).unwrap_err();
    assert_eq!(error.to_string(), "'head.weight': element 0 is NaN or infinite");
}

#[test]
fn shadow_weights_and_scales_train_and_stay_codes() {
    let device = Device::flex().autodiff();
    let net = Net::new(&device);
    let mut student = quantize(net.clone(), format(4, 4), &ParamGroup::all()).unwrap();
    let before = codes(&student).unwrap();
    let mut optimizer = AdamConfig::new().init();
    for _ in 0..4 {
        let x = Tensor::random([2, 6, 9, 8], Distribution::Default, &device);
        let loss = (student.forward(x.clone()) - net.forward(x).detach()).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &student);
        student = optimizer.step(0.2, student, gradients);
    }
    let after = codes(&student).unwrap();
    let is_moved = |of: fn(&QuantizedWeights) -> Vec<f32>| after.keys().all(|k| of(&after[k]) != of(&before[k]));
    assert!(is_moved(|w| w.scales().to_vec()), "scales");
    assert!(is_moved(|w| w.codes().iter().map(|&q| f32::from(q)).collect()), "codes");

    // Validation, and the way back to training, change nothing.
    for student in [student.valid(), student.valid().train()] {
        assert_eq!(codes(&student).unwrap(), after);
    }
    let floats = student.valid().materialize();
    assert_eq!(codes(&floats).unwrap().len(), 0);
    assert_eq!(values(floats.blocks[0].weight.val()), after["blocks.0.weight"].dequantize());
}

#[test]
fn a_frozen_weight_keeps_its_scales_and_scales_can_be_frozen_alone() {
    let net = Net::new(&Device::flex().autodiff()).freeze_group(ParamGroup::from_predicate("blocks"));
    let net = quantize(net, format(4, 4), &ParamGroup::all()).unwrap();
    let trained = |net: &Net| {
        let loss = net.blocks[0].weight.val().sum() + net.head.weight.val().sum();
        GradientsParams::from_grads(loss.backward(), net).len()
    };
    assert_eq!(trained(&net), 2, "weight and gain of the head");
    assert_eq!(trained(&net.freeze_group(ParamGroup::from_predicate("gain"))), 1, "the weight alone");
}

#[test]
fn a_record_brings_codes_scales_and_bits() {
    let device = Device::flex();
    let saved = quantize(Net::new(&device), format(3, 4), &ParamGroup::all()).unwrap();
    let fresh = quantize(Net::new(&device), format(4, 4), &ParamGroup::all()).unwrap();
    let bytes = saved.clone().into_record().into_bytes().unwrap();
    let loaded = fresh.load_record(burn::store::ModuleRecord::from_bytes(bytes).unwrap());
    assert_eq!(codes(&loaded).unwrap(), codes(&saved).unwrap());
    assert_eq!(values(loaded.head.weight.val()), values(saved.head.weight.val()));
    // Other blocks have another number of scales.
    let other = quantize(Net::new(&device), format(3, 1), &ParamGroup::all()).unwrap();
    assert!(other.try_load_record(saved.into_record()).is_err());
}

#[test]
fn weights_that_training_made_nan_are_an_error_with_their_path() {
    let mut net = quantize(Net::new(&Device::flex()), format(4, 4), &ParamGroup::all()).unwrap();
    net.blocks[1] = net.blocks[1].clone().map(&mut Spoil);
    let error = codes(&net).unwrap_err();
    assert_eq!(error.to_string(), "'blocks.1.weight': element 0 is NaN or infinite");
}

struct Spoil;

impl ModuleMapper for Spoil {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|x| x * f32::NAN)
    }
}

#[test]
fn shadow_weights_are_those_of_layers_and_of_quantized_parameters() {
    #[derive(Module, Debug)]
    struct Mixed {
        ours: DsConv2d,
        quantized: Linear,
        float: Linear,
    }
    let device = Device::flex();
    let linear = || LinearConfig::new(4, 4).init(&device);
    let ours = DsConv2dConfig::new([4, 4], [1, 1]).init(&device);
    let mixed = Mixed { ours, quantized: linear(), float: linear() };
    let mixed = quantize(mixed, format(4, 4), &ParamGroup::from_predicate("quantized")).unwrap();
    let group = dsconv::shadow_weights(&mixed);
    let is_in = |id: ParamId| group.matches(&id, None);
    let ids = [mixed.ours.latent.id, mixed.quantized.weight.id, mixed.float.weight.id, mixed.ours.scales.id];
    assert_eq!(ids.map(is_in), [true, true, false, false]);
}

#[derive(Module, Debug)]
struct Small {
    conv: Conv2d,
    norm: BatchNorm,
    head: Linear,
    last: Linear,
}

impl Small {
    fn new(device: &Device) -> Self {
        let mut norm = BatchNormConfig::new(8).init(device);
        norm.gamma = norm.gamma.map(|x| x.random_like(Distribution::Uniform(0.5, 2.0)));
        norm.beta = norm.beta.map(|x| x.random_like(Distribution::Default));
        Self {
            conv: Conv2dConfig::new([3, 8], [3, 3]).with_stride([2, 2]).init(device),
            norm,
            head: LinearConfig::new(8, 6).init(device),
            last: LinearConfig::new(6, 5).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>, [image, pooled]: [ActivationFormat; 2]) -> Tensor<2> {
        let x = relu(self.norm.forward(self.conv.forward(block_float(x, image, true, 1))));
        let x = block_float(adaptive_avg_pool2d(x, [1, 1]), pooled, false, 1);
        self.last.forward(self.head.forward(x.flatten(1, 3)))
    }

    fn graph() -> Graph {
        let mut b = Builder::new("small", Shape::new(3, 9, 9));
        let conv = graph::Conv2d { bias: true, ..graph::Conv2d::new(3, 8, 3).stride(2) };
        let x = b.conv("conv", conv, b.input());
        let x = b.batch_norm("norm", 1e-5, x);
        let x = b.relu("relu", x);
        let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
        let x = b.linear("head", 6, x);
        b.linear("last", 5, x);
        b.finish().unwrap()
    }
}

fn info() -> Info {
    Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: "test".into() }
}

#[test]
fn an_exported_module_computes_what_it_simulates() {
    let device = Device::flex();
    let group = ParamGroup::from_paths(vec!["conv.weight", "head.weight"]);
    let weight = format(4, 2);
    let small = quantize(Small::new(&device), weight, &group).unwrap();
    let [image, pooled] = [8, 5].map(|bits| {
        let (bits, scale) = (Bits::new(bits).unwrap(), ActivationScale::Float);
        ActivationFormat { bits, block: weight.block, scale }
    });
    let format = |layer: &str| Some(if layer == "conv" { image } else { pooled });
    let model = dsconv::export(&small, Small::graph(), format, info()).unwrap();
    assert!(model.graph().find("norm").is_none(), "it is part of the convolution");

    let x = Tensor::random([2, 3, 9, 9], Distribution::Normal(0.0, 1.0), &device);
    let want = values(small.forward(x.clone(), [image, pooled]));
    let near = |got: &[f32], tolerance: f32| {
        let largest = want.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= tolerance * largest, "{got} and {want}");
        }
    };
    // burn adds the products of a linear layer in another order than those of a 1x1 convolution.
    near(&values(Network::new(&model, &device).forward(x.clone())), 1e-6);
    // Where that moves a value over a half, it becomes the neighbouring code of 255.
    let file = runtime::to_dsc(&model, &model::SaveOptions::EXACT).unwrap();
    let engine = runtime::Model::from_bytes(&file).unwrap();
    near(engine.session(1).unwrap().run(&values(x)).unwrap(), 1e-2);
}

#[test]
fn a_module_that_is_not_its_graph_is_not_exported() {
    let small = quantize(Small::new(&Device::flex()), format(4, 2), &ParamGroup::all()).unwrap();
    let mut other = Builder::new("other", Shape::new(3, 9, 9));
    other.conv("conv", graph::Conv2d { bias: true, ..graph::Conv2d::new(3, 8, 3) }, other.input());
    let error = dsconv::export(&small, other.finish().unwrap(), |_| None, info()).unwrap_err();
    assert!(error.to_string().contains("head"), "{error}");
    let mut bad = small;
    bad.last.bias = bad.last.bias.map(|bias| bias.map(|x| x * f32::NAN));
    let error = dsconv::export(&bad, Small::graph(), |_| None, info()).unwrap_err();
    assert!(error.to_string().contains("last.bias"), "{error}");
}
