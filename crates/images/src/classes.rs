//! Matches the labels of images with the outputs of a network.

use std::collections::HashSet;

use crate::names::{Found, all_differ, some_of};
use crate::{ClassNames, ImageError, Labelled};

/// The names of folders that are likely parts of a data set, not classes.
const SPLITS: [&str; 10] =
    ["train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev", "holdout"];

/// The meaning of the labels of a set, before a network is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Labels {
    /// A label is a position in the names of folders, or of a column of a table.
    Named(Named),
    /// A label is an output of a network.
    Outputs,
    /// A label is a position in the class names of a known data set.
    Known,
}

/// Names of classes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named {
    pub(crate) from: Source,
    /// The names in the order of the outputs, where a file beside the folders lists them.
    pub(crate) listed: Option<ClassNames>,
    /// The positions of the folders without images.
    pub(crate) empty: Vec<usize>,
}

/// Where names of classes come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// They are those of class folders.
    Folders {
        /// The folder that contains them.
        root: String,
        /// Whether all images lie in folders of their own inside the class folders.
        deep: bool,
    },
    /// They are those of a column.
    Table {
        /// The file of the table.
        file: String,
    },
}

impl Source {
    /// Returns the folder or the file.
    fn place(&self) -> &str {
        match self {
            Self::Folders { root, .. } => root,
            Self::Table { file } => file,
        }
    }

    /// Returns what has the names, in the singular.
    fn what(&self) -> &'static str {
        match self {
            Self::Folders { .. } => "class folder",
            Self::Table { .. } => "label",
        }
    }
}

/// The names of a network's classes, or how to do without them.
#[derive(Debug, Clone, Copy)]
pub enum Classes<'a> {
    /// The names that the file of the network holds, in the order of its outputs. There may be none.
    OfNetwork(&'a ClassNames),
    /// The names that a user gives, in the order of the outputs.
    Given(&'a ClassNames),
    /// The classes are the class folders in the order of their names, as in torchvision's `ImageFolder`.
    InOrder,
}

/// A set whose labels are outputs of a network.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Matched {
    /// The set. Its class names are those of the network's classes, where they are known.
    pub set: Labelled,
    /// The assumptions that were made, each a line for the user.
    pub notes: Vec<String>,
}

impl Labelled {
    /// Matches the labels with the outputs of a network of `count` classes. A class folder is the class that has its name,
    /// where the classes have names; then not every class needs a folder. Without names, the folders are the classes in the
    /// order of the folders' names, and there must be as many.
    ///
    /// # Errors
    /// [`ImageError::Classes`] where the class of a label cannot be known, or where there is no such class.
    pub fn for_network(&self, count: usize, classes: Classes) -> Result<Matched, ImageError> {
        let (labels, names, notes) = match self.kind() {
            Labels::Named(named) => Match { named, names: self.class_names(), count }.by(classes)?,
            Labels::Known => self.known(count, classes)?,
            Labels::Outputs => (None, given(classes, count)?.shown(), Vec::new()),
        };
        let set = self.relabelled(labels.as_deref(), names);
        match set.labels().iter().position(|&label| label >= count) {
            Some(image) => {
                let (label, last) = (set.labels()[image], count.saturating_sub(1));
                let images = self.without_labels();
                let what = images.file_name(image).map_or_else(|| "it".to_owned(), |name| format!("`{name}`"));
                Err(refused(
                    self.name(),
                    format!("{what} has the label {label}, the network {count} classes: 0 to {last}"),
                    "labels are counted from 0",
                ))
            }
            None => Ok(Matched { set, notes }),
        }
    }

    /// Matches the classes of a known data set, by their names or else by their number.
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

/// The output for each label, or `None` where a label is its output; the names of the classes; the assumptions.
type Relabelling = (Option<Vec<usize>>, Vec<String>, Vec<String>);

/// Returns the names of the classes, or none where they are not known.
///
/// # Errors
/// A user gives another number of names than there are classes.
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

/// The advice for class folders that have the names of ImageNet's synsets.
const SYNSETS_HINT: &str = "they are ImageNet's synsets: `--classes imagenet_class_index.json` (in a config: `classes`) gives each class \
                            both its names, as `n01440764` and `tench`";

/// Tells whether a name is that of a synset, as `n01440764`.
fn is_synset(name: &str) -> bool {
    name.strip_prefix('n').is_some_and(|number| number.len() == 8 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

const NAMES_HINT: &str = "`--classes FILE` (in a config: `classes`) gives the names of the network's classes, one a line in \
                          the order of its outputs";

/// Names of classes and the classes of a network.
struct Match<'a> {
    named: &'a Named,
    names: &'a [String],
    count: usize,
}

impl Match<'_> {
    fn by(&self, classes: Classes) -> Result<Relabelling, ImageError> {
        let mut notes = Vec::new();
        if !self.named.empty.is_empty() {
            let empty = some_of(self.named.empty.iter().map(|&folder| self.names[folder].as_str()));
            notes.push(format!("{}: no images in {empty}", self.named.from.place()));
        }
        let mut names = given(classes, self.count)?;
        let mut by_somebody = matches!(classes, Classes::Given(_));
        if let (Some(listed), false, false) = (&self.named.listed, by_somebody, matches!(classes, Classes::InOrder))
            && (names.is_empty() || self.outputs(&names).is_none())
        {
            names = given(Classes::Given(listed), self.count)?;
            by_somebody = true;
            notes.push(format!("{}: labels.txt gives the order of the classes", self.named.from.place()));
        }
        if !names.is_empty()
            && let Some(outputs) = self.outputs(&names)
        {
            self.note_missing(&outputs, &names.shown(), &mut notes);
            return Ok((Some(outputs), names.shown(), notes));
        }
        self.refuse_splits()?;
        if names.is_empty() {
            self.in_order(matches!(classes, Classes::InOrder), &mut notes)?;
            if !matches!(classes, Classes::InOrder) {
                let order = some_of(self.names.iter().map(String::as_str));
                notes.push(format!(
                    "{}: the network's classes have no names: taken as the {}s in the order of their names: {order}",
                    self.named.from.place(),
                    self.named.from.what()
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
            notes
                .push(format!("{}: the folders are numbers, taken as outputs of the network", self.named.from.place()));
            return Ok((Some(outputs), names.shown(), notes));
        }
        let shown = names.shown();
        let (few, known) = (some_of(unknown.iter().copied()), some_of(shown.iter().map(String::as_str)));
        let reason = if unknown.is_empty() {
            self.shared(&names, &shown)
        } else {
            format!("no class of the network is called {few}: they are {known}")
        };
        let hint =
            if !unknown.is_empty() && unknown.iter().all(|name| is_synset(name)) { SYNSETS_HINT } else { NAMES_HINT };
        Err(self.refused(
            reason,
            match self.names.len() == self.count {
                true => {
                    let what = self.named.from.what();
                    format!("{hint}; `--classes folders` takes the {what}s in the order of their names")
                }
                false => hint.to_owned(),
            },
        ))
    }

    /// Says which class has the name of several folders, or which folder the name of several classes.
    fn shared(&self, names: &ClassNames, shown: &[String]) -> String {
        let what = self.named.from.what();
        let mut before: Vec<(usize, &str)> = Vec::new();
        for name in self.used() {
            match names.find(name) {
                Found::Several => {
                    return format!("several classes of the network are called `{name}`, as one {what} is");
                }
                Found::One(class) => match before.iter().find(|(other, _)| *other == class) {
                    Some((_, first)) => {
                        let class = &shown[class];
                        return format!("the {what}s `{first}` and `{name}` share a name, that of the class `{class}`");
                    }
                    None => before.push((class, name)),
                },
                Found::None => {}
            }
        }
        format!("several {what}s or classes share a name")
    }

    /// Adds a note that names the classes without images.
    fn note_missing(&self, outputs: &[usize], names: &[String], notes: &mut Vec<String>) {
        let with_images = (0..outputs.len()).filter(|folder| !self.named.empty.contains(folder));
        let found: HashSet<usize> = with_images.map(|folder| outputs[folder]).collect();
        let missing: Vec<&str> =
            names.iter().enumerate().filter(|(class, _)| !found.contains(class)).map(|(_, name)| &**name).collect();
        if !missing.is_empty() {
            let (root, few, count) = (self.named.from.place(), some_of(missing.iter().copied()), names.len());
            notes.push(format!("{root}: no images of {} of the network's {count} classes: {few}", missing.len()));
        }
    }

    /// Returns the names of the folders with images.
    fn used(&self) -> impl Iterator<Item = &str> {
        let used = |folder: &usize| !self.named.empty.contains(folder);
        (0..self.names.len()).filter(used).map(|folder| self.names[folder].as_str())
    }

    /// Returns the output of each folder, if every folder with images has the name of a class and no two of the same. The
    /// number of the class may stand before its name, as in `03_ship`, which keeps folders in the order of classes.
    fn outputs(&self, names: &ClassNames) -> Option<Vec<usize>> {
        let numbered = |name: &str| {
            let (number, rest) = name.split_once(['_', '-', ' '])?;
            let class = number.parse().ok()?;
            (names.find(rest) == Found::One(class)).then_some(class)
        };
        let output = |name: &str| if let Found::One(class) = names.find(name) { Some(class) } else { numbered(name) };
        self.spread(self.used().map(output).collect::<Option<Vec<_>>>()?)
    }

    /// Returns the output of each folder, if the names of all folders with images are numbers of outputs.
    fn numbers(&self) -> Option<Vec<usize>> {
        let number = |name: &str| name.parse().ok().filter(|&class: &usize| class < self.count);
        self.spread(self.used().map(number).collect::<Option<Vec<_>>>()?)
    }

    /// Extends the outputs of the folders with images to all folders; `None` if two are the same.
    fn spread(&self, used: Vec<usize>) -> Option<Vec<usize>> {
        if !all_differ(&used) {
            return None;
        }
        let mut used = used.into_iter();
        // No image has the label of an empty folder, so its output does not matter.
        let output = |folder| if self.named.empty.contains(&folder) { 0 } else { used.next().unwrap_or_default() };
        Some((0..self.names.len()).map(output).collect())
    }

    /// Refuses folders such as `train` and `val`.
    fn refuse_splits(&self) -> Result<(), ImageError> {
        let is_split = |name: &str| SPLITS.iter().any(|split| name.eq_ignore_ascii_case(split));
        if self.used().all(is_split) {
            let first = self.used().last().unwrap_or_default();
            let found = some_of(self.used());
            return Err(self.refused(
                format!("{found} look like parts of a data set, not like classes"),
                format!(
                    "the class folders lie one deeper: name one part, such as `{}/{first}`",
                    self.named.from.place()
                ),
            ));
        }
        Ok(())
    }

    /// Checks that there are as many folders as classes, and notes what makes their order doubtful. With `in_order` a user says that they
    /// are the classes.
    fn in_order(&self, in_order: bool, notes: &mut Vec<String>) -> Result<(), ImageError> {
        let (root, what) = (self.named.from.place(), self.named.from.what());
        let deep = matches!(self.named.from, Source::Folders { deep: true, .. });
        let found = self.names.len();
        if found != self.count {
            let folders = format!("{found} {what}{}", if found == 1 { "" } else { "s" });
            let names = some_of(self.names.iter().map(String::as_str));
            let unnamed = if in_order { "" } else { " without names" };
            let reason = format!("{folders} ({names}), the network has {} classes{unnamed}", self.count);
            let deeper = self.used().next().filter(|_| deep);
            return Err(self.refused(
                reason,
                match deeper {
                    Some(first) => format!("all images lie one folder deeper: perhaps `{root}/{first}` is meant"),
                    None if self.used().all(is_synset) => SYNSETS_HINT.to_owned(),
                    None => format!("which {what} is which class cannot be known: {NAMES_HINT}"),
                },
            ));
        }
        if deep {
            notes.push(format!("{root}: all images lie in folders inside the class folders: are those the classes?"));
        }
        let numbers: Option<Vec<usize>> = self.names.iter().map(|name| name.parse().ok()).collect();
        if numbers.is_some_and(|numbers| !numbers.is_sorted()) {
            // The second and the third folder, or the only two.
            let class = 1.min(self.names.len() - 2);
            notes.push(format!(
                "{root}: the {what}s are numbers, and sorted as words, as torchvision sorts them: \
                 `{}` is class {class}, `{}` class {}",
                self.names[class],
                self.names[class + 1],
                class + 1
            ));
        }
        Ok(())
    }

    fn refused(&self, reason: String, hint: String) -> ImageError {
        refused(self.named.from.place(), reason, hint)
    }
}
