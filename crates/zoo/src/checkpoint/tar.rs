//! Reads the tar archives that PyTorch wrote before 0.2, with the files `storages`, `tensors` and a `pickle` that names them.
use std::collections::HashMap;
use std::ops::Range;

use super::fault::{Result, refused};
use super::object::Arena;
use super::pickle;
use super::source::{ByteSource, Cursor};
use super::tensor::Stored;
use super::torch::{self, damaged, element_of, next_storage};

/// Opens a tar archive.
///
/// # Errors
/// The archive holds something else, or is broken.
pub(super) fn open(source: &ByteSource) -> Result<torch::TorchFile> {
    let parts = entries(source)?;
    let part = |name: &str| match parts.iter().find(|(entry, _)| entry.trim_start_matches("./") == name) {
        Some((_, range)) => Ok(source.cursor(range.clone())),
        None => refused("a tar archive without a checkpoint", "unpack it, and name the checkpoint inside"),
    };
    let mut arena = Arena::default();
    let (mut storages, mut tensors) = (HashMap::new(), HashMap::new());
    let cursor = &mut part("storages")?;
    for _ in 0..count(cursor, &mut arena)? {
        let args = pickle::read(cursor, &mut arena)?;
        let (key, element) = match arena.sequence(args) {
            Some(&[key, _, class]) => (arena.int(key).ok_or_else(damaged)?, element_of(&arena, class)),
            _ => return Err(damaged()),
        };
        let storage = next_storage(cursor, &element)?;
        storages.insert(key, (element, storage));
    }
    let cursor = &mut part("tensors")?;
    for _ in 0..count(cursor, &mut arena)? {
        let args = pickle::read(cursor, &mut arena)?;
        let (key, storage) = match arena.sequence(args) {
            Some(&[key, storage, _]) => (arena.int(key), arena.int(storage)),
            _ => return Err(damaged()),
        };
        let (Some(key), Some((element, storage))) = (key, storage.and_then(|key| storages.get(&key))) else {
            return Err(damaged());
        };
        let dimensions = i32::from_le_bytes(cursor.array()?);
        cursor.skip(4)?;
        if !(0..=64).contains(&dimensions) {
            return Err(damaged());
        }
        let mut numbers = || (0..dimensions).map(|_| cursor.array().map(u64::from_le_bytes)).collect::<Result<_>>();
        let (shape, strides): (Vec<u64>, Vec<u64>) = (numbers()?, numbers()?);
        let offset = u64::from_le_bytes(cursor.array()?);
        let shape =
            shape.into_iter().map(|size| usize::try_from(size).map_err(|_| damaged())).collect::<Result<_>>()?;
        tensors.insert(key, Stored::strided(storage.clone(), element.clone(), offset, shape, strides)?);
    }
    let root = pickle::read(&mut part("pickle")?, &mut arena)?;
    let mut file = torch::TorchFile::new(source, arena, root, HashMap::new());
    file.tensors = tensors;
    Ok(file)
}

/// Reads a pickled count.
fn count(cursor: &mut Cursor, arena: &mut Arena) -> Result<i64> {
    let id = pickle::read(cursor, arena)?;
    arena.int(id).ok_or_else(damaged)
}

/// Returns the names of a tar archive's files and their ranges.
fn entries(source: &ByteSource) -> Result<Vec<(String, Range<u64>)>> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at + 512 <= source.len() && entries.len() < 1 << 12 {
        let header = source.read(at..at + 512)?;
        let text = |range: Range<usize>| String::from_utf8_lossy(&header[range]).trim_matches([' ', '\0']).to_owned();
        let name = text(0..100);
        let Ok(size) = u64::from_str_radix(&text(124..136), 8) else { break };
        let start = at + 512;
        entries.push((name, start..start.saturating_add(size).min(source.len())));
        at = start.saturating_add(size.div_ceil(512).saturating_mul(512));
    }
    Ok(entries)
}
