//! Sums, means and extremes of constants, and what normalises them.
use super::super::constant::{Constant, Data};
use super::super::error::Result;
use super::array::count;

/// Groups of elements that differ in `axes` alone, in the order of what remains.
fn groups(dims: &[usize], axes: &[usize]) -> Vec<Vec<usize>> {
    let kept: Vec<usize> = (0..dims.len()).filter(|a| !axes.contains(a)).collect();
    let total: usize = dims.iter().product();
    let outer: usize = kept.iter().map(|&a| dims[a]).product();
    let mut groups = vec![Vec::with_capacity(total.checked_div(outer).unwrap_or(0)); outer];
    let mut index = vec![0; dims.len()];
    for at in 0..total {
        let group = kept.iter().fold(0, |group, &a| group * dims[a] + index[a]);
        groups[group].push(at);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    groups
}

pub(super) fn is_reduction(op: &str) -> bool {
    op.starts_with("Reduce") && float(op).is_some()
}

fn float(op: &str) -> Option<fn(&mut dyn Iterator<Item = f64>) -> f64> {
    Some(match op {
        "ReduceSum" => |v| v.sum(),
        "ReduceMean" => |v| {
            let (sum, n) = v.fold((0.0, 0.0), |(sum, n), x| (sum + x, n + 1.0));
            sum / n
        },
        "ReduceProd" => |v| v.product(),
        "ReduceMax" => |v| v.fold(f64::NEG_INFINITY, |a, b| if a > b || a.is_nan() { a } else { b }),
        "ReduceMin" => |v| v.fold(f64::INFINITY, |a, b| if a < b || a.is_nan() { a } else { b }),
        "ReduceL1" => |v| v.map(f64::abs).sum(),
        "ReduceL2" => |v| v.map(|x| x * x).sum::<f64>().sqrt(),
        "ReduceSumSquare" => |v| v.map(|x| x * x).sum(),
        _ => return None,
    })
}

/// `op` over `axes`, which stay with size 1 where `keep` says so.
pub(super) fn reduce(op: &str, x: &Constant, axes: &[usize], keep: bool) -> Result<Constant> {
    let dims: Vec<usize> = match keep {
        true => (0..x.dims.len()).map(|a| if axes.contains(&a) { 1 } else { x.dims[a] }).collect(),
        false => (0..x.dims.len()).filter(|a| !axes.contains(a)).map(|a| x.dims[a]).collect(),
    };
    count(&dims)?;
    let groups = groups(&x.dims, axes);
    if groups.iter().any(Vec::is_empty) {
        return Err("of nothing".into());
    }
    match &x.data {
        Data::Float(values) => {
            let f = float(op).ok_or("of floats is not computed")?;
            let of = |group: &Vec<usize>| f(&mut group.iter().map(|&i| f64::from(values[i]))) as f32;
            let data = Data::Float(groups.iter().map(of).collect());
            Ok(Constant { name: String::new(), kind: x.kind, dims, data })
        }
        Data::Int(values) => {
            let join: fn(i64, i64) -> Option<i64> = match op {
                "ReduceSum" => i64::checked_add,
                "ReduceProd" => i64::checked_mul,
                "ReduceMax" => |a, b| Some(a.max(b)),
                "ReduceMin" => |a, b| Some(a.min(b)),
                _ => return Err("of integers is not computed".into()),
            };
            let of = |group: &Vec<usize>| {
                let mut values = group.iter().map(|&i| values[i]);
                let first = values.next()?;
                values.try_fold(first, join)
            };
            let values: Option<Vec<i64>> = groups.iter().map(of).collect();
            Constant::of(x.kind, dims, values.ok_or("overflows")?)
        }
    }
}

/// `(x - mean) / sqrt(variance + eps) * scale + shift`, mean and variance of everything but axis 1, or as given: how
/// standardised weights are written.
pub(super) fn normalise(
    x: &Constant,
    [scale, shift]: [&[f32]; 2],
    given: Option<[&[f32]; 2]>,
    eps: f64,
) -> Result<Constant> {
    let values = x.as_floats()?;
    let channels = *x.dims.get(1).ok_or("of less than two axes")?;
    let fits = |values: &[f32]| values.len() == channels;
    if !fits(scale) || !fits(shift) || given.is_some_and(|given| !given.into_iter().all(fits)) {
        return Err(format!("parameters that do not fit {channels} channels").into());
    }
    let axes: Vec<usize> = (0..x.dims.len()).filter(|&a| a != 1).collect();
    let mut out = values.to_vec();
    for (c, group) in groups(&x.dims, &axes).into_iter().enumerate() {
        let n = group.len() as f64;
        let (mean, variance) = match given {
            Some([mean, variance]) => (f64::from(mean[c]), f64::from(variance[c])),
            None => {
                let mean = group.iter().map(|&i| f64::from(values[i])).sum::<f64>() / n;
                (mean, group.iter().map(|&i| (f64::from(values[i]) - mean).powi(2)).sum::<f64>() / n)
            }
        };
        let by = f64::from(scale[c]) / (variance + eps).sqrt();
        for i in group {
            out[i] = ((f64::from(values[i]) - mean) * by + f64::from(shift[c])) as f32;
        }
    }
    Ok(Constant { name: x.name.clone(), kind: x.kind, dims: x.dims.clone(), data: Data::Float(out) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_over_any_axes() {
        let x = Constant::new([2, 3], Data::Float(vec![1.0, -2.0, 2.0, 3.0, 4.0, 0.0]));
        let of = |op: &str, axes: &[usize], keep: bool| {
            let y = reduce(op, &x, axes, keep).unwrap();
            (y.dims.clone(), y.as_floats().unwrap().to_vec())
        };
        assert_eq!(of("ReduceSum", &[0], true), (vec![1, 3], vec![4.0, 2.0, 2.0]));
        assert_eq!(of("ReduceL2", &[1], false), (vec![2], vec![3.0, 5.0]));
        assert_eq!(of("ReduceMean", &[0, 1], false), (vec![], vec![8.0 / 6.0]));
        assert_eq!(of("ReduceMin", &[1], true), (vec![2, 1], vec![-2.0, 0.0]));
        let ints = Constant::ints(vec![2, 3, 4]);
        assert_eq!(reduce("ReduceProd", &ints, &[0], false).unwrap().as_ints().unwrap(), [24]);
        assert!(reduce("ReduceProd", &Constant::ints(vec![i64::MAX, 2]), &[0], true).is_err());
        assert!(reduce("ReduceMax", &Constant::new([0], Data::Float(vec![])), &[0], true).is_err());
    }

    #[test]
    fn weights_are_standardised() {
        // One row of two filters, as standardised weights are reshaped: means 2 and 0, deviations 1 and 2.
        let x = Constant::new([1, 2, 2], Data::Float(vec![1.0, 3.0, -2.0, 2.0]));
        let y = normalise(&x, [&[1.0, 3.0], &[0.0, 1.0]], None, 0.0).unwrap();
        assert_eq!(y.as_floats().unwrap(), [-1.0, 1.0, -2.0, 4.0]);
        let y = normalise(&x, [&[1.0, 1.0], &[0.0, 0.0]], Some([&[1.0, 0.0], &[4.0, 1.0]]), 0.0).unwrap();
        assert_eq!(y.as_floats().unwrap(), [0.0, 1.0, -2.0, 2.0]);
        assert!(normalise(&x, [&[1.0], &[0.0]], None, 0.0).is_err());
    }
}
