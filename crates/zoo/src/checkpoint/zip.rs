//! Reads the directory of a zip archive. Only entries that are not compressed can be read, as `torch.save` and
//! `numpy.savez` write them.
use std::cell::Cell;
use std::ops::Range;

use super::fault::{Result, broken, refused};
use super::source::ByteSource;

/// The length of the end record without its comment.
const END: u64 = 22;
/// The longest comment of the end record.
const MAX_COMMENT: u64 = 0xffff;
/// The longest directory that is read; a network of ten thousand tensors takes a tenth.
const MAX_DIRECTORY: u64 = 1 << 26;

/// An entry of the archive.
#[derive(Debug)]
pub(super) struct ZipEntry {
    /// The name, with folders.
    pub(super) name: String,
    /// The range of its bytes.
    pub(super) data: Range<u64>,
    /// The CRC-32 of its bytes, or 0 where the writer did not compute it.
    crc: u32,
    checked: Cell<bool>,
    /// The reason why the bytes cannot be read: `compressed` or `encrypted`.
    packed: Option<&'static str>,
}

impl ZipEntry {
    /// Compares the bytes with their checksum, once.
    ///
    /// # Errors
    /// The checksum differs, or the entry is compressed or encrypted, which `torch.save` does not do.
    pub(super) fn check(&self, source: &ByteSource) -> Result<()> {
        if let Some(how) = self.packed {
            return refused(
                format!("a zip archive whose entry `{}` is {how}", self.name),
                "unpack it, and name the checkpoint inside, or save it again with `torch.save`",
            );
        }
        if self.crc != 0 && !self.checked.replace(true) && source.crc32(self.data.clone())? != self.crc {
            self.checked.set(false);
            return broken(format!("`{}` in it is damaged: its checksum differs", self.name));
        }
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?).into())
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads all entries, in the directory's order.
///
/// # Errors
/// There is no directory, as in a file that was cut off, or an entry does not lie in the file.
pub(super) fn entries(source: &ByteSource) -> Result<Vec<ZipEntry>> {
    let tail_at = source.len().saturating_sub(END + MAX_COMMENT);
    let tail = source.read(tail_at..source.len())?;
    let is_end = |&at: &usize| {
        let comment = u16_at(&tail, at + 20);
        tail[at..].starts_with(b"PK\x05\x06")
            && comment.is_some_and(|length| at as u64 + END + length == tail.len() as u64)
    };
    let Some(end) = (0..tail.len()).rev().find(is_end) else {
        return broken("a zip archive without its directory, which is at the end: it was cut off");
    };
    let (directory, count) = match directory_64(source, tail_at + end as u64)? {
        Some(found) => found,
        None => {
            let field = |at| u32_at(&tail, end + at).unwrap_or_default();
            (field(16)..field(16) + field(12), u16_at(&tail, end + 10).unwrap_or_default())
        }
    };
    if directory.end.saturating_sub(directory.start) > MAX_DIRECTORY {
        return broken("its directory is too large");
    }
    let bytes = source.read(directory)?;
    let mut entries = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let Some((entry, next)) = entry(source, &bytes, at)? else {
            return broken("its zip directory is damaged");
        };
        entries.push(entry);
        at = next;
    }
    Ok(entries)
}

/// Returns the range of the directory and its count of entries from the ZIP64 end record, if a locator right before the end
/// record names one.
fn directory_64(source: &ByteSource, end: u64) -> Result<Option<(Range<u64>, u64)>> {
    let Some(locator) = end.checked_sub(20) else { return Ok(None) };
    let locator = source.read(locator..end)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    let at = u64_at(&locator, 8).unwrap_or_default();
    let record = source.read(at..at.saturating_add(56))?;
    if !record.starts_with(b"PK\x06\x06") {
        return broken("its zip directory is damaged");
    }
    let field = |at| u64_at(&record, at).unwrap_or_default();
    Ok(Some((field(48)..field(48).saturating_add(field(40)), field(32))))
}

/// Reads one record of the directory and the position of the next, or `None` where there is no record.
fn entry(source: &ByteSource, bytes: &[u8], at: usize) -> Result<Option<(ZipEntry, usize)>> {
    let Some(record) = bytes.get(at..).filter(|record| record.len() >= 46 && record.starts_with(b"PK\x01\x02")) else {
        return Ok(None);
    };
    let short = |at| u16_at(record, at).unwrap_or_default() as usize;
    let long = |at| u32_at(record, at).unwrap_or_default();
    let (name, extra, comment) = (short(28), short(30), short(32));
    let (Some(name_bytes), Some(extra_bytes)) = (record.get(46..46 + name), record.get(46 + name..46 + name + extra))
    else {
        return Ok(None);
    };
    let name = String::from_utf8_lossy(name_bytes).into_owned();
    let [mut size, mut stored, mut local] = [long(24), long(20), long(42)];
    // The ZIP64 extra field holds the sizes that do not fit 32 bits, in this order.
    let mut large = zip64_field(extra_bytes).unwrap_or_default().chunks_exact(8);
    for value in [&mut size, &mut stored, &mut local] {
        if *value == u64::from(u32::MAX)
            && let Some(wide) = large.next()
        {
            *value = u64_at(wide, 0).unwrap_or_default();
        }
    }
    let packed = match (short(8) & 1, short(10)) {
        (0, 0) if size == stored => None,
        (0, _) => Some("compressed"),
        _ => Some("encrypted"),
    };
    let header = source.read(local..local.saturating_add(30))?;
    if !header.starts_with(b"PK\x03\x04") {
        return broken(format!("its entry `{name}` is not where its zip directory says"));
    }
    let skip = 30 + u16_at(&header, 26).unwrap_or_default() + u16_at(&header, 28).unwrap_or_default();
    let start = local + skip;
    let Some(end) = start.checked_add(stored).filter(|&end| end <= source.len()) else {
        return broken(format!("its entry `{name}` ends behind the end of the file: it was cut off"));
    };
    let entry = ZipEntry { name, data: start..end, crc: long(16) as u32, checked: Cell::new(false), packed };
    Ok(Some((entry, at + 46 + name_bytes.len() + extra + comment)))
}

/// Returns the data of the extra field 1.
fn zip64_field(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (id, len) = (u16_at(extra, 0)?, u16_at(extra, 2)? as usize);
        let data = extra.get(4..4 + len)?;
        if id == 1 {
            return Some(data);
        }
        extra = &extra[4 + len..];
    }
}
