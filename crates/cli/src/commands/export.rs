use std::time::Instant;

use graph::Graph;
use model::{Model, ModelError};
use zoo::Stem;

use crate::args::{Export, Format, Network, Profile, Scales};
use crate::error::{Error, Result};
use crate::output::{Ending, Output, check_file};
use crate::printer::Printer;
use crate::{classes, deploy, source};

pub fn run(args: &Export, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let format = format(args)?;
    if format != Format::Onnx {
        refuse_ignored(args, format, None)?;
    }
    let Network { width, stem } = args.network;
    let network = zoo::Config { width, stem, ..zoo::Config::new(&args.model.model) };
    let image = args.model.image.config();
    let mut source = source::open_network(&network, args.model.weights.as_ref(), &image, printer)?;
    classes::Said::read(args.model.classes.as_deref())?.name(&mut source.model)?;
    let ending = match format {
        Format::Safetensors => ".safetensors",
        Format::Dsc => ".dsc",
        Format::StateDict => "_state_dict.safetensors",
        Format::Onnx => return super::onnx::run(args, source, printer, start),
    };
    let output = Output::new(&args.target, &format!("{}{ending}", source.name), &args.model.files())?;
    if format == Format::Dsc && !source.model.is_quantized() {
        return Err(not_quantized(&args.model.model, &source.name));
    }
    check_scales(args, &source.model)?;
    if format == Format::Safetensors && !source.model.is_quantized() {
        printer.warn(format!("`{}` is not quantized: the file holds floats", source.name));
    }
    if args.target.is_two_level() {
        source.model = source.model.to_two_level()?;
    }
    let model = &source.model;
    let options = args.target.options(model.scale_precision());
    let written = match format {
        Format::Dsc => output.save_bytes(&deploy::bytes(model, &options, printer)?, model, start)?,
        Format::StateDict => output.save_bytes(&state_dict(model, printer)?, model, start)?,
        _ => output.save(model, &options, start)?,
    };
    printer.result(&written, |printer| printer.line(&written));
    Ok(())
}

/// The format to write: that of `--format`, that of the file's ending, or safetensors.
///
/// # Errors
/// They differ, the ending names no format, or the file cannot be written.
fn format(args: &Export) -> Result<Format> {
    let Some(path) = &args.target.output else { return Ok(args.format.unwrap_or(Format::Safetensors)) };
    check_file(path, args.target.force, &args.model.files())?;
    let ending = Ending::of(path)?;
    let (of_ending, name) = match ending {
        Ending::Safetensors => (Format::Safetensors, "safetensors"),
        Ending::Dsc => (Format::Dsc, "dsc"),
        Ending::Onnx => (Format::Onnx, "onnx"),
    };
    match args.format {
        None => Ok(of_ending),
        Some(Format::StateDict) if ending == Ending::Safetensors => Ok(Format::StateDict),
        Some(format) if format == of_ending => Ok(format),
        Some(format) => {
            let (asked, ending) = match format {
                Format::StateDict => ("state-dict", "safetensors"),
                Format::Safetensors => ("safetensors", "safetensors"),
                Format::Dsc => ("dsc", "dsc"),
                Format::Onnx => ("onnx", "onnx"),
            };
            let error = Error::usage(format!("`{}` names another format than --format {asked}", path.display()));
            let name_it = path.with_extension(ending);
            Err(error.hint(format!("`--format {name}`, or `-o {}`", name_it.display())))
        }
    }
}

/// # Errors
/// Options that were given and that the format does not use, or an ONNX file of this profile.
pub(super) fn refuse_ignored(args: &Export, format: Format, profile: Option<Profile>) -> Result<()> {
    let (onnx, image, target) = (&args.onnx, &args.model.image, &args.target);
    let is_onnx = format == Format::Onnx;
    let (int4, int8) = (profile == Some(Profile::Int4), profile == Some(Profile::Int8));
    let stored = matches!(format, Format::Safetensors | Format::Dsc);
    let described = format != Format::StateDict;
    // What was given, and whether it is of use.
    let options = [
        ("--profile", onnx.profile.is_some(), is_onnx),
        ("--activations", onnx.activations.is_some(), int4),
        ("--calibrate", onnx.calibrate.is_some(), int8),
        ("--calibration", onnx.calibration.is_some(), int8),
        ("--calibration-images", onnx.calibration_images.is_some(), int8),
        ("--symmetric", onnx.symmetric, int8),
        ("--scales", target.scales.is_some(), stored || ((int4 || int8) && target.is_two_level())),
        ("--floats", target.floats.is_some(), stored),
        ("--classes", args.model.classes.is_some(), described),
        ("--resize", image.resize.is_some(), described),
        ("--crop", image.crop.is_some(), described),
        ("--mean", image.mean.is_some(), described),
        ("--std", image.std.is_some(), described),
        ("--order", image.order.is_some(), described),
        ("--divide", image.divide.is_some(), described),
    ];
    let ignored: Vec<&str> =
        options.into_iter().filter(|&(_, given, used)| given && !used).map(|(option, ..)| option).collect();
    if ignored.is_empty() {
        return Ok(());
    }
    let what = match (format, profile) {
        (Format::Safetensors, _) => "a safetensors file",
        (Format::Dsc, _) => "a .dsc file",
        (Format::StateDict, _) => "a state dict of floats",
        (Format::Onnx, Some(Profile::Int8)) => "an ONNX file with the profile int8",
        (Format::Onnx, Some(Profile::Fp32)) => "an ONNX file with the profile fp32",
        (Format::Onnx, _) => "an ONNX file with the profile int4",
    };
    let error = Error::usage(format!("{what} makes no use of {}", crate::names::quoted(ignored.iter().copied())));
    let of_onnx = ["--profile", "--activations", "--calibrate", "--calibration", "--calibration-images", "--symmetric"];
    Err(match !is_onnx && ignored.iter().any(|option| of_onnx.contains(option)) {
        true => error.hint(format!("{} are for `--format onnx`", crate::names::quoted(of_onnx))),
        false => error.hint(if ignored.len() == 1 { "leave it out" } else { "leave them out" }),
    })
}

/// # Errors
/// `--scales` for a model that has none, or that has two-level scales, which are stored as they are.
pub(super) fn check_scales(args: &Export, model: &Model) -> Result<()> {
    let name = &args.model.model;
    match args.target.scales {
        Some(_) if !model.is_quantized() => {
            Err(Error::usage(format!("`{name}` is not quantized: there are no scales for `--scales`")))
        }
        Some(Scales::F16 | Scales::F32) if model.layers.values().any(|layer| layer.codes.two_level().is_some()) => {
            Err(Error::usage(format!("`{name}` has two-level scales, which are stored as they are"))
                .hint("quantize the float model with the scales that you want"))
        }
        _ => Ok(()),
    }
}

fn not_quantized(model: &str, name: &str) -> Error {
    Error::usage(format!("`{name}` is not quantized: a .dsc file holds integers"))
        .hint(format!("`dsconv quantize {model} -o {name}.dsc` makes one"))
}

/// Under the names of the zoo's network where the model is one of those, else under its own.
fn state_dict(model: &Model, printer: &Printer) -> Result<Vec<u8>> {
    for original in originals(&model.graph) {
        match files::state_dict(model, &original) {
            Err(files::FileError::Model(ModelError::Layer { .. })) => {}
            result => return Ok(result?),
        }
    }
    let name = model.graph.name();
    printer.warn(format!("`{name}` is no network of the zoo: the names are its own, batch normalisation stays folded"));
    Ok(files::state_dict(model, &model.graph)?)
}

/// The zoo's networks of a graph's name, input and classes, as wide as it is, with every stem.
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
