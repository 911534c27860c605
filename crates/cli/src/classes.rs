//! Names of classes, which the user gives, a model has, or class folders tell; and what there is to say of opened images.
use std::path::Path;

use graph::{Preprocess, Shape};
use images::{ClassNames, Classes, Labelled, Matched, Unlabelled};
use model::Model;

use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::table::counted;

/// The word by which a user says that the classes are the class folders.
const FOLDERS: &str = "folders";

/// The names of a network's classes, as the user gives them.
#[derive(Debug, Clone)]
pub enum GivenClasses {
    /// The user says nothing: the names in the file of the network count.
    Nothing,
    /// The classes are the class folders, in the order of their names.
    Folders,
    /// The user gives their names.
    Names(ClassNames),
}

impl GivenClasses {
    /// Reads the file that `--classes` or a config names.
    ///
    /// # Errors
    /// The file is not there, or is no list of names.
    pub fn read(given: Option<&Path>) -> Result<Self> {
        match given {
            None => Ok(Self::Nothing),
            Some(path) if path == Path::new(FOLDERS) && !path.is_file() => Ok(Self::Folders),
            Some(path) => ClassNames::read(path).map(Self::Names).map_err(|error| Error::from(error).into_usage()),
        }
    }

    /// Gives a model the names, and says which of them several classes have.
    ///
    /// # Errors
    /// There are more or fewer names than classes.
    pub fn name(&self, model: &mut Model, printer: &Printer) -> Result<()> {
        let Self::Names(names) = self else { return Ok(()) };
        let head = model.graph().head();
        if names.len() != head.classes() && !(head.is_binary() && names.len() == 1) {
            let (name, count) = (model.graph().name(), head.classes());
            let (given, classes) = (counted(names.len(), "class name"), counted(count, "class"));
            let verb = if names.len() == 1 { "is" } else { "are" };
            return Err(Error::usage(format!("{given} {verb} given, `{name}` has {classes}"))
                .hint("one name for each output, in their order"));
        }
        let shown = names.shown();
        for (class, name) in shown.iter().enumerate() {
            if let Some(before) = shown[..class].iter().position(|other| other == name) {
                printer.talk(format!(
                    "classes {before} and {class} are both called `{name}`: only their numbers tell them apart"
                ));
            }
        }
        model.info_mut().classes = shown;
        Ok(())
    }

    /// Labels images with the outputs of a model, and says what was assumed.
    ///
    /// # Errors
    /// It cannot be known which class a folder or a label means.
    pub fn labelled(&self, set: &Labelled, model: &Model, printer: &Printer) -> Result<Labelled> {
        let head = model.graph().head();
        let own = ClassNames::from(head.names(&model.info().classes).as_slice());
        let classes = match self {
            Self::Nothing => Classes::OfNetwork(&own),
            Self::Folders => Classes::InOrder,
            Self::Names(names) if names.len() == head.classes() => Classes::Given(names),
            Self::Names(_) => Classes::Given(&own),
        };
        let Matched { set, notes, .. } = set.for_network(head.classes(), classes)?;
        notes.iter().for_each(|note| printer.warn(note));
        Ok(set)
    }
}

/// Names the files that could not be read, and says what in a folder is not as one may think.
pub fn report(set: &Unlabelled, printer: &Printer) {
    report_late(set, 0, printer);
    set.notes().iter().for_each(|note| printer.warn(note));
}

/// Names the files of a large set that were found bad as they were used; the first `known` were named before.
pub fn report_late(set: &Unlabelled, known: usize, printer: &Printer) {
    let skipped = set.skipped();
    let found = skipped.get(known..).unwrap_or_default();
    for file in found.iter().take(5) {
        printer.warn(format!("{}: {}: left out", file.path.display(), file.reason));
    }
    if found.len() > 5 {
        printer.warn(format!("and {} left out", counted(found.len() - 5, "more file")));
    }
}

/// Says that images were resized, where neither the file of the model nor an option says how.
pub fn report_resized(set: &Unlabelled, said: &Preprocess, input: Shape, printer: &Printer) {
    if said.resize.is_some() || said.crop.is_some() {
        return;
    }
    if let Some((name, [height, width])) = set.resized() {
        let how = if input.height == input.width { "the shorter side, then the middle" } else { "both sides" };
        printer.talk(format!(
            "{name} is {width} wide and {height} high: images are resized to {} and {}, {how} (--resize, --crop)",
            input.width, input.height
        ));
    }
}
