//! Where a plan takes its numbers from: a model in memory, or a `.dsc` file that is decoded layer by layer.
use std::collections::BTreeMap;

use blockfloat::{ActivationFormat, Bits, BlockSize};
use graph::{Graph, Role, Tensor, Weights};
use model::dsc::{File, StoredScales};
use model::{Info, Model, QuantizedLayer};

use crate::Error;

/// How a layer's input is rounded.
#[derive(Debug, Clone)]
pub(super) struct InputFormat {
    pub weight: BlockSize,
    pub bits: Bits,
    pub two_level: bool,
    pub activation: ActivationFormat,
    pub signed: bool,
}

/// A network's parameters. Each is taken once, and freed when it has been packed.
#[derive(Debug)]
pub(crate) enum Parameters<'a> {
    Model(Box<Parts>),
    File(&'a File<'a>),
}

/// The parts of a model that was checked.
#[derive(Debug)]
pub(crate) struct Parts {
    graph: Graph,
    weights: Weights,
    layers: BTreeMap<String, QuantizedLayer>,
    info: Info,
}

impl<'a> Parameters<'a> {
    /// Takes the parameters of a model.
    ///
    /// # Errors
    /// As [`Model::check`].
    pub fn of_model(model: Model) -> Result<Self, Error> {
        model.check()?;
        let (graph, weights, layers, info) = model.into_parts();
        Ok(Self::Model(Box::new(Parts { graph, weights, layers, info })))
    }

    pub(super) fn graph(&self) -> Graph {
        match self {
            Self::Model(model) => model.graph.clone(),
            Self::File(file) => file.graph().clone(),
        }
    }

    pub(super) fn info(&self) -> Info {
        match self {
            Self::Model(model) => model.info.clone(),
            Self::File(file) => file.info().clone(),
        }
    }

    /// Returns how the inputs of the integer layers are rounded, by node.
    pub(super) fn formats(&self) -> BTreeMap<String, InputFormat> {
        match self {
            Self::Model(model) => model
                .layers
                .iter()
                .filter_map(|(name, l)| {
                    let (weight, bits, two_level) = (l.codes.block(), l.codes.bits(), l.codes.two_level().is_some());
                    let (activation, signed) = (l.activation?, l.signed);
                    Some((name.clone(), InputFormat { weight, bits, two_level, activation, signed }))
                })
                .collect(),
            Self::File(file) => file
                .layers()
                .iter()
                .filter_map(|l| {
                    let (weight, bits, two_level) = (l.block, l.bits, l.scales == StoredScales::TwoLevel);
                    let (activation, signed) = (l.activation?, l.signed);
                    Some((l.node.clone(), InputFormat { weight, bits, two_level, activation, signed }))
                })
                .collect(),
        }
    }

    /// Takes a layer's codes, or `None` if it is in floats.
    pub(super) fn layer(&mut self, name: &str) -> Result<Option<QuantizedLayer>, Error> {
        match self {
            Self::Model(model) => Ok(model.layers.remove(name)),
            Self::File(file) if file.layers().iter().any(|l| l.node == name) => Ok(Some(file.layer(name)?)),
            Self::File(_) => Ok(None),
        }
    }

    /// Takes a node's float parameter of this role.
    pub(super) fn floats(&mut self, node: &str, role: Role) -> Result<Vec<f32>, Error> {
        let name = role.name(node);
        match self {
            Self::Model(model) => Ok(model.weights.remove(&name).map(Tensor::into_data).unwrap_or_default()),
            Self::File(file) => Ok(file.floats(&name)?.into_data()),
        }
    }
}
