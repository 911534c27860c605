use std::collections::BTreeMap;
use std::path::PathBuf;

use blockfloat::{ActivationFormat, packed_len};
use graph::{Head, Outputs, Preprocess, Resize, Weights, pass};
use model::{Float, Model, QuantizedLayer};
use serde::Serialize;

use super::quantize::{WeightSqnr, sqnr};
use crate::args::{Inspect, ModelArgs};
use crate::error::{Error, Result};
use crate::printer::Printer;
use crate::source;
use crate::table::{NOTHING, Table, bytes, count};

/// What is in a model.
#[derive(Debug, Serialize)]
struct Outcome {
    network: String,
    input: [usize; 3],
    classes: usize,
    /// What the outputs say of them.
    outputs: String,
    source: String,
    /// How an image becomes its input.
    preprocess: Preprocess,
    /// What its classes are called; empty where nobody said.
    names: Vec<String>,
    layers: Vec<Layer>,
    /// Convolutions and linear layers that are in floats.
    float_layers: Vec<String>,
    /// Parameters that are in floats.
    floats: usize,
    /// All tensors, without the file's own structure.
    bytes: u64,
    fp32_bytes: u64,
    /// Of the quantized weights against `--source`.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_sqnr: Option<WeightSqnr>,
}

/// A quantized layer.
#[derive(Debug, Serialize)]
struct Layer {
    name: String,
    /// `[Co, Ci/G, Kh, Kw]`.
    shape: [usize; 4],
    bits: u8,
    block: String,
    /// `f16`, `f32` or `two-level`.
    scales: String,
    activation: Option<ActivationFormat>,
    /// Whether its input can be negative.
    signed: bool,
    /// Codes and scales as they are stored.
    bytes: u64,
    /// Smallest and largest magnitude of its scales, zeros left out.
    scale_range: [f32; 2],
    /// Its weights against those of `--source`, in dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    sqnr_db: Option<f64>,
}

pub fn run(args: &Inspect, printer: &Printer) -> Result<()> {
    let model = source::open(&model_args(&args.model, None, args), printer)?.model;
    let original = args.source.as_ref().map(|name| original(name, args, &model, printer)).transpose()?;
    let mut layers = Vec::new();
    for node in model.graph.nodes() {
        let Some(layer) = model.layers.get(&node.name) else { continue };
        layers.push(describe(&node.name, layer, original.as_ref().and_then(|w| sqnr(w, &node.name, layer))));
    }
    let weight_sqnr = original.map(|_| WeightSqnr::of(layers.iter().map(|l| (l.name.as_str(), l.sqnr_db))));
    let options = model::SaveOptions { scale_precision: model.scale_precision(), ..model::SaveOptions::default() };
    let shape = model.graph.input();
    let outcome = Outcome {
        network: model.graph.name().to_owned(),
        input: [shape.channels, shape.height, shape.width],
        classes: model.graph.head().classes(),
        outputs: outputs(model.graph.head()),
        source: model.info.source.clone(),
        preprocess: model.info.preprocess.clone(),
        names: model.info.classes.clone(),
        layers,
        float_layers: super::quantize::float_layers(&model),
        floats: model.weights.0.values().map(|tensor| tensor.data().len()).sum(),
        bytes: model.storage_bytes(&options),
        fp32_bytes: model.fp32_bytes(),
        weight_sqnr,
    };
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

/// A model for the images that the options tell of.
fn model_args(name: &str, weights: Option<PathBuf>, args: &Inspect) -> ModelArgs {
    ModelArgs { model: name.to_owned(), weights, classes: None, image: args.image.clone() }
}

/// The float weights, batch normalisation folded in.
fn original(name: &str, args: &Inspect, model: &Model, printer: &Printer) -> Result<Weights> {
    let opened = source::open(&model_args(name, args.weights.clone(), args), printer)?;
    if opened.model.is_quantized() {
        return Err(Error::usage(format!("`{name}` is quantized itself: --source takes the float model")));
    }
    let (graph, weights) = pass::fold_batch_norm(&opened.model.graph, &opened.model.weights);
    let shapes: BTreeMap<_, _> = graph.params().into_iter().map(|param| (param.name, param.shape)).collect();
    let missing = model.layers.iter().find(|(name, layer)| {
        let shape = shapes.get(&format!("{name}.weight"));
        shape.is_none_or(|shape| shape.iter().product::<usize>() != layer.codes.codes().len())
    });
    match missing {
        None => Ok(weights),
        Some((layer, _)) => Err(Error::failed(format!("`{name}` has no layer `{layer}` of that shape"))),
    }
}

fn outputs(head: Head) -> String {
    match (head.outputs, head.count) {
        (Outputs::Logits, 1) => "the logit of class 1".to_owned(),
        (_, 1) => "the probability of class 1".to_owned(),
        (Outputs::Logits, count) => format!("{count} logits"),
        (Outputs::Softmax, count) => format!("{count} probabilities of which one class is right"),
        (Outputs::Sigmoid, count) => format!("{count} probabilities, several classes can be right"),
        (Outputs::Values, count) => format!("{count} values that are computed from probabilities"),
    }
}

fn describe(name: &str, layer: &QuantizedLayer, sqnr_db: Option<f64>) -> Layer {
    let QuantizedLayer { codes, activation, signed } = layer;
    let (scales, size) = match codes.two_level() {
        Some(levels) => ("two-level", 4 * levels.channel().len() + levels.factors().len()),
        None if Float::F16.holds(codes.scales()) => ("f16", 2 * codes.scales().len()),
        None => ("f32", 4 * codes.scales().len()),
    };
    let magnitudes = codes.scales().iter().map(|s| s.abs()).filter(|&s| s > 0.0);
    let smallest = magnitudes.clone().fold(f32::INFINITY, f32::min);
    let largest = magnitudes.fold(0.0, f32::max);
    Layer {
        name: name.to_owned(),
        shape: codes.shape(),
        bits: codes.bits().get(),
        block: codes.block().to_string(),
        scales: scales.to_owned(),
        activation: *activation,
        signed: *signed,
        bytes: (packed_len(codes.codes().len(), codes.bits()) + size) as u64,
        scale_range: [if largest == 0.0 { 0.0 } else { smallest }, largest],
        sqnr_db,
    }
}

fn show(outcome: &Outcome, printer: &Printer) {
    let mut table =
        Table::new(["layer", "shape", "bits", "block", "scales", "input", "size", "scale range", "SQNR dB"])
            .left([1, 4, 5]);
    for layer in &outcome.layers {
        let input = match layer.activation {
            None => "floats".to_owned(),
            Some(ActivationFormat { bits, block, scale }) => {
                format!("A{bits} block {block} {scale}{}", if layer.signed { "" } else { ", >= 0" })
            }
        };
        let [low, high] = layer.scale_range;
        table.row([
            layer.name.clone(),
            layer.shape.map(|d| d.to_string()).join("x"),
            layer.bits.to_string(),
            layer.block.clone(),
            layer.scales.clone(),
            input,
            bytes(layer.bytes),
            format!("{low:.2e} .. {high:.2e}"),
            layer.sqnr_db.map_or(NOTHING.to_owned(), |db| format!("{db:.1}")),
        ]);
    }
    if !outcome.layers.is_empty() {
        printer.table(&table.without_empty_columns());
        printer.line("");
    }
    let [c, h, w] = outcome.input;
    printer.line(format!("{}: {c}x{h}x{w} to {} classes, from {}", outcome.network, outcome.classes, outcome.source));
    printer.line(format!("outputs: {}", outcome.outputs));
    let Preprocess { order, divide, mean, std, resize, crop, .. } = &outcome.preprocess;
    let sizes = match (resize, crop) {
        (None, None) => "as large as they are, or resized to fit".to_owned(),
        (resize, crop) => {
            let step = |what: &str, to: Option<String>| to.map(|to| format!("{what} {to}"));
            let resize = step(
                "resized to",
                resize.map(|to| match to {
                    Resize::Shorter(side) => format!("a shorter side of {side}"),
                    Resize::Exact([height, width]) => format!("{height}x{width}"),
                }),
            );
            let crop = step("cut to", crop.map(|[height, width]| format!("{height}x{width}")));
            [resize, crop].into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
    };
    printer.line(format!("images: {sizes}; {order} / {divide}, mean {mean:?}, deviation {std:?}"));
    if !outcome.names.is_empty() {
        let more = if outcome.names.len() > 5 { ", ..." } else { "" };
        let first: Vec<&str> = outcome.names.iter().take(5).map(String::as_str).collect();
        printer.line(format!("names of classes: {}{more}", first.join(", ")));
    }
    printer.line(format!(
        "{} quantized layers, {} floats, {} in all: {:.2} times smaller than FP32",
        outcome.layers.len(),
        count(outcome.floats as u64),
        bytes(outcome.bytes),
        outcome.fp32_bytes as f64 / outcome.bytes as f64
    ));
    if let Some(sqnr) = &outcome.weight_sqnr {
        printer.line(sqnr);
    }
    if !outcome.float_layers.is_empty() {
        printer.line(format!("in floats: {}", outcome.float_layers.join(", ")));
    }
}
