//! Computes weights that a file stores as integers with scales.
use super::super::constant::{Constant, Data, integers};
use super::super::error::Result;
use super::super::lower::axis;
use crate::proto::DataType;

/// Returns the position of the scale of each element of a value of `dims`. There is one scale for all elements, one for each
/// index of the axis `at`, or one for each `block` indices of it.
fn places(dims: &[usize], scale: &Constant, at: i64, block: i64) -> Result<Vec<usize>> {
    let total: usize = dims.iter().product();
    if scale.data.len() == 1 && (scale.dims.len() < 2 || block == 0) {
        return Ok(vec![0; total]);
    }
    let at = axis(at, dims.len())?;
    let inner: usize = dims[at + 1..].iter().product();
    let block = usize::try_from(block).map_err(|_| "a negative `block_size`")?;
    if block == 0 {
        if scale.dims != [dims[at]] {
            return Err(format!("scales of shape {:?} for axis {at} of {dims:?}", scale.dims).into());
        }
        return Ok((0..total).map(|i| i / inner % dims[at]).collect());
    }
    let blocks = dims[at].div_ceil(block);
    let mut expected = dims.to_vec();
    expected[at] = blocks;
    if scale.dims != expected {
        return Err(
            format!("scales of shape {:?} for blocks of {block} along axis {at} of {dims:?}", scale.dims).into()
        );
    }
    Ok((0..total).map(|i| (i / inner / dims[at] * blocks + i / inner % dims[at] / block) * inner + i % inner).collect())
}

fn zeros<'a>(zero: Option<&'a Constant>, scale: &Constant) -> Result<Option<&'a [i64]>> {
    match zero {
        None => Ok(None),
        Some(zero) if zero.data.len() == scale.data.len() => zero.as_ints().map(Some),
        Some(zero) => Err(format!("zero points of shape {:?} for scales of {:?}", zero.dims, scale.dims).into()),
    }
}

/// Computes `(x - zero) * scale`.
pub(super) fn dequantize(
    x: &Constant,
    scale: &Constant,
    zero: Option<&Constant>,
    [at, block]: [i64; 2],
) -> Result<Constant> {
    let (codes, scales) = (x.as_ints()?, scale.as_floats()?);
    let places = places(&x.dims, scale, at, block)?;
    let zeros = zeros(zero, scale)?;
    let value = |(code, place): (&i64, usize)| {
        let offset = zeros.map_or(0, |zeros| zeros[place]);
        (code - offset) as f32 * scales[place]
    };
    let values = codes.iter().zip(places).map(value).collect();
    Ok(Constant { name: x.name.clone(), kind: scale.kind, dims: x.dims.clone(), data: Data::Float(values) })
}

/// Computes `round(x / scale) + zero`, limited to the range of `kind`.
pub(super) fn quantize(
    x: &Constant,
    scale: &Constant,
    zero: Option<&Constant>,
    kind: DataType,
    [at, block]: [i64; 2],
) -> Result<Constant> {
    let (low, high) = integers(kind).ok_or("codes that are no integers")?;
    let (values, scales) = (x.as_floats()?, scale.as_floats()?);
    let places = places(&x.dims, scale, at, block)?;
    let zeros = zeros(zero, scale)?;
    if values.iter().any(|v| !v.is_finite()) || scales.contains(&0.0) {
        return Err("of values that are not finite".into());
    }
    let code = |(value, place): (&f32, usize)| {
        let offset = zeros.map_or(0, |zeros| zeros[place]);
        ((value / scales[place]).round_ties_even() as i64).saturating_add(offset).clamp(low, high)
    };
    let codes = values.iter().zip(places).map(code).collect();
    Ok(Constant { name: x.name.clone(), ..Constant::of(kind, x.dims.clone(), codes)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_for_all_for_rows_and_for_blocks() {
        let x = Constant::of(DataType::Int8, [2, 4], vec![1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let floats = |dims: &[usize], values: &[f32]| Constant::new(dims, Data::Float(values.to_vec()));
        let of = |scale: &Constant, zero: Option<&Constant>, at: i64, block: i64| {
            dequantize(&x, scale, zero, [at, block]).map(|y| y.as_floats().unwrap().to_vec())
        };
        assert_eq!(of(&floats(&[], &[0.5]), None, 1, 0).unwrap(), [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]);
        let zero = Constant::of(DataType::Int8, [2], vec![1, 5]).unwrap();
        let rows = floats(&[2], &[1.0, 10.0]);
        assert_eq!(of(&rows, Some(&zero), 0, 0).unwrap(), [0.0, 1.0, 2.0, 3.0, 0.0, 10.0, 20.0, 30.0]);
        // Blocks of three along the rows: the last one is shorter.
        let blocks = floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(of(&blocks, None, -1, 3).unwrap(), [1.0, 2.0, 3.0, 8.0, 15.0, 18.0, 21.0, 32.0]);
        assert!(of(&rows, None, 1, 0).is_err() && of(&blocks, None, 1, 2).is_ok() && of(&blocks, None, 0, 2).is_err());

        let codes = quantize(&floats(&[3], &[0.5, 1.5, 900.0]), &floats(&[], &[1.0]), None, DataType::Uint8, [1, 0]);
        // Halves go to even.
        assert_eq!(codes.unwrap().as_ints().unwrap(), [0, 2, 255]);
    }
}
