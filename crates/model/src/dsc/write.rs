use blockfloat::pack;

use super::error::{DscError, Reason, Section};
use super::layout::{self, FLOATS, HEADER, LAYER, LOGITS, MAX_METADATA, METADATA};
use super::meta::{LayerInfo, Meta, StoredScales};
use super::pair::Pair;
use crate::model::{Model, ModelError};
use crate::precision::{Float, SaveOptions};

/// How [`write()`] stores a model. The default rounds block scales to F16 and stores no pair; [`Options::EXACT`] rounds
/// nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    /// The types that floats are stored in.
    pub floats: SaveOptions,
    /// An input and its logits that are stored with the network, so that engines can be checked.
    pub pair: Option<Pair>,
}

impl Options {
    /// The options that store every float as it is, and no pair.
    pub const EXACT: Self = Self { floats: SaveOptions::EXACT, pair: None };
}

/// Writes a model as the bytes of a `.dsc` file. Equal models with equal options give equal bytes.
///
/// # Errors
/// As [`Model::check`]; [`ModelError::Dsc`] if a file cannot hold the model: no layer is quantized, a batch normalisation is
/// not folded, there are too many nodes or too long metadata, or logits are not finite or not as many as outputs.
pub fn write(model: &Model, options: &Options) -> Result<Vec<u8>, ModelError> {
    model.check()?;
    let refuse = |section, reason| ModelError::Dsc(DscError::new(section, HEADER, reason));
    let meta = Meta::of(model, &options.floats, options.pair.as_ref().map(|pair| pair.seed));
    meta.check().map_err(|why| refuse(Section::Metadata, Reason::Metadata(why)))?;
    let no_json = |error: serde_json::Error| refuse(Section::Metadata, Reason::Metadata(error.to_string()));
    let text = serde_json::to_vec(&meta).map_err(no_json)?;
    // JSON has no NaN or infinity: metadata that cannot be read again are refused here.
    serde_json::from_slice::<Meta>(&text).map_err(no_json)?;
    if text.len() > MAX_METADATA {
        let (found, most) = (text.len() as u64, MAX_METADATA as u64);
        return Err(refuse(Section::Metadata, Reason::TooMany { what: "bytes of metadata", found, most }));
    }

    let mut sections = vec![(METADATA, 0, text)];
    for (info, index) in meta.layers.iter().zip(0..) {
        sections.push((LAYER, index, layer(model, info)));
    }
    let mut floats = Vec::new();
    for info in &meta.floats {
        floats.resize(floats.len().next_multiple_of(4), 0);
        floats.extend(info.float.encode(model.weights()[info.name.as_str()].data()));
    }
    sections.push((FLOATS, 0, floats));
    if let Some(Pair { logits, .. }) = &options.pair {
        if logits.len() != model.graph().output().elements() {
            let (expected, found) = (model.graph().output().elements() as u64, logits.len() as u64);
            return Err(refuse(Section::Logits, Reason::Table { what: "the number of logits", expected, found }));
        }
        if logits.iter().any(|v| !v.is_finite()) {
            return Err(refuse(Section::Logits, Reason::NonFinite { tensor: "logits".into() }));
        }
        sections.push((LOGITS, 0, Float::F32.encode(logits)));
    }
    Ok(layout::assemble(&sections))
}

fn layer(model: &Model, info: &LayerInfo) -> Vec<u8> {
    let codes = &model.layers()[&info.node].codes;
    let mut bytes = pack(codes.codes(), codes.bits());
    bytes.resize(info.scales_start(), 0);
    match (info.scales, codes.two_level()) {
        (StoredScales::TwoLevel, Some(levels)) => {
            bytes.extend(Float::F32.encode(levels.channel()));
            bytes.extend(levels.factors().iter().map(|&k| k as u8));
        }
        (StoredScales::F16, _) => bytes.extend(Float::F16.encode(codes.scales())),
        _ => bytes.extend(Float::F32.encode(codes.scales())),
    }
    bytes
}
