//! VGG: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015
//! (<https://arxiv.org/abs/1409.1556>), table 1.
//!
//! | variant | paper's column | 3x3 convolutions of 64, 128, 256, 512, 512 channels |
//! |---|---|---|
//! | `vgg11`, `vgg11_bn` | A | 1, 1, 2, 2, 2 |
//! | `vgg13`, `vgg13_bn` | B | 2, 2, 2, 2, 2 |
//! | `vgg16`, `vgg16_bn` | D | 2, 2, 3, 3, 3 |
//! | `vgg19`, `vgg19_bn` | E | 2, 2, 4, 4, 4 |
//!
//! A `_bn` variant has a batch normalisation after every convolution.
//!
//! With the small stem there is no fifth pooling, the pooled map is 2x2 and the hidden layers are 2048 wide.

use graph::{Builder, Conv2d, Op, Pool2d};

use crate::config::NetworkSettings;
use crate::variants::Stem;

/// The output channels of the five stages.
const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];

/// One column of the paper's table 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    convs: [usize; 5],
    batch_norm: bool,
}

impl Column {
    /// Returns the same column with batch normalisation.
    pub(crate) const fn bn(self) -> Self {
        Self { batch_norm: true, ..self }
    }
}

pub(crate) const A: Column = Column { convs: [1, 1, 2, 2, 2], batch_norm: false };
pub(crate) const B: Column = Column { convs: [2, 2, 2, 2, 2], batch_norm: false };
pub(crate) const D: Column = Column { convs: [2, 2, 3, 3, 3], batch_norm: false };
pub(crate) const E: Column = Column { convs: [2, 2, 4, 4, 4], batch_norm: false };

pub(crate) fn build(b: &mut Builder, column: &Column, s: &NetworkSettings) {
    let (pools, map, hidden) = match s.stem {
        Stem::ImageNet => (5, 7, s.width.of(4096)),
        Stem::Small | Stem::Cifar => (4, 2, s.width.of(2048)),
    };

    let mut x = b.input();
    let mut index = 0;
    let mut name = || {
        index += 1;
        format!("features.{}", index - 1)
    };
    for (stage, (&convs, &channels)) in column.convs.iter().zip(&CHANNELS).enumerate() {
        for _ in 0..convs {
            let conv = Conv2d::new(b.channels(x), s.width.of(channels), 3).padding(1).bias();
            x = b.conv(name(), conv, x);
            if column.batch_norm {
                x = b.batch_norm(name(), 1e-5, x);
            }
            x = b.relu(name(), x);
        }
        if stage < pools {
            x = b.max_pool(name(), Pool2d::new(2, 2), x);
        }
    }

    let x = b.push("avgpool", Op::AdaptiveAvgPool2d { output: [map; 2] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    let x = b.linear("classifier.0", hidden, x);
    let x = b.relu("classifier.1", x);
    let x = b.push("classifier.2", Op::Dropout { p: 0.5 }, vec![x]);
    let x = b.linear("classifier.3", hidden, x);
    let x = b.relu("classifier.4", x);
    let x = b.push("classifier.5", Op::Dropout { p: 0.5 }, vec![x]);
    b.linear("classifier.6", s.classes, x);
}
