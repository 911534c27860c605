//! Draws one image of the embedded set: background, clutter, the glyph, an occluding bar, blur and noise.
//!
//! All arithmetic is `f32` with `+ - * / sqrt` and comparisons, which IEEE 754 rounds the same way everywhere. There is no
//! `sin`, `exp` or `powf`, whose last bits differ between platforms. So the set has the same bytes on every machine.

use super::glyph;
use crate::random::Random;

/// The width and height of an image.
pub(super) const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// The difficulty of the set: the ranges of all random choices. Sizes are in pixels, colours in 0..255.
pub(super) struct Difficulty {
    /// Half the extent of the glyph.
    pub(super) radius: [f32; 2],
    /// The largest rotation either way, in radians (20 degrees).
    pub(super) rotation: f32,
    /// The ratio of width to height.
    pub(super) aspect: [f32; 2],
    /// The largest shear either way.
    pub(super) shear: f32,
    /// The largest distance of the glyph's centre from the image's, along each axis.
    pub(super) shift: f32,
    /// The distance in RGB between the glyph and the colour of the background.
    pub(super) contrast: [f32; 2],
    /// The distance in RGB between the two ends of the background's gradient.
    pub(super) gradient: [f32; 2],
    /// The amplitude of the background's texture.
    pub(super) texture: [f32; 2],
    /// The largest number of strokes and parts of other glyphs behind the glyph; there is at least one.
    pub(super) distractors: usize,
    /// The distance in RGB between a stroke, or a part of another glyph, and the colour of the background.
    pub(super) distractor_contrast: [f32; 2],
    /// The probability of a bar in front of the glyph.
    pub(super) bar: f32,
    /// Half the width of the bar.
    pub(super) bar_half_width: [f32; 2],
    /// The weight of the 3x3 blurred image.
    pub(super) blur: [f32; 2],
    /// The standard deviation of the noise.
    pub(super) noise: [f32; 2],
}

/// The difficulty of the published set. A change here changes the set: networks are to be trained anew, and the checksum in
/// the tests changes.
pub(super) const DIFFICULTY: Difficulty = Difficulty {
    radius: [8.0, 12.0],
    rotation: 0.349,
    aspect: [0.8, 1.25],
    shear: 0.2,
    shift: 3.0,
    contrast: [80.0, 220.0],
    gradient: [0.0, 70.0],
    texture: [0.0, 18.0],
    distractors: 3,
    distractor_contrast: [20.0, 110.0],
    bar: 0.25,
    bar_half_width: [0.7, 1.4],
    blur: [0.0, 0.7],
    noise: [2.0, 10.0],
};

type Colour = [f32; 3];

/// Draws an image of a class with the choices of `random`, as interleaved RGB.
pub(super) fn render(class: usize, random: &mut Random, out: &mut [u8]) {
    let d = &DIFFICULTY;
    let mut canvas = Canvas { planes: [[0.0; PLANE]; 3] };

    let ground: Colour = std::array::from_fn(|_| random.within([30.0, 225.0]));
    canvas.background(ground, random);
    for _ in 0..1 + random.below(d.distractors) {
        let colour = away(ground, random.within(d.distractor_contrast), random);
        if random.chance(0.6) {
            let half_width = random.within([0.5, 1.3]);
            canvas.stroke(half_width, colour, 1.0, random);
        } else {
            let centre = rim(random);
            let pose = Pose::random(centre, [4.0, 8.0], random);
            canvas.glyph(random.below(glyph::CLASSES.len()), &pose, colour, 1.0);
        }
    }
    let colour = away(ground, random.within(d.contrast), random);
    let middle = (SIDE / 2) as f32;
    let centre = [(); 2].map(|()| middle + random.within([-d.shift, d.shift]));
    let pose = Pose::random(centre, d.radius, random);
    canvas.glyph(class, &pose, colour, random.within([0.85, 1.0]));
    if random.chance(d.bar) {
        let half_width = random.within(d.bar_half_width);
        let colour = away(ground, random.within(d.distractor_contrast), random);
        canvas.stroke(half_width, colour, 1.0, random);
    }
    canvas.blur(random.within(d.blur));
    canvas.finish(random.within(d.noise), random, out);
}

/// Returns a colour at a distance from another. A channel that would leave 0..255 goes the other way.
fn away(from: Colour, distance: f32, random: &mut Random) -> Colour {
    let direction = random.direction::<3>();
    std::array::from_fn(|c| {
        let step = direction[c] * distance;
        let there = from[c] + step;
        if (0.0..=255.0).contains(&there) { there } else { (from[c] - step).clamp(0.0, 255.0) }
    })
}

/// Returns a point near the border of the image, so that a glyph drawn there is cut off.
fn rim(random: &mut Random) -> [f32; 2] {
    let along = random.within([0.0, SIDE as f32]);
    let across = random.within([-2.0, 2.5]);
    let far = SIDE as f32 - across;
    [[along, across], [along, far], [across, along], [far, along]][random.below(4)]
}

/// The position of a glyph, as the map from pixels to the glyph's coordinates.
struct Pose {
    centre: [f32; 2],
    inverse: [[f32; 2]; 2],
    /// Half the side of the square of pixels that the glyph can touch.
    reach: f32,
}

impl Pose {
    fn random(centre: [f32; 2], radius: [f32; 2], random: &mut Random) -> Self {
        let d = &DIFFICULTY;
        let radius = random.within(radius);
        let (sin, cos) = sin_cos(random.within([-d.rotation, d.rotation]));
        let aspect = random.within(d.aspect).sqrt();
        let shear = random.within([-d.shear, d.shear]);
        // Glyph to pixels: rotate * [[1, shear], [0, 1]] * diag(radius * aspect, radius / aspect).
        let (sx, sy) = (radius * aspect, radius / aspect);
        let forward = [[cos * sx, (cos * shear - sin) * sy], [sin * sx, (sin * shear + cos) * sy]];
        let det = forward[0][0] * forward[1][1] - forward[0][1] * forward[1][0];
        let inverse = [[forward[1][1] / det, -forward[0][1] / det], [-forward[1][0] / det, forward[0][0] / det]];
        let reach = forward.map(|[a, b]| a.abs() + b.abs());
        Self { centre, inverse, reach: reach[0].max(reach[1]) * glyph::REACH }
    }
}

/// Returns sine and cosine by Taylor's polynomials, with an error below 1e-6 within half a radian.
fn sin_cos(x: f32) -> (f32, f32) {
    let s = x * x;
    let sin = x * (1.0 - s / 6.0 * (1.0 - s / 20.0 * (1.0 - s / 42.0)));
    let cos = 1.0 - s / 2.0 * (1.0 - s / 12.0 * (1.0 - s / 30.0 * (1.0 - s / 56.0)));
    (sin, cos)
}

struct Canvas {
    planes: [[f32; PLANE]; 3],
}

impl Canvas {
    /// Draws a linear gradient from `ground`, and no texture, stripes, checks or smooth noise.
    fn background(&mut self, ground: Colour, random: &mut Random) {
        let d = &DIFFICULTY;
        let end = away(ground, random.within(d.gradient), random);
        let [gx, gy] = random.direction::<2>();
        let amplitude = random.within(d.texture);
        let tint: Colour = std::array::from_fn(|_| random.within([0.3, 1.0]) * amplitude);
        let kind = random.below(4);
        let [tx, ty] = random.direction::<2>();
        let period = random.within([3.0, 9.0]);
        let lattice: [[f32; 6]; 6] = std::array::from_fn(|_| std::array::from_fn(|_| random.within([-1.0, 1.0])));
        for y in 0..SIDE {
            for x in 0..SIDE {
                let (fx, fy) = (x as f32 + 0.5 - 16.0, y as f32 + 0.5 - 16.0);
                let t = ((gx * fx + gy * fy) / 32.0 + 0.5).clamp(0.0, 1.0);
                let (along, across) = ((tx * fx + ty * fy) / period, (tx * fy - ty * fx) / period);
                let texture = match kind {
                    0 => 0.0,
                    1 => wave(along),
                    2 => wave(along) * wave(across),
                    _ => smooth(&lattice, x as f32 / 6.4, y as f32 / 6.4),
                };
                for c in 0..3 {
                    self.planes[c][y * SIDE + x] = ground[c] + (end[c] - ground[c]) * t * 0.5 + tint[c] * texture;
                }
            }
        }
    }

    fn glyph(&mut self, class: usize, pose: &Pose, colour: Colour, opacity: f32) {
        let [cx, cy] = pose.centre;
        let [[a, b], [c, d]] = pose.inverse;
        self.paint(pose.centre, pose.reach, colour, opacity, |x, y| {
            let (dx, dy) = (x - cx, y - cy);
            glyph::inside(class, a * dx + b * dy, c * dx + d * dy)
        });
    }

    /// Draws a straight stroke through the image, or a piece of one.
    fn stroke(&mut self, half_width: f32, colour: Colour, opacity: f32, random: &mut Random) {
        let [dx, dy] = random.direction::<2>();
        let [cx, cy] = [(); 2].map(|()| random.within([4.0, 28.0]));
        let half_length = random.within([6.0, 24.0]);
        self.paint([cx, cy], half_length + half_width, colour, opacity, |x, y| {
            let (x, y) = (x - cx, y - cy);
            (dx * x + dy * y).abs() < half_length && (dx * y - dy * x).abs() < half_width
        });
    }

    /// Blends `colour` over the points that `inside` accepts, with nine samples a pixel.
    fn paint(&mut self, centre: [f32; 2], reach: f32, colour: Colour, opacity: f32, inside: impl Fn(f32, f32) -> bool) {
        let [columns, rows] = centre.map(|at| {
            let last = SIDE as f32 - 1.0;
            (at - reach).floor().clamp(0.0, last) as usize..=(at + reach).floor().clamp(0.0, last) as usize
        });
        for row in rows {
            for column in columns.clone() {
                let mut hits = 0;
                for sample in 0..9 {
                    let x = column as f32 + (1 + 2 * (sample % 3)) as f32 / 6.0;
                    let y = row as f32 + (1 + 2 * (sample / 3)) as f32 / 6.0;
                    hits += i32::from(inside(x, y));
                }
                if hits > 0 {
                    let cover = hits as f32 / 9.0 * opacity;
                    for (plane, value) in self.planes.iter_mut().zip(colour) {
                        let pixel = &mut plane[row * SIDE + column];
                        *pixel += (value - *pixel) * cover;
                    }
                }
            }
        }
    }

    /// Blends with the image blurred by `[1 2 1] / 4` along both axes, by `weight`. The border is repeated.
    fn blur(&mut self, weight: f32) {
        for plane in &mut self.planes {
            let mut rows = [0.0; PLANE];
            for (from, to) in plane.chunks_exact(SIDE).zip(rows.chunks_exact_mut(SIDE)) {
                for x in 0..SIDE {
                    to[x] = (from[x.saturating_sub(1)] + 2.0 * from[x] + from[(x + 1).min(SIDE - 1)]) * 0.25;
                }
            }
            for y in 0..SIDE {
                let (above, below) = (y.saturating_sub(1) * SIDE, (y + 1).min(SIDE - 1) * SIDE);
                for x in 0..SIDE {
                    let blurred = (rows[above + x] + 2.0 * rows[y * SIDE + x] + rows[below + x]) * 0.25;
                    let pixel = &mut plane[y * SIDE + x];
                    *pixel += (blurred - *pixel) * weight;
                }
            }
        }
    }

    /// Adds noise and rounds to bytes.
    fn finish(&self, noise: f32, random: &mut Random, out: &mut [u8]) {
        // The sum of four bytes has mean 510 and standard deviation sqrt(4 (256^2 - 1) / 12) = 147.8.
        let scale = noise / 147.8;
        let sum = |half: u64| half.to_le_bytes()[..4].iter().map(|&b| i32::from(b)).sum::<i32>() - 510;
        let mut spare = None;
        for (i, pixel) in out.chunks_exact_mut(3).enumerate() {
            for (plane, byte) in self.planes.iter().zip(pixel) {
                let draw = spare.take().unwrap_or_else(|| {
                    let bits = random.next();
                    spare = Some(sum(bits >> 32));
                    sum(bits)
                });
                // A cast from float saturates, so values outside 0..255 are cut off.
                *byte = (plane[i] + draw as f32 * scale + 0.5) as u8;
            }
        }
    }
}

/// Returns a triangle wave of period 2 between -1 and 1.
fn wave(t: f32) -> f32 {
    let phase = t * 0.5 - (t * 0.5).floor();
    (phase - 0.5).abs() * 4.0 - 1.0
}

/// Interpolates bilinearly between random lattice points.
fn smooth(lattice: &[[f32; 6]; 6], x: f32, y: f32) -> f32 {
    let (column, row) = (x as usize, y as usize);
    let (u, v) = (x - column as f32, y - row as f32);
    let line = |r: usize| lattice[r][column] + (lattice[r][column + 1] - lattice[r][column]) * u;
    line(row) + (line(row + 1) - line(row)) * v
}
