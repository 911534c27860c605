//! Pillow's bilinear resize, to the bit.
//!
//! Pillow convolves with a triangle as wide as the reduction (so that shrinking averages what it leaves out), first along
//! rows, then along columns, with bytes in between and weights of 22 fractional bits. SIMD resizers keep 16-bit weights and
//! differ from it by one in a fifth of the bytes; this one costs a few milliseconds for a photograph, less than its decoding.

use crate::decode::Rgb;

const FRACTION: u32 = 22;
const HALF: i32 = 1 << (FRACTION - 1);

/// The weights of one output position: input positions from `start` on.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

/// One [`Taps`] an output position.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            // A cast truncates, and takes what is negative to 0.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let triangle = |x: usize| (1.0 - ((x as f64 - centre + 0.5) * (1.0 / support)).abs()).max(0.0);
            let sum: f64 = (start..end).map(triangle).sum();
            let weights = (start..end).map(|x| (triangle(x) / sum * f64::from(1 << FRACTION) + 0.5) as i32).collect();
            Taps { start, weights }
        })
        .collect()
}

/// To height and width `to`.
pub(crate) fn resize(image: &Rgb, to: [usize; 2]) -> Rgb {
    let [height, width] = image.size;
    let narrow = if to[1] == width { image.pixels.clone() } else { rows(&image.pixels, width, to[1]) };
    let pixels = if to[0] == height { narrow } else { columns(&narrow, 3 * to[1], height, to[0]) };
    Rgb { size: to, pixels }
}

/// Resizes each row of `from` pixels to `to`.
fn rows(pixels: &[u8], from: usize, to: usize) -> Vec<u8> {
    let taps = taps(from, to);
    let mut out = Vec::with_capacity(pixels.len() / from * to);
    for row in pixels.chunks_exact(3 * from) {
        for tap in &taps {
            let mut sums = [HALF; 3];
            let inputs = row[3 * tap.start..].as_chunks::<3>().0;
            for (&weight, input) in tap.weights.iter().zip(inputs) {
                for (sum, &byte) in sums.iter_mut().zip(input) {
                    *sum += weight * i32::from(byte);
                }
            }
            out.extend(sums.map(to_byte));
        }
    }
    out
}

/// Resizes columns of `from` values to `to`; a row has `stride` bytes.
fn columns(bytes: &[u8], stride: usize, from: usize, to: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(stride * to);
    let mut sums = vec![0; stride];
    for tap in taps(from, to) {
        sums.fill(HALF);
        for (&weight, row) in tap.weights.iter().zip(bytes[stride * tap.start..].chunks_exact(stride)) {
            for (sum, &byte) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(byte);
            }
        }
        out.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    out
}

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_averages_with_a_triangle() {
        // Output 1 of 4 -> 2 lies at 3.0 and reaches 2 either way: inputs 1, 2, 3 at distances 1.5, 0.5, 0.5 of 2.
        let taps = taps(4, 2);
        assert_eq!(taps[1].start, 1);
        let weights: Vec<f64> = taps[1].weights.iter().map(|&w| f64::from(w) / f64::from(1 << FRACTION)).collect();
        // 0.25, 0.75, 0.75 over their sum 1.75
        for (weight, expected) in weights.iter().zip([1.0 / 7.0, 3.0 / 7.0, 3.0 / 7.0]) {
            assert!((weight - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn constant_stays_constant() {
        let image = Rgb { size: [7, 5], pixels: [200, 0, 255].repeat(35) };
        for size in [[3, 2], [11, 17], [7, 9], [1, 1]] {
            assert_eq!(resize(&image, size).pixels, [200, 0, 255].repeat(size[0] * size[1]));
        }
    }
}
