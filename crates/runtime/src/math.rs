//! Functions whose bits are the same on every platform: the libraries of different systems round theirs differently.

/// Returns `e^x` in f64, within 2 ulp of an f32.
#[inline(always)]
fn exp64(x: f64) -> f64 {
    let x = x.clamp(-700.0, 700.0);
    // x = k ln 2 + r, |r| <= ln 2 / 2; then a Taylor polynomial of degree 11, whose error is below 2^-40.
    let k = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = x - k * std::f64::consts::LN_2;
    let mut y = 1.0;
    let mut n = 11.0;
    while n > 0.0 {
        y = 1.0 + y * r / n;
        n -= 1.0;
    }
    y * f64::from_bits(((k as i64 + 1023) as u64) << 52)
}

/// Returns `e^x`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    exp64(f64::from(x)) as f32
}

/// Returns `e^x - 1`. Where x is small the polynomial ends in its own size, so that little is lost.
#[inline(always)]
pub(crate) fn exp_m1(x: f32) -> f32 {
    (exp64(f64::from(x)) - 1.0) as f32
}

/// Returns the hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    // Beyond 20 it is 1 in f32.
    let e = exp64(2.0 * f64::from(x).clamp(-20.0, 20.0));
    ((e - 1.0) / (e + 1.0)) as f32
}

/// Returns `ln(1 + e^x)`, as `max(x, 0) + ln(1 + e^-|x|)`, which does not overflow.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let x = f64::from(x);
    (x.max(0.0) + ln64(1.0 + exp64(-x.abs()))) as f32
}

/// Returns `ln(x)` of a positive, finite number, in f64.
#[inline(always)]
fn ln64(x: f64) -> f64 {
    // x = 2^k m with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh(t), t = (m - 1) / (m + 1), |t| < 0.172.
    let bits = x.to_bits() + (0x3ff0_0000_0000_0000 - 0x3fe6_a09e_667f_3bcd);
    let k = (bits >> 52) as i64 - 1023;
    let m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) + 0x3fe6_a09e_667f_3bcd);
    let t = (m - 1.0) / (m + 1.0);
    let t2 = t * t;
    let mut sum = 0.0;
    let mut n = 15.0;
    while n > 0.0 {
        sum = sum * t2 + 1.0 / n;
        n -= 2.0;
    }
    2.0 * t * sum + k as f64 * std::f64::consts::LN_2
}

/// Returns `x^y` for `x > 0`; three quarters, LRN's exponent, by square roots.
#[inline(always)]
pub(crate) fn pow(x: f32, y: f32) -> f32 {
    if y == 0.75 {
        return (x * x.sqrt()).sqrt();
    }
    if x <= 0.0 {
        return if y == 0.0 { 1.0 } else { 0.0 };
    }
    exp64(f64::from(y) * ln64(f64::from(x))) as f32
}

/// Returns `y` limited as the vector instructions limit: a NaN, and a zero of the other sign, becomes the bound.
#[inline(always)]
pub(crate) fn limit(y: f32, lo: f32, hi: f32) -> f32 {
    let y = if y > lo { y } else { lo };
    if y < hi { y } else { hi }
}

/// Returns `x * y + z`, rounded once.
#[inline(always)]
pub(crate) fn mul_add(x: f32, y: f32, z: f32) -> f32 {
    if cfg!(target_family = "wasm") { mul_add64(x, y, z) } else { x.mul_add(y, z) }
}

/// Computes [`mul_add`] without the instruction. The product is exact in f64; the sum is rounded to odd, so that rounding it again
/// gives what one rounding would (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008). The
/// library's `fmaf` of WebAssembly rounds twice where the result is a denormal.
#[inline(always)]
fn mul_add64(x: f32, y: f32, z: f32) -> f32 {
    let (p, z) = (f64::from(x) * f64::from(y), f64::from(z));
    let sum = p + z;
    // Knuth's two-sum: what rounding took off, exactly.
    let part = sum - p;
    let error = (p - (sum - part)) + (z - part);
    let bits = sum.to_bits();
    // A NaN, of an infinite sum, is not different from 0 here.
    if error.abs() > 0.0 && bits & 1 == 0 {
        let away = (error > 0.0) == (sum > 0.0);
        return f64::from_bits(if away { bits + 1 } else { bits - 1 }) as f32;
    }
    sum as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multiply_add_in_doubles_rounds_once() {
        let check = |x: f32, y: f32, z: f32| {
            let (found, expected) = (mul_add64(x, y, z), x.mul_add(y, z));
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{x:e} * {y:e} + {z:e}"
            );
        };
        // Any bits; then products near halves of the sum's last bit, in each range of exponents.
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 32) as u32
        };
        for _ in 0..200_000 {
            check(f32::from_bits(next()), f32::from_bits(next()), f32::from_bits(next()));
            let near_half = |bits: u32| f32::from_bits((127 << 23) | (bits & 0x1f) << 18 | (bits >> 5 & 3));
            let (x, y) = (near_half(next()), near_half(next()));
            for e in [-100, -139, -149, 0, 60] {
                let z = f32::from_bits(((e + 150i32).max(0) as u32) << 23 | next() & 0x7f_000f);
                let scale = f32::from_bits(((e / 2 + 127 - 12) as u32) << 23);
                check(x * scale, y * scale, z);
                check(x * scale, -y * scale, z);
            }
        }
        // The sum in doubles lies half way between two denormals; what it lost decides.
        let (x, y) = (f32::from_bits(0x1a80_0001), f32::from_bits(0x1980_0001));
        check(x, y, f32::from_bits(1 << 19));
    }

    #[test]
    fn functions_are_within_two_ulp_of_the_library() {
        let near = |a: f32, b: f64| (f64::from(a) - b).abs() <= b.abs() * 2.4e-7;
        for i in -8000..8000 {
            let x = i as f32 / 100.0;
            assert!(near(exp(x), f64::from(x).exp()), "exp {x}");
            for x in [x, x / 1000.0, x / 1e6] {
                assert!(near(exp_m1(x), f64::from(x).exp_m1()), "exp_m1 {x}");
                assert!(near(tanh(x), f64::from(x).tanh()), "tanh {x}");
                let plus = f64::from(x).max(0.0) + f64::from(-x.abs()).exp().ln_1p();
                assert!((f64::from(softplus(x)) - plus).abs() <= plus * 2.4e-7 + 1e-15, "softplus {x}");
            }
        }
        for i in 1..4000 {
            let x = i as f32 / 97.0;
            for y in [0.75, 0.5, 1.0, 2.0, 0.3, -1.5] {
                assert!(near(pow(x, y), f64::from(x).powf(f64::from(y))), "{x}^{y}");
            }
        }
        assert_eq!((pow(0.0, 0.5), pow(0.0, 0.0), exp(0.0)), (0.0, 1.0, 1.0));
    }
}
