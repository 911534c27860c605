//! Pillow's bilinear resize, with the same bytes.
//!
//! Pillow convolves with a triangle as wide as the reduction (so that every pixel counts when it shrinks), along rows and
//! along columns, with bytes in between and weights of 22 fractional bits. SIMD resizers have 16-bit weights and differ from
//! it by one in a fifth of the bytes. This one takes a few milliseconds for a photograph, less than its decoding.

use std::ops::Range;

use crate::decode::Picture;

const FRACTION: u32 = 22;
const HALF: i32 = 1 << (FRACTION - 1);

/// The weights of one output position, for the input positions from `start` on.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

/// Returns the [`Taps`] of each output position of `window`, where `from` positions are resized to `to`.
fn taps(from: usize, to: usize, window: &Range<usize>) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    window
        .clone()
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            // A cast truncates, and takes negative numbers to 0.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let triangle = |x: usize| (1.0 - ((x as f64 - centre + 0.5) * (1.0 / support)).abs()).max(0.0);
            let sum: f64 = (start..end).map(triangle).sum();
            let weights = (start..end).map(|x| (triangle(x) / sum * f64::from(1 << FRACTION) + 0.5) as i32).collect();
            Taps { start, weights }
        })
        .collect()
}

/// Resizes an image to height and width `to`, but computes only the rows and columns of `window`.
///
/// # Errors
/// The result, or the image between the two passes, would have more than `most` pixels.
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
    if to.contains(&usize::MAX) || size[0].saturating_mul(size[1]) > most {
        return Err(refused());
    }
    let [down, across] = [taps(height, to[0], &window[0]), taps(width, to[1], &window[1])];
    // The rows and columns of the image that have weights.
    let [rows, columns] = [reach(&down), reach(&across)];
    let between = if columns_first(image.size, to) { size[0] * columns.len() } else { size[1] * rows.len() };
    if between > most {
        return Err(refused());
    }
    let pixels = match image.channels {
        1 => passes::<1>(&image, to, [&down, &across], [rows, columns]),
        _ => passes::<3>(&image, to, [&down, &across], [rows, columns]),
    };
    Ok(Picture { channels: image.channels, size, pixels })
}

/// Returns whether columns are resized first, as Pillow 13 does where the height loses more than twice what the width loses.
/// Bytes in between are rounded, so that the order matters.
fn columns_first([height, width]: [usize; 2], to: [usize; 2]) -> bool {
    // Sizes of images are far from overflowing.
    to[0] < height && (height - to[0]) as i64 > 2 * (width as i64 - to[1] as i64)
}

fn reach(taps: &[Taps]) -> Range<usize> {
    let end = taps.last().map_or(0, |tap| tap.start + tap.weights.len());
    taps.first().map_or(0, |tap| tap.start)..end
}

fn passes<const C: usize>(
    image: &Picture,
    to: [usize; 2],
    [down, across]: [&[Taps]; 2],
    [rows, columns]: [Range<usize>; 2],
) -> Vec<u8> {
    let width = image.size[1];
    if columns_first(image.size, to) {
        let low = resize_columns(&image.pixels, C * width, C * columns.start..C * columns.end, 0, down);
        return resize_rows::<C>(&low, columns.len(), columns.start, across);
    }
    let reached = &image.pixels[C * width * rows.start..C * width * rows.end];
    let narrow = resize_rows::<C>(reached, width, 0, across);
    let row = C * across.len();
    resize_columns(&narrow, row, 0..row, rows.start, down)
}

/// Resizes each row of `length` pixels of `C` channels. The first pixel is pixel `first` of the image's row.
fn resize_rows<const C: usize>(pixels: &[u8], length: usize, first: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / length * taps.len());
    for row in pixels.chunks_exact(C * length) {
        for tap in taps {
            let mut sums = [HALF; C];
            let inputs = row[C * (tap.start - first)..].as_chunks::<C>().0;
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

/// Resizes the columns whose bytes are `part` of a row of `stride` bytes. The first row is row `first` of the image.
fn resize_columns(bytes: &[u8], stride: usize, part: Range<usize>, first: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(part.len() * taps.len());
    let mut sums = vec![0; part.len()];
    for tap in taps {
        sums.fill(HALF);
        for (&weight, row) in tap.weights.iter().zip(bytes[stride * (tap.start - first)..].chunks_exact(stride)) {
            for (sum, &byte) in sums.iter_mut().zip(&row[part.clone()]) {
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
        for to in [[17, 40], [17, 22], [64, 9], [31, 23], [31, 50], [8, 23]] {
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
