//! Options of `dsconv export` that have no use for what is written.
use model::Model;

use crate::error::{Error, Result};
use crate::names;
use crate::output::StoredScales;

use super::options::{ExportFormat, ExportOptions, OnnxProfile};

/// Refuses options that were given and that have no use for the format, and for an ONNX file of this profile.
pub fn refuse_ignored(options: &ExportOptions, format: ExportFormat, profile: Option<OnnxProfile>) -> Result<()> {
    let (onnx, image, target) = (&options.onnx, &options.model.image, &options.target);
    let is_onnx = format == ExportFormat::Onnx;
    let (int4, int8) = (profile == Some(OnnxProfile::Int4), profile == Some(OnnxProfile::Int8));
    let stored = matches!(format, ExportFormat::Safetensors | ExportFormat::Dsc);
    let described = format != ExportFormat::StateDict;
    // What was given, and whether it is of use.
    let given = [
        ("--profile", onnx.profile.is_some(), is_onnx),
        ("--activations", onnx.activations.is_some(), int4),
        ("--calibrate", onnx.calibrate.is_some(), int8),
        ("--calibration", onnx.calibration.is_some(), int8),
        ("--calibration-images", onnx.calibration_images.is_some(), int8),
        ("--symmetric", onnx.symmetric, int8),
        ("--scales", target.scales.is_some(), stored || ((int4 || int8) && target.is_two_level())),
        ("--floats", target.floats.is_some(), stored),
        ("--classes", options.model.classes.is_some(), described),
        ("--resize", image.resize.is_some(), described),
        ("--crop", image.crop.is_some(), described),
        ("--mean", image.mean.is_some(), described),
        ("--std", image.std.is_some(), described),
        ("--order", image.order.is_some(), described),
        ("--divide", image.divide.is_some(), described),
    ];
    let ignored: Vec<&str> =
        given.into_iter().filter(|&(_, is_given, used)| is_given && !used).map(|(option, ..)| option).collect();
    if ignored.is_empty() {
        return Ok(());
    }
    let what = match (format, profile) {
        (ExportFormat::Safetensors, _) => "a safetensors file",
        (ExportFormat::Dsc, _) => "a .dsc file",
        (ExportFormat::StateDict, _) => "a state dict of floats",
        (ExportFormat::Onnx, Some(OnnxProfile::Int8)) => "an ONNX file with the profile int8",
        (ExportFormat::Onnx, Some(OnnxProfile::Fp32)) => "an ONNX file with the profile fp32",
        (ExportFormat::Onnx, _) => "an ONNX file with the profile int4",
    };
    let error = Error::usage(format!("{what} makes no use of {}", names::quoted(ignored.iter().copied())));
    let of_onnx = ["--profile", "--activations", "--calibrate", "--calibration", "--calibration-images", "--symmetric"];
    Err(match !is_onnx && ignored.iter().any(|option| of_onnx.contains(option)) {
        true => error.hint(format!("{} are for `--format onnx`", names::quoted(of_onnx))),
        false => error.hint(if ignored.len() == 1 { "leave it out" } else { "leave them out" }),
    })
}

/// Refuses `--scales` for a model that has no scales, or whose scales are two-level and are stored as they are.
pub fn check_scales(options: &ExportOptions, model: &Model) -> Result<()> {
    let name = &options.model.name;
    match options.target.scales {
        Some(_) if !model.is_quantized() => {
            Err(Error::usage(format!("`{name}` is not quantized: there are no scales for `--scales`")))
        }
        Some(StoredScales::F16 | StoredScales::F32)
            if model.layers().values().any(|layer| layer.codes.two_level().is_some()) =>
        {
            Err(Error::usage(format!("`{name}` has two-level scales, which are stored as they are"))
                .hint("quantize the float model with the scales that you want"))
        }
        _ => Ok(()),
    }
}
