//! ONNX files: classification networks in, quantized networks out.
//!
//! This is a crate of its own so that the runtime, which reads [`graph`]'s files, does not depend on protocol buffers.
#![forbid(unsafe_code)]

mod export;
mod import;
pub mod proto;

pub use export::{ActivationCodes, ExportError, Profile, Range, Ranges, export, observed, translate};
pub use import::{ImportError, ImportOptions, Imported, OPSETS, import};
