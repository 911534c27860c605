use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use blockfloat::{QuantizedWeights, TwoLevel, unpack};

use super::error::{DscError, Reason, Section};
use super::layout::{self, ENTRY, Entry, FLOATS, HEADER, LAYER, LOGITS, MAX_METADATA, METADATA, not_zero};
use super::meta::{FloatInfo, LayerInfo, Meta, StoredScales};
use super::pair::Pair;
use crate::model::{Info, Model, QuantizedLayer};
use crate::precision::Float;
use graph::Graph;
use graph::{Tensor, Weights};

/// A `.dsc` file whose structure and checksums were found right. Layers are decoded one by one, on demand.
#[derive(Debug)]
pub struct File<'a> {
    bytes: &'a [u8],
    graph: Graph,
    info: Info,
    layers: Vec<LayerInfo>,
    /// The place of each layer's section in the file.
    ranges: Vec<Range<usize>>,
    layer_index: HashMap<String, usize>,
    floats: HashMap<String, (FloatInfo, Range<usize>)>,
    pair: Option<Pair>,
    /// The position of the logits in the file.
    pair_at: usize,
}

impl<'a> File<'a> {
    /// Checks header, table, checksums and metadata. Afterwards only the values of layers and floats can be wrong.
    ///
    /// # Errors
    /// [`DscError`] with section, offset and reason.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DscError> {
        let entries = layout::parse(bytes)?;
        let metadata = entries.first().map_or(0..0, |entry| entry.range.clone());
        // The metadata say which sections there must be, so their own section is checked first.
        expect(&entries, 0, METADATA, 0, metadata.len())?;
        let refuse = |reason| DscError::new(Section::Metadata, metadata.start, reason);
        if metadata.len() > MAX_METADATA {
            let (found, most) = (metadata.len() as u64, MAX_METADATA as u64);
            return Err(refuse(Reason::TooMany { what: "bytes of metadata", found, most }));
        }
        let text = &bytes[metadata.clone()];
        let meta: Meta = serde_json::from_slice(text).map_err(|e| refuse(Reason::Metadata(e.to_string())))?;
        let canonical = serde_json::to_vec(&meta).is_ok_and(|again| again == text);
        if !canonical {
            return Err(refuse(Reason::NotCanonical));
        }
        meta.check().map_err(|why| refuse(Reason::Metadata(why)))?;

        let Meta { info, layers, floats, pair, graph } = meta;
        let (graph, info) = (graph.into_owned(), info.into_owned());
        let mut at = 1;
        for (index, layer) in layers.iter().enumerate() {
            expect(&entries, at, LAYER, index, layer.section_len())?;
            at += 1;
        }
        let mut end = 0;
        let mut places = Vec::with_capacity(floats.len());
        for float in &floats {
            let start = usize::next_multiple_of(end, 4);
            let overflow = || refuse(Reason::Metadata(format!("`{}` does not fit memory", float.name)));
            let len = float.shape.iter().product::<usize>() * float.float.bytes();
            end = start.checked_add(len).filter(|&end| end <= isize::MAX as usize).ok_or_else(overflow)?;
            places.push(start..end);
        }
        let section = expect(&entries, at, FLOATS, 0, end)?;
        for pair in places.windows(2) {
            let gap = section.start + pair[0].end..section.start + pair[1].start;
            if let Some(at) = not_zero(bytes, gap) {
                return Err(DscError::new(Section::Floats, at, Reason::NotZero));
            }
        }
        at += 1;
        let mut pair_at = 0;
        let pair = match pair {
            None => None,
            Some(seed) => {
                let outputs = graph.output().elements();
                let too_many = || refuse(Reason::Metadata(format!("{outputs} logits do not fit memory")));
                let range = expect(&entries, at, LOGITS, 0, outputs.checked_mul(4).ok_or_else(too_many)?)?;
                at += 1;
                pair_at = range.start;
                let logits = Float::F32.decode(&bytes[range.clone()]);
                finite(&logits, Float::F32, &range, Section::Logits, "logits")?;
                Some(Pair { seed, logits })
            }
        };
        if entries.len() > at {
            let reason =
                Reason::Table { what: "the number of sections", expected: at as u64, found: entries.len() as u64 };
            return Err(DscError::new(Section::Header, 12, reason));
        }
        let ranges = entries[1..=layers.len()].iter().map(|entry| entry.range.clone()).collect();
        let layer_index = layers.iter().enumerate().map(|(i, layer)| (layer.node.clone(), i)).collect();
        let floats = floats
            .into_iter()
            .zip(places)
            .map(|(info, place)| (info.name.clone(), (info, section.start + place.start..section.start + place.end)))
            .collect();
        Ok(Self { bytes, graph, info, layers, ranges, layer_index, floats, pair, pair_at })
    }

    /// Returns the network's graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Returns the preprocessing, the names of the classes and where the network came from.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Lists the quantized layers, in the order of the graph's nodes.
    pub fn layers(&self) -> &[LayerInfo] {
        &self.layers
    }

    /// Returns the bytes of a layer's section, by the layer's position in [`File::layers`].
    ///
    /// # Panics
    /// If there is no layer at this position.
    pub fn layer_bytes(&self, index: usize) -> usize {
        self.ranges[index].len()
    }

    /// Returns the stored input and its logits, if the file has them.
    pub fn pair(&self) -> Option<&Pair> {
        self.pair.as_ref()
    }

    /// Compares an engine's logits for the input of [`File::pair`] with the stored ones, bit by bit: the arithmetic gives the
    /// same bits on every machine. For a file without a pair every answer is right.
    ///
    /// # Errors
    /// [`Reason::Logits`] with the first logit that differs; [`Reason::Length`] if there are more or fewer of them.
    pub fn check_logits(&self, found: &[f32]) -> Result<(), DscError> {
        let Some(Pair { logits, .. }) = &self.pair else { return Ok(()) };
        let refuse = |index: usize, reason| Err(DscError::new(Section::Logits, self.pair_at + 4 * index, reason));
        if logits.len() != found.len() {
            let reason = Reason::Length { expected: 4 * logits.len() as u64, found: 4 * found.len() as u64 };
            return refuse(0, reason);
        }
        match logits.iter().zip(found).position(|(a, b)| a.to_bits() != b.to_bits()) {
            None => Ok(()),
            Some(index) => refuse(index, Reason::Logits { index, stored: logits[index], found: found[index] }),
        }
    }

    /// Decodes a quantized layer, by its node's name.
    ///
    /// # Errors
    /// [`DscError`] if there is no such layer, or if its codes or scales are not valid.
    pub fn layer(&self, name: &str) -> Result<QuantizedLayer, DscError> {
        let absent = || DscError::new(Section::Metadata, HEADER, Reason::Absent(name.into()));
        let index = *self.layer_index.get(name).ok_or_else(absent)?;
        let LayerInfo { shape, bits, block, activation, signed, .. } = self.layers[index];
        let info = &self.layers[index];
        let (start, data) = (self.ranges[index].start, &self.bytes[self.ranges[index].clone()]);
        let refuse = |at: usize, reason| DscError::new(Section::Layer(index, name.into()), start + at, reason);
        let numbers = |at: usize, error| refuse(at, Reason::Numbers(error));

        let (codes, scales) = (info.codes_len(), info.scales_start());
        if let Some(at) = not_zero(data, codes..scales) {
            return Err(refuse(at, Reason::NotZero));
        }
        // Only the bits after the last code can be wrong.
        let unpacked = unpack(&data[..codes], bits, info.weights()).map_err(|error| numbers(codes - 1, error))?;
        let data = &data[scales..];
        let place = |error: &blockfloat::Error, size: usize| match error {
            blockfloat::Error::NonFiniteScale { index } => scales + (index * size).min(data.len()),
            _ => scales,
        };
        let codes = match info.scales {
            StoredScales::F32 | StoredScales::F16 => {
                let float = if info.scales == StoredScales::F16 { Float::F16 } else { Float::F32 };
                QuantizedWeights::from_parts(shape, bits, block, unpacked, float.decode(data))
                    .map_err(|error| numbers(place(&error, float.bytes()), error))
            }
            StoredScales::TwoLevel => {
                let (channel, factors) = data.split_at(4 * shape[0]);
                let factors = factors.iter().map(|&k| k as i8).collect();
                let two_level = TwoLevel::new(Float::F32.decode(channel), factors);
                QuantizedWeights::from_parts_two_level(shape, bits, block, unpacked, two_level)
                    .map_err(|error| numbers(place(&error, 4), error))
            }
        }?;
        Ok(QuantizedLayer { codes, activation, signed })
    }

    /// Decodes a float parameter, such as a layer's `<node>.bias`.
    ///
    /// # Errors
    /// [`DscError`] if there is no such tensor, or if it has a NaN or an infinity.
    pub fn floats(&self, name: &str) -> Result<Tensor, DscError> {
        let absent = || DscError::new(Section::Metadata, HEADER, Reason::Absent(name.into()));
        let (info, range) = self.floats.get(name).ok_or_else(absent)?;
        let values = info.float.decode(&self.bytes[range.clone()]);
        finite(&values, info.float, range, Section::Floats, name)?;
        Ok(Tensor::new(info.shape.clone(), values))
    }

    /// Decodes the whole model.
    ///
    /// # Errors
    /// As [`File::layer`] and [`File::floats`].
    pub fn to_model(&self) -> Result<Model, DscError> {
        let mut layers = BTreeMap::new();
        for info in &self.layers {
            layers.insert(info.node.clone(), self.layer(&info.node)?);
        }
        let mut weights = Weights::default();
        for name in self.floats.keys() {
            weights.insert(name.clone(), self.floats(name)?);
        }
        Ok(Model { graph: self.graph.clone(), weights, layers, info: self.info.clone() })
    }
}

/// Returns the place of the section at position `at` of the table, after checking its kind, position and length.
fn expect(entries: &[Entry], at: usize, kind: u32, index: usize, len: usize) -> Result<Range<usize>, DscError> {
    let place = HEADER + at * ENTRY;
    let table = |field: usize, what, expected: u64, found: u64| {
        Err(DscError::new(Section::Table, place + field, Reason::Table { what, expected, found }))
    };
    match entries.get(at) {
        None => {
            let (expected, found) = (at as u64 + 1, entries.len() as u64);
            let reason = Reason::Table { what: "the number of sections", expected, found };
            Err(DscError::new(Section::Header, 12, reason))
        }
        Some(entry) if entry.kind != kind => table(0, "a section's kind", kind.into(), entry.kind.into()),
        Some(entry) if entry.index as usize != index => {
            table(4, "a section's position", index as u64, entry.index.into())
        }
        Some(entry) if entry.range.len() != len => {
            table(16, "a section's length", len as u64, entry.range.len() as u64)
        }
        Some(entry) => Ok(entry.range.clone()),
    }
}

fn finite(values: &[f32], float: Float, range: &Range<usize>, section: Section, tensor: &str) -> Result<(), DscError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => {
            let reason = Reason::NonFinite { tensor: tensor.into() };
            Err(DscError::new(section, range.start + index * float.bytes(), reason))
        }
    }
}
