//! The config of `dsconv train`: its keys, and the network and the images that it names.
use std::path::PathBuf;

use distill::{Optimizer, RunFolder, Start, TrainConfig};
use graph::{Graph, ImageConfig, Preprocess, Weights};
use images::{ClassNames, Classes, Labelled, OpenOptions, Split};
use model::Model;
use serde::{Deserialize, Serialize};

use crate::config::ConfigFile;
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::{classes, names, places};

use super::faults::images_error;
use super::named::images_at;

/// A config of `dsconv train`. Every key but the network has a default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// The network.
    pub model: zoo::Config,
    /// What the network expects of an image, where that is not what its name says.
    #[serde(default, skip_serializing_if = "ImageConfig::is_empty")]
    image: ImageConfig,
    /// The file of the weights to begin with, or of a quantized network, or its run folder; `None` for random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<PathBuf>,
    /// The labelled images.
    #[serde(default)]
    data: TrainData,
    /// The settings of training.
    #[serde(default)]
    pub train: TrainConfig,
}

impl TrainRecipe {
    /// Returns the config that says nothing but its network.
    pub fn new(model: &str) -> Self {
        let model = zoo::Config::new(model);
        let (image, data, train) = (ImageConfig::default(), TrainData::default(), TrainConfig::default());
        Self { model, image, start: None, data, train }
    }

    /// Returns a config that has a value for every key.
    #[cfg(test)]
    pub fn full(image: ImageConfig) -> Self {
        let model = zoo::Config {
            name: "googlenet".into(),
            classes: Some(1),
            channels: Some(3),
            width: Some(1.0),
            stem: Some(zoo::Stem::Small),
            input: Some(64),
            transform_input: true,
        };
        let TrainData { train, eval, .. } = TrainData::default();
        let data = TrainData { train, eval, train_images: Some(1), eval_images: Some(1) };
        Self { model, image, start: Some("w.pth".into()), data, train: TrainConfig::default() }
    }

    /// Reads a config and resolves its paths: see [`ConfigFile::resolve`].
    ///
    /// # Errors
    /// A key or a value is wrong, which is pointed at; the weights to begin with are not there.
    pub fn read(file: &ConfigFile, printer: &Printer) -> Result<Self> {
        let mut recipe: Self = file.parse()?;
        if let Some(start) = &recipe.start {
            let path = file.resolve("start", start, printer);
            let path = if path.is_dir() { path.join(RunFolder::MODEL) } else { path };
            if !path.is_file() {
                return Err(file.error_at("start", format!("there is no file `{}`", path.display()), None));
            }
            recipe.start = Some(path);
        }
        recipe.data.train = images_at("data.train", &recipe.data.train, file, printer)?;
        recipe.data.eval = images_at("data.eval", &recipe.data.eval, file, printer)?;
        Ok(recipe)
    }

    /// Checks what can be checked without a file, the network and the settings, and builds the network.
    ///
    /// # Errors
    /// A value makes no sense. The error comes with its key.
    pub fn check(&self) -> Result<Graph, (String, Error)> {
        let graph = zoo::build(&self.model).map_err(|error| model_error(&error))?;
        self.check_settings()?;
        Ok(graph)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// A value makes no sense. The error comes with its key.
    fn check_settings(&self) -> Result<(), (String, Error)> {
        self.train.check().map_err(|error| match &error {
            distill::Error::Config { setting, why } => {
                (format!("train.{setting}"), Error::usage(format!("`{setting}` {why}")))
            }
            other => ("train".to_owned(), Error::failed(other)),
        })?;
        for (key, limit) in [("train_images", self.data.train_images), ("eval_images", self.data.eval_images)] {
            if limit == Some(0) {
                return Err((format!("data.{key}"), Error::usage(format!("`{key}` must be more than 0"))));
            }
        }
        Ok(())
    }

    /// Opens the quantized network to begin with; `None` where the training begins with a float one.
    ///
    /// # Errors
    /// The file cannot be read; `[model]` says something else than the file.
    fn quantized(&self, file: &ConfigFile) -> Result<Option<Model>> {
        let Some(path) = &self.start else { return Ok(None) };
        // A checkpoint of others is none of these, and is read as one.
        let Some(model) = files::load(path).ok().filter(Model::is_quantized) else { return Ok(None) };
        let (name, own) = (&self.model.name, model.graph().name());
        if name != own {
            let message = format!("`start` is a quantized `{own}`, not a `{name}`");
            return Err(file.error_at("model.name", message, Some(format!("`name = \"{own}\"`"))));
        }
        if self.model != zoo::Config::new(name) {
            let message =
                "`start` is a quantized network, which is trained as it is: beside `name` nothing can be set here";
            return Err(file.error_at("model", message, None));
        }
        if self.train.optimizer == Optimizer::Sgd {
            let message = "codes and scales are trained by Adam: the rates of a quantized network are meant for it";
            let hint = "`optimizer = \"adam\"` and `learning_rate = 3e-4` in `[train]`".to_owned();
            return Err(file.error_at("train.optimizer", message, Some(hint)));
        }
        Ok(Some(model))
    }

    /// Builds the network, and opens its weights and the images.
    ///
    /// # Errors
    /// A value makes no sense, which is pointed at; weights or images cannot be read or do not fit the network.
    pub fn open(&self, file: &ConfigFile, printer: &Printer) -> Result<TrainInputs> {
        let at = |(key, error): (String, Error)| file.point(&key, &error);
        let (start, mut preprocess) = match self.quantized(file)? {
            Some(model) => {
                self.check_settings().map_err(at)?;
                let preprocess = model.info().preprocess.clone();
                (Beginning::Quantized(Box::new(model)), preprocess)
            }
            None => {
                let graph = self.check().map_err(at)?;
                let weights = self.start.as_ref().map(|path| zoo::checkpoint::load(path, &graph)).transpose()?;
                (Beginning::Float(graph, weights), self.model.preprocess()?)
            }
        };
        let graph = start.start().graph();
        let input = graph.input();
        self.image.apply(&mut preprocess, input.channels).map_err(|error| file.error_at("image", error, None))?;
        let open = |key: &str, spec: &str, split, limit| {
            let datasets = places::datasets();
            let options = OpenOptions { split: Some(split), limit, datasets, ..OpenOptions::default() };
            images::open_labelled(spec, &preprocess.fitted(input), &options)
                .map_err(|error| images_error(file, key, error))
        };
        let data = &self.data;
        let train = open("data.train", &data.train, Split::Train, data.train_images)?;
        let eval = open("data.eval", &data.eval, Split::Eval, data.eval_images)?;
        for set in [&train, &eval] {
            classes::report(&set.without_labels(), printer);
            classes::report_resized(&set.without_labels(), &preprocess, input, printer);
        }
        let (train, eval) = labelled(&train, &eval, graph.head().classes(), file, printer)?;
        Ok(TrainInputs { start, preprocess, train, eval })
    }
}

/// What a training begins with.
pub enum Beginning {
    /// A float network, with weights to begin with or random ones.
    Float(Graph, Option<Weights>),
    /// A quantized network.
    Quantized(Box<Model>),
}

impl Beginning {
    /// Returns it as the library takes it.
    pub fn start(&self) -> Start<'_> {
        match self {
            Self::Float(graph, Some(weights)) => Start::Weights(graph, weights),
            Self::Float(graph, None) => Start::Random(graph),
            Self::Quantized(model) => Start::Quantized(model),
        }
    }
}

/// The network and the images that a config names, opened.
pub struct TrainInputs {
    /// The network, and what it begins with.
    pub start: Beginning,
    /// What the network expects of an image.
    pub preprocess: Preprocess,
    /// The images to train on.
    pub train: Labelled,
    /// The images to measure on.
    pub eval: Labelled,
}

/// The names of data sets, or paths of folders and files, of labelled images.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainData {
    /// The images to train on.
    train: String,
    /// The images to measure on.
    eval: String,
    /// The most images to train on; they are spread over the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    train_images: Option<usize>,
    /// The most images to measure on; they are spread over the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_images: Option<usize>,
}

impl Default for TrainData {
    fn default() -> Self {
        Self { train: "embedded".into(), eval: "embedded".into(), train_images: None, eval_images: None }
    }
}

/// Labels both sets with the outputs of a network of `count` classes. The folders of the training images are the classes, in
/// the order of their names; the folders of the other images are matched with them by name.
///
/// # Errors
/// The training images have another number of classes than the network; the folders of both sets differ.
fn labelled(
    train: &Labelled,
    eval: &Labelled,
    count: usize,
    file: &ConfigFile,
    printer: &Printer,
) -> Result<(Labelled, Labelled)> {
    let found = train.class_names().len();
    if found > 0 && found != count {
        let message = format!("the network has {count} classes, `{}` has {found}", train.name());
        return Err(file.error_at("model.classes", message, Some(format!("`classes = {found}` in `[model]`"))));
    }
    let train = train.for_network(count, Classes::InOrder)?;
    let names = ClassNames::from(train.set.class_names());
    let classes = if names.is_empty() { Classes::InOrder } else { Classes::Given(&names) };
    let eval = eval.for_network(count, classes).map_err(|error| {
        file.error_at("data.eval", error, Some("its classes have the names of those of `data.train`".to_owned()))
    })?;
    train.notes.iter().chain(&eval.notes).for_each(|note| printer.warn(note));
    Ok((train.set, eval.set))
}

/// Tells an error of `[model]`, with the key that it is about.
fn model_error(error: &zoo::ZooError) -> (String, Error) {
    use zoo::ZooError::{Graph, Range, Stem, TransformChannels, TransformInput, UnknownName, Width};
    let key = match error {
        UnknownName { .. } => "model.name".to_owned(),
        Width { .. } => "model.width".to_owned(),
        Range { what, .. } => format!("model.{what}"),
        Stem { .. } => "model.stem".to_owned(),
        TransformInput { .. } | TransformChannels => "model.transform_input".to_owned(),
        Graph(_) => "model".to_owned(),
    };
    let told = match error {
        UnknownName { name, nearest } => Error::usage(format!("no network is named `{name}`"))
            .hint(names::did_you_mean(nearest.as_deref(), names::MODELS)),
        error => Error::usage(error),
    };
    (key, told)
}
