use proptest::prelude::*;

use super::*;
use graph::{Builder, Conv2d, Graph, Op, Shape, Weights};

use crate::{Float, Model, SaveOptions, fixture};

fn options(floats: Float, scales: Float) -> Options {
    Options { floats: SaveOptions { floats, scale_precision: scales }, pair: None }
}

fn model() -> Model {
    fixture::quantized()
}

/// Writes a model, and checks that reading the file gives the model as the same options round it.
fn assert_round_trip(model: &Model, options: &Options) {
    let bytes = write(model, options).unwrap();
    let mut rounded = model.clone();
    rounded.round(&options.floats);
    let file = File::parse(&bytes).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(file.to_model().unwrap(), rounded);
    assert_eq!(file.pair(), options.pair.as_ref());
    assert!(write(&rounded, options).unwrap() == bytes, "written again, the bytes differ");
}

#[test]
fn a_file_holds_the_model() {
    for model in [model(), model().to_two_level().unwrap()] {
        for floats in [Float::F32, Float::F16] {
            for scales in [Float::F32, Float::F16] {
                assert_round_trip(&model, &options(floats, scales));
                let pair = Some(Pair { seed: 5, logits: vec![0.5, -1.0, 2.25] });
                assert_round_trip(&model, &Options { pair, ..options(floats, scales) });
            }
        }
    }
}

#[test]
fn layers_and_floats_are_decoded_one_by_one() {
    let model = model();
    let bytes = write(&model, &Options::EXACT).unwrap();
    let file = File::parse(&bytes).unwrap();
    let names: Vec<&str> = file.layers().iter().map(|layer| layer.node.as_str()).collect();
    assert_eq!(names, ["conv1", "grouped", "depthwise", "fc"]);
    for name in names {
        assert_eq!(file.layer(name).unwrap(), model.layers()[name]);
    }
    for (name, tensor) in model.weights().iter() {
        assert_eq!(file.floats(name).unwrap(), *tensor);
    }
    assert_eq!((file.graph(), file.info()), (model.graph(), model.info()));
    assert_eq!(file.layer("norm").unwrap_err().to_string(), "metadata, byte 64: there is no `norm`");
    assert_eq!(file.floats("fc.weight").unwrap_err().to_string(), "metadata, byte 64: there is no `fc.weight`");
}

#[test]
fn grey_and_oblong_preprocessing_is_kept() {
    let resize = Some(graph::Resize::Exact([48, 192]));
    let mut model = model();
    for preprocess in [
        graph::Preprocess { resize, ..graph::Preprocess::grey() },
        graph::Preprocess { resize, crop: Some([40, 180]), ..graph::Preprocess::imagenet() },
        graph::Preprocess::imagenet(),
    ] {
        model.info_mut().preprocess = preprocess;
        let bytes = write(&model, &Options::EXACT).unwrap();
        let read = File::parse(&bytes).unwrap().to_model().unwrap();
        assert_eq!(read.info(), model.info());
        assert_eq!(write(&read, &Options::EXACT).unwrap(), bytes);
    }
    // Existing files have it in this form.
    let text = String::from_utf8_lossy(&write(&model, &Options::EXACT).unwrap()).into_owned();
    assert!(text.contains(r#""preprocess":{"resize":256,"crop":224,"order":"rgb","divide":255.0,"mean":[0.485,"#));
}

#[test]
fn logits_are_compared_bit_by_bit() {
    let pair = Some(Pair { seed: 1, logits: vec![0.5, 0.0, 2.0] });
    let bytes = write(&model(), &Options { pair, ..Options::EXACT }).unwrap();
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.check_logits(&[0.5, 0.0, 2.0]), Ok(()));
    let error = file.check_logits(&[0.5, -0.0, 2.0]).unwrap_err();
    let start = bytes.len() - 64;
    let said = "logit 1 is -0 where 0 is stored, for the input of the stored pair";
    assert_eq!(error.to_string(), format!("logits, byte {}: {said}", start + 4));
    assert!(file.check_logits(&[0.5]).is_err());
}

#[test]
fn sections_are_aligned_and_little_beside_the_numbers() {
    let bytes = write(&model(), &Options::EXACT).unwrap();
    let count = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    // Metadata, four layers, floats.
    assert_eq!(count, 6);
    for i in 0..count {
        let at = 64 + 32 * i + 8;
        let offset = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(offset % 64, 0);
    }
    assert_eq!(bytes.len() % 64, 0);
}

#[test]
fn what_a_file_cannot_hold_is_not_written() {
    let refused = |model: &Model, options: &Options| write(model, options).unwrap_err().to_string();
    let plain = Options::EXACT;
    let (graph, weights) = fixture::float().fold().unwrap().into_parts();
    let float = Model::float(graph.into_graph(), weights, fixture::info()).unwrap();
    assert_eq!(refused(&float, &plain), "metadata, byte 64: no layer is quantized");

    let mut unfolded = fixture::float();
    let mut quantized = model();
    let layer = quantized.layers.remove("fc").unwrap();
    unfolded.weights.remove("fc.weight");
    unfolded.layers.insert("fc".into(), layer);
    let error = refused(&unfolded, &plain);
    assert_eq!(error, "metadata, byte 64: node `bn1`: a batch normalisation that is not folded");

    let pair = |logits: Vec<f32>| Options { pair: Some(Pair { seed: 1, logits }), ..Options::EXACT };
    assert_eq!(refused(&model(), &pair(vec![1.0])), "logits, byte 64: the number of logits is 1, 3 is due");
    let error = refused(&model(), &pair(vec![1.0, f32::NAN, 0.0]));
    assert_eq!(error, "logits, byte 64: `logits` has a NaN or an infinity");
}

#[test]
fn a_large_network_keeps_its_tail_exact() {
    // More than one node has floats only, and a linear layer stays in floats.
    let rule = crate::policy::Rule { layers: "fc".into(), skip: Some(true), ..Default::default() };
    let policy = crate::Policy { rules: vec![rule], ..fixture::policy(5, 2) };
    let model = fixture::float().quantize(&policy).unwrap();
    assert_round_trip(&model, &Options::EXACT);
    assert_eq!(model.weights()["fc.weight"].shape(), [3, 4]);
}

fn layered(groups: usize, per_group: (usize, usize), kernel: (usize, usize), bias: bool) -> Graph {
    let conv = Conv2d {
        groups,
        kernel: [kernel.0, kernel.1],
        bias,
        ..Conv2d::new(groups * per_group.1, groups * per_group.0, 1)
    };
    let mut b = Builder::new("g", Shape::new(conv.in_channels, 3, 3));
    let x = b.conv("conv", conv, b.input());
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("fc", 2, x);
    b.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_layer_survives_a_file(
        bits in 2u8..=8,
        block in 1usize..9,
        groups in 1usize..4,
        per_group in (1usize..4, 1usize..12),
        kernel in (1usize..4, 1usize..4),
        bias in any::<bool>(),
        two_level in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let graph = layered(groups, per_group, kernel, bias);
        let weights = Weights::init(&graph, seed);
        let float = Model::float(graph, weights, fixture::info()).unwrap();
        let mut policy = fixture::policy(bits, block);
        if two_level {
            policy.scales = blockfloat::ScaleFormat::TwoLevel;
        }
        let model = float.quantize(&policy).unwrap();
        for floats in [Float::F32, Float::F16] {
            for scales in [Float::F32, Float::F16] {
                let pair = Some(Pair { seed, logits: vec![1.5, -2.0] });
                assert_round_trip(&model, &Options { pair, ..options(floats, scales) });
            }
        }
    }
}
