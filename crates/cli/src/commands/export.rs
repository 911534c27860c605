use std::time::Instant;

use graph::{Model, ModelError};

use crate::args::{Export, Format, Network, Scales};
use crate::deploy;
use crate::error::{Error, Result};
use crate::output::Output;
use crate::printer::Printer;
use crate::source;

pub fn run(args: &Export, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let Network { input, width, stem } = args.network;
    let mut source = match &args.model.weights {
        Some(weights) => {
            let config = zoo::Config { input, width, stem, ..zoo::Config::new(&args.model.model) };
            let mut source = source::named(&config, Some(weights), printer)?;
            args.model.image.apply(&mut source.model.info.preprocess);
            source
        }
        None => source::open(&args.model, printer)?,
    };
    let ending = match args.format {
        Format::Safetensors => ".safetensors",
        Format::Dsc => ".dsc",
        Format::StateDict => "_state_dict.safetensors",
        Format::Onnx => return super::onnx::run(args, source, printer, start),
    };
    let output = Output::new(&args.target, &format!("{}{ending}", source.name))?;
    if args.format == Format::Dsc && !source.model.is_quantized() {
        return Err(not_quantized(&source.name));
    }
    if args.format == Format::Safetensors && !source.model.is_quantized() {
        printer.warn(format!("`{}` is not quantized: the file holds floats", source.name));
    }
    if args.target.scales == Scales::TwoLevel {
        source.model = source.model.to_two_level()?;
    }
    let model = &source.model;
    let written = match args.format {
        Format::Dsc => output.save_bytes(&deploy::bytes(model, &args.target.options())?, model, start)?,
        Format::StateDict => output.save_bytes(&state_dict(model, printer)?, model, start)?,
        _ => output.save(model, start)?,
    };
    printer.result(&written, |printer| printer.line(&written));
    Ok(())
}

fn not_quantized(name: &str) -> Error {
    Error::usage(format!("`{name}` is not quantized: a .dsc file holds integers"))
        .hint(format!("`dsconv quantize {name} -o {name}.dsc` makes one"))
}

/// Under the names of the zoo's network where the model is one of those, else under its own.
fn state_dict(model: &Model, printer: &Printer) -> Result<Vec<u8>> {
    let name = model.graph.name();
    let (classes, input) = (Some(model.graph.output().channels), Some(model.graph.input().height));
    if let Ok(original) = zoo::build(&zoo::Config { classes, input, ..zoo::Config::new(name) }) {
        match graph::state_dict(model, &original) {
            Err(ModelError::Layer { .. }) => {}
            result => return Ok(result?),
        }
    }
    printer.warn(format!("`{name}` is no network of the zoo: the names are its own, batch normalisation stays folded"));
    Ok(graph::state_dict(model, &model.graph)?)
}
