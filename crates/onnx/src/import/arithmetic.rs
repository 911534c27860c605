//! Lowers functions of one number, sums and products.
use std::rc::Rc;

use graph::{Activation, Op, Role, Shape, Tensor};

use super::constant::Constant;
use super::error::{Refusal, Result};
use super::layers::{EVALUATION, scalar};
use super::lower::{LoweredOp, Lowering, Value};
use super::node::{Node, decimal};
use super::view::View;
use crate::proto::DataType;

/// Returns a lower bound, or `None` for the lowest float and below, which limit nothing.
fn lower(value: f32) -> Result<Option<f64>> {
    if value <= f32::MIN { Ok(None) } else { bound(value) }
}

/// Returns an upper bound, or `None` for the highest float and beyond, which limit nothing.
fn upper(value: f32) -> Result<Option<f64>> {
    if value >= f32::MAX { Ok(None) } else { bound(value) }
}

fn bound(value: f32) -> Result<Option<f64>> {
    if value.is_finite() { Ok(Some(decimal(value))) } else { Err(format!("a bound of {value}").into()) }
}

/// Checks that a `Dropout` drops no values.
pub(super) fn refuse_training(mode: Option<&Constant>) -> Result<()> {
    if mode.is_some_and(|mode| mode.scalar() != Some(0.0)) {
        return Err(Refusal::hint("drops values also at inference", EVALUATION));
    }
    Ok(())
}

impl<'a> Lowering<'a> {
    /// Lowers a function of one number, which keeps the view.
    pub fn activation(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let op = match node.op() {
            "Relu" => Op::Relu,
            "Clip" => {
                let mut bounds = [None, None];
                for (index, (name, bound_of)) in ["min", "max"].into_iter().zip(&mut bounds).enumerate() {
                    let constant = self.constant(node, index + 1)?;
                    let value = match (node.float(name)?, constant) {
                        (Some(value), _) => Some(value),
                        (None, Some(constant)) => Some(constant.scalar().ok_or("a bound that is not one number")?),
                        (None, None) => None,
                    };
                    let limit = if index == 0 { lower } else { upper };
                    *bound_of = value.map(limit).transpose()?.flatten();
                }
                let [min, max] = bounds;
                return self.clip(x, min, max);
            }
            "LeakyRelu" => Op::Activation(Activation::LeakyRelu { slope: node.decimal("alpha", 0.01)? }),
            "PRelu" => return self.prelu(node, x),
            "Sigmoid" => Op::Activation(Activation::Sigmoid),
            "HardSigmoid" => Op::Activation(Activation::HardSigmoid {
                alpha: node.decimal("alpha", 0.2)?,
                beta: node.decimal("beta", 0.5)?,
            }),
            "HardSwish" => Op::Activation(Activation::HardSwish),
            "Tanh" => Op::Activation(Activation::Tanh),
            "Softplus" => Op::Activation(Activation::Softplus),
            "Elu" => Op::Activation(Activation::Elu { alpha: node.decimal("alpha", 1.0)? }),
            // gamma * elu(x)
            "Selu" => {
                let alpha = node.decimal("alpha", 1.673_263_192_176_818_8)?;
                let gamma = node.float("gamma")?.unwrap_or(1.050_701_f32);
                let x = self.pointwise(x, LoweredOp::Op(Op::Activation(Activation::Elu { alpha })))?;
                return self.scale(x, &[gamma], &[0.0]);
            }
            // alpha * elu(x / alpha)
            "Celu" => {
                let alpha = node.float("alpha")?.unwrap_or(1.0);
                let x = self.scale(x, &[(1.0 / f64::from(alpha)) as f32], &[0.0])?;
                let x = self.pointwise(x, LoweredOp::Op(Op::Activation(Activation::Elu { alpha: 1.0 })))?;
                return self.scale(x, &[alpha], &[0.0]);
            }
            // x * tanh(softplus(x))
            "Mish" => {
                let gate = self.pointwise(x.clone(), LoweredOp::Op(Op::Activation(Activation::Softplus)))?;
                let gate = self.pointwise(gate, LoweredOp::Op(Op::Activation(Activation::Tanh)))?;
                return self.combine("Mul", x, gate);
            }
            // x * sigmoid(alpha * x)
            "Swish" => {
                let alpha = node.float("alpha")?.unwrap_or(1.0);
                let gate = if alpha == 1.0 { x.clone() } else { self.scale(x.clone(), &[alpha], &[0.0])? };
                let gate = self.pointwise(gate, LoweredOp::Op(Op::Activation(Activation::Sigmoid)))?;
                return self.combine("Mul", x, gate);
            }
            // max(x, -x)
            "Abs" => {
                let negative = self.scale(x.clone(), &[-1.0], &[0.0])?;
                return self.combine("Max", x, negative);
            }
            other => return Err(format!("{other} is not a function of one number").into()),
        };
        self.pointwise(x, LoweredOp::Op(op))
    }

    /// Lowers a `PRelu` with one slope for all channels or one for each.
    fn prelu(&mut self, node: Node<'a>, x: View) -> Result<View> {
        let slope = self.constant(node, 1)?.ok_or("lacks a slope")?;
        let floats = slope.as_floats()?;
        let first = *floats.first().ok_or("lacks a slope")?;
        if !first.is_finite() {
            return Err(format!("a slope of {first}").into());
        }
        if floats.iter().all(|&v| v == first) {
            self.keeps_shape(&x, &slope)?;
            return self.pointwise(x, LoweredOp::Op(Op::Activation(Activation::LeakyRelu { slope: decimal(first) })));
        }
        let (x, slopes) = self.per_channel(x, &slope)?;
        let channels = slopes.len();
        self.charge(channels)?;
        if let Some(path) = slope.name.strip_suffix(".weight") {
            path.clone_into(&mut self.wanted);
        }
        let params = vec![(Role::Slope, Tensor::new([channels], slopes))];
        let node = self.add(LoweredOp::Op(Op::PRelu { channels }), vec![x.node], params, None)?;
        Ok(self.over(&x, node))
    }

    pub fn pointwise(&mut self, x: View, kind: LoweredOp) -> Result<View> {
        let node = self.add(kind, vec![x.node], vec![], None)?;
        Ok(View { node, ..x })
    }

    fn clip(&mut self, x: View, min: Option<f64>, max: Option<f64>) -> Result<View> {
        let op = match (min, max) {
            (None, None) => return Ok(x),
            (Some(0.0), None) => Op::Relu,
            _ => Op::Activation(Activation::Clip { min, max }),
        };
        self.pointwise(x, LoweredOp::Op(op))
    }

    /// Lowers `Sum`, `Mean`, `Min` or `Max` of any number of values, of which some may be constants.
    pub fn joined_values(&mut self, node: Node<'a>) -> Result<View> {
        let op = node.op();
        let count = node.0.input.len();
        let (mut views, mut constants) = (Vec::new(), Vec::new());
        for index in 0..count {
            match self.value(node, index)? {
                Value::View(view) => views.push(view),
                Value::Constant(constant) => constants.push(constant),
            }
        }
        let step = if op == "Mean" { "Sum" } else { op };
        let mut views = views.into_iter();
        let first = views.next().ok_or("joins nothing")?;
        let mut all = views.try_fold(first, |all, view| self.combine(step, all, view))?;
        for constant in constants {
            all = match op {
                "Min" | "Max" => self.limit(op, all, &constant)?,
                _ => self.with_constant("Add", all, &constant, false)?,
            };
        }
        if op == "Mean" && count > 1 {
            return self.scale(all, &[(1.0 / count as f64) as f32], &[0.0]);
        }
        Ok(all)
    }

    /// Lowers `Min` or `Max` with a constant.
    fn limit(&mut self, op: &str, x: View, constant: &Rc<Constant>) -> Result<View> {
        let (x, limits) = self.per_channel(x, constant)?;
        if let &[limit] = limits.as_slice() {
            return match op {
                "Max" => {
                    let min = lower(limit)?;
                    self.clip(x, min, None)
                }
                _ => {
                    let max = upper(limit)?;
                    self.clip(x, None, max)
                }
            };
        }
        Err(format!("a limit of shape {:?}: only one for all is supported", constant.dims).into())
    }

    /// Lowers `Identity` and the operators that do nothing at inference.
    pub fn pass(&mut self, node: Node<'a>) -> Result<View> {
        let x = self.view(node, 0)?;
        let to = match node.op() {
            "Cast" => node.int("to")?.and_then(|to| i32::try_from(to).ok()).unwrap_or(0),
            "CastLike" => match self.value(node, 1)? {
                Value::Constant(like) => like.kind as i32,
                Value::View(like) if self.nodes[like.node].bytes => DataType::Uint8 as i32,
                Value::View(_) => DataType::Float as i32,
            },
            "Dropout" => {
                let mode = self.constant(node, 2)?;
                refuse_training(mode.as_deref())?;
                return Ok(x);
            }
            _ => return Ok(x),
        };
        let is_float = DataType::try_from(to).is_ok_and(super::constant::is_float);
        let from = &self.nodes[x.node];
        match (from.bytes, is_float) {
            // An index stands only at the end of the network, where its type does not matter.
            _ if from.kind == LoweredOp::ArgMax => Ok(x),
            (true, true) => self.pointwise(x, LoweredOp::Float),
            (false, true) => Ok(x),
            (true, false) if to == DataType::Uint8 as i32 => Ok(x),
            _ => Err("a cast of the image to integers is not supported".into()),
        }
    }

    pub fn arithmetic(&mut self, node: Node<'a>) -> Result<View> {
        let op = node.op();
        if op == "Neg" {
            let x = self.view(node, 0)?;
            return self.scale(x, &[-1.0], &[0.0]);
        }
        match (self.value(node, 0)?, self.value(node, 1)?) {
            (Value::View(x), Value::View(y)) => self.combine(op, x, y),
            (Value::View(x), Value::Constant(c)) => self.with_constant(op, x, &c, false),
            (Value::Constant(c), Value::View(x)) => self.with_constant(op, x, &c, true),
            (Value::Constant(_), Value::Constant(_)) => Err("constants that could not be folded".into()),
        }
    }

    /// Combines two values of the image, of the same shape or `[N, C, 1, 1]` and `[N, C, H, W]`.
    fn combine(&mut self, op: &str, x: View, y: View) -> Result<View> {
        let same = x.dims == y.dims && x.perm == y.perm && self.nodes[x.node].shape == self.nodes[y.node].shape;
        if !same {
            let x_is_smaller = x.shape().iter().product::<usize>() < y.shape().iter().product();
            let (x, y) = if x_is_smaller { (self.spread(&x, &y)?, y) } else { (x.clone(), self.spread(&y, &x)?) };
            return self.combine(op, x, y);
        }
        let (kind, first, second) = match op {
            "Add" | "Sum" => (LoweredOp::Op(Op::Add), x.node, y.node),
            "Mul" => (LoweredOp::Op(Op::Mul), x.node, y.node),
            "Max" => (LoweredOp::Op(Op::Max), x.node, y.node),
            "Sub" => (LoweredOp::Op(Op::Add), x.node, self.scale(y, &[-1.0], &[0.0])?.node),
            // -max(-x, -y)
            "Min" => {
                let [x, y] = [x.clone(), y].map(|v| self.scale(v, &[-1.0], &[0.0]));
                (LoweredOp::Op(Op::Max), x?.node, y?.node)
            }
            "Div" => (LoweredOp::Divide, x.node, y.node),
            _ => return Err("two values of the image".into()),
        };
        let node = self.add(kind, vec![first, second], vec![], None)?;
        let joined = View { node, ..x };
        if op == "Min" { self.scale(joined, &[-1.0], &[0.0]) } else { Ok(joined) }
    }

    /// Expands a value `[N, C, 1, 1]` to the size of `like`, `[N, C, H, W]`. Both have their axes in the same order.
    fn spread(&mut self, x: &View, like: &View) -> Result<View> {
        let refuse = || format!("values of shapes {:?} and {:?} are not supported", like.shape(), x.shape());
        let (shape, small) = (self.nodes[like.node].shape, self.nodes[x.node].shape);
        let is_image = like.dims == [self.batch, shape.channels, shape.height, shape.width];
        let lies_alike = x.rank() == like.rank()
            && (x.shape().iter().zip(&like.perm)).all(|(&n, &axis)| n == if axis < 2 { like.dims[axis] } else { 1 });
        if !is_image || !lies_alike || !x.is_plain() || small != Shape::new(shape.channels, 1, 1) {
            return Err(refuse().into());
        }
        let node = self.expanded(x.node, [shape.height, shape.width])?;
        Ok(self.over(like, node))
    }

    /// Repeats a value of 1x1 pixels, as means over windows of its only pixel.
    pub fn expanded(&mut self, input: usize, output: [usize; 2]) -> Result<usize> {
        self.add_named("expand", LoweredOp::Op(Op::AdaptiveAvgPool2d { output }), vec![input], vec![], None)
    }

    /// Combines a value and a constant; `first` says that the constant comes first.
    fn with_constant(&mut self, op: &str, x: View, constant: &Rc<Constant>, first: bool) -> Result<View> {
        if op == "Pow" {
            let exponent = scalar(constant)?;
            self.keeps_shape(&x, constant)?;
            return match exponent {
                _ if first => Err("a power of a constant is not supported".into()),
                1.0 => Ok(x),
                2.0 => self.combine("Mul", x.clone(), x),
                exponent => self.pointwise(x, LoweredOp::Power { exponent }),
            };
        }
        let (x, values) = self.per_channel(x, constant)?;
        let (weight, bias): (Vec<f32>, Vec<f32>) = match (op, first) {
            ("Add", _) => (vec![1.0], values),
            ("Sub", false) => (vec![1.0], values.iter().map(|v| -v).collect()),
            ("Sub", true) => (vec![-1.0], values),
            ("Mul", _) => (values, vec![0.0]),
            ("Div", false) => (values.iter().map(|v| (1.0 / f64::from(*v)) as f32).collect(), vec![0.0]),
            _ => return Err("a constant divided by a value is not supported".into()),
        };
        self.scale(x, &weight, &bias)
    }

    fn scale(&mut self, x: View, weight: &[f32], bias: &[f32]) -> Result<View> {
        let node = self.affine(x.node, weight, bias)?;
        Ok(View { node, ..x })
    }

    /// Returns a constant as one number, or as one for each channel of the node of the returned view.
    fn per_channel(&mut self, x: View, constant: &Constant) -> Result<(View, Vec<f32>)> {
        self.keeps_shape(&x, constant)?;
        let constant = &constant.collapsed();
        let floats = constant.as_floats()?;
        if floats.is_empty() {
            return Err("a constant without elements".into());
        }
        if floats.len() == 1 {
            return Ok((x, floats.to_vec()));
        }
        // The axis along which the constant changes.
        let offset = x.rank() - constant.dims.len();
        let long: Vec<usize> = (0..constant.dims.len()).filter(|&i| constant.dims[i] > 1).collect();
        let &[along] = long.as_slice() else {
            return Err(format!(
                "a constant of shape {:?}: only one value for each channel is supported",
                constant.dims
            )
            .into());
        };
        let base = x.perm[along + offset];
        let channels = self.nodes[x.node].shape.channels;
        let is_channel = |x: &View, base: usize, channels: usize, batch: usize| {
            x.dims[..base].iter().product::<usize>() == batch && x.dims[base] == channels
        };
        if is_channel(&x, base, channels, self.batch) {
            return Ok((x, floats.to_vec()));
        }
        let node = self.nchw(&x)?;
        let view = self.over(&x, node);
        if along + offset == 1 && self.nodes[node].shape.channels == floats.len() && view.rank() == x.rank() {
            return Ok((view, floats.to_vec()));
        }
        Err(format!("a constant of shape {:?}: only one value for each channel is supported", constant.dims).into())
    }

    /// Checks that a constant does not make the value larger.
    fn keeps_shape(&self, x: &View, constant: &Constant) -> Result<()> {
        let shape = x.shape();
        let fits = constant.dims.len() <= shape.len()
            && constant.dims.iter().rev().zip(shape.iter().rev()).all(|(&c, &n)| c == 1 || c == n);
        if fits {
            Ok(())
        } else {
            Err(format!("a constant of shape {:?} beside a value of shape {shape:?}", constant.dims).into())
        }
    }
}
