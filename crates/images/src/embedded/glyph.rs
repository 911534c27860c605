//! The sixteen shapes, each as a test whether a point of `[-1, 1]^2` lies inside, with `y` down.

use std::f32::consts::FRAC_1_SQRT_2;

/// The class names of the embedded set. A label is an index into them.
pub const CLASSES: [&str; 16] = [
    "disc",
    "ring",
    "square",
    "frame",
    "triangle_up",
    "triangle_down",
    "plus",
    "cross",
    "star5",
    "star6",
    "hexagon",
    "crescent",
    "arrow",
    "heart",
    "tee",
    "ell",
];

/// The radius around the origin that contains every shape.
pub(super) const REACH: f32 = 1.05;

/// The corners of a star of five points, with outer radius 1 and inner radius 0.42, the first one up.
const STAR5: [[f32; 2]; 10] = [
    [0.0, -1.0],
    [0.246_870, -0.339_787],
    [0.951_057, -0.309_017],
    [0.399_444, 0.129_787],
    [0.587_785, 0.809_017],
    [0.0, 0.42],
    [-0.587_785, 0.809_017],
    [-0.399_444, 0.129_787],
    [-0.951_057, -0.309_017],
    [-0.246_870, -0.339_787],
];

/// The corners of a star of six points, with outer radius 1 and inner radius 0.5, the first one up.
const STAR6: [[f32; 2]; 12] = [
    [0.0, -1.0],
    [0.25, -0.433_013],
    [0.866_025, -0.5],
    [0.5, 0.0],
    [0.866_025, 0.5],
    [0.25, 0.433_013],
    [0.0, 1.0],
    [-0.25, 0.433_013],
    [-0.866_025, 0.5],
    [-0.5, 0.0],
    [-0.866_025, -0.5],
    [-0.25, -0.433_013],
];

/// Returns whether the shape of a class covers a point. It computes sums, products and comparisons only, so that the result is
/// the same on every machine.
pub(super) fn inside(class: usize, x: f32, y: f32) -> bool {
    let (ax, ay) = (x.abs(), y.abs());
    let square = x * x + y * y;
    match CLASSES[class] {
        "disc" => square < 0.72,
        "ring" => square < 0.76 && square > 0.2,
        "square" => ax < 0.75 && ay < 0.75,
        "frame" => ax < 0.78 && ay < 0.78 && (ax > 0.42 || ay > 0.42),
        "triangle_up" => triangle(x, y),
        "triangle_down" => triangle(x, -y),
        "plus" => plus(ax, ay),
        "cross" => {
            let (u, v) = ((x + y) * FRAC_1_SQRT_2, (x - y) * FRAC_1_SQRT_2);
            plus(u.abs(), v.abs())
        }
        "star5" => polygon(&STAR5, x, y),
        "star6" => polygon(&STAR6, x, y),
        "hexagon" => ax < 0.8 && ax * 0.5 + ay * 0.866_025 < 0.8,
        "crescent" => square < 0.81 && (x - 0.42) * (x - 0.42) + y * y > 0.45,
        "arrow" => {
            let head = x > 0.0 && ay < 0.95 - x;
            let shaft = x > -0.95 && x <= 0.0 && ay < 0.3;
            head || shaft
        }
        "heart" => {
            // The curve (x^2 + y^2 - 1)^3 = x^2 y^3, shrunk to the unit square and with y up.
            let (hx, hy) = (x * 1.25, 0.15 - y * 1.2);
            let ring = hx * hx + hy * hy - 1.0;
            ring * ring * ring < hx * hx * hy * hy * hy
        }
        "tee" => (ax < 0.8 && y > -0.9 && y < -0.38) || (ax < 0.27 && y > -0.9 && y < 0.9),
        "ell" => (x > -0.65 && x < -0.13 && ay < 0.9) || (x > -0.65 && x < 0.7 && y > 0.38 && y < 0.9),
        _ => unreachable!("the match names every class"),
    }
}

fn triangle(x: f32, y: f32) -> bool {
    y < 0.65 && x.abs() * 1.65 < (y + 0.95) * 0.95
}

fn plus(ax: f32, ay: f32) -> bool {
    (ax < 0.27 && ay < 0.92) || (ay < 0.27 && ax < 0.92)
}

/// Returns whether a point lies in a polygon, by the even-odd rule.
fn polygon(points: &[[f32; 2]], x: f32, y: f32) -> bool {
    let mut inside = false;
    let mut from = points[points.len() - 1];
    for &to in points {
        if (from[1] > y) != (to[1] > y) {
            let edge = (to[0] - from[0]) * (y - from[1]) / (to[1] - from[1]) + from[0];
            inside ^= x < edge;
        }
        from = to;
    }
    inside
}
