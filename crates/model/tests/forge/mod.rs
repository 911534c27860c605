//! Forges `.dsc` files: changes sections and repairs offsets and checksums, so that a reader's later checks are reached.
#![allow(dead_code, missing_docs)]

use graph::{Builder, Conv2d, Op, Preprocess, Shape, Weights};
use model::{Float, Info, Model, Policy, SaveOptions, dsc};

/// A section: its kind, its position among those of its kind, and its bytes.
pub type Part = (u32, u32, Vec<u8>);

const HEADER: usize = 64;
const ENTRY: usize = 32;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Returns the sections of a file; `None` if its table leads out of it.
pub fn split(bytes: &[u8]) -> Option<Vec<Part>> {
    let count = u32_at(bytes, 12)?.min(64) as usize;
    let part = |i: usize| {
        let at = HEADER + i * ENTRY;
        let (offset, len) = (u64_at(bytes, at + 8)? as usize, u64_at(bytes, at + 16)? as usize);
        let data = bytes.get(offset..offset.checked_add(len)?)?;
        Some((u32_at(bytes, at)?, u32_at(bytes, at + 4)?, data.to_vec()))
    };
    (0..count).map(part).collect()
}

/// Writes a file of these sections with right offsets and checksums.
pub fn join(parts: &[Part]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER + parts.len() * ENTRY];
    bytes[..8].copy_from_slice(&dsc::MAGIC);
    bytes[8] = 1;
    bytes[12..16].copy_from_slice(&(parts.len() as u32).to_le_bytes());
    for (i, (kind, index, data)) in parts.iter().enumerate() {
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        let (at, offset) = (HEADER + i * ENTRY, bytes.len() as u64);
        bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&index.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
        bytes[at + 16..at + 24].copy_from_slice(&(data.len() as u64).to_le_bytes());
        bytes.extend_from_slice(data);
    }
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    let length = bytes.len() as u64;
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    seal(&mut bytes);
    bytes
}

/// Repairs all checksums that the file's own header and table lead to.
pub fn seal(bytes: &mut [u8]) {
    for i in 0..u32_at(bytes, 12).unwrap_or(0).min(64) as usize {
        let at = HEADER + i * ENTRY;
        let (Some(offset), Some(len)) = (u64_at(bytes, at + 8), u64_at(bytes, at + 16)) else { break };
        let end = (offset as usize).checked_add(len as usize);
        if let Some(data) = end.and_then(|end| bytes.get(offset as usize..end)) {
            let checksum = crc32fast::hash(data).to_le_bytes();
            if let Some(field) = bytes.get_mut(at + 24..at + 28) {
                field.copy_from_slice(&checksum);
            }
        }
    }
    if bytes.len() >= HEADER {
        bytes[24..28].fill(0);
        let checksum = crc32fast::hash(bytes).to_le_bytes();
        bytes[24..28].copy_from_slice(&checksum);
    }
}

/// Makes a small quantized network with most of what a file can hold: groups, ragged blocks, a normalisation that becomes
/// affine, a layer in floats, gates and concatenation.
pub fn model(two_level: bool) -> Model {
    let mut b = Builder::new("tiny", Shape::new(3, 6, 6));
    let x = b.conv("conv1", Conv2d::new(3, 8, 3).padding(1), b.input());
    let x = b.relu("relu", x);
    let x = b.batch_norm("norm", 1e-5, x);
    let y = b.conv("grouped", Conv2d { groups: 2, ..Conv2d::new(8, 4, 1).bias() }, x);
    let y = b.push("swish", Op::Activation(graph::Activation::HardSwish), vec![y]);
    let z = b.conv("skipped", Conv2d::new(8, 1, 1).bias(), x);
    let x = b.push("concat", Op::Concat, vec![y, z]);
    let gate = b.push("mean", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
    let gate = b.push("gate", Op::Activation(graph::Activation::Sigmoid), vec![gate]);
    let x = b.push("mul", Op::Mul, vec![x, gate]);
    let x = b.push("flatten", Op::Flatten, vec![x]);
    b.linear("fc", 3, x);
    let graph = b.finish().expect("a valid graph");
    let weights = Weights::init(&graph, 7);
    let classes = vec!["cat".into(), "dog".into(), "\u{e9}".into()];
    let info = Info { preprocess: Preprocess::imagenet(), classes, source: "made for tests".into() };
    let policy = r#"bits = 4
        block = 3
        activation = { block = 3 }
        rules = [{ layers = "skipped", skip = true }, { layers = "fc", bits = 3, activation = false }]"#;
    let policy: Policy = toml::from_str(policy).expect("a policy");
    let model = Model::float(graph, weights, info).expect("weights fit").quantize(&policy).expect("it quantizes");
    if two_level { model.to_two_level().expect("small blocks") } else { model }
}

/// Makes valid files with all types of floats and scales.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for two_level in [false, true] {
        for float in [Float::F32, Float::F16] {
            let pair = (float == Float::F16).then(|| dsc::Pair { seed: 1, logits: vec![0.5, -1.0, 2.0] });
            let options = dsc::Options { floats: SaveOptions { floats: float, scale_precision: float }, pair };
            seeds.push(dsc::write(&model(two_level), &options).expect("a valid model"));
        }
    }
    seeds
}
