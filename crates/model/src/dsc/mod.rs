//! `.dsc`: one quantized network, ready to run in integers, in one file that can be memory-mapped.
//!
//! Batch normalisation is folded, codes are packed, every layer says how its input is rounded and whether it can be
//! negative, and the names of classes and the preprocessing are included: a file needs nothing beside it. [`write()`] makes
//! the bytes, [`File::parse`] checks all structure and checksums without decoding a layer, [`File::layer`] decodes one.
//!
//! ```
//! use graph::{Builder, Conv2d, Preprocess, Shape, Weights};
//! use model::{Info, Model, Policy, dsc};
//!
//! let mut b = Builder::new("small", Shape::new(3, 8, 8));
//! b.conv("conv", Conv2d::new(3, 16, 3).padding(1), b.input());
//! let graph = b.finish()?;
//! let weights = Weights::init(&graph, 1);
//! let info = Info { preprocess: Preprocess::imagenet(), classes: vec![], source: "an example".into() };
//! let model = Model::float(graph, weights, info)?.quantize(&Policy::default())?;
//!
//! let bytes = dsc::write(&model, &dsc::Options::EXACT)?;
//! let file = dsc::File::parse(&bytes)?;
//! assert_eq!(file.layer("conv")?, model.layers()["conv"]);
//! assert_eq!(file.to_model()?, model);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Layout, version 1
//! All integers and floats are little-endian. `crc32` is the common one (IEEE 802.3, zlib's `crc32`).
//!
//! ## Header, 64 bytes
//! | offset | type | what |
//! |---|---|---|
//! | 0 | 8 bytes | `89 44 53 43 0d 0a 1a 0a` (`\x89DSC\r\n\x1a\n`) |
//! | 8 | u32 | version, 1 |
//! | 12 | u32 | number of sections `n`, at most 16,387 |
//! | 16 | u64 | length of the file |
//! | 24 | u32 | crc32 of the whole file with these four bytes as 0 |
//! | 28 | 36 bytes | 0 |
//!
//! ## Section table, `n` entries of 32 bytes from offset 64
//! | offset | type | what |
//! |---|---|---|
//! | 0 | u32 | kind: 1 metadata, 2 layer, 3 floats, 4 logits |
//! | 4 | u32 | position among the sections of its kind, from 0 |
//! | 8 | u64 | offset in the file |
//! | 16 | u64 | length |
//! | 24 | u32 | crc32 of the section's bytes |
//! | 28 | u32 | 0 |
//!
//! Sections are: one metadata, the layers, one floats, and one logits if the metadata has a `pair`; in this order. The
//! first one starts at the first multiple of 64 after the table, each other one at the first multiple of 64 at or after
//! the end of the one before, and the file ends at the first multiple of 64 at or after the end of the last. All bytes
//! between are 0.
//!
//! ## Metadata
//! UTF-8 JSON without white space, at most 4 MiB, keys in the order given here. A reader may take any JSON; this one
//! refuses what it would not write itself.
//!
//! | key | value |
//! |---|---|
//! | `info` | [`Info`](crate::Info): `preprocess`, `classes`, `source` |
//! | `layers` | for each layer section: `node` (its name in the graph), `shape` `[Co, Cg, Kh, Kw]`, `bits`, `block` (a number, or `"pixel"`), `scales` (`"f32"`, `"f16"` or `"two_level"`), `activation` (`null`, or `bits`, `block`, `scale`), `signed` |
//! | `floats` | for each tensor of the floats section: `name`, `shape`, `type` (`"f32"` or `"f16"`) |
//! | `pair` | `null`, or the seed that [`Pair::input`] makes the input of the stored logits from |
//! | `graph` | [`Graph`](graph::Graph): `name`, `nodes`; a node has `name`, `op`, `inputs` (positions of earlier nodes), `shape` `[channels, height, width]` by name; at most 16,384 nodes, none of them a batch normalisation |
//!
//! Layers are in the order of the graph's nodes; at least one. Floats are all other parameters of the graph in its order:
//! `<node>.weight` then `<node>.bias`, of convolutions and linear layers that are not quantized and of `affine` nodes
//! (`y = x * weight[c] + bias[c]`), and `<node>.bias` of quantized layers.
//!
//! ## Layer
//! With `N = Co*Cg*Kh*Kw` codes of `b` bits and `S = Co * ceil(Cg / B) * Kh * Kw` blocks:
//!
//! - `ceil(N * b / 8)` bytes: the codes, two's complement integers in row-major order of `shape`; code `i` is bits
//!   `i*b .. (i+1)*b` of a stream, lowest bit first, and bit `k` of the stream is bit `k % 8` of byte `k / 8`. The bits
//!   after the last code are 0.
//! - zeros up to a multiple of 4 from the section's start;
//! - `"f32"`, `"f16"`: `S` scales `[Co, ceil(Cg / B), Kh, Kw]`;
//!   `"two_level"`: `Co` f32 `s[o]`, then `S` i8 `k`, never -128, `|k * code| <= 127`; a scale is `s[o] * k` rounded to f32.
//!
//! `weight[o, c, y, x] = scale[o, c / B, y, x] * code[o, c, y, x]`. [`crate`] says how the input is rounded.
//!
//! ## Floats
//! The tensors one after the other, row-major, each starting at a multiple of 4 from the section's start, zeros between.
//!
//! ## Logits
//! The network's output for the input that [`Pair::input`] makes of the seed, f32.
//!
//! # What reading promises
//! A file that is refused gives a [`DscError`] with section, offset and reason. Every byte of a file follows from the model
//! and from the type chosen for each tensor; a file with any other byte is refused. A size in a file does not decide how much
//! memory is allocated: reading takes at most 32 bytes for each byte of metadata and 8 for each byte of the layers that are
//! decoded.
mod error;
mod layout;
mod meta;
mod pair;
mod read;
mod version;
mod write;

pub use error::{DscError, Reason, Section};
pub use meta::{LayerInfo, StoredScales};
pub use pair::Pair;
pub use read::File;
pub use version::{MAGIC, VERSION};
pub use write::{Options, write};

#[cfg(test)]
mod tests;
