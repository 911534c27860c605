//! Computes values that depend on constants and shapes alone: above all sizes, and weights that are stored in another form.
mod array;
mod codes;
mod moved;
mod number;
mod reduce;

use std::rc::Rc;

use super::constant::{Constant, Data, integers};
use super::error::Result;
use super::lower::{Lowering, Value, axes_once};
use super::node::Node;
use crate::proto::DataType;
use array::{broadcast, count};
pub(super) use array::{permute, range};
pub(super) use number::cast;

/// The limit of multiply-adds of products of constants.
const MAX_WORK: usize = 1 << 32;

/// The inputs of a node, which are all constant; `None` for those that are left out.
struct Inputs(Vec<Option<Rc<Constant>>>);

impl Inputs {
    fn get(&self, index: usize) -> Result<&Constant> {
        self.optional(index).ok_or_else(|| format!("lacks input {index}").into())
    }

    fn optional(&self, index: usize) -> Option<&Constant> {
        self.0.get(index).and_then(|input| input.as_deref())
    }

    fn all(&self) -> Result<Vec<&Constant>> {
        (0..self.0.len()).map(|index| self.get(index)).collect()
    }
}

impl<'a> Lowering<'a> {
    /// Computes the values of a node that depends on constants and shapes alone, or returns `None` where it depends on the
    /// image.
    ///
    /// # Errors
    /// The operator is not computed on constants, or engines would not agree on the result.
    pub fn fold(&mut self, node: Node<'a>) -> Result<Option<Vec<Rc<Constant>>>> {
        if let "Shape" | "Size" = node.op() {
            return self.shape_of(node).map(|shape| Some(vec![Rc::new(shape)]));
        }
        let mut inputs = Vec::new();
        for (index, name) in node.0.input.iter().enumerate() {
            if name.is_empty() {
                inputs.push(None);
                continue;
            }
            match self.value(node, index)? {
                Value::Constant(constant) => inputs.push(Some(constant)),
                Value::View(_) => return Ok(None),
            }
        }
        let inputs = Inputs(inputs);
        match node.op() {
            // The branches may read the image.
            "If" => return Ok(None),
            "Identity" => {
                return Ok(Some(vec![inputs.0.into_iter().next().flatten().ok_or("lacks input 0")?]));
            }
            "Split" => return self.split_constant(node, inputs.get(0)?).map(Some),
            _ => {}
        }
        // An operator makes no more elements than its inputs have, except for those that charge for more below.
        self.charge(inputs.0.iter().flatten().map(|input| input.data.len()).fold(0, usize::saturating_add))?;
        let result = match self.moved(node, &inputs)? {
            Some(result) => result,
            None => self.computed(node, &inputs)?,
        };
        Ok(Some(vec![Rc::new(result)]))
    }

    /// Computes an operator that makes new numbers.
    fn computed(&mut self, node: Node<'a>, inputs: &Inputs) -> Result<Constant> {
        let get = |index: usize| inputs.get(index);
        Ok(match node.op() {
            "Cast" => number::cast(get(0)?, node.int("to")?.ok_or("lacks `to`")?)?,
            "CastLike" => number::cast(get(0)?, get(1)?.kind as i64)?,
            "Clip" => {
                let attribute = |name: &str| -> Result<Option<Constant>> {
                    Ok(node.float(name)?.map(|value| Constant::new([], Data::Float(vec![value]))))
                };
                let (low, high) = (attribute("min")?, attribute("max")?);
                number::clip(get(0)?, low.as_ref().or(inputs.optional(1)), high.as_ref().or(inputs.optional(2)))?
            }
            op if number::is_unary(op) => number::unary(op, get(0)?)?,
            "Mean" => {
                let sum = self.joined("Sum", node, inputs)?;
                let n = Constant::new([], Data::Float(vec![inputs.0.len() as f32]));
                number::binary("Div", &sum, &n, false)?
            }
            op if number::is_binary(op) => self.joined(op, node, inputs)?,
            op if reduce::is_reduction(op) => {
                let x = get(0)?;
                let axes = match self.ints(node, "axes", 1)? {
                    Some(axes) if !axes.is_empty() => axes_once(&axes, x.dims.len())?,
                    _ if node.flag("noop_with_empty_axes")? => return Err("over no axes is not computed".into()),
                    _ => (0..x.dims.len()).collect(),
                };
                reduce::reduce(op, x, &axes, node.int("keepdims")?.unwrap_or(1) != 0)?
            }
            "MatMul" => self.product(get(0)?, get(1)?)?,
            "BatchNormalization" => {
                let floats = |index: usize| get(index).and_then(Constant::as_floats);
                let given = match super::layers::is_training(node, self.opset)? {
                    true => None,
                    false => Some([floats(3)?, floats(4)?]),
                };
                reduce::normalise(get(0)?, [floats(1)?, floats(2)?], given, node.decimal("epsilon", 1e-5)?)?
            }
            "DequantizeLinear" => {
                self.stored_as_codes = true;
                codes::dequantize(get(0)?, get(1)?, inputs.optional(2), places(node)?)?
            }
            "QuantizeLinear" => {
                let kind = match (inputs.optional(2), node.int("output_dtype")?.unwrap_or(0)) {
                    (Some(zero), _) => zero.kind,
                    (None, 0) => DataType::Uint8,
                    (None, kind) => DataType::try_from(kind as i32).map_err(|_| "codes of an unknown type")?,
                };
                if integers(kind).is_none() {
                    return Err(format!("codes of type {kind:?}").into());
                }
                codes::quantize(get(0)?, get(1)?, inputs.optional(2), kind, places(node)?)?
            }
            _ => return Err("of constants alone is not computed".into()),
        })
    }

    /// Computes a binary operator on two or more values, from left to right.
    fn joined(&mut self, op: &str, node: Node<'a>, inputs: &Inputs) -> Result<Constant> {
        let values = inputs.all()?;
        let is_any = matches!(op, "Sum" | "Min" | "Max");
        if values.is_empty() || (values.len() != 2 && !is_any) {
            return Err(format!("{} inputs", values.len()).into());
        }
        let c_remainder = op == "Mod" && node.flag("fmod")?;
        let mut all = values[0].clone();
        for value in &values[1..] {
            self.charge(count(&broadcast(&all.dims, &value.dims)?)?.saturating_mul(3))?;
            all = number::binary(op, &all, value, c_remainder)?;
        }
        Ok(Constant { name: if values.len() == 1 { all.name } else { String::new() }, ..all })
    }

    /// Computes the product of two matrices.
    fn product(&mut self, x: &Constant, y: &Constant) -> Result<Constant> {
        let (&[rows, inner], &[other, columns]) = (x.dims.as_slice(), y.dims.as_slice()) else {
            return Err("of constants that are no matrices is not computed".into());
        };
        if inner != other {
            return Err(format!("of shapes {:?} and {:?}", x.dims, y.dims).into());
        }
        let work = count(&[rows, inner, columns])?;
        self.work =
            self.work.checked_add(work).filter(|&n| n <= MAX_WORK).ok_or("products of constants take too long")?;
        self.charge(count(&[rows, columns])?)?;
        let (a, b) = (x.as_floats()?, y.as_floats()?);
        let mut out = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            let mut sums = vec![0.0f64; columns];
            for k in 0..inner {
                let factor = f64::from(a[row * inner + k]);
                sums.iter_mut().zip(&b[k * columns..]).for_each(|(sum, &b)| *sum += factor * f64::from(b));
            }
            out.extend(sums.into_iter().map(|sum| sum as f32));
        }
        Ok(Constant::new([rows, columns], Data::Float(out)))
    }
}

/// Returns the attributes that tell the scale of each code: `axis`, and `block_size` (0 where there are no blocks).
fn places(node: Node<'_>) -> Result<[i64; 2]> {
    Ok([node.int("axis")?.unwrap_or(1), node.int("block_size")?.unwrap_or(0)])
}
