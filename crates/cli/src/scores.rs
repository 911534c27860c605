//! The columns of a measured network, which the tables of `dsconv distill` and `dsconv compare` share.
use distill::Measured;

use crate::table::{NOTHING, bytes, percent};

/// The headings of [`cells`].
pub const HEADINGS: [&str; 5] = ["top-5", "agreement", "SQNR dB", "size", "ratio"];

/// Returns the cells of a network; its size is compared with that of the float network.
pub fn cells(network: &Measured, fp32: &Measured) -> [String; 5] {
    let scores = &network.scores;
    [
        percent(scores.top5),
        format!("{:.2}", scores.agreement),
        scores.sqnr_db.map_or(NOTHING.to_owned(), |db| format!("{db:.1}")),
        bytes(network.bytes),
        format!("{:.1}x", ratio(network, fp32)),
    ]
}

/// Returns how many times smaller a network is than the float network.
pub fn ratio(network: &Measured, fp32: &Measured) -> f64 {
    fp32.bytes as f64 / network.bytes as f64
}
