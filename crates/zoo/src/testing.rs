//! Weights and inputs made by a formula, which `tests/golden/make.py` computes to the same bits, and the outputs that
//! torchvision computed from them.

use graph::{Graph, Role, Tensor, Weights};
use serde::Deserialize;

use crate::Config;

/// The file `tests/golden/logits.json`, a list of [`Golden`].
pub const LOGITS: &str = include_str!("../tests/golden/logits.json");

/// The output of torchvision for [`formula_weights`] and [`formula_input`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The name of the variant.
    pub name: String,
    /// The side of the input image, in pixels.
    pub input: usize,
    /// The number of images in the batch.
    pub batch: usize,
    /// Whether GoogLeNet's `transform_input` is on.
    #[serde(default)]
    pub transform_input: bool,
    /// The first logits of each image.
    pub logits: Vec<Vec<f64>>,
    /// For each image, the projections 0, 1, 2 and 3 of all its logits.
    pub projections: Vec<Vec<f64>>,
    /// Statistics of the outputs of some layers.
    pub taps: Vec<Tap>,
}

/// Statistics of the output of one layer.
#[derive(Debug, Clone, Deserialize)]
pub struct Tap {
    /// The name of the node.
    pub name: String,
    /// The mean over the batch.
    pub mean: f64,
    /// The root mean square over the batch.
    pub rms: f64,
}

impl Tap {
    /// Returns the larger difference of the two statistics from those of `output`, relative to the root mean square.
    pub fn difference(&self, output: &[f32]) -> f64 {
        let mean = |f: fn(f64) -> f64| output.iter().map(|&x| f(f64::from(x))).sum::<f64>() / output.len() as f64;
        let (mean, rms) = (mean(|x| x), mean(|x| x * x).sqrt());
        let difference = (mean - self.mean).abs().max((rms - self.rms).abs()) / self.rms;
        if difference.is_finite() { difference } else { f64::INFINITY }
    }
}

impl Golden {
    /// Returns the network that was run.
    pub fn config(&self) -> Config {
        Config { input: Some(self.input), transform_input: self.transform_input, ..Config::new(&self.name) }
    }

    /// Returns the images on which it was run.
    pub fn images(&self) -> Tensor {
        formula_input([self.batch, 3, self.input, self.input])
    }

    /// Returns the largest difference from `logits`, `[batch, classes]`, relative to the largest golden value of its kind.
    pub fn difference(&self, logits: &[f32]) -> f64 {
        let classes = logits.len() / self.batch;
        let mut pairs = [vec![], vec![]];
        for (image, row) in logits.chunks(classes).enumerate() {
            pairs[0].extend(self.logits[image].iter().zip(row).map(|(&want, &got)| (want, f64::from(got))));
            let projections = self.projections[image].iter().enumerate();
            pairs[1].extend(projections.map(|(k, &want)| (want, projection(row, k))));
        }
        pairs.iter().map(|pairs| relative(pairs)).fold(0.0, f64::max)
    }
}

/// Returns the largest `|got - want|` over the largest `|want|`, or infinity where a value is not finite.
fn relative(pairs: &[(f64, f64)]) -> f64 {
    let largest = pairs.iter().map(|(want, _)| want.abs()).fold(0.0, f64::max);
    let error = |&(want, got): &(f64, f64)| if got.is_finite() { (got - want).abs() } else { f64::INFINITY };
    pairs.iter().map(error).fold(0.0, f64::max) / largest
}

/// Returns the sum of `values` times the noise named `projection{k}`.
fn projection(values: &[f32], k: usize) -> f64 {
    let noise = Noise::new(&format!("projection{k}"));
    values.iter().enumerate().map(|(i, &v)| f64::from(v) * f64::from(noise.at(i))).sum()
}

/// Makes weights whose every element is a hash of its parameter's name and its index. Weights have the uniform range of He
/// et al., normalisations are near the identity, and an affine node gets the constants of GoogLeNet's `transform_input`.
pub fn formula_weights(graph: &Graph) -> Weights {
    let mut weights = Weights::default();
    for param in graph.params() {
        let noise = Noise::new(&param.name);
        let n: usize = param.shape.iter().product();
        let fan_in: usize = param.shape[1..].iter().product();
        let (centre, spread) = match param.role {
            Role::Weight => (0.0, (6.0 / fan_in as f64).sqrt() as f32),
            Role::Gamma => (0.75, 0.25),
            Role::Slope => (0.25, 0.25),
            Role::Bias | Role::Mean => (0.0, 0.125),
            Role::Variance => (1.0, 0.5),
        };
        let data = (0..n).map(|i| noise.at(i) * spread + centre).collect();
        weights.insert(param.name, Tensor::new(param.shape, data));
    }
    if graph.find(crate::TRANSFORM_INPUT).is_some() {
        crate::googlenet::transform_input(&mut weights);
    }
    weights
}

/// Makes a batch of images `[N, C, H, W]` with values in [-1, 1).
pub fn formula_input(shape: [usize; 4]) -> Tensor {
    let noise = Noise::new("input");
    Tensor::new(shape, (0..shape.iter().product()).map(|i| noise.at(i)).collect())
}

/// Noise in [-1, 1) with 24 bits, a hash of a name and an index.
struct Noise(u32);

impl Noise {
    /// Hashes the name with FNV-1a.
    fn new(name: &str) -> Self {
        Self(name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
    }

    /// Returns the value at an index: Murmur 3's finaliser of the name's hash and the index.
    fn at(&self, index: usize) -> f32 {
        let mut x = self.0 ^ (index as u32).wrapping_mul(0x9e37_79b9);
        x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        x ^= x >> 16;
        ((x >> 8) as i32 - (1 << 23)) as f32 / (1 << 23) as f32
    }
}
