//! Quantizing with images: layers are fitted to the float network's, and what that won is measured on images held out.
use distill::evaluate::predict;
use distill::{Context, FittedLayer, LayerFit, Scores};
use dsconv::Network;
use graph::Folded;
use images::Unlabelled;
use model::{Model, Plan};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::pictures;
use crate::printer::Printer;

/// The most images that are held out.
const MOST_HELD_OUT: usize = 64;
/// The seed of which images are held out, and which pixels are looked at.
const SEED: u64 = 0;

/// The images to fit layers on.
#[derive(Debug, Clone)]
pub struct FitImages {
    /// The images: a data set, a folder or files.
    pub data: String,
    /// The most of them that are used, spread over the set.
    pub count: usize,
}

/// What a fit did.
#[derive(Debug, Serialize)]
pub struct FitOutcome {
    images: String,
    /// The number of images that layers were fitted on.
    count: usize,
    /// The network by its scale rule alone, and as fitted, on images held out; `None` where there were too few.
    held_out: Option<HeldOut>,
    layers: Vec<FittedLayer>,
}

/// What was measured on images held out.
#[derive(Debug, Serialize)]
struct HeldOut {
    count: usize,
    before: Scores,
    after: Scores,
}

/// Fits the layers of a folded network on images. `plain` is the network as its scale rule alone quantizes it.
///
/// # Errors
/// The images cannot be opened or do not fit the network; the user interrupts it.
pub fn fit(
    options: &FitImages,
    folded: &Folded,
    plan: &Plan,
    plain: &Model,
    context: &Context,
    printer: &Printer,
) -> Result<(Model, FitOutcome)> {
    let info = plain.info();
    let set = pictures::open(Some(&options.data), options.count, SEED, plain, printer)?;
    let (images, held) = set.split(MOST_HELD_OUT.min(set.len() / 8), SEED);
    let bare = folded.clone().without_head();
    let job = LayerFit { teacher: &bare, weights: bare.weights(), plan, images: &images, seed: SEED };
    let fitted = job.run(context)?;
    let layers = fitted.report().to_vec();
    let found = fitted.into_model(&job, info.clone()).map_err(Error::usage)?;
    let (_, weights, quantized, _) = found.into_parts();
    let fitted = Model::new((**folded.graph()).clone(), weights, quantized, info.clone()).map_err(Error::usage)?;
    let held_out = match held.is_empty() {
        true => None,
        false => Some(measure(folded, plain, &fitted, &held, context)?),
    };
    let outcome = FitOutcome { images: set.name().to_owned(), count: images.len(), held_out, layers };
    Ok((fitted, outcome))
}

fn measure(folded: &Folded, plain: &Model, fitted: &Model, held: &Unlabelled, context: &Context) -> Result<HeldOut> {
    let teacher = Network::trainable(folded.graph(), folded.weights(), &context.device);
    let [before, after] = [plain, fitted].map(|model| Network::new(model, &context.device));
    let logits = predict("compare on images held out", &[&teacher, &before, &after], held, context)?;
    let of = |network: usize| logits[network].scores(None, &logits[0]);
    Ok(HeldOut { count: logits[0].len(), before: of(1), after: of(2) })
}

/// Says what the fit won.
pub fn show(outcome: &FitOutcome, printer: &Printer) {
    printer.line(format!("layers fitted on {} images of {}", outcome.count, outcome.images));
    for layer in &outcome.layers {
        printer.detail(format!(
            "{}: {:.1} -> {:.1} dB on {} pixels of {} images",
            layer.layer,
            layer.before_db.unwrap_or(f64::INFINITY),
            layer.after_db.unwrap_or(f64::INFINITY),
            layer.pixels,
            layer.images
        ));
    }
    let Some(HeldOut { count, before, after }) = &outcome.held_out else {
        printer.line("fewer than 8 images: none was held out to measure what that wins");
        return;
    };
    let decibels = |scores: &Scores| scores.sqnr_db.map_or("no difference".to_owned(), |db| format!("{db:.1} dB"));
    printer.line(format!(
        "{count} images held out: same class as the float network {:.1} -> {:.1} %, SQNR of the logits {} -> {}",
        before.agreement,
        after.agreement,
        decibels(before),
        decibels(after)
    ));
}
