//! The keys of configs, each with what it is, what its value may be, and its default.
mod more;
mod schema;

use serde::Serialize;
use toml::{Table, Value};

use crate::config::ConfigKind;
use crate::error::Result;
use crate::recipe::{DistillRecipe, TrainRecipe};

pub use more::more;
pub use schema::schema;

/// The values that a key may have.
#[derive(Debug, Clone, Copy)]
pub enum Allowed {
    /// The value is a whole number, this and more.
    From(u32),
    /// The value is a whole number from the first to the second.
    Between(u32, u32),
    /// The value is a number of at least 0.
    AtLeast0,
    /// The value is a number above 0.
    Above0,
    /// The value is a number of at least 0 and less than 1.
    Part,
    /// The value is `true` or `false`.
    Switch,
    /// The value is one of these words.
    OneOf(&'static [&'static str]),
    /// The value is a number of channels, or `pixel`.
    Block,
    /// The value is a number of channels, `pixel` or `image`.
    InputBlock,
    /// The value is a text, as described.
    Text(&'static str),
    /// The value is a list of texts.
    List,
    /// The value is a number of pixels, or height and width.
    Size,
    /// The value is a number of pixels, height and width, or `none`.
    SizeOrNone,
    /// The value is a list of a number for each channel, or of one for all.
    Channels {
        /// Tells whether each number must be above 0.
        positive: bool,
    },
    /// The value is a list of tables of these keys.
    Tables(&'static str),
}

impl Allowed {
    /// Returns the allowed values in words.
    pub fn text(self) -> String {
        match self {
            Self::From(least) => format!("{least} and more"),
            Self::Between(least, most) => format!("{least} to {most}"),
            Self::AtLeast0 => "at least 0".to_owned(),
            Self::Above0 => "above 0".to_owned(),
            Self::Part => "at least 0, less than 1".to_owned(),
            Self::Switch => "true, false".to_owned(),
            Self::OneOf(words) => words.join(", "),
            Self::Block => "1 and more, pixel".to_owned(),
            Self::InputBlock => "1 and more, pixel, image".to_owned(),
            Self::Text(what) => what.to_owned(),
            Self::List => "a list of texts".to_owned(),
            Self::Size => "1 to 4096, or [height, width]".to_owned(),
            Self::SizeOrNone => "1 to 4096, [height, width], none".to_owned(),
            Self::Channels { positive: false } => "[one for all], [one, for, each]".to_owned(),
            Self::Channels { positive: true } => "the same, above 0".to_owned(),
            Self::Tables(keys) => keys.to_owned(),
        }
    }
}

/// A key of a config.
#[derive(Debug)]
pub struct Key {
    /// The name, with the tables that the key is in: `adapt.steps`.
    pub name: &'static str,
    /// What the value may be.
    pub allowed: Allowed,
    /// What the key is, in a line, with its unit.
    pub what: &'static str,
    /// A value as it is written, for a key that has no default; else empty.
    pub example: &'static str,
}

const fn key(name: &'static str, allowed: Allowed, what: &'static str) -> Key {
    Key { name, allowed, what, example: "" }
}

/// Describes a key that may be missing.
const fn optional(name: &'static str, allowed: Allowed, example: &'static str, what: &'static str) -> Key {
    Key { name, allowed, what, example }
}

const IMAGES: Allowed = Allowed::Text("a name of `dsconv data list`, a folder or a file");
const DEVICES: Allowed = Allowed::Text("cpu, ndarray, wgpu, wgpu:N, cuda, cuda:N");
const OPTIMIZERS: Allowed = Allowed::OneOf(&["sgd", "adam", "adamw"]);
const FLOATS: Allowed = Allowed::OneOf(&["f16", "f32"]);

/// The keys of both configs that stand before their other tables.
const IMAGE: &[Key] = &[
    optional("image.input", Allowed::Size, "[48, 192]", "the network's input where its file leaves it open"),
    optional("image.resize", Allowed::SizeOrNone, "256", "what images are resized to; one number: the shorter side"),
    optional("image.crop", Allowed::SizeOrNone, "224", "the middle that is cut out after that"),
    optional("image.order", Allowed::OneOf(&["rgb", "bgr", "grey"]), "\"bgr\"", "order of the channels"),
    optional("image.divide", Allowed::Above0, "255.0", "divides pixels of 0..255 first"),
    optional("image.mean", Allowed::Channels { positive: false }, "[0.5]", "subtracted after that"),
    optional("image.std", Allowed::Channels { positive: true }, "[0.5]", "divides after that"),
];

/// The keys of `dsconv distill` that are in no table.
const DISTILL_TOP: &[Key] = &[
    key("model", Allowed::Text("a name of `dsconv models`, a file or a run folder"), "the teacher; must be given"),
    optional("weights", Allowed::Text("a file"), "\"my_resnet50.pth\"", "weights for a named network"),
    optional("classes", Allowed::Text("a file"), "\"names.txt\"", "names of the classes, one a line; else the model's"),
    key("seed", Allowed::From(0), "decides the images held out, their order and their changes"),
    key("device", DEVICES, "where to compute"),
];

/// The keys of `dsconv distill` in its tables.
const DISTILL: &[Key] = &[
    key("data.adapt", IMAGES, "images to adapt to; labels are not read"),
    optional(
        "data.eval",
        IMAGES,
        "\"photos/labelled\"",
        "images to measure on; else those held out, or the embedded ones",
    ),
    optional("data.limit", Allowed::From(1), "2000", "at most this many images to adapt to, spread over the set"),
    optional("data.eval_limit", Allowed::From(1), "1000", "at most this many images to measure on"),
    key("quantize.bits", Allowed::Between(2, 8), "bits of a weight"),
    key("quantize.block", Allowed::Block, "channels of a filter that share a scale"),
    key("quantize.rule", Allowed::OneOf(&["mse", "l2", "kl", "balanced"]), "how codes and scales are found"),
    key(
        "quantize.scales",
        Allowed::OneOf(&["float", "two_level"]),
        "form of block scales: a float each, or integers times a float",
    ),
    key("quantize.linear", Allowed::Switch, "quantize fully connected layers too"),
    key("quantize.activation.bits", Allowed::Between(2, 8), "bits of a layer's input; activation = false: floats"),
    key(
        "quantize.activation.block",
        Allowed::InputBlock,
        "input channels that share a scale; a multiple of quantize.block",
    ),
    key("quantize.activation.scale", Allowed::OneOf(&["float", "pow2"]), "the kind of an input's scale"),
    key("quantize.image_bits", Allowed::Between(2, 8), "least bits of the input of a layer that reads the image"),
    key("quantize.image_sum", Allowed::Switch, "one integer sum for each output of a convolution that reads the image"),
    optional("quantize.winograd", Allowed::Between(2, 6), "6", "bits of 3x3 layers' inputs, for Winograd's algorithm"),
    optional(
        "quantize.rules",
        Allowed::Tables("layers, and bits, block, rule, scales, activation or skip"),
        "[{ layers = \"conv1\", bits = 8 }]",
        "layers that differ; `*` stands for any letters",
    ),
    key("adapt.steps", Allowed::From(1), "optimizer steps"),
    key("adapt.batch", Allowed::From(1), "images of a step"),
    key("adapt.parts", Allowed::From(1), "parts of a batch that are worked on at the same time"),
    key("adapt.checkpoint_every", Allowed::From(1), "steps from one checkpoint to the next"),
    key("adapt.held_out", Allowed::From(1), "images held out to choose the checkpoint by; a quarter of all at most"),
    key("adapt.patience", Allowed::From(0), "checkpoints without a better one before it ends early; 0: never"),
    key("adapt.optimizer", OPTIMIZERS, "how weights are moved"),
    key("adapt.code_rate", Allowed::AtLeast0, "highest learning rate of weights, in steps of their codes"),
    key("adapt.scale_rate", Allowed::AtLeast0, "highest learning rate of scales, in parts of the scale"),
    key("adapt.learning_rate", Allowed::AtLeast0, "highest learning rate of biases and layers in floats"),
    key("adapt.warmup", Allowed::From(0), "steps in which the learning rates rise to their highest"),
    key("adapt.weight_decay", Allowed::AtLeast0, "pulls weights towards 0"),
    key("adapt.clip", Allowed::AtLeast0, "largest norm of all gradients together; 0: no limit"),
    key("adapt.temperature", Allowed::Above0, "softens the logits before they are compared"),
    key("adapt.feature_weight", Allowed::AtLeast0, "weight of the tapped nodes' error beside that of the logits"),
    key("adapt.features", Allowed::List, "nodes to tap; empty: the last one with a feature map"),
    key(
        "adapt.scale_update",
        Allowed::OneOf(&["trained", "fixed", "recomputed"]),
        "whether block scales are trained, kept or found anew",
    ),
    key("adapt.batch_norm", Allowed::OneOf(&["fold", "reestimate"]), "what happens to batch normalisation"),
    key("adapt.augment.shift", Allowed::From(0), "shifts images by up to this many pixels"),
    key("adapt.augment.flip", Allowed::Switch, "mirrors every other image, left to right"),
    key("adapt.fit_images", Allowed::From(0), "images on which layers are fitted before the first step; 0: none"),
    key("export.floats", FLOATS, "how biases and layers in floats are stored"),
    key("export.scale_precision", FLOATS, "float type of block scales"),
];

/// The keys of `dsconv train` about the network.
const TRAIN_MODEL: &[Key] = &[
    optional(
        "start",
        Allowed::Text("a file or a run folder"),
        "\"my.pth\"",
        "weights or a quantized network to begin with",
    ),
    key("model.name", Allowed::Text("a name of `dsconv models`"), "the network; must be given"),
    optional("model.classes", Allowed::From(1), "10", "number of classes"),
    optional("model.channels", Allowed::Between(1, 3), "1", "channels of the image; 1: grey"),
    optional("model.width", Allowed::Above0, "0.25", "multiplies every channel count; 1 is the paper's network"),
    optional(
        "model.stem",
        Allowed::OneOf(&["imagenet", "small"]),
        "\"small\"",
        "the first layers; small: for 32x32 to 64x64",
    ),
    optional("model.input", Allowed::From(1), "64", "side of the square input image, pixels"),
    optional("model.transform_input", Allowed::Switch, "true", "GoogLeNet: torchvision's transform of the input"),
];

/// The other keys of `dsconv train`.
const TRAIN: &[Key] = &[
    key("data.train", IMAGES, "labelled images to train on"),
    key("data.eval", IMAGES, "labelled images to measure on"),
    optional(
        "data.train_images",
        Allowed::From(1),
        "2000",
        "at most this many images to train on, spread over the set",
    ),
    optional("data.eval_images", Allowed::From(1), "1000", "at most this many images to measure on"),
    key("train.epochs", Allowed::From(1), "passes over the training images"),
    key("train.batch", Allowed::From(1), "images of a step"),
    key("train.optimizer", OPTIMIZERS, "how weights are moved"),
    key("train.learning_rate", Allowed::Above0, "the highest learning rate; it follows a cosine"),
    key("train.warmup", Allowed::AtLeast0, "epochs in which the learning rate rises to it"),
    key("train.weight_decay", Allowed::AtLeast0, "pulls weights towards 0"),
    key("train.label_smoothing", Allowed::Part, "part of the target that is spread over all classes"),
    key("train.clip", Allowed::AtLeast0, "largest norm of all gradients together; 0: no limit"),
    key("train.augment.shift", Allowed::From(0), "shifts images by up to this many pixels"),
    key("train.augment.flip", Allowed::Switch, "mirrors every other image, left to right"),
    key("train.monitor", Allowed::From(1), "images that are measured after each epoch"),
    key("train.code_rate", Allowed::AtLeast0, "quantized start: highest learning rate of weights, in steps of codes"),
    key("train.scale_rate", Allowed::AtLeast0, "quantized start: highest learning rate of scales, in parts of them"),
    key("train.held_out", Allowed::From(1), "quantized start: training images held out to choose the epoch by"),
    key("train.seed", Allowed::From(0), "decides initial weights, order, changes and dropout"),
];

/// Returns all keys of a command's config, in the order in which they are written.
pub fn of(kind: ConfigKind) -> Vec<&'static Key> {
    let [first, last] = match kind {
        ConfigKind::Distill => [DISTILL_TOP, DISTILL],
        ConfigKind::Train => [TRAIN_MODEL, TRAIN],
    };
    [first, IMAGE, last].into_iter().flatten().collect()
}

/// Returns the values of a config that says nothing but its model.
///
/// # Errors
/// None is known: the types are plain data.
pub fn defaults(kind: ConfigKind, model: &str) -> Result<Table> {
    Ok(match kind {
        ConfigKind::Distill => Table::try_from(DistillRecipe { model: model.to_owned(), ..DistillRecipe::default() })?,
        ConfigKind::Train => Table::try_from(TrainRecipe::new(model))?,
    })
}

/// Returns the value under `name`.
pub fn value<'a>(table: &'a Table, name: &str) -> Option<&'a Value> {
    let (tables, last) = name.rsplit_once('.').unwrap_or(("", name));
    let parents = tables.split('.').filter(|part| !part.is_empty());
    parents.into_iter().try_fold(table, |table, part| table.get(part)?.as_table())?.get(last)
}

/// Writes a config to begin with: its model, and every other key behind a `#` with its default. Where the model has no images of its
/// own, those to adapt to are to be filled in.
///
/// # Errors
/// As [`defaults`].
pub fn template(kind: ConfigKind, model: &str, has_images: bool) -> Result<String> {
    let values = defaults(kind, model)?;
    let mut text = format!(
        "# A config of `dsconv {kind}`. What stands behind a `#` is the default, or an example: to change it, remove the `#`.\n\
         # Files and folders are looked for beside this file, then in the folder where the command is given.\n"
    );
    let mut open = "";
    for key in of(kind) {
        let (table, name) = match key.name.split_once('.') {
            Some((table, name)) => (table, name),
            None => ("", key.name),
        };
        if table != open {
            text += &format!("\n[{table}]\n");
            open = table;
        }
        let default = value(&values, key.name).map(written);
        let to_fill_in = key.name == "data.adapt" && !has_images;
        let required = key.name == "model" || key.name == "model.name" || to_fill_in;
        let value = if to_fill_in { "\"photos/unlabelled\"" } else { default.as_deref().unwrap_or(key.example) };
        let line = format!("{}{name} = {value}", if required { "" } else { "# " });
        let example = if default.is_none() { "for example; " } else { "" };
        let words =
            if let Allowed::OneOf(words) = key.allowed { format!(": {}", words.join(", ")) } else { String::new() };
        text += &format!("{line:<32}  # {example}{}{words}\n", key.what);
    }
    Ok(text)
}

/// Writes a value as TOML has it, in one line.
pub fn written(value: &Value) -> String {
    match *value {
        // A setting is an f32: as an f64 it would show digits that it does not have.
        Value::Float(number) if f64::from(number as f32) == number => format!("{:?}", number as f32),
        _ => value.to_string(),
    }
}

/// A row of `dsconv config keys`.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The key.
    pub key: &'static str,
    /// The default; `None` for a key that may be missing.
    pub default: Option<Value>,
    /// What the value may be.
    pub allowed: String,
    /// What the key is.
    pub what: &'static str,
}

/// Returns all keys with their defaults.
///
/// # Errors
/// As [`defaults`].
pub fn rows(kind: ConfigKind) -> Result<Vec<Row>> {
    let values = defaults(kind, "")?;
    let default = |key: &Key| value(&values, key.name).filter(|value| value.as_str() != Some("")).cloned();
    let row =
        |key: &'static Key| Row { key: key.name, default: default(key), allowed: key.allowed.text(), what: key.what };
    Ok(of(kind).into_iter().map(row).collect())
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::RENAMED;

    /// The keys of all values that are no tables.
    fn leaves(table: &Table, prefix: &str, found: &mut BTreeSet<String>) {
        for (key, value) in table {
            match value {
                Value::Table(table) => leaves(table, &format!("{prefix}{key}."), found),
                _ => drop(found.insert(format!("{prefix}{key}"))),
            }
        }
    }

    /// Returns what a network expects of an image, with a value for every key.
    pub fn full_image() -> graph::ImageConfig {
        toml::from_str(&IMAGE.iter().map(|key| format!("{} = {}\n", &key.name[6..], key.example)).collect::<String>())
            .unwrap()
    }

    /// Returns a config with a value for every key. A key that is new does not compile here, so that it is not forgotten in the
    /// list.
    fn full(kind: ConfigKind) -> Table {
        match kind {
            ConfigKind::Distill => {
                let DistillRecipe { model, seed, device, data, quantize, adapt, export, .. } = DistillRecipe::default();
                let crate::recipe::DistillData { adapt: images, .. } = data;
                let eval = Some(images.clone());
                let data = crate::recipe::DistillData { adapt: images, eval, limit: Some(1), eval_limit: Some(1) };
                let model::Policy { bits, block, rule, scales, linear, activation, image_bits, image_sum, .. } =
                    quantize;
                let winograd = Some(blockfloat::Bits::new(6).unwrap());
                let rules = vec![model::policy::Rule { layers: "x".into(), skip: Some(true), ..Default::default() }];
                let quantize = model::Policy {
                    bits,
                    block,
                    rule,
                    scales,
                    linear,
                    activation,
                    image_bits,
                    image_sum,
                    winograd,
                    rules,
                };
                let (weights, classes) = (Some("w.pth".into()), Some("names.txt".into()));
                let image = full_image();
                let config =
                    DistillRecipe { model, weights, classes, seed, device, image, data, quantize, adapt, export };
                Table::try_from(config).unwrap()
            }
            ConfigKind::Train => Table::try_from(TrainRecipe::full(full_image())).unwrap(),
        }
    }

    #[test]
    fn every_key_is_listed() {
        for kind in [ConfigKind::Distill, ConfigKind::Train] {
            let mut expected = BTreeSet::new();
            leaves(&full(kind), "", &mut expected);
            let listed: BTreeSet<String> = of(kind).iter().map(|key| key.name.to_owned()).collect();
            assert_eq!(listed, expected, "{kind}");
            let values = defaults(kind, "resnet20").unwrap();
            for key in of(kind) {
                assert_eq!(
                    key.example.is_empty(),
                    value(&values, key.name).is_some(),
                    "{}: default or example",
                    key.name
                );
                assert!(key.what.len() <= 80 && !key.what.ends_with('.'), "{}", key.name);
            }
        }
    }

    #[test]
    fn renamed_keys_have_their_new_names() {
        let known = of(ConfigKind::Distill);
        for &(old, new) in RENAMED {
            assert!(known.iter().any(|key| key.name == new) && known.iter().all(|key| key.name != old), "{old}");
        }
    }

    /// Whether the command takes `name = value`, beside a model.
    fn takes(kind: ConfigKind, name: &str, value: &str) -> bool {
        let model = if kind == ConfigKind::Distill { "model" } else { "model.name" };
        let base = if name == model { String::new() } else { format!("{model} = \"resnet20\"\n") };
        let text = format!("{base}{name} = {value}");
        match kind {
            ConfigKind::Distill => toml::from_str::<DistillRecipe>(&text).is_ok_and(|config| config.check().is_ok()),
            ConfigKind::Train => toml::from_str::<TrainRecipe>(&text).is_ok_and(|recipe| recipe.check().is_ok()),
        }
    }

    #[test]
    fn what_is_allowed_is_taken_and_nothing_else() {
        let text = |words: &[&str]| words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>();
        for kind in [ConfigKind::Distill, ConfigKind::Train] {
            for key in of(kind) {
                let strings = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
                let (good, bad) = match key.allowed {
                    Allowed::From(least) => {
                        let below = i64::from(least) - 1;
                        (vec![least.to_string(), (least + 7).to_string()], vec![below.to_string(), "1.5".into()])
                    }
                    Allowed::Between(least, most) => (
                        vec![least.to_string(), most.to_string()],
                        vec![(least - 1).to_string(), (most + 1).to_string(), "-1".into()],
                    ),
                    Allowed::AtLeast0 => (strings(&["0.0", "0.5"]), strings(&["-0.1", "nan", "inf", "\"x\""])),
                    Allowed::Above0 => (strings(&["0.25", "1.0"]), strings(&["0.0", "-1.0", "nan", "inf"])),
                    Allowed::Part => (strings(&["0.0", "0.9"]), strings(&["1.0", "-0.1", "nan"])),
                    Allowed::Switch => (strings(&["false"]), strings(&["1", "\"true\""])),
                    Allowed::OneOf(words) => (text(words), text(&["other", ""])),
                    Allowed::Block => (strings(&["64", "\"pixel\""]), strings(&["0", "-1", "\"all\""])),
                    Allowed::InputBlock => {
                        (strings(&["64", "\"pixel\"", "\"image\""]), strings(&["0", "-1", "\"all\""]))
                    }
                    Allowed::Text(_) => (strings(&["\"resnet20\""]), strings(&["1", "true"])),
                    Allowed::List => (strings(&["[]", "[\"layer1\"]"]), strings(&["\"layer1\"", "[1]"])),
                    Allowed::Size => (strings(&["32", "[48, 192]"]), strings(&["0", "4097", "\"none\"", "[1, 2, 3]"])),
                    Allowed::SizeOrNone => {
                        (strings(&["32", "[48, 192]", "\"none\""]), strings(&["0", "[0, 1]", "\"no\""]))
                    }
                    Allowed::Channels { positive } => (
                        strings(&["[0.5]", "[0.5, 0.25, 1.0]"]),
                        strings(if positive { &["[0.0]", "[1.0, 1.0]", "0.5"] } else { &["[nan]", "[]", "0.5"] }),
                    ),
                    Allowed::Tables(_) => (strings(&[key.example]), strings(&["[1]", "[{ layers = 1 }]"])),
                };
                for value in good {
                    // GoogLeNet's alone.
                    let is = takes(kind, key.name, &value) || key.name == "model.stem";
                    assert!(is, "{kind}: {} = {value} is allowed", key.name);
                }
                for value in bad {
                    assert!(!takes(kind, key.name, &value), "{kind}: {} = {value} is not allowed", key.name);
                }
            }
        }
    }

    #[test]
    fn a_new_config_has_the_defaults_and_its_lines_can_be_used() {
        for kind in [ConfigKind::Distill, ConfigKind::Train] {
            let text = template(kind, "resnet20", true).unwrap();
            assert!(text.lines().all(|line| line.len() <= 120), "{text}");
            let defaults = defaults(kind, "resnet20").unwrap();
            let used: String = text.lines().map(|line| format!("{}\n", uncommented(line))).collect();
            let used: Table = toml::from_str(&used).unwrap();
            for key in of(kind) {
                let expected = match value(&defaults, key.name) {
                    Some(value) => value.clone(),
                    None => toml::from_str::<Table>(&format!("x = {}", key.example)).unwrap()["x"].clone(),
                };
                // As settings: a number that an f32 holds has few digits in a text.
                let as_set = |value: &Value| match *value {
                    Value::Float(number) => Value::Float(f64::from(number as f32)),
                    _ => value.clone(),
                };
                assert_eq!(value(&used, key.name).map(as_set), Some(as_set(&expected)), "{}", key.name);
            }
            // As it is, it is a config of nothing but a model.
            let as_is = match kind {
                ConfigKind::Distill => Table::try_from(toml::from_str::<DistillRecipe>(&text).unwrap()).unwrap(),
                ConfigKind::Train => Table::try_from(toml::from_str::<TrainRecipe>(&text).unwrap()).unwrap(),
            };
            assert_eq!(as_is, defaults);
        }
    }

    #[test]
    fn images_of_ones_own_are_to_be_filled_in() {
        let text = template(ConfigKind::Distill, "my.onnx", false).unwrap();
        assert!(text.lines().any(|line| line.starts_with("adapt = \"photos/unlabelled\"")), "{text}");
    }

    /// The line without the `#` before its key.
    fn uncommented(line: &str) -> &str {
        match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest,
            _ => line,
        }
    }
}
