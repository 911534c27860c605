//! Pillow's bilinear resize, to the bit.
//!
//! Pillow convolves with a triangle as wide as the reduction (so that shrinking averages what it leaves out), first along
//! rows, then along columns, with bytes in between and weights of 22 fractional bits. SIMD resizers keep 16-bit weights and
//! differ from it by one in a fifth of the bytes; this one costs a few milliseconds for a photograph, less than its decoding.

use std::ops::Range;

use crate::decode::Picture;

const FRACTION: u32 = 22;
const HALF: i32 = 1 << (FRACTION - 1);

/// The weights of one output position: input positions from `start` on.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

/// One [`Taps`] for each output position of `window`, of `to` in all.
fn taps(from: usize, to: usize, window: &Range<usize>) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    window
        .clone()
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

/// Of an image resized to height and width `to` the rows and columns of `window`; no more than these are computed.
///
/// # Errors
/// More than `most` pixels of a result, in between or in the end.
pub(crate) fn resize(
    image: Picture,
    to: [usize; 2],
    window: [Range<usize>; 2],
    most: usize,
) -> Result<Picture, String> {
    let [height, width] = image.size;
    if image.size == to && window == [0..height, 0..width] {
        return Ok(image);
    }
    let size = [window[0].len(), window[1].len()];
    let refused = || format!("{}x{} pixels after resizing", to[1], to[0]);
    if size[0].saturating_mul(size[1]) > most {
        return Err(refused());
    }
    let taps = [taps(height, to[0], &window[0]), taps(width, to[1], &window[1])];
    // The rows that the columns' weights reach.
    let first = taps[0].first().map_or(0, |tap| tap.start);
    let last = taps[0].last().map_or(0, |tap| tap.start + tap.weights.len());
    if size[1].saturating_mul(last - first) > most {
        return Err(refused());
    }
    let row = image.channels * width;
    let reached = &image.pixels[first * row..last * row];
    let narrow = match image.channels {
        1 => rows::<1>(reached, width, &taps[1]),
        _ => rows::<3>(reached, width, &taps[1]),
    };
    let pixels = columns(&narrow, image.channels * size[1], first, &taps[0]);
    Ok(Picture { channels: image.channels, size, pixels })
}

/// Resizes each row of `from` pixels of `C` channels.
fn rows<const C: usize>(pixels: &[u8], from: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / from * taps.len());
    for row in pixels.chunks_exact(C * from) {
        for tap in taps {
            let mut sums = [HALF; C];
            let inputs = row[C * tap.start..].as_chunks::<C>().0;
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

/// Resizes columns; a row has `stride` bytes, the first one is row `first` of the image.
fn columns(bytes: &[u8], stride: usize, first: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(stride * taps.len());
    let mut sums = vec![0; stride];
    for tap in taps {
        sums.fill(HALF);
        for (&weight, row) in tap.weights.iter().zip(bytes[stride * (tap.start - first)..].chunks_exact(stride)) {
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
        let taps = taps(4, 2, &(0..2));
        assert_eq!(taps[1].start, 1);
        let weights: Vec<f64> = taps[1].weights.iter().map(|&w| f64::from(w) / f64::from(1 << FRACTION)).collect();
        // 0.25, 0.75, 0.75 over their sum 1.75
        for (weight, expected) in weights.iter().zip([1.0 / 7.0, 3.0 / 7.0, 3.0 / 7.0]) {
            assert!((weight - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn constant_stays_constant() {
        let image = Picture { channels: 3, size: [7, 5], pixels: [200, 0, 255].repeat(35) };
        for size in [[3, 2], [11, 17], [7, 9], [1, 1], [7, 5]] {
            let whole = [0..size[0], 0..size[1]];
            let resized = resize(image.clone(), size, whole, 1000).unwrap();
            assert_eq!((resized.size, resized.pixels), (size, [200, 0, 255].repeat(size[0] * size[1])));
        }
    }

    #[test]
    fn a_window_is_a_part_of_the_whole() {
        let pixels: Vec<u8> = (0..31 * 23).map(|i| (i * i % 251) as u8).collect();
        let image = Picture { channels: 1, size: [31, 23], pixels };
        for to in [[17, 40], [64, 9], [31, 23], [31, 50], [8, 23]] {
            let whole = resize(image.clone(), to, [0..to[0], 0..to[1]], 10_000).unwrap();
            let window = [3..to[0] - 2, 2..to[1] - 1];
            let part = resize(image.clone(), to, window.clone(), 10_000).unwrap();
            let rows = window[0].clone().map(|y| &whole.pixels[y * to[1]..][window[1].clone()]);
            assert_eq!(part.pixels, rows.collect::<Vec<_>>().concat(), "{to:?}");
        }
    }

    #[test]
    fn what_would_not_fit_is_refused() {
        let image = Picture { channels: 1, size: [1, 4], pixels: vec![0; 4] };
        let error = resize(image, [1000, 4000], [0..1000, 0..4000], 1000).unwrap_err();
        assert_eq!(error, "4000x1000 pixels after resizing");
    }
}
