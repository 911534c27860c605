//! AlexNet: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014
//! (<https://arxiv.org/abs/1404.5997>), the one-tower form of Krizhevsky, Sutskever, Hinton, NIPS 2012.
//!
//! | variant | convolutions | fully connected |
//! |---|---|---|
//! | `alexnet` | 64, 192, 384, 256, 256 | 4096, 4096, classes |
//!
//! With the small stem the first convolution is 5x5, /1, the pooled map is 3x3, a quarter of the paper's, and the hidden
//! layers are 2048 wide.

use graph::{Builder, Conv2d, Op, Pool2d};

use crate::config::NetworkSettings;
use crate::variants::Stem;

pub(crate) fn build(b: &mut Builder, s: &NetworkSettings) {
    let w = s.width;
    let (conv1, map, hidden) = match s.stem {
        Stem::ImageNet => (Conv2d::new(b.channels(b.input()), w.of(64), 11).stride(4).padding(2), 6, w.of(4096)),
        Stem::Small | Stem::Cifar => (Conv2d::new(b.channels(b.input()), w.of(64), 5).padding(2), 3, w.of(2048)),
    };

    let x = b.conv("features.0", conv1.bias(), b.input());
    let x = b.relu("features.1", x);
    let x = b.max_pool("features.2", Pool2d::new(3, 2), x);
    let x = b.conv("features.3", Conv2d::new(w.of(64), w.of(192), 5).padding(2).bias(), x);
    let x = b.relu("features.4", x);
    let x = b.max_pool("features.5", Pool2d::new(3, 2), x);
    let x = b.conv("features.6", Conv2d::new(w.of(192), w.of(384), 3).padding(1).bias(), x);
    let x = b.relu("features.7", x);
    let x = b.conv("features.8", Conv2d::new(w.of(384), w.of(256), 3).padding(1).bias(), x);
    let x = b.relu("features.9", x);
    let x = b.conv("features.10", Conv2d::new(w.of(256), w.of(256), 3).padding(1).bias(), x);
    let x = b.relu("features.11", x);
    let x = b.max_pool("features.12", Pool2d::new(3, 2), x);

    let x = b.push("avgpool", Op::AdaptiveAvgPool2d { output: [map; 2] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    let x = b.push("classifier.0", Op::Dropout { p: 0.5 }, vec![x]);
    let x = b.linear("classifier.1", hidden, x);
    let x = b.relu("classifier.2", x);
    let x = b.push("classifier.3", Op::Dropout { p: 0.5 }, vec![x]);
    let x = b.linear("classifier.4", hidden, x);
    let x = b.relu("classifier.5", x);
    b.linear("classifier.6", s.classes, x);
}
