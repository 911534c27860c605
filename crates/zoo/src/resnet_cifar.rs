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
//! Shortcuts are option A, without parameters: every second pixel, new channels zero, half of them before and half
//! after. Names are those of the widely used checkpoints (github.com/akamaster/pytorch_resnet_cifar10).

use graph::{Builder, Conv2d, NodeId, Op};

use crate::config::Settings;

const EPS: f64 = 1e-5;

/// `n` of the paper's `6n + 2` layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    n: usize,
}

pub(crate) const RESNET20: Plan = Plan { n: 3 };
pub(crate) const RESNET32: Plan = Plan { n: 5 };
pub(crate) const RESNET44: Plan = Plan { n: 7 };
pub(crate) const RESNET56: Plan = Plan { n: 9 };

pub(crate) fn build(b: &mut Builder, plan: &Plan, s: &Settings) {
    let x = b.conv("conv1", Conv2d::new(b.channels(b.input()), s.width.of(16), 3).padding(1), b.input());
    let x = b.batch_norm("bn1", EPS, x);
    let mut x = b.relu("relu", x);

    for stage in 0..3 {
        for block in 0..plan.n {
            let name = format!("layer{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = basic(b, &name, s.width.of(16 << stage), stride, x);
        }
    }

    let x = b.push("avgpool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("linear", s.classes, x);
}

/// 3x3, 3x3; the paper's figure 2.
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

/// Option A: the identity, or every `stride`-th pixel with zero channels on both sides.
fn shortcut(b: &mut Builder, name: &str, channels: usize, stride: usize, x: NodeId) -> NodeId {
    let new = channels - b.channels(x);
    if stride == 1 && new == 0 {
        return x;
    }
    let before = new / 2;
    b.push(format!("{name}.shortcut"), Op::PadShortcut { stride, before, after: new - before }, vec![x])
}
