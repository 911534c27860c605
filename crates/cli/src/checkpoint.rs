//! Checkpoints as models. Their network is the one that is named, or the one that their parameters fit.
use std::path::Path;

use graph::{ImageConfig, Preprocess};
use model::{Info, Model};
use zoo::checkpoint::{Assumption, Checkpoint, CheckpointError, describe};

use crate::error::{Error, Result};
use crate::import;
use crate::printer::Printer;

/// A checkpoint: a file, or the bytes of one, which a program has in memory.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The file at a path.
    File(&'a Path),
    /// Bytes, which [`STATE_DICT`] names in messages.
    Bytes(&'a [u8]),
}

/// The name of a checkpoint in memory.
pub const STATE_DICT: &str = "state_dict";

impl Source<'_> {
    fn open(self) -> Result<Checkpoint, CheckpointError> {
        match self {
            Self::File(path) => Checkpoint::open(path),
            Self::Bytes(bytes) => Checkpoint::from_bytes(STATE_DICT, bytes),
        }
    }
}

/// Opens a checkpoint as a network of the zoo. What `given` sets is fixed, and without a name the network is found; classes,
/// width and first layers are the file's. What was found and assumed is said, but of images only what `image` leaves open, and nothing
/// without it.
///
/// # Errors
/// The file is no checkpoint, or its parameters do not fit the network; the network cannot be built.
pub fn open(source: Source<'_>, given: &zoo::Config, image: Option<&ImageConfig>, printer: &Printer) -> Result<Model> {
    let shown = match source {
        Source::File(path) => path,
        Source::Bytes(_) => Path::new(STATE_DICT),
    };
    let shown = shown.display();
    let failed = |error: CheckpointError| {
        if let Some(differences) = error.differences() {
            printer.detail(format!("{shown}: {differences:#}"));
        }
        Error::from(error)
    };
    let checkpoint = source.open().map_err(failed)?;
    let named = !given.name.is_empty();
    let (config, assumed) = match checkpoint.identify(given) {
        Ok(found) => (found.config, found.assumed),
        // The error of loading tells the differences from the network that was named.
        Err(_) if named => (given.clone(), vec![]),
        Err(error) => return Err(failed(error)),
    };
    let graph = zoo::build(&config)?;
    let loaded = checkpoint.load(&graph).map_err(failed)?;

    if !named {
        printer.talk(format!("{shown} is {}, found by its parameters", describe(&config)));
    } else if config.width != given.width || config.classes != given.classes {
        printer.talk(format!("{shown} is {}", describe(&config)));
    }
    let mut preprocess = config.preprocess()?;
    ImageConfig::default().apply(&mut preprocess, graph.input().channels).map_err(Error::failed)?;
    say_assumed(&assumed, &preprocess, named, image, printer);
    loaded.notes.iter().for_each(|note| printer.talk(format!("{shown}: {note}")));
    loaded.choice.iter().for_each(|choice| printer.warn(format!("{shown}: {choice}")));
    loaded.details.iter().for_each(|detail| printer.detail(format!("{shown}: {detail}")));

    let classes = checkpoint.class_names(graph.head().classes()).unwrap_or_default().to_vec();
    let info = Info { preprocess, classes, source: shown.to_string() };
    Ok(Model::float(graph, loaded.weights, info)?)
}

/// Says what was assumed because neither the parameters nor the user tell it.
fn say_assumed(
    assumed: &[Assumption],
    preprocess: &Preprocess,
    named: bool,
    image: Option<&ImageConfig>,
    printer: &Printer,
) {
    let in_words = |assumption: &Assumption| match assumption {
        Assumption::CifarStem => {
            Some("its first convolution is 3x3: of stride 1 and without pooling (--stem cifar)".to_owned())
        }
        // Images are those of the network that was named.
        Assumption::ImageSide(side) => (!named).then(|| format!("images of {side}x{side} (--input)")),
        _ => None,
    };
    let mut told: Vec<String> = assumed.iter().filter_map(in_words).collect();
    if image.is_some_and(|image| !image.says_values()) {
        told.push(format!("{} (--mean, --std, --order, --divide)", import::values(preprocess)));
    }
    if image.is_some_and(|image| !image.says_sizes()) {
        told.extend(import::sizes(preprocess).map(|sizes| format!("images {sizes} (--resize, --crop)")));
    }
    if !told.is_empty() {
        printer.assume(format!("assumed: {}", told.join("; ")));
    }
}
