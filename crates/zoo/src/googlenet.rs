//! GoogLeNet: Szegedy et al., "Going deeper with convolutions", CVPR 2015 (<https://arxiv.org/abs/1409.4842>), table 1.
//!
//! | variant | inception blocks |
//! |---|---|
//! | `googlenet` | 3a-3b, 4a-4e, 5a-5b |
//!
//! The network is torchvision's, with batch normalisation after every convolution, a 3x3 convolution in place of the 5x5,
//! and poolings that round sizes up. The auxiliary heads serve training only and are left out.
//!
//! With the small stem the first convolution is 3x3, /2, and both poolings before the first inception block are left out,
//! so that a 32x32 image still has a 16x16 map there.

use graph::{Builder, Conv2d, NodeId, Op, Pool2d, Tensor, Weights};

use crate::config::NetworkSettings;
use crate::variants::Stem;

const EPS: f64 = 1e-3;

/// The channels of one inception block, in the paper's columns: `#1x1`, `#3x3 reduce`, `#3x3`, `#5x5 reduce`, `#5x5`,
/// `pool proj`.
type Inception = [usize; 6];

const INCEPTION_3: [(&str, Inception); 2] =
    [("inception3a", [64, 96, 128, 16, 32, 32]), ("inception3b", [128, 128, 192, 32, 96, 64])];
const INCEPTION_4: [(&str, Inception); 5] = [
    ("inception4a", [192, 96, 208, 16, 48, 64]),
    ("inception4b", [160, 112, 224, 24, 64, 64]),
    ("inception4c", [128, 128, 256, 24, 64, 64]),
    ("inception4d", [112, 144, 288, 32, 64, 64]),
    ("inception4e", [256, 160, 320, 32, 128, 128]),
];
const INCEPTION_5: [(&str, Inception); 2] =
    [("inception5a", [256, 160, 320, 32, 128, 128]), ("inception5b", [384, 192, 384, 48, 128, 128])];

/// The name of the node that turns an image normalised with ImageNet's mean and standard deviation into one normalised with
/// 0.5 and 0.5, on which torchvision's GoogLeNet was trained. Its parameters are constants that no PyTorch checkpoint holds;
/// [`crate::checkpoint::load`] adds them.
pub const TRANSFORM_INPUT: &str = "transform_input";

pub(crate) fn build(b: &mut Builder, s: &NetworkSettings) {
    let w = s.width;
    let small = s.stem == Stem::Small;

    let mut x = b.input();
    if s.transform_input {
        x = b.push(TRANSFORM_INPUT, Op::Affine { channels: 3 }, vec![x]);
    }
    let conv1 = match s.stem {
        Stem::ImageNet => Conv2d::new(b.channels(x), w.of(64), 7).stride(2).padding(3),
        Stem::Small | Stem::Cifar => Conv2d::new(b.channels(x), w.of(64), 3).stride(2).padding(1),
    };
    x = conv_bn_relu(b, "conv1", conv1, x);
    if !small {
        x = b.max_pool("maxpool1", Pool2d::new(3, 2).ceil_mode(), x);
    }
    x = conv_bn_relu(b, "conv2", Conv2d::new(w.of(64), w.of(64), 1), x);
    x = conv_bn_relu(b, "conv3", Conv2d::new(w.of(64), w.of(192), 3).padding(1), x);
    if !small {
        x = b.max_pool("maxpool2", Pool2d::new(3, 2).ceil_mode(), x);
    }
    for (name, channels) in INCEPTION_3 {
        x = inception(b, name, channels.map(|c| w.of(c)), x);
    }
    x = b.max_pool("maxpool3", Pool2d::new(3, 2).ceil_mode(), x);
    for (name, channels) in INCEPTION_4 {
        x = inception(b, name, channels.map(|c| w.of(c)), x);
    }
    x = b.max_pool("maxpool4", Pool2d::new(2, 2).ceil_mode(), x);
    for (name, channels) in INCEPTION_5 {
        x = inception(b, name, channels.map(|c| w.of(c)), x);
    }

    let x = b.push("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    let x = b.push("dropout", Op::Dropout { p: 0.2 }, vec![x]);
    b.linear("fc", s.classes, x);
}

/// Adds an inception block, four branches that are concatenated (the paper's figure 2b).
fn inception(b: &mut Builder, name: &str, [c1, r3, c3, r5, c5, pool]: Inception, x: NodeId) -> NodeId {
    let input = b.channels(x);

    let y1 = conv_bn_relu(b, &format!("{name}.branch1"), Conv2d::new(input, c1, 1), x);

    let y2 = conv_bn_relu(b, &format!("{name}.branch2.0"), Conv2d::new(input, r3, 1), x);
    let y2 = conv_bn_relu(b, &format!("{name}.branch2.1"), Conv2d::new(r3, c3, 3).padding(1), y2);

    let y3 = conv_bn_relu(b, &format!("{name}.branch3.0"), Conv2d::new(input, r5, 1), x);
    let y3 = conv_bn_relu(b, &format!("{name}.branch3.1"), Conv2d::new(r5, c5, 3).padding(1), y3);

    let y4 = b.max_pool(format!("{name}.branch4.0"), Pool2d::new(3, 1).padding(1).ceil_mode(), x);
    let y4 = conv_bn_relu(b, &format!("{name}.branch4.1"), Conv2d::new(input, pool, 1), y4);

    b.push(format!("{name}.concat"), Op::Concat, vec![y1, y2, y3, y4])
}

fn conv_bn_relu(b: &mut Builder, name: &str, conv: Conv2d, x: NodeId) -> NodeId {
    let x = b.conv(format!("{name}.conv"), conv, x);
    let x = b.batch_norm(format!("{name}.bn"), EPS, x);
    b.relu(format!("{name}.relu"), x)
}

/// Adds the constants of the [`TRANSFORM_INPUT`] node, which computes `x * std / 0.5 + (mean - 0.5) / 0.5`.
pub(crate) fn transform_input(weights: &mut Weights) {
    let std: [f64; 3] = [0.229, 0.224, 0.225];
    let mean: [f64; 3] = [0.485, 0.456, 0.406];
    let weight = std.map(|s| (s / 0.5) as f32).to_vec();
    let bias = mean.map(|m| ((m - 0.5) / 0.5) as f32).to_vec();
    weights.insert(format!("{TRANSFORM_INPUT}.weight"), Tensor::new([3], weight));
    weights.insert(format!("{TRANSFORM_INPUT}.bias"), Tensor::new([3], bias));
}
