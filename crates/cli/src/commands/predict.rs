//! `dsconv predict`: images are classified.
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use distill::evaluate::predict;
use graph::{Head, Outputs};
use images::{ImageError, OpenOptions};
use model::Model;
use serde::Serialize;

use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::models::{self, ModelSpec};
use crate::printer::{Printer, lossy};
use crate::table::{Table, counted};
use crate::{classes, device, engine, progress};

/// The images to classify, and how.
#[derive(Debug, Clone)]
pub struct PredictOptions {
    /// The model.
    pub model: ModelSpec,
    /// The files, and folders of files.
    pub images: Vec<PathBuf>,
    /// The most classes to show.
    pub top: usize,
    /// Whether the outputs of the network are shown too.
    pub logits: bool,
    /// Whether a `.dsc` file runs in the simulation, not in the integer engine.
    pub simulate: bool,
    /// The device to compute on.
    pub device: Option<DeviceName>,
}

/// The classes of one image.
#[derive(Debug, Serialize)]
struct Prediction {
    #[serde(serialize_with = "lossy")]
    image: PathBuf,
    /// What the probabilities are.
    probabilities: Probabilities,
    /// The likeliest classes, best first.
    top: Vec<Class>,
    /// The outputs of the network as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<Vec<f32>>,
}

/// What became of an image.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Entry {
    Read(Prediction),
    /// It could not be read.
    Unread {
        #[serde(serialize_with = "lossy")]
        image: PathBuf,
        /// The reason.
        error: String,
    },
}

impl Entry {
    fn prediction(&self) -> Option<&Prediction> {
        match self {
            Self::Read(prediction) => Some(prediction),
            Self::Unread { .. } => None,
        }
    }

    fn unread(file: &Path, reasons: &HashMap<PathBuf, String>) -> Self {
        let error = reasons.get(file).cloned().unwrap_or_else(|| "it could not be read".to_owned());
        Self::Unread { image: file.to_owned(), error }
    }
}

/// A class and how likely it is.
#[derive(Debug, Serialize)]
struct Class {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The probability, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f64>,
    /// The output, where no probability follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f32>,
}

/// How probabilities follow from the outputs of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Probabilities {
    /// One class is right: the probabilities sum to 1.
    Softmax,
    /// One output tells two classes apart: their probabilities sum to 1.
    Sigmoid,
    /// Several classes can be right: each probability stands for itself.
    SigmoidOfEach,
    /// No probability follows from the outputs, which are shown as they are.
    Values,
}

impl Probabilities {
    fn of(head: Head) -> Self {
        match head.is_multi_label() {
            true => Self::SigmoidOfEach,
            false if head.outputs == Outputs::Values => Self::Values,
            false if head.is_binary() => Self::Sigmoid,
            false => Self::Softmax,
        }
    }
}

/// Classifies images. Those that can be read are classified even where others cannot.
///
/// # Errors
/// The model or an image cannot be opened; an output is not finite; the user interrupts it.
pub fn run(options: &PredictOptions, printer: &Printer) -> Result<()> {
    let device = device::open(options.device.unwrap_or(DeviceName::Cpu))?;
    let opened = models::open(&options.model, printer)?;
    let files = files(&options.images)?;
    let set = images::open_readable_files(&files, &opened.model.preprocess(), &OpenOptions::default());
    let set = set.map_err(|error| match error {
        ImageError::Unreadable { path, reason } if files.len() == 1 => {
            Error::failed(format!("`{}`: {reason}", path.display()))
        }
        ImageError::Unreadable { path, reason } => Error::failed(format!(
            "none of {} can be read, `{}`: {reason}",
            counted(files.len(), "picture"),
            path.display()
        )),
        error => Error::from(error),
    })?;
    let bad: HashSet<PathBuf> = set.skipped().into_iter().map(|file| file.path).collect();
    // The images of the set, in its order.
    let opened_files: Vec<&PathBuf> = files.iter().filter(|file| !bad.contains(*file)).collect();
    classes::report(&set, printer);
    let context = progress::context(device, printer);
    let logits = if engine::is_for(&options.model.name, options.device, options.simulate) {
        engine::predict("predict", &opened.model, &set, &context)?
    } else {
        let network = models::network(&opened.model, &context.device);
        predict("predict", &[&network], &set, &context)?.remove(0)
    };

    classes::report_resized(&set, &opened.model.info().preprocess, opened.model.graph().input(), printer);

    let head = opened.model.graph().head();
    explain(&options.model.name, head, printer);
    let names = names(&opened.model, head, printer);
    classes::report_late(&set, bad.len(), printer);
    let rows: Vec<(&Path, &[f32])> = logits
        .images()
        .iter()
        .enumerate()
        .map(|(row, &image)| (opened_files[image].as_path(), logits.row(row)))
        .collect();
    for (image, outputs) in &rows {
        check_finite(image, outputs)?;
    }
    let prediction = |&(image, outputs): &(&Path, &[f32])| Prediction {
        image: image.to_owned(),
        probabilities: Probabilities::of(head),
        top: likeliest(outputs, head, options.top, &names),
        logits: options.logits.then(|| outputs.to_vec()),
    };
    let mut read: HashMap<usize, Prediction> =
        logits.images().iter().copied().zip(rows.iter().map(prediction)).collect();
    let reasons: HashMap<PathBuf, String> = set.skipped().into_iter().map(|file| (file.path, file.reason)).collect();
    let mut image = 0..;
    let entry = |file: &PathBuf| {
        let found = if bad.contains(file) { None } else { image.next().and_then(|image| read.remove(&image)) };
        found.map_or_else(|| Entry::unread(file, &reasons), Entry::Read)
    };
    let entries: Vec<Entry> = files.iter().map(entry).collect();
    printer.result(&entries, |printer| show(&entries, printer));
    match entries.iter().filter(|entry| matches!(entry, Entry::Unread { .. })).count() {
        0 => Ok(()),
        unread => Err(Error::failed(format!("{unread} of {} could not be read", counted(files.len(), "picture")))),
    }
}

/// Puts the pictures of a folder in its place.
///
/// # Errors
/// A folder cannot be read or has no pictures.
fn files(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in given {
        match path.is_dir() {
            true => files.extend(images::pictures_in(path)?),
            false => files.push(path.clone()),
        }
    }
    Ok(files)
}

/// Says how outputs are read where that is no matter of course.
fn explain(model: &str, head: Head, printer: &Printer) {
    if head.is_binary() && head.outputs == Outputs::Logits {
        printer.talk(format!("{model} has one output and no sigmoid: it is read as the logit of class 1"));
    } else if head.outputs == Outputs::Values {
        printer.talk(format!(
            "{model} computes its outputs from a softmax or sigmoid: they are shown as they are, the largest first"
        ));
    } else if head.is_multi_label() {
        printer.talk(format!(
            "{model} ends in a sigmoid: several classes can be right, each percentage stands for itself"
        ));
    }
}

/// Returns the names of the classes; none where their number does not fit.
fn names(model: &Model, head: Head, printer: &Printer) -> Vec<String> {
    let (names, given) = (head.names(&model.info().classes), model.info().classes.len());
    if names.is_empty() && given > 0 {
        let classes = head.classes();
        printer.warn(format!("the model names {given} classes and has {classes}: the names are left out"));
    }
    names
}

/// Checks that the outputs for an image are finite: no class follows from others.
fn check_finite(image: &Path, outputs: &[f32]) -> Result<()> {
    match outputs.iter().position(|output| !output.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::failed(format!("`{}`: output {at} is {}, no number", image.display(), outputs[at]))
            .hint(
                "weights that are not finite, or images prepared otherwise than the network expects (--mean, --std)",
            )),
    }
}

/// Returns the `top` likeliest classes, best first.
fn likeliest(outputs: &[f32], head: Head, top: usize, names: &[String]) -> Vec<Class> {
    let probabilities = head.probabilities(outputs);
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    // Outputs differ where probabilities have run out of digits.
    order.sort_by(|&a, &b| match head.is_binary() {
        true => probabilities[b].total_cmp(&probabilities[a]),
        false => outputs[b].total_cmp(&outputs[a]),
    });
    let told = head.outputs != Outputs::Values;
    let class = |index: usize| Class {
        index,
        name: names.get(index).cloned(),
        probability: told.then(|| probabilities[index]),
        value: (!told).then(|| outputs[index]),
    };
    order.into_iter().take(top).map(class).collect()
}

fn show(entries: &[Entry], printer: &Printer) {
    for (i, prediction) in entries.iter().filter_map(Entry::prediction).enumerate() {
        if i > 0 {
            printer.line("");
        }
        printer.line(prediction.image.display());
        let percent =
            if prediction.probabilities == Probabilities::SigmoidOfEach { "percent of each" } else { "percent" };
        let mut table = Table::new(["class", percent, "value", "name"]).left([3]);
        for class in &prediction.top {
            let name = class.name.clone().unwrap_or_default();
            let percent = class.probability.map_or(String::new(), |p| format!("{:.1}", 100.0 * p));
            table.row([class.index.to_string(), percent, class.value.map_or(String::new(), |v| v.to_string()), name]);
        }
        printer.table(&table.without_empty_columns());
        if let Some(logits) = &prediction.logits {
            let values: Vec<String> = logits.iter().map(ToString::to_string).collect();
            printer.line(format!("logits {}", values.join(" ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(head: Head, outputs: &[f32]) -> Vec<(usize, f64)> {
        let round = |p: f64| (p * 1e3).round() / 1e3;
        likeliest(outputs, head, 5, &[])
            .into_iter()
            .map(|class| (class.index, round(class.probability.unwrap())))
            .collect()
    }

    #[test]
    fn classes_are_those_of_the_head() {
        // One output speaks for class 1: 1 / (1 + e^2) = 0.119.
        let head = |outputs, count| Head { outputs, count };
        assert_eq!(shown(head(Outputs::Sigmoid, 1), &[0.164]), [(0, 0.836), (1, 0.164)]);
        assert_eq!(shown(head(Outputs::Logits, 1), &[2.0]), [(1, 0.881), (0, 0.119)]);
        assert_eq!(shown(head(Outputs::Sigmoid, 3), &[0.5, 0.9, 0.8]), [(1, 0.9), (2, 0.8), (0, 0.5)]);
        assert_eq!(shown(head(Outputs::Softmax, 2), &[0.3, 0.7]), [(1, 0.7), (0, 0.3)]);
        // e^0 : e^1000 : e^999
        assert_eq!(shown(head(Outputs::Logits, 3), &[0.0, 1000.0, 999.0]), [(1, 0.731), (2, 0.269), (0, 0.0)]);
        let values = likeliest(&[31.0, 69.0], head(Outputs::Values, 2), 1, &[]);
        assert_eq!((values[0].index, values[0].probability, values[0].value), (1, None, Some(69.0)));
        assert_eq!(Probabilities::of(head(Outputs::Sigmoid, 3)), Probabilities::SigmoidOfEach);
        assert_eq!(Probabilities::of(head(Outputs::Logits, 1)), Probabilities::Sigmoid);
    }

    #[test]
    fn what_is_no_number_is_no_class() {
        let error = check_finite(Path::new("a.png"), &[1.0, f32::NAN]).unwrap_err();
        assert_eq!((error.message(), error.code()), ("`a.png`: output 1 is NaN, no number", 1));
        check_finite(Path::new("a.png"), &[1.0]).unwrap();
    }
}
