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
//! [read]: https://github.com/dsconv/dsconv/tree/HEAD/crates/model/tests/read_dsc.py
//! [run]: https://github.com/dsconv/dsconv/tree/HEAD/crates/model/tests/run_dsc.py
//!
#![doc = include_str!("format.md")]
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
