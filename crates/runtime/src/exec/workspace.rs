//! The memory that a program runs in.
use crate::Error;
use crate::buffer::Buffer;
use crate::kernels::SLACK;
use crate::plan::{CodeSize, Program};

/// The memory of an integer slot.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    pub codes: Buffer<u8>,
    pub scales: Buffer<f32>,
}

/// The memory of a program's slots, for a number of images.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub floats: Vec<Buffer<f32>>,
    pub codes: Vec<Codes>,
    /// The largest magnitude of the value in each float slot, where it was noted.
    pub largest: Vec<f32>,
    /// Room for the values that nobody reads as floats: one strip for each part of a step's rows.
    pub scratch: Buffer<f32>,
    /// Room for the rows between two steps that run together, for each part.
    pub band: Codes,
    /// Room for a strip's patches, for each part.
    pub patches: Codes,
    /// Room for unpacked panels of weights, for each part.
    pub unpacked: Buffer<u8>,
    pub parts: usize,
}

impl Workspace {
    /// Makes memory for `images` images at a time, each step in up to `parts` parts.
    ///
    /// # Errors
    /// [`Error::Allocation`]. How much it is, [`Program::bytes`] tells.
    pub fn new(program: &Program, images: usize, parts: usize) -> Result<Self, Error> {
        let no_memory = || Error::Allocation { bytes: program.bytes(images, parts) };
        let floats = |n: usize| n.checked_mul(images).and_then(Buffer::try_new).ok_or_else(no_memory);
        let codes = |size: &CodeSize| {
            let bytes = size.bytes.checked_mul(images).and_then(|n| n.checked_add(SLACK));
            Ok(Codes { codes: bytes.and_then(Buffer::try_new).ok_or_else(no_memory)?, scales: floats(size.scales)? })
        };
        let for_parts = |n: usize| n.checked_mul(parts).ok_or_else(no_memory);
        let shared = |size: CodeSize| -> Result<Codes, Error> {
            Ok(Codes {
                codes: Buffer::try_new(for_parts(size.bytes)?).ok_or_else(no_memory)?,
                scales: Buffer::try_new(for_parts(size.scales)?).ok_or_else(no_memory)?,
            })
        };
        Ok(Self {
            band: shared(CodeSize { bytes: program.band.bytes + SLACK, ..program.band })?,
            patches: shared(program.patches)?,
            floats: program.floats.iter().map(|&n| floats(n)).collect::<Result<_, _>>()?,
            largest: vec![0.0; program.floats.len()],
            codes: program.codes.iter().map(codes).collect::<Result<_, Error>>()?,
            scratch: program.scratch.checked_mul(parts).and_then(Buffer::try_new).ok_or_else(no_memory)?,
            unpacked: program.unpacked.checked_mul(parts).and_then(Buffer::try_new).ok_or_else(no_memory)?,
            parts,
        })
    }

    /// Returns the number of bytes that it takes.
    pub fn bytes(&self) -> usize {
        let codes = self.codes.iter().chain([&self.band, &self.patches]).map(|c| c.codes.bytes() + c.scales.bytes());
        self.floats.iter().map(Buffer::bytes).chain(codes).sum::<usize>() + self.scratch.bytes() + self.unpacked.bytes()
    }
}
