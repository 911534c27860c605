//! ResNet: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016
//! (<https://arxiv.org/abs/1512.03385>), table 1.
//!
//! | variant | block | blocks of 64, 128, 256, 512 planes |
//! |---|---|---|
//! | `resnet18` | basic | 2, 2, 2, 2 |
//! | `resnet34` | basic | 3, 4, 6, 3 |
//! | `resnet50` | bottleneck | 3, 4, 6, 3 |
//! | `resnet101` | bottleneck | 3, 4, 23, 3 |
//! | `resnet152` | bottleneck | 3, 8, 36, 3 |
//!
//! As in torchvision ("v1.5"), the stride of a bottleneck is in its 3x3 convolution.
//!
//! The small stem is a 3x3 conv, 64, /2 without pooling, so that a 32x32 image has a 16x16 map in the first stage. The CIFAR
//! stem is the same with /1.

use graph::{Builder, Conv2d, NodeId, Op, Pool2d};

use crate::config::NetworkSettings;
use crate::variants::Stem;

const EPS: f64 = 1e-5;
/// The output channels of a bottleneck for each of its planes.
const EXPANSION: usize = 4;

/// One column of the paper's table 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    block: Block,
    blocks: [usize; 4],
}

/// A residual block of the paper's figure 5.
#[derive(Debug, Clone, Copy)]
enum Block {
    Basic,
    Bottleneck,
}

pub(crate) const RESNET18: Column = Column { block: Block::Basic, blocks: [2, 2, 2, 2] };
pub(crate) const RESNET34: Column = Column { block: Block::Basic, blocks: [3, 4, 6, 3] };
pub(crate) const RESNET50: Column = Column { block: Block::Bottleneck, blocks: [3, 4, 6, 3] };
pub(crate) const RESNET101: Column = Column { block: Block::Bottleneck, blocks: [3, 4, 23, 3] };
pub(crate) const RESNET152: Column = Column { block: Block::Bottleneck, blocks: [3, 8, 36, 3] };

pub(crate) fn build(b: &mut Builder, column: &Column, s: &NetworkSettings) {
    let planes = s.width.of(64);
    let mut x = b.input();
    match s.stem {
        Stem::ImageNet => {
            x = b.conv("conv1", Conv2d::new(b.channels(x), planes, 7).stride(2).padding(3), x);
            x = b.batch_norm("bn1", EPS, x);
            x = b.relu("relu", x);
            x = b.max_pool("maxpool", Pool2d::new(3, 2).padding(1), x);
        }
        Stem::Small | Stem::Cifar => {
            let stride = if s.stem == Stem::Small { 2 } else { 1 };
            x = b.conv("conv1", Conv2d::new(b.channels(x), planes, 3).stride(stride).padding(1), x);
            x = b.batch_norm("bn1", EPS, x);
            x = b.relu("relu", x);
        }
    }

    for (stage, &blocks) in column.blocks.iter().enumerate() {
        let planes = s.width.of(64 << stage);
        for block in 0..blocks {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = match column.block {
                Block::Basic => basic(b, &name, planes, stride, x),
                Block::Bottleneck => bottleneck(b, &name, planes, stride, x),
            };
        }
    }

    let x = b.push("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("fc", s.classes, x);
}

/// Adds a basic block, 3x3 and 3x3 (the paper's figure 5, left).
fn basic(b: &mut Builder, name: &str, planes: usize, stride: usize, x: NodeId) -> NodeId {
    let y = b.conv(format!("{name}.conv1"), Conv2d::new(b.channels(x), planes, 3).stride(stride).padding(1), x);
    let y = b.batch_norm(format!("{name}.bn1"), EPS, y);
    let y = b.relu(format!("{name}.relu1"), y);

    let y = b.conv(format!("{name}.conv2"), Conv2d::new(planes, planes, 3).padding(1), y);
    let y = b.batch_norm(format!("{name}.bn2"), EPS, y);

    let shortcut = shortcut(b, name, planes, stride, x);
    let y = b.push(format!("{name}.add"), Op::Add, vec![y, shortcut]);
    b.relu(format!("{name}.relu"), y)
}

/// Adds a bottleneck block, 1x1, 3x3 and 1x1 (the paper's figure 5, right).
fn bottleneck(b: &mut Builder, name: &str, planes: usize, stride: usize, x: NodeId) -> NodeId {
    let y = b.conv(format!("{name}.conv1"), Conv2d::new(b.channels(x), planes, 1), x);
    let y = b.batch_norm(format!("{name}.bn1"), EPS, y);
    let y = b.relu(format!("{name}.relu1"), y);

    let y = b.conv(format!("{name}.conv2"), Conv2d::new(planes, planes, 3).stride(stride).padding(1), y);
    let y = b.batch_norm(format!("{name}.bn2"), EPS, y);
    let y = b.relu(format!("{name}.relu2"), y);

    let y = b.conv(format!("{name}.conv3"), Conv2d::new(planes, planes * EXPANSION, 1), y);
    let y = b.batch_norm(format!("{name}.bn3"), EPS, y);

    let shortcut = shortcut(b, name, planes * EXPANSION, stride, x);
    let y = b.push(format!("{name}.add"), Op::Add, vec![y, shortcut]);
    b.relu(format!("{name}.relu"), y)
}

/// Adds a shortcut of option B: the identity, or a 1x1 projection where the shape changes.
fn shortcut(b: &mut Builder, name: &str, channels: usize, stride: usize, x: NodeId) -> NodeId {
    if stride == 1 && b.channels(x) == channels {
        return x;
    }
    let x = b.conv(format!("{name}.downsample.0"), Conv2d::new(b.channels(x), channels, 1).stride(stride), x);
    b.batch_norm(format!("{name}.downsample.1"), EPS, x)
}
