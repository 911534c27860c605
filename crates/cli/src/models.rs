//! Models as users name them: by a name, a file that dsconv wrote, a checkpoint, an ONNX file, or a run folder.
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use distill::RunFolder;
use dsconv::Network;
use graph::{ImageConfig, Op, Preprocess, Resize, Role, Shape, normalised_pixels};
use model::Model;
use zoo::Stem;

use crate::checkpoint::Source;
use crate::classes::GivenClasses;
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::{built_in, checkpoint, import, names, places, runs, slips};

/// A model as the user names it.
#[derive(Debug, Clone, Default)]
pub struct ModelSpec {
    /// The name of a network, or the path of a file or a run folder.
    pub name: String,
    /// The checkpoint with the weights of a named network.
    pub weights: Option<PathBuf>,
    /// The bytes of a checkpoint in memory: of the named network, or of one that is found by them where the name is
    /// [`checkpoint::STATE_DICT`].
    pub state_dict: Option<Arc<[u8]>>,
    /// The file with the names of the classes.
    pub classes: Option<PathBuf>,
    /// What the network expects of an image, where its file does not say so or is wrong.
    pub image: ImageConfig,
}

impl ModelSpec {
    /// Returns the files that are read.
    pub fn files(&self) -> Vec<&Path> {
        [Some(Path::new(&self.name)), self.weights.as_deref(), self.classes.as_deref()].into_iter().flatten().collect()
    }
}

/// A model with the name that files made from it get.
#[derive(Debug)]
pub struct OpenedModel {
    /// The model.
    pub model: Model,
    /// The name of the network, or of the file without its extension.
    pub name: String,
    /// The file that was named, or the one of a run, where dsconv wrote it.
    pub file: Option<PathBuf>,
    /// Tells whether its file, its name or the user says how images become its input; else that is assumed.
    pub is_prepared: bool,
}

/// Opens a model.
///
/// # Errors
/// There is nothing of that name; weights are missing or do not fit; the names of the classes do not fit.
pub fn open(spec: &ModelSpec, printer: &Printer) -> Result<OpenedModel> {
    open_changed(spec, &Changes::default(), printer)
}

/// How the network of a checkpoint differs from the zoo's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes {
    /// The multiplier of all channel counts.
    pub width: Option<f64>,
    /// The first layers.
    pub stem: Option<Stem>,
}

/// Opens a model, for a checkpoint as a changed network of the zoo.
///
/// # Errors
/// As [`open`]; a network that is changed is no checkpoint's.
pub fn open_changed(spec: &ModelSpec, changes: &Changes, printer: &Printer) -> Result<OpenedModel> {
    let mut opened = open_without_classes(spec, changes, printer)?;
    GivenClasses::read(spec.classes.as_deref())?.name(&mut opened.model, printer)?;
    Ok(opened)
}

fn open_without_classes(spec: &ModelSpec, changes: &Changes, printer: &Printer) -> Result<OpenedModel> {
    let ModelSpec { name, weights, image, .. } = spec;
    let &Changes { width, stem } = changes;
    let path = Path::new(name);
    if let Some(bytes) = &spec.state_dict {
        let mut opened = state_dict(bytes, spec, changes, printer)?;
        adjust(&mut opened.model, image)?;
        return sure(opened, spec, printer);
    }
    let mut opened = match weights {
        Some(weights) => {
            let network = zoo::Config { width, stem, input: square(image)?, ..zoo::Config::new(name) };
            named(&network, Some(weights), Some(image), printer)?
        }
        None if is_checkpoint(path) => {
            let given = zoo::Config { width, stem, input: square(image)?, ..zoo::Config::default() };
            bare(path, &given, Some(image), printer)?
        }
        None if width.is_some() || stem.is_some() => {
            let error = Error::usage(format!("`{name}` is no checkpoint: `--width` and `--stem` are for those"));
            return Err(error.hint("give the weights with `--weights FILE`, or name their file as the model"));
        }
        None if import::is_onnx(path) && path.is_file() => onnx(path, image, false, printer)?,
        None => open_name(name, printer)?,
    };
    if !import::is_onnx(path) || weights.is_some() {
        adjust(&mut opened.model, image)?;
        opened.is_prepared |= image.says_values();
    }
    sure(opened, spec, printer)
}

/// Checks that a network takes images of the size that is asked for.
///
/// # Errors
/// It takes others.
fn takes(model: &Model, image: &ImageConfig) -> Result<()> {
    let Shape { height, width, .. } = model.graph().input();
    let Preprocess { resize, crop, .. } = &model.info().preprocess;
    let size = match (crop, resize) {
        (Some(size), _) | (None, Some(Resize::Exact(size))) => size,
        _ => return Ok(()),
    };
    if (image.resize.is_some() || image.crop.is_some()) && *size != [height, width] {
        let [given_height, given_width] = size;
        return Err(Error::usage(format!(
            "images become {given_height}x{given_width} (--resize, --crop), `{}` takes {height}x{width}",
            model.graph().name()
        )));
    }
    Ok(())
}

/// Checks that the parameters of a float network can be those of one.
///
/// # Errors
/// One is NaN or infinite; a variance is negative.
fn sound(model: &Model, file: &str) -> Result<()> {
    let at = |name: &str, (index, value): (usize, &f32), why: &str| {
        Error::failed(format!("`{file}`: `{name}` has {value} at element {index}: {why}"))
            .hint("the file is damaged, or its training diverged: take another checkpoint")
    };
    for (name, tensor) in model.weights().iter() {
        if let Some(found) = tensor.data().iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(at(name, found, "parameters are finite numbers"));
        }
    }
    for node in model.graph().nodes() {
        let Op::BatchNorm2d { eps, .. } = node.op else { continue };
        let Some(variances) = model.weights().of(&node.name).get(Role::Variance) else { continue };
        let is_negative = |found: &(usize, &f32)| f64::from(*found.1) + eps <= 0.0;
        if let Some(found) = variances.data().iter().enumerate().find(is_negative) {
            return Err(at(&Role::Variance.name(&node.name), found, "a variance is never negative"));
        }
    }
    Ok(())
}

/// Checks what the model is and expects of images, says what is assumed beside what is said of these, and warns where that is
/// doubtful.
///
/// # Errors
/// Images become of another size than it takes; a parameter of it is no number that a network can have.
fn sure(opened: OpenedModel, spec: &ModelSpec, printer: &Printer) -> Result<OpenedModel> {
    takes(&opened.model, &spec.image)?;
    if !opened.model.is_quantized() {
        sound(&opened.model, &spec.weights.as_ref().map_or(spec.name.clone(), |path| path.display().to_string()))?;
    }
    let (model, preprocess) = (&opened.model, &opened.model.info().preprocess);
    if let Some(rest) = import::rest(&spec.image, preprocess) {
        printer.assume(format!("assumed: {rest}"));
    }
    if let Some(doubt) = preprocess.doubt() {
        printer.warn(format!("{doubt} (--divide, --mean, --std)"));
    }
    let is_plain = preprocess.mean.iter().all(|&mean| mean == 0.0) && preprocess.std.iter().all(|&std| std == 1.0);
    if let Some(divide) = normalised_pixels(model.graph(), model.weights())
        && !(is_plain && preprocess.divide == divide)
    {
        let most = 255.0 / divide;
        printer.warn(format!(
            "the network's first operations normalise pixels of 0 to {most}, but images are normalised before that, too (--divide, --mean, --std)"
        ));
    }
    Ok(opened)
}

/// Opens a checkpoint in memory.
fn state_dict(bytes: &[u8], spec: &ModelSpec, changes: &Changes, printer: &Printer) -> Result<OpenedModel> {
    let ModelSpec { name, image, .. } = spec;
    let &Changes { width, stem } = changes;
    let is_named = name != checkpoint::STATE_DICT;
    let network = if is_named { zoo::Config::new(name) } else { zoo::Config::default() };
    let network = zoo::Config { width, stem, input: square(image)?, ..network };
    if is_named {
        variant(name)?;
    }
    let model = checkpoint::open(Source::Bytes(bytes), &network, Some(image), printer)?;
    Ok(OpenedModel { model, name: name.clone(), file: None, is_prepared: is_named || image.says_values() })
}

/// Returns the side of the input that is asked of a network of the zoo.
///
/// # Errors
/// The input is not square.
fn square(image: &ImageConfig) -> Result<Option<usize>> {
    match image.input() {
        Some([height, width]) if height != width => {
            Err(Error::usage(format!("input {height},{width}: networks of the zoo take square images")))
        }
        input => Ok(input.map(|[side, _]| side)),
    }
}

/// Changes what a model expects of an image.
///
/// # Errors
/// The change does not fit the network's input.
fn adjust(model: &mut Model, image: &ImageConfig) -> Result<()> {
    let Shape { channels, height, width } = model.graph().input();
    if image.input().is_some_and(|input| input != [height, width]) {
        return Err(Error::usage(format!("`{}` takes {height}x{width} images, no others", model.graph().name()))
            .hint("an input size is for ONNX files that leave it open, and for checkpoints"));
    }
    image.apply(&mut model.info_mut().preprocess, channels).map_err(Error::usage)
}

/// Opens an ONNX file.
fn onnx(path: &Path, image: &ImageConfig, quietly: bool, printer: &Printer) -> Result<OpenedModel> {
    let (model, is_prepared) = import::open(path, image, quietly, printer)?;
    Ok(OpenedModel { model, name: stem(path), file: None, is_prepared })
}

/// Opens a model that has its weights, by name or path alone.
///
/// # Errors
/// As [`open`].
pub fn open_name(model: &str, printer: &Printer) -> Result<OpenedModel> {
    // `./resnet50` is a file or folder even where a network has that name.
    if zoo::variant(model).is_ok() {
        return named(&zoo::Config::new(model), None, None, printer);
    }
    let path = Path::new(model);
    if path.is_file() {
        // Images are prepared as the model that this one is compared with says.
        return if import::is_onnx(path) {
            onnx(path, &ImageConfig::default(), true, printer)
        } else {
            file(path, printer)
        };
    }
    if let Some(run) = runs::find(path) {
        return folder(&run, printer);
    }
    let looks_like_a_path = model.contains(['/', '\\']) || path.extension().is_some();
    let file = slips::of_file(path);
    if looks_like_a_path {
        let error = Error::usage(format!("no model at `{model}`: there is no such file or run folder")).into_missing();
        return Err(match file {
            Some(near) => error.hint(names::did_you_mean(Some(&near), "")),
            None => error,
        });
    }
    let error =
        Error::usage(format!("no model is named `{model}`, and there is no such file or run folder")).into_missing();
    let near = names::nearest_network(model).map(str::to_owned).or(file);
    Err(error.hint(names::did_you_mean(near.as_deref(), names::MODELS)))
}

/// Builds the network to run. Batch normalisation is folded into the layers before it, as in a teacher and in every quantized
/// file.
pub fn network(model: &Model, device: &Device) -> Network {
    if model.is_quantized() {
        return Network::new(model, device);
    }
    let folded = model.clone().fold().expect("a float model can be folded");
    Network::trainable(folded.graph(), folded.weights(), device)
}

/// Opens a file that dsconv wrote, or a checkpoint.
fn file(path: &Path, printer: &Printer) -> Result<OpenedModel> {
    if is_checkpoint(path) {
        return bare(path, &zoo::Config::default(), None, printer);
    }
    Ok(OpenedModel { model: files::load(path)?, name: stem(path), file: Some(path.to_owned()), is_prepared: true })
}

/// Opens a checkpoint, whose network is found by its parameters.
fn bare(path: &Path, given: &zoo::Config, image: Option<&ImageConfig>, printer: &Printer) -> Result<OpenedModel> {
    match slips::of_model(path) {
        Some(error) => Err(error),
        None => {
            let model = checkpoint::open(Source::File(path), given, image, printer)?;
            Ok(OpenedModel { model, name: stem(path), file: None, is_prepared: false })
        }
    }
}

/// Tells whether a path is a file that neither dsconv nor an exporter of ONNX files wrote. Files of dsconv begin as a .dsc
/// file does, or have its header among safetensors.
fn is_checkpoint(path: &Path) -> bool {
    if !path.is_file() || import::is_onnx(path) || zoo::variant(&path.to_string_lossy()).is_ok() {
        return false;
    }
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(9).read_to_end(&mut head));
    if read.is_err() || head.starts_with(&model::dsc::MAGIC) {
        return false;
    }
    let is_safetensors = head.len() == 9 && head[4..] == *b"\0\0\0\0{";
    !is_safetensors || matches!(files::packed::is_packed(path), Ok(false))
}

/// Returns a file's name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Opens the model of a run folder.
fn folder(run: &Path, printer: &Printer) -> Result<OpenedModel> {
    let path = run.join(RunFolder::MODEL);
    if !path.is_file() {
        let shown = run.display();
        if !RunFolder::is_run(run) {
            let images = printer.images().map(|to| format!("; {to}")).unwrap_or_default();
            return Err(Error::usage(format!("`{shown}` is a folder, but not that of a run"))
                .hint(format!("a model is a name, a file or a run folder{images}")));
        }
        return Err(Error::failed(format!("`{shown}` has no `{}`: the run is not finished", RunFolder::MODEL))
            .hint(format!("a run that was stopped goes on with `{}`", runs::resuming(run))));
    }
    Ok(OpenedModel { name: runs::run_name(run), ..file(&path, printer)? })
}

/// Finds the network of the zoo that weights are given for.
///
/// # Errors
/// It has none of that name.
fn variant(name: &str) -> Result<&'static zoo::Variant> {
    zoo::variant(name).map_err(|_| {
        let error = Error::usage(format!("no network is named `{name}`: `--weights` needs one")).into_missing();
        error.hint(names::did_you_mean(names::nearest_network(name), names::MODELS))
    })
}

/// Opens a network of the zoo with its own weights, or with those of a file, whose images are assumed to be those of the network. That
/// is said where `image` leaves it open.
fn named(
    config: &zoo::Config,
    weights: Option<&PathBuf>,
    image: Option<&ImageConfig>,
    printer: &Printer,
) -> Result<OpenedModel> {
    let name = config.name.as_str();
    let variant = variant(name)?;
    if let Some(path) = weights {
        if import::is_onnx(path) {
            let error = Error::usage(format!("`{}`: an ONNX file is a whole network", path.display()));
            return Err(error.hint("name it as the model, without another's name"));
        }
        let model = checkpoint::open(Source::File(path), config, image, printer)?;
        return Ok(OpenedModel { model, name: name.to_owned(), file: None, is_prepared: true });
    }
    if let Some(model) = built_in::teacher(name) {
        return Ok(OpenedModel { model: model?, name: name.to_owned(), file: None, is_prepared: true });
    }
    if let Some(path) = places::fetched(variant).filter(|path| path.is_file()) {
        let model = checkpoint::open(Source::File(&path), config, None, printer)?;
        return Ok(OpenedModel { model, name: name.to_owned(), file: None, is_prepared: true });
    }
    let error = Error::failed(format!("the weights of `{name}` are not here")).into_missing();
    Err(error.hint(match &variant.source {
        Some(_) => format!("`dsconv data get {name}` downloads them, or give your own with `--weights FILE`"),
        None => "give a file with `--weights FILE`, or train some: `dsconv train CONFIG`".to_owned(),
    }))
}
