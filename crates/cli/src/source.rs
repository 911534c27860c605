//! What a MODEL argument means: a name, a file that dsconv wrote, an ONNX file, or a run folder.
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use distill::MODEL;
use dsconv::Network;
use graph::{Graph, ImageConfig, Info, Model, ModelError, Shape, Weights, pass};
use zoo::checkpoint::{self, CheckpointError};

use crate::args::ModelArgs;
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::{built_in, classes, import, names, places, runs, slips};

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
    let path = Path::new(name);
    if weights.is_none() && import::is_onnx(path) && path.is_file() {
        return onnx(path, image, false, printer);
    }
    let mut source = match weights {
        Some(weights) => {
            named(&zoo::Config { input: square(image)?, ..zoo::Config::new(name) }, Some(weights), printer)?
        }
        None => open_name(name, printer)?,
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
            .hint("an input size is for ONNX files that leave it open, and for networks with --weights"));
    }
    image.apply(&mut model.info.preprocess, channels).map_err(Error::usage)
}

/// An ONNX file.
fn onnx(path: &Path, image: &ImageConfig, quietly: bool, printer: &Printer) -> Result<Source> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Source { model: import::open(path, image, quietly, printer)?, name, file: None })
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
        return if import::is_onnx(path) { onnx(path, &ImageConfig::default(), true, printer) } else { file(path) };
    }
    if let Some(run) = runs::find(path) {
        return folder(&run);
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

/// A file that dsconv wrote.
fn file(path: &Path) -> Result<Source> {
    if let Some(error) = slips::of_model(path) {
        return Err(error);
    }
    let torch = path.extension().is_some_and(|e| ["pth", "pt", "th", "bin"].iter().any(|t| e.eq_ignore_ascii_case(t)));
    let bare = |what: &str| {
        let shown = path.display();
        Error::usage(format!("`{shown}`: {what}"))
            .hint(format!("name the network too, such as `resnet50 --weights {shown}`"))
    };
    if torch {
        return Err(bare("a PyTorch file holds weights alone, not a network"));
    }
    let model = Model::load(path).map_err(|error| match &error {
        ModelError::File { source, .. } if matches!(**source, ModelError::NoHeader) => {
            bare("this file holds weights alone, not a network that dsconv wrote")
        }
        _ => Error::from(error),
    })?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Source { model, name, file: Some(path.to_owned()) })
}

/// A run folder.
fn folder(run: &Path) -> Result<Source> {
    let path = run.join(MODEL);
    if !path.is_file() {
        let shown = run.display();
        if !runs::is_run(run) {
            return Err(Error::usage(format!("`{shown}` is a folder, but not that of a run"))
                .hint("a model is a name, a file or a run folder; images go to `--data`"));
        }
        return Err(Error::failed(format!("`{shown}` has no `{MODEL}`: the run is not finished"))
            .hint("a run that was stopped goes on with `dsconv distill CONFIG --resume`"));
    }
    Ok(Source { name: runs::run_name(run), ..file(&path)? })
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
        return Ok(Source { model: with_weights(config, path, printer)?, name: name.to_owned(), file: None });
    }
    if let Some(model) = built_in::teacher(name) {
        return Ok(Source { model: model?, name: name.to_owned(), file: None });
    }
    if let Some(path) = places::fetched(variant).filter(|path| path.is_file()) {
        return Ok(Source { model: with_weights(config, &path, printer)?, name: name.to_owned(), file: None });
    }
    let error = Error::failed(format!("the weights of `{name}` are not here"));
    Err(error.hint(match &variant.source {
        Some(_) => format!("`dsconv data get {name}` downloads them, or give your own with `--weights FILE`"),
        None => "give a file with `--weights FILE`, or train some: `dsconv train CONFIG`".to_owned(),
    }))
}

/// The network of `config` with the parameters of a checkpoint. A classifier of another size is taken over: the number
/// of classes is the checkpoint's.
///
/// # Errors
/// A network that cannot be built; what [`checkpoint::load`] says.
fn with_weights(config: &zoo::Config, path: &Path, printer: &Printer) -> Result<Model> {
    let mut config = config.clone();
    let mut graph = zoo::build(&config)?;
    let mut loaded = checkpoint::load(path, &graph);
    if let Some(classes) = loaded.as_ref().err().and_then(|error| classes_of(error, &graph)) {
        printer.talk(format!("{} has {classes} classes", path.display()));
        config.classes = Some(classes);
        graph = zoo::build(&config)?;
        loaded = checkpoint::load(path, &graph);
    }
    assemble(&config, graph, loaded?, path.display().to_string())
}

fn assemble(config: &zoo::Config, graph: Graph, weights: Weights, source: String) -> Result<Model> {
    let info = Info { preprocess: config.preprocess()?, classes: Vec::new(), source };
    Ok(Model::float(graph, weights, info)?)
}

/// The number of classes of a checkpoint that differs from the graph in its last layer's outputs alone.
fn classes_of(error: &CheckpointError, graph: &Graph) -> Option<usize> {
    let CheckpointError::Weights { source, .. } = error else { return None };
    if !source.missing.is_empty() || !source.unexpected.is_empty() {
        return None;
    }
    let outputs = graph.output().channels;
    let mut classes = source.wrong_shape.iter().map(|(_, want, got)| {
        let fits = want.first() == Some(&outputs) && want.len() == got.len() && want[1..] == got[1..];
        fits.then(|| got[0])
    });
    let first = classes.next()??;
    classes.all(|other| other == Some(first)).then_some(first)
}
