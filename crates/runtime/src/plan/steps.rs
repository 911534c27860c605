//! Steps, one by one: what each computes, and what follows on it.
use std::collections::BTreeMap;

use graph::{Conv2d, Node, Op, Role};

use super::draft::Draft;
use super::fuse::{Fused, Kind, Post};
use super::parameters::Parameters;
use super::step::{Step, StepOp};
use crate::Error;
use crate::float::{FloatOp, Lrn, PostOp, Source, View};
use crate::kernels::STRIP;

impl Draft<'_> {
    /// Makes step `i`, with its weights packed.
    ///
    /// # Errors
    /// As [`super::Plan::new`].
    pub fn step(&mut self, i: usize, parameters: &mut Parameters<'_>) -> Result<Step, Error> {
        let fused = &self.placement.steps[i];
        let node = &self.graph.nodes()[fused.root];
        let shape = node.shape;
        let mut posts = self.posts(i, parameters)?;
        let op = match fused.kind {
            Kind::Copy => StepOp::Float(FloatOp::Copy(self.view(fused.inputs[0], fused.head))),
            Kind::Node => self.op(i, node, parameters, &mut posts)?,
        };
        let dest = self.dest(i);
        let wants = self.kernel.wants();
        let large = matches!(&op, StepOp::Conv(conv) if conv.weights.unpacked_bytes() > wants.large);
        let bytes = if large { wants.long_strip } else { wants.strip };
        let strip = match &op {
            StepOp::Winograd(conv) => conv.weights.strip(shape.width) * shape.width,
            _ => (bytes / 4 / shape.channels).clamp(wants.fewest, STRIP) / wants.tile * wants.tile,
        };
        let (notes, knows) = (self.noting.contains(&i), self.knowing.contains(&i));
        let (name, emits) = (node.name.clone(), std::mem::take(&mut self.forms.emits[i]));
        Ok(Step { name, op, posts, shape, dest, emits, strip, notes, knows })
    }

    /// Finds the steps that only round a value, with one scale, and those that make such values where they are read.
    pub(super) fn find_makers(&mut self) {
        let steps = &self.placement.steps[..self.placement.body];
        let makes = |s: &Fused| !s.silent && s.host.is_none();
        let made = steps.iter().enumerate().filter(|(_, s)| makes(s)).map(|(i, s)| (s.value, i));
        let made: BTreeMap<usize, usize> = made.collect();
        for (i, step) in steps.iter().enumerate().filter(|(_, step)| step.silent) {
            let whole = self.forms.emits[i].iter().any(|emit| self.forms.layouts[emit.layout].whole);
            let value = step.inputs[0];
            let maker = made.get(&value).filter(|&&at| whole && self.dest(at) == Some(self.view(value, false)));
            if let Some(&at) = maker {
                self.noting.insert(at);
                self.knowing.insert(i);
            }
        }
    }

    /// Returns what follows step `i`'s operation.
    fn posts(&self, i: usize, parameters: &mut Parameters<'_>) -> Result<Vec<PostOp>, Error> {
        let fused = &self.placement.steps[i];
        let node = |i: usize| &self.graph.nodes()[i];
        let post = |post: &Post| {
            Ok(match post {
                // The value of a step that runs with this one lies where the result goes.
                Post::Add(other) if fused.before.is_some() => {
                    PostOp::Add(View { source: Source::Row, offset: 0, stride: 0, shape: node(*other).shape })
                }
                Post::Add(other) => PostOp::Add(self.view(*other, fused.head)),
                Post::Clamp(lo, hi) => PostOp::Clamp(*lo, *hi),
                Post::Function(f) => PostOp::Function(*f),
                Post::Affine(affine) => {
                    let mut param = |role| parameters.floats(&node(*affine).name, role);
                    PostOp::Affine(param(Role::Gamma)?, param(Role::Bias)?)
                }
                Post::PRelu(slopes) => PostOp::PRelu(parameters.floats(&node(*slopes).name, Role::Slope)?),
            })
        };
        fused.posts.iter().map(post).collect()
    }

    /// Returns what step `i`, which begins with `node`, computes; what of `posts` it does itself is taken out.
    fn op(
        &mut self,
        i: usize,
        node: &Node,
        parameters: &mut Parameters<'_>,
        posts: &mut Vec<PostOp>,
    ) -> Result<StepOp, Error> {
        let fused = &self.placement.steps[i];
        let x = |k: usize| self.view(fused.inputs[k], fused.head);
        Ok(StepOp::Float(match &node.op {
            Op::Input => FloatOp::Image,
            Op::Conv2d(conv) => return self.conv(i, node, conv.clone(), parameters, posts),
            Op::Linear { in_features, out_features, bias } => {
                let conv = Conv2d { bias: *bias, ..Conv2d::new(*in_features, *out_features, 1) };
                return self.conv(i, node, conv, parameters, posts);
            }
            Op::BatchNorm2d { channels, eps } => {
                posts.insert(0, normalization(&node.name, *channels, *eps, parameters)?);
                FloatOp::Copy(x(0))
            }
            Op::MaxPool2d(pool) => FloatOp::MaxPool(pool.clone(), x(0)),
            Op::AvgPool2d(pool) => FloatOp::AvgPool(pool.clone(), x(0)),
            Op::AdaptiveAvgPool2d { .. } => FloatOp::Adaptive(x(0)),
            Op::Add => FloatOp::Add(x(0), x(1)),
            Op::Max => FloatOp::Max(x(0), x(1)),
            Op::Mul => FloatOp::Mul(x(0), x(1)),
            Op::Concat => FloatOp::Concat((0..fused.inputs.len()).map(x).collect()),
            Op::Shuffle { groups } => FloatOp::Shuffle(*groups, x(0)),
            Op::Pad2d { sides, value } => FloatOp::Pad2d(*sides, *value as f32, x(0)),
            Op::Lrn { size, alpha, beta, k } => {
                let alpha = (alpha / *size as f64) as f32;
                FloatOp::Lrn(Lrn { size: *size, alpha, beta: *beta as f32, k: *k as f32 }, x(0))
            }
            Op::Softmax => FloatOp::Softmax(x(0)),
            Op::Flatten => FloatOp::Flatten(x(0)),
            Op::PadShortcut { stride, before, .. } => {
                FloatOp::PadShortcut { stride: *stride, before: *before, x: x(0) }
            }
            Op::Relu
            | Op::Activation(_)
            | Op::Affine { .. }
            | Op::PRelu { .. }
            | Op::Dropout { .. }
            | Op::Slice { .. } => {
                unreachable!("{} is part of another step", node.name)
            }
        }))
    }
}

/// Returns a batch normalisation: `(x - mean) / sqrt(variance + eps) * gamma + beta` of each channel.
fn normalization(name: &str, channels: usize, eps: f64, parameters: &mut Parameters<'_>) -> Result<PostOp, Error> {
    let mut param = |role| parameters.floats(name, role);
    let (gamma, beta) = (param(Role::Gamma)?, param(Role::Bias)?);
    let (mean, var) = (param(Role::Mean)?, param(Role::Variance)?);
    let scale: Vec<f64> = (0..channels).map(|c| f64::from(gamma[c]) / (f64::from(var[c]) + eps).sqrt()).collect();
    let shift = (0..channels).map(|c| (f64::from(beta[c]) - f64::from(mean[c]) * scale[c]) as f32).collect();
    Ok(PostOp::Affine(scale.iter().map(|&s| s as f32).collect(), shift))
}
