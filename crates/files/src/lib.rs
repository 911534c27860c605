//! Models as files: packed safetensors, `.dsc` and PyTorch state dicts, each written whole or not at all.
//!
//! ```
//! use graph::{Builder, Conv2d, Preprocess, Shape, Weights};
//! use model::{Info, Model, Policy, SaveOptions};
//!
//! let mut b = Builder::new("small", Shape::new(3, 8, 8));
//! b.conv("conv", Conv2d::new(3, 16, 3).padding(1), b.input());
//! let graph = b.finish()?;
//! let weights = Weights::init(&graph, 1);
//! let info = Info { preprocess: Preprocess::imagenet(), classes: vec![], source: "an example".into() };
//! let quantized = Model::float(graph, weights, info)?.quantize(&Policy::default())?;
//!
//! let bytes = files::packed::to_bytes(&quantized, &SaveOptions::EXACT)?;
//! assert_eq!(files::from_bytes(&bytes)?, quantized);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The file
//! A model, in floats or quantized, is one [safetensors](https://github.com/huggingface/safetensors) file: 8 bytes with
//! the length of a JSON header, the header, then the tensors, row-major and little-endian. Its `__metadata__` has one
//! entry, `dsconv`, a string that is JSON again:
//!
//! | key | value |
//! |---|---|
//! | `format`, `version` | `"dsconv-model"`, `1`; a reader refuses others |
//! | `crc32` | the checksum, zlib's, of this string as it is without this key, then of each tensor's name and bytes in the order of names; a file of other programs may have none |
//! | `layout` | this section in short, for readers who have only the file |
//! | `info` | [`Info`](model::Info): `preprocess`, `classes`, `source` |
//! | `layers` | the quantized layers: node name to `shape`, `bits`, `block`, `scales`, `activation`, `signed` |
//! | `graph` | [`Graph`](graph::Graph): `name` and `nodes`; a node's `inputs` are positions of earlier nodes |
//!
//! A node in `layers` has two tensors in place of `<node>.weight`. With `shape` `[Co, Cg, Kh, Kw]` (`Cg` the input
//! channels of one group; a linear layer is `[out, in, 1, 1]`), `bits` `b` and `block` `B` (`"pixel"` stands for `Cg`):
//!
//! - `<node>.codes`, U8 `[ceil(Co*Cg*Kh*Kw * b / 8)]`: two's complement integers of `b` bits, in row-major order of
//!   `shape`. Code `i` is bits `i*b .. (i+1)*b` of a stream, lowest bit first; bit `k` of the stream is bit `k % 8`
//!   (value `1 << (k % 8)`) of byte `k / 8`. The bits after the last code are zero. At 4 bits, byte `j` holds code `2j`
//!   in its low half and code `2j + 1` in its high half.
//! - `<node>.scales`, F32 or F16 `[Co, ceil(Cg / B), Kh, Kw]`, signed:
//!   `weight[o, c, y, x] = scales[o, c / B, y, x] * code[o, c, y, x]`.
//!
//! Where a layer's `scales` is `"two_level"` (left out, it is `"float"`), two tensors stand in place of the scales:
//! - `<node>.factors`, I8 `[Co, ceil(Cg / B), Kh, Kw]`, never -128, with `|factor * code| <= 127`;
//! - `<node>.channel_scales`, F32 `[Co]`: `scales[o, ..] = channel_scales[o] * factors[o, ..]`, rounded to F32.
//!
//! `activation` is `null`, or `bits` `m`, `block` and `scale`: at run time every `block` consecutive input channels of
//! a group at one pixel (the last ones may be fewer) become integers times one scale, rounded half to even. With
//! `L = 2^(m-1) - 1` they lie in `-L ..= L` if `signed`, else, with `L = 2^m - 1`, in `0 ..= L`. The scale is `max|x| / L`
//! where `scale` is `"float"`, and the power of two that [`blockfloat`] describes where it is `"pow2"`.
//!
//! All other tensors are parameters under their own names, F32 or F16. F16 holds a tensor only if its largest magnitude
//! is a normal F16 (`2^-14 ..= 65504`, or all is zero), so that nothing overflows and no value is off by more than
//! `2^-11` of the largest one; a tensor for which that fails, or a layer's scales, is F32 in a file that is otherwise
//! F16. No float is NaN or infinite.
//!
//! [`model::dsc`] is the other format, for the integer engine; [`load`] reads both.
//!
//! Equal models make equal bytes, and a file that is loaded and saved with the same [`SaveOptions`] stays the same.
#![forbid(unsafe_code)]

mod atomic;
mod error;
#[cfg(test)]
mod hostile;
pub mod packed;
mod state_dict;
mod version;

use std::path::Path;

use model::{Model, SaveOptions, dsc};

pub use atomic::{abandon_writes, is_unfinished, remove_unfinished, write_atomic};
pub use error::FileError;
pub use state_dict::state_dict;

/// Reads a file that [`save`] or [`save_dsc`] wrote.
///
/// # Errors
/// [`FileError::Io`], or [`FileError::File`] with the error of [`from_bytes`].
pub fn load(path: impl AsRef<Path>) -> Result<Model, FileError> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| FileError::Io { path: path.into(), error })?;
    from_bytes(&bytes).map_err(|error| FileError::File { path: path.into(), error: Box::new(error) })
}

/// Reads the bytes of a model's file, packed safetensors or `.dsc`.
///
/// # Errors
/// As [`packed::from_bytes`], or [`dsc::File::parse`] and [`dsc::File::to_model`].
pub fn from_bytes(bytes: &[u8]) -> Result<Model, FileError> {
    if bytes.starts_with(&dsc::MAGIC) {
        return Ok(dsc::File::parse(bytes)?.to_model()?);
    }
    packed::from_bytes(bytes)
}

/// Writes a model to `path` as packed safetensors, whole or not at all: the file is completed beside `path` and then
/// renamed. Returns its size in bytes.
///
/// # Errors
/// [`FileError::Io`], or as [`packed::to_bytes`].
pub fn save(model: &Model, path: impl AsRef<Path>, options: &SaveOptions) -> Result<u64, FileError> {
    write(path.as_ref(), &packed::to_bytes(model, options)?)
}

/// Writes a model to `path` as a `.dsc` file, whole or not at all, as [`save`] does. Returns its size in bytes.
///
/// # Errors
/// [`FileError::Io`], or as [`dsc::write`].
pub fn save_dsc(model: &Model, path: impl AsRef<Path>, options: &dsc::Options) -> Result<u64, FileError> {
    write(path.as_ref(), &dsc::write(model, options)?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<u64, FileError> {
    write_atomic(path, bytes).map_err(|error| FileError::Io { path: path.into(), error })?;
    Ok(bytes.len() as u64)
}
