//! What a quantization would do, before it is done: `--dry-run` of `quantize` and `distill`.
use graph::{Folded, Role};
use model::{Plan, SaveOptions};
use serde::Serialize;

use crate::printer::Printer;
use crate::table::{NOTHING, Table, bytes, count};

/// The plan of a network.
#[derive(Debug, Serialize)]
pub struct Planned {
    /// The convolutions and linear layers, in the order of the network.
    layers: Vec<PlannedLayer>,
    /// The parameters that belong to no such weight: biases, batch normalisation that is not folded.
    other_bytes: u64,
    /// The bytes of all parameters as they would be stored, without the structure of a file.
    bytes: u64,
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
    /// Says what a plan makes of a folded network whose floats are stored so; `fp32_bytes` are those of the network before it was folded.
    pub fn new(network: &Folded, plan: &Plan, stored: &SaveOptions, fp32_bytes: u64) -> Self {
        let (mut layers, mut other) = (Vec::new(), 0);
        let float = |length: usize| (length * stored.floats.bytes()) as u64;
        for node in network.graph().nodes() {
            let Some(shape) = node.weight_shape() else { continue };
            let weights: usize = shape.iter().product();
            let planned = plan.get(&node.name);
            layers.push(PlannedLayer {
                layer: node.name.clone(),
                format: planned.map(ToString::to_string),
                weights,
                bytes: planned.map_or_else(|| float(weights), |plan| plan.bytes(shape, stored.scale_precision)),
                fp32_bytes: 4 * weights as u64,
            });
        }
        let is_weight = |name: &str| layers.iter().any(|layer| Role::Weight.name(&layer.layer) == name);
        for (name, tensor) in network.weights().iter() {
            if !is_weight(name) {
                other += float(tensor.data().len());
            }
        }
        let bytes = layers.iter().map(|layer| layer.bytes).sum::<u64>() + other;
        Self { layers, other_bytes: other, bytes, fp32_bytes, ratio: fp32_bytes as f64 / bytes.max(1) as f64 }
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
            let rest = ["biases and others".to_owned(), NOTHING.to_owned(), String::new(), bytes(self.other_bytes)];
            table.row(rest);
            table.row(["all".to_owned(), String::new(), String::new(), bytes(self.bytes), bytes(self.fp32_bytes)]);
            printer.table(&table);
            printer.line("");
            printer.line(format!(
                "{:.1} times smaller than FP32; a file has its structure and test input besides",
                self.ratio
            ));
        });
        printer.talk("--dry-run: nothing was quantized or written");
    }
}
