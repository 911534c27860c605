//! ONNX files as models.
use std::path::Path;

use graph::{ImageConfig, Preprocess, Resize, Shape, normalised_pixels};
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

/// Imports the network of an ONNX file, for images as `image` says, and tells whether the file or `image` says how they are normalised.
/// What is assumed of images is said, unless `quietly`.
///
/// # Errors
/// The file cannot be read or imported, and the error names the node; its images have neither three channels nor one.
pub fn open(path: &Path, image: &ImageConfig, quietly: bool, printer: &Printer) -> Result<(Model, bool)> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| Error::failed(format!("`{shown}`: {error}")))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().map(Path::to_owned);
    let options = |input| ImportOptions { name: Some(name.clone()), input, folder: folder.clone() };
    let mut imported = onnx::import(&bytes, &options(image.input()));
    if let (Err(ImportError::OpenSize { .. }), None) = (&imported, image.input()) {
        imported = onnx::import(&bytes, &options(Some([SIDE; 2])));
        printer.assume(format!("{shown} does not say how large its images are: {SIDE} is assumed (--input)"));
    }
    let imported = imported.map_err(|error| Error::from(error).at(format!("`{shown}`")))?;
    for note in &imported.notes {
        printer.talk(format!("{shown}: {note}"));
    }
    let input = imported.graph.input();
    let colour = match input.channels {
        1 => "grey",
        3 => "RGB",
        other => {
            return Err(Error::failed(format!("`{shown}`: takes {other} channels, an image has 3, or 1 of grey")));
        }
    };
    let mut preprocess = preprocess(input);
    let mut assumed = values(&preprocess);
    if let Some(stated) = &imported.preprocess {
        preprocess = stated.clone();
    } else if imported.bytes {
        let Preprocess { resize, crop, order, .. } = preprocess;
        preprocess = Preprocess { resize, crop, ..Preprocess::bytes(order) };
    } else if let Some(divide) = normalised_pixels(&imported.graph, &imported.weights) {
        let Preprocess { resize, crop, order, .. } = preprocess;
        preprocess = Preprocess { resize, crop, divide, ..Preprocess::bytes(order) };
        let most = if divide == 1.0 { 255 } else { 1 };
        assumed = format!("{colour} in 0..{most} as it is, which the network normalises itself");
    }
    image.apply(&mut preprocess, input.channels).map_err(Error::usage)?;
    let is_prepared = image.says_values() || imported.bytes || imported.preprocess.is_some();
    let sizes = sizes(&preprocess).filter(|_| imported.preprocess.is_none() && !image.says_sizes());
    let assumed: Vec<String> = [
        (!is_prepared).then(|| format!("{assumed} (--mean, --std, --order, --divide)")),
        sizes.map(|sizes| format!("images {sizes} (--resize, --crop)")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !assumed.is_empty() && !quietly {
        printer.assume(format!("{shown} does not say how its images are prepared; assumed: {}", assumed.join("; ")));
    }
    let source = match imported.producer.as_str() {
        "" => format!("{name}.onnx"),
        producer => format!("{name}.onnx, written by {producer}"),
    };
    let info = Info { preprocess, classes: imported.classes, source };
    Ok((Model::float(imported.graph, imported.weights, info)?, is_prepared))
}

/// Says how the values of images are normalised.
pub fn values(preprocess: &Preprocess) -> String {
    let Preprocess { order, divide, mean, std, .. } = preprocess;
    let is_as =
        |other: Preprocess| (order, divide, mean, std) == (&other.order, &other.divide, &other.mean, &other.std);
    if is_as(Preprocess::imagenet_statistics()) {
        return "ImageNet's mean and deviation of RGB in 0..1".to_owned();
    }
    if is_as(Preprocess::grey()) {
        return "a mean and deviation of 0.5 of grey in 0..1".to_owned();
    }
    format!("a mean of {mean:?} and a deviation of {std:?} of {order} in 0..{}", 255.0 / divide)
}

/// Says which mean or deviation is assumed where the user gives other values but not this one.
pub fn rest(image: &ImageConfig, preprocess: &Preprocess) -> Option<String> {
    let Preprocess { mean, std, .. } = preprocess;
    let rest = [
        image.mean.is_none().then(|| format!("a mean of {mean:?} (--mean)")),
        image.std.is_none().then(|| format!("a deviation of {std:?} (--std)")),
    ];
    let rest: Vec<String> = rest.into_iter().flatten().collect();
    (image.says_values() && !rest.is_empty()).then(|| rest.join("; "))
}

/// Says to what sizes images are brought; `None` where they only become the network's input.
pub fn sizes(preprocess: &Preprocess) -> Option<String> {
    match (preprocess.resize, preprocess.crop) {
        (Some(Resize::Shorter(side)), Some([height, width])) => {
            Some(format!("of a shorter side of {side}, of which the middle {height}x{width} is cut out"))
        }
        _ => None,
    }
}

/// Returns torchvision's preprocessing for ImageNet, in proportion to the input. For inputs of fewer than 128 pixels, whose images
/// mostly have their size already, and those that are not square it has no sizes: [`Preprocess::fitted`] fills them in.
fn preprocess(Shape { channels, height, width }: Shape) -> Preprocess {
    let statistics = if channels == 1 { Preprocess::grey() } else { Preprocess::imagenet_statistics() };
    if height != width || height < 128 {
        return statistics;
    }
    // 256 of 224 is 8 of 7.
    let shorter = (height * 8).div_ceil(7).min(Preprocess::MAX_SIDE);
    Preprocess { resize: Some(Resize::Shorter(shorter)), crop: Some([height, width]), ..statistics }
}
