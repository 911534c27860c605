//! A small network for the tests of this crate and of those that write models to files.
use blockfloat::{Bits, BlockSize};

use graph::{Builder, ChannelOrder, Conv2d, Graph, Op, Preprocess, Shape, Weights};

use crate::{Info, Model, Policy};

/// Makes a network with ragged blocks, a grouped and a depthwise convolution, a normalisation that is folded, one that
/// becomes affine, and a linear layer.
pub fn graph() -> Graph {
    let mut b = Builder::new("tiny", Shape::new(3, 5, 5));
    let x = b.conv("conv1", Conv2d::new(3, 10, 3).padding(1), b.input());
    let x = b.batch_norm("bn1", 1e-5, x);
    let x = b.relu("relu", x);
    let x = b.batch_norm("norm", 0.1 + 0.2, x);
    let x = b.conv("grouped", Conv2d { groups: 2, ..Conv2d::new(10, 4, 1) }, x);
    let x = b.conv("depthwise", Conv2d { groups: 4, ..Conv2d::new(4, 4, 3).bias() }, x);
    let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    b.linear("fc", 3, x);
    b.finish().unwrap()
}

pub fn info() -> Info {
    Info {
        preprocess: Preprocess { order: ChannelOrder::Bgr, mean: vec![0.1, 1.0 / 3.0, 1e-7], ..Preprocess::imagenet() },
        classes: vec!["cat".into(), "\"dog\"\u{e9}".into(), String::new()],
        source: "made for a test".into(),
    }
}

pub fn float() -> Model {
    Model::float(graph(), Weights::init(&graph(), 7), info()).unwrap()
}

pub fn policy(bits: u8, block: usize) -> Policy {
    let (bits, block) = (Bits::new(bits).unwrap(), BlockSize::new(block).unwrap());
    let activation = Policy::default().activation.map(|format| blockfloat::ActivationFormat { block, ..format });
    Policy { bits, block, activation, ..Policy::default() }
}

pub fn quantized() -> Model {
    float().quantize(&policy(3, 4)).unwrap()
}
