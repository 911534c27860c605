//! Values clipped to a range, as a ReLU and a ReLU6 do, and the gradient.

use macerator::Simd;
use rayon::prelude::*;

/// The elements that one thread works on at a time.
const PART: usize = 1 << 16;

/// Clips the values in their place. NaN stays NaN.
pub(super) fn forward(values: &mut [f32], min: f32, max: f32) {
    values.par_chunks_mut(PART).for_each(|values| clip(values, min, max));
}

/// Sets the gradients to 0 where `y`, what [`forward`] gave, lies at an end of the range.
pub(super) fn backward(gradients: &mut [f32], y: &[f32], min: f32, max: f32) {
    gradients.par_chunks_mut(PART).zip(y.par_chunks(PART)).for_each(|(gradients, y)| mask(gradients, y, min, max));
}

#[macerator::with_simd]
fn clip<S: Simd>(values: &mut [f32], min: f32, max: f32) {
    for value in values {
        let low = if *value < min { min } else { *value };
        *value = if low > max { max } else { low };
    }
}

#[macerator::with_simd]
fn mask<S: Simd>(gradients: &mut [f32], y: &[f32], min: f32, max: f32) {
    for (gradient, &y) in gradients.iter_mut().zip(y) {
        *gradient = if y <= min || y >= max { 0.0 } else { *gradient };
    }
}
