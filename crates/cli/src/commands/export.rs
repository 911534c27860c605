use std::time::Instant;

use crate::args::{Export, Format};
use crate::error::Result;
use crate::output::Output;
use crate::printer::Printer;
use crate::source;

pub fn run(args: &Export, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let source = source::open(&args.model, printer)?;
    let extension = match args.format {
        Format::Safetensors => "safetensors",
    };
    let output = Output::new(&args.target, &format!("{}.{extension}", source.name))?;
    if !source.model.is_quantized() {
        printer.warn(format!("`{}` is not quantized: the file holds floats", source.name));
    }
    let written = output.save(&source.model, start)?;
    printer.result(&written, |printer| printer.line(&written));
    Ok(())
}
