//! Arithmetic on constants: above all on shapes, that exporters leave in a file.
use super::constant::{Constant, Data};
use super::error::{Refusal, Result};
use super::layout;
use super::lower::{Lowering, Value, axis};
use super::node::Node;

/// First index and number of elements of a slice along an axis of `size`.
pub(super) fn range(size: usize, start: i64, end: i64, step: i64) -> Result<(usize, usize)> {
    let size = i64::try_from(size).map_err(|_| "an axis that is too long")?;
    let clamp = |index: i64, low: i64, high: i64| {
        let index = if index < 0 { index.saturating_add(size) } else { index };
        index.clamp(low, high)
    };
    let (start, length) = match step {
        0 => return Err("a step of 0".into()),
        1.. => {
            let (start, end) = (clamp(start, 0, size), clamp(end, 0, size));
            (start, (end - start).max(0) as u64)
        }
        _ if size == 0 => (0, 0),
        _ => {
            let (start, end) = (clamp(start, 0, size - 1), clamp(end, -1, size - 1));
            (start, (start - end).max(0) as u64)
        }
    };
    Ok((start as usize, length.div_ceil(step.unsigned_abs()) as usize))
}

/// Elements in row-major order of `dims`, element `i` of axis `a` at `start + i * strides[a]`.
fn pick<T: Copy>(data: &[T], dims: &[usize], strides: &[isize], start: isize) -> Vec<T> {
    let count = dims.iter().product();
    let mut out = Vec::with_capacity(count);
    let mut index = vec![0; dims.len()];
    let mut at = start;
    for _ in 0..count {
        out.push(data[at as usize]);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < dims[axis] {
                break;
            }
            at -= strides[axis] * dims[axis] as isize;
            index[axis] = 0;
        }
    }
    out
}

fn strides(dims: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis] as isize;
    }
    strides
}

/// `data` of shape `dims` with its axes in the order `perm`.
pub(super) fn permute<T: Copy>(data: &[T], dims: &[usize], perm: &[usize]) -> Vec<T> {
    let old = strides(dims);
    let new_dims: Vec<usize> = perm.iter().map(|&axis| dims[axis]).collect();
    let new_strides: Vec<isize> = perm.iter().map(|&axis| old[axis]).collect();
    pick(data, &new_dims, &new_strides, 0)
}

impl Constant {
    fn pick(&self, dims: Vec<usize>, strides: &[isize], start: isize) -> Self {
        let data = match &self.data {
            Data::Float(values) => Data::Float(pick(values, &dims, strides, start)),
            Data::Int(values) => Data::Int(pick(values, &dims, strides, start)),
        };
        Self { name: self.name.clone(), dims, data }
    }

    fn reshaped(&self, dims: Vec<usize>) -> Self {
        Self { dims, ..self.clone() }
    }
}

/// Dimensions of two values beside each other.
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            _ => Err(format!("shapes {a:?} and {b:?} do not go together").into()),
        })
        .collect()
}

fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<isize> {
    let own = strides(from);
    let missing = to.len() - from.len();
    (0..to.len())
        .map(|i| match i.checked_sub(missing) {
            Some(i) if from[i] != 1 => own[i],
            _ => 0,
        })
        .collect()
}

impl<'a> Lowering<'a> {
    /// The value of a node that depends on constants and shapes alone; `None` where it depends on the image, or is of a
    /// kind that is not folded.
    pub fn fold(&mut self, node: Node<'a>) -> Result<Option<Constant>> {
        if let "Shape" | "Size" = node.op() {
            return self.shape_of(node).map(Some);
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
        let get = |index: usize| -> Result<&Constant> {
            inputs.get(index).and_then(|input| input.as_deref()).ok_or_else(|| format!("lacks input {index}").into())
        };
        let has = |index: usize| inputs.get(index).is_some_and(Option::is_some);
        // Nothing that is folded element by element makes more than its inputs hold, but for what is checked below.
        self.charge(inputs.iter().flatten().map(|input| input.data.len()).fold(0, usize::saturating_add))?;
        let result = match node.op() {
            "Constant" => constant(node)?,
            "Identity" | "Dropout" => get(0)?.clone(),
            "Cast" => cast(get(0)?, node.int("to")?.ok_or("lacks `to`")?)?,
            "Reshape" => {
                let x = get(0)?;
                x.reshaped(layout::reshape(&x.dims, get(1)?.as_ints()?, node.flag("allowzero")?)?)
            }
            "Flatten" => {
                let x = get(0)?;
                let at = node.int("axis")?.unwrap_or(1);
                let at = if at == x.dims.len() as i64 { x.dims.len() } else { axis(at, x.dims.len())? };
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
                let axes = axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>>>()?;
                let mut old = x.dims.iter();
                let dims: Vec<usize> = (0..rank)
                    .map(|a| if axes.contains(&a) { Some(1) } else { old.next().copied() })
                    .collect::<Option<_>>()
                    .ok_or("an axis twice")?;
                if old.next().is_some() {
                    return Err("an axis twice".into());
                }
                x.reshaped(dims)
            }
            "Transpose" => {
                let x = get(0)?;
                let rank = x.dims.len();
                let perm: Vec<usize> = match node.ints("perm")? {
                    None => (0..rank).rev().collect(),
                    Some(perm) => perm.iter().map(|&a| axis(a, rank)).collect::<Result<_>>()?,
                };
                let mut sorted = perm.clone();
                sorted.sort_unstable();
                if sorted.len() != rank || sorted.iter().enumerate().any(|(i, &a)| i != a) {
                    return Err(format!("`perm` {perm:?} for {rank} axes").into());
                }
                let own = strides(&x.dims);
                let dims = perm.iter().map(|&a| x.dims[a]).collect();
                x.pick(dims, &perm.iter().map(|&a| own[a]).collect::<Vec<_>>(), 0)
            }
            "Slice" => self.slice_constant(node, get(0)?)?,
            "Gather" => {
                let (x, indices) = (get(0)?, get(1)?);
                let at = axis(node.int("axis")?.unwrap_or(0), x.dims.len())?;
                let picked = indices.as_ints()?.iter().map(|&i| axis(i, x.dims[at])).collect::<Result<Vec<_>>>()?;
                let dims = [&x.dims[..at], indices.dims.as_slice(), &x.dims[at + 1..]].concat();
                let outer: usize = x.dims[..at].iter().product();
                let inner: usize = x.dims[at + 1..].iter().product();
                let count = outer.checked_mul(picked.len()).and_then(|n| n.checked_mul(inner)).ok_or("too large")?;
                self.charge(count)?;
                let mut order = Vec::with_capacity(count);
                for o in 0..outer {
                    for &i in &picked {
                        order.extend((0..inner).map(|k| (o * x.dims[at] + i) * inner + k));
                    }
                }
                take(x, dims, &order)
            }
            "Concat" => {
                let parts = (0..inputs.len()).map(&get).collect::<Result<Vec<_>>>()?;
                concat(&parts, node.int("axis")?.ok_or("lacks `axis`")?)?
            }
            "Expand" => {
                let x = get(0)?;
                let target = get(1)?.as_ints()?.iter().map(|&n| usize::try_from(n).map_err(|_| "a negative size"));
                let target = target.collect::<std::result::Result<Vec<_>, _>>()?;
                let dims = broadcast(&x.dims, &target)?;
                self.charge(count(&dims)?)?;
                let strides = broadcast_strides(&x.dims, &dims);
                x.pick(dims, &strides, 0)
            }
            "ConstantOfShape" => {
                let dims = get(0)?.as_ints()?.iter().map(|&n| usize::try_from(n).map_err(|_| "a negative size"));
                let dims = dims.collect::<std::result::Result<Vec<_>, _>>()?;
                let count = count(&dims)?;
                self.charge(count)?;
                let data = match node.tensor("value")? {
                    None => Data::Float(vec![0.0; count]),
                    Some(tensor) => match Constant::read(tensor).map_err(|error| error.to_string())?.data {
                        Data::Float(v) if v.len() == 1 => Data::Float(vec![v[0]; count]),
                        Data::Int(v) if v.len() == 1 => Data::Int(vec![v[0]; count]),
                        _ => return Err("`value` is not one number".into()),
                    },
                };
                Constant::new(dims, data)
            }
            "Range" => {
                let one = |index: usize| -> Result<i64> {
                    get(index)?.as_ints()?.first().copied().ok_or_else(|| "an empty bound".into())
                };
                let (start, end, step) = (one(0)?, one(1)?, one(2)?);
                if step == 0 {
                    return Err("a step of 0".into());
                }
                let count = (i128::from(end) - i128::from(start)).div_euclid(i128::from(step));
                let exact = (i128::from(end) - i128::from(start)) % i128::from(step) == 0;
                let count = usize::try_from(count + i128::from(!exact)).unwrap_or(0);
                self.charge(count)?;
                let values: Vec<i64> =
                    (0..count as i128).map(|i| (i128::from(start) + i * i128::from(step)) as i64).collect();
                Constant::ints(values)
            }
            "Where" => {
                let (condition, x, y) = (get(0)?, get(1)?, get(2)?);
                let dims = broadcast(&broadcast(&condition.dims, &x.dims)?, &y.dims)?;
                self.charge(count(&dims)?.saturating_mul(3))?;
                let spread = |c: &Constant| c.pick(dims.clone(), &broadcast_strides(&c.dims, &dims), 0);
                let condition = spread(condition);
                let condition = condition.as_ints()?;
                let data = match (spread(x).data, spread(y).data) {
                    (Data::Int(x), Data::Int(y)) => Data::Int(choose(condition, &x, &y)),
                    (Data::Float(x), Data::Float(y)) => Data::Float(choose(condition, &x, &y)),
                    _ => return Err("integers and floats".into()),
                };
                Constant::new(dims, data)
            }
            "Neg" | "Abs" | "Sqrt" | "Reciprocal" | "Floor" | "Ceil" | "Not" => unary(node.op(), get(0)?)?,
            "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Min" | "Max" | "Pow" | "Equal" | "Greater" | "Less" | "And"
            | "Or"
                if has(0) && has(1) && inputs.len() == 2 =>
            {
                let (x, y) = (get(0)?, get(1)?);
                let dims = broadcast(&x.dims, &y.dims)?;
                self.charge(count(&dims)?.saturating_mul(3))?;
                let spread = |c: &Constant| c.pick(dims.clone(), &broadcast_strides(&c.dims, &dims), 0).data;
                Constant::new(dims.clone(), binary(node.op(), spread(x), spread(y))?)
            }
            "ReduceProd" if node.ints("axes")?.is_none() && inputs.len() == 1 => {
                let product = get(0)?.as_ints()?.iter().try_fold(1i64, |product, &n| product.checked_mul(n));
                let keep = node.int("keepdims")?.unwrap_or(1) != 0;
                let dims = if keep { vec![1; get(0)?.dims.len()] } else { vec![] };
                Constant::new(dims, Data::Int(vec![product.ok_or("too large")?]))
            }
            _ => return Ok(None),
        };
        Ok(Some(result))
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

fn count(dims: &[usize]) -> Result<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(|| Refusal::from("too many elements"))
}

fn choose<T: Copy>(condition: &[i64], x: &[T], y: &[T]) -> Vec<T> {
    condition.iter().zip(x.iter().zip(y)).map(|(&c, (&x, &y))| if c != 0 { x } else { y }).collect()
}

/// The elements of `x` at these places.
fn take(x: &Constant, dims: Vec<usize>, order: &[usize]) -> Constant {
    let data = match &x.data {
        Data::Float(values) => Data::Float(order.iter().map(|&i| values[i]).collect()),
        Data::Int(values) => Data::Int(order.iter().map(|&i| values[i]).collect()),
    };
    Constant { name: x.name.clone(), dims, data }
}

fn constant(node: Node<'_>) -> Result<Constant> {
    if let Some(tensor) = node.tensor("value")? {
        return Constant::read(tensor).map_err(|error| Refusal {
            why: String::new(),
            hint: None,
            whole: Some(Box::new(error)),
        });
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

fn cast(x: &Constant, to: i64) -> Result<Constant> {
    // float, float16, double, bfloat16; integers; bool
    let data = match (&x.data, to) {
        (Data::Float(values), 1 | 10 | 11 | 16) => Data::Float(values.clone()),
        (Data::Int(values), 1 | 10 | 11 | 16) => Data::Float(values.iter().map(|&v| v as f32).collect()),
        (Data::Float(values), 2..=7 | 12 | 13) => Data::Int(values.iter().map(|&v| v as i64).collect()),
        (Data::Int(values), 2..=7 | 12 | 13) => Data::Int(values.clone()),
        (Data::Float(values), 9) => Data::Int(values.iter().map(|&v| i64::from(v != 0.0)).collect()),
        (Data::Int(values), 9) => Data::Int(values.iter().map(|&v| i64::from(v != 0)).collect()),
        _ => return Err(format!("a cast to type {to}").into()),
    };
    Ok(Constant { name: x.name.clone(), dims: x.dims.clone(), data })
}

fn concat(parts: &[&Constant], at: i64) -> Result<Constant> {
    let first = parts.first().ok_or("joins nothing")?;
    let at = axis(at, first.dims.len())?;
    let mut dims = first.dims.clone();
    dims[at] = 0;
    for part in parts {
        let alike = part.dims.len() == dims.len() && (0..dims.len()).all(|a| a == at || part.dims[a] == dims[a]);
        if !alike {
            return Err(format!("joins shapes {:?} and {:?}", first.dims, part.dims).into());
        }
        dims[at] = dims[at].checked_add(part.dims[at]).ok_or("too many elements")?;
    }
    let outer: usize = dims[..at].iter().product();
    let rows = |part: &Constant| part.data.len().checked_div(outer).unwrap_or(0);
    let mut floats = Vec::new();
    let mut ints = Vec::new();
    for o in 0..outer {
        for part in parts {
            let row = o * rows(part)..(o + 1) * rows(part);
            match &part.data {
                Data::Float(values) => floats.extend_from_slice(&values[row]),
                Data::Int(values) => ints.extend_from_slice(&values[row]),
            }
        }
    }
    match (floats.is_empty(), ints.is_empty()) {
        (_, true) if matches!(first.data, Data::Float(_)) => Ok(Constant::new(dims, Data::Float(floats))),
        (true, _) => Ok(Constant::new(dims, Data::Int(ints))),
        _ => Err("joins integers and floats".into()),
    }
}

fn unary(op: &str, x: &Constant) -> Result<Constant> {
    let floats = |values: &[f32], f: fn(f32) -> f32| Data::Float(values.iter().map(|&v| f(v)).collect());
    let data = match (&x.data, op) {
        (Data::Float(values), "Neg") => floats(values, |v| -v),
        (Data::Float(values), "Abs") => floats(values, f32::abs),
        (Data::Float(values), "Sqrt") => floats(values, f32::sqrt),
        (Data::Float(values), "Reciprocal") => floats(values, f32::recip),
        (Data::Float(values), "Floor") => floats(values, f32::floor),
        (Data::Float(values), "Ceil") => floats(values, f32::ceil),
        (Data::Int(values), "Neg") => Data::Int(values.iter().map(|v| v.wrapping_neg()).collect()),
        (Data::Int(values), "Abs") => Data::Int(values.iter().map(|v| v.wrapping_abs()).collect()),
        (Data::Int(values), "Not") => Data::Int(values.iter().map(|&v| i64::from(v == 0)).collect()),
        _ => return Err("of this type is not folded".into()),
    };
    Ok(Constant::new(x.dims.clone(), data))
}

fn binary(op: &str, x: Data, y: Data) -> Result<Data> {
    match (x, y) {
        (Data::Float(x), Data::Float(y)) => {
            let f: fn(f32, f32) -> f32 = match op {
                "Add" => |a, b| a + b,
                "Sub" => |a, b| a - b,
                "Mul" => |a, b| a * b,
                "Div" => |a, b| a / b,
                "Min" => f32::min,
                "Max" => f32::max,
                "Pow" => f32::powf,
                "Equal" | "Greater" | "Less" => {
                    let f: fn(f32, f32) -> bool = match op {
                        "Equal" => |a, b| a == b,
                        "Greater" => |a, b| a > b,
                        _ => |a, b| a < b,
                    };
                    return Ok(Data::Int(x.iter().zip(&y).map(|(&a, &b)| i64::from(f(a, b))).collect()));
                }
                _ => return Err("of floats is not folded".into()),
            };
            Ok(Data::Float(x.iter().zip(&y).map(|(&a, &b)| f(a, b)).collect()))
        }
        (Data::Int(x), Data::Int(y)) => {
            let f: fn(i64, i64) -> Option<i64> = match op {
                "Add" => i64::checked_add,
                "Sub" => i64::checked_sub,
                "Mul" => i64::checked_mul,
                "Div" => i64::checked_div,
                "Mod" => |a, b| {
                    if b == 0 {
                        None
                    } else {
                        a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r })
                    }
                },
                "Min" => |a, b| Some(a.min(b)),
                "Max" => |a, b| Some(a.max(b)),
                "Equal" => |a, b| Some(i64::from(a == b)),
                "Greater" => |a, b| Some(i64::from(a > b)),
                "Less" => |a, b| Some(i64::from(a < b)),
                "And" => |a, b| Some(i64::from(a != 0 && b != 0)),
                "Or" => |a, b| Some(i64::from(a != 0 || b != 0)),
                _ => return Err("of integers is not folded".into()),
            };
            let values: Option<Vec<i64>> = x.iter().zip(&y).map(|(&a, &b)| f(a, b)).collect();
            Ok(Data::Int(values.ok_or("divides by zero, or overflows")?))
        }
        _ => Err("integers and floats".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_numpys() {
        // range(5)[start:end:step]: first index and length.
        for (start, end, step, expected) in [
            (0, 5, 1, (0, 5)),
            (1, -1, 1, (1, 3)),
            (-2, i64::MAX, 1, (3, 2)),
            (3, 1, 1, (3, 0)),
            (0, 5, 2, (0, 3)),
            (-1, i64::MIN, -1, (4, 5)),
            (-1, -i64::MAX, -1, (4, 5)),
            (3, 0, -2, (3, 2)),
            (9, 9, 1, (5, 0)),
        ] {
            assert_eq!(range(5, start, end, step).unwrap(), expected, "{start}:{end}:{step}");
        }
        assert!(range(5, 0, 5, 0).is_err());
    }

    #[test]
    fn broadcasting_and_transposing() {
        assert_eq!(broadcast(&[2, 1, 4], &[3, 1]).unwrap(), [2, 3, 4]);
        assert!(broadcast(&[2], &[3]).is_err());
        let x = Constant::ints(vec![1, 2]);
        let spread = x.pick(vec![3, 2], &broadcast_strides(&[2], &[3, 2]), 0);
        assert_eq!(spread.as_ints().unwrap(), [1, 2, 1, 2, 1, 2]);
        assert_eq!(permute(&[1, 2, 3, 4, 5, 6], &[2, 3], &[1, 0]), [1, 4, 2, 5, 3, 6]);
    }

    #[test]
    fn joins_along_any_axis() {
        let part = |values: &[i64], dims: [usize; 2]| Constant::new(dims, Data::Int(values.to_vec()));
        let (a, b) = (part(&[1, 2, 3, 4], [2, 2]), part(&[5, 6], [2, 1]));
        let joined = concat(&[&a, &b], -1).unwrap();
        assert_eq!((joined.dims.as_slice(), joined.as_ints().unwrap()), (&[2, 3][..], &[1, 2, 5, 3, 4, 6][..]));
        assert!(concat(&[&a, &b], 0).is_err());
    }

    #[test]
    fn integers_that_overflow_are_refused() {
        let of = |op: &str, x: i64, y: i64| binary(op, Data::Int(vec![x]), Data::Int(vec![y])).map(|d| d.len()).is_ok();
        assert!(of("Div", -7, 2) && of("Mod", -7, 2));
        assert!(!of("Div", 1, 0) && !of("Mod", 1, 0) && !of("Mul", i64::MAX, 2) && !of("Div", i64::MIN, -1));
    }
}
