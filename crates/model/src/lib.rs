//! A network with its parameters, in floats or with layers in integers.
//!
//! A [`Model`] is a graph with its parameters. A [`Policy`] says what each layer is quantized to, [`Policy::resolve`] makes
//! a [`Plan`] of it for one graph, and [`Model::quantize`] follows the plan. [`dsc`] is the file format that the integer
//! engine runs; the crate `files` writes models as packed safetensors and as PyTorch state dicts.
//!
//! ```
//! use graph::{Builder, Conv2d, Preprocess, Shape, Weights};
//! use model::{Info, Model, Policy, dsc};
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
//! assert!(quantized.graph().find("bn").is_none(), "folded into the convolution");
//! let bytes = dsc::write(&quantized, &dsc::Options::EXACT)?;
//! assert_eq!(dsc::File::parse(&bytes)?.to_model()?, quantized);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod dsc;
#[doc(hidden)]
pub mod fixture;
mod model;
pub mod pattern;
pub mod policy;
mod precision;
mod rules;

pub use model::{Info, Model, ModelError, QuantizedLayer};
pub use policy::{LayerFormat, LayerPlan, Plan, Policy, PolicyError};
pub use precision::{Float, SaveOptions};
pub use rules::RuleError;
