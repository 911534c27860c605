use blockfloat::Bits;
use clap::builder::{RangedU64ValueParser, TypedValueParser};
use model::policy::MOST_WINOGRAD_BITS;

use crate::runs::Existing;

/// Reads a number of images.
pub fn above_0(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&images| images > 0).ok_or_else(|| "a number above 0".to_owned())
}

/// Reads a number from 1 to `most`.
pub fn count(most: u64) -> impl TypedValueParser<Value = usize> {
    RangedU64ValueParser::<u64>::new().range(1..=most).try_map(usize::try_from)
}

/// Returns what becomes of a run that is there; clap has refused both options together.
pub fn existing(resume: bool, force: bool) -> Existing {
    match (resume, force) {
        (true, _) => Existing::Resume,
        (false, true) => Existing::Replace,
        (false, false) => Existing::Keep,
    }
}

/// Reads the bits of inputs that suit Winograd's algorithm.
pub fn winograd_bits(text: &str) -> Result<Bits, String> {
    bits(text)
        .ok()
        .filter(|bits| bits.get() <= MOST_WINOGRAD_BITS)
        .ok_or_else(|| format!("from 2 to {MOST_WINOGRAD_BITS}"))
}

/// Reads a number of bits.
pub fn bits(text: &str) -> Result<Bits, String> {
    text.trim().parse::<u8>().ok().and_then(|bits| Bits::new(bits).ok()).ok_or_else(|| "from 2 to 8".to_owned())
}
