//! Which layer is quantized to which format: a [`Policy`] as people write it, and the [`Plan`] that it gives for one graph.
use std::collections::BTreeMap;
use std::fmt;

use blockfloat::{
    ActivationFormat, ActivationScale, Bits, BlockSize, QuantizedWeights, ScaleFormat, ScaleRule, TapScales,
    WeightFormat, packed_len,
};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use graph::{FoldedGraph, Graph, Node, Op};

use crate::pattern;
use crate::precision::Float;

/// The formats of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerFormat {
    /// The format of the weight.
    pub weight: WeightFormat,
    /// How the weight's scales are stored.
    pub scales: ScaleFormat,
    /// The format of the input; `None` keeps the input in floats.
    pub activation: Option<ActivationFormat>,
}

/// The formats of a whole network: a default, and rules for some layers.
///
/// In TOML, with the defaults written out and two rules:
///
/// ```toml
/// bits = 4
/// block = 32                  # channels that share a scale, or "pixel" for all of them
/// rule = "mse"                # or "l2", "kl", "balanced"
/// scales = "float"            # or "two_level": a float a filter, an integer a block
/// linear = true               # quantize fully connected layers too
/// activation = { bits = 4, block = 32, scale = "float" }  # or false: floats
/// image_bits = 8              # of a layer that reads the image, where activations have fewer
/// image_sum = false           # one integer sum for each output of a convolution that reads the image
/// # winograd = 6              # bits of the inputs of 3x3 convolutions, which take the form for Winograd's algorithm
///
/// [[rules]]
/// layers = "conv1"            # `*` any characters, `?` one
/// bits = 8
/// activation = { bits = 8 }   # block and scale stay as above
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
    /// The bits of a weight code.
    pub bits: Bits,
    /// The number of a filter's channels that share a scale.
    pub block: BlockSize,
    /// How weight codes and scales are found.
    pub rule: ScaleRule,
    /// How scales are stored.
    pub scales: ScaleFormat,
    /// Whether fully connected layers are quantized; a rule with `skip = false` includes one all the same.
    pub linear: bool,
    /// The format of layer inputs; `None`, written `false`, keeps them in floats. A table may leave fields out.
    #[serde(with = "activation")]
    pub activation: Option<ActivationFormat>,
    /// The least bits of an activation in a layer that reads the image itself ([`graph::Graph::image_values`]), unless a rule
    /// says otherwise. A pixel has 8 bits as it comes, a layer that keeps them takes no more room in a file, and fewer cost more
    /// accuracy than in any other layer.
    pub image_bits: Bits,
    /// Whether each output of a layer that reads the image itself is one integer sum: all pixels of its input share a scale
    /// ([`BlockSize::IMAGE`]) and its weights' scales have two levels, unless a rule sets one of these. The few weights of a
    /// tap have a scale to themselves otherwise, which takes more room and time than they do; but the scale of the brightest
    /// pixel is a coarse one for dark ones.
    ///
    /// It is for convolutions of one group whose input is the network's and is not left in floats.
    pub image_sum: bool,
    /// The bits of the inputs of 3x3 convolutions of stride 1, which take the form in which Winograd's algorithm gives exactly their
    /// integers with 2.25 times fewer multiplications: all taps share the scales of blocks ([`TapScales::Shared`]), which have two
    /// levels, and all pixels of an input share one ([`BlockSize::IMAGE`]), unless a rule sets one of these. `None` leaves them as all
    /// layers are.
    ///
    /// It is for convolutions of one group and a multiple of 16 channels, weights of at most 4 bits, and inputs of at most
    /// [`MOST_WINOGRAD_BITS`], that do not read the network's input.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "winograd")]
    pub winograd: Option<Bits>,
    /// Exceptions for some layers, in the order in which they apply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// Changes for the layers of a pattern; fields that are `None` change nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The pattern of the layers' names: `*` stands for any characters, `?` for one.
    pub layers: String,
    /// The bits of a weight code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<Bits>,
    /// The number of a filter's channels that share a scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockSize>,
    /// How weight codes and scales are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<ScaleRule>,
    /// How scales are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scales: Option<ScaleFormat>,
    /// The format of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationRule>,
    /// `true` keeps the layer in floats, `false` quantizes it after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<bool>,
}

/// What a [`Rule`] changes in the format of a layer's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationRule {
    /// The input stays in floats; written `false`.
    Off,
    /// Some fields of the format change. If the input was in floats, the other fields are those of the default format.
    Change(ActivationChange),
}

/// Changes to an [`ActivationFormat`]; fields that are `None` change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActivationChange {
    /// The bits of a mantissa.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<Bits>,
    /// The number of a pixel's channels that share a scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockSize>,
    /// The kind of scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<ActivationScale>,
}

/// How one layer is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerPlan {
    /// The format of the weight.
    pub weight: WeightFormat,
    /// How the weight's scales are stored.
    pub scales: ScaleFormat,
    /// The format of the input; `None` keeps the input in floats.
    pub activation: Option<ActivationFormat>,
    /// Whether the input can be negative.
    pub signed: bool,
}

/// The layers of a network to quantize, by node name; all others stay in floats. [`Policy::resolve`] makes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan(BTreeMap<String, LayerPlan>);

impl Plan {
    /// Returns the planned layers, by node name.
    pub fn layers(&self) -> &BTreeMap<String, LayerPlan> {
        &self.0
    }

    /// Returns how a layer is quantized; `None` if it stays in floats.
    pub fn get(&self, node: &str) -> Option<&LayerPlan> {
        self.0.get(node)
    }
}

/// Why a policy does not fit a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A rule is for layers that the graph does not have.
    #[error("no layer of `{graph}` is named `{pattern}`{}", hint(nearest))]
    NoLayer {
        /// The name of the graph.
        graph: String,
        /// The rule's pattern.
        pattern: String,
        /// The names closest to it, best first.
        nearest: Vec<String>,
    },
    /// A rule changes nothing.
    #[error("the rule for `{pattern}` changes nothing: set `bits`, `block`, `rule`, `scales`, `activation` or `skip`")]
    EmptyRule {
        /// The rule's pattern.
        pattern: String,
    },
    /// A block of weights lies in more than one block of activations.
    #[error(
        "layer `{layer}`: its activation blocks of {activation} channels do not hold whole weight blocks of {weight}; \
         make `activation.block` a multiple of `block`, or \"pixel\""
    )]
    Blocks {
        /// The name of the layer's node.
        layer: String,
        /// The number of channels of a weight block.
        weight: usize,
        /// The number of channels of an activation block.
        activation: usize,
    },
    /// A block is so long that its integer sum could overflow 32 bits.
    #[error(
        "layer `{layer}`: a block of {block} channels at these bits can overflow a 32-bit sum; make `block` smaller"
    )]
    BlockTooLong {
        /// The name of the layer's node.
        layer: String,
        /// The number of channels of a weight block, or, with two-level scales, of an activation block.
        block: usize,
    },
    /// A block of weights is said to be a whole image.
    #[error("layer `{layer}`: weights have no blocks of a whole image: `block = \"image\"` is for `activation`")]
    WeightBlock {
        /// The name of the layer's node.
        layer: String,
    },
    /// A layer that is no convolution of one group is said to have one scale for all its pixels.
    #[error(
        "layer `{layer}`: `activation.block = \"image\"` is for convolutions of one group; \"pixel\" is for all layers"
    )]
    ImageBlock {
        /// The name of the layer's node.
        layer: String,
    },
    /// Inputs have more bits than Winograd's algorithm has room for.
    #[error(
        "`winograd` is the bits of the inputs of 3x3 convolutions, at most {MOST_WINOGRAD_BITS}: {bits} do not fit the bytes \
         that its sums are made of"
    )]
    Winograd {
        /// The bits that were given.
        bits: Bits,
    },
    /// A filter is so large that its integer sum could overflow 32 bits.
    #[error(
        "layer `{layer}`: the sum over a filter can overflow 32 bits; give it `scales = \"float\"` or another \
         `activation.block` than \"image\""
    )]
    SumTooLong {
        /// The name of the layer's node.
        layer: String,
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

/// The default is 4-bit weights and activations in blocks of 32 channels, the `mse` rule and float scales, for convolutions
/// and linear layers. Layers that read the image keep its 8 bits.
impl Default for Policy {
    fn default() -> Self {
        Self {
            bits: four_bits(),
            block: block_of_32(),
            rule: ScaleRule::Mse,
            scales: ScaleFormat::Float,
            linear: true,
            activation: Some(default_activation()),
            image_bits: Bits::MAX,
            image_sum: false,
            winograd: None,
            rules: Vec::new(),
        }
    }
}

impl Policy {
    /// Returns the formats of a layer that no rule is for and that does not read the image.
    pub fn format(&self) -> LayerFormat {
        LayerFormat {
            weight: WeightFormat::new(self.bits, self.block, self.rule),
            scales: self.scales,
            activation: self.activation,
        }
    }

    /// Plans every [`Op::Conv2d`] and [`Op::Linear`] of a folded graph. A layer's input is signed unless
    /// [`graph::Graph::non_negative`] finds that it is never negative.
    ///
    /// # Errors
    /// [`PolicyError`] if a rule is for no layer or changes nothing, or if blocks do not fit a layer.
    pub fn resolve(&self, graph: &FoldedGraph) -> Result<Plan, PolicyError> {
        if let Some(bits) = self.winograd.filter(|bits| bits.get() > MOST_WINOGRAD_BITS) {
            return Err(PolicyError::Winograd { bits });
        }
        let layers: Vec<&Node> = graph.nodes().iter().filter(|node| node.weight_shape().is_some()).collect();
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

        let (non_negative, image) = (graph.non_negative(), graph.image_values());
        let mut plan = Plan::default();
        for node in layers {
            let mut format = self.format();
            let input = node.inputs[0].index();
            if let Some(activation) = format.activation.as_mut().filter(|_| image[input]) {
                activation.bits = activation.bits.max(self.image_bits);
            }
            let mut skip = !self.linear && matches!(node.op, Op::Linear { .. });
            for rule in self.rules.iter().filter(|rule| pattern::matches(&rule.layers, &node.name)) {
                rule.apply(&mut format);
                skip = rule.skip.unwrap_or(skip);
            }
            let applies = |rule: &Rule| pattern::matches(&rule.layers, &node.name);
            if let Some(activation) = &mut format.activation
                && !self.rules.iter().any(|rule| rule.sets_sums() && applies(rule))
            {
                if self.image_sum && reads_input(graph, node) && sums_fit(node, activation.bits) {
                    (activation.block, format.scales) = (BlockSize::IMAGE, ScaleFormat::TwoLevel);
                }
                // A rule's bits are what it says.
                let own = self.rules.iter().any(|rule| rule.sets_activation_bits() && applies(rule));
                let bits = self.winograd.map(|bits| if own { activation.bits } else { bits });
                if let Some(bits) = bits.filter(|bits| bits.get() <= MOST_WINOGRAD_BITS)
                    && suits_winograd(graph, node)
                    && format.weight.bits.get() <= MOST_WINOGRAD_WEIGHT_BITS
                    && sums_fit(node, bits)
                {
                    (activation.bits, activation.block) = (bits, BlockSize::IMAGE);
                    (format.weight.taps, format.scales) = (TapScales::Shared, ScaleFormat::TwoLevel);
                }
            }
            if !skip {
                let LayerFormat { weight, scales, activation } = format;
                check_blocks(node, weight.bits, weight.block, scales, activation)?;
                let signed = !non_negative[input];
                plan.0.insert(node.name.clone(), LayerPlan { weight, scales, activation, signed });
            }
        }
        Ok(plan)
    }
}

impl Rule {
    /// Tells whether the rule says what scales the sums of a layer are of.
    fn sets_sums(&self) -> bool {
        let block = match self.activation {
            Some(ActivationRule::Change(change)) => change.block.is_some(),
            Some(ActivationRule::Off) => true,
            None => false,
        };
        block || self.scales.is_some()
    }

    /// Tells whether the rule says how many bits a layer's input has.
    fn sets_activation_bits(&self) -> bool {
        matches!(self.activation, Some(ActivationRule::Change(change)) if change.bits.is_some())
    }

    fn is_empty(&self) -> bool {
        *self == Self { layers: self.layers.clone(), ..Self::default() }
    }

    fn apply(&self, format: &mut LayerFormat) {
        let weight = &mut format.weight;
        weight.bits = self.bits.unwrap_or(weight.bits);
        weight.block = self.block.unwrap_or(weight.block);
        weight.rule = self.rule.unwrap_or(weight.rule);
        format.scales = self.scales.unwrap_or(format.scales);
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

/// Tells whether a layer is a convolution of one group whose input is the network's.
fn reads_input(graph: &Graph, node: &Node) -> bool {
    let input = graph.nodes()[node.inputs[0].index()].op == Op::Input;
    input && matches!(&node.op, Op::Conv2d(conv) if conv.groups == 1)
}

/// The most bits of inputs and of weights whose transforms fit the bytes that Winograd's algorithm multiplies.
pub const MOST_WINOGRAD_BITS: u8 = 6;
const MOST_WINOGRAD_WEIGHT_BITS: u8 = 4;

/// Tells whether a layer is a convolution that Winograd's algorithm F(2x2, 3x3) computes, and that an engine gains from.
fn suits_winograd(graph: &Graph, node: &Node) -> bool {
    let Op::Conv2d(conv) = &node.op else { return false };
    let one = [conv.stride, conv.dilation].iter().all(|n| *n == [1, 1]);
    let grid = conv.kernel == [3, 3] && one && conv.groups == 1 && conv.in_channels.is_multiple_of(16);
    grid && !reads_input(graph, node) && node.shape.height * node.shape.width > 1
}

/// Tells whether an i32 holds a sum over a whole filter of two-level products, at most `127 * (2^m - 1)` each.
fn sums_fit(node: &Node, activation: Bits) -> bool {
    let weights = node.weight_shape().map_or(0, |[_, cg, kh, kw]| cg * kh * kw);
    weights as u64 <= (i32::MAX / (127 * activation.unsigned_max())) as u64
}

/// Checks the engine's conditions on a layer with integer activations: a weight block lies in one activation block, and an
/// i32 holds the block's dot product, at most `B * 2^(b-1) * (2^m - 1)`. With two-level scales an i32 must hold the sum over
/// an activation block, at most `127 * (2^m - 1)` for each channel; that over all taps where pixels share a scale, which is for
/// convolutions of one group.
pub(crate) fn check_blocks(
    node: &Node,
    bits: Bits,
    block: BlockSize,
    scales: ScaleFormat,
    activation: Option<ActivationFormat>,
) -> Result<(), PolicyError> {
    if block.is_image() {
        return Err(PolicyError::WeightBlock { layer: node.name.clone() });
    }
    let Some(activation) = activation else { return Ok(()) };
    let channels = match &node.op {
        Op::Conv2d(conv) => conv.in_channels / conv.groups,
        Op::Linear { in_features, .. } => *in_features,
        _ => unreachable!("only layers have formats"),
    };
    if activation.block.is_image() && !matches!(&node.op, Op::Conv2d(conv) if conv.groups == 1) {
        return Err(PolicyError::ImageBlock { layer: node.name.clone() });
    }
    if activation.block.is_image() && scales == ScaleFormat::TwoLevel && !sums_fit(node, activation.bits) {
        return Err(PolicyError::SumTooLong { layer: node.name.clone() });
    }
    let (weight_len, activation_len) = (block.len_in(channels), activation.block.len_in(channels));
    if activation_len < channels && activation_len % weight_len != 0 {
        return Err(PolicyError::Blocks { layer: node.name.clone(), weight: weight_len, activation: activation_len });
    }
    let (len, largest) = match scales {
        ScaleFormat::Float => (weight_len, -bits.signed_min()),
        ScaleFormat::TwoLevel => (activation_len, 127),
    };
    if len as u64 > (i32::MAX / (largest * activation.bits.unsigned_max())) as u64 {
        return Err(PolicyError::BlockTooLong { layer: node.name.clone(), block: len });
    }
    Ok(())
}

impl LayerPlan {
    /// Quantizes a weight `[Co, Ci/G, Kh, Kw]`, unless `stop`, which is asked before every filter, says yes: then the result is `None`.
    ///
    /// # Errors
    /// As [`QuantizedWeights::quantize`].
    pub fn quantize_unless(
        &self,
        weight: &[f32],
        shape: [usize; 4],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<QuantizedWeights>, blockfloat::Error> {
        let codes = QuantizedWeights::quantize_unless(weight, shape, self.weight, stop)?;
        match (codes, self.scales) {
            (Some(codes), ScaleFormat::TwoLevel) => codes.refit_two_level(weight, self.weight.rule).map(Some),
            (codes, _) => Ok(codes),
        }
    }

    /// Returns the bytes that a weight of this shape, `[Co, Ci/G, Kh, Kw]`, takes in this format with float scales of
    /// `scale_precision`: its codes and scales, without the file's header.
    pub fn bytes(&self, [co, cg, kh, kw]: [usize; 4], scale_precision: Float) -> u64 {
        let blocks = co * cg.div_ceil(self.weight.block.len_in(cg)) * kh * kw;
        let scales = match self.scales {
            ScaleFormat::Float => scale_precision.bytes() * blocks,
            ScaleFormat::TwoLevel => 4 * co + blocks,
        };
        (packed_len(co * cg * kh * kw, self.weight.bits) + scales) as u64
    }
}

/// A plan prints as `W4 block 32 mse, A4 block 32 float` or `W4 block 32 mse, A float`.
impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WeightFormat { bits, block, rule, taps } = self.weight;
        write!(f, "W{bits} block {block} {rule}")?;
        if taps == TapScales::Shared {
            f.write_str(" of all taps")?;
        }
        if self.scales == ScaleFormat::TwoLevel {
            f.write_str(" two-level")?;
        }
        f.write_str(", ")?;
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

/// Reads [`Policy::winograd`].
fn winograd<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bits>, D::Error> {
    let bits = Option::<Bits>::deserialize(deserializer)?;
    match bits.filter(|bits| bits.get() > MOST_WINOGRAD_BITS) {
        Some(bits) => Err(de::Error::custom(PolicyError::Winograd { bits })),
        None => Ok(bits),
    }
}

/// Reads and writes [`Policy::activation`] as `false` or as a table, whose absent fields have the defaults.
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

#[cfg(test)]
mod tests {
    use super::*;
    use graph::{Builder, Conv2d, Graph, Shape};

    /// Makes a network of conv1 (signed input), layer1.0.conv1 and layer1.0.conv2 (grouped) after a ReLU, fc after flattening.
    fn network() -> Graph {
        let mut b = Builder::new("tiny", Shape::new(3, 2, 2));
        let x = b.conv("conv1", Conv2d::new(3, 96, 1), b.input());
        let x = b.relu("relu", x);
        let x = b.conv("layer1.0.conv1", Conv2d::new(96, 96, 1), x);
        let x = b.relu("layer1.0.relu", x);
        let x = b.conv("layer1.0.conv2", Conv2d { groups: 2, ..Conv2d::new(96, 96, 1) }, x);
        let x = b.push("flatten", Op::Flatten, vec![x]);
        b.linear("fc", 10, x);
        b.finish().unwrap()
    }

    fn resolve(toml: &str) -> Result<Plan, PolicyError> {
        toml::from_str::<Policy>(toml).unwrap_or_else(|error| panic!("{error}")).resolve(&network().fold())
    }

    fn plan(toml: &str) -> Vec<(String, String, bool)> {
        let plan = resolve(toml).unwrap_or_else(|error| panic!("{error}"));
        plan.0.into_iter().map(|(name, layer)| (name, layer.to_string(), layer.signed)).collect()
    }

    #[test]
    fn an_empty_table_is_the_default() {
        assert_eq!(toml::from_str::<Policy>("").unwrap(), Policy::default());
        let w4a4 = "W4 block 32 mse, A4 block 32 float".to_owned();
        let w4a8 = "W4 block 32 mse, A8 block 32 float".to_owned();
        assert_eq!(
            plan(""),
            [
                ("conv1".into(), w4a8, true),
                ("fc".into(), w4a4.clone(), true),
                ("layer1.0.conv1".into(), w4a4.clone(), false),
                ("layer1.0.conv2".into(), w4a4, false),
            ]
        );
    }

    #[test]
    fn a_layer_that_reads_the_image_keeps_its_bits_unless_a_rule_says_otherwise() {
        let conv1 =
            |toml: &str| resolve(toml).unwrap().get("conv1").unwrap().activation.map(|format| format.bits.get());
        assert_eq!(conv1("image_bits = 6"), Some(6));
        assert_eq!(conv1("image_bits = 3"), Some(4));
        assert_eq!(conv1("activation = { bits = 7 }\nimage_bits = 5"), Some(7));
        assert_eq!(conv1("activation = false"), None);
        assert_eq!(conv1("rules = [{ layers = \"conv1\", activation = { bits = 2 } }]"), Some(2));
    }

    #[test]
    fn later_rules_win_field_by_field() {
        let toml = r#"
            bits = 3
            block = 16
            rule = "l2"
            linear = false
            activation = { bits = 5, block = "pixel" }

            [[rules]]
            layers = "*conv1"
            bits = 8
            activation = { scale = "pow2" }

            [[rules]]
            layers = "conv1"
            bits = 6
            rule = "kl"
            activation = false

            [[rules]]
            layers = "layer1.?.conv2"
            skip = true

            [[rules]]
            layers = "fc"
            skip = false
        "#;
        assert_eq!(
            plan(toml),
            [
                ("conv1".into(), "W6 block 16 kl, A float".into(), true),
                ("fc".into(), "W3 block 16 l2, A5 block pixel float".into(), true),
                ("layer1.0.conv1".into(), "W8 block 16 l2, A5 block pixel pow2".into(), false),
            ]
        );
    }

    #[test]
    fn weight_only_and_back() {
        let toml = "activation = false\n[[rules]]\nlayers = 'fc'\nactivation = { bits = 8 }";
        let plan = plan(toml);
        assert_eq!(plan[0].1, "W4 block 32 mse, A float");
        assert_eq!(plan[1].1, "W4 block 32 mse, A8 block 32 float");
    }

    #[test]
    fn a_layer_that_reads_the_image_may_have_one_sum_unless_a_rule_says_otherwise() {
        let conv1 = |toml: &str| resolve(toml).map(|plan| plan.get("conv1").unwrap().to_string());
        let float = Ok("W4 block 32 mse, A8 block 32 float".to_owned());
        assert_eq!(conv1("image_sum = true"), Ok("W4 block 32 mse two-level, A8 block image float".into()));
        let rule = |rule: &str| conv1(&format!("image_sum = true\n[[rules]]\nlayers = 'conv1'\n{rule}"));
        assert_eq!(rule("activation = { block = 32 }"), float);
        assert_eq!(rule("scales = 'float'"), float);
        assert_eq!(rule("bits = 3"), Ok("W3 block 32 mse two-level, A8 block image float".into()));
        let image = "activation = { block = 'image' }";
        assert_eq!(rule(image), Ok("W4 block 32 mse, A8 block image float".into()));
        let refused = |layer: &str, rule: &str| resolve(&format!("[[rules]]\nlayers = '{layer}'\n{rule}")).unwrap_err();
        assert_eq!(refused("fc", image), PolicyError::ImageBlock { layer: "fc".into() });
        assert_eq!(refused("fc", "block = 'image'"), PolicyError::WeightBlock { layer: "fc".into() });
    }

    #[test]
    fn three_by_three_layers_may_suit_winograds_algorithm_unless_a_rule_says_otherwise() {
        let mut b = Builder::new("grid", Shape::new(3, 8, 8));
        let grid = |channels| Conv2d { padding: [1, 1], ..Conv2d::new(channels, 32, 3) };
        let mut x = b.conv("stem", grid(3), b.input());
        for (name, conv) in [
            ("three", grid(32)),
            ("grouped", Conv2d { groups: 2, ..grid(32) }),
            ("one", Conv2d::new(32, 40, 1)),
            ("odd", grid(40)),
            ("strided", grid(32).stride(2)),
        ] {
            x = b.relu(format!("{name}.relu"), x);
            x = b.conv(name, conv, x);
        }
        let graph = b.finish().unwrap().fold();
        let resolve = |toml: &str| toml::from_str::<Policy>(toml).unwrap().resolve(&graph);
        let three = |toml: &str| resolve(toml).unwrap().get("three").unwrap().to_string();
        let suits = |bits| format!("W4 block 32 mse of all taps two-level, A{bits} block image float");
        let usual = "W4 block 32 mse, A4 block 32 float";
        let plan = resolve("winograd = 6").unwrap();
        for (name, plan) in plan.layers() {
            let expected = match name.as_str() {
                "three" => &*suits(6),
                "stem" => "W4 block 32 mse, A8 block 32 float",
                _ => usual,
            };
            assert_eq!(plan.to_string(), expected, "{name}");
        }
        let rule = |rule: &str| three(&format!("winograd = 6\n[[rules]]\nlayers = 'three'\n{rule}"));
        assert_eq!(rule("scales = 'float'"), usual);
        assert_eq!(rule("activation = { block = 32 }"), usual);
        assert_eq!(rule("activation = { bits = 5 }"), suits(5));
        assert_eq!(rule("activation = { bits = 8 }"), "W4 block 32 mse, A8 block 32 float");
        assert_eq!(rule("bits = 8"), "W8 block 32 mse, A4 block 32 float");
        assert_eq!(three("bits = 3\nwinograd = 4"), suits(4).replace("W4", "W3"));
        let seven = PolicyError::Winograd { bits: Bits::new(7).unwrap() };
        let error = toml::from_str::<Policy>("winograd = 7").unwrap_err().to_string();
        assert!(error.contains(&seven.to_string()), "{error}");
        assert_eq!(Policy { winograd: Bits::new(7).ok(), ..Policy::default() }.resolve(&graph), Err(seven));
    }

    #[test]
    fn linear_layers_can_be_left_out() {
        assert!(plan("linear = false").iter().all(|(name, ..)| name != "fc"));
    }

    #[test]
    fn refuses_rules_that_do_nothing() {
        let error = resolve("[[rules]]\nlayers = 'layer1.0.conv'\nbits = 8").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no layer of `tiny` is named `layer1.0.conv`; \
             the nearest names are `layer1.0.conv1`, `layer1.0.conv2`, `conv1`"
        );
        // A node, but not a layer.
        assert!(matches!(resolve("[[rules]]\nlayers = 'relu'\nbits = 8"), Err(PolicyError::NoLayer { .. })));
        let error = resolve("[[rules]]\nlayers = 'fc'").unwrap_err();
        assert_eq!(error, PolicyError::EmptyRule { pattern: "fc".into() });
    }

    #[test]
    fn refuses_blocks_that_no_engine_can_run() {
        // 96 channels in activation blocks of 32 do not hold weight blocks of 48; the 48 of a group of conv2 do.
        let rule = |layer: &str, block: &str, activation: &str| {
            resolve(&format!("[[rules]]\nlayers = '{layer}'\nblock = {block}\nactivation = {{ block = {activation} }}"))
        };
        let error = rule("layer1.0.conv1", "48", "32").unwrap_err();
        assert_eq!(error, PolicyError::Blocks { layer: "layer1.0.conv1".into(), weight: 48, activation: 32 });
        for (layer, block, activation) in [
            ("layer1.0.conv1", "48", "\"pixel\""),
            ("layer1.0.conv1", "\"pixel\"", "96"),
            ("layer1.0.conv1", "16", "64"),
            ("layer1.0.conv2", "48", "64"),
            ("conv1", "48", "32"),
        ] {
            assert!(rule(layer, block, activation).is_ok(), "{layer} {block} {activation}");
        }

        // 2^31 / (128 * 255) = 65793.0..: one channel more can overflow.
        let mut b = Builder::new("wide", Shape::new(65_794, 1, 1));
        b.linear("fc", 1, b.input());
        let graph = b.finish().unwrap();
        let policy = |block| {
            let toml = format!("bits = 8\nblock = {block}\nactivation = {{ bits = 8, block = \"pixel\" }}");
            toml::from_str::<Policy>(&toml).unwrap()
        };
        assert!(policy(65_793).resolve(&graph.fold()).is_ok());
        let error = policy(65_794).resolve(&graph.fold()).unwrap_err();
        assert_eq!(error, PolicyError::BlockTooLong { layer: "fc".into(), block: 65_794 });
    }

    #[test]
    fn errors_in_a_file_name_what_is_allowed() {
        let cases = [
            (
                "bit = 4",
                "unknown field `bit`, expected one of `bits`, `block`, `rule`, `scales`, `linear`, `activation`, `image_bits`, `image_sum`, `winograd`, `rules`",
            ),
            ("bits = 9", "9 bits: expected 2 to 8"),
            ("bits = 'four'", "invalid type: string \"four\""),
            ("block = 0", "block size `0`: expected a positive integer or `pixel`, or for an activation `image`"),
            ("block = 'row'", "block size `row`: expected a positive integer or `pixel`, or for an activation `image`"),
            ("rule = 'l3'", "unknown variant `l3`, expected one of `l2`, `kl`, `mse`, `balanced`"),
            (
                "activation = true",
                "invalid value: boolean `true`, expected `false` or a table of `bits`, `block`, `scale`",
            ),
            ("activation = 8", "invalid type: integer `8`, expected `false` or a table of `bits`, `block`, `scale`"),
            ("activation = { bit = 8 }", "unknown field `bit`, expected one of `bits`, `block`, `scale`"),
            ("activation = { scale = 'pow' }", "unknown variant `pow`, expected `pow2` or `float`"),
            ("[[rules]]\nbits = 4", "missing field `layers`"),
            ("[[rules]]\nlayers = 'x'\nskp = true", "unknown field `skp`"),
        ];
        for (text, expected) in cases {
            let error = toml::from_str::<Policy>(text).unwrap_err();
            assert!(error.message().contains(expected), "{text}: {error}");
            assert!(error.span().is_some(), "{text}: no place");
        }
    }

    #[test]
    fn a_written_policy_reads_back() {
        let rule = |layers: &str| Rule { layers: layers.into(), ..Rule::default() };
        let change = ActivationChange { block: Some(BlockSize::PIXEL), ..ActivationChange::default() };
        let policy = Policy {
            activation: None,
            rules: vec![
                Rule { bits: Some(four_bits()), skip: Some(false), ..rule("a*") },
                Rule { activation: Some(ActivationRule::Off), ..rule("b") },
                Rule { activation: Some(ActivationRule::Change(change)), ..rule("c") },
            ],
            ..Policy::default()
        };
        for policy in [policy, Policy::default()] {
            assert_eq!(toml::from_str::<Policy>(&toml::to_string(&policy).unwrap()).unwrap(), policy);
            assert_eq!(serde_json::from_str::<Policy>(&serde_json::to_string(&policy).unwrap()).unwrap(), policy);
        }
    }
}
