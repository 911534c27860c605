//! DenseNet: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", CVPR 2017
//! (<https://arxiv.org/abs/1608.06993>), table 1.
//!
//! | variant | growth k | first convolution | dense layers a block |
//! |---|---|---|---|
//! | `densenet121` | 32 | 64 | 6, 12, 24, 16 |
//! | `densenet161` | 48 | 96 | 6, 12, 36, 24 |
//! | `densenet169` | 32 | 64 | 6, 12, 32, 32 |
//! | `densenet201` | 32 | 64 | 6, 12, 48, 32 |
//! | `densenet100_bc` | 12 | 24 | 16, 16, 16 (DenseNet-BC, L = 100, for CIFAR) |
//! | `densenet-embedded` | 16 | 32 | 3, 6, 12 |
//!
//! All are "BC": a 1x1 bottleneck of 4k channels stands before every 3x3, and transitions halve the channels.
//!
//! The small stem is a 3x3 conv, /2 without pooling. `densenet100_bc` has the paper's CIFAR stem instead, a 3x3 convolution
//! of stride 1 directly before the first block.

use graph::{Builder, Conv2d, NodeId, Op, Pool2d};

use crate::config::NetworkSettings;
use crate::variants::Stem;

const EPS: f64 = 1e-5;
/// The channels of a bottleneck for each channel of growth.
const BOTTLENECK: usize = 4;

/// One column of the paper's table 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    growth: usize,
    first: usize,
    blocks: &'static [usize],
    /// Whether the stem is the paper's for CIFAR: stride 1, and no normalisation before the first block.
    pub(crate) cifar: bool,
}

impl Column {
    const fn new(growth: usize, first: usize, blocks: &'static [usize]) -> Self {
        Self { growth, first, blocks, cifar: false }
    }
}

pub(crate) const DENSENET121: Column = Column::new(32, 64, &[6, 12, 24, 16]);
pub(crate) const DENSENET161: Column = Column::new(48, 96, &[6, 12, 36, 24]);
pub(crate) const DENSENET169: Column = Column::new(32, 64, &[6, 12, 32, 32]);
pub(crate) const DENSENET201: Column = Column::new(32, 64, &[6, 12, 48, 32]);
pub(crate) const DENSENET100_BC: Column = Column { cifar: true, ..Column::new(12, 24, &[16, 16, 16]) };
pub(crate) const EMBEDDED: Column = Column::new(16, 32, &[3, 6, 12]);

pub(crate) fn build(b: &mut Builder, column: &Column, s: &NetworkSettings) {
    let (growth, first) = (s.width.of(column.growth), s.width.of(column.first));

    let mut x = b.input();
    if column.cifar {
        x = b.conv("features.conv0", Conv2d::new(b.channels(x), first, 3).padding(1), x);
    } else {
        let conv0 = match s.stem {
            Stem::ImageNet => Conv2d::new(b.channels(x), first, 7).stride(2).padding(3),
            Stem::Small | Stem::Cifar => Conv2d::new(b.channels(x), first, 3).stride(2).padding(1),
        };
        x = b.conv("features.conv0", conv0, x);
        x = b.batch_norm("features.norm0", EPS, x);
        x = b.relu("features.relu0", x);
        if s.stem == Stem::ImageNet {
            x = b.max_pool("features.pool0", Pool2d::new(3, 2).padding(1), x);
        }
    }

    for (i, &layers) in column.blocks.iter().enumerate() {
        for layer in 1..=layers {
            x = dense_layer(b, &format!("features.denseblock{}.denselayer{layer}", i + 1), growth, x);
        }
        if i + 1 < column.blocks.len() {
            x = transition(b, &format!("features.transition{}", i + 1), x);
        }
    }

    let x = b.batch_norm("features.norm5", EPS, x);
    let x = b.relu("features.relu5", x);
    let x = b.push("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("classifier", s.classes, x);
}

/// Adds BN-ReLU-Conv(1x1)-BN-ReLU-Conv(3x3) and concatenates its `k` channels with its input: `x_l = [x_0, ..., H(x_0, ...)]`.
fn dense_layer(b: &mut Builder, name: &str, growth: usize, x: NodeId) -> NodeId {
    let y = b.batch_norm(format!("{name}.norm1"), EPS, x);
    let y = b.relu(format!("{name}.relu1"), y);
    let y = b.conv(format!("{name}.conv1"), Conv2d::new(b.channels(x), BOTTLENECK * growth, 1), y);
    let y = b.batch_norm(format!("{name}.norm2"), EPS, y);
    let y = b.relu(format!("{name}.relu2"), y);
    let y = b.conv(format!("{name}.conv2"), Conv2d::new(BOTTLENECK * growth, growth, 3).padding(1), y);
    b.push(format!("{name}.concat"), Op::Concat, vec![x, y])
}

/// Adds BN-ReLU-Conv(1x1) to half the channels and a 2x2 average pooling.
fn transition(b: &mut Builder, name: &str, x: NodeId) -> NodeId {
    let channels = b.channels(x);
    let x = b.batch_norm(format!("{name}.norm"), EPS, x);
    let x = b.relu(format!("{name}.relu"), x);
    let x = b.conv(format!("{name}.conv"), Conv2d::new(channels, channels / 2, 1), x);
    b.push(format!("{name}.pool"), Op::AvgPool2d(Pool2d::new(2, 2)), vec![x])
}
