//! Images without labels on which networks are compared: the user's, or ones that are drawn.
use std::path::PathBuf;
use std::sync::Arc;

use images::{OpenOptions, Picture, Unlabelled};
use model::Model;

use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::table::counted;
use crate::{classes, places};

/// The images that a user gives.
#[derive(Debug, Clone)]
pub enum GivenImages {
    /// Images by a name or a path: a data set, a folder, a CIFAR file.
    Named(String),
    /// Image files.
    Files(Vec<PathBuf>),
    /// Decoded pictures.
    Pictures(Arc<[Picture]>),
    /// Inputs of the network, `[N, C, H, W]`.
    Inputs(Arc<Vec<f32>>, [usize; 4]),
}

/// Opens at most `count` images for a model, spread over those that the user gives; without any, draws pictures of this seed.
///
/// # Errors
/// There are no images of that name, they cannot be read, or they do not fit the model.
pub fn open(
    given: Option<&GivenImages>,
    count: usize,
    seed: u64,
    model: &Model,
    printer: &Printer,
) -> Result<Unlabelled> {
    let preprocess = model.preprocess();
    let input = model.graph().input();
    let Some(given) = given else {
        return Ok(images::generated(count, seed, &preprocess, [input.height, input.width]));
    };
    let options = OpenOptions { limit: Some(count), datasets: places::datasets(), ..OpenOptions::default() };
    let set = match given {
        GivenImages::Named(spec) => images::open_unlabelled(spec, &preprocess, &options)?,
        GivenImages::Files(paths) => images::open_files(paths, &preprocess, &options)?,
        GivenImages::Pictures(pictures) => images::open_pictures(pictures, &preprocess, &options)?,
        GivenImages::Inputs(values, shape) => {
            let [_, channels, height, width] = *shape;
            if [channels, height, width] != [input.channels, input.height, input.width] {
                return Err(Error::usage(format!(
                    "the inputs have the shape {shape:?}: expected [N, {}, {}, {}]",
                    input.channels, input.height, input.width
                )));
            }
            images::open_inputs(values.clone(), *shape, &preprocess, &options)?
        }
    };
    classes::report(&set, printer);
    Ok(set)
}

/// Checks that images which the user names are there, without decoding them.
///
/// # Errors
/// There are none of that name, or they cannot be listed.
pub fn check(given: &GivenImages) -> Result<()> {
    match given {
        GivenImages::Named(spec) => {
            let options = OpenOptions { datasets: places::datasets(), ..OpenOptions::default() };
            Ok(images::check_unlabelled(spec, &options)?)
        }
        GivenImages::Files(_) | GivenImages::Pictures(_) | GivenImages::Inputs(..) => Ok(()),
    }
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
    set == images::DRAWN
}

/// Tells whether a set of this name was drawn, or made of drawn pictures by a network.
pub fn are_made(set: &str) -> bool {
    are_drawn(set) || set == distill::SYNTHETIC
}

/// Says which images these are: `8 drawn pictures`, `8 images of photos`, `8 given inputs`.
pub fn described(count: usize, set: &str) -> String {
    match are_made(set) {
        true => counted(count, set.trim_end_matches('s')),
        false if set.starts_with("given ") => format!("{count} {set}"),
        false => format!("{} of {set}", counted(count, "image")),
    }
}
