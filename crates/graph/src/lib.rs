//! A convolutional network as data: nodes, edges, weights, passes and files.
//!
//! A [`Graph`] is a value: named nodes in topological order, each with an [`Op`] and its inputs. Builders make it,
//! everything else (simulation, integer runtime, exporters) only reads it. Names are torchvision's module paths
//! (`layer1.0.conv1`), so a node's parameters are `<node>.weight`, `<node>.bias` and so on, as in a PyTorch state dict.
//!
//! Every value between nodes has the shape `[N, C, H, W]`; after [`Op::Flatten`] it is `[N, C*H*W, 1, 1]`.
//!
//! A [`Model`] is a graph with its parameters; [`Model::quantize`] turns the layers that a [`Policy`] selects into
//! integers, [`Model::save`] and [`Model::load`] make files of it.
//!
//! ```
//! use graph::{Builder, Conv2d, Info, Model, Policy, Preprocess, SaveOptions, Shape, Weights};
//!
//! let mut b = Builder::new("small", Shape::new(3, 8, 8));
//! let x = b.conv("conv", Conv2d::new(3, 16, 3).padding(1), b.input());
//! let x = b.batch_norm("bn", 1e-5, x);
//! b.relu("relu", x);
//! let graph = b.finish()?;
//! let weights = Weights::init(&graph, 1);
//! let info = Info { preprocess: Preprocess::imagenet(), classes: vec![], source: "an example".into() };
//!
//! let quantized = Model::float(graph, weights, info)?.quantize(&Policy::default())?;
//! assert!(quantized.graph.find("bn").is_none(), "folded into the convolution");
//! let bytes = quantized.to_bytes(&SaveOptions::default())?;
//! assert_eq!(Model::from_bytes(&bytes)?, quantized);
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
//! | `layout` | this section in short, for whoever finds the file alone |
//! | `info` | [`Info`]: `preprocess`, `classes`, `source` |
//! | `layers` | the quantized layers: node name to `shape`, `bits`, `block`, `scales`, `activation`, `signed` |
//! | `graph` | [`Graph`]: `name` and `nodes`; a node's `inputs` are positions of earlier nodes |
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
//! where `scale` is `"float"`, and the power of two that [`blockfloat`] documents where it is `"pow2"`.
//!
//! All other tensors are parameters under their own names, F32 or F16. F16 holds a tensor only if its largest magnitude
//! is a normal F16 (`2^-14 ..= 65504`, or all is zero), so that nothing overflows and no value is off by more than
//! `2^-11` of the largest one; a tensor for which that fails, or a layer's scales, is F32 in a file that is otherwise
//! F16. No float is NaN or infinite.
//!
//! [`dsc`] is the other format: the same network for the integer runtime, which [`Model::load`] reads too.
//!
//! Equal models make equal bytes, and a file that is loaded and saved with the same [`SaveOptions`] stays the same.
#![forbid(unsafe_code)]

mod atomic;
mod build;
mod cost;
pub mod dsc;
mod file;
#[cfg(test)]
mod fixture;
mod head;
#[cfg(test)]
mod hostile;
mod image_config;
mod infer;
mod model;
mod op;
pub mod pass;
pub mod pattern;
pub mod policy;
mod precision;
mod preprocess;
mod state_dict;
mod weights;

pub use atomic::{is_unfinished, remove_unfinished, write_atomic};
pub use build::{Builder, Graph, GraphError, Node, NodeId, Param, Role};
pub use cost::{Budget, Cost};
pub use head::{Head, Outputs};
pub use image_config::{ImageConfig, Not, Said};
pub use model::{Info, Model, ModelError, QuantizedLayer};
pub use op::{Activation, Conv2d, Op, Pool2d, Shape};
pub use policy::{LayerFormat, LayerPlan, Plan, Policy, PolicyError};
pub use precision::{Float, SaveOptions};
pub use preprocess::{ChannelOrder, Normaliser, Preprocess, Resize};
pub use state_dict::state_dict;
pub use weights::{Tensor, Weights, WeightsError};
