use std::path::PathBuf;
use std::time::Instant;

use distill::{RunFolder, TrainConfig, Training};
use graph::ImageConfig;
use images::{ClassNames, Classes, Labelled, OpenOptions, Split};
use model::SaveOptions;
use serde::{Deserialize, Serialize};

use crate::args::{DeviceName, Train};
use crate::config::{ConfigFile, Kind};
use crate::error::{Error, Result};
use crate::printer::{Printer, lossy};
use crate::table::{bytes, duration};
use crate::{classes, device, places, progress, recipe};

/// A config of `dsconv train`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The network.
    model: zoo::Config,
    /// What it expects of an image, where that is not what its name says.
    #[serde(default, skip_serializing_if = "ImageConfig::is_empty")]
    image: ImageConfig,
    /// Weights to begin with; random ones otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<PathBuf>,
    /// Labelled images.
    #[serde(default)]
    data: Data,
    /// How it is trained.
    #[serde(default)]
    train: TrainConfig,
}

impl Recipe {
    /// The default for a network.
    pub fn new(model: &str) -> Self {
        let model = zoo::Config::new(model);
        let (image, data, train) = (ImageConfig::default(), Data::default(), TrainConfig::default());
        Self { model, image, start: None, data, train }
    }

    /// With a value for every key.
    #[cfg(test)]
    pub fn full() -> Self {
        let model = zoo::Config {
            name: "googlenet".into(),
            classes: Some(1),
            channels: Some(3),
            width: Some(1.0),
            stem: Some(zoo::Stem::Small),
            input: Some(64),
            transform_input: true,
        };
        let Data { train, eval, .. } = Data::default();
        let data = Data { train, eval, train_images: Some(1), eval_images: Some(1) };
        let image = crate::keys::tests::full_image();
        Self { model, image, start: Some("w.pth".into()), data, train: TrainConfig::default() }
    }

    /// What can be checked without a file: the network, which is built, and the settings. The error comes with its key.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub fn check(&self) -> Result<graph::Graph, (String, Error)> {
        let graph = zoo::build(&self.model).map_err(|error| model_error(&error))?;
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
        Ok(graph)
    }
}

/// Labelled images: names of data sets or paths.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Data {
    /// To train on.
    train: String,
    /// To measure on.
    eval: String,
    /// At most this many images to train on, spread over the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    train_images: Option<usize>,
    /// At most this many images to measure on, spread over the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_images: Option<usize>,
}

impl Default for Data {
    fn default() -> Self {
        Self { train: "embedded".into(), eval: "embedded".into(), train_images: None, eval_images: None }
    }
}

/// What came out.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(serialize_with = "lossy")]
    run: PathBuf,
    #[serde(serialize_with = "lossy")]
    model: PathBuf,
    /// Percent.
    top1: f64,
    /// Percent.
    top5: f64,
    bytes: u64,
    seconds: f64,
}

pub fn run(args: &Train, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let file = ConfigFile::open(&args.config, Kind::Train, &args.set, printer)?;
    let mut recipe: Recipe = file.parse()?;
    if let Some(start) = &recipe.start {
        let path = file.resolve("start", start, printer);
        if !path.is_file() {
            return Err(file.error_at("start", format!("there is no file `{}`", path.display()), None));
        }
        recipe.start = Some(path);
    }
    recipe.data.train = recipe::images_at("data.train", &recipe.data.train, &file, printer)?;
    recipe.data.eval = recipe::images_at("data.eval", &recipe.data.eval, &file, printer)?;
    let graph = recipe
        .check()
        .map_err(|(key, error)| file.error_at(&key, error.message(), error.advice().map(str::to_owned)))?;
    let mut preprocess = recipe.model.preprocess()?;
    let input = graph.input();
    recipe.image.apply(&mut preprocess, input.channels).map_err(|error| file.error_at("image", error, None))?;
    let device = device::open(args.device.device.unwrap_or(DeviceName::Cpu))?;
    let weights = match &recipe.start {
        Some(path) => Some(zoo::checkpoint::load(path, &graph)?),
        None => None,
    };
    let open = |key: &str, spec: &str, split, limit| {
        let options = OpenOptions { split: Some(split), limit, datasets: places::datasets(), ..OpenOptions::default() };
        images::open_labelled(spec, &preprocess.fitted(input), &options)
            .map_err(|error| recipe::images_error(&file, key, error))
    };
    let data = &recipe.data;
    let train = open("data.train", &data.train, Split::Train, data.train_images)?;
    let eval = open("data.eval", &data.eval, Split::Eval, data.eval_images)?;
    for set in [&train, &eval] {
        classes::report(&set.without_labels(), printer);
        classes::report_resized(&set.without_labels(), &preprocess, input, printer);
    }
    let (train, eval) = labelled(&train, &eval, graph.head().classes(), &file, printer)?;
    let folder = super::distill::run_folder(&file.name(), args.out.as_ref(), args.resume, args.force, printer)?;
    printer.talk(format!("training {} on {} images of {}", recipe.model.name, train.len(), train.name()));

    let context = progress::context(device, printer)?;
    let known = [train.skipped().len(), eval.skipped().len()];
    let training = Training {
        graph: &graph,
        start: weights.as_ref(),
        images: &train,
        eval: &eval,
        preprocess: &preprocess,
        config: &recipe.train,
    };
    let trained = distill::train(&training, &folder, &context);
    classes::report_late(&train.without_labels(), known[0], printer);
    classes::report_late(&eval.without_labels(), known[1], printer);
    let trained = trained.map_err(|error| super::distill::explain(error, &file, &folder, "train."))?;
    let run = folder.path().to_owned();
    let path = run.join(RunFolder::MODEL);
    let size = files::save(&trained.model, &path, &SaveOptions::default())?;
    files::write_atomic(&run.join(RunFolder::CONFIG), toml::to_string(&recipe)?.as_bytes())?;

    let seconds = start.elapsed().as_secs_f64();
    let outcome = Outcome { run, model: path, top1: trained.top1, top5: trained.top5, bytes: size, seconds };
    printer.result(&outcome, |printer| {
        printer.line(format!("top-1 {:.2}, top-5 {:.2} on {}", outcome.top1, outcome.top5, eval.name()));
        let time = duration(start.elapsed());
        printer.line(format!("wrote {}: {}, in {time}", outcome.model.display(), bytes(outcome.bytes)));
    });
    Ok(())
}

/// Both sets with the outputs of a network of `count` classes: the folders of the training images are its classes, in the order
/// of their names, and those of the others are the same by name.
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
    let eval = eval.for_network(count, classes)?;
    train.notes.iter().chain(&eval.notes).for_each(|note| printer.warn(note));
    Ok((train.set, eval.set))
}

/// An error of `[model]`, with the key that it is about.
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
        UnknownName { name, nearest } => {
            let hint = nearest.as_ref().map(|near| format!("did you mean `{near}`?"));
            let hint = hint.unwrap_or_else(|| "`dsconv models` lists the names".to_owned());
            Error::usage(format!("no network is named `{name}`")).hint(hint)
        }
        error => Error::usage(error),
    };
    (key, told)
}
