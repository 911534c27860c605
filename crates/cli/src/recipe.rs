//! A config of `dsconv distill`: what it opens, and its mistakes pointed at.
use std::path::{Path, PathBuf};

use distill::{AdaptConfig, Adaptation, DistillConfig, Eval};
use graph::{ImageConfig, Preprocess};
use images::{OpenOptions, Unlabelled};
use model::{Model, Policy, PolicyError, SaveOptions};
use serde::{Deserialize, Serialize};

use crate::config::ConfigFile;
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::{classes, places, source};

/// The data set that needs no download.
const EMBEDDED: &str = "embedded";

/// A config of `dsconv distill`: what it names, and the library's settings. Every key has a default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillRecipe {
    /// The teacher: a network of the zoo, a file, or a run folder.
    pub model: String,
    /// Weights for a network of the zoo that are not its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// A file of the names of the teacher's classes, in the order of its outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// The seed of [`DistillConfig::seed`].
    pub seed: u64,
    /// The device to compute on.
    pub device: String,
    /// What the teacher expects of an image, where its file does not say it or is wrong.
    #[serde(skip_serializing_if = "ImageConfig::is_empty")]
    pub image: ImageConfig,
    /// The images.
    pub data: Data,
    /// The layers' formats.
    pub quantize: Policy,
    /// The settings of adaptation.
    pub adapt: AdaptConfig,
    /// The precision of the stored student.
    pub export: SaveOptions,
}

impl Default for DistillRecipe {
    fn default() -> Self {
        Self {
            model: "resnet50-embedded".into(),
            weights: None,
            classes: None,
            seed: 0,
            device: "cpu".into(),
            image: ImageConfig::default(),
            data: Data::default(),
            quantize: Policy::default(),
            adapt: AdaptConfig::default(),
            export: SaveOptions::default(),
        }
    }
}

impl DistillRecipe {
    /// The settings that the library uses.
    pub fn config(&self) -> DistillConfig {
        let Self { seed, quantize, adapt, export, .. } = self.clone();
        DistillConfig { seed, quantize, adapt, export }
    }
}

/// Names of image sets, or paths.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Images to adapt to; labels that are there are not read.
    pub adapt: String,
    /// Images to measure on; with labels, accuracy is measured too. Left out: the embedded ones where those are adapted to,
    /// else the images held out of the ones to adapt to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<String>,
    /// At most this many images to adapt to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// At most this many images to measure on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_limit: Option<usize>,
}

impl Default for Data {
    fn default() -> Self {
        Self { adapt: EMBEDDED.into(), eval: None, limit: None, eval_limit: None }
    }
}

/// What a config works on.
pub struct Opened {
    /// The teacher.
    pub teacher: Model,
    /// Images to adapt on, without labels.
    pub adapt: Unlabelled,
    /// Images to measure on.
    pub eval: Eval,
}

/// A config's values, its paths resolved: see [`ConfigFile::resolve`].
///
/// # Errors
/// A key or value that is wrong, pointed at; no model.
pub fn read(file: &ConfigFile, printer: &Printer) -> Result<DistillRecipe> {
    let mut config: DistillRecipe = file.parse()?;
    file.require("model", "the network to quantize, by name or as a file", "\"resnet50-embedded\"")?;
    // A name of the zoo is not looked for as a file.
    if zoo::variant(&config.model).is_err() {
        config.model = text(file.resolve("model", Path::new(&config.model), printer));
    }
    config.weights = config.weights.map(|path| file.resolve("weights", &path, printer));
    config.classes = config.classes.map(|path| file.resolve("classes", &path, printer));
    config.data.adapt = images_at("data.adapt", &config.data.adapt, file, printer)?;
    config.data.eval = match config.data.eval.take() {
        Some(eval) => Some(images_at("data.eval", &eval, file, printer)?),
        // The embedded set comes in parts.
        None => (config.data.adapt == EMBEDDED).then(|| EMBEDDED.to_owned()),
    };
    Ok(config)
}

/// Images that a config names: a data set, or a path that is resolved.
///
/// # Errors
/// A manifest that cannot be read.
pub fn images_at(key: &str, given: &str, file: &ConfigFile, printer: &Printer) -> Result<String> {
    Ok(match images::Manifest::find(given, &places::datasets())? {
        Some(_) => given.to_owned(),
        None => text(file.resolve(key, Path::new(given), printer)),
    })
}

/// A path that came from a config's text, perhaps with a folder before it.
fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

/// Checks what can be checked without a file.
///
/// # Errors
/// The setting whose value makes no sense.
pub fn check(config: &DistillRecipe) -> Result<(), distill::Error> {
    config.adapt.check()?;
    for (key, limit) in [("data.limit", config.data.limit), ("data.eval_limit", config.data.eval_limit)] {
        if limit == Some(0) {
            return Err(distill::Error::Config { setting: key.into(), why: "must be more than 0".into() });
        }
    }
    Ok(())
}

/// Checks what can be checked early, and opens model and images.
///
/// # Errors
/// A setting that makes no sense, pointed at; a model or images that are not here.
pub fn open(config: &DistillRecipe, file: &ConfigFile, printer: &Printer) -> Result<Opened> {
    check(config).map_err(|error| setting_error(file, error, ""))?;
    let mut teacher = teacher(config, file, printer)?;
    let classes = classes::Said::read(config.classes.as_deref())
        .map_err(|error| file.error_at("classes", error.message(), error.advice().map(str::to_owned)))?;
    classes.name(&mut teacher)?;
    let (folded, _) = graph::pass::fold_batch_norm(&teacher.graph, &teacher.weights);
    let plan = config.quantize.resolve(&folded).map_err(|error| policy_error(config, file, &error))?;
    if plan.0.is_empty() {
        return Err(file.error_at("quantize", "every layer is skipped: nothing is left to quantize", None));
    }

    let data = &config.data;
    let preprocess = &teacher.preprocess();
    let options = |limit| OpenOptions { limit, datasets: places::datasets(), ..OpenOptions::default() };
    let eval = match &data.eval {
        Some(spec) => {
            let opened = eval(spec, preprocess, &options(data.eval_limit), printer);
            match opened.map_err(|error| images_error(file, "data.eval", error))? {
                Eval::Labelled(set) => {
                    report(&set.without_labels(), &teacher, printer);
                    let set = classes.labelled(&set, &teacher, printer)?;
                    if teacher.info.classes.is_empty() && set.class_names().len() == teacher.graph.head().classes() {
                        teacher.info.classes = set.class_names().to_vec();
                    }
                    Eval::Labelled(set)
                }
                other => other,
            }
        }
        None => {
            printer.talk("`data.eval` names no images: the ones held out of `data.adapt` are measured on");
            Eval::HeldOut
        }
    };
    let adapt = images::open_unlabelled(&data.adapt, preprocess, &options(data.limit))
        .map_err(|error| images_error(file, "data.adapt", error))?;
    report(&adapt, &teacher, printer);
    let (policy, settings) = (&config.quantize, &config.adapt);
    let adaptation = Adaptation { teacher: &teacher, policy, images: &adapt, config: settings, seed: config.seed };
    adaptation.check().map_err(|error| setting_error(file, error, ""))?;
    Ok(Opened { teacher, adapt, eval })
}

/// What there is to say of a set of images.
fn report(set: &Unlabelled, teacher: &Model, printer: &Printer) {
    classes::report(set, printer);
    classes::report_resized(set, &teacher.info.preprocess, teacher.graph.input(), printer);
}

/// Images to measure on, with labels if they have some.
fn eval(
    spec: &str,
    preprocess: &Preprocess,
    options: &OpenOptions,
    printer: &Printer,
) -> Result<Eval, images::ImageError> {
    let set = match images::open_labelled(spec, preprocess, options) {
        Err(images::ImageError::NoLabels { name, hint }) => {
            printer.talk(format!("{name} has no labels: agreement and SQNR are measured, accuracy is not ({hint})"));
            let set = images::open_unlabelled(spec, preprocess, options)?;
            classes::report(&set, printer);
            return Ok(Eval::Unlabelled(set));
        }
        opened => opened?,
    };
    Ok(Eval::Labelled(set))
}

/// The float teacher that a config names.
fn teacher(config: &DistillRecipe, file: &ConfigFile, printer: &Printer) -> Result<Model> {
    let name = &config.model;
    let opened =
        source::open_with(name, config.weights.as_ref(), &config.image, printer).map_err(|error| match error.code() {
            2 => file.error_at("model", error.message(), tilde(error.message()).or(error.advice().map(str::to_owned))),
            _ => error,
        });
    let model = opened?.model;
    if model.is_quantized() {
        return Err(file.error_at("model", format!("`{name}` is quantized already: a teacher is in floats"), None));
    }
    Ok(model)
}

/// A setting that the library refuses, pointed at; `table` is where its settings lie in the config.
pub fn setting_error(file: &ConfigFile, error: distill::Error, table: &str) -> Error {
    match error {
        distill::Error::Config { setting, why } => {
            let key = setting.rsplit('.').next().unwrap_or(&setting);
            file.error_at(&format!("{table}{setting}"), format!("`{key}` {why}"), None)
        }
        error => Error::from(error),
    }
}

fn policy_error(config: &DistillRecipe, file: &ConfigFile, error: &PolicyError) -> Error {
    let rule = |pattern: &str| {
        let index = config.quantize.rules.iter().position(|rule| rule.layers == pattern).unwrap_or_default();
        format!("quantize.rules.{index}.layers")
    };
    match error {
        PolicyError::NoLayer { graph, pattern, nearest } => {
            let hint = (!nearest.is_empty()).then(|| {
                let names = crate::names::quoted(nearest.iter().map(String::as_str));
                format!("the nearest names are {names}; `*` and `?` stand for any letters")
            });
            file.error_at(&rule(pattern), format!("no layer of `{graph}` is named `{pattern}`"), hint)
        }
        PolicyError::EmptyRule { pattern } => file.error_at(&rule(pattern), error, None),
        _ => file.error_at("quantize", error, None),
    }
}

/// A shell knows what `~` is, a config does not.
fn tilde(message: &str) -> Option<String> {
    message.contains("`~/").then(|| "`~` is the shell's: write the whole path".to_owned())
}

/// Names and paths that lead nowhere are pointed at; the rest is about the files.
pub fn images_error(file: &ConfigFile, key: &str, error: images::ImageError) -> Error {
    use images::ImageError::{Empty, NoLabels, NotFetched, NotFound};
    let named = matches!(error, NotFound { .. } | Empty { .. } | NoLabels { .. } | NotFetched { .. });
    let error = Error::from(error);
    if named {
        file.error_at(key, error.message(), tilde(error.message()).or(error.advice().map(str::to_owned)))
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::DistillRecipe;

    /// All configs of `dsconv distill` in the repository.
    fn configs(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .flat_map(|path| match path.is_dir() {
                true if path.ends_with("train") => vec![],
                true => configs(&path),
                false => vec![path],
            })
            .collect()
    }

    #[test]
    fn every_config_of_the_repository_fits_its_network() {
        let all = configs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs"));
        assert!(all.len() >= 5);
        for path in all {
            let text = std::fs::read_to_string(&path).unwrap();
            let recipe: DistillRecipe =
                toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            recipe.adapt.check().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if Path::new(&recipe.model).extension().is_some() {
                // The user's own file.
                continue;
            }
            let graph = zoo::build(&zoo::Config::new(&recipe.model)).unwrap();
            recipe.quantize.resolve(&graph).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}
