//! `dsconv export --format onnx`: a model is written as an ONNX file.
use std::time::Instant;

use ::onnx::{ActivationCodes, Range, Ranges};
use distill::{Calibration, Context, calibrate};
use graph::Outputs;
use images::Unlabelled;
use model::{Float, Model, SaveOptions};
use serde::Serialize;

use super::super::inspect::outputs;
use super::super::plan::{Numbers, Planned};
use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::models::{self, OpenedModel};
use crate::output::{Output, Written};
use crate::pictures::GivenImages;
use crate::printer::Printer;
use crate::{device, names, pictures, progress};

use super::fit::{check_scales, refuse_ignored};
use super::options::{ExportFormat, ExportOptions, OnnxProfile};

/// The most images on which ranges are found where the user does not say it.
const CALIBRATION_IMAGES: usize = 256;

/// The result of exporting an ONNX file.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    written: Written,
    profile: &'static str,
}

/// Writes a model as an ONNX file.
///
/// # Errors
/// The options contradict the model; the images for the ranges cannot be opened; the file cannot be written.
pub fn run(options: &ExportOptions, opened: OpenedModel, printer: &Printer, start: Instant) -> Result<()> {
    let OpenedModel { mut model, name, .. } = opened;
    let onnx = &options.onnx;
    let fitting = if model.is_quantized() { OnnxProfile::Int4 } else { OnnxProfile::Fp32 };
    let asked = onnx.profile.unwrap_or(fitting);
    refuse_ignored(options, ExportFormat::Onnx, Some(asked))?;
    let activations = onnx.activations.unwrap_or(true);
    let suffix = match (asked, activations) {
        (OnnxProfile::Int4, true) => "int4",
        (OnnxProfile::Int4, false) => "int4_weights",
        (OnnxProfile::Int8, _) => "int8",
        (OnnxProfile::Fp32, _) => "fp32",
    };
    let output = Output::new(&options.target, &format!("{name}_{suffix}.onnx"), &options.model.files())?;
    if asked != OnnxProfile::Fp32 && !model.is_quantized() {
        return Err(Error::usage(format!("`{name}` is not quantized: the profile {suffix} needs integer weights"))
            .hint(format!(
                "`dsconv quantize {}{}` makes some, and `--profile fp32` writes floats",
                names::typed(&options.model.name),
                if asked == OnnxProfile::Int8 { " --bits 8 --activation-bits 8" } else { "" }
            )));
    }
    check_scales(options, &model)?;
    if options.target.is_two_level() {
        model = model.to_two_level()?;
    }
    let profile = match asked {
        OnnxProfile::Int4 => ::onnx::Profile::Int4 { activations },
        OnnxProfile::Fp32 => ::onnx::Profile::Fp32,
        OnnxProfile::Int8 => {
            let Some(images) = &onnx.calibrate else {
                return Err(Error::usage("the profile int8 has one scale for each activation, found on images")
                    .hint("`--calibrate DATA` names some: a folder, a file, `embedded`; labels are not read"));
            };
            let least = model.layers().values().map(|layer| layer.codes.bits().get()).min();
            if let Some(bits @ ..8) = least {
                let name = &options.model.name;
                printer.warn(format!(
                    "`{name}` has weights of {bits} bits: as 8-bit integers they are no more exact, and no smaller than those of \
                     `dsconv quantize FLOATS --bits 8 --activation-bits 8`"
                ));
            }
            if model.layers().values().any(|layer| layer.codes.two_level().is_none()) {
                printer
                    .talk("8-bit weights have one scale a filter, made of the block scales of the quantized weights");
                model = model.to_two_level()?;
            }
            let (given, count) = (GivenImages::Named(images.clone()), onnx.calibration_images);
            let set = pictures::open(Some(&given), count.unwrap_or(CALIBRATION_IMAGES), 0, &model, printer)?;
            let context = progress::context(device::open(DeviceName::Cpu)?, printer);
            let ranges = ranges(&set, onnx.calibration.unwrap_or(Calibration::Mse), &model, &context)?;
            for (node, Range { min, max }) in &ranges {
                printer.detail(format!("{node}: {min:.4} to {max:.4}"));
            }
            let codes = if onnx.symmetric { ActivationCodes::Symmetric } else { ActivationCodes::Unsigned };
            ::onnx::Profile::Int8 { ranges, codes }
        }
    };
    let bytes = ::onnx::export(&model, &profile)?;
    if options.dry_run {
        let numbers = match profile {
            // Scales that F16 holds are stored in it, other floats as they are.
            ::onnx::Profile::Int4 { .. } => {
                Numbers::Codes(SaveOptions { floats: Float::F32, scale_precision: model.scale_precision() })
            }
            ::onnx::Profile::Int8 { .. } => Numbers::Integers,
            ::onnx::Profile::Fp32 => Numbers::Floats,
        };
        Planned::file(&model, &numbers, bytes.len() as u64).print(printer);
        return Ok(());
    }
    if model.graph().head().outputs == Outputs::Logits {
        printer.talk(format!(
            "the file's output is {}: a softmax or sigmoid after it makes probabilities",
            outputs(model.graph().head())
        ));
    }
    let written = output.save_bytes(&bytes, &model, start)?;
    let outcome = Outcome { written, profile: profile.name() };
    printer.result(&outcome, |printer| printer.line(&outcome.written));
    Ok(())
}

/// Finds the ranges of all values that are rounded, on images, with the weights of the file and everything else in floats.
///
/// # Errors
/// Images cannot be read or do not fit the model; the user interrupts it.
pub fn ranges(set: &Unlabelled, calibration: Calibration, model: &Model, context: &Context) -> Result<Ranges> {
    let model = model.clone().map_layers(|_, layer| layer.activation = None)?;
    let network = models::network(&model, &context.device);
    let nodes = ::onnx::observed(network.graph());
    let found = calibrate(&network, &nodes, set, calibration, context)?;
    let name = |id: graph::NodeId| network.graph().node(id).name.clone();
    Ok(nodes.iter().zip(found).map(|(&id, [min, max])| (name(id), Range { min, max })).collect())
}
