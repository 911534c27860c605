//! How far a network's outputs are from those of the float network that it was made of.
use graph::Graph;
use serde::{Deserialize, Serialize};

use crate::logits::Logits;
use crate::loss::Loss;

/// How far a network's outputs are from those of its teacher, on a handful of images that need no labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fidelity {
    /// The number of images.
    pub images: usize,
    /// The number of images for which both networks decide the same.
    pub same: usize,
    /// The power of the difference of the outputs over that of what tells images apart in the teacher's.
    ///
    /// The difference is taken without its mean over an image's outputs, which no softmax sees. What tells images apart are
    /// the teacher's outputs without that mean and without their mean over the images: on pictures that show nothing most of a
    /// network's output is the same for all, and a network that gives every image that same output would look good beside the
    /// whole of it. Here it has a noise of about 1. (A single output, or one with a sigmoid, keeps its mean, as in
    /// [`Logits::sqnr_db`].)
    pub noise: f64,
    /// The mean over images of the divergence of the network's probabilities from the teacher's, `KL(teacher || network)`, in
    /// nats.
    pub divergence: f64,
}

impl Fidelity {
    /// Compares the outputs of a network with those of its teacher, whose graph tells how they are read.
    ///
    /// # Panics
    /// If the two have other numbers of outputs.
    pub fn of(network: &Logits, teacher: &Logits, graph: &Graph) -> Self {
        let mut tally = Tally::default();
        tally.add(network, teacher, Loss::of(graph));
        tally.finish(teacher.contrast())
    }

    /// The ratio of signal to noise in dB, `-10 log10(noise)`; `None` where there is no noise.
    pub fn sqnr_db(&self) -> Option<f64> {
        decibels(self.noise)
    }
}

/// The dB of a signal over a noise of this part of it; `None` where there is no noise.
pub(crate) fn decibels(noise: f64) -> Option<f64> {
    (noise > 0.0).then(|| -10.0 * noise.log10())
}

/// Sums over images of what makes a [`Fidelity`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    images: usize,
    same: usize,
    noise: f64,
    divergence: f64,
}

impl Tally {
    /// Adds images that both networks have outputs for.
    pub(crate) fn add(&mut self, network: &Logits, teacher: &Logits, loss: Loss) {
        let images = network.beside(teacher).count();
        self.images += images;
        self.same += (network.agreement(teacher) * images as f64 / 100.0).round() as usize;
        self.noise += network.noise(teacher);
        self.divergence += loss.mean_divergence(teacher, network) * images as f64;
    }

    /// Divides by the power of the teacher's outputs: see [`Logits::contrast`].
    pub(crate) fn finish(self, contrast: f64) -> Fidelity {
        let Self { images, same, noise, divergence } = self;
        let noise = if noise == 0.0 { 0.0 } else { noise / contrast };
        Fidelity { images, same, noise, divergence: divergence / images.max(1) as f64 }
    }
}

#[cfg(test)]
mod tests {
    use graph::{Builder, Head, Op, Outputs, Shape};

    use super::*;

    fn graph(outputs: usize) -> Graph {
        let mut b = Builder::new("n", Shape::new(3, 1, 1));
        let x = b.push("flatten", Op::Flatten, vec![b.input()]);
        b.linear("fc", outputs, x);
        b.finish().unwrap()
    }

    fn logits(count: usize, values: &[f32]) -> Logits {
        Logits::new(Head { outputs: Outputs::Logits, count }, values.to_vec())
    }

    #[test]
    fn a_network_that_says_the_same_of_every_image_is_all_noise() {
        // Of both images class 0 is the likeliest by far; what tells them apart are +-1 of classes 1 and 2.
        let teacher = logits(3, &[20.0, 1.0, -1.0, 20.0, -1.0, 1.0]);
        let constant = logits(3, &[20.0, 0.0, 0.0, 20.0, 0.0, 0.0]);
        let found = Fidelity::of(&constant, &teacher, &graph(3));
        assert_eq!((found.images, found.same), (2, 2));
        // Noise 4 in all; contrast 4, times 2 / (2 - 1) since the mean was taken from the same two images.
        assert!((found.noise - 0.5).abs() < 1e-6, "{found:?}");
        assert!(constant.sqnr_db(&teacher).unwrap() > 20.0, "beside the whole output it looks good");
        let exact = Fidelity::of(&teacher, &teacher, &graph(3));
        assert_eq!((exact.noise, exact.sqnr_db()), (0.0, None));
        assert!(exact.divergence.abs() < 1e-12);
    }

    #[test]
    fn divergence_and_agreement_are_those_of_probabilities() {
        let teacher = logits(2, &[0.0, 3f32.ln(), 0.0, 0.0]);
        let network = logits(2, &[0.0, 0.0, 0.0, 0.0]);
        let found = Fidelity::of(&network, &teacher, &graph(2));
        // Image 0: 1/4 ln(1/4 / 1/2) + 3/4 ln(3/4 / 1/2); image 1: 0.
        let expected = 0.5 * (0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln());
        assert!((found.divergence - expected).abs() < 1e-6, "{found:?}");
        // Of equal outputs the first is named.
        assert_eq!(found.same, 1);
        // A single image is compared with all that its outputs differ by.
        let one = Fidelity::of(&logits(2, &[0.0, 1.0]), &logits(2, &[0.0, 2.0]), &graph(2));
        assert!((one.noise - 0.25).abs() < 1e-6, "{one:?}");
    }
}
