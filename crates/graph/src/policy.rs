//! Which layer is quantized to what: a [`Policy`] as people write it, and the [`Plan`] that follows for one graph.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, ScaleRule, WeightFormat};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::build::{Graph, Node};
use crate::op::Op;
use crate::{pass, pattern};

/// The numbers of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerFormat {
    /// Its weight.
    pub weight: WeightFormat,
    /// Its input; `None` keeps it in floats.
    pub activation: Option<ActivationFormat>,
}

/// The formats of a whole network: one default, and rules for some layers.
///
/// In TOML, with the defaults written out and two rules:
///
/// ```toml
/// bits = 4
/// block = 32                  # channels that share a scale, or "pixel" for all of them
/// rule = "mse"                # or "l2", "kl"
/// linear = true               # quantize fully connected layers too
/// activation = { bits = 4, block = 32, scale = "float" }  # or false: floats
///
/// [[rules]]
/// layers = "conv1"            # `*` any characters, `?` one
/// bits = 8
/// activation = { bits = 8 }   # the rest of the table stays
///
/// [[rules]]
/// layers = "*.downsample.0"
/// skip = true                 # keeps the layer in floats
/// ```
///
/// Rules apply in order: where two set the same thing for a layer, the later one wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Bits of a weight code.
    pub bits: Bits,
    /// Channels of a filter that share a scale.
    pub block: BlockSize,
    /// How weight codes and scales are found.
    pub rule: ScaleRule,
    /// Whether fully connected layers are quantized; a rule with `skip = false` includes one all the same.
    pub linear: bool,
    /// The format of layer inputs; `None`, written `false`, keeps them in floats. A table may leave fields out.
    #[serde(with = "activation")]
    pub activation: Option<ActivationFormat>,
    /// Exceptions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// What differs for the layers of a pattern; fields that are `None` change nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Node names it is for: `*` stands for any characters, `?` for one.
    pub layers: String,
    /// Bits of a weight code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<Bits>,
    /// Channels of a filter that share a scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockSize>,
    /// How weight codes and scales are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<ScaleRule>,
    /// The input's format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationRule>,
    /// `true` keeps the layer in floats, `false` quantizes it after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<bool>,
}

/// What a [`Rule`] does to a layer's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationRule {
    /// Keeps it in floats; written `false`.
    Off,
    /// Changes some fields of its format. Where it was in floats, the others are the default's.
    Change(ActivationChange),
}

/// Changes to an [`ActivationFormat`]; fields that are `None` change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActivationChange {
    /// Bits of a mantissa.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<Bits>,
    /// Channels of a pixel that share a scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockSize>,
    /// The kind of scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<ActivationScale>,
}

/// How one layer is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerPlan {
    /// Its weight.
    pub weight: WeightFormat,
    /// Its input; `None` keeps it in floats.
    pub activation: Option<ActivationFormat>,
    /// Whether its input can be negative.
    pub signed: bool,
}

/// The layers to quantize, by node name; all others stay in floats.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan(pub BTreeMap<String, LayerPlan>);

/// Why a policy does not fit a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A rule for layers that the graph does not have.
    #[error("no layer of `{graph}` is named `{pattern}`{}", hint(nearest))]
    NoLayer {
        /// The graph.
        graph: String,
        /// The rule's pattern.
        pattern: String,
        /// The names closest to it, best first.
        nearest: Vec<String>,
    },
    /// A rule without anything to change.
    #[error("the rule for `{pattern}` changes nothing: set `bits`, `block`, `rule`, `activation` or `skip`")]
    EmptyRule {
        /// The rule's pattern.
        pattern: String,
    },
    /// Blocks of weights that lie in more than one block of activations.
    #[error(
        "layer `{layer}`: its activation blocks of {activation} channels do not hold whole weight blocks of {weight}; \
         make `activation.block` a multiple of `block`, or \"pixel\""
    )]
    Blocks {
        /// The layer.
        layer: String,
        /// Channels of a weight block.
        weight: usize,
        /// Channels of an activation block.
        activation: usize,
    },
    /// Blocks so long that their integer sum could overflow 32 bits.
    #[error(
        "layer `{layer}`: a block of {block} channels at these bits can overflow a 32-bit sum; make `block` smaller"
    )]
    BlockTooLong {
        /// The layer.
        layer: String,
        /// Channels of a weight block.
        block: usize,
    },
}

fn hint(nearest: &[String]) -> String {
    match nearest {
        [] => ", which has no layers".into(),
        names => format!("; the nearest names are `{}`", names.join("`, `")),
    }
}

fn default_activation() -> ActivationFormat {
    ActivationFormat { bits: four_bits(), block: block_of_32(), scale: ActivationScale::Float }
}

fn four_bits() -> Bits {
    Bits::new(4).expect("4 is from 2 to 8")
}

fn block_of_32() -> BlockSize {
    BlockSize::new(32).expect("32 is not 0")
}

/// 4-bit weights and activations in blocks of 32 channels, the `mse` rule, float activation scales, linear layers too.
impl Default for Policy {
    fn default() -> Self {
        Self {
            bits: four_bits(),
            block: block_of_32(),
            rule: ScaleRule::Mse,
            linear: true,
            activation: Some(default_activation()),
            rules: Vec::new(),
        }
    }
}

impl Policy {
    /// The format of a layer that no rule is for.
    pub fn format(&self) -> LayerFormat {
        LayerFormat {
            weight: WeightFormat { bits: self.bits, block: self.block, rule: self.rule },
            activation: self.activation,
        }
    }

    /// Plans every [`Op::Conv2d`] and [`Op::Linear`] of a graph. A layer's input counts as signed unless
    /// [`pass::non_negative`] knows better, so resolve the graph that is deployed, batch normalisation folded.
    ///
    /// # Errors
    /// [`PolicyError`] for a rule that is for no layer or changes nothing, and for blocks that do not fit a layer.
    pub fn resolve(&self, graph: &Graph) -> Result<Plan, PolicyError> {
        let layers: Vec<&Node> =
            graph.nodes().iter().filter(|n| matches!(n.op, Op::Conv2d(_) | Op::Linear { .. })).collect();
        for rule in &self.rules {
            if !layers.iter().any(|node| pattern::matches(&rule.layers, &node.name)) {
                return Err(PolicyError::NoLayer {
                    graph: graph.name().into(),
                    pattern: rule.layers.clone(),
                    nearest: pattern::nearest(&rule.layers, layers.iter().map(|n| n.name.as_str())),
                });
            }
            if rule.is_empty() {
                return Err(PolicyError::EmptyRule { pattern: rule.layers.clone() });
            }
        }

        let non_negative = pass::non_negative(graph);
        let mut plan = Plan::default();
        for node in layers {
            let mut format = self.format();
            let mut skip = !self.linear && matches!(node.op, Op::Linear { .. });
            for rule in self.rules.iter().filter(|rule| pattern::matches(&rule.layers, &node.name)) {
                rule.apply(&mut format);
                skip = rule.skip.unwrap_or(skip);
            }
            if !skip {
                let LayerFormat { weight, activation } = format;
                check_blocks(node, weight.bits, weight.block, activation)?;
                let signed = !non_negative[node.inputs[0].index()];
                plan.0.insert(node.name.clone(), LayerPlan { weight, activation, signed });
            }
        }
        Ok(plan)
    }
}

impl Rule {
    fn is_empty(&self) -> bool {
        *self == Self { layers: self.layers.clone(), ..Self::default() }
    }

    fn apply(&self, format: &mut LayerFormat) {
        let weight = &mut format.weight;
        weight.bits = self.bits.unwrap_or(weight.bits);
        weight.block = self.block.unwrap_or(weight.block);
        weight.rule = self.rule.unwrap_or(weight.rule);
        match self.activation {
            None => {}
            Some(ActivationRule::Off) => format.activation = None,
            Some(ActivationRule::Change(change)) => {
                format.activation = Some(change.apply(format.activation.unwrap_or_else(default_activation)));
            }
        }
    }
}

impl ActivationChange {
    fn apply(self, old: ActivationFormat) -> ActivationFormat {
        ActivationFormat {
            bits: self.bits.unwrap_or(old.bits),
            block: self.block.unwrap_or(old.block),
            scale: self.scale.unwrap_or(old.scale),
        }
    }
}

/// The runtime's two conditions on a layer with integer activations: a weight block lies in one activation block, and
/// its dot product, at most `B * 2^(b-1) * (2^m - 1)`, in an i32.
pub(crate) fn check_blocks(
    node: &Node,
    bits: Bits,
    block: BlockSize,
    activation: Option<ActivationFormat>,
) -> Result<(), PolicyError> {
    let Some(activation) = activation else { return Ok(()) };
    let channels = match &node.op {
        Op::Conv2d(conv) => conv.in_channels / conv.groups,
        Op::Linear { in_features, .. } => *in_features,
        _ => unreachable!("only layers have formats"),
    };
    let (weight_len, activation_len) = (block.len_in(channels), activation.block.len_in(channels));
    if activation_len < channels && activation_len % weight_len != 0 {
        return Err(PolicyError::Blocks { layer: node.name.clone(), weight: weight_len, activation: activation_len });
    }
    let largest = i64::from(-bits.signed_min()) * i64::from(activation.bits.unsigned_max());
    if weight_len as u64 > (i64::from(i32::MAX) / largest) as u64 {
        return Err(PolicyError::BlockTooLong { layer: node.name.clone(), block: weight_len });
    }
    Ok(())
}

impl Plan {
    /// The distinct formats of the plan, for a summary.
    pub fn formats(&self) -> BTreeSet<String> {
        self.0.values().map(ToString::to_string).collect()
    }
}

/// `W4 block 32 mse, A4 block 32 float` or `W4 block 32 mse, A float`.
impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WeightFormat { bits, block, rule } = self.weight;
        write!(f, "W{bits} block {block} {rule}, ")?;
        match self.activation {
            Some(ActivationFormat { bits, block, scale }) => write!(f, "A{bits} block {block} {scale}"),
            None => f.write_str("A float"),
        }
    }
}

impl Serialize for ActivationRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::Change(change) => change.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ActivationRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RuleVisitor;
        impl<'de> Visitor<'de> for RuleVisitor {
            type Value = ActivationRule;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`false` or a table of `bits`, `block`, `scale`")
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<ActivationRule, E> {
                if on { Err(E::invalid_value(de::Unexpected::Bool(on), &self)) } else { Ok(ActivationRule::Off) }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ActivationRule, A::Error> {
                ActivationChange::deserialize(MapAccessDeserializer::new(map)).map(ActivationRule::Change)
            }
        }
        deserializer.deserialize_any(RuleVisitor)
    }
}

/// [`Policy::activation`] in a file: `false` or a table over the defaults.
mod activation {
    use super::{
        ActivationFormat, ActivationRule, Deserialize, Deserializer, Serialize, Serializer, default_activation,
    };

    pub(super) fn serialize<S: Serializer>(value: &Option<ActivationFormat>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(format) => format.serialize(serializer),
            None => serializer.serialize_bool(false),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ActivationFormat>, D::Error> {
        Ok(match ActivationRule::deserialize(deserializer)? {
            ActivationRule::Off => None,
            ActivationRule::Change(change) => Some(change.apply(default_activation())),
        })
    }
}
