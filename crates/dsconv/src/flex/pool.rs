//! The largest value of every window of a channel, and the gradient, in the layout of [`super::depthwise`].

use macerator::Simd;
use rayon::prelude::*;

use super::depthwise::Layout;
use super::geometry::Sizes;

/// Computes `y` `[N, C, Oh, Ow]` of `x` `[N, C, H, W]`, by windows of the kernel's size. Padding is never the largest; NaN is.
pub(super) fn forward(sizes: &Sizes, x: &[f32]) -> Vec<f32> {
    let (layout, width) = (Layout::new(sizes), sizes.output[1]);
    let mut y = vec![0.0; sizes.images * sizes.groups * sizes.pixels()];
    let planes = y.par_chunks_exact_mut(sizes.pixels()).zip(x.par_chunks_exact(sizes.area()));
    planes.for_each_init(
        || (vec![f32::NEG_INFINITY; layout.len], vec![0.0; layout.output_len()]),
        |(input, output), (y, x)| {
            layout.lay_out(sizes, x, input);
            output.fill(f32::NEG_INFINITY);
            largest(&layout, input, output);
            let rows = y.chunks_exact_mut(width).zip(output.chunks(layout.output_pitch(sizes)));
            rows.for_each(|(y, from)| y.copy_from_slice(&from[..width]));
        },
    );
    y
}

/// Computes the gradient of `x` from that of `y`, `dy`: each goes to the first of the largest values of its window, row by row.
pub(super) fn backward(sizes: &Sizes, x: &[f32], y: &[f32], dy: &[f32]) -> Vec<f32> {
    let layout = Layout::new(sizes);
    let mut dx = vec![0.0; x.len()];
    let outputs = y.par_chunks_exact(sizes.pixels()).zip(dy.par_chunks_exact(sizes.pixels()));
    let planes = dx.par_chunks_exact_mut(sizes.area()).zip(x.par_chunks_exact(sizes.area())).zip(outputs);
    let space = || {
        let [inputs, outputs] = [layout.len, layout.output_len()].map(|len| vec![0.0; len]);
        (vec![f32::NEG_INFINITY; layout.len], inputs, outputs.clone(), outputs)
    };
    planes.for_each_init(space, |(input, d_input, output, d_output), ((dx, x), (y, dy))| {
        layout.lay_out(sizes, x, input);
        layout.lay_out_output(sizes, y, output);
        layout.lay_out_output(sizes, dy, d_output);
        d_input.fill(0.0);
        hand_back(&layout, input, output, d_output, d_input);
        layout.take_back(sizes, d_input, dx);
    });
    dx
}

#[macerator::with_simd]
fn largest<S: Simd>(layout: &Layout, x: &[f32], y: &mut [f32]) {
    for (i, y) in y.chunks_exact_mut(layout.run).enumerate() {
        for &offset in &layout.offsets {
            let x = &x[offset + i * layout.step..][..y.len()];
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > *y || x.is_nan() { x } else { *y });
        }
    }
}

/// Adds each `dy` to the `dx` of the first `x` that equals `y`, and takes it away from `dy`.
#[macerator::with_simd]
fn hand_back<S: Simd>(layout: &Layout, x: &[f32], y: &[f32], dy: &mut [f32], dx: &mut [f32]) {
    for (i, (y, dy)) in y.chunks_exact(layout.run).zip(dy.chunks_exact_mut(layout.run)).enumerate() {
        for &offset in &layout.offsets {
            let run = offset + i * layout.step..offset + i * layout.step + y.len();
            let inputs = x[run.clone()].iter().zip(&mut dx[run]);
            for ((&y, dy), (&x, dx)) in y.iter().zip(dy.iter_mut()).zip(inputs) {
                let found = if x == y { *dy } else { 0.0 };
                *dx += found;
                *dy = if x == y { 0.0 } else { *dy };
            }
        }
    }
}
