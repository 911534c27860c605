//! Moves the elements of constants: reshapes, picks, joins and broadcasts.
use super::super::constant::{Constant, Data};
use super::super::error::{Refusal, Result};
use super::super::lower::axis;

/// Returns the first index and the number of elements of a slice along an axis of `size`.
pub(in super::super) fn range(size: usize, start: i64, end: i64, step: i64) -> Result<(usize, usize)> {
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

/// Picks elements in the row-major order of `dims`; element `i` of axis `a` is at `start + i * strides[a]`.
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

pub(super) fn strides(dims: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; dims.len()];
    for axis in (1..dims.len()).rev() {
        // The strides of a value without elements may overflow, and are not used.
        strides[axis - 1] = strides[axis].wrapping_mul(dims[axis] as isize);
    }
    strides
}

/// Returns `data` of shape `dims` with its axes in the order `perm`.
pub(in super::super) fn permute<T: Copy>(data: &[T], dims: &[usize], perm: &[usize]) -> Vec<T> {
    let old = strides(dims);
    let new_dims: Vec<usize> = perm.iter().map(|&axis| dims[axis]).collect();
    let new_strides: Vec<isize> = perm.iter().map(|&axis| old[axis]).collect();
    pick(data, &new_dims, &new_strides, 0)
}

impl Constant {
    pub(super) fn pick(&self, dims: Vec<usize>, strides: &[isize], start: isize) -> Self {
        let data = match &self.data {
            Data::Float(values) => Data::Float(pick(values, &dims, strides, start)),
            Data::Int(values) => Data::Int(pick(values, &dims, strides, start)),
        };
        Self { name: self.name.clone(), kind: self.kind, dims, data }
    }

    pub(super) fn reshaped(&self, dims: Vec<usize>) -> Self {
        Self { dims, ..self.clone() }
    }

    /// Returns the constant with its axes in another order.
    pub(super) fn transposed(&self, perm: &[usize]) -> Self {
        let own = strides(&self.dims);
        let dims = perm.iter().map(|&a| self.dims[a]).collect();
        self.pick(dims, &perm.iter().map(|&a| own[a]).collect::<Vec<_>>(), 0)
    }

    /// Returns the constant repeated along its axes of size 1, so that it has these dimensions.
    pub(super) fn spread(&self, dims: &[usize]) -> Self {
        if self.dims == dims {
            return self.clone();
        }
        self.pick(dims.to_vec(), &broadcast_strides(&self.dims, dims), 0)
    }

    /// Returns the elements at these positions.
    pub(super) fn take(&self, dims: Vec<usize>, order: &[usize]) -> Self {
        let data = match &self.data {
            Data::Float(values) => Data::Float(order.iter().map(|&i| values[i]).collect()),
            Data::Int(values) => Data::Int(order.iter().map(|&i| values[i]).collect()),
        };
        Self { name: self.name.clone(), kind: self.kind, dims, data }
    }

    /// Returns the constant with size 1 along axes along which it does not change.
    pub(in super::super) fn collapsed(&self) -> Self {
        let mut all = self.clone();
        for at in 0..all.dims.len() {
            let (size, inner) = (all.dims[at], all.dims[at + 1..].iter().product::<usize>());
            if size < 2 || inner == 0 {
                continue;
            }
            // Element `i` is compared with the one at index 0 of the axis.
            let first = |i: usize| i - i / inner % size * inner;
            let is_constant = match &all.data {
                Data::Float(values) => {
                    values.iter().enumerate().all(|(i, v)| v.to_bits() == values[first(i)].to_bits())
                }
                Data::Int(values) => values.iter().enumerate().all(|(i, v)| *v == values[first(i)]),
            };
            if is_constant {
                all = all.part(at, 0, 1);
            }
        }
        all
    }

    /// Returns `length` elements of one axis, from `start` on.
    pub(super) fn part(&self, at: usize, start: usize, length: usize) -> Self {
        let strides = strides(&self.dims);
        let mut dims = self.dims.clone();
        dims[at] = length;
        self.pick(dims, &strides, (start as isize).wrapping_mul(strides[at]))
    }
}

/// Returns the dimensions to which two values are broadcast.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
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

pub(super) fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<isize> {
    let own = strides(from);
    let missing = to.len() - from.len();
    (0..to.len())
        .map(|i| match i.checked_sub(missing) {
            Some(i) if from[i] != 1 => own[i],
            _ => 0,
        })
        .collect()
}

pub(super) fn count(dims: &[usize]) -> Result<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(|| Refusal::from("too many elements"))
}

pub(super) fn concat(parts: &[&Constant], at: i64) -> Result<Constant> {
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
    let data = match (floats.is_empty(), ints.is_empty()) {
        (_, true) if matches!(first.data, Data::Float(_)) => Data::Float(floats),
        (true, _) => Data::Int(ints),
        _ => return Err("joins integers and floats".into()),
    };
    Ok(Constant { name: String::new(), kind: first.kind, dims, data })
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
        assert_eq!(x.spread(&[3, 2]).as_ints().unwrap(), [1, 2, 1, 2, 1, 2]);
        assert_eq!(permute(&[1, 2, 3, 4, 5, 6], &[2, 3], &[1, 0]), [1, 4, 2, 5, 3, 6]);
    }

    #[test]
    fn joins_along_any_axis() {
        let part = |values: &[i64], dims: [usize; 2]| Constant::new(dims, Data::Int(values.to_vec()));
        let (a, b) = (part(&[1, 2, 3, 4], [2, 2]), part(&[5, 6], [2, 1]));
        let joined = concat(&[&a, &b], -1).unwrap();
        assert_eq!((joined.dims.as_slice(), joined.as_ints().unwrap()), (&[2, 3][..], &[1, 2, 5, 3, 4, 6][..]));
        assert!(concat(&[&a, &b], 0).is_err());
        let x = part(&[1, 1, 2, 2], [2, 2]).collapsed();
        assert_eq!((x.dims.as_slice(), x.as_ints().unwrap()), (&[2, 1][..], &[1, 2][..]));
        assert_eq!(part(&[1, 2, 2, 1], [2, 2]).collapsed().dims, [2, 2]);
        assert_eq!(joined.part(1, 1, 2).as_ints().unwrap(), [2, 5, 4, 6]);
    }
}
