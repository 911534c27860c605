//! The columns of a measured network, which the tables of `dsconv distill` and `dsconv compare` share.
use distill::{Measured, Report};

use crate::table::{NOTHING, bytes, decibels, percent};

/// The headings of [`cells`].
pub const HEADINGS: [&str; 5] = ["top-5", "agreement", "SQNR dB", "size", "ratio"];

/// Returns the cells of a network; its size is compared with that of the float network.
pub fn cells(network: &Measured, fp32: &Measured) -> [String; 5] {
    let scores = &network.scores;
    [
        percent(scores.top5),
        format!("{:.2}", scores.agreement),
        decibels(scores.sqnr_db),
        bytes(network.bytes),
        format!("{:.1}x", ratio(network, fp32)),
    ]
}

/// The headings of [`of_run`].
pub fn run_headings<'a>() -> impl Iterator<Item = &'a str> {
    ["FP32", "quantized", "adapted", "gap"].into_iter().chain(HEADINGS)
}

/// Returns the cells of a run: the top-1 of its three networks, what the adapted one lacks to the float one, and the adapted
/// one's [`cells`].
pub fn of_run(report: &Report) -> impl Iterator<Item = String> {
    let Report { fp32, quantized, adapted, .. } = report;
    let top1 = [fp32, quantized, adapted].map(|network| percent(network.scores.top1));
    let gap = adapted.scores.top1.zip(fp32.scores.top1).map(|(adapted, fp32)| adapted - fp32);
    let gap = gap.map_or(NOTHING.to_owned(), |gap| format!("{gap:+.2}"));
    top1.into_iter().chain([gap]).chain(cells(adapted, fp32))
}

/// Returns how many times smaller a network is than the float network.
pub fn ratio(network: &Measured, fp32: &Measured) -> f64 {
    fp32.bytes as f64 / network.bytes as f64
}
