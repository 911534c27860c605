//! `dsconv inspect`: what is in a model.
use std::collections::BTreeMap;

use blockfloat::{ActivationFormat, packed_len};
use graph::{Head, Outputs, Preprocess, Resize, Role, Weights};
use model::{Float, Model, QuantizedLayer};
use serde::Serialize;

use super::plan::own_block;
use super::quantize::{WeightSqnr, sqnr};
use crate::error::{Error, Result};
use crate::models::{self, ModelSpec};
use crate::printer::Printer;
use crate::table::{Table, bytes, count, counted, decibels};

/// The model to look into, and how.
#[derive(Debug, Clone)]
pub struct InspectOptions {
    /// The model.
    pub model: ModelSpec,
    /// The float model that it was made from: the SQNR of the weights is measured against it.
    pub source: Option<ModelSpec>,
}

/// The result of `dsconv inspect`.
#[derive(Debug, Serialize)]
struct Outcome {
    network: String,
    input: [usize; 3],
    classes: usize,
    /// What the outputs say of the classes.
    outputs: String,
    source: String,
    /// How an image becomes its input.
    preprocess: Preprocess,
    /// The names of its classes; empty where nobody said.
    names: Vec<String>,
    layers: Vec<LayerReport>,
    /// The convolutions and linear layers that are in floats.
    float_layers: Vec<String>,
    /// The number of parameters that are in floats.
    floats: usize,
    /// The bytes of all tensors, without the file's own structure.
    bytes: u64,
    /// The size of the file; `None` where the network comes from no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_bytes: Option<u64>,
    fp32_bytes: u64,
    /// The SQNR of the quantized weights against the float model.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_sqnr: Option<WeightSqnr>,
}

/// What there is to say of a quantized layer.
#[derive(Debug, Serialize)]
pub struct LayerReport {
    /// Its name.
    pub name: String,
    /// The shape of its weight, `[Co, Ci/G, Kh, Kw]`.
    shape: [usize; 4],
    /// The bits of a code.
    pub bits: u8,
    /// The channels that share a scale.
    pub block: String,
    /// How its scales are stored: `f16`, `f32` or `two-level`.
    scales: String,
    /// The format of its input; `None` for floats.
    pub activation: Option<ActivationFormat>,
    /// Whether its input can be negative.
    signed: bool,
    /// The bytes of codes and scales as they are stored.
    pub bytes: u64,
    /// The smallest and the largest magnitude of its scales, with zeros left out.
    scale_range: [f32; 2],
    /// The SQNR of its weights against those of the float model, in dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqnr_db: Option<f64>,
}

/// Shows what is in a model.
///
/// # Errors
/// A model cannot be opened; the float model does not have the layers of the quantized one.
pub fn run(options: &InspectOptions, printer: &Printer) -> Result<()> {
    let opened = models::open(&options.model, printer)?;
    let file_bytes = opened.file.map(std::fs::metadata).transpose()?.map(|file| file.len());
    let model = opened.model;
    let original = options.source.as_ref().map(|source| original(source, &model, printer)).transpose()?;
    let mut layers = Vec::new();
    for node in model.graph().nodes() {
        let Some(layer) = model.layers().get(&node.name) else { continue };
        layers.push(describe(&node.name, layer, original.as_ref().and_then(|w| sqnr(w, &node.name, layer))));
    }
    let weight_sqnr = original.map(|_| WeightSqnr::of(layers.iter().map(|l| (l.name.as_str(), l.sqnr_db))));
    let stored = model::SaveOptions { scale_precision: model.scale_precision(), ..model::SaveOptions::default() };
    let shape = model.graph().input();
    let outcome = Outcome {
        network: model.graph().name().to_owned(),
        input: [shape.channels, shape.height, shape.width],
        classes: model.graph().head().classes(),
        outputs: outputs(model.graph().head()),
        source: model.info().source.clone(),
        preprocess: model.info().preprocess.clone(),
        names: model.info().classes.clone(),
        layers,
        float_layers: super::quantize::float_layers(&model),
        floats: model.weights().tensors().map(|tensor| tensor.data().len()).sum(),
        bytes: model.storage_bytes(&stored),
        file_bytes,
        fp32_bytes: model.fp32_bytes(),
        weight_sqnr,
    };
    printer.result(&outcome, |printer| show(&outcome, printer));
    Ok(())
}

/// Opens the float weights, and folds batch normalisation into them.
///
/// # Errors
/// The model cannot be opened, is quantized itself, or lacks a layer of the quantized model.
fn original(source: &ModelSpec, model: &Model, printer: &Printer) -> Result<Weights> {
    let name = &source.name;
    let opened = models::open(source, printer)?;
    if opened.model.is_quantized() {
        return Err(Error::usage(format!("`{name}` is quantized itself: --source takes the float model")));
    }
    let (graph, weights) = opened.model.fold()?.into_parts();
    let shapes: BTreeMap<_, _> = graph.params().into_iter().map(|param| (param.name, param.shape)).collect();
    let missing = model.layers().iter().find(|(name, layer)| {
        let shape = shapes.get(&Role::Weight.name(name));
        shape.is_none_or(|shape| shape.iter().product::<usize>() != layer.codes.codes().len())
    });
    match missing {
        None => Ok(weights),
        Some((layer, _)) => Err(Error::failed(format!("`{name}` has no layer `{layer}` of that shape"))),
    }
}

/// Says what the outputs of a network are.
pub fn outputs(head: Head) -> String {
    match (head.outputs, head.count) {
        (Outputs::Logits, 1) => "the logit of class 1".to_owned(),
        (_, 1) => "the probability of class 1".to_owned(),
        (Outputs::Logits, count) => format!("{count} logits"),
        (Outputs::Softmax, count) => format!("{count} probabilities of which one class is right"),
        (Outputs::Sigmoid, count) => format!("{count} probabilities, several classes can be right"),
        (Outputs::Values, count) => format!("{count} values that are computed from probabilities"),
    }
}

/// Describes a quantized layer.
pub fn describe(name: &str, layer: &QuantizedLayer, sqnr_db: Option<f64>) -> LayerReport {
    let QuantizedLayer { codes, activation, signed } = layer;
    let (scales, size) = match codes.two_level() {
        Some(levels) => ("two-level", 4 * levels.channel().len() + levels.factors().len()),
        None if Float::F16.holds(codes.scales()) => ("f16", 2 * codes.scales().len()),
        None => ("f32", 4 * codes.scales().len()),
    };
    let magnitudes = codes.scales().iter().map(|s| s.abs()).filter(|&s| s > 0.0);
    let smallest = magnitudes.clone().fold(f32::INFINITY, f32::min);
    let largest = magnitudes.fold(0.0, f32::max);
    LayerReport {
        name: name.to_owned(),
        shape: codes.shape(),
        bits: codes.bits().get(),
        block: own_block(codes.block(), codes.shape()).to_string(),
        scales: scales.to_owned(),
        activation: *activation,
        signed: *signed,
        bytes: (packed_len(codes.codes().len(), codes.bits()) + size) as u64,
        scale_range: [if largest == 0.0 { 0.0 } else { smallest }, largest],
        sqnr_db,
    }
}

/// Says how an image becomes the input of a network.
pub fn prepared(preprocess: &Preprocess) -> String {
    let Preprocess { order, divide, mean, std, resize, crop, .. } = preprocess;
    let resized = resize.map(|to| match to {
        Resize::Shorter(side) => format!("resized to a shorter side of {side}"),
        Resize::Exact([height, width]) => format!("resized to {height}x{width}"),
    });
    let cut = crop.map(|[height, width]| format!("cut to {height}x{width}"));
    let steps: Vec<String> = [resized, cut].into_iter().flatten().collect();
    let sizes = match steps.is_empty() {
        true => "as large as they are, or resized to fit".to_owned(),
        false => steps.join(", "),
    };
    format!("{sizes}; {order} / {divide}, mean {mean:?}, deviation {std:?}")
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
            format!("{low:.1e} .. {high:.1e}"),
            decibels(layer.sqnr_db),
        ]);
    }
    if !outcome.layers.is_empty() {
        printer.table(&table.without_empty_columns());
        printer.line("");
    }
    let [c, h, w] = outcome.input;
    printer.line(format!(
        "{}: {c}x{h}x{w} to {}, from {}",
        outcome.network,
        counted(outcome.classes, "class"),
        outcome.source
    ));
    printer.line(format!("outputs: {}", outcome.outputs));
    printer.line(format!("images: {}", prepared(&outcome.preprocess)));
    if !outcome.names.is_empty() {
        let more = if outcome.names.len() > 5 { ", ..." } else { "" };
        let first: Vec<&str> = outcome.names.iter().take(5).map(String::as_str).collect();
        printer.line(format!("names of classes: {}{more}", first.join(", ")));
    }
    let (floats, size) = (count(outcome.floats as u64), bytes(outcome.bytes));
    printer.line(match outcome.layers.len() {
        0 => format!("parameters: {floats} floats, {size}"),
        layers => {
            let ratio = outcome.fp32_bytes as f64 / outcome.bytes as f64;
            format!(
                "parameters: {}, {floats} floats; {size}, {ratio:.1} times smaller than FP32",
                counted(layers, "quantized layer")
            )
        }
    });
    if let Some(size) = outcome.file_bytes {
        printer.line(format!("file: {}, with the network's structure", bytes(size)));
    }
    if let Some(sqnr) = &outcome.weight_sqnr {
        printer.line(sqnr);
    }
    if outcome.layers.is_empty() {
        printer.line(format!("in floats: {}", counted(outcome.float_layers.len(), "layer")));
    } else if !outcome.float_layers.is_empty() {
        printer.line(format!("in floats: {}", outcome.float_layers.join(", ")));
    }
}
