//! Computes sums, means, extremes and normalisations of constants.
use super::super::constant::{Constant, Data};
use super::super::error::Result;
use super::array::count;

/// Returns the group of each element, in order. Elements that differ only along `axes` are in the same group, and groups have
/// the order of the reduced value.
fn groups<'a>(dims: &'a [usize], axes: &[usize]) -> impl Iterator<Item = usize> + use<'a> {
    // The distance between groups of a step along an axis.
    let mut steps = vec![0; dims.len()];
    let mut step = 1;
    for axis in (0..dims.len()).rev().filter(|axis| !axes.contains(axis)) {
        steps[axis] = step;
        step *= dims[axis];
    }
    let mut index = vec![0; dims.len()];
    let mut group = 0;
    (0..dims.iter().product()).map(move |_: usize| {
        let now = group;
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            group += steps[axis];
            if index[axis] < dims[axis] {
                break;
            }
            group -= steps[axis] * dims[axis];
            index[axis] = 0;
        }
        now
    })
}

pub(super) fn is_reduction(op: &str) -> bool {
    op.starts_with("Reduce") && float(op).is_some()
}

/// The first value of a reduction of floats, and the function that adds a value.
type Step = (f64, fn(f64, f64) -> f64);

fn float(op: &str) -> Option<Step> {
    Some(match op {
        "ReduceSum" | "ReduceMean" => (0.0, |sum, x| sum + x),
        "ReduceProd" => (1.0, |product, x| product * x),
        "ReduceMax" => (f64::NEG_INFINITY, |max, x| if max > x || max.is_nan() { max } else { x }),
        "ReduceMin" => (f64::INFINITY, |min, x| if min < x || min.is_nan() { min } else { x }),
        "ReduceL1" => (0.0, |sum, x| sum + x.abs()),
        "ReduceL2" | "ReduceSumSquare" => (0.0, |sum, x| sum + x * x),
        _ => return None,
    })
}

fn integer(op: &str) -> Option<fn(i64, i64) -> Option<i64>> {
    Some(match op {
        "ReduceSum" => i64::checked_add,
        "ReduceProd" => i64::checked_mul,
        "ReduceMax" => |a, b| Some(a.max(b)),
        "ReduceMin" => |a, b| Some(a.min(b)),
        _ => return None,
    })
}

/// Reduces over `axes`, which stay with size 1 if `keep` is true.
pub(super) fn reduce(op: &str, x: &Constant, axes: &[usize], keep: bool) -> Result<Constant> {
    let dims: Vec<usize> = match keep {
        true => (0..x.dims.len()).map(|a| if axes.contains(&a) { 1 } else { x.dims[a] }).collect(),
        false => (0..x.dims.len()).filter(|a| !axes.contains(a)).map(|a| x.dims[a]).collect(),
    };
    let outer = count(&dims)?;
    if x.data.len() == 0 {
        return Err("of nothing".into());
    }
    let groups = groups(&x.dims, axes);
    match &x.data {
        Data::Float(values) => {
            let (start, join) = float(op).ok_or("of floats is not computed")?;
            let mut all = vec![start; outer];
            groups.zip(values).for_each(|(group, &x)| all[group] = join(all[group], f64::from(x)));
            let each = (values.len() / outer) as f64;
            let end = |v: f64| match op {
                "ReduceMean" => v / each,
                "ReduceL2" => v.sqrt(),
                _ => v,
            };
            let data = Data::Float(all.into_iter().map(|v| end(v) as f32).collect());
            Ok(Constant { name: String::new(), kind: x.kind, dims, data })
        }
        Data::Int(values) => {
            let join = integer(op).ok_or("of integers is not computed")?;
            let mut all: Vec<Option<i64>> = vec![None; outer];
            for (group, &x) in groups.zip(values) {
                all[group] = Some(all[group].map_or(Some(x), |sum| join(sum, x)).ok_or("overflows")?);
            }
            Constant::of(x.kind, dims, all.into_iter().flatten().collect())
        }
    }
}

/// Computes `(x - mean) / sqrt(variance + eps) * scale + shift`, as standardised weights are written. Mean and variance are
/// given, or are those over all axes but axis 1.
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
    let each = values.len().checked_div(channels).unwrap_or(0) as f64;
    let statistics = |of: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; channels];
        groups(&x.dims, &axes).zip(values).for_each(|(c, &x)| sums[c] += of(c, f64::from(x)));
        sums.into_iter().map(|sum| sum / each).collect::<Vec<f64>>()
    };
    let doubles = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let (mean, variance) = match given {
        Some([mean, variance]) => (doubles(mean), doubles(variance)),
        None => {
            let mean = statistics(&|_, x| x);
            let variance = statistics(&|c, x| (x - mean[c]).powi(2));
            (mean, variance)
        }
    };
    let value = |(c, &x): (usize, &f32)| {
        let by = f64::from(scale[c]) / (variance[c] + eps).sqrt();
        ((f64::from(x) - mean[c]) * by + f64::from(shift[c])) as f32
    };
    let out = groups(&x.dims, &axes).zip(values).map(value).collect();
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
