//! Which output of a network an image's label means.

use std::collections::HashSet;

use crate::names::{Found, all_differ, some_of};
use crate::{ClassNames, ImageError, Labelled};

/// Folders that hold splits of a data set more likely than classes.
const SPLITS: [&str; 10] =
    ["train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev", "holdout"];

/// What labels of a set are, before a network is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Labels {
    /// Positions in the names of the folders.
    Folders(Folders),
    /// Outputs of a network.
    Outputs,
    /// Positions in the names of a known data set.
    Known,
}

/// Class folders.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Folders {
    /// Where they lie.
    pub(crate) root: String,
    /// Names in the order of the outputs, where a file beside the folders lists them.
    pub(crate) listed: Option<ClassNames>,
    /// Which folders have no image.
    pub(crate) empty: Vec<usize>,
    /// Whether all images lie in folders of their own inside the class folders.
    pub(crate) deep: bool,
}

/// What is known of a network's classes.
#[derive(Debug, Clone, Copy)]
pub enum Classes<'a> {
    /// Their names, in the order of the outputs; as the network's file says, so none may be known.
    OfNetwork(&'a ClassNames),
    /// Their names, in the order of the outputs, as somebody says who knows.
    Given(&'a ClassNames),
    /// They are the class folders in the order of their names, as in torchvision's `ImageFolder`.
    InOrder,
}

/// A set whose labels are outputs of a network.
#[derive(Debug, Clone)]
pub struct Matched {
    /// The set; its names are those of the classes, where they are known.
    pub set: Labelled,
    /// What was assumed.
    pub notes: Vec<String>,
}

impl Labelled {
    /// The set for a network of `count` classes. Class folders mean the class of their name where the classes have names;
    /// there may then be folders of some of them only. Else they are the classes in the order of their names, and there must
    /// be as many.
    ///
    /// # Errors
    /// [`ImageError::Classes`] where it cannot be known which class a label means.
    pub fn for_network(&self, count: usize, classes: Classes) -> Result<Matched, ImageError> {
        let (labels, names, notes) = match self.kind() {
            Labels::Folders(folders) => Match { folders, names: self.class_names(), count }.by(classes)?,
            Labels::Known => self.known(count, classes)?,
            Labels::Outputs => (None, given(classes, count)?.shown(), Vec::new()),
        };
        let set = self.relabelled(labels.as_deref(), names);
        match set.labels().iter().find(|&&label| label >= count) {
            Some(label) => Err(refused(
                self.name(),
                format!("it has the label {label}, the network {count} classes: 0 to {}", count - 1),
                "labels are counted from 0",
            )),
            None => Ok(Matched { set, notes }),
        }
    }

    /// A data set whose labels have a meaning of their own.
    fn known(&self, count: usize, classes: Classes) -> Result<Relabelling, ImageError> {
        let names = given(classes, count)?;
        let found: Option<Vec<usize>> = self
            .class_names()
            .iter()
            .map(|name| if let Found::One(class) = names.find(name) { Some(class) } else { None })
            .collect();
        match found {
            Some(found) if !found.is_empty() && all_differ(&found) => Ok((Some(found), names.shown(), Vec::new())),
            _ if self.class_names().is_empty() || self.class_names().len() == count => {
                let shown = if names.is_empty() { self.class_names().to_vec() } else { names.shown() };
                Ok((None, shown, Vec::new()))
            }
            _ => Err(refused(
                self.name(),
                format!("it has {} classes, the network {count}", self.class_names().len()),
                "it is evaluated on images of its own classes",
            )),
        }
    }
}

/// The output of each name, `None` where a label is its output; the classes' names; what was assumed.
type Relabelling = (Option<Vec<usize>>, Vec<String>, Vec<String>);

/// # Errors
/// Another number of names than of classes.
fn given(classes: Classes, count: usize) -> Result<ClassNames, ImageError> {
    match classes {
        Classes::Given(names) if names.len() != count => Err(refused(
            "class names",
            format!("there are {}, the network has {count} classes", names.len()),
            "one name for each output, in their order",
        )),
        Classes::Given(names) | Classes::OfNetwork(names) if names.len() == count => Ok(names.clone()),
        _ => Ok(ClassNames::default()),
    }
}

fn refused(set: &str, reason: String, hint: impl Into<String>) -> ImageError {
    ImageError::Classes { set: set.to_owned(), reason, hint: hint.into() }
}

const NAMES_HINT: &str = "`--classes FILE` (in a config: `classes`) gives the names of the network's classes, one a line in \
                          the order of its outputs";

/// Class folders and the classes of a network.
struct Match<'a> {
    folders: &'a Folders,
    names: &'a [String],
    count: usize,
}

impl Match<'_> {
    fn by(&self, classes: Classes) -> Result<Relabelling, ImageError> {
        let mut notes = Vec::new();
        if !self.folders.empty.is_empty() {
            let empty = some_of(self.folders.empty.iter().map(|&folder| self.names[folder].as_str()));
            notes.push(format!("{}: no images in {empty}", self.folders.root));
        }
        let mut names = given(classes, self.count)?;
        let mut by_somebody = matches!(classes, Classes::Given(_));
        if let (Some(listed), false, false) = (&self.folders.listed, by_somebody, matches!(classes, Classes::InOrder))
            && (names.is_empty() || self.outputs(&names).is_none())
        {
            names = given(Classes::Given(listed), self.count)?;
            by_somebody = true;
            notes.push(format!("{}: labels.txt gives the order of the classes", self.folders.root));
        }
        if !names.is_empty()
            && let Some(outputs) = self.outputs(&names)
        {
            self.note_missing(&outputs, &names.shown(), &mut notes);
            return Ok((Some(outputs), names.shown(), notes));
        }
        self.refuse_splits()?;
        if names.is_empty() {
            self.in_order(&mut notes)?;
            if !matches!(classes, Classes::InOrder) {
                let order = some_of(self.names.iter().map(String::as_str));
                notes.push(format!(
                    "{}: the network's classes have no names: taken as the folders in the order of theirs: {order}",
                    self.folders.root
                ));
            }
            return Ok((None, self.names.to_vec(), notes));
        }
        let unknown = self.used().filter(|&name| names.find(name) == Found::None);
        let unknown: Vec<&str> = unknown.collect();
        if !by_somebody
            && unknown.len() == self.used().count()
            && let Some(outputs) = self.numbers()
        {
            notes.push(format!("{}: the folders are numbers, taken as outputs of the network", self.folders.root));
            return Ok((Some(outputs), names.shown(), notes));
        }
        let shown = names.shown();
        let (few, known) = (some_of(unknown.iter().copied()), some_of(shown.iter().map(String::as_str)));
        let reason = if unknown.is_empty() {
            "several folders or classes share a name".to_owned()
        } else {
            format!("no class of the network is called {few}: they are {known}")
        };
        Err(self.refused(
            reason,
            format!("{NAMES_HINT}; `--classes folders` takes the folders in the order of their names"),
        ))
    }

    /// Says which classes have no folder.
    fn note_missing(&self, outputs: &[usize], names: &[String], notes: &mut Vec<String>) {
        let with_images = (0..outputs.len()).filter(|folder| !self.folders.empty.contains(folder));
        let found: HashSet<usize> = with_images.map(|folder| outputs[folder]).collect();
        let missing: Vec<&str> =
            names.iter().enumerate().filter(|(class, _)| !found.contains(class)).map(|(_, name)| &**name).collect();
        if !missing.is_empty() {
            let (root, few, count) = (&self.folders.root, some_of(missing.iter().copied()), names.len());
            notes.push(format!("{root}: no images of {} of the network's {count} classes: {few}", missing.len()));
        }
    }

    /// Names of the folders that hold images.
    fn used(&self) -> impl Iterator<Item = &str> {
        let used = |folder: &usize| !self.folders.empty.contains(folder);
        (0..self.names.len()).filter(used).map(|folder| self.names[folder].as_str())
    }

    /// The output of each folder, if all that hold images have the name of a class, each of another one. A name may have the
    /// number of its class before it, as in `03_ship`: that keeps the order of classes in folders.
    fn outputs(&self, names: &ClassNames) -> Option<Vec<usize>> {
        let numbered = |name: &str| {
            let (number, rest) = name.split_once(['_', '-', ' '])?;
            let class = number.parse().ok()?;
            (names.find(rest) == Found::One(class)).then_some(class)
        };
        let output = |name: &str| if let Found::One(class) = names.find(name) { Some(class) } else { numbered(name) };
        self.spread(self.used().map(output).collect::<Option<Vec<_>>>()?)
    }

    /// The same, if all are numbers of outputs.
    fn numbers(&self) -> Option<Vec<usize>> {
        let number = |name: &str| name.parse().ok().filter(|&class: &usize| class < self.count);
        self.spread(self.used().map(number).collect::<Option<Vec<_>>>()?)
    }

    /// Outputs of the folders that hold images to outputs of all.
    fn spread(&self, used: Vec<usize>) -> Option<Vec<usize>> {
        if !all_differ(&used) {
            return None;
        }
        let mut used = used.into_iter();
        // No image has the label of an empty folder.
        let output = |folder| if self.folders.empty.contains(&folder) { 0 } else { used.next().unwrap_or_default() };
        Some((0..self.names.len()).map(output).collect())
    }

    fn refuse_splits(&self) -> Result<(), ImageError> {
        let is_split = |name: &str| SPLITS.iter().any(|split| name.eq_ignore_ascii_case(split));
        if self.used().all(is_split) {
            let first = self.used().last().unwrap_or_default();
            let found = some_of(self.used());
            return Err(self.refused(
                format!("{found} look like parts of a data set, not like classes"),
                format!("the class folders lie one deeper: name one part, such as `{}/{first}`", self.folders.root),
            ));
        }
        Ok(())
    }

    /// As many folders as classes, in their order.
    fn in_order(&self, notes: &mut Vec<String>) -> Result<(), ImageError> {
        let Folders { root, deep, .. } = self.folders;
        let found = self.names.len();
        if found != self.count {
            let folders = if found == 1 { "1 class folder".to_owned() } else { format!("{found} class folders") };
            let names = some_of(self.names.iter().map(String::as_str));
            let reason = format!("{folders} ({names}), the network has {} classes without names", self.count);
            let deeper = self.used().next().filter(|_| *deep);
            return Err(self.refused(
                reason,
                match deeper {
                    Some(first) => format!("all images lie one folder deeper: perhaps `{root}/{first}` is meant"),
                    None => format!("which folder is which class cannot be known: {NAMES_HINT}"),
                },
            ));
        }
        if *deep {
            notes.push(format!("{root}: all images lie in folders inside the class folders: are those the classes?"));
        }
        let numbers: Option<Vec<usize>> = self.names.iter().map(|name| name.parse().ok()).collect();
        if numbers.is_some_and(|numbers| !numbers.is_sorted()) {
            notes.push(format!(
                "{root}: the folders are numbers, and sorted as words, as torchvision sorts them: `{}` is class 1, `{}` class 2",
                self.names[1], self.names[2]
            ));
        }
        Ok(())
    }

    fn refused(&self, reason: String, hint: String) -> ImageError {
        refused(&self.folders.root, reason, hint)
    }
}
