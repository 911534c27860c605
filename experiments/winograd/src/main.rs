//! Exact Winograd F(2x2, 3x3) in bytes beside the engine's direct kernels: whole 3x3 layers, from the codes of their inputs to
//! those of the next layer's. See `README.md`.
//!
//! `winograd [LAYER [ROUNDS [BITS [STEPS]]]]`: part of a layer's name, rounds of runs in turns, bits of inputs, and the most steps of four
//! channels that are added in 16 bits, by default as many as fit.
mod avx2;
mod direct;
mod format;

use cpu_time::ThreadTime;

use avx2::Run;
use direct::{Direct, Scales};
use format::{Adds, Codes, Layer, Packed};

/// Name; channels in and out, and side of the image.
const LAYERS: [(&str, [usize; 3]); 9] = [
    ("VGG-16 conv1_2", [64, 64, 224]),
    ("VGG-16 conv2_2", [128, 128, 112]),
    ("VGG-16 conv3_2", [256, 256, 56]),
    ("VGG-16 conv4_2", [512, 512, 28]),
    ("VGG-16 conv5_1", [512, 512, 14]),
    ("ResNet-50 layer1", [64, 64, 56]),
    ("ResNet-50 layer2", [128, 128, 28]),
    ("ResNet-50 layer3", [256, 256, 14]),
    ("ResNet-50 layer4", [512, 512, 7]),
];

/// A generator of numbers, always the same ones.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }
    /// A number of a bell curve of deviation 1.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() & 0xffff) as f32 / 65536.0).sum::<f32>() - 6.0
    }
}

/// A layer with weights of a bell curve, whose largest in a block has the code -8; `whole` scales are whole numbers.
fn layer([ci, co, side]: [usize; 3], codes: Codes, block: usize, whole: bool) -> Layer {
    let block = block.min(ci);
    let mut random = Random(1);
    let mut q = vec![0; co * ci * 9];
    for some in q.chunks_mut(block * 9) {
        let w: Vec<f32> = (0..some.len()).map(|_| random.normal()).collect();
        let most = w.iter().fold(0.0, |a: f32, &b| if b.abs() > a.abs() { b } else { a });
        for (q, w) in some.iter_mut().zip(w) {
            *q = (-8.0 / most * w).round().clamp(-8.0, 7.0) as i8;
        }
    }
    let alpha =
        (0..co * (ci / block)).map(|i| if whole { 3 + i % 13 } else { 5 } as f32 * if whole { 1.0 } else { 1e-3 });
    let alpha = alpha.collect();
    let channel = vec![if whole { 1e-3 } else { 1.0 }; co];
    Layer { ci, co, side, codes, block, q, alpha, channel, bias: vec![0.1; co] }
}

fn inputs(layer: &Layer, random: &mut Random) -> Vec<u8> {
    let Codes { largest, signed } = layer.codes;
    let low = if signed { -largest } else { 0 };
    let span = (largest - low + 1) as u32;
    (0..layer.side * layer.side * layer.ci).map(|_| (low + (random.next() % span) as i32) as u8).collect()
}

/// Tiles of a strip: its transformed inputs and sums stay in the second-level cache.
fn strip(ci: usize) -> usize {
    (16384 / ci).clamp(16, 64)
}

/// The milliseconds of rounds: in each, the fastest of some runs, in parts that are timed one by one.
type Times = Vec<[f64; 2]>;

/// Returns the times of all runs, in turns. A run returns the seconds of its two parts, the second of which is taken off.
fn turns(runs: &mut [Box<dyn FnMut() -> [f64; 2] + '_>], rounds: usize, burst: usize) -> Vec<Times> {
    let mut times = vec![vec![]; runs.len()];
    for _ in 0..rounds {
        for (run, times) in runs.iter_mut().zip(&mut times) {
            let fastest = |a: [f64; 2], b: [f64; 2]| [a[0].min(b[0]), a[1].min(b[1])];
            times.push((0..burst).map(|_| run()).fold([f64::INFINITY; 2], fastest).map(|s| s * 1e3));
        }
    }
    times
}

/// Returns the median over rounds, and the fastest.
fn ends(times: &Times) -> [f64; 2] {
    let mut times: Vec<f64> = times.iter().map(|[all, off]| all - off).collect();
    times.sort_by(f64::total_cmp);
    [times[times.len() / 2], times[0]]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = arguments.first().map_or("", String::as_str);
    let rounds = arguments.get(1).map_or(9, |n| n.parse().expect("the number of rounds"));
    let bits: u8 = arguments.get(2).map_or(4, |n| n.parse().expect("the bits of inputs"));
    let longest = arguments.get(3).map_or(64, |n| n.parse().expect("the most steps in 16 bits"));
    let codes = Codes { largest: (1 << bits) - 1, signed: false };
    for (name, sizes) in LAYERS.into_iter().filter(|(name, _)| name.contains(wanted)) {
        let [ci, co, side] = sizes;
        let gmac = (ci * co * 9 * side * side) as f64 / 1e9;
        let mut direct: Vec<(String, Direct)> =
            [Scales::Block(64), Scales::Block(128), Scales::Pixel(128), Scales::TwoLevel]
                .map(|scales| (format!("direct {scales:?}"), Direct::new(sizes, bits, scales)))
                .into();
        let formats =
            [(Adds::Integers, 64), (Adds::Integers, 128), (Adds::Floats, 32), (Adds::Floats, 64), (Adds::Floats, 128)];
        let layers = formats.map(|(adds, block)| layer(sizes, codes, block, adds == Adds::Integers));
        let packed: Vec<_> = formats
            .iter()
            .zip(&layers)
            .map(|(&(adds, _), layer)| Packed::new(layer, adds, longest).expect("sums that fit"))
            .collect();
        let x = inputs(&layers[0], &mut Random(7));
        let floats: Vec<f32> = x.iter().map(|&a| f32::from(a) * 0.1).collect();
        let mut names: Vec<String> = direct.iter().map(|(name, _)| name.clone()).collect();
        let mut runs: Vec<Box<dyn FnMut() -> [f64; 2] + '_>> = vec![];
        for (_, direct) in &mut direct {
            runs.push(Box::new(|| direct.seconds()));
        }
        for (layer, packed) in layers.iter().zip(&packed) {
            names.push(format!("winograd {:?} {} ({} steps)", packed.adds, layer.block, packed.steps));
            let (s, unit) = (vec![1.0; layer.blocks()], 1.0);
            let mut run = Run::new(layer, packed, strip(ci), &s, unit);
            let x = &x;
            runs.push(Box::new(move || {
                let start = ThreadTime::now();
                run.run(x, layer.block.min(layer.co));
                [start.elapsed().as_secs_f64(), 0.0]
            }));
        }
        for (layer, packed) in layers.iter().zip(&packed).filter(|(_, packed)| packed.adds == Adds::Floats) {
            names.push(format!("winograd {} a tile ({} steps)", layer.block, packed.steps));
            let mut run = Run::new(layer, packed, strip(ci), &vec![1.0; layer.blocks()], 1.0);
            let floats = &floats;
            runs.push(Box::new(move || {
                let start = ThreadTime::now();
                run.run_floats(floats);
                [start.elapsed().as_secs_f64(), 0.0]
            }));
        }
        let times: Vec<[f64; 2]> = turns(&mut runs, rounds, 3).iter().map(ends).collect();
        drop(runs);
        let best = times[..direct.len()].iter().fold([f64::INFINITY; 2], |a, b| [a[0].min(b[0]), a[1].min(b[1])]);
        println!("\n{name}, {ci} channels, {side}x{side}\n");
        println!(
            "| kernel | median ms | fastest ms | GMAC/s | times the best direct (median, fastest) |\n|---|---|---|---|---|"
        );
        for (name, [median, fastest]) in names.iter().zip(times) {
            let (speed, [a, b]) = (gmac / fastest * 1e3, [best[0] / median, best[1] / fastest]);
            println!("| {name} | {median:.3} | {fastest:.3} | {speed:.0} | {a:.2}, {b:.2} |");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a layer and compares its sums with those of plain loops: scales are 1, or powers of two, biases 0.
    fn compare(layer: &Layer, x: &[u8], longest: usize) {
        let sums = layer.plain(x);
        let pixels = layer.side * layer.side * layer.co;
        for adds in [Adds::Integers, Adds::Floats] {
            let packed = Packed::new(layer, adds, longest).expect("16 bits are enough");
            let s: Vec<f32> = (0..layer.blocks()).map(|b| (1 + b % 3) as f32).collect();
            let mut run = Run::new(layer, &packed, 8, &s, 1.0);
            run.run(x, layer.co.min(32));
            for (at, &y) in run.outputs.iter().enumerate() {
                let o = at % layer.co;
                let scaled =
                    |b: usize| layer.alpha[o * layer.blocks() + b] as i32 * s[b] as i32 * sums[b * pixels + at];
                let sum: i32 = (0..layer.blocks()).map(scaled).sum();
                assert!(sum.abs() < 1 << 22, "floats hold the sum");
                assert_eq!(y, sum.max(0) as f32, "{adds:?}, output {at}");
            }
        }
    }

    fn small(ci: usize, side: usize, codes: Codes, block: usize) -> Layer {
        let mut layer = layer([ci, 32, side], codes, block, true);
        layer.alpha.iter_mut().enumerate().for_each(|(i, a)| *a = (1 + i % 3) as f32);
        layer.channel.fill(1.0);
        layer.bias.fill(0.0);
        layer
    }

    #[test]
    fn random_codes_give_the_sums_of_plain_loops() {
        for (largest, signed) in [(15, false), (31, false), (63, false), (7, true), (15, true), (31, true)] {
            for (ci, side, block) in [(64, 7, 64), (128, 6, 64), (128, 5, 128), (96, 9, 32)] {
                let layer = small(ci, side, Codes { largest, signed }, block);
                compare(&layer, &inputs(&layer, &mut Random(3)), 64);
            }
        }
    }

    #[test]
    fn extreme_codes_give_the_sums_of_plain_loops() {
        for (largest, signed) in [(15, false), (31, false), (7, true), (15, true)] {
            let mut layer = small(64, 6, Codes { largest, signed }, 64);
            let mut random = Random(5);
            // All the same, and each at an end of its range.
            for sample in 0..4 {
                layer
                    .q
                    .iter_mut()
                    .for_each(|q| *q = [-8, 7][if sample < 2 { sample } else { random.next() as usize % 2 }]);
                let ends = [if signed { -largest } else { 0 } as u8, largest as u8];
                let x: Vec<u8> =
                    (0..6 * 6 * 64).map(|_| ends[if sample < 2 { 1 } else { random.next() as usize % 2 }]).collect();
                compare(&layer, &x, 64);
            }
        }
    }

    #[test]
    fn floats_are_rounded_with_a_scale_for_each_patch() {
        // Blocks that hold their largest code in every patch, times 1/2: the scale is 1/2 everywhere, and the codes come back.
        let layer = small(64, 7, Codes { largest: 15, signed: false }, 32);
        let mut x = inputs(&layer, &mut Random(3));
        x.iter_mut().step_by(32).for_each(|x| *x = 15);
        let sums = layer.plain(&x);
        let packed = Packed::new(&layer, Adds::Floats, 64).expect("16 bits are enough");
        let mut run = Run::new(&layer, &packed, 8, &[1.0, 1.0], 1.0);
        run.run_floats(&x.iter().map(|&a| f32::from(a) * 0.5).collect::<Vec<_>>());
        for (at, &y) in run.outputs.iter().enumerate() {
            let o = at % layer.co;
            let scaled = |b: usize| layer.alpha[o * 2 + b] * sums[b * run.outputs.len() + at] as f32;
            assert_eq!(y, (0.5 * (scaled(0) + scaled(1))).max(0.0), "output {at}");
        }
    }

    #[test]
    fn weights_of_8_do_not_fit_with_6_bit_inputs() {
        // A pair of products: 2 * 72 * 4 * 63 = 36,288 > 32,768.
        let mut layer = small(64, 4, Codes { largest: 63, signed: false }, 64);
        layer.q.fill(-8);
        assert!(Packed::new(&layer, Adds::Integers, 64).is_none());
    }
}
