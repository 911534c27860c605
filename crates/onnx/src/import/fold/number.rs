//! Computes functions of numbers, element by element. It gives the result of an engine, or refuses where engines differ.
use half::{bf16, f16};

use super::super::constant::{Constant, Data, integers};
use super::super::error::Result;
use super::array::broadcast;
use crate::proto::DataType;

/// Converts a value to another type.
///
/// # Errors
/// The type cannot hold a number.
pub(in super::super) fn cast(x: &Constant, to: i64) -> Result<Constant> {
    let kind = i32::try_from(to).ok().and_then(|to| DataType::try_from(to).ok()).ok_or("a cast to an unknown type")?;
    let data = match (&x.data, kind) {
        (Data::Float(values), DataType::Float | DataType::Double) => Data::Float(values.clone()),
        (Data::Float(values), DataType::Float16) => {
            Data::Float(values.iter().map(|&v| f16::from_f32(v).to_f32()).collect())
        }
        (Data::Float(values), DataType::Bfloat16) => {
            Data::Float(values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect())
        }
        (Data::Int(values), DataType::Float | DataType::Double) => {
            Data::Float(values.iter().map(|&v| v as f32).collect())
        }
        (Data::Float(values), DataType::Bool) => Data::Int(values.iter().map(|&v| i64::from(v != 0.0)).collect()),
        (Data::Int(values), DataType::Bool) => Data::Int(values.iter().map(|&v| i64::from(v != 0)).collect()),
        (Data::Int(values), kind) if integers(kind).is_some() => {
            return Ok(Constant { name: x.name.clone(), ..Constant::of(kind, x.dims.clone(), values.clone())? });
        }
        (Data::Float(values), kind) if integers(kind).is_some() => {
            // Numbers up to 2^63 are allowed, to which `as` saturates.
            let whole = |v: f32| if v.abs() < i64::MAX as f32 { Some(v as i64) } else { None };
            let values: Option<Vec<i64>> = values.iter().map(|&v| whole(v)).collect();
            return Constant::of(kind, x.dims.clone(), values.ok_or("a cast of what no integer holds")?);
        }
        (Data::Int(_), DataType::Float16 | DataType::Bfloat16) => return cast(&cast(x, DataType::Float as i64)?, to),
        _ => return Err(format!("a cast to {kind:?}").into()),
    };
    Ok(Constant { name: x.name.clone(), kind, dims: x.dims.clone(), data })
}

/// Returns the function of one float for an operator, if it is supported.
fn function(op: &str) -> Option<fn(f64) -> f64> {
    Some(match op {
        "Neg" => |v| -v,
        "Abs" => f64::abs,
        "Sqrt" => f64::sqrt,
        "Reciprocal" => f64::recip,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Round" => f64::round_ties_even,
        "Sign" => |v| if v == 0.0 || v.is_nan() { v } else { v.signum() },
        "Exp" => f64::exp,
        "Log" => f64::ln,
        "Sin" => f64::sin,
        "Cos" => f64::cos,
        "Tanh" => f64::tanh,
        "Sigmoid" => |v| 1.0 / (1.0 + (-v).exp()),
        "Softplus" => |v| v.max(0.0) + (-v.abs()).exp().ln_1p(),
        "Relu" => |v| if v < 0.0 { 0.0 } else { v },
        _ => return None,
    })
}

pub(super) fn is_unary(op: &str) -> bool {
    op == "Not" || function(op).is_some()
}

pub(super) fn unary(op: &str, x: &Constant) -> Result<Constant> {
    match &x.data {
        Data::Float(values) => {
            let f = function(op).ok_or("of floats is not computed")?;
            let data = Data::Float(values.iter().map(|&v| f(f64::from(v)) as f32).collect());
            Ok(Constant { name: String::new(), kind: x.kind, dims: x.dims.clone(), data })
        }
        Data::Int(values) => {
            let f: fn(i64) -> Option<i64> = match op {
                "Neg" => i64::checked_neg,
                "Abs" => i64::checked_abs,
                "Sign" => |v| Some(v.signum()),
                "Relu" => |v| Some(v.max(0)),
                "Not" => |v| Some(i64::from(v == 0)),
                _ => return Err("of integers is not computed".into()),
            };
            let values: Option<Vec<i64>> = values.iter().map(|&v| f(v)).collect();
            Constant::of(x.kind, x.dims.clone(), values.ok_or("overflows")?)
        }
    }
}

pub(super) fn is_binary(op: &str) -> bool {
    let arithmetic = ["Add", "Sub", "Mul", "Div", "Mod", "Pow", "Min", "Max", "Sum", "And", "Or", "Xor", "PRelu"];
    arithmetic.contains(&op) || comparison(op).is_some()
}

fn comparison(op: &str) -> Option<fn(std::cmp::Ordering) -> bool> {
    Some(match op {
        "Equal" => std::cmp::Ordering::is_eq,
        "Greater" => std::cmp::Ordering::is_gt,
        "Less" => std::cmp::Ordering::is_lt,
        "GreaterOrEqual" => std::cmp::Ordering::is_ge,
        "LessOrEqual" => std::cmp::Ordering::is_le,
        _ => return None,
    })
}

/// Returns the smaller number, or NaN if either is.
fn float_min(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

fn float_max(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// Computes an operator on two values, which are broadcast. `c_remainder` is the attribute `fmod` of `Mod`.
pub(super) fn binary(op: &str, x: &Constant, y: &Constant, c_remainder: bool) -> Result<Constant> {
    let dims = broadcast(&x.dims, &y.dims)?;
    let (a, b) = (x.spread(&dims), y.spread(&dims));
    if let Some(holds) = comparison(op) {
        // A NaN compares as false.
        let values: Vec<i64> = match (&a.data, &b.data) {
            (Data::Float(a), Data::Float(b)) => {
                a.iter().zip(b).map(|(a, b)| i64::from(a.partial_cmp(b).is_some_and(holds))).collect()
            }
            (Data::Int(a), Data::Int(b)) => a.iter().zip(b).map(|(a, b)| i64::from(holds(a.cmp(b)))).collect(),
            _ => return Err("compares integers and floats".into()),
        };
        return Constant::of(DataType::Bool, dims, values);
    }
    match (&a.data, &b.data) {
        (Data::Float(a), Data::Float(b)) => {
            let f: fn(f32, f32) -> f32 = match op {
                "Add" | "Sum" => |a, b| a + b,
                "Sub" => |a, b| a - b,
                "Mul" => |a, b| a * b,
                "Div" => |a, b| a / b,
                "Min" => float_min,
                "Max" => float_max,
                "Pow" => |a, b| f64::from(a).powf(f64::from(b)) as f32,
                "Mod" if c_remainder => |a, b| a % b,
                "PRelu" => |a, b| if a < 0.0 { a * b } else { a },
                _ => return Err("of floats is not computed".into()),
            };
            let data = Data::Float(a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect());
            Ok(Constant { name: String::new(), kind: x.kind, dims, data })
        }
        // The type of a power is that of its base.
        (Data::Float(a), Data::Int(b)) if op == "Pow" => {
            let data = Data::Float(a.iter().zip(b).map(|(&a, &b)| f64::from(a).powf(b as f64) as f32).collect());
            Ok(Constant { name: String::new(), kind: x.kind, dims, data })
        }
        (Data::Int(a), Data::Int(b)) => {
            let f: fn(i64, i64) -> Option<i64> = match op {
                "Add" | "Sum" => i64::checked_add,
                "Sub" => i64::checked_sub,
                "Mul" => i64::checked_mul,
                "Div" => i64::checked_div,
                "Mod" if c_remainder => i64::checked_rem,
                "Mod" => |a, b| a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
                "Min" => |a, b| Some(a.min(b)),
                "Max" => |a, b| Some(a.max(b)),
                "Pow" => |a, b| a.checked_pow(u32::try_from(b).ok()?),
                "And" => |a, b| Some(i64::from(a != 0 && b != 0)),
                "Or" => |a, b| Some(i64::from(a != 0 || b != 0)),
                "Xor" => |a, b| Some(i64::from((a != 0) != (b != 0))),
                _ => return Err("of integers is not computed".into()),
            };
            let values: Option<Vec<i64>> = a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect();
            Constant::of(x.kind, dims, values.ok_or("divides by zero, or overflows")?)
        }
        _ => Err("integers and floats".into()),
    }
}

/// Computes `min(max(x, low), high)`.
pub(super) fn clip(x: &Constant, low: Option<&Constant>, high: Option<&Constant>) -> Result<Constant> {
    let alone = |bound: &&Constant| bound.data.len() != 1;
    if low.iter().chain(&high).any(alone) {
        return Err("a bound that is not one number".into());
    }
    let x = low.map_or_else(|| Ok(x.clone()), |low| binary("Max", x, low, false))?;
    high.map_or_else(|| Ok(x.clone()), |high| binary("Min", &x, high, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_that_overflow_are_refused() {
        let of = |kind: DataType, op: &str, x: i64, y: i64| {
            let one = |v: i64| Constant::of(kind, [], vec![v]).unwrap();
            binary(op, &one(x), &one(y), false).ok().map(|c| c.as_ints().unwrap()[0])
        };
        let int64 = DataType::Int64;
        assert_eq!((of(int64, "Div", -7, 2), of(int64, "Mod", -7, 2)), (Some(-3), Some(1)));
        assert_eq!((of(int64, "Div", 1, 0), of(int64, "Mod", 1, 0)), (None, None));
        assert_eq!((of(int64, "Mul", i64::MAX, 2), of(int64, "Div", i64::MIN, -1)), (None, None));
        assert_eq!((of(DataType::Uint8, "Sub", 3, 5), of(DataType::Int8, "Add", 100, 27)), (None, Some(127)));
        assert_eq!((of(DataType::Int32, "Mul", 1 << 20, 1 << 12), of(int64, "Pow", 3, -1)), (None, None));
    }

    #[test]
    fn casts_refuse_what_does_not_fit() {
        let floats = |values: &[f32]| Constant::new([values.len()], Data::Float(values.to_vec()));
        let whole =
            |values: &[f32], to: DataType| cast(&floats(values), to as i64).map(|c| c.as_ints().unwrap().to_vec());
        assert_eq!(whole(&[1.9, -1.9, 0.0], DataType::Int64).unwrap(), [1, -1, 0]);
        assert_eq!(whole(&[255.9], DataType::Uint8).unwrap(), [255]);
        assert_eq!(whole(&[0.5, 0.0, f32::NAN], DataType::Bool).unwrap(), [1, 0, 1]);
        for (value, to) in
            [(-1.0, DataType::Uint8), (256.0, DataType::Uint8), (f32::NAN, DataType::Int64), (1e30, DataType::Int64)]
        {
            assert!(whole(&[value], to).is_err(), "{value}");
        }
        let half = cast(&floats(&[1e-8, 70000.0, 0.1]), DataType::Float16 as i64).unwrap();
        assert_eq!(half.as_floats().unwrap(), [0.0, f32::INFINITY, 0.099975586]);
    }

    #[test]
    fn comparisons_and_remainders() {
        let floats = |values: &[f32]| Constant::new([values.len()], Data::Float(values.to_vec()));
        let x = floats(&[1.0, 2.0, f32::NAN]);
        let compare = |op: &str| binary(op, &x, &floats(&[2.0]), false).unwrap().as_ints().unwrap().to_vec();
        assert_eq!((compare("LessOrEqual"), compare("Greater")), (vec![1, 1, 0], vec![0, 0, 0]));
        let minus = Constant::ints(vec![-7]);
        let two = Constant::ints(vec![2]);
        assert_eq!(binary("Mod", &minus, &two, true).unwrap().as_ints().unwrap(), [-1]);
        assert!(binary("Add", &x, &two, false).is_err());
        assert_eq!(binary("Pow", &floats(&[3.0]), &two, false).unwrap().as_floats().unwrap(), [9.0]);
    }
}
