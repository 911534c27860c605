use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use blockfloat::{ActivationFormat, BlockSize, ScaleFormat};
use graph::{Weights, pass};
use model::policy::Rule;
use model::{Float, Model, Policy, QuantizedLayer};
use serde::Serialize;

use crate::args::Quantize;
use crate::deploy;
use crate::error::{Error, Result};
use crate::output::{Ending, Output, Written, check_file};
use crate::printer::Printer;
use crate::source;
use crate::table::{NOTHING, Table, count};

/// What came out.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    written: Written,
    weight_sqnr: WeightSqnr,
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
}

/// The SQNR of the layers' weights, in dB. One figure for all weights together would be that of the layers whose weights are
/// largest, which is no measure of the network.
#[derive(Debug, Serialize)]
pub(super) struct WeightSqnr {
    /// Half of the layers have less; `None` where most lost nothing.
    median_db: Option<f64>,
    /// The least.
    worst_db: Option<f64>,
    /// The layer that has it.
    worst_layer: Option<String>,
}

impl WeightSqnr {
    /// Of these layers; `None` for a layer that lost nothing.
    pub(super) fn of<'a>(layers: impl Iterator<Item = (&'a str, Option<f64>)>) -> Self {
        let mut layers: Vec<(&str, f64)> = layers.map(|(name, db)| (name, db.unwrap_or(f64::INFINITY))).collect();
        layers.sort_by(|a, b| a.1.total_cmp(&b.1));
        let finite = |db: f64| db.is_finite().then_some(db);
        let worst = layers.first().filter(|(_, db)| db.is_finite());
        Self {
            median_db: layers.get(layers.len().saturating_sub(1) / 2).and_then(|&(_, db)| finite(db)),
            worst_db: worst.map(|&(_, db)| db),
            worst_layer: worst.map(|(name, _)| (*name).to_owned()),
        }
    }
}

/// `SQNR of a layer's weights: 21.2 dB in the median, 11.3 dB at worst (conv1)`.
impl std::fmt::Display for WeightSqnr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Some(worst), Some(layer)) = (self.worst_db, &self.worst_layer) else {
            return f.write_str("no layer's weights lost anything");
        };
        f.write_str("SQNR of a layer's weights: ")?;
        if let Some(median) = self.median_db {
            write!(f, "{median:.1} dB in the median, ")?;
        }
        write!(f, "{worst:.1} dB at worst ({layer})")
    }
}

/// SQNR of a layer in dB, against the float weights it stands for, batch normalisation folded in; `None` where nothing was
/// lost.
pub(super) fn sqnr(weights: &Weights, name: &str, layer: &QuantizedLayer) -> Option<f64> {
    let (mut signal, mut noise) = (0.0, 0.0);
    for (&w, &v) in weights.get(&format!("{name}.weight")).data().iter().zip(&layer.codes.dequantize()) {
        signal += f64::from(w) * f64::from(w);
        noise += (f64::from(w) - f64::from(v)).powi(2);
    }
    (noise > 0.0).then(|| 10.0 * (signal / noise).log10())
}

pub fn run(args: &Quantize, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let policy = policy(args);
    let ending = ending(args)?;
    let source = source::open(&args.model, printer)?;
    let default = format!("{}_{}.safetensors", source.name, scheme(&policy));
    let output = Output::new(&args.target, &default, &args.model.files())?;
    let options = args.target.options(Float::F16);
    printer.detail(format!("quantizing {} to {}", source.name, formats(&source.model, &policy)?));
    let mut quantized = source.model.quantize(&policy)?;
    quantized.round(&options);
    let layers = measure(&source.model, &quantized, &policy)?;
    let written = match ending {
        Ending::Dsc => output.save_bytes(&deploy::bytes(&quantized, &options, printer)?, &quantized, start)?,
        _ => output.save(&quantized, &options, start)?,
    };

    let weight_sqnr = WeightSqnr::of(layers.iter().map(|(name, layer)| (name.as_str(), layer.sqnr_db)));
    let float_layers = float_layers(&quantized);
    let outcome = Outcome { written, weight_sqnr, layers, float_layers };
    printer.result(&outcome, |printer| show(&outcome, printer));
    let (model, file) = (&args.model.model, outcome.written.path.display());
    printer.talk(format!(
        "how accurate it is, only images tell: `dsconv eval {file} --data DATA --against {model}`; `dsconv distill` wins \
         accuracy back"
    ));
    Ok(())
}

/// The format to write.
///
/// # Errors
/// The name of the file is not one of a format that holds a quantized model, or it cannot be written.
fn ending(args: &Quantize) -> Result<Ending> {
    let Some(path) = &args.target.output else { return Ok(Ending::Safetensors) };
    check_file(path, args.target.force, &args.model.files())?;
    match Ending::of(path)? {
        Ending::Onnx => {
            let (dsc, onnx) = (path.with_extension("dsc"), path.display());
            Err(Error::usage(format!("`{onnx}`: `quantize` writes .safetensors and .dsc")).hint(format!(
                "`dsconv quantize {} -o {dsc}`, then `dsconv export {dsc} -o {onnx}`",
                args.model.model,
                dsc = dsc.display()
            )))
        }
        ending => Ok(ending),
    }
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
    printer.line(format!("{layers} layers, {} weights quantized", count(weights as u64)));
    printer.line(&outcome.weight_sqnr);
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
        scales: if args.target.is_two_level() { ScaleFormat::TwoLevel } else { ScaleFormat::Float },
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
        let error = model::ModelError::AlreadyQuantized { graph: model.graph.name().into() };
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
        let sqnr_db = sqnr(&weights, name, layer);
        let format = plan.0.get(name).map(ToString::to_string).unwrap_or_default();
        (name.clone(), Layer { format, weights: layer.codes.codes().len(), sqnr_db })
    };
    Ok(quantized.layers.iter().map(layer).collect())
}

pub(super) fn float_layers(model: &Model) -> Vec<String> {
    let layers =
        model.graph.nodes().iter().filter(|node| matches!(node.op, graph::Op::Conv2d(_) | graph::Op::Linear { .. }));
    layers.filter(|node| !model.layers.contains_key(&node.name)).map(|node| node.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_layer_is_named() {
        let shown = |layers: &[(&str, Option<f64>)]| WeightSqnr::of(layers.iter().copied()).to_string();
        let layers = [("a", Some(30.0)), ("b", None), ("c", Some(8.25)), ("d", Some(20.0))];
        assert_eq!(shown(&layers), "SQNR of a layer's weights: 20.0 dB in the median, 8.2 dB at worst (c)");
        assert_eq!(
            shown(&[("b", None), ("c", None), ("d", Some(9.0))]),
            "SQNR of a layer's weights: 9.0 dB at worst (d)"
        );
        assert_eq!(shown(&[("b", None)]), "no layer's weights lost anything");
    }
}
