//! Quantizing with images: layers are fitted to the float network's, and what that won is measured on images held out.
use distill::evaluate::predict;
use distill::{Context, FittedLayer, LayerFit, Scores};
use dsconv::Network;
use graph::{Folded, Preprocess};
use images::Unlabelled;
use model::{Model, Plan};
use report::Item;
use serde::Serialize;

use crate::error::Result;
use crate::pictures::{self, GivenImages};
use crate::printer::Printer;
use crate::progress;
use crate::table::{counted, decibels};

/// The most images that are held out.
const MOST_HELD_OUT: usize = 64;
/// The seed of which images are held out, which pixels are looked at, and of drawn pictures; the verdict draws others.
const SEED: u64 = 0;

/// The images to fit layers on. Few given ones are joined by drawn pictures.
#[derive(Debug, Clone)]
pub enum FitImages {
    /// None: the scale rule alone decides.
    None,
    /// This many pictures that are drawn.
    Drawn(usize),
    /// This many pictures that the float network makes of drawn ones.
    Synthetic(usize),
    /// Pictures of those kinds that are there already.
    Made(Unlabelled),
    /// Images that the user gives, at most so many, spread over them.
    Given(GivenImages, usize),
}

impl FitOutcome {
    /// Returns the percentage of images held out for which the network names the float network's class; `None` where there were too
    /// few for that to mean much.
    pub fn agreement(&self) -> Option<f64> {
        self.held_out.as_ref().filter(|held| held.count >= 12).map(|held| held.after.agreement)
    }

    /// Tells whether layers were fitted on pictures that were made, alone or beside others.
    pub fn is_on_made(&self) -> bool {
        self.drawn > 0 || pictures::are_made(&self.images)
    }

    /// Warns where drawn pictures join few given images: who only gets the network may not know.
    pub fn warn(&self, printer: &Printer) {
        if self.drawn > 0 {
            let (images, drawn) = (counted(self.count, "image"), counted(self.drawn, "drawn picture"));
            printer.warn(format!("only {images} to fit layers on: {drawn} join them"));
        }
    }

    /// Says which images layers were fitted on.
    pub fn described(&self) -> String {
        let images = pictures::described(self.count, &self.images);
        if self.drawn == 0 {
            images
        } else {
            format!("{images}, and {} beside them", counted(self.drawn, "drawn picture"))
        }
    }
}

impl FitImages {
    /// The number of pictures that are made where none is asked for.
    pub const MADE: usize = 32;
    /// The most given images where no number is asked for.
    pub const GIVEN: usize = 128;

    /// Checks that images which the user names are there, without reading them.
    ///
    /// # Errors
    /// There are none of that name.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Given(given, _) => pictures::check(given),
            Self::None | Self::Drawn(_) | Self::Synthetic(_) | Self::Made(_) => Ok(()),
        }
    }

    /// Opens the images for finding the ranges of values: those that layers are fitted on, or drawn ones where none are given.
    ///
    /// # Errors
    /// There are no images of that name, or they cannot be read.
    pub fn calibration(&self, model: &Model, printer: &Printer) -> Result<Unlabelled> {
        match self {
            Self::None => pictures::open(None, Self::MADE, SEED, model, printer),
            Self::Drawn(count) | Self::Synthetic(count) => pictures::open(None, *count, SEED, model, printer),
            Self::Made(set) => Ok(set.clone()),
            Self::Given(spec, count) => pictures::open(Some(spec), *count, SEED, model, printer),
        }
    }

    /// Makes pictures, if none are given, for a folded float network whose input `preprocess` describes: once for those who fit several
    /// times.
    ///
    /// # Errors
    /// The network takes no pictures; the user interrupts it.
    pub fn made(
        &self,
        folded: &Folded,
        preprocess: &Preprocess,
        context: &Context,
    ) -> std::result::Result<Self, distill::Error> {
        let input = folded.graph().input();
        Ok(match *self {
            Self::Drawn(count) => Self::Made(images::generated(count, SEED, preprocess, [input.height, input.width])),
            Self::Synthetic(count) => Self::Made(distill::synthetic(folded, preprocess, count, SEED, context)?),
            _ => self.clone(),
        })
    }
}

/// What a fit did.
#[derive(Debug, Serialize)]
pub struct FitOutcome {
    images: String,
    /// The number of images that layers were fitted on.
    count: usize,
    /// The number of drawn pictures that few given images were joined by.
    drawn: usize,
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

/// A network whose layers were fitted.
pub struct Fit {
    /// The network.
    pub model: Model,
    /// What the fit did.
    pub outcome: FitOutcome,
    /// The images that were held out of it.
    pub held: Option<Unlabelled>,
}

/// Fits the layers of a folded network on images; `None` where there are none to fit on. `plain` is the network as its scale
/// rule alone quantizes it.
///
/// # Errors
/// The images cannot be opened or do not fit the network; the user interrupts it.
pub fn fit(
    images: &FitImages,
    folded: &Folded,
    plan: &Plan,
    plain: &Model,
    context: &Context,
    printer: &Printer,
) -> Result<Option<Fit>> {
    let fit = |[given, synthetic, drawn]: [Option<&Unlabelled>; 3]| -> std::result::Result<_, distill::Error> {
        let job = LayerFit { teacher: folded, weights: folded.weights(), plan, given, drawn, synthetic, seed: SEED };
        let fitted = job.run(context)?;
        let layers = fitted.report().to_vec();
        Ok((fitted.into_model(&job, plain.info().clone())?, layers))
    };
    // Without images of the user's, the scale rule alone will do where nothing can be fitted.
    let unless_fitted = |error| match error {
        distill::Error::Interrupted { .. } => Err(progress::stopped()),
        error => {
            printer.warn(format!("layers are not fitted, the scale rule alone decides: {error}"));
            Ok(None)
        }
    };
    let made = match images.made(folded, &plain.preprocess(), context) {
        Ok(made) => made,
        Err(error) => return unless_fitted(error),
    };
    match made {
        FitImages::None => Ok(None),
        FitImages::Made(set) => {
            let sets =
                if pictures::are_drawn(set.name()) { [None, None, Some(&set)] } else { [None, Some(&set), None] };
            let (fitted, layers) = match fit(sets) {
                Ok(found) => found,
                Err(error) => return unless_fitted(error),
            };
            let (name, count) = (set.name().to_owned(), set.len());
            let outcome = FitOutcome { images: name, count, drawn: 0, held_out: None, layers };
            Ok(Some(Fit { model: fitted, outcome, held: None }))
        }
        FitImages::Drawn(_) | FitImages::Synthetic(_) => unreachable!("they were made"),
        FitImages::Given(given, count) => {
            let set = pictures::open(Some(&given), count, SEED, plain, printer)?;
            let (images, held) = set.split(MOST_HELD_OUT.min(set.len() / 8), SEED);
            let drawn = LayerFit::drawn_beside(images.len(), SEED, plain);
            let (fitted, layers) = fit([Some(&images), None, drawn.as_ref()])?;
            let held_out = match held.is_empty() {
                true => None,
                false => Some(measure(folded, plain, &fitted, &held, context)?),
            };
            let (name, drawn) = (set.name().to_owned(), drawn.map_or(0, |drawn| drawn.len()));
            let outcome = FitOutcome { images: name, count: images.len(), drawn, held_out, layers };
            Ok(Some(Fit { model: fitted, outcome, held: (!held.is_empty()).then_some(held) }))
        }
    }
}

fn measure(folded: &Folded, plain: &Model, fitted: &Model, held: &Unlabelled, context: &Context) -> Result<HeldOut> {
    let teacher = Network::trainable(folded.graph(), folded.weights(), &context.device);
    let [before, after] = [plain, fitted].map(|model| Network::new(model, &context.device));
    let logits = predict("compare on images held out", &[&teacher, &before, &after], held, context)?;
    let of = |network: usize| logits[network].scores(None, &logits[0]);
    Ok(HeldOut { count: logits[0].len(), before: of(1), after: of(2) })
}

/// What the fit won in the network and in each layer, for a page.
pub fn before_and_after(outcome: &FitOutcome) -> Item {
    let mut table = report::Table::new(["fitted", "by its rule, dB", "fitted, dB", "pixels", "images"]);
    if let Some(HeldOut { count, before, after }) = &outcome.held_out {
        let (before, after) = (decibels(before.sqnr_db), decibels(after.sqnr_db));
        table.row(["logits of images held out".to_owned(), before, after, String::new(), count.to_string()]);
    }
    for layer in &outcome.layers {
        let (before, after) = (decibels(layer.before_db), decibels(layer.after_db));
        table.row([layer.layer.clone(), before, after, layer.pixels.to_string(), layer.images.to_string()]);
    }
    Item::Table(table)
}

/// Says what the fit won.
pub fn show(outcome: &FitOutcome, printer: &Printer) {
    printer.line(format!("layers fitted on {}", outcome.described()));
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
    let Some(HeldOut { count, before, after }) = &outcome.held_out else { return };
    let decibels = |scores: &Scores| scores.sqnr_db.map_or("no difference".to_owned(), |db| format!("{db:.1} dB"));
    printer.line(format!(
        "{} held out: same class as the float network {:.1} -> {:.1} %, SQNR of the logits {} -> {}",
        counted(*count, "image"),
        before.agreement,
        after.agreement,
        decibels(before),
        decibels(after)
    ));
}
