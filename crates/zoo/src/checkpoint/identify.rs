//! Finds the network of the zoo to which a checkpoint belongs, by the names and shapes of its parameters.
use graph::{Graph, WeightsError};

use super::fit::{FoundTensors, Index};
use crate::config::{Config, build};
use crate::googlenet::TRANSFORM_INPUT;
use crate::variants::{Stem, Variant, variants};

/// The network to which the parameters of a checkpoint belong.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Identified {
    /// The settings of the network.
    pub config: Config,
    /// The assumptions about what the parameters do not tell.
    pub assumed: Vec<Assumption>,
}

/// A property of a network that its parameters do not tell, and that is assumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assumption {
    /// The first convolution, of 3x3, has stride 1, and no pooling follows it: the stem is [`Stem::Cifar`].
    CifarStem,
    /// Images are squares with sides of so many pixels.
    ImageSide(usize),
}

/// The network with the nearest names, where none fits.
#[derive(Debug)]
pub(super) struct Nearest {
    pub(super) differences: WeightsError,
}

/// Returns the likeliest network to which the file's parameters belong, or the nearest one as an error.
///
/// The settings of `given` are kept; an empty name stands for any network.
pub(super) fn identify(index: &Index, given: &Config) -> Result<Identified, Option<Nearest>> {
    let mut found: Vec<(usize, Config)> = Vec::new();
    let mut nearest: Option<Nearest> = None;
    for variant in variants().iter().filter(|variant| [variant.name, ""].contains(&given.name.as_str())) {
        for &stem in variant.stems().iter().filter(|&&stem| given.stem.is_none_or(|given| given == stem)) {
            match try_variant(index, variant, stem, given) {
                Ok(config) => found.push((rank(&config, variant), config)),
                Err(Some(near)) if nearest.as_ref().is_none_or(|nearest| near.is_nearer_than(nearest)) => {
                    nearest = Some(near);
                }
                Err(_) => {}
            }
        }
    }
    // The sort is stable, so that of equals the table's first is taken.
    found.sort_by_key(|&(rank, _)| rank);
    let Some((_, config)) = found.first().cloned() else { return Err(nearest) };
    let assumed = assumed(&config, given);
    Ok(Identified { config, assumed })
}

impl Nearest {
    fn is_nearer_than(&self, other: &Self) -> bool {
        let key = |near: &Self| {
            let WeightsError { missing, unexpected, wrong_shape, .. } = &near.differences;
            missing.len() + unexpected.len() + wrong_shape.len()
        };
        key(self) < key(other)
    }
}

/// Ranks a network, the likeliest lowest: fewer settings that differ from the table are likelier, and so is a small stem of
/// stride 1. An embedded network is likely only at its own width.
fn rank(config: &Config, variant: &Variant) -> usize {
    let width = if variant.width == 1.0 { 1 } else { 3 } * usize::from(config.width.is_some());
    let stem = match config.stem {
        None => 0,
        Some(Stem::Cifar) => 1,
        Some(_) => 2,
    };
    2 * width + stem
}

/// Says what is assumed because shapes do not tell it.
fn assumed(config: &Config, given: &Config) -> Vec<Assumption> {
    let mut assumed = Vec::new();
    if config.stem == Some(Stem::Cifar) && given.stem.is_none() {
        assumed.push(Assumption::CifarStem);
    }
    if given.input.is_none() {
        let side = config.input.or_else(|| crate::variant(&config.name).ok().map(|variant| variant.input));
        assumed.extend(side.map(Assumption::ImageSide));
    }
    assumed
}

/// Returns the settings of a variant with this stem and with the width, channels and classes of the file, if they fit.
fn try_variant(
    index: &Index,
    variant: &'static Variant,
    stem: Stem,
    given: &Config,
) -> Result<Config, Option<Nearest>> {
    let plain = Config { name: variant.name.to_owned(), ..given.clone() };
    let differs = stem != variant.stem;
    let side = differs.then(|| if stem == Stem::ImageNet { 224 } else { 32 });
    let whole = Config { stem: Some(stem), width: Some(1.0), input: plain.input.or(side), ..plain.clone() };
    let template = build(&whole).map_err(|_| None)?;
    let fit = index.fit(&template);
    let near = |fit: FoundTensors, part: f64| (part >= 0.5).then_some(Nearest { differences: fit.differences });
    let (first, shape) = first_param(&template);
    let part = fit.tensors.len() as f64 / template.params().len().max(1) as f64;
    let Some(stored) = fit.tensors.get(&first).map(|named| named.tensor.shape.clone()) else {
        return Err(near(fit, part));
    };
    let (&[planes, channels, ..], &[whole_planes, ..]) = (&stored[..], &shape[..]) else {
        return Err(near(fit, part));
    };
    let width = planes as f64 / whole_planes as f64;
    let config = Config {
        stem: (differs || plain.stem.is_some()).then_some(stem),
        width: plain.width.or((width != variant.width).then_some(width)),
        channels: plain.channels.or((channels != 3).then_some(channels)),
        input: plain.input.or(side),
        ..plain
    };
    let Ok(graph) = build(&config) else { return Err(near(fit, part)) };
    let config = with_classes(index, config, &graph, variant);
    let Ok(graph) = build(&config) else { return Err(near(fit, part)) };
    let fit = index.fit(&graph);
    if fit.fits() { Ok(config) } else { Err(near(fit, part)) }
}

/// Sets the number of classes to that of the file's classifier, unless it is given.
fn with_classes(index: &Index, config: Config, graph: &Graph, variant: &Variant) -> Config {
    let fit = index.fit(graph);
    let last = graph.params().into_iter().next_back();
    let classes = last.and_then(|param| fit.tensors.get(&param.name)?.tensor.shape.first().copied());
    let classes = config.classes.or(classes.filter(|&classes| classes != variant.classes));
    Config { classes, ..config }
}

/// Returns the name and shape of the graph's first parameter that files hold.
fn first_param(graph: &Graph) -> (String, Vec<usize>) {
    let constant = |name: &str| name.starts_with(TRANSFORM_INPUT);
    graph
        .params()
        .into_iter()
        .find(|param| !constant(&param.name))
        .map(|param| (param.name, param.shape))
        .unwrap_or_default()
}
