//! The picture of `dsconv analyze`: a bar for every layer and format, as SVG.
use std::fmt::Write as _;

use distill::Part;

use super::{FormatOutcome, LayerOutcome};

/// The height of a bar and the space between two layers, in pixels.
const BAR: usize = 9;
const GAP: usize = 6;
/// The width of the names, and of the longest bar.
const NAMES: usize = 260;
const LONGEST: f64 = 560.0;
const TOP: usize = 56;
/// The dB that a bar of no length stands for, beyond the quietest layer.
const MARGIN: f64 = 3.0;

/// Draws the layers from top to bottom, worst first. A longer bar is more noise, in dB; bars are cut off at 90 dB of SQNR.
pub fn draw(model: &str, layers: &[LayerOutcome]) -> String {
    let level = |format: &FormatOutcome| format.sqnr_db.unwrap_or(90.0).min(90.0);
    let levels: Vec<f64> = layers.iter().flat_map(|layer| &layer.formats).map(level).collect();
    let quietest = levels.iter().copied().fold(f64::NEG_INFINITY, f64::max) + MARGIN;
    let loudest = levels.iter().copied().fold(f64::INFINITY, f64::min);
    let length = |db: f64| (quietest - db) / (quietest - loudest).max(MARGIN) * LONGEST;
    let each = layers.first().map_or(0, |layer| layer.formats.len());
    let height = TOP + layers.len() * (each * BAR + GAP) + GAP;
    let width = NAMES + LONGEST as usize + 60;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = format!("{model}: SQNR of the logits in dB with one layer alone quantized (a longer bar is worse)");
    let _ = writeln!(svg, "<text x=\"8\" y=\"18\" font-size=\"13\">{}</text>", escaped(&title));
    if let Some(layer) = layers.first() {
        for (i, format) in layer.formats.iter().enumerate() {
            let x = 8 + 90 * i;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{}\"/>",
                colour(format, layer)
            );
            let _ = writeln!(svg, "<text x=\"{}\" y=\"39\">{}</text>", x + 14, format.name());
        }
    }
    for (i, layer) in layers.iter().enumerate() {
        let top = TOP + i * (each * BAR + GAP);
        let middle = top + each * BAR / 2 + 4;
        let name = escaped(&layer.layer);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>", NAMES - 6);
        for (k, format) in layer.formats.iter().enumerate() {
            let (y, db) = (top + k * BAR, level(format));
            let (long, fill) = (length(db), colour(format, layer));
            let _ = writeln!(
                svg,
                "<rect x=\"{NAMES}\" y=\"{y}\" width=\"{long:.1}\" height=\"{}\" fill=\"{fill}\"/>\n<text x=\"{:.1}\" y=\"{}\" \
                 font-size=\"8\">{db:.1}</text>",
                BAR - 1,
                NAMES as f64 + long + 3.0,
                y + BAR - 2
            );
        }
    }
    svg + "</svg>\n"
}

/// A hue for each part, paler for more bits.
fn colour(format: &FormatOutcome, layer: &LayerOutcome) -> String {
    let mut bits: Vec<_> = layer.formats.iter().map(|format| format.bits).collect();
    bits.dedup();
    let place = bits.iter().position(|&bits| bits == format.bits).unwrap_or(0);
    let hue = match format.part {
        Part::Weights => 210,
        Part::Activations => 30,
        Part::Both => 0,
    };
    let saturation = if format.part == Part::Both { 0 } else { 75 };
    format!("hsl({hue},{saturation}%,{}%)", 35 + 40 * place / bits.len().max(1))
}

/// Writes text so that it stands for itself in XML.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use blockfloat::Bits;

    use super::*;

    #[test]
    fn a_louder_layer_has_a_longer_bar() {
        let layer = |name: &str, noise: f64| LayerOutcome {
            layer: name.to_owned(),
            weights: 1,
            formats: vec![FormatOutcome {
                bits: Bits::MAX,
                activation_bits: Bits::MAX,
                part: Part::Both,
                noise,
                sqnr_db: Some(-10.0 * noise.log10()),
                divergence: None,
                agreement: None,
            }],
        };
        let svg = draw("a<b", &[layer("loud", 0.1), layer("a&b", 0.001)]);
        assert!(svg.contains("a&lt;b") && svg.contains("a&amp;b") && svg.contains(">10.0<"), "{svg}");
        // 10 dB is the longest; 30 dB has 3 of the 23 dB down to 33.
        assert!(svg.contains("width=\"560.0\"") && svg.contains("width=\"73.0\""), "{svg}");
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
