use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use blockfloat::{ActivationFormat, BlockSize, ScaleFormat};
use graph::policy::Rule;
use graph::{Model, Policy, QuantizedLayer, Weights, pass};
use serde::Serialize;

use crate::args::{Quantize, Scales};
use crate::deploy;
use crate::error::{Error, Result};
use crate::output::{Output, Written};
use crate::printer::Printer;
use crate::source;
use crate::table::{NOTHING, Table, count};

/// What came out.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    written: Written,
    /// Of all quantized weights, in dB.
    weight_sqnr_db: Option<f64>,
    layers: BTreeMap<String, Layer>,
    /// Convolutions and linear layers that stay in floats.
    float_layers: Vec<String>,
}

/// One layer.
#[derive(Debug, Serialize)]
struct Layer {
    format: String,
    weights: usize,
    /// Signal to quantization noise of its weights in dB; `None` where nothing was lost.
    sqnr_db: Option<f64>,
    #[serde(skip)]
    power: Power,
}

/// Sums of squares.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Power {
    signal: f64,
    noise: f64,
}

impl Power {
    pub(super) fn decibels(self) -> Option<f64> {
        (self.noise > 0.0).then(|| 10.0 * (self.signal / self.noise).log10())
    }
}

impl std::ops::Add for Power {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { signal: self.signal + other.signal, noise: self.noise + other.noise }
    }
}

/// Signal and noise of a layer against the float weights it stands for, batch normalisation folded in.
pub(super) fn sqnr(weights: &Weights, name: &str, layer: &QuantizedLayer) -> Power {
    let mut power = Power::default();
    for (&w, &v) in weights.get(&format!("{name}.weight")).data().iter().zip(&layer.codes.dequantize()) {
        power.signal += f64::from(w) * f64::from(w);
        power.noise += (f64::from(w) - f64::from(v)).powi(2);
    }
    power
}

pub fn run(args: &Quantize, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let policy = policy(args);
    let source = source::open(&args.model, printer)?;
    let output = Output::new(&args.target, &format!("{}_{}.safetensors", source.name, scheme(&policy)))?;
    printer.detail(format!("quantizing {} to {}", source.name, formats(&source.model, &policy)?));
    let mut quantized = source.model.quantize(&policy)?;
    quantized.round(&args.target.options());
    let layers = measure(&source.model, &quantized, &policy)?;
    let written = match output.is_dsc() {
        true => output.save_bytes(&deploy::bytes(&quantized, &args.target.options())?, &quantized, start)?,
        false => output.save(&quantized, start)?,
    };

    let total = layers.values().fold(Power::default(), |sum, layer| sum + layer.power);
    let float_layers = float_layers(&quantized);
    let outcome = Outcome { written, weight_sqnr_db: total.decibels(), layers, float_layers };
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

fn show(outcome: &Outcome, printer: &Printer) {
    let decibels = |value: Option<f64>| value.map_or(NOTHING.to_owned(), |db| format!("{db:.1}"));
    if printer.is_verbose() {
        let mut table = Table::new(["layer", "format", "weights", "SQNR dB"]).left([1]);
        for (name, layer) in &outcome.layers {
            table.row([name.clone(), layer.format.clone(), count(layer.weights as u64), decibels(layer.sqnr_db)]);
        }
        printer.table(&table);
        printer.line("");
    }
    let weights: usize = outcome.layers.values().map(|layer| layer.weights).sum();
    let layers = outcome.layers.len();
    printer.line(format!(
        "{layers} layers, {} weights quantized, weight SQNR {} dB",
        count(weights as u64),
        decibels(outcome.weight_sqnr_db)
    ));
    if !outcome.float_layers.is_empty() {
        printer.line(format!(
            "{} layers stay in floats: {}",
            outcome.float_layers.len(),
            outcome.float_layers.join(", ")
        ));
    }
    printer.line(&outcome.written);
}

/// The policy that the options say.
fn policy(args: &Quantize) -> Policy {
    let block = args.activation_block.unwrap_or(args.block);
    let activation = ActivationFormat { bits: args.activation_bits, block, scale: args.activation_scale };
    let skip = |layers: &String| Rule { layers: layers.clone(), skip: Some(true), ..Rule::default() };
    Policy {
        bits: args.bits,
        block: args.block,
        rule: args.rule,
        scales: if args.target.scales == Scales::TwoLevel { ScaleFormat::TwoLevel } else { ScaleFormat::Float },
        linear: !args.convolutions_only,
        activation: (!args.weights_only).then_some(activation),
        rules: args.skip.iter().map(skip).collect(),
    }
}

/// `w4a4`, or `w4` where inputs stay in floats; the block too where it is not the usual one.
fn scheme(policy: &Policy) -> String {
    let mut name = format!("w{}", policy.bits);
    if let Some(activation) = policy.activation {
        name += &format!("a{}", activation.bits);
    }
    if policy.block != Policy::default().block {
        name += &match policy.block {
            BlockSize::PIXEL => "_pixel".to_owned(),
            block => format!("_b{block}"),
        };
    }
    name
}

fn formats(model: &Model, policy: &Policy) -> Result<String> {
    if model.is_quantized() {
        let error = graph::ModelError::AlreadyQuantized { graph: model.graph.name().into() };
        return Err(Error::usage(error));
    }
    let (graph, _) = pass::fold_batch_norm(&model.graph, &model.weights);
    let plan = policy.resolve(&graph).map_err(Error::usage)?;
    if plan.0.is_empty() {
        return Err(Error::usage("every layer is skipped: nothing is left to quantize"));
    }
    let formats: BTreeSet<String> = plan.0.values().map(ToString::to_string).collect();
    Ok(formats.into_iter().collect::<Vec<_>>().join("; "))
}

/// Every quantized layer against the weights it stands for, batch normalisation folded in.
fn measure(float: &Model, quantized: &Model, policy: &Policy) -> Result<BTreeMap<String, Layer>> {
    let (graph, weights) = pass::fold_batch_norm(&float.graph, &float.weights);
    let plan = policy.resolve(&graph)?;
    let layer = |(name, layer): (&String, &QuantizedLayer)| {
        let power = sqnr(&weights, name, layer);
        let format = plan.0.get(name).map(ToString::to_string).unwrap_or_default();
        (name.clone(), Layer { format, weights: layer.codes.codes().len(), sqnr_db: power.decibels(), power })
    };
    Ok(quantized.layers.iter().map(layer).collect())
}

pub(super) fn float_layers(model: &Model) -> Vec<String> {
    let layers =
        model.graph.nodes().iter().filter(|node| matches!(node.op, graph::Op::Conv2d(_) | graph::Op::Linear { .. }));
    layers.filter(|node| !model.layers.contains_key(&node.name)).map(|node| node.name.clone()).collect()
}
