//! Imports classification networks from ONNX files ([`import`]), and exports quantized networks to ONNX files ([`export`]).
//!
//! # Export
//! [`export`] writes a [`model::Model`] in one of three [`Profile`]s; `dsconv export MODEL --format onnx --profile NAME`
//! does the same. Every file has the input `image` `[batch, C, H, W]` and the output `logits` `[batch, classes]`, with any
//! number of images in a batch. Nodes have the names of the graph (torchvision's for the zoo). The `metadata_props` are
//! `profile`, `format` (bits and blocks), `source`, and as JSON `preprocess` ([`graph::Preprocess`]) and `classes`. Batch
//! normalisation is folded. A file larger than 2 GiB is refused.
//!
//! | profile | weights | inputs of layers | opset, IR |
//! |---|---|---|---|
//! | `int4` | codes as `INT4` (`INT8` beyond 4 bits), `DequantizeLinear` with `axis` 1 and `block_size`, scales `[Co, blocks, Kh, Kw]`, as F16 where they are F16 values | as the model says, by a function of the domain `dsconv`; with `--activations off` floats | 21, 10 |
//! | `int8` | `INT8`, one scale for each output channel: the products `k q` of two-level scales | `UINT8`, one scale for each value, found on images; `--symmetric`: `INT8` with zero point 0 | 13, 7 |
//! | `fp32` | floats, the values that codes stand for | floats | 13, 7 |
//!
//! Opset and IR version are the first that have what `int4` and `int8` need; `fp32` has those of `int8`. A model with float
//! block scales gets two-level ones before it is written as `int8`, which fits its codes anew. In that profile, logits and
//! the values between a layer and its ReLU are not rounded, and a normalisation that was not folded is a depthwise
//! convolution.
//!
//! ## Runtimes
//! Measured with ONNX Runtime 1.32 and OpenVINO 2026.4 on the CPU; figures are in `experiments/onnx`.
//!
//! | profile | ONNX Runtime | OpenVINO |
//! |---|---|---|
//! | `int4` | yes; set `session.disable_quant_qdq` to `1`, or codes become floats at every run and not when the file is loaded | after `onnx.inliner.inline_local_functions`, as it knows no functions |
//! | `int4`, activations off | yes, with the same setting | yes |
//! | `int8` | every layer a `QLinearConv` or `QGemm`; sums, concatenations and pooling on integers too | all convolutions on `u8` |
//! | `int8`, symmetric | yes, but mostly in floats: it fuses no ReLU into codes that do not end at 0 | all convolutions on integers |
//! | `fp32` | yes | yes |
//!
//! TensorRT was not run; `int8` with `symmetric` is the form that its documentation asks for.
//!
//! - `int4` without rounded activations and `fp32` give the logits of the simulation to about 1e-6 of the largest one.
//! - `int4` with rounded activations gives the same classes, and logits to 1e-6 for most images. The functions are exact, but
//!   engines sum in other orders: a value halfway between two codes may round to the other code, and then a logit of a
//!   50-layer network at 4 bits moves by up to some hundredths.
//! - A shorter last block is a second `DequantizeLinear`, joined by a `Concat`. ONNX allows it in one node and ONNX Runtime
//!   runs that, but OpenVINO refuses it.
//! - ONNX Runtime runs `LRN` of odd sizes only.
#![forbid(unsafe_code)]

mod export;
mod import;
mod proto;

pub use export::{ActivationCodes, ExportError, Profile, Range, Ranges, export, observed};
pub use import::{ImportError, ImportOptions, Imported, OPSETS, import};
