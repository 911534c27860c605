//! What quantization did to each layer.
use distill::Context;
use dsconv::Network;
use graph::{Folded, NodeId};
use images::Unlabelled;
use model::{Model, QuantizedLayer};
use report::{Bars, Histogram, Item, Plot, Section, Table};

use crate::commands::inspect::{LayerReport, describe};
use crate::commands::quantize::sqnr;
use crate::error::Result;
use crate::table::{bytes, count, decibels};

/// The layers whose numbers are shown.
const WORST: usize = 3;
/// The images whose values are shown.
const IMAGES: usize = 4;
/// The ranges of a histogram.
const RANGES: usize = 48;

/// Shows the bits, bytes and SQNR of each quantized layer, and the numbers of the worst ones: weights, codes and inputs.
///
/// # Errors
/// The pictures cannot be read.
pub fn sections(
    float: &Folded,
    quantized: &Model,
    pictures: Option<&Unlabelled>,
    context: &Context,
) -> Result<Vec<Section>> {
    let mut layers: Vec<(&QuantizedLayer, LayerReport)> = quantized
        .layers()
        .iter()
        .map(|(name, layer)| (layer, describe(name, layer, sqnr(float.weights(), name, layer))))
        .collect();
    let level = |report: &LayerReport| report.sqnr_db.unwrap_or(f64::INFINITY);
    layers.sort_by(|a, b| level(&a.1).total_cmp(&level(&b.1)));
    let names: Vec<&str> = layers.iter().take(WORST).map(|(_, report)| report.name.as_str()).collect();
    let inputs = pictures.map(|pictures| inputs(float, &names, pictures, context)).transpose()?.unwrap_or_default();

    let mut worst = Section::new(
        "The worst layers",
        "The layers whose weights lost most by themselves: their float weights, the codes that stand for them, and what the \
         float network gives them to read.",
    );
    for (place, (layer, report)) in layers.iter().take(WORST).enumerate() {
        let weights = float.weights().of(&report.name).weight();
        let (name, bits) = (&report.name, layer.codes.bits());
        worst = worst.with(values(format!("{name}: weights"), "weight", weights.data()));
        let (low, high) = (f64::from(bits.signed_min()), f64::from(bits.signed_max()));
        let mut counts = vec![0; (high - low) as usize + 1];
        layer.codes.codes().iter().for_each(|&code| counts[(f64::from(code) - low) as usize] += 1);
        worst = worst.with(Item::Plot(Plot::Histogram(Histogram {
            caption: format!("{name}: codes of {bits} bits"),
            axis: "code".to_owned(),
            range: [low - 0.5, high + 0.5],
            counts,
        })));
        if let Some(input) = inputs.get(place) {
            worst = worst.with(values(format!("{name}: inputs"), "input", input));
        }
    }
    Ok(vec![overview(&layers), worst])
}

/// The bars and the table of all layers, worst first.
fn overview(layers: &[(&QuantizedLayer, LayerReport)]) -> Section {
    let bar = |report: &LayerReport| (report.name.clone(), report.sqnr_db.unwrap_or(0.0), decibels(report.sqnr_db));
    let bars = layers.iter().map(|(_, report)| bar(report)).collect();
    let mut table = Table::new(["layer", "weights", "bits", "block", "input bits", "size", "SQNR dB"]);
    for (layer, report) in layers {
        table.row([
            report.name.clone(),
            count(layer.codes.codes().len() as u64),
            report.bits.to_string(),
            report.block.clone(),
            report.activation.map_or("floats".to_owned(), |format| format.bits.to_string()),
            bytes(report.bytes),
            decibels(report.sqnr_db),
        ]);
    }
    let caption =
        "Signal to quantization noise in dB of each layer's weights against the float network's; longer is better.";
    Section::new("Layers", "Bits, bytes and what the weights of each layer lost, worst first.")
        .with(Item::Plot(Plot::Bars(Bars { caption: caption.to_owned(), bars })))
        .with(Item::Table(table))
}

/// The values that the float network gives these layers for some pictures.
fn inputs(float: &Folded, names: &[&str], pictures: &Unlabelled, context: &Context) -> Result<Vec<Vec<f32>>> {
    let graph = float.graph();
    let taps: Vec<NodeId> = names.iter().filter_map(|name| Some(graph.node(graph.find(name)?).inputs[0])).collect();
    let network = Network::trainable(graph, float.weights(), &context.device);
    Ok(distill::evaluate::values(&network, &taps, &pictures.take(IMAGES), context)?)
}

/// How often values are in each of some ranges.
fn values(caption: String, axis: &str, values: &[f32]) -> Item {
    let finite = || values.iter().copied().filter(|v| v.is_finite()).map(f64::from);
    let (low, high) = finite().fold((0.0f64, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    let mut counts = vec![0; RANGES];
    let width = (high - low) / RANGES as f64;
    if width > 0.0 {
        finite().for_each(|v| counts[(((v - low) / width) as usize).min(RANGES - 1)] += 1);
    }
    Item::Plot(Plot::Histogram(Histogram { caption, axis: axis.to_owned(), range: [low, high], counts }))
}
