//! ONNX files as models.
use std::path::Path;

use graph::{ImageConfig, Preprocess, Resize, Shape};
use model::{Info, Model};
use onnx::{ImportError, ImportOptions};

use crate::error::{Error, Result};
use crate::printer::Printer;

/// The side of the image where neither the file nor the user says it.
const SIDE: usize = 224;

/// Tells whether a path names an ONNX file.
pub fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

/// Imports the network of an ONNX file, for images as `image` says. What is assumed of images is said, unless `quietly`.
///
/// # Errors
/// The file cannot be read or imported, and the error names the node; its images have neither three channels nor one.
pub fn open(path: &Path, image: &ImageConfig, quietly: bool, printer: &Printer) -> Result<Model> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| Error::failed(format!("`{shown}`: {error}")))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().map(Path::to_owned);
    let options = |input| ImportOptions { name: Some(name.clone()), input, folder: folder.clone() };
    let mut imported = onnx::import(&bytes, &options(image.input()));
    if let (Err(ImportError::OpenSize { .. }), None) = (&imported, image.input()) {
        imported = onnx::import(&bytes, &options(Some([SIDE; 2])));
        printer.talk(format!("{shown} does not say how large its images are: {SIDE} is assumed (--input)"));
    }
    let imported = imported.map_err(|error| Error::from(error).at(format!("`{shown}`")))?;
    for note in &imported.notes {
        printer.talk(format!("{shown}: {note}"));
    }
    let input = imported.graph.input();
    let assumed = match input.channels {
        1 => "a mean and deviation of 0.5 of grey in 0..1 are assumed",
        3 => "ImageNet's mean and deviation of RGB in 0..1 are assumed",
        other => {
            return Err(Error::failed(format!("`{shown}`: takes {other} channels, an image has 3, or 1 of grey")));
        }
    };
    let mut preprocess = preprocess(input);
    if let Some(stated) = &imported.preprocess {
        preprocess = stated.clone();
    } else if imported.bytes {
        let Preprocess { resize, crop, order, .. } = preprocess;
        preprocess = Preprocess { resize, crop, ..Preprocess::bytes(order) };
    }
    image.apply(&mut preprocess, input.channels).map_err(Error::usage)?;
    if !image.says_values() && !imported.bytes && imported.preprocess.is_none() && !quietly {
        printer.talk(format!(
            "{shown} does not say how its images are normalised: {assumed} (--mean, --std, --order, --divide)"
        ));
    }
    let source = match imported.producer.as_str() {
        "" => format!("{name}.onnx"),
        producer => format!("{name}.onnx, written by {producer}"),
    };
    let info = Info { preprocess, classes: imported.classes, source };
    Ok(Model::float(imported.graph, imported.weights, info)?)
}

/// Returns torchvision's preprocessing for ImageNet, in proportion to the input. For inputs of fewer than 64 pixels and those
/// that are not square it has no sizes: [`Preprocess::fitted`] fills them in.
fn preprocess(Shape { channels, height, width }: Shape) -> Preprocess {
    let statistics = if channels == 1 { Preprocess::grey() } else { Preprocess::imagenet_statistics() };
    if height != width || height < 64 {
        return statistics;
    }
    // 256 of 224 is 8 of 7.
    let shorter = (height * 8).div_ceil(7).min(Preprocess::MAX_SIDE);
    Preprocess { resize: Some(Resize::Shorter(shorter)), crop: Some([height, width]), ..statistics }
}
