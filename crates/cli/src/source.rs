//! What a MODEL argument means: a name, a file that dsconv wrote, a checkpoint, an ONNX file, or a run folder.
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use distill::RunFolder;
use dsconv::Network;
use graph::{ImageConfig, Shape, pass};
use model::Model;

use crate::args::ModelArgs;
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::{built_in, checkpoint, classes, import, names, places, runs, slips};

/// A model with the name that files made from it get.
#[derive(Debug)]
pub struct Source {
    /// The model.
    pub model: Model,
    /// The network's name, or the file's without its extension.
    pub name: String,
    /// The file that was named, or the one of a run, if dsconv wrote it.
    pub file: Option<PathBuf>,
}

/// Opens what the arguments name.
///
/// # Errors
/// Nothing of that name, with the nearest; weights that are missing or do not fit.
pub fn open(args: &ModelArgs, printer: &Printer) -> Result<Source> {
    let mut source = open_with(&args.model, args.weights.as_ref(), &args.image.config(), printer)?;
    classes::Said::read(args.classes.as_deref())?.name(&mut source.model)?;
    Ok(source)
}

/// Opens a model by name, with weights of a file or its own, for images as `image` says.
///
/// # Errors
/// As [`open`].
pub fn open_with(name: &str, weights: Option<&PathBuf>, image: &ImageConfig, printer: &Printer) -> Result<Source> {
    open_network(&zoo::Config::new(name), weights, image, printer)
}

/// As [`open_with`], for a model of the name of `network` whose parameters are a checkpoint's and whose layers are as
/// `network` says.
///
/// # Errors
/// As [`open`]; settings of a network that is no checkpoint's.
pub fn open_network(
    network: &zoo::Config,
    weights: Option<&PathBuf>,
    image: &ImageConfig,
    printer: &Printer,
) -> Result<Source> {
    let path = Path::new(&network.name);
    let mut source = match weights {
        Some(weights) => named(&zoo::Config { input: square(image)?, ..network.clone() }, Some(weights), printer)?,
        None if is_checkpoint(path) => {
            let given = zoo::Config { name: String::new(), input: square(image)?, ..network.clone() };
            bare(path, &given, image.says_values(), printer)?
        }
        None if network.width.is_some() || network.stem.is_some() => {
            let error =
                Error::usage(format!("`{}` is no checkpoint: `--width` and `--stem` are for those", network.name));
            return Err(error.hint("give the weights with `--weights FILE`, or name their file as the model"));
        }
        None if import::is_onnx(path) && path.is_file() => return onnx(path, image, false, printer),
        None => open_name(&network.name, printer)?,
    };
    adjust(&mut source.model, image)?;
    Ok(source)
}

/// The side of the input that is asked of a network of the zoo.
///
/// # Errors
/// One that is not square.
pub fn square(image: &ImageConfig) -> Result<Option<usize>> {
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
/// What does not fit the network's input.
pub fn adjust(model: &mut Model, image: &ImageConfig) -> Result<()> {
    let Shape { channels, height, width } = model.graph.input();
    if image.input().is_some_and(|input| input != [height, width]) {
        return Err(Error::usage(format!("`{}` takes {height}x{width} images, no others", model.graph.name()))
            .hint("an input size is for ONNX files that leave it open, and for checkpoints"));
    }
    image.apply(&mut model.info.preprocess, channels).map_err(Error::usage)
}

/// An ONNX file.
fn onnx(path: &Path, image: &ImageConfig, quietly: bool, printer: &Printer) -> Result<Source> {
    Ok(Source { model: import::open(path, image, quietly, printer)?, name: stem(path), file: None })
}

/// Opens a model that has its weights: see [`open`].
///
/// # Errors
/// As [`open`].
pub fn open_name(model: &str, printer: &Printer) -> Result<Source> {
    // `./resnet50` is a file or folder even where a network has that name.
    if zoo::variant(model).is_ok() {
        return named(&zoo::Config::new(model), None, printer);
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
        let error = Error::usage(format!("no model at `{model}`: there is no such file or run folder"));
        return Err(match file {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error,
        });
    }
    let known: Vec<&str> = zoo::variants().iter().map(|variant| variant.name).collect();
    let error = Error::usage(format!("no model is named `{model}`, and there is no such file or run folder"));
    Err(match names::nearest(model, known).map(str::to_owned).or(file) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("`dsconv models` lists the names"),
    })
}

/// The network to run: batch normalisation folded into the layers before it, as in a teacher and in every quantized file.
pub fn network(model: &Model, device: &Device) -> Network {
    if model.is_quantized() {
        return Network::new(model, device);
    }
    let (graph, weights) = pass::fold_batch_norm(&model.graph, &model.weights);
    let layers = model.layers.clone();
    Network::new(&Model { graph, weights, layers, info: model.info.clone() }, device)
}

/// A file that dsconv wrote, or a checkpoint.
fn file(path: &Path, printer: &Printer) -> Result<Source> {
    if is_checkpoint(path) {
        return bare(path, &zoo::Config::default(), true, printer);
    }
    Ok(Source { model: files::load(path)?, name: stem(path), file: Some(path.to_owned()) })
}

/// A checkpoint, whose network is found by its parameters.
fn bare(path: &Path, given: &zoo::Config, quietly: bool, printer: &Printer) -> Result<Source> {
    match slips::of_model(path) {
        Some(error) => Err(error),
        None => Ok(Source { model: checkpoint::open(path, given, quietly, printer)?, name: stem(path), file: None }),
    }
}

/// Whether a path is a file that neither dsconv nor an exporter of ONNX files wrote: .dsc files and the header of ours
/// among safetensors tell.
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

/// A file's name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A run folder.
fn folder(run: &Path, printer: &Printer) -> Result<Source> {
    let path = run.join(RunFolder::MODEL);
    if !path.is_file() {
        let shown = run.display();
        if !RunFolder::is_run(run) {
            return Err(Error::usage(format!("`{shown}` is a folder, but not that of a run"))
                .hint("a model is a name, a file or a run folder; images go to `--data`"));
        }
        return Err(Error::failed(format!("`{shown}` has no `{}`: the run is not finished", RunFolder::MODEL))
            .hint("a run that was stopped goes on with `dsconv distill CONFIG --resume`"));
    }
    Ok(Source { name: runs::run_name(run), ..file(&path, printer)? })
}

/// A network of the zoo with its own weights, or those of a file.
///
/// # Errors
/// As [`open`].
pub fn named(config: &zoo::Config, weights: Option<&PathBuf>, printer: &Printer) -> Result<Source> {
    let name = config.name.as_str();
    let Ok(variant) = zoo::variant(name) else {
        let known: Vec<&str> = zoo::variants().iter().map(|variant| variant.name).collect();
        let error = Error::usage(format!("no network is named `{name}`: `--weights` needs one"));
        return Err(match names::nearest(name, known) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`dsconv models` lists the names"),
        });
    };
    if let Some(path) = weights {
        if import::is_onnx(path) {
            let error = Error::usage(format!("`{}`: an ONNX file is a whole network", path.display()));
            return Err(error.hint("name it as the model, without another's name"));
        }
        return Ok(Source { model: checkpoint::open(path, config, true, printer)?, name: name.to_owned(), file: None });
    }
    if let Some(model) = built_in::teacher(name) {
        return Ok(Source { model: model?, name: name.to_owned(), file: None });
    }
    if let Some(path) = places::fetched(variant).filter(|path| path.is_file()) {
        return Ok(Source {
            model: checkpoint::open(&path, config, true, printer)?,
            name: name.to_owned(),
            file: None,
        });
    }
    let error = Error::failed(format!("the weights of `{name}` are not here"));
    Err(error.hint(match &variant.source {
        Some(_) => format!("`dsconv data get {name}` downloads them, or give your own with `--weights FILE`"),
        None => "give a file with `--weights FILE`, or train some: `dsconv train CONFIG`".to_owned(),
    }))
}
