//! Functions of one number, sums and products.
use std::rc::Rc;

use graph::{Activation, Op};

use super::constant::Constant;
use super::error::{Refusal, Result};
use super::layers::scalar;
use super::lower::{Kind, Lowering, Value};
use super::node::Node;
use super::view::View;

/// What stands for no bound: the lowest and the highest float, and beyond.
fn bound(value: f32) -> Result<Option<f64>> {
    match value {
        v if v.is_nan() => Err("a bound that is not a number".into()),
        v if v.abs() >= f32::MAX => Ok(None),
        v => Ok(Some(super::node::decimal(v))),
    }
}

impl<'a> Lowering<'a> {
    /// A function of one number, whatever the view.
    pub fn activation(&mut self, node: Node<'a>) -> Result<View> {
        if let "Min" | "Max" = node.op() {
            return self.limit(node);
        }
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
                    *bound_of = value.map(bound).transpose()?.flatten();
                }
                let [min, max] = bounds;
                return self.clip(x, min, max);
            }
            "LeakyRelu" => Op::Activation(Activation::LeakyRelu { slope: node.decimal("alpha", 0.01)? }),
            "PRelu" => {
                let slope = self.constant(node, 1)?.ok_or("lacks a slope")?;
                let floats = slope.as_floats()?;
                let first = *floats.first().ok_or("lacks a slope")?;
                if floats.iter().any(|&v| v != first) {
                    return Err("a slope for each channel is not supported, only one for all".into());
                }
                Op::Activation(Activation::LeakyRelu { slope: super::node::decimal(first) })
            }
            "Sigmoid" => Op::Activation(Activation::Sigmoid),
            "HardSigmoid" => Op::Activation(Activation::HardSigmoid {
                alpha: node.decimal("alpha", 0.2)?,
                beta: node.decimal("beta", 0.5)?,
            }),
            "HardSwish" => Op::Activation(Activation::HardSwish),
            other => return Err(format!("{other} is not a function of one number").into()),
        };
        self.pointwise(x, Kind::Op(op))
    }

    pub fn pointwise(&mut self, x: View, kind: Kind) -> Result<View> {
        let node = self.add(kind, vec![x.node], vec![], None)?;
        Ok(View { node, ..x })
    }

    fn clip(&mut self, x: View, min: Option<f64>, max: Option<f64>) -> Result<View> {
        let op = match (min, max) {
            (None, None) => return Ok(x),
            (Some(0.0), None) => Op::Relu,
            _ => Op::Activation(Activation::Clip { min, max }),
        };
        self.pointwise(x, Kind::Op(op))
    }

    /// `Min` or `Max` with a constant.
    fn limit(&mut self, node: Node<'a>) -> Result<View> {
        if node.0.input.len() != 2 {
            return Err("only one value and one constant are supported".into());
        }
        let (x, constant) = match (self.value(node, 0)?, self.value(node, 1)?) {
            (Value::View(x), Value::Constant(c)) | (Value::Constant(c), Value::View(x)) => (x, c),
            _ => return Err("only one value and one constant are supported".into()),
        };
        self.keeps_shape(&x, &constant)?;
        let limit = bound(constant.scalar().ok_or("a limit that is not one number")?)?;
        if node.op() == "Max" { self.clip(x, limit, None) } else { self.clip(x, None, limit) }
    }

    /// `Identity`, and what does nothing at inference.
    pub fn pass(&mut self, node: Node<'a>) -> Result<View> {
        if node.op() == "Cast" {
            // float, float16, double, bfloat16
            let to = node.int("to")?.unwrap_or(0);
            if ![1, 10, 11, 16].contains(&to) {
                return Err("a cast of the image to integers is not supported".into());
            }
        }
        if node.op() == "Dropout" && self.constant(node, 2)?.is_some_and(|mode| mode.scalar() != Some(0.0)) {
            return Err(Refusal::hint("drops values also at inference", "export the model after `model.eval()`"));
        }
        self.view(node, 0)
    }

    pub fn arithmetic(&mut self, node: Node<'a>) -> Result<View> {
        let op = node.op();
        if op == "Neg" {
            let x = self.view(node, 0)?;
            return self.scale(x, &[-1.0], &[0.0]);
        }
        if node.0.input.len() != 2 {
            return Err(format!("{} inputs: only two are supported", node.0.input.len()).into());
        }
        match (self.value(node, 0)?, self.value(node, 1)?) {
            (Value::View(x), Value::View(y)) => self.combine(op, x, y),
            (Value::View(x), Value::Constant(c)) => self.with_constant(op, x, &c, false),
            (Value::Constant(c), Value::View(x)) => self.with_constant(op, x, &c, true),
            (Value::Constant(_), Value::Constant(_)) => Err("constants that could not be folded".into()),
        }
    }

    /// Two values of the image.
    fn combine(&mut self, op: &str, x: View, y: View) -> Result<View> {
        let same = x.dims == y.dims && x.perm == y.perm && self.nodes[x.node].shape == self.nodes[y.node].shape;
        if same {
            let (kind, second) = match op {
                "Add" | "Sum" => (Kind::Op(Op::Add), y.node),
                "Mul" => (Kind::Op(Op::Mul), y.node),
                "Sub" => (Kind::Op(Op::Add), self.scale(y, &[-1.0], &[0.0])?.node),
                "Div" => (Kind::Divide, y.node),
                _ => return Err("two values of the image".into()),
            };
            let node = self.add(kind, vec![x.node, second], vec![], None)?;
            return Ok(View { node, ..x });
        }
        // A gate [N, C, 1, 1] for an image [N, C, H, W], in either order.
        let (x, gate) = if y.shape().iter().product::<usize>() > x.shape().iter().product() { (y, x) } else { (x, y) };
        let shape = self.nodes[x.node].shape;
        let gate_shape = self.nodes[gate.node].shape;
        let is_image = x.dims == [self.batch, shape.channels, shape.height, shape.width];
        let lies_alike = gate.shape().len() == x.rank()
            && (gate.shape().iter().zip(&x.perm)).all(|(&n, &axis)| n == if axis < 2 { x.dims[axis] } else { 1 });
        let is_gate = is_image
            && lies_alike
            && gate.is_plain()
            && (gate_shape.channels, gate_shape.height, gate_shape.width) == (shape.channels, 1, 1);
        if op != "Mul" || !is_gate {
            return Err(format!("values of shapes {:?} and {:?} are not supported", x.shape(), gate.shape()).into());
        }
        let node = self.add(Kind::Op(Op::Mul), vec![x.node, gate.node], vec![], None)?;
        Ok(View { node, ..x })
    }

    /// A value and a constant; `first` where the constant comes first.
    fn with_constant(&mut self, op: &str, x: View, constant: &Rc<Constant>, first: bool) -> Result<View> {
        if op == "Pow" {
            let exponent = scalar(constant)?;
            return match exponent {
                _ if first => Err("a power of a constant is not supported".into()),
                1.0 => Ok(x),
                2.0 => self.combine("Mul", x.clone(), x),
                exponent => self.pointwise(x, Kind::Power { exponent }),
            };
        }
        let (x, values) = self.per_channel(x, constant)?;
        let (weight, bias): (Vec<f32>, Vec<f32>) = match (op, first) {
            ("Add" | "Sum", _) => (vec![1.0], values),
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

    /// A constant beside a value: as one number, or as one for each channel of the returned view's node.
    fn per_channel(&mut self, x: View, constant: &Constant) -> Result<(View, Vec<f32>)> {
        let floats = constant.as_floats()?;
        self.keeps_shape(&x, constant)?;
        if floats.len() == 1 {
            return Ok((x, floats.to_vec()));
        }
        // Which axis the constant changes along.
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
        let view = if x.rank() == 2 { self.features(node) } else { self.image(node) };
        if along + offset == 1 && self.nodes[node].shape.channels == floats.len() && view.rank() == x.rank() {
            return Ok((view, floats.to_vec()));
        }
        Err(format!("a constant of shape {:?}: only one value for each channel is supported", constant.dims).into())
    }

    /// # Errors
    /// A constant that would make the value larger.
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
