//! ResNet for CIFAR-10: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016
//! (<https://arxiv.org/abs/1512.03385>), section 4.2.
//!
//! | variant | blocks of 16, 32, 64 channels |
//! |---|---|
//! | `resnet20` | 3, 3, 3 |
//! | `resnet32` | 5, 5, 5 |
//! | `resnet44` | 7, 7, 7 |
//! | `resnet56` | 9, 9, 9 |
//!
//! A network has `6 n + 2` layers, `n` blocks a stage. Shortcuts are option A, without parameters: every second pixel, with
//! zeros for the new channels, half of them before and half after. Names are those of the widely used checkpoints
//! (github.com/akamaster/pytorch_resnet_cifar10).

use graph::{Builder, Conv2d, NodeId, Op};

use crate::config::NetworkSettings;

const EPS: f64 = 1e-5;

/// The blocks of a stage.
pub(crate) const RESNET20: usize = 3;
pub(crate) const RESNET32: usize = 5;
pub(crate) const RESNET44: usize = 7;
pub(crate) const RESNET56: usize = 9;

pub(crate) fn build(b: &mut Builder, n: usize, s: &NetworkSettings) {
    let x = b.conv("conv1", Conv2d::new(b.channels(b.input()), s.width.of(16), 3).padding(1), b.input());
    let x = b.batch_norm("bn1", EPS, x);
    let mut x = b.relu("relu", x);

    for stage in 0..3 {
        for block in 0..n {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = basic(b, &name, s.width.of(16 << stage), stride, x);
        }
    }

    let x = b.push("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("linear", s.classes, x);
}

/// Adds a basic block, 3x3 and 3x3 (the paper's figure 2).
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

/// Adds a shortcut of option A: the identity, or every `stride`-th pixel with zero channels on both sides.
fn shortcut(b: &mut Builder, name: &str, channels: usize, stride: usize, x: NodeId) -> NodeId {
    let new = channels - b.channels(x);
    if stride == 1 && new == 0 {
        return x;
    }
    let before = new / 2;
    b.push(format!("{name}.shortcut"), Op::PadShortcut { stride, before, after: new - before }, vec![x])
}
