//! What depends on constants and shapes alone is computed: above all sizes, that exporters leave in a file, and weights that
//! are stored in another form.
mod array;
mod codes;
mod number;
mod reduce;

use std::rc::Rc;

use super::constant::{Constant, Data, MAX_RANK, integers};
use super::error::{Refusal, Result};
use super::layout;
use super::lower::{Lowering, Value, axes_once, axis};
use super::node::Node;
use crate::proto::DataType;
use array::{broadcast, concat, count, strides};
pub(super) use array::{permute, range};
pub(super) use number::cast;

/// Multiply-adds of products of constants, all together.
const MAX_WORK: usize = 1 << 32;

/// The inputs of a node that are all known; `None` for those that are left out.
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
    /// The values of a node that depends on constants and shapes alone; `None` where it depends on the image.
    ///
    /// # Errors
    /// An operator that is not computed on constants, or that engines would not agree on.
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
            // Its branches may read the image.
            "If" => return Ok(None),
            "Identity" => {
                return Ok(Some(vec![inputs.0.into_iter().next().flatten().ok_or("lacks input 0")?]));
            }
            "Split" => return self.split_constant(node, inputs.get(0)?).map(Some),
            _ => {}
        }
        // Nothing that is computed element by element makes more than its inputs hold, but for what is checked below.
        self.charge(inputs.0.iter().flatten().map(|input| input.data.len()).fold(0, usize::saturating_add))?;
        let result = match self.moved(node, &inputs)? {
            Some(result) => result,
            None => self.computed(node, &inputs)?,
        };
        Ok(Some(vec![Rc::new(result)]))
    }

    /// What moves, picks, repeats or makes elements.
    fn moved(&mut self, node: Node<'a>, inputs: &Inputs) -> Result<Option<Constant>> {
        let get = |index: usize| inputs.get(index);
        Ok(Some(match node.op() {
            "Constant" => self.stored(node)?,
            "Dropout" => {
                super::arithmetic::refuse_training(inputs.optional(2))?;
                get(0)?.clone()
            }
            "Reshape" => {
                let x = get(0)?;
                x.reshaped(layout::reshape(&x.dims, get(1)?.as_ints()?, node.flag("allowzero")?)?)
            }
            "Flatten" => {
                let x = get(0)?;
                let at = layout::flatten_axis(node, x.dims.len())?;
                x.reshaped(vec![x.dims[..at].iter().product(), x.dims[at..].iter().product()])
            }
            "Squeeze" => {
                let x = get(0)?;
                let axes = match self.ints(node, "axes", 1)? {
                    Some(axes) => axes.iter().map(|&a| axis(a, x.dims.len())).collect::<Result<Vec<_>>>()?,
                    None => (0..x.dims.len()).filter(|&a| x.dims[a] == 1).collect(),
                };
                if axes.iter().any(|&a| x.dims[a] != 1) {
                    return Err(format!("removes axes {axes:?} of {:?}", x.dims).into());
                }
                let kept = (0..x.dims.len()).filter(|a| !axes.contains(a)).map(|a| x.dims[a]).collect();
                x.reshaped(kept)
            }
            "Unsqueeze" => {
                let x = get(0)?;
                let axes = self.ints(node, "axes", 1)?.ok_or("lacks `axes`")?;
                let rank = x.dims.len().checked_add(axes.len()).filter(|&n| n <= 16).ok_or("too many axes")?;
                let axes = axes_once(&axes, rank)?;
                let mut old = x.dims.iter();
                let dims = (0..rank).map(|a| if axes.contains(&a) { 1 } else { old.next().copied().unwrap_or(1) });
                x.reshaped(dims.collect())
            }
            "Transpose" => {
                let x = get(0)?;
                x.transposed(&layout::permutation(node, x.dims.len())?)
            }
            "Slice" => self.slice_constant(node, get(0)?)?,
            "Gather" => self.gather_constant(node, get(0)?, get(1)?)?,
            "Concat" => concat(&inputs.all()?, node.int("axis")?.ok_or("lacks `axis`")?)?,
            "Expand" => {
                let x = get(0)?;
                let dims = broadcast(&x.dims, &sizes(get(1)?)?)?;
                self.charge(count(&dims)?)?;
                x.spread(&dims)
            }
            "Tile" => {
                let (x, repeats) = (get(0)?, sizes(get(1)?)?);
                if repeats.len() != x.dims.len() {
                    return Err(format!("{} repeats for {} axes", repeats.len(), x.dims.len()).into());
                }
                let dims = x.dims.iter().zip(&repeats).map(|(&d, &r)| d.checked_mul(r));
                let dims: Vec<usize> = dims.collect::<Option<_>>().ok_or("too many elements")?;
                let total = count(&dims)?;
                self.charge(total)?;
                if total == 0 {
                    return Ok(Some(x.take(dims, &[])));
                }
                let mut tiled = x.clone();
                for (at, &times) in repeats.iter().enumerate().filter(|(_, times)| **times != 1) {
                    tiled = concat(&vec![&tiled; times], at as i64)?;
                }
                tiled
            }
            "ConstantOfShape" => {
                let dims = sizes(get(0)?)?;
                let count = count(&dims)?;
                self.charge(count)?;
                let value = match node.tensor("value")? {
                    None => Constant::new([1], Data::Float(vec![0.0])),
                    Some(tensor) => self.tensor(tensor)?,
                };
                if value.data.len() != 1 {
                    return Err("`value` is not one number".into());
                }
                value.take(dims, &vec![0; count])
            }
            "Range" => self.range_of(get(0)?, get(1)?, get(2)?)?,
            "Where" => {
                let (condition, x, y) = (get(0)?, get(1)?, get(2)?);
                let dims = broadcast(&broadcast(&condition.dims, &x.dims)?, &y.dims)?;
                self.charge(count(&dims)?.saturating_mul(3))?;
                let condition = condition.spread(&dims);
                let condition = condition.as_ints()?;
                let data = match (x.spread(&dims).data, y.spread(&dims).data) {
                    (Data::Int(x), Data::Int(y)) => Data::Int(choose(condition, &x, &y)),
                    (Data::Float(x), Data::Float(y)) => Data::Float(choose(condition, &x, &y)),
                    _ => return Err("integers and floats".into()),
                };
                Constant { name: String::new(), kind: x.kind, dims, data }
            }
            _ => return Ok(None),
        }))
    }

    /// What computes new numbers.
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

    /// Two or more values, from left to right.
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

    /// The product of two matrices.
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

    fn range_of(&mut self, start: &Constant, end: &Constant, step: &Constant) -> Result<Constant> {
        if let (Some(_), Data::Float(_)) = (start.scalar(), &start.data) {
            let one = |c: &Constant| c.as_floats().map(|v| v.first().copied().unwrap_or(f32::NAN));
            let (start, end, step) = (one(start)?, one(end)?, one(step)?);
            let count = ((f64::from(end) - f64::from(start)) / f64::from(step)).ceil().max(0.0);
            if !count.is_finite() {
                return Err("a range without end".into());
            }
            self.charge(count as usize)?;
            let values: Vec<f32> = (0..count as usize).map(|i| start + i as f32 * step).collect();
            return Ok(Constant::new([values.len()], Data::Float(values)));
        }
        let one = |c: &Constant| -> Result<i128> {
            c.as_ints()?.first().map(|&v| i128::from(v)).ok_or_else(|| "an empty bound".into())
        };
        let (kind, start, end, step) = (start.kind, one(start)?, one(end)?, one(step)?);
        if step == 0 {
            return Err("a step of 0".into());
        }
        let count = (end - start).div_euclid(step) + i128::from((end - start) % step != 0);
        let count = usize::try_from(count).unwrap_or(0);
        self.charge(count)?;
        let values: Vec<i64> = (0..count as i128).map(|i| (start + i * step) as i64).collect();
        Constant::of(kind, [values.len()], values)
    }

    fn gather_constant(&mut self, node: Node<'a>, x: &Constant, indices: &Constant) -> Result<Constant> {
        let at = axis(node.int("axis")?.unwrap_or(0), x.dims.len())?;
        let picked = indices.as_ints()?.iter().map(|&i| axis(i, x.dims[at])).collect::<Result<Vec<_>>>()?;
        let dims = [&x.dims[..at], indices.dims.as_slice(), &x.dims[at + 1..]].concat();
        if dims.len() > MAX_RANK {
            return Err(format!("{} axes", dims.len()).into());
        }
        let outer: usize = x.dims[..at].iter().product();
        let inner: usize = x.dims[at + 1..].iter().product();
        let count = count(&[outer, picked.len(), inner])?;
        self.charge(count)?;
        let mut order = Vec::with_capacity(count);
        for o in 0..outer {
            for &i in &picked {
                order.extend((0..inner).map(|k| (o * x.dims[at] + i) * inner + k));
            }
        }
        Ok(x.take(dims, &order))
    }

    fn split_constant(&mut self, node: Node<'a>, x: &Constant) -> Result<Vec<Rc<Constant>>> {
        let at = axis(node.int("axis")?.unwrap_or(0), x.dims.len())?;
        let sizes = self.split_sizes(node, x.dims[at])?;
        self.charge(x.data.len())?;
        let mut start = 0;
        let mut part = |size: usize| {
            let part = x.part(at, start, size);
            start += size;
            Rc::new(part)
        };
        Ok(sizes.into_iter().map(&mut part).collect())
    }

    /// The value of a `Constant`.
    fn stored(&mut self, node: Node<'a>) -> Result<Constant> {
        if let Some(tensor) = node.tensor("value")? {
            return self.tensor(tensor);
        }
        if let Some(value) = node.int("value_int")? {
            return Ok(Constant::new([], Data::Int(vec![value])));
        }
        if let Some(values) = node.ints("value_ints")? {
            return Ok(Constant::ints(values.to_vec()));
        }
        if let Some(value) = node.float("value_float")? {
            return Ok(Constant::new([], Data::Float(vec![value])));
        }
        if let Some(values) = node.floats("value_floats")? {
            return Ok(Constant::new([values.len()], Data::Float(values.to_vec())));
        }
        Err("has no value that is read".into())
    }

    /// `Shape`, whole or a part, or `Size`.
    fn shape_of(&self, node: Node<'a>) -> Result<Constant> {
        let dims = match self.value(node, 0)? {
            Value::Constant(constant) => constant.dims.clone(),
            Value::View(view) => view.shape(),
        };
        let mut values: Vec<i64> = dims.iter().map(|&n| n as i64).collect();
        if node.op() == "Size" {
            return Ok(Constant::new([], Data::Int(vec![values.iter().product()])));
        }
        let rank = values.len();
        let end = node.int("end")?.unwrap_or(i64::MAX);
        let (start, length) = range(rank, node.int("start")?.unwrap_or(0), end, 1)?;
        values = values[start.min(rank)..(start + length).min(rank)].to_vec();
        Ok(Constant::ints(values))
    }

    fn slice_constant(&mut self, node: Node<'a>, x: &Constant) -> Result<Constant> {
        let starts = self.ints(node, "starts", 1)?.ok_or("lacks `starts`")?;
        let ends = self.ints(node, "ends", 2)?.ok_or("lacks `ends`")?;
        let axes = self.ints(node, "axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.ints(node, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err("`starts`, `ends`, `axes` and `steps` of different lengths".into());
        }
        let mut dims = x.dims.clone();
        let mut strides = strides(&x.dims);
        let mut first = 0isize;
        let own = strides.clone();
        let mut seen = vec![false; dims.len()];
        for i in 0..starts.len() {
            let at = axis(axes[i], dims.len())?;
            if std::mem::replace(&mut seen[at], true) {
                return Err("an axis twice".into());
            }
            let (start, length) = range(x.dims[at], starts[i], ends[i], steps[i])?;
            dims[at] = length;
            if length > 0 {
                first += start as isize * own[at];
            }
            // Where there is one element at most, a step leads nowhere.
            strides[at] = if length > 1 { own[at] * isize::try_from(steps[i]).map_err(|_| "a step")? } else { 0 };
        }
        Ok(x.pick(dims, &strides, first))
    }
}

/// Sizes of axes.
fn sizes(constant: &Constant) -> Result<Vec<usize>> {
    if constant.data.len() > MAX_RANK {
        return Err(format!("{} axes", constant.data.len()).into());
    }
    let sizes = constant.as_ints()?.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<_>>();
    sizes.ok_or_else(|| Refusal::from("a negative size"))
}

/// Which scales belong to which codes: `axis`, and `block_size` (0 where there are no blocks).
fn places(node: Node<'_>) -> Result<[i64; 2]> {
    Ok([node.int("axis")?.unwrap_or(1), node.int("block_size")?.unwrap_or(0)])
}

fn choose<T: Copy>(condition: &[i64], x: &[T], y: &[T]) -> Vec<T> {
    condition.iter().zip(x.iter().zip(y)).map(|(&c, (&x, &y))| if c != 0 { x } else { y }).collect()
}
