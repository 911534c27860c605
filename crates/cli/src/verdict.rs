//! The verdict on a quantized network: how far it is from the float network, on a handful of images.
use std::fmt;

use distill::evaluate::predict;
use distill::{Context, Fidelity, Logits};
use dsconv::Network;
use graph::Folded;
use images::Unlabelled;
use model::Model;
use serde::Serialize;

use crate::error::Result;
use crate::printer::Printer;
use crate::{pictures, progress};

/// The images on which networks are compared where the user gives none, or holds fewer out of a fit.
pub const COUNT: usize = 8;
/// The most images held out on which networks are compared.
pub const MOST_HELD: usize = 16;
/// The seed of the pictures that are drawn.
pub const SEED: u64 = 0x7665_7264;
/// The noise and the divergence above which, both, a network is called broken. Of nine networks in eight formats each, all that
/// lost more than 10 points of top-1 have at least 0.43 and 0.59 on these pictures. None that lost less than 3 has both: not one alike
/// in all layers has such a noise, and one of mixed formats that has it diverges by 0.39: see experiments/sensitivity.
const BROKEN: (f64, f64) = (0.4, 0.5);
/// The noise above which alone a network is called broken: a network that gives all images one output has less. Of those nine networks
/// all that have it lost 9 points and more.
const NOISE_ALONE: f64 = 1.0;
/// The part of the images to which the float network gives one class where it tells too few of them apart to be a measure. Of the nine
/// networks none gives one class to more than 6 of the 8 pictures; ResNet-50 with random weights gives it to all, on which quantized
/// ones look broken at any number of bits.
const ALIKE: f64 = 7.0 / 8.0;
/// The same for networks whose layers were fitted on drawn pictures, which are then closer on such pictures than on real images.
/// Of five networks in four formats each, those that lost more than 10 points have a noise of at least 0.37, but for one AlexNet
/// that has 0.13 to 0.17, and those that lost less than 3 at most 0.10: see experiments/fit.
const BROKEN_FITTED: (f64, f64) = (0.25, 0.0);

/// How far a quantized network is from the float network.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The name of the images.
    pub on: String,
    /// The comparison.
    #[serde(flatten)]
    pub fidelity: Fidelity,
    /// The SQNR of the logits in dB; `None` where they are the same.
    pub sqnr_db: Option<f64>,
    /// The most images to which the float network gives one and the same class.
    pub alike: usize,
    /// Whether those are nearly all of several classes' images, which then do not tell how far the quantized network is from it.
    pub constant: bool,
    /// Whether the network is broken; `false` where that cannot be told.
    pub broken: bool,
}

/// The kind of images on which networks are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The user's, held out of a fit.
    Held,
    /// Drawn pictures, as those that layers were fitted on.
    Fitted,
    /// Others.
    Others,
}

impl Verdict {
    fn new(images: &Unlabelled, fidelity: Fidelity, float: &Logits, on: On) -> Self {
        let Fidelity { noise, divergence, .. } = fidelity;
        let limits = if on == On::Fitted { BROKEN_FITTED } else { BROKEN };
        let is_far = noise > NOISE_ALONE || (noise > limits.0 && divergence > limits.1);
        let alike = float.alike();
        // Of two classes one may well be that of all images.
        let constant = float.classes() > 2 && alike as f64 >= ALIKE * float.len() as f64;
        let broken = noise.is_nan() || divergence.is_nan() || (is_far && !constant);
        let name = images.name();
        let on = if on == On::Held { format!("{name}, held out") } else { name.to_owned() };
        Self { on, fidelity, sqnr_db: fidelity.sqnr_db(), alike, constant, broken }
    }

    /// Warns where the network is broken, or where that cannot be told; `help` is what may make it better.
    pub fn warn(&self, help: Help, printer: &Printer) {
        let Self { alike, fidelity: Fidelity { images, .. }, .. } = self;
        if self.constant && !self.broken {
            printer.warn(format!(
                "the float network itself gives one class to {alike} of {}, which therefore do not tell how far the quantized one is: \
                 look whether its weights are trained and its images prepared as it expects (--mean, --std, --order, --divide), or give \
                 images of several of its classes (--images)",
                pictures::described(*images, &self.on)
            ));
        }
        if self.broken {
            printer.warn(format!(
                "the quantized network is broken: it says other things than the float one, and has lost several points of accuracy \
                 or most of it; {help}, `dsconv analyze` names the layers"
            ));
        }
    }
}

/// What may make a quantized network better.
#[derive(Debug, Clone, Copy, Default)]
pub struct Help {
    /// Whether a layer can have more bits.
    pub more_bits: bool,
    /// Whether `--keep-worst` can be given, and would find a layer.
    pub keep_worst: bool,
}

/// Writes ``more bits, `--keep-worst` and `dsconv distill` help``.
impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.more_bits, self.keep_worst) {
            (true, true) => "more bits, `--keep-worst` and `dsconv distill` help",
            (true, false) => "more bits and `dsconv distill` help",
            (false, true) => "`--keep-worst` and `dsconv distill` help",
            (false, false) => "`dsconv distill` helps",
        })
    }
}

/// Writes `on 8 drawn pictures: the class of FP32 for 7, logits 18.3 dB, divergence 0.021`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fidelity { images, same, divergence, .. } = self.fidelity;
        write!(f, "on {}: the class of FP32 for {same}", pictures::described(images, &self.on))?;
        match self.sqnr_db {
            Some(db) => write!(f, ", logits {db:.1} dB, divergence {:.3}", divergence.max(0.0)),
            None => f.write_str(", the same logits"),
        }
    }
}

/// What the float network says of some images.
#[derive(Debug)]
pub struct Reference {
    images: Unlabelled,
    logits: Logits,
}

impl Reference {
    /// Computes the logits of the float network.
    ///
    /// # Errors
    /// The images do not fit the network or cannot be read; an output is not finite; the user interrupts it.
    pub fn new(network: &Folded, images: Unlabelled, context: &Context) -> Result<Self, distill::Error> {
        // Probabilities would hide what a softmax hides.
        let network = Network::trainable(&network.graph().clone().without_head(), network.weights(), &context.device);
        let logits = predict("check", &[&network], &images, context)?.remove(0);
        Ok(Self { images, logits })
    }

    /// Compares a quantized model with the float network.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn verdict(&self, model: &Model, on: On, context: &Context) -> Result<Verdict, distill::Error> {
        let model = model.clone().without_head();
        let network = Network::new(&model, &context.device);
        let logits = predict("check", &[&network], &self.images, context)?.remove(0);
        let fidelity = Fidelity::of(&logits, &self.logits, model.graph());
        Ok(Verdict::new(&self.images, fidelity, &self.logits, on))
    }
}

/// Says why there is no verdict, where that does not end the work.
///
/// # Errors
/// The user interrupted it.
pub fn known<T>(found: Result<T, distill::Error>, printer: &Printer) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(distill::Error::Interrupted { .. }) => Err(progress::stopped()),
        Err(error) => {
            printer.warn(format!("how far the network is from the float one is not known: {error}"));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use graph::{Builder, Graph, Head, Op, Outputs, Preprocess, Shape};

    use super::*;

    fn graph(outputs: usize) -> Graph {
        let mut b = Builder::new("n", Shape::new(3, 1, 1));
        let x = b.push("flatten", Op::Flatten, vec![b.input()]);
        b.linear("fc", outputs, x);
        b.finish().unwrap()
    }

    /// The verdict on a network of `outputs` classes: of image `i` the float network and the quantized one say what these give.
    fn verdict<const N: usize>(float: impl Fn(usize) -> [f32; N], quantized: impl Fn(usize) -> [f32; N]) -> Verdict {
        let images = images::generated(8, 1, &Preprocess::imagenet_statistics(), [1, 1]);
        let logits = |of: &dyn Fn(usize) -> [f32; N]| {
            Logits::new(Head { outputs: Outputs::Logits, count: N }, (0..8).flat_map(of).collect())
        };
        let (float, quantized) = (logits(&float), logits(&quantized));
        Verdict::new(&images, Fidelity::of(&quantized, &float, &graph(N)), &float, On::Others)
    }

    fn one_of<const N: usize>(class: usize, logit: f32) -> [f32; N] {
        std::array::from_fn(|i| if i == class { logit } else { 0.0 })
    }

    #[test]
    fn what_says_other_things_is_broken() {
        let far = verdict::<3>(|i| one_of(i % 3, 9.0), |i| one_of((i + 1) % 3, 9.0));
        assert!((far.broken, far.constant, far.alike) == (true, false, 3), "{far:?}");
        let near = verdict::<3>(|i| one_of(i % 3, 9.0), |i| one_of(i % 3, 8.0));
        assert!(!near.broken && !near.constant, "{near:?}");
        // Probabilities that are nearly the same for all classes diverge by next to nothing.
        let flat = verdict::<3>(|i| one_of(i % 3, 0.01), |i| one_of((i + 1) % 3, 0.01));
        assert!(flat.broken && flat.fidelity.divergence < 1e-3, "{flat:?}");
    }

    #[test]
    fn a_float_network_that_gives_one_class_is_no_measure() {
        let one = |i: usize| [9.0, i as f32 * 0.01, 0.0];
        let constant = verdict::<3>(one, |i| one_of(i % 3, 9.0));
        assert!((constant.broken, constant.constant, constant.alike) == (false, true, 8), "{constant:?}");
        // Of two classes one may be that of all pictures.
        let two = verdict::<2>(|i| [9.0 + i as f32, 0.0], |i| one_of(i % 2, 9.0));
        assert!((two.broken, two.constant) == (true, false), "{two:?}");
    }
}
