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
    /// Whether the network is broken.
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
    fn new(images: &Unlabelled, fidelity: Fidelity, on: On) -> Self {
        let Fidelity { noise, divergence, .. } = fidelity;
        let limits = if on == On::Fitted { BROKEN_FITTED } else { BROKEN };
        let broken = noise.is_nan() || divergence.is_nan() || (noise > limits.0 && divergence > limits.1);
        let name = images.name();
        let on = if on == On::Held { format!("{name}, held out") } else { name.to_owned() };
        Self { on, fidelity, sqnr_db: fidelity.sqnr_db(), broken }
    }

    /// Warns where the network is broken.
    pub fn warn(&self, printer: &Printer) {
        if self.broken {
            printer.warn(
                "the quantized network is broken: it says other things than the float one, and has lost several points of accuracy \
                 or most of it; more bits, `--keep-worst` and `dsconv distill` help, `dsconv analyze` names the layers",
            );
        }
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
        Ok(Verdict::new(&self.images, Fidelity::of(&logits, &self.logits, model.graph()), on))
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
