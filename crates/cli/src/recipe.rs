//! A config of `dsconv distill`, and what it opens.
use std::fmt;
use std::path::PathBuf;

use distill::AdaptConfig;
use graph::{Float, Model, Policy, PolicyError, Preprocess, SaveOptions};
use images::{Labelled, OpenOptions, Unlabelled};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::commands::{check_labels, model_error, report_skipped};
use crate::config::ConfigFile;
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::source;

/// A config of `dsconv distill`. All but `model` has defaults.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The float teacher.
    pub model: Teacher,
    /// Decides the order of images and which are held out.
    #[serde(default)]
    pub seed: u64,
    /// The images.
    #[serde(default)]
    pub data: Data,
    /// Bits, blocks and scale rule of every layer.
    #[serde(default)]
    pub quantize: Policy,
    /// How the student is adapted.
    #[serde(default)]
    pub adapt: AdaptConfig,
    /// How floats are stored in the exported file.
    #[serde(default = "half_scales")]
    pub export: SaveOptions,
}

/// Scales in half precision; the other floats are few, and stay as they are.
fn half_scales() -> SaveOptions {
    SaveOptions { floats: Float::F32, scales: Float::F16 }
}

/// The images: names of data sets, folders or CIFAR files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// To adapt on; labels that are there are not read.
    pub adapt: String,
    /// To measure on, with labels.
    pub eval: String,
    /// At most this many images to adapt on, spread over the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapt_images: Option<usize>,
    /// At most this many images to measure on, spread over the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_images: Option<usize>,
}

impl Default for Data {
    fn default() -> Self {
        Self { adapt: "embedded".into(), eval: "embedded".into(), adapt_images: None, eval_images: None }
    }
}

/// The teacher: `model = "name, file or run folder"`, or a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Teacher {
    /// A name (`dsconv models`), a file that dsconv wrote, or a run folder.
    pub name: String,
    /// Weights of a named network; its own otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<PathBuf>,
    /// Differences from the named network.
    #[serde(flatten)]
    changes: Changes,
    /// From an image to the network's input, where it is not the network's usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    preprocess: Option<Preprocess>,
}

/// Differences from a network of the zoo; see [`zoo::Config`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct Changes {
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stem: Option<zoo::Stem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    transform_input: bool,
}

/// [`Teacher`] as a table; flattened tables would lose the place of an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    weights: Option<PathBuf>,
    classes: Option<usize>,
    width: Option<f64>,
    stem: Option<zoo::Stem>,
    input: Option<usize>,
    #[serde(default)]
    transform_input: bool,
    preprocess: Option<Preprocess>,
}

impl<'de> Deserialize<'de> for Teacher {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TeacherVisitor;
        impl<'de> Visitor<'de> for TeacherVisitor {
            type Value = Teacher;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, a path, or a table with `name`")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Teacher, E> {
                Ok(Teacher { name: name.into(), weights: None, changes: Changes::default(), preprocess: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Teacher, A::Error> {
                let Table { name, weights, classes, width, stem, input, transform_input, preprocess } =
                    Table::deserialize(MapAccessDeserializer::new(map))?;
                let changes = Changes { classes, width, stem, input, transform_input };
                Ok(Teacher { name, weights, changes, preprocess })
            }
        }
        deserializer.deserialize_any(TeacherVisitor)
    }
}

impl Teacher {
    /// # Errors
    /// No such model, with the nearest; weights that are not here or do not fit.
    fn open(&self, file: &ConfigFile, printer: &Printer) -> Result<Model> {
        let place = if file.has("model.name") { "model.name" } else { "model" };
        let mut model = match &self.weights {
            Some(weights) => {
                let config = self.config();
                zoo::build(&config).map_err(|error| model_error(file, &error))?;
                source::with_weights(&config, weights, printer)?
            }
            None if self.changes != Changes::default() => {
                return Err(file.error_at(
                    place,
                    format!("a changed `{}` has no weights of its own", self.name),
                    Some("add `weights = \"FILE\"`".into()),
                ));
            }
            None => {
                source::open_name(&self.name, printer)
                    .map_err(|error| match error.code() {
                        2 => file.error_at(place, error.message(), error.advice().map(str::to_owned)),
                        _ => error,
                    })?
                    .model
            }
        };
        if let Some(preprocess) = &self.preprocess {
            model.info.preprocess = preprocess.clone();
        }
        if model.is_quantized() {
            return Err(file.error_at(
                place,
                format!("`{}` is quantized already: a teacher is in floats", self.name),
                None,
            ));
        }
        Ok(model)
    }

    fn config(&self) -> zoo::Config {
        let Changes { classes, width, stem, input, transform_input } = self.changes;
        zoo::Config { classes, width, stem, input, transform_input, ..zoo::Config::new(&self.name) }
    }
}

/// What a recipe works on.
pub struct Opened {
    /// The teacher.
    pub teacher: Model,
    /// Images to adapt on, without labels.
    pub adapt: Unlabelled,
    /// Images to measure on.
    pub eval: Labelled,
}

impl Recipe {
    /// Checks what can be checked early, and opens model and images.
    ///
    /// # Errors
    /// A setting that makes no sense, pointed at; a model or images that are not here.
    pub fn open(&self, file: &ConfigFile, printer: &Printer) -> Result<Opened> {
        self.adapt.check().map_err(|error| match &error {
            distill::Error::Config { setting, why } => {
                let key = setting.rsplit('.').next().unwrap_or(setting);
                file.error_at(setting, format!("`{key}` {why}"), None)
            }
            _ => Error::failed(&error),
        })?;
        let teacher = self.model.open(file, printer)?;
        let (folded, _) = graph::pass::fold_batch_norm(&teacher.graph, &teacher.weights);
        let plan = self.quantize.resolve(&folded).map_err(|error| self.policy_error(file, &error))?;
        if plan.0.is_empty() {
            return Err(file.error_at("quantize", "every layer is skipped: nothing is left to quantize", None));
        }

        let preprocess = &teacher.info.preprocess;
        let options = |limit| OpenOptions { limit, datasets: source::datasets(), ..OpenOptions::default() };
        let eval = images::open_labelled(&self.data.eval, preprocess, &options(self.data.eval_images))
            .map_err(|error| images_error(file, "data.eval", error))?;
        let adapt = images::open_unlabelled(&self.data.adapt, preprocess, &options(self.data.adapt_images))
            .map_err(|error| images_error(file, "data.adapt", error))?;
        report_skipped(&eval.skipped(), printer);
        report_skipped(&adapt.skipped(), printer);
        check_labels(&eval, &teacher)?;
        Ok(Opened { teacher, adapt, eval })
    }

    fn policy_error(&self, file: &ConfigFile, error: &PolicyError) -> Error {
        let rule = |pattern: &str| {
            let index = self.quantize.rules.iter().position(|rule| rule.layers == pattern).unwrap_or_default();
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
}

/// Names and paths that lead nowhere are pointed at; the rest is about the files.
fn images_error(file: &ConfigFile, key: &str, error: images::ImageError) -> Error {
    match &error {
        images::ImageError::NotFound { .. } => {
            let error = Error::from(error);
            file.error_at(key, error.message(), error.advice().map(str::to_owned))
        }
        _ => Error::from(error),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

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
            let recipe: Recipe = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            recipe.adapt.check().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let graph = zoo::build(&recipe.model.config()).unwrap();
            recipe.quantize.resolve(&graph).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    #[test]
    fn a_resolved_config_reads_as_itself() {
        let text = "[model]\nname = \"resnet20\"\nweights = \"w.th\"\nclasses = 3\n[quantize]\nactivation = false\n";
        let recipe: Recipe = toml::from_str(text).unwrap();
        let resolved = toml::to_string(&recipe).unwrap();
        assert_eq!(toml::to_string(&toml::from_str::<Recipe>(&resolved).unwrap()).unwrap(), resolved);
        assert_eq!(recipe.model.config().classes, Some(3));
    }

    #[test]
    fn a_teacher_is_a_name_or_a_table() {
        let teacher = |text: &str| toml::from_str::<Recipe>(text).map(|recipe| recipe.model);
        assert_eq!(teacher("model = \"resnet18\"").unwrap(), teacher("model = { name = \"resnet18\" }").unwrap());
        let error = teacher("[model]\nname = \"x\"\nwidht = 2\n").unwrap_err();
        assert_eq!(error.span(), Some(19..24), "{error}");
        assert!(teacher("model = 3").is_err());
    }
}
