//! Images without labels on which networks are compared: the user's, or ones that are drawn.
use images::{OpenOptions, Unlabelled};
use model::Model;

use crate::error::{Error, Result};
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

/// The data set that needs no download.
pub const EMBEDDED: &str = "embedded";

/// Tells whether a network has the classes of the embedded images.
pub fn is_embedded(model: &Model) -> bool {
    model.info().classes == images::EMBEDDED_CLASSES
}

/// Returns the labelled images to measure on: those that the user names, or the embedded ones for a network of their classes.
///
/// # Errors
/// The user names none for another network.
pub fn labelled<'a>(named: Option<&'a str>, model: &Model) -> Result<&'a str> {
    match named {
        Some(named) => Ok(named),
        None if is_embedded(model) => Ok(EMBEDDED),
        None => Err(Error::usage("no images are named: `--data` is missing").hint(
            "`--data DIR`: a folder with one folder a class, or with a labels file; `dsconv data list` lists others",
        )),
    }
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
