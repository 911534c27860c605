use std::time::Instant;

use crate::args::{Export, Format, Network, Scales};
use crate::error::Result;
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
    if args.format == Format::Onnx {
        return super::onnx::run(args, source, printer, start);
    }
    let output = Output::new(&args.target, &format!("{}.safetensors", source.name))?;
    if !source.model.is_quantized() {
        printer.warn(format!("`{}` is not quantized: the file holds floats", source.name));
    }
    if args.target.scales == Scales::TwoLevel {
        source.model = source.model.to_two_level()?;
    }
    let written = output.save(&source.model, start)?;
    printer.result(&written, |printer| printer.line(&written));
    Ok(())
}
