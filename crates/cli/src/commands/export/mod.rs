//! `dsconv export`: a model is written in another file format.
mod fit;
mod onnx;
mod options;

use std::time::Instant;

use graph::Graph;
use model::{Model, ModelError};
use zoo::Stem;

use super::plan::{Numbers, Planned};
use crate::error::{Error, Result};
use crate::output::{Ending, Output, check_file};
use crate::printer::Printer;
use crate::{deploy, models, names};

use fit::{check_scales, refuse_ignored};

pub use onnx::ranges;
pub use options::{ExportFormat, ExportOptions, OnnxOptions, OnnxProfile};

/// Writes a model in another file format.
///
/// # Errors
/// The options contradict each other or the model; the model cannot be opened; the file cannot be written.
pub fn run(options: &ExportOptions, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let format = format(options)?;
    if format != ExportFormat::Onnx {
        refuse_ignored(options, format, None)?;
    }
    let mut opened = models::open_changed(&options.model, &options.changes, printer)?;
    let ending = match format {
        ExportFormat::Safetensors => ".safetensors",
        ExportFormat::Dsc => ".dsc",
        ExportFormat::StateDict => "_state_dict.safetensors",
        ExportFormat::Onnx => return onnx::run(options, opened, printer, start),
    };
    let output = Output::new(&options.target, &format!("{}{ending}", opened.name), &options.model.files())?;
    if format == ExportFormat::Dsc && !opened.model.is_quantized() {
        return Err(not_quantized(&options.model.name, &opened.name));
    }
    check_scales(options, &opened.model)?;
    if format == ExportFormat::Safetensors && !opened.model.is_quantized() {
        printer.talk(format!("`{}` is not quantized: the file holds floats", opened.name));
    }
    if options.target.is_two_level() {
        opened.model = opened.model.to_two_level()?;
    }
    let model = &opened.model;
    let stored = options.target.options(model.scale_precision());
    let (bytes, numbers) = match format {
        ExportFormat::Dsc => (deploy::bytes(model, &stored, printer)?, Numbers::Codes(stored)),
        ExportFormat::StateDict => (state_dict(model, printer)?, Numbers::Floats),
        _ => (files::packed::to_bytes(model, &stored)?, Numbers::Codes(stored)),
    };
    if options.dry_run {
        Planned::file(model, &numbers, bytes.len() as u64).print(printer);
        return Ok(());
    }
    let written = output.save_bytes(&bytes, model, start)?;
    printer.result(&written, |printer| printer.line(&written));
    Ok(())
}

/// Returns the format to write: the one that is asked for, that of the file's ending, or safetensors.
///
/// # Errors
/// The format that is asked for and the ending differ; the ending names no format; the file cannot be written.
fn format(options: &ExportOptions) -> Result<ExportFormat> {
    let Some(path) = &options.target.path else { return Ok(options.format.unwrap_or(ExportFormat::Safetensors)) };
    check_file(path, options.target.force, &options.model.files())?;
    let ending = Ending::of(path, &Ending::ALL)?;
    let (of_ending, name) = match ending {
        Ending::Safetensors => (ExportFormat::Safetensors, "safetensors"),
        Ending::Dsc => (ExportFormat::Dsc, "dsc"),
        Ending::Onnx => (ExportFormat::Onnx, "onnx"),
    };
    match options.format {
        None => Ok(of_ending),
        Some(ExportFormat::StateDict) if ending == Ending::Safetensors => Ok(ExportFormat::StateDict),
        Some(format) if format == of_ending => Ok(format),
        Some(format) => {
            let (asked, ending) = match format {
                ExportFormat::StateDict => ("state-dict", "safetensors"),
                ExportFormat::Safetensors => ("safetensors", "safetensors"),
                ExportFormat::Dsc => ("dsc", "dsc"),
                ExportFormat::Onnx => ("onnx", "onnx"),
            };
            let error = Error::usage(format!("`{}` names another format than --format {asked}", path.display()));
            let name_it = path.with_extension(ending);
            Err(error.hint(format!("`--format {name}`, or `-o {}`", names::typed(name_it.display()))))
        }
    }
}

fn not_quantized(model: &str, name: &str) -> Error {
    Error::usage(format!("`{name}` is not quantized: a .dsc file holds integers")).hint(format!(
        "`dsconv quantize {} -o {}` makes one",
        names::typed(model),
        names::typed(format!("{name}.dsc"))
    ))
}

/// Writes a state dict, under the names of the zoo's network where the model is one of those, else under its own.
///
/// # Errors
/// None in practice: a model that was built can be written.
pub fn state_dict(model: &Model, printer: &Printer) -> Result<Vec<u8>> {
    for original in originals(model.graph()) {
        match files::state_dict(model, &original) {
            Err(files::FileError::Model(ModelError::Layer { .. })) => {}
            result => return Ok(result?),
        }
    }
    let name = model.graph().name();
    printer.warn(format!("`{name}` is no network of the zoo: the names are its own, batch normalisation stays folded"));
    Ok(files::state_dict(model, model.graph())?)
}

/// Returns the zoo's networks of a graph's name, input and classes, as wide as it is, with every stem.
fn originals(graph: &Graph) -> impl Iterator<Item = Graph> {
    let input = graph.input();
    let (classes, channels) = (Some(graph.output().channels), Some(input.channels));
    let config = zoo::Config { classes, channels, input: Some(input.height), ..zoo::Config::new(graph.name()) };
    let planes = |graph: &Graph| graph.params().first().map(|param| param.shape[0] as f64);
    [None, Some(Stem::ImageNet), Some(Stem::Small), Some(Stem::Cifar)].into_iter().filter_map(move |stem| {
        let whole = zoo::build(&zoo::Config { stem, width: Some(1.0), ..config.clone() }).ok()?;
        let width = Some(planes(graph)? / planes(&whole)?);
        zoo::build(&zoo::Config { stem, width, ..config.clone() }).ok()
    })
}
