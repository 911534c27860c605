//! `dsconv export --format onnx`.
use std::collections::BTreeMap;
use std::time::Instant;

use distill::{Calibration, calibrate};
use images::OpenOptions;
use model::Model;
use onnx::{ActivationCodes, Range, Ranges};
use serde::Serialize;

use crate::args::{DeviceName, Export, Format, Onnx, Profile, Switch};
use crate::error::{Error, Result};
use crate::output::{Output, Written};
use crate::printer::Printer;
use crate::source::{self, Source};
use crate::{classes, device, places, progress};

/// Images that ranges are found on if nobody says otherwise.
const CALIBRATION_IMAGES: usize = 256;

/// What came out.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    written: Written,
    profile: &'static str,
}

pub fn run(args: &Export, source: Source, printer: &Printer, start: Instant) -> Result<()> {
    let Source { mut model, name, .. } = source;
    let asked = args.onnx.profile.unwrap_or(if model.is_quantized() { Profile::Int4 } else { Profile::Fp32 });
    super::export::refuse_ignored(args, Format::Onnx, Some(asked))?;
    let activations = args.onnx.activations.unwrap_or(Switch::On);
    let suffix = match (asked, activations) {
        (Profile::Int4, Switch::On) => "int4",
        (Profile::Int4, Switch::Off) => "int4_weights",
        (Profile::Int8, _) => "int8",
        (Profile::Fp32, _) => "fp32",
    };
    let output = Output::new(&args.target, &format!("{name}_{suffix}.onnx"), &args.model.files())?;
    if asked != Profile::Fp32 && !model.is_quantized() {
        return Err(Error::usage(format!("`{name}` is not quantized: the profile {suffix} needs integer weights"))
            .hint(format!("`dsconv quantize {}` makes some, and `--profile fp32` writes floats", args.model.model)));
    }
    super::export::check_scales(args, &model)?;
    if args.target.is_two_level() {
        model = model.to_two_level()?;
    }
    let profile = match asked {
        Profile::Int4 => onnx::Profile::Int4 { activations: activations == Switch::On },
        Profile::Fp32 => onnx::Profile::Fp32,
        Profile::Int8 => {
            let Some(images) = &args.onnx.calibrate else {
                return Err(Error::usage("the profile int8 has one scale for each activation, found on images")
                    .hint("`--calibrate DATA` names some: a folder, a file, `embedded`; labels are not read"));
            };
            if model.layers.values().any(|layer| layer.codes.two_level().is_none()) {
                printer.talk("8-bit weights have two-level scales: codes and scales are fitted anew");
                model = model.to_two_level()?;
            }
            let ranges = ranges(images, &args.onnx, &model, printer)?;
            let codes = if args.onnx.symmetric { ActivationCodes::Symmetric } else { ActivationCodes::Unsigned };
            onnx::Profile::Int8 { ranges, codes }
        }
    };
    let bytes = onnx::export(&model, &profile)?;
    let written = output.save_bytes(&bytes, &model, start)?;
    let outcome = Outcome { written, profile: profile.name() };
    printer.result(&outcome, |printer| printer.line(&outcome.written));
    Ok(())
}

/// Of all values that are rounded, on images, with the weights of the file and everything else in floats.
fn ranges(data: &str, args: &Onnx, model: &Model, printer: &Printer) -> Result<Ranges> {
    let mut model = model.clone();
    model.layers.values_mut().for_each(|layer| layer.activation = None);
    let limit = Some(args.calibration_images.unwrap_or(CALIBRATION_IMAGES));
    let options = OpenOptions { limit, datasets: places::datasets(), ..OpenOptions::default() };
    let set = images::open_unlabelled(data, &model.preprocess(), &options)?;
    classes::report(&set, printer);
    let context = progress::context(device::open(DeviceName::Cpu)?, printer)?;
    let network = source::network(&model, &context.device);
    let nodes = onnx::observed(network.graph());
    let found = calibrate(&network, &nodes, &set, args.calibration.unwrap_or(Calibration::Mse), &context)?;
    let name = |id: graph::NodeId| network.graph().node(id).name.clone();
    let ranges: BTreeMap<_, _> =
        nodes.iter().zip(found).map(|(&id, [min, max])| (name(id), Range { min, max })).collect();
    for (node, Range { min, max }) in &ranges {
        printer.detail(format!("{node}: {min:.4} to {max:.4}"));
    }
    Ok(ranges)
}
