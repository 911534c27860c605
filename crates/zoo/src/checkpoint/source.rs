//! Reads ranges of bytes from a file, or from memory. The tensors of a checkpoint are such ranges.
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use super::fault::{Fault, Result, broken};

/// An open file, or its bytes. Every read seeks first, so that clones do not disturb each other.
#[derive(Debug, Clone)]
pub(super) struct ByteSource {
    place: Place,
    len: u64,
}

/// The place of the bytes.
#[derive(Clone)]
enum Place {
    File(Rc<File>),
    Memory(Rc<[u8]>),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Memory(bytes) => write!(f, "{} bytes in memory", bytes.len()),
        }
    }
}

impl ByteSource {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened, or it is a folder.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Self { place: Place::File(Rc::new(file)), len: metadata.len() })
    }

    /// Takes the bytes of a file.
    pub(super) fn memory(bytes: &[u8]) -> Self {
        Self { place: Place::Memory(bytes.into()), len: bytes.len() as u64 }
    }

    /// Returns the length of the file in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads the bytes of a range.
    ///
    /// # Errors
    /// The file does not have the range, which is checked before anything is allocated, or it cannot be read.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        if range.start > range.end || range.end > self.len {
            return broken(format!("bytes {} to {} of {} are missing", range.start, range.end, self.len));
        }
        let file = match &self.place {
            Place::File(file) => file,
            Place::Memory(bytes) => return Ok(bytes[range.start as usize..range.end as usize].to_vec()),
        };
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(|_| Fault::too_large())?];
        let mut file = &**file;
        file.seek(SeekFrom::Start(range.start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads up to `len` bytes from the beginning.
    pub(super) fn head(&self, len: u64) -> Result<Vec<u8>> {
        self.read(0..len.min(self.len))
    }

    /// Computes the CRC-32 of a range, piece by piece.
    pub(super) fn crc32(&self, range: Range<u64>) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + (1 << 20));
            hasher.update(&self.read(at..end)?);
            at = end;
        }
        Ok(hasher.finalize())
    }

    /// Returns a cursor at the beginning of a range.
    pub(super) fn cursor(&self, range: Range<u64>) -> Cursor {
        let end = range.end.min(self.len);
        Cursor { source: self.clone(), at: range.start.min(end), end, buffer: Vec::new(), start: 0 }
    }
}

/// The number of bytes that a cursor reads at once.
const BUFFER: u64 = 1 << 16;

/// A position in a range of a file.
#[derive(Debug)]
pub(super) struct Cursor {
    source: ByteSource,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// The position of the buffer's first byte in the file.
    start: u64,
}

impl Cursor {
    /// Returns the position in the file.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Returns the file.
    pub(super) fn source(&self) -> &ByteSource {
        &self.source
    }

    /// Passes over the next `len` bytes and returns their range in the file.
    pub(super) fn skip(&mut self, len: u64) -> Result<Range<u64>> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.end).ok_or_else(cut_off)?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    /// Reads the next `len` bytes.
    pub(super) fn bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        let range = self.skip(len)?;
        self.source.read(range)
    }

    /// Reads the next bytes as an array.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let from = match self.at.checked_sub(self.start) {
            Some(from) if from + N as u64 <= self.buffer.len() as u64 => from as usize,
            _ => {
                self.buffer = self.source.read(self.at..self.end.min(self.at + BUFFER))?;
                self.start = self.at;
                0
            }
        };
        let bytes = self.buffer.get(from..from + N).and_then(|bytes| bytes.try_into().ok()).ok_or_else(cut_off)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Reads the next byte.
    pub(super) fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
}

fn cut_off() -> Fault {
    Fault::Broken("the file ends in the middle: it was cut off".into())
}
