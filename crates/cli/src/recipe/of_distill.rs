//! The config of `dsconv distill`: its keys, and the model and the images that it names.
use std::path::{Path, PathBuf};

use distill::{AdaptConfig, Adaptation, DistillConfig, Eval};
use graph::{ImageConfig, Preprocess};
use images::{OpenOptions, Unlabelled};
use model::policy::ActivationRule;
use model::{Model, Policy, PolicyError, RuleError, SaveOptions};
use serde::{Deserialize, Serialize};

use crate::classes::GivenClasses;
use crate::config::ConfigFile;
use crate::error::{Error, Result};
use crate::models::ModelSpec;
use crate::pictures::EMBEDDED;
use crate::printer::Printer;
use crate::{classes, models, names, pictures, places};

use super::faults::{images_error, point_at_path, setting_error};
use super::named::{images_at, text};

/// A config of `dsconv distill`: what it names, and the settings of the library. Every key has a default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillRecipe {
    /// The teacher: a network of the zoo, a file, or a run folder.
    pub model: String,
    /// The file of weights for a network of the zoo that are not its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// A file of the names of the teacher's classes, in the order of its outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// The seed, see [`DistillConfig::seed`].
    pub seed: u64,
    /// The device to compute on.
    pub device: String,
    /// What the teacher expects of an image, where its file does not say it or is wrong.
    #[serde(skip_serializing_if = "ImageConfig::is_empty")]
    pub image: ImageConfig,
    /// The images.
    pub data: DistillData,
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
            data: DistillData::default(),
            quantize: Policy::default(),
            adapt: AdaptConfig::default(),
            export: SaveOptions::default(),
        }
    }
}

impl DistillRecipe {
    /// Returns the settings that the library uses.
    pub fn config(&self) -> DistillConfig {
        let Self { seed, quantize, adapt, export, .. } = self.clone();
        DistillConfig { seed, quantize, adapt, export }
    }

    /// Reads a config and resolves its paths: see [`ConfigFile::resolve`].
    ///
    /// # Errors
    /// A key or a value is wrong, which is pointed at; the config names no model.
    pub fn read(file: &ConfigFile, printer: &Printer) -> Result<Self> {
        let mut config: Self = file.parse()?;
        file.require("model", "the network to quantize, by name or as a file", "resnet50-embedded")?;
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

    /// Checks what can be checked without a file.
    ///
    /// # Errors
    /// The value of a setting makes no sense.
    pub fn check(&self) -> Result<(), distill::Error> {
        self.adapt.check()?;
        for (key, limit) in [("data.limit", self.data.limit), ("data.eval_limit", self.data.eval_limit)] {
            if limit == Some(0) {
                return Err(distill::Error::Config { setting: key.into(), why: "must be more than 0".into() });
            }
        }
        Ok(())
    }

    /// Checks what can be checked before the work, and opens the model and the images.
    ///
    /// # Errors
    /// A setting makes no sense, which is pointed at; the model or images are not here or cannot be read.
    pub fn open(&self, file: &ConfigFile, printer: &Printer) -> Result<DistillInputs> {
        self.check().map_err(|error| setting_error(file, error, ""))?;
        let mut teacher = open_teacher(self, file, printer)?;
        let classes = GivenClasses::read(self.classes.as_deref()).map_err(|error| file.point("classes", &error))?;
        classes.name(&mut teacher, printer)?;
        let folded = teacher.graph().fold();
        let plan = self.quantize.resolve(&folded).map_err(|error| policy_error(self, file, &error))?;
        self.quantize.check_rules(&folded).map_err(|error| rule_error(file, &error))?;
        self.check_image_keys(file)?;
        if plan.layers().is_empty() {
            return Err(file.error_at("quantize", "every layer is skipped: nothing is left to quantize", None));
        }

        if !pictures::is_embedded(&teacher) {
            file.require("data.adapt", "the unlabelled images to adapt to", "photos/unlabelled")?;
        }
        let eval = self.open_eval(&mut teacher, &classes, file, printer)?;
        let adapt = images::open_unlabelled(&self.data.adapt, &teacher.preprocess(), &spread(self.data.limit))
            .map_err(|error| images_error(file, "data.adapt", error))?;
        report(&adapt, &teacher, printer);
        if self.data.adapt != EMBEDDED && self.data.eval.as_ref() == Some(&self.data.adapt) {
            printer.warn("the student is measured on the images that it adapts to: others say more");
        }
        let (policy, config) = (&self.quantize, &self.adapt);
        let adaptation = Adaptation { teacher: &teacher, policy, images: &adapt, config, seed: self.seed };
        adaptation.check().map_err(|error| setting_error(file, error, ""))?;
        Ok(DistillInputs { teacher, adapt, eval })
    }

    /// Checks that what is said of the inputs of some layers is not said of inputs in floats.
    fn check_image_keys(&self, file: &ConfigFile) -> Result<()> {
        let Policy { activation, image_bits, image_sum, winograd, rules, .. } = &self.quantize;
        // A rule may give a layer integers all the same, for which the others count.
        let some = rules.iter().any(|rule| matches!(rule.activation, Some(ActivationRule::Change(_))));
        let key = match activation {
            None if *image_bits != Policy::default().image_bits => "image_bits",
            None if *image_sum && !some => "image_sum",
            None if winograd.is_some() && !some => "winograd",
            _ => return Ok(()),
        };
        Err(file.error_at(
            &format!("quantize.{key}"),
            format!("`{key}` is without effect: `activation = false` keeps the inputs of layers in floats"),
            Some("leave one of them out".to_owned()),
        ))
    }

    /// Opens the images to measure on. The teacher takes the names of its classes from them where it has none.
    fn open_eval(
        &self,
        teacher: &mut Model,
        classes: &GivenClasses,
        file: &ConfigFile,
        printer: &Printer,
    ) -> Result<Eval> {
        let Some(spec) = &self.data.eval else {
            printer.talk("`data.eval` names no images: the ones held out of `data.adapt` are measured on");
            return Ok(Eval::HeldOut);
        };
        let opened = eval(spec, &teacher.preprocess(), &spread(self.data.eval_limit), printer);
        let set = match opened.map_err(|error| images_error(file, "data.eval", error))? {
            Eval::Labelled(set) => set,
            other => return Ok(other),
        };
        report(&set.without_labels(), teacher, printer);
        let set = classes.labelled(&set, teacher, printer).map_err(|error| match file.says("data.eval") {
            true => file.point("data.eval", &error),
            false => error.into_usage().hint(format!(
                "`data.eval` names no images, so the {EMBEDDED} ones are measured on, which are of other classes: \
                 `--set data.eval=DIR` names images for this network, with or without labels"
            )),
        })?;
        if teacher.info().classes.is_empty() && set.class_names().len() == teacher.graph().head().classes() {
            teacher.info_mut().classes = set.class_names().to_vec();
        }
        Ok(Eval::Labelled(set))
    }
}

/// The names of data sets, or paths of folders and files, of images.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillData {
    /// The images to adapt to. Their labels are not read.
    pub adapt: String,
    /// The images to measure on; with labels, accuracy is measured too. `None` means the embedded images where the student
    /// adapts to those, else the images held out of the ones to adapt to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<String>,
    /// The most images to adapt to; they are spread over the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The most images to measure on; they are spread over the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_limit: Option<usize>,
}

impl Default for DistillData {
    fn default() -> Self {
        Self { adapt: EMBEDDED.into(), eval: None, limit: None, eval_limit: None }
    }
}

/// The model and the images that a config names, opened.
pub struct DistillInputs {
    /// The teacher.
    pub teacher: Model,
    /// The images to adapt to, without labels.
    pub adapt: Unlabelled,
    /// The images to measure on.
    pub eval: Eval,
}

/// Returns the options for a set of which at most `limit` images are used.
fn spread(limit: Option<usize>) -> OpenOptions {
    OpenOptions { limit, datasets: places::datasets(), ..OpenOptions::default() }
}

/// Says what there is to say of a set of images.
fn report(set: &Unlabelled, teacher: &Model, printer: &Printer) {
    classes::report(set, printer);
    classes::report_resized(set, &teacher.info().preprocess, teacher.graph().input(), printer);
}

/// Opens the images to measure on, with labels where they have some.
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

/// Opens the float teacher that a config names.
fn open_teacher(config: &DistillRecipe, file: &ConfigFile, printer: &Printer) -> Result<Model> {
    let name = &config.model;
    let spec = ModelSpec {
        name: name.clone(),
        weights: config.weights.clone(),
        image: config.image.clone(),
        ..ModelSpec::default()
    };
    let opened = models::open(&spec, printer).map_err(|error| match error.is_usage() {
        true => point_at_path(file, "model", error),
        false => error,
    });
    let model = opened?.model;
    if model.is_quantized() {
        return Err(file.error_at("model", format!("`{name}` is quantized already: a teacher is in floats"), None));
    }
    Ok(model)
}

/// Points at the rule of `[quantize]` that is without effect.
pub fn rule_error(file: &ConfigFile, error: &RuleError) -> Error {
    let key = match error {
        RuleError::Skipped { key, .. } => key,
        _ => "layers",
    };
    file.error_at(&format!("quantize.rules.{}.{key}", error.index()), error, Some(error.hint().to_owned()))
}

/// Points at the rule of `[quantize]` that does not fit the network.
fn policy_error(config: &DistillRecipe, file: &ConfigFile, error: &PolicyError) -> Error {
    let rule = |pattern: &str| {
        let index = config.quantize.rules.iter().position(|rule| rule.layers == pattern).unwrap_or_default();
        format!("quantize.rules.{index}.layers")
    };
    match error {
        PolicyError::NoLayer { graph, pattern, nearest } => {
            let hint = (!nearest.is_empty()).then(|| {
                let names = names::quoted(nearest.iter().map(String::as_str));
                format!("the nearest names are {names}; `*` and `?` stand for any letters")
            });
            file.error_at(&rule(pattern), format!("no layer of `{graph}` is named `{pattern}`"), hint)
        }
        PolicyError::EmptyRule { pattern } => file.error_at(&rule(pattern), error, None),
        _ => file.error_at("quantize", error, None),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::DistillRecipe;

    /// Returns all configs of `dsconv distill` in the repository.
    fn configs(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .flat_map(|path| match path.is_dir() {
                true if path.ends_with("train") => vec![],
                true => configs(&path),
                false if path.extension().is_some_and(|ending| ending == "toml") => vec![path],
                false => vec![],
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
            let folded = graph.fold();
            recipe.quantize.resolve(&folded).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            recipe.quantize.check_rules(&folded).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}
