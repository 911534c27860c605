//! The integer engine: loads a quantized network and runs it with integer kernels. No burn, no float weights.
//!
//! A [`Model`] is a plan with packed weights, shared by any number of threads; a [`Session`] is one thread's memory for
//! running it. The same file gives the same bits on every CPU and with every number of threads.
//!
//! Kernels are chosen when a model is loaded: the fastest that the CPU runs, or the [`KernelName`] in the environment
//! variable `DSCONV_KERNEL`. WebAssembly, `wasm32-unknown-unknown` included, has the one that it was compiled for
//! (`-C target-feature=+simd128`), no files and one thread. `.ci/cross` runs the tests of what a machine does not have.
//!
//! ```
//! use graph::{Builder, Conv2d, Op, Preprocess, Shape, Weights};
//! use model::{Info, Policy};
//!
//! let mut b = Builder::new("small", Shape::new(3, 8, 8));
//! let x = b.conv("conv", Conv2d::new(3, 16, 3).padding(1), b.input());
//! let x = b.relu("relu", x);
//! let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
//! b.linear("fc", 10, x);
//! let graph = b.finish()?;
//! let info = Info { preprocess: Preprocess::imagenet(), classes: vec![], source: "an example".into() };
//! let weights = Weights::init(&graph, 1);
//! let quantized = model::Model::float(graph, weights, info)?.quantize(&Policy::default())?;
//!
//! let model = runtime::Model::new(quantized)?;
//! let mut session = model.session(1)?;
//! let image = vec![0.5; 3 * 8 * 8];
//! assert_eq!(session.run(&image)?.len(), 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod buffer;
mod dsc;
mod error;
mod exec;
mod float;
mod kernels;
mod layout;
mod math;
mod model;
mod pack;
mod plan;
mod session;
mod threads;
mod winograd;

pub use crate::model::Model;
pub use ::model::Info;
pub use dsc::to_dsc;
pub use error::Error;
pub use graph::{ChannelOrder, Preprocess, Resize, Shape};
pub use kernels::{KernelName, kernels};
pub use session::{Session, StepReport};
pub use threads::MAX_THREADS;
