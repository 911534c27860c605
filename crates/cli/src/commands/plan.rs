//! What would be written, before it is: `--dry-run` of `quantize`, `distill` and `export`.
use blockfloat::{ActivationFormat, BlockSize, ScaleFormat, ScaleRule, WeightFormat};
use graph::{Folded, Graph, Node};
use model::{LayerPlan, Model, Plan, QuantizedLayer, SaveOptions};
use serde::Serialize;

use crate::printer::Printer;
use crate::table::{NOTHING, Table, bytes, count};

/// The plan of a network.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// The convolutions and linear layers, in the order of the network.
    layers: Vec<PlannedLayer>,
    /// The parameters that belong to no such weight: biases, batch normalisation that is not folded; and of a file whose size is
    /// known, its structure.
    other_bytes: u64,
    /// The bytes of the file, or where that is not known of all parameters as they would be stored.
    bytes: u64,
    /// Tells whether that is the size of the file.
    exact: bool,
    /// The bytes of all parameters in F32.
    fp32_bytes: u64,
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct PlannedLayer {
    layer: String,
    /// Its format; `None` for one that stays in floats.
    format: Option<String>,
    weights: usize,
    bytes: u64,
    fp32_bytes: u64,
}

impl Planned {
    /// Says what a plan makes of a folded network whose floats are stored so.
    pub fn new(network: &Folded, plan: &Plan, stored: &SaveOptions) -> Self {
        let float = |length: usize| (length * stored.floats.bytes()) as u64;
        let layers = layers(network.graph(), |name, shape| match plan.get(name) {
            Some(plan) => (Some(in_blocks(plan, shape).to_string()), plan.bytes(shape, stored.scale_precision)),
            None => (None, float(shape.iter().product())),
        });
        let floats: usize = network.weights().iter().map(|(_, tensor)| tensor.data().len()).sum();
        let other = float(floats - layers.iter().map(|layer| layer.weights).sum::<usize>());
        Self::of(layers, other, false, 4 * floats as u64)
    }

    /// Says what a file of a model holds; `bytes` is its size.
    pub fn file(model: &Model, numbers: &Numbers, bytes: u64) -> Self {
        let layers = layers(model.graph(), |name, shape| numbers.of(shape, model.layers().get(name)));
        let other = bytes.saturating_sub(layers.iter().map(|layer| layer.bytes).sum());
        Self::of(layers, other, true, model.fp32_bytes())
    }

    fn of(layers: Vec<PlannedLayer>, other_bytes: u64, exact: bool, fp32_bytes: u64) -> Self {
        let bytes = layers.iter().map(|layer| layer.bytes).sum::<u64>() + other_bytes;
        Self { layers, other_bytes, bytes, exact, fp32_bytes, ratio: fp32_bytes as f64 / bytes.max(1) as f64 }
    }

    /// Prints the plan, and that nothing was written.
    pub fn print(&self, printer: &Printer) {
        printer.result(self, |printer| {
            let mut table = Table::new(["layer", "format", "weights", "size", "FP32"]).left([1]);
            for layer in &self.layers {
                table.row([
                    layer.layer.clone(),
                    layer.format.clone().unwrap_or_else(|| "floats".to_owned()),
                    count(layer.weights as u64),
                    bytes(layer.bytes),
                    bytes(layer.fp32_bytes),
                ]);
            }
            let others = if self.exact { "biases, structure, others" } else { "biases and others" };
            let rest = [others.to_owned(), NOTHING.to_owned(), String::new(), bytes(self.other_bytes)];
            table.row(rest);
            table.row(["all".to_owned(), String::new(), String::new(), bytes(self.bytes), bytes(self.fp32_bytes)]);
            printer.table(&table);
            printer.line("");
            let (what, besides) = match self.exact {
                true => ("file", ""),
                false => ("parameters", "; a file has its structure and test input besides"),
            };
            printer.line(format!("{what}: {:.1} times smaller than FP32{besides}", self.ratio));
        });
        printer.talk("--dry-run: nothing was written");
    }
}

/// Lists the convolutions and linear layers of a network. `of` gives a layer's format, `None` for floats, and its bytes, by its name
/// and the shape of its weight.
fn layers(graph: &Graph, of: impl Fn(&str, [usize; 4]) -> (Option<String>, u64)) -> Vec<PlannedLayer> {
    let layer = |node: &Node| {
        let shape = node.weight_shape()?;
        let weights: usize = shape.iter().product();
        let (format, bytes) = of(&node.name, shape);
        Some(PlannedLayer { layer: node.name.clone(), format, weights, bytes, fp32_bytes: 4 * weights as u64 })
    };
    graph.nodes().iter().filter_map(layer).collect()
}

/// Returns a layer's plan with the blocks that its weight `[Co, Ci/G, Kh, Kw]` has: a depthwise one has a scale for each weight.
pub fn in_blocks(plan: &LayerPlan, shape: [usize; 4]) -> LayerPlan {
    LayerPlan { weight: WeightFormat { block: own_block(plan.weight.block, shape), ..plan.weight }, ..*plan }
}

/// Returns the blocks that a weight `[Co, Ci/G, Kh, Kw]` has.
pub fn own_block(block: BlockSize, [_, channels, ..]: [usize; 4]) -> BlockSize {
    if channels == 1 { BlockSize::new(1).expect("at least 1") } else { block }
}

/// How a file holds the weights of layers.
pub enum Numbers {
    /// Those of quantized layers are codes with block scales, the others floats.
    Codes(SaveOptions),
    /// Those of quantized layers are 8-bit integers, one float scale a filter.
    Integers,
    /// All are 32-bit floats.
    Floats,
}

impl Numbers {
    /// Returns the format of a weight of this shape, `None` for floats, and its bytes.
    fn of(&self, shape: [usize; 4], layer: Option<&QuantizedLayer>) -> (Option<String>, u64) {
        let weights: usize = shape.iter().product();
        match (self, layer) {
            (Self::Codes(stored), Some(&QuantizedLayer { ref codes, activation, signed })) => {
                let (bits, block) = (codes.bits(), codes.block());
                let own = own_block(block, shape);
                let scales = if codes.two_level().is_some() { ScaleFormat::TwoLevel } else { ScaleFormat::Float };
                let weight = WeightFormat::new(bits, block, ScaleRule::default());
                let input = match activation {
                    Some(ActivationFormat { bits, block, scale }) => format!("A{bits} block {block} {scale}"),
                    None => "A float".to_owned(),
                };
                let levels = if scales == ScaleFormat::TwoLevel { " two-level" } else { "" };
                let plan = LayerPlan { weight, scales, activation, signed };
                let format = format!("W{bits} block {own}{levels}, {input}");
                (Some(format), plan.bytes(shape, stored.scale_precision))
            }
            (Self::Integers, Some(_)) => (Some("W8 filter, A8".to_owned()), (weights + 4 * shape[0]) as u64),
            (Self::Codes(stored), None) => (None, (weights * stored.floats.bytes()) as u64),
            _ => (None, 4 * weights as u64),
        }
    }
}
