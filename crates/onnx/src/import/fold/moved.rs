//! Computes operators that move, pick, repeat or make the elements of constants.
use std::rc::Rc;

use super::super::constant::{Constant, Data, MAX_RANK};
use super::super::error::{Refusal, Result};
use super::super::layout;
use super::super::lower::{Lowering, Value, axes_once, axis};
use super::super::node::Node;
use super::Inputs;
use super::array::{broadcast, concat, count, range, strides};

impl<'a> Lowering<'a> {
    /// Computes an operator that moves, picks, repeats or makes elements; `None` for other operators.
    pub(super) fn moved(&mut self, node: Node<'a>, inputs: &Inputs) -> Result<Option<Constant>> {
        let get = |index: usize| inputs.get(index);
        Ok(Some(match node.op() {
            "Constant" => self.stored(node)?,
            "Dropout" => {
                super::super::arithmetic::refuse_training(inputs.optional(2))?;
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

    /// Computes a `Range`.
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

    /// Computes a `Gather`.
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

    /// Computes a `Split`.
    pub(super) fn split_constant(&mut self, node: Node<'a>, x: &Constant) -> Result<Vec<Rc<Constant>>> {
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

    /// Returns the value of a `Constant`.
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

    /// Computes `Shape`, the whole or a part, or `Size`.
    pub(super) fn shape_of(&self, node: Node<'a>) -> Result<Constant> {
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

    /// Computes a `Slice`.
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
            // The step of an axis of one element is not used.
            strides[at] = if length > 1 { own[at] * isize::try_from(steps[i]).map_err(|_| "a step")? } else { 0 };
        }
        Ok(x.pick(dims, &strides, first))
    }
}

/// Returns the sizes of axes.
fn sizes(constant: &Constant) -> Result<Vec<usize>> {
    if constant.data.len() > MAX_RANK {
        return Err(format!("{} axes", constant.data.len()).into());
    }
    let sizes = constant.as_ints()?.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<_>>();
    sizes.ok_or_else(|| Refusal::from("a negative size"))
}

/// Picks elements of `x` where the condition holds, and else of `y`.
fn choose<T: Copy>(condition: &[i64], x: &[T], y: &[T]) -> Vec<T> {
    condition.iter().zip(x.iter().zip(y)).map(|(&c, (&x, &y))| if c != 0 { x } else { y }).collect()
}
