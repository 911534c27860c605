//! Images without labels on which networks are compared: the user's, or ones that are drawn.
use images::{OpenOptions, Unlabelled};
use model::Model;

use crate::error::Result;
use crate::printer::Printer;
use crate::{classes, places};

/// Opens at most `count` images for a model, spread over the set that the user names; without one, draws pictures of this seed.
///
/// # Errors
/// There are no images of that name, or they cannot be read.
pub fn open(spec: Option<&str>, count: usize, seed: u64, model: &Model, printer: &Printer) -> Result<Unlabelled> {
    let preprocess = model.preprocess();
    let Some(spec) = spec else {
        let input = model.graph().input();
        return Ok(images::generated(count, seed, &preprocess, [input.height, input.width]));
    };
    let options = OpenOptions { limit: Some(count), datasets: places::datasets(), ..OpenOptions::default() };
    let set = images::open_unlabelled(spec, &preprocess, &options)?;
    classes::report(&set, printer);
    Ok(set)
}

/// Tells whether a set of this name was drawn.
pub fn are_drawn(set: &str) -> bool {
    set.starts_with("generated/")
}

/// Says which images these are: `8 drawn pictures`, `8 images of photos`.
pub fn described(count: usize, set: &str) -> String {
    match are_drawn(set) {
        true => format!("{count} drawn pictures"),
        false => format!("{count} images of {set}"),
    }
}
