//! Header, section table and padding of a file.
use std::ops::Range;

use graph::MAX_NODES;

use super::error::{DscError, Reason, Section};
use super::version::{MAGIC, VERSION};

pub(super) const HEADER: usize = 64;
pub(super) const ENTRY: usize = 32;
const ALIGN: usize = 64;
/// The position of the whole file's checksum.
const CHECKSUM: usize = 24;
pub(super) const MAX_METADATA: usize = 4 << 20;
/// The most sections of a file: a layer for each node, metadata, floats and logits.
const MAX_SECTIONS: usize = MAX_NODES + 3;

pub(super) const METADATA: u32 = 1;
pub(super) const LAYER: u32 = 2;
pub(super) const FLOATS: u32 = 3;
pub(super) const LOGITS: u32 = 4;

/// An entry of the section table, with a place that was checked.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub kind: u32,
    pub index: u32,
    pub range: Range<usize>,
}

impl Entry {
    pub fn section(&self) -> Section {
        match self.kind {
            METADATA => Section::Metadata,
            LAYER => Section::Layer(self.index as usize, String::new()),
            FLOATS => Section::Floats,
            _ => Section::Logits,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Returns the position of the first byte of `range` that is not 0.
pub(super) fn not_zero(bytes: &[u8], range: Range<usize>) -> Option<usize> {
    bytes[range.clone()].iter().position(|&b| b != 0).map(|i| range.start + i)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CHECKSUM]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[CHECKSUM + 4..]);
    hasher.finalize()
}

/// Checks header, table, padding and all checksums, and returns the sections, which lie one after the other without holes or
/// overlaps.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, DscError> {
    let refuse = |section, offset, reason| Err(DscError::new(section, offset, reason));
    if bytes.len() < MAGIC.len() || bytes[..MAGIC.len()] != MAGIC {
        return refuse(Section::Header, 0, Reason::Magic);
    }
    let length = |expected: usize| Reason::Length { expected: expected as u64, found: bytes.len() as u64 };
    if bytes.len() < HEADER {
        return refuse(Section::Header, bytes.len(), length(HEADER));
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return refuse(Section::Header, 8, Reason::Version(version));
    }
    if u64_at(bytes, 16) != bytes.len() as u64 {
        let reason = Reason::Length { expected: u64_at(bytes, 16), found: bytes.len() as u64 };
        return refuse(Section::Header, 16, reason);
    }
    if let Some(at) = not_zero(bytes, CHECKSUM + 4..HEADER) {
        return refuse(Section::Header, at, Reason::NotZero);
    }
    let count = u32_at(bytes, 12) as usize;
    if count > MAX_SECTIONS {
        let reason = Reason::TooMany { what: "sections", found: count as u64, most: MAX_SECTIONS as u64 };
        return refuse(Section::Header, 12, reason);
    }
    let table = HEADER + count * ENTRY;
    if bytes.len() < table {
        return refuse(Section::Table, bytes.len(), length(table));
    }

    let mut entries = Vec::with_capacity(count);
    // The end of what was read so far; the next section starts at the first multiple of 64 after it.
    let mut end = table;
    for i in 0..count {
        let at = HEADER + i * ENTRY;
        let start = end.next_multiple_of(ALIGN);
        let (offset, length) = (u64_at(bytes, at + 8), u64_at(bytes, at + 16));
        let field = |field: usize, what, expected: usize, found: u64| {
            let reason = Reason::Table { what, expected: expected as u64, found };
            refuse(Section::Table, at + field, reason)
        };
        if offset != start as u64 {
            return field(8, "a section's offset", start, offset);
        }
        // Neither sum can overflow: both are at most the file's length.
        if start > bytes.len() || length > (bytes.len() - start) as u64 {
            return field(16, "a section's length", bytes.len().saturating_sub(start), length);
        }
        if let Some(at) = not_zero(bytes, at + 28..at + 32) {
            return refuse(Section::Table, at, Reason::NotZero);
        }
        if let Some(at) = not_zero(bytes, end..start) {
            return refuse(Section::Padding, at, Reason::NotZero);
        }
        end = start + length as usize;
        let entry = Entry { kind: u32_at(bytes, at), index: u32_at(bytes, at + 4), range: start..end };
        let (expected, found) = (crc32fast::hash(&bytes[start..end]), u32_at(bytes, at + 24));
        if expected != found {
            return refuse(entry.section(), start, Reason::Checksum { expected, found });
        }
        entries.push(entry);
    }
    if bytes.len() != end.next_multiple_of(ALIGN) {
        return refuse(Section::Padding, end.min(bytes.len()), length(end.next_multiple_of(ALIGN)));
    }
    if let Some(at) = not_zero(bytes, end..bytes.len()) {
        return refuse(Section::Padding, at, Reason::NotZero);
    }
    let (expected, found) = (checksum(bytes), u32_at(bytes, CHECKSUM));
    if expected != found {
        return refuse(Section::Header, CHECKSUM, Reason::Checksum { expected, found });
    }
    Ok(entries)
}

/// Writes a file of these sections, each given by its kind, its position among those of its kind and its bytes.
pub(super) fn assemble(sections: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
    let table = HEADER + sections.len() * ENTRY;
    let total = sections.iter().fold(table, |end, (_, _, data)| end.next_multiple_of(ALIGN) + data.len());
    let mut bytes = Vec::with_capacity(total.next_multiple_of(ALIGN));
    bytes.resize(table, 0);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(sections.len() as u32).to_le_bytes());
    for (i, (kind, index, data)) in sections.iter().enumerate() {
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        let offset = bytes.len() as u64;
        let entry = &mut bytes[HEADER + i * ENTRY..][..ENTRY];
        entry[..4].copy_from_slice(&kind.to_le_bytes());
        entry[4..8].copy_from_slice(&index.to_le_bytes());
        entry[8..16].copy_from_slice(&offset.to_le_bytes());
        entry[16..24].copy_from_slice(&(data.len() as u64).to_le_bytes());
        entry[24..28].copy_from_slice(&crc32fast::hash(data).to_le_bytes());
        bytes.extend_from_slice(data);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    let length = bytes.len() as u64;
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    let whole = checksum(&bytes);
    bytes[CHECKSUM..CHECKSUM + 4].copy_from_slice(&whole.to_le_bytes());
    bytes
}
