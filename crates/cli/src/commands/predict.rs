use std::path::{Path, PathBuf};

use distill::evaluate::{Logits, predict};
use graph::Preprocess;
use images::{OpenOptions, Unlabelled};
use serde::Serialize;

use crate::args::{DeviceName, Predict};
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::table::Table;
use crate::{device, engine, progress, source};

/// What one image is.
#[derive(Debug, Serialize)]
struct Prediction {
    image: PathBuf,
    /// The likeliest classes, best first.
    top: Vec<Class>,
    /// The outputs of all classes, before softmax.
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<Vec<f32>>,
}

/// A class and how likely it is.
#[derive(Debug, Serialize)]
struct Class {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Softmax of the logits, 0 to 1.
    probability: f64,
}

pub fn run(args: &Predict, printer: &Printer) -> Result<()> {
    let device = device::open(args.device.device.unwrap_or(DeviceName::Cpu))?;
    let source = source::open(&args.model, printer)?;
    let set = open(&args.images, &source.model.info.preprocess)?;
    let context = progress::context(device, printer)?;
    let logits = if engine::is_for(&args.model.model, args.device.device, args.simulate) {
        engine::predict("predict", &source.model, &set, &context)?
    } else {
        let network = source::network(&source.model, &context.device);
        predict("predict", &[&network], &set, &context)?.remove(0)
    };

    let classes = &source.model.info.classes;
    let top = usize::try_from(args.top).unwrap_or(usize::MAX);
    let predictions: Vec<Prediction> = args
        .images
        .iter()
        .enumerate()
        .map(|(i, image)| Prediction {
            image: image.clone(),
            top: likeliest(&logits, i, top, classes),
            logits: args.logits.then(|| logits.row(i).to_vec()),
        })
        .collect();
    printer.result(&predictions, |printer| show(&predictions, printer));
    Ok(())
}

fn likeliest(logits: &Logits, image: usize, top: usize, names: &[String]) -> Vec<Class> {
    let row = logits.row(image);
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = row.iter().map(|&v| f64::from(v - largest).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let class = |index: usize| Class { index, name: names.get(index).cloned(), probability: exp[index] / sum };
    order.into_iter().take(top).map(class).collect()
}

fn show(predictions: &[Prediction], printer: &Printer) {
    for (i, prediction) in predictions.iter().enumerate() {
        if i > 0 {
            printer.line("");
        }
        printer.line(prediction.image.display());
        let mut table = Table::new(["class", "percent", "name"]).left([2]);
        for class in &prediction.top {
            let name = class.name.clone().unwrap_or_default();
            table.row([class.index.to_string(), format!("{:.1}", 100.0 * class.probability), name]);
        }
        printer.table(&table.without_empty_columns());
        if let Some(logits) = &prediction.logits {
            let values: Vec<String> = logits.iter().map(ToString::to_string).collect();
            printer.line(format!("logits {}", values.join(" ")));
        }
    }
}

/// The images of these files, in their order.
///
/// # Errors
/// The first file that is not there or is no image.
fn open(files: &[PathBuf], preprocess: &Preprocess) -> Result<Unlabelled> {
    // A set is a folder, sorted by name: copies with numbers for names make one.
    let folder = tempfile::tempdir()?;
    for (i, file) in files.iter().enumerate() {
        let refuse = |why: String| Error::failed(format!("`{}`: {why}", file.display()));
        let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if !["jpg", "jpeg", "png", "bmp", "webp"].contains(&extension.as_str()) {
            return Err(refuse("not an image: JPEG, PNG, BMP and WebP files are read".into()));
        }
        std::fs::copy(file, folder.path().join(format!("{i:09}.{extension}"))).map_err(|e| refuse(e.to_string()))?;
    }
    // Everything is decoded here, before the copies go.
    let options = OpenOptions { max_bad: 1.0, memory: usize::MAX, ..OpenOptions::default() };
    let path = folder.path().to_string_lossy();
    let set = images::open_unlabelled(&path, preprocess, &options).map_err(|error| unnamed(&error, files))?;
    match set.skipped().first() {
        Some(skipped) => {
            Err(Error::failed(format!("`{}`: {}", original(&skipped.path, files).display(), skipped.reason)))
        }
        None => Ok(set),
    }
}

/// The user's name of a copy.
fn original<'a>(copy: &'a Path, files: &'a [PathBuf]) -> &'a Path {
    let index = copy.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<usize>().ok());
    index.and_then(|index| files.get(index)).map_or(copy, PathBuf::as_path)
}

/// An error about copies in the words of the originals.
fn unnamed(error: &images::ImageError, files: &[PathBuf]) -> Error {
    use images::ImageError::{SizesDiffer, TooManyBad};
    match error {
        TooManyBad { bad, .. } if !bad.is_empty() => {
            Error::failed(format!("`{}`: {}", original(&bad[0].path, files).display(), bad[0].reason))
        }
        SizesDiffer { path, got, expected } => Error::failed(format!(
            "`{}` is {}x{} after resizing, the images before it are {}x{}",
            original(path, files).display(),
            got[1],
            got[0],
            expected[1],
            expected[0]
        ))
        .hint("this network takes images as they are: give it images of its own size"),
        error => Error::failed(error),
    }
}
