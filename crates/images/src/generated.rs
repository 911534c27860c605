//! Pictures drawn by this crate that have the statistics of photographs but show nothing: "dead leaves".
//!
//! A. B. Lee, D. Mumford, J. Huang, *Occlusion Models for Natural Images: A Study of the Statistical Properties of a
//! Scale-Invariant Dead Leaves Model*, IJCV 41 (2001): leaves with radii of density `r^-3` that hide each other have the edges,
//! the spectrum near `1/f^2` and the scale invariance of photographs. Here a leaf is an ellipse or a rectangle with a colour, a
//! gradient and stripes.
//!
//! All arithmetic is `f32` with `+ - * / sqrt` and comparisons, so that the bytes are the same on every machine.
use std::sync::Arc;

use graph::{ChannelOrder, Preprocess};
use rayon::prelude::*;

use crate::decode::{Picture, to_grey};
use crate::random::Random;
use crate::set::{DecodedImages, Unlabelled};

/// The name of a set of drawn pictures.
pub const DRAWN: &str = "drawn pictures";

/// The side of the square of samples that are averaged to a pixel.
const SAMPLES: usize = 2;
/// The limit of the areas of all leaves together, in areas of the picture. 14 leave about `e^-14` of it bare.
const LAYERS: f32 = 14.0;

type Colour = [f32; 3];

/// Draws `count` pictures of height and width `size` for a network whose input `preprocess` describes; its sizes are not
/// applied. They are "dead leaves": overlapping shapes of all sizes, with the edges, the spectrum and about the colours of
/// photographs.
///
/// The pictures of a seed are the same on every machine, and the first ones do not depend on `count`. One of 224x224 pixels takes
/// about 10 ms and 150 kB.
///
/// ```
/// use graph::Preprocess;
///
/// let pictures = images::generated(4, 7, &Preprocess::imagenet(), [224, 224]);
/// assert_eq!(pictures.batch(&[0, 3])?.shape, [2, 3, 224, 224]);
/// # Ok::<(), images::ImageError>(())
/// ```
///
/// # Panics
/// If a side of `size` is 0, or `preprocess` has not one mean and one deviation for each channel.
pub fn generated(count: usize, seed: u64, preprocess: &Preprocess, size: [usize; 2]) -> Unlabelled {
    let channels = preprocess.channels();
    let bytes = channels * size[0] * size[1];
    let mut pixels = vec![0; count * bytes];
    pixels.par_chunks_exact_mut(bytes).enumerate().for_each(|(index, out)| {
        let picture = Picture { channels: 3, size, pixels: draw(size, &mut Random::new(seed, index as u64)) };
        let picture = if preprocess.order == ChannelOrder::Grey { to_grey(&picture) } else { picture };
        out.copy_from_slice(&picture.pixels);
    });
    of_input_size(DRAWN, pixels, size, preprocess)
}

/// Makes a set of pictures that have the size of a network's input already, so that the sizes of `preprocess` are not applied.
/// `pixels` are bytes `[N, H, W, C]`: red, green and blue, or grey alone.
///
/// # Panics
/// If `pixels` are not whole pictures, or `preprocess` has not one mean and one deviation for each channel.
pub fn of_input_size(name: &str, pixels: Vec<u8>, size: [usize; 2], preprocess: &Preprocess) -> Unlabelled {
    let memory = Arc::new(DecodedImages::new(preprocess.channels(), size, pixels));
    Unlabelled::from_fitted(name.to_owned(), memory, preprocess)
}

/// What the leaves of one picture have in common.
struct Style {
    /// The least radius, in samples. With leaves down to a pixel a picture would be noise: nearly all leaves are small.
    least: f32,
    /// The mean and the extent of brightness.
    brightness: f32,
    contrast: f32,
    saturation: f32,
}

impl Style {
    fn random([height, width]: [f32; 2], random: &mut Random) -> Self {
        let share = random.within([0.0, 1.0]);
        Self {
            least: SAMPLES as f32 + (0.01 + 0.07 * share * share) * height.min(width),
            brightness: random.within([80.0, 160.0]),
            contrast: random.within([90.0, 270.0]),
            saturation: random.within([0.0, 100.0]),
        }
    }

    /// Draws a colour: photographs have far more of brightness than of hue, and more of yellow and blue than of others.
    fn colour(&self, random: &mut Random) -> Colour {
        let light = self.brightness + self.contrast * (random.unit() - 0.5);
        let hue = random.direction::<3>();
        let warmth = random.within([-1.0, 1.3]);
        let strength = self.saturation * random.unit();
        let grey = (hue[0] + hue[1] + hue[2]) / 3.0;
        let [r, g, b] = hue.map(|channel| channel - grey);
        [r + 0.7 * warmth, g, b - 0.7 * warmth].map(|tint| (light + 0.6 * strength * tint).clamp(0.0, 255.0))
    }
}

/// One shape, in the coordinates of samples.
struct Leaf {
    centre: [f32; 2],
    /// The direction of its first axis, a unit vector.
    axis: [f32; 2],
    /// Half its extents along the two axes.
    half: [f32; 2],
    round: bool,
    colour: Colour,
    /// The change of all channels for each sample along y and x.
    gradient: [f32; 2],
    /// Stripes: amplitude, periods for each sample along y and x, phase.
    stripes: (f32, [f32; 2], f32),
}

impl Leaf {
    fn random([height, width]: [f32; 2], style: &Style, random: &mut Random) -> Self {
        // The inverse of the distribution of density r^-3 between the least and the largest radius.
        let largest = (0.6 * height.min(width)).max(2.0 * style.least);
        let [a, b] = [style.least, largest].map(|r| 1.0 / (r * r));
        let radius = 1.0 / (a - random.unit() * (a - b)).sqrt();
        let stretch = random.within([0.4, 1.0]);
        let reach = radius.min(0.5 * height.min(width));
        let centre = [height, width].map(|side| random.within([-reach, side + reach]));
        let slope = random.within([-45.0, 45.0]) / radius;
        let gradient = random.direction::<2>().map(|way| way * slope);
        let amplitude = if random.chance(0.4) { random.within([0.0, 40.0]) } else { 0.0 };
        let period = random.within([0.08, 1.0]) * radius + 2.5 * SAMPLES as f32;
        let frequency = random.direction::<2>().map(|way| way / period);
        Self {
            centre,
            axis: random.direction(),
            half: [radius, radius * stretch],
            round: random.chance(0.6),
            colour: style.colour(random),
            gradient,
            stripes: (amplitude, frequency, random.unit()),
        }
    }

    /// Returns the rows and columns that the leaf can touch.
    fn bounds(&self, size: [usize; 2]) -> [std::ops::Range<usize>; 2] {
        let [a, b] = self.half;
        let reach = if self.round { a.max(b) } else { (a * a + b * b).sqrt() };
        // A cast takes negative numbers to 0.
        let along =
            |i: usize| (self.centre[i] - reach) as usize..((self.centre[i] + reach + 1.0) as usize).min(size[i]);
        [along(0), along(1)]
    }

    /// Returns the colour at a sample, if the leaf is there.
    fn at(&self, y: f32, x: f32) -> Option<Colour> {
        let [dy, dx] = [y - self.centre[0], x - self.centre[1]];
        let along = (dy * self.axis[0] + dx * self.axis[1]) / self.half[0];
        let across = (dx * self.axis[0] - dy * self.axis[1]) / self.half[1];
        let inside =
            if self.round { along * along + across * across <= 1.0 } else { along.abs() <= 1.0 && across.abs() <= 1.0 };
        inside.then(|| {
            let (amplitude, frequency, phase) = self.stripes;
            let turn = dy * frequency[0] + dx * frequency[1] + phase;
            // A triangle wave from -1 to 1.
            let wave = 4.0 * (turn - turn.floor() - 0.5).abs() - 1.0;
            let shade = dy * self.gradient[0] + dx * self.gradient[1] + amplitude * wave;
            self.colour.map(|channel| channel + shade)
        })
    }
}

/// Draws one picture as interleaved RGB: from the foremost leaf to the hindmost, each where none is yet.
fn draw(size: [usize; 2], random: &mut Random) -> Vec<u8> {
    let samples = size.map(|side| side * SAMPLES);
    let [height, width] = samples;
    let extent = samples.map(|side| side as f32);
    let style = Style::random(extent, random);
    let ground = style.colour(random);
    let mut canvas: Vec<Option<Colour>> = vec![None; height * width];
    let (mut bare, mut area) = (canvas.len(), 0.0);
    while bare > 0 && area < LAYERS * (extent[0] * extent[1]) {
        let leaf = Leaf::random(extent, &style, random);
        area += 3.0 * leaf.half[0] * leaf.half[1];
        let [rows, columns] = leaf.bounds(samples);
        for y in rows {
            for x in columns.clone() {
                let sample = &mut canvas[y * width + x];
                if sample.is_none() {
                    *sample = leaf.at(y as f32, x as f32);
                    bare -= usize::from(sample.is_some());
                }
            }
        }
    }

    let light = random.direction::<2>();
    let falloff = random.within([0.0, 40.0]);
    let noise = random.within([1.0, 8.0]);
    let mut pixels = Vec::with_capacity(3 * size[0] * size[1]);
    for y in 0..size[0] {
        for x in 0..size[1] {
            let mut sum = [0.0; 3];
            for i in 0..SAMPLES * SAMPLES {
                let at = (y * SAMPLES + i / SAMPLES) * width + x * SAMPLES + i % SAMPLES;
                let sample = canvas[at].unwrap_or(ground);
                sum = std::array::from_fn(|c| sum[c] + sample[c]);
            }
            let place = (y as f32 / size[0] as f32 - 0.5) * light[0] + (x as f32 / size[1] as f32 - 0.5) * light[1];
            let shade = falloff * place;
            for channel in sum {
                let grain = noise * (random.unit() - 0.5);
                // A cast takes what is outside to 0 or 255.
                pixels.push((channel / (SAMPLES * SAMPLES) as f32 + shade + grain + 0.5) as u8);
            }
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// Returns the grey values of a picture, 0 to 1, row-major.
    fn grey(index: u64, size: [usize; 2]) -> Vec<f64> {
        let pixels = draw(size, &mut Random::new(1, index));
        pixels.chunks_exact(3).map(|p| p.iter().map(|&v| f64::from(v)).sum::<f64>() / 765.0).collect()
    }

    #[test]
    fn is_the_same_to_the_bit_everywhere() {
        let mut hasher = Sha256::new();
        for (index, size) in [[32, 32], [48, 96], [1, 1]].into_iter().enumerate() {
            hasher.update(draw(size, &mut Random::new(5, index as u64)));
        }
        assert_eq!(
            format!("{:x}", hasher.finalize()),
            "8e3969e0e87ac53798c0750c91c8711eadce32625cfead279e7df96e283b325e"
        );
    }

    #[test]
    fn has_the_statistics_of_photographs() {
        const SIDE: usize = 128;
        let (mut sum, mut square, mut count) = (0.0, 0.0, 0.0);
        // Mean squares of the differences between pixels at distances 2, 4, ..., 32.
        let mut apart = [0.0; 5];
        for index in 0..24 {
            let picture = grey(index, [SIDE, SIDE]);
            for (i, &value) in picture.iter().enumerate() {
                (sum, square, count) = (sum + value, square + value * value, count + 1.0);
                for (k, apart) in apart.iter_mut().enumerate() {
                    if let Some(&other) = picture.get(i + (2 << k)).filter(|_| i % SIDE + (2 << k) < SIDE) {
                        *apart += (other - value) * (other - value) / (SIDE - (2 << k)) as f64;
                    }
                }
            }
        }
        let mean = sum / count;
        let deviation = (square / count - mean * mean).sqrt();
        assert!((0.40..0.52).contains(&mean), "mean {mean}; ImageNet's is 0.45");
        assert!((0.19..0.29).contains(&deviation), "deviation {deviation}; ImageNet's is 0.23 inside a picture");
        // The mean square grows at every scale, ever slower: with the logarithm of the distance for a spectrum of 1/f^2.
        for pair in apart.windows(2) {
            assert!((1.05..2.0).contains(&(pair[1] / pair[0])), "{apart:?}");
        }
    }

    #[test]
    fn pictures_follow_the_seed_and_the_input() {
        let imagenet = Preprocess::imagenet();
        let pictures = generated(3, 7, &imagenet, [20, 30]);
        assert_eq!((pictures.len(), pictures.shape(), pictures.name()), (3, [3, 20, 30], "drawn pictures"));
        let batch = pictures.batch(&[0, 1, 2]).unwrap();
        let image = 3 * 20 * 30;
        assert_ne!(batch.pixels[..image], batch.pixels[image..2 * image]);
        let more = generated(5, 7, &imagenet, [20, 30]).batch(&[0, 1, 2]).unwrap();
        assert_eq!(more, batch, "more pictures have the same first ones");
        assert_ne!(generated(3, 8, &imagenet, [20, 30]).batch(&[0, 1, 2]).unwrap(), batch);

        // Blue stands first in BGR; the values are those of bytes.
        let plain = generated(1, 7, &Preprocess::bytes(ChannelOrder::Rgb), [20, 30]).batch(&[0]).unwrap().pixels;
        let swapped = generated(1, 7, &Preprocess::bytes(ChannelOrder::Bgr), [20, 30]).batch(&[0]).unwrap().pixels;
        assert_eq!(plain[..600], swapped[1200..]);
        let grey = generated(1, 7, &Preprocess::bytes(ChannelOrder::Grey), [20, 30]).batch(&[0]).unwrap();
        assert_eq!(grey.shape, [1, 1, 20, 30]);
        let luma = (0..600).map(|i| 0.299 * plain[i] + 0.587 * plain[600 + i] + 0.114 * plain[1200 + i]);
        assert!(luma.zip(&grey.pixels).all(|(luma, grey)| (luma - grey).abs() <= 1.0));
    }
}
