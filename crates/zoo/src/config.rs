//! The settings of a network, and its construction.
use graph::{Builder, Graph, GraphError, Preprocess, Resize, Shape};
use serde::{Deserialize, Serialize};

use crate::variants::{Arch, Stem, Variant, variants};
use crate::{alexnet, densenet, googlenet, resnet, resnet_cifar, vgg};

/// The settings of a network of the zoo. A setting that is `None` has the value of the variant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of one of [`variants`].
    pub name: String,
    /// The number of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// The channels of the image: 3, or 1 for grey images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// The multiplier of every channel count of the paper, hidden fully connected layers included; 1 is the paper's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<f64>,
    /// The layers before the first block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<Stem>,
    /// The side of the square input image, in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<usize>,
    /// Whether GoogLeNet begins with torchvision's `transform_input`, for images normalised with ImageNet's mean and
    /// standard deviation. Without it the network expects mean 0.5 and deviation 0.5, as its weights were trained. Both
    /// give the same result, and [`Config::preprocess`] follows. Other families do not have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transform_input: bool,
}

impl Config {
    /// Selects a variant by its name, with all settings as in the table.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Returns the steps from an image to the input of this network: those of the variant, with sizes scaled to the input
    /// side.
    ///
    /// # Errors
    /// [`ZooError::UnknownName`]; [`ZooError::Range`] for an input side out of range.
    pub fn preprocess(&self) -> Result<Preprocess, ZooError> {
        let variant = variant(&self.name)?;
        let mut preprocess = variant.preprocess.clone();
        if self.transform_input {
            let imagenet = Preprocess::imagenet_statistics();
            (preprocess.mean, preprocess.std) = (imagenet.mean, imagenet.std);
        }
        if let Some(input) = self.input {
            let input = in_range("input", input, MAX_INPUT)?;
            // A resize to 256 before a crop of 224 stays 8 to 7.
            let scaled = |side: usize| (side * input).div_ceil(variant.input);
            preprocess.resize = preprocess.resize.map(|resize| match resize {
                Resize::Shorter(side) => Resize::Shorter(scaled(side)),
                Resize::Exact(size) => Resize::Exact(size.map(scaled)),
            });
            preprocess.crop = preprocess.crop.map(|_| [input; 2]);
        }
        Ok(preprocess)
    }
}

/// The reason why a network cannot be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ZooError {
    /// No variant has this name.
    #[error("no network is named `{name}`{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownName {
        /// The name that was asked for.
        name: String,
        /// The variant whose name is closest, where one is close.
        nearest: Option<String>,
    },
    /// The width multiplier is out of range.
    #[error("width {width} is not in {MIN_WIDTH}..={MAX_WIDTH}")]
    Width {
        /// The multiplier that was asked for.
        width: f64,
    },
    /// The number of classes or channels, or the input side, is out of range.
    #[error("{what} {value} is not in 1..={limit}")]
    Range {
        /// The setting: `classes`, `channels` or `input`.
        what: &'static str,
        /// The value that was asked for.
        value: usize,
        /// The largest value that is allowed.
        limit: usize,
    },
    /// The variant does not have this stem.
    #[error("`{name}` has no such stem: it has {}", quoted(stems))]
    Stem {
        /// The name of the variant.
        name: String,
        /// The stems that it has.
        stems: &'static [Stem],
    },
    /// `transform_input` was asked for images that do not have three channels.
    #[error("`transform_input` is for images of three channels")]
    TransformChannels,
    /// `transform_input` was asked of another family than GoogLeNet.
    #[error("`{name}` has no `transform_input`: only GoogLeNet has")]
    TransformInput {
        /// The name of the variant.
        name: String,
    },
    /// The shapes do not fit, most often because the input is too small for the stem.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Lists stems for a message: `` `small`, `cifar` ``.
fn quoted(stems: &[Stem]) -> String {
    stems.iter().map(|stem| format!("`{stem}`")).collect::<Vec<_>>().join(", ")
}

const MIN_WIDTH: f64 = 1.0 / 64.0;
const MAX_WIDTH: f64 = 16.0;
const MAX_CLASSES: usize = 1 << 20;
const MAX_INPUT: usize = 1 << 13;

/// The checked settings that the builder of a family takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetworkSettings {
    pub(crate) classes: usize,
    pub(crate) width: Width,
    pub(crate) stem: Stem,
    pub(crate) transform_input: bool,
}

/// A multiplier of channel counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Width(f64);

impl Width {
    /// The smallest channel count that a multiplier gives.
    const MIN_CHANNELS: usize = 4;

    /// Scales and rounds a channel count of the paper.
    pub(crate) fn of(self, channels: usize) -> usize {
        ((channels as f64 * self.0).round() as usize).max(Self::MIN_CHANNELS)
    }
}

/// Builds a network.
///
/// # Errors
/// [`ZooError`] says which setting does not fit, and names the nearest variant where the name is unknown.
pub fn build(config: &Config) -> Result<Graph, ZooError> {
    let variant = variant(&config.name)?;
    let name = || config.name.clone();
    let input = in_range("input", config.input.unwrap_or(variant.input), MAX_INPUT)?;
    let classes = in_range("classes", config.classes.unwrap_or(variant.classes), MAX_CLASSES)?;
    let width = config.width.unwrap_or(variant.width);
    if !(MIN_WIDTH..=MAX_WIDTH).contains(&width) {
        return Err(ZooError::Width { width });
    }
    let stem = config.stem.unwrap_or(variant.stem);
    if !variant.stems().contains(&stem) {
        return Err(ZooError::Stem { name: name(), stems: variant.stems() });
    }
    if config.transform_input && !matches!(variant.arch, Arch::GoogLeNet) {
        return Err(ZooError::TransformInput { name: name() });
    }
    let channels = in_range("channels", config.channels.unwrap_or(3), 3)?;
    if config.transform_input && channels != 3 {
        return Err(ZooError::TransformChannels);
    }

    let settings = NetworkSettings { classes, width: Width(width), stem, transform_input: config.transform_input };
    let mut b = Builder::new(name(), Shape::new(channels, input, input));
    match &variant.arch {
        Arch::AlexNet => alexnet::build(&mut b, &settings),
        Arch::Vgg(column) => vgg::build(&mut b, column, &settings),
        Arch::GoogLeNet => googlenet::build(&mut b, &settings),
        Arch::ResNet(column) => resnet::build(&mut b, column, &settings),
        Arch::ResNetCifar(n) => resnet_cifar::build(&mut b, *n, &settings),
        Arch::DenseNet(column) => densenet::build(&mut b, column, &settings),
    }
    Ok(b.finish()?)
}

/// Checks that a setting lies in `1..=limit`.
fn in_range(what: &'static str, value: usize, limit: usize) -> Result<usize, ZooError> {
    if (1..=limit).contains(&value) { Ok(value) } else { Err(ZooError::Range { what, value, limit }) }
}

/// Returns the row of the table that has this name.
///
/// # Errors
/// [`ZooError::UnknownName`] names the variant with the nearest name.
pub fn variant(name: &str) -> Result<&'static Variant, ZooError> {
    variants().iter().find(|v| v.name == name).ok_or_else(|| {
        let lower = name.to_lowercase();
        let nearest = variants()
            .iter()
            .map(|v| (strsim::levenshtein(&lower, v.name), v.name))
            .min_by_key(|&(distance, _)| distance)
            .filter(|&(distance, nearest)| distance <= nearest.len() / 3)
            .map(|(_, nearest)| nearest.to_owned());
        ZooError::UnknownName { name: name.to_owned(), nearest }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_name_suggests_the_nearest() {
        let cases = [
            ("resnt50", Some("resnet50")),
            ("ResNet-50", Some("resnet50")),
            ("vgg16-bn", Some("vgg16_bn")),
            ("googlenet-embeded", Some("googlenet-embedded")),
            ("transformer", None),
            ("", None),
        ];
        for (name, nearest) in cases {
            let error = build(&Config::new(name)).unwrap_err();
            let nearest = nearest.map(str::to_owned);
            assert_eq!(error, ZooError::UnknownName { name: name.into(), nearest }, "{name}");
        }
        assert_eq!(
            variant("resnt50").unwrap_err().to_string(),
            "no network is named `resnt50`; did you mean `resnet50`?"
        );
    }

    #[test]
    fn settings_that_make_no_network_are_errors() {
        let resnet20 = Config::new("resnet20");
        for width in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            let error = build(&Config { width: Some(width), ..resnet20.clone() }).unwrap_err();
            assert!(matches!(error, ZooError::Width { .. }), "{error}");
        }
        for (classes, input) in [(Some(0), None), (None, Some(0)), (Some(usize::MAX), None), (None, Some(usize::MAX))] {
            let error = build(&Config { classes, input, ..resnet20.clone() }).unwrap_err();
            assert!(matches!(error, ZooError::Range { .. }), "{error}");
        }
        let error = build(&Config { stem: Some(Stem::ImageNet), ..resnet20.clone() }).unwrap_err();
        assert!(matches!(error, ZooError::Stem { .. }), "{error}");
        let error = build(&Config { transform_input: true, ..resnet20 }).unwrap_err();
        assert!(matches!(error, ZooError::TransformInput { .. }), "{error}");
        let error = build(&Config { input: Some(32), ..Config::new("alexnet") }).unwrap_err();
        assert_eq!(error.to_string(), "node `features.12`: window [3, 3] does not fit its input [256, 1, 1]");
    }

    #[test]
    fn width_scales_hidden_layers_and_keeps_a_minimum() {
        let vgg = build(&Config { width: Some(0.5), input: Some(64), ..Config::new("vgg11") }).unwrap();
        let hidden = vgg.node(vgg.find("classifier.0").unwrap());
        assert_eq!(hidden.shape, Shape::new(2048, 1, 1));
        let tiny = build(&Config { width: Some(MIN_WIDTH), ..Config::new("resnet20") }).unwrap();
        assert_eq!(tiny.node(tiny.find("layer1.0.conv1").unwrap()).shape, Shape::new(4, 32, 32));
    }

    #[test]
    fn preprocess_follows_the_input_side() {
        let config = Config { input: Some(112), ..Config::new("resnet18") };
        let preprocess = config.preprocess().unwrap();
        assert_eq!((preprocess.resize, preprocess.crop), (Some(Resize::Shorter(128)), Some([112; 2]))); // 256 * 112 / 224
        for input in [0, usize::MAX] {
            let error = Config { input: Some(input), ..Config::new("resnet18") }.preprocess().unwrap_err();
            assert!(matches!(error, ZooError::Range { what: "input", .. }), "{error}");
        }
        let googlenet = Config::new("googlenet");
        assert_eq!(googlenet.preprocess().unwrap().mean, [0.5; 3]);
        let transformed = Config { transform_input: true, ..googlenet };
        assert_eq!(transformed.preprocess().unwrap(), Preprocess::imagenet());
    }
}
