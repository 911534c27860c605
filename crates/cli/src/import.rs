//! ONNX files as models.
use std::path::Path;

use graph::{Info, Model, Preprocess};
use onnx::{ImportError, ImportOptions};

use crate::args::ImageArgs;
use crate::error::{Error, Result};
use crate::printer::Printer;

/// Side of the image where neither the file nor the user says it.
const SIDE: usize = 224;

/// Whether a path names an ONNX file.
pub fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

/// The network of an ONNX file, for images as `args` say; what is assumed is said, unless `quietly`.
///
/// # Errors
/// A file that cannot be read or imported, with the node; images that are not of three channels.
pub fn open(path: &Path, args: &ImageArgs, quietly: bool, printer: &Printer) -> Result<Model> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| Error::failed(format!("`{shown}`: {error}")))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let side = args.input_size.map(|side| side as usize);
    let options = |side: Option<usize>| ImportOptions { name: Some(name.clone()), input: side.map(|side| [side; 2]) };
    let mut imported = onnx::import(&bytes, &options(side));
    if let (Err(ImportError::OpenSize { .. }), None) = (&imported, side) {
        imported = onnx::import(&bytes, &options(Some(SIDE)));
        printer.talk(format!("{shown} does not say how large its images are: {SIDE} is assumed (--input-size)"));
    }
    let imported = imported.map_err(|error| {
        let refused = Error::failed(format!("`{shown}`: {error}"));
        match error.hint() {
            Some(hint) => refused.hint(hint),
            None => refused,
        }
    })?;
    for note in &imported.notes {
        printer.talk(format!("{shown}: {note}"));
    }
    let input = imported.graph.input();
    if input.channels != 3 {
        return Err(Error::failed(format!("`{shown}`: takes {} channels, an image has 3", input.channels)));
    }
    let mut preprocess = preprocess([input.height, input.width]);
    args.apply(&mut preprocess);
    if !args.says_values() && !quietly {
        printer.talk(format!(
            "{shown} does not say how its images are normalised: ImageNet's mean and deviation of RGB in 0..1 are \
             assumed (--mean, --std, --order, --divide)"
        ));
    }
    let source = match imported.producer.as_str() {
        "" => format!("{name}.onnx"),
        producer => format!("{name}.onnx, written by {producer}"),
    };
    let info = Info { preprocess, classes: Vec::new(), source };
    Ok(Model::float(imported.graph, imported.weights, info)?)
}

/// torchvision's for ImageNet, in proportion; images smaller than 64 pixels are taken as they are, and so are those that
/// are not square.
fn preprocess([rows, columns]: [usize; 2]) -> Preprocess {
    let statistics = Preprocess::imagenet_statistics();
    if rows != columns || rows < 64 {
        return statistics;
    }
    // 256 of 224 is 8 of 7.
    Preprocess { resize: Some((rows * 8).div_ceil(7)), crop: Some(rows), ..statistics }
}
