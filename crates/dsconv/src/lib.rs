//! DSConv as burn modules, with straight-through quantization.
//!
//! In `Cargo.toml`, with the path of a clone and the burn that its modules are written for:
//!
//! ```toml
//! burn = { version = "0.22.1", default-features = false, features = ["std", "optim", "flex", "simd", "rayon"] }
//! dsconv = { package = "dsconv-burn", path = "../dsconv/crates/dsconv" }
//! ```
//!
//! burn compiles in minutes; `[profile.release.package."*"]` with `opt-level = 1`, and 3 for `burn-flex`, makes it fewer, as this
//! repository's `Cargo.toml` does.
//!
//! # Layers
//! [`DsConv2d`] and [`DsLinear`] replace burn's own layers in any model:
//!
//! ```
//! use burn::nn::{PaddingConfig2d, conv::Conv2d, conv::Conv2dConfig};
//! use burn::prelude::*;
//! use dsconv::blockfloat::Error;
//! use dsconv::{DsConv2d, QuantizationConfig};
//!
//! #[derive(Module, Debug)]
//! struct Block {
//!     conv1: DsConv2d,
//!     conv2: DsConv2d,
//! }
//!
//! impl Block {
//!     /// Takes over trained FP32 convolutions: 4-bit codes, 4-bit block-floating-point input.
//!     fn quantize(conv1: Conv2d, conv2: Conv2d) -> Result<Self, Error> {
//!         let formats = QuantizationConfig::new();
//!         Ok(Self { conv1: DsConv2d::from_conv(conv1, formats)?, conv2: DsConv2d::from_conv(conv2, formats)? })
//!     }
//!
//!     fn forward(&self, x: Tensor<4>) -> Tensor<4> {
//!         let y = burn::tensor::activation::relu(self.conv1.forward(x.clone()));
//!         x + self.conv2.forward(y)
//!     }
//! }
//!
//! let device = Device::flex();
//! let conv = Conv2dConfig::new([64, 64], [3, 3]).with_padding(PaddingConfig2d::Same);
//! let block = Block::quantize(conv.init(&device), conv.init(&device))?;
//! let y = block.forward(Tensor::ones([1, 64, 8, 8], &device));
//! assert_eq!(y.dims(), [1, 64, 8, 8]);
//! # Ok::<(), Error>(())
//! ```
//!
//! [`DsConv2dConfig`] and [`DsLinearConfig`] make new layers, as burn's configurations do, and layers from codes.
//!
//! # Training
//! Gradients pass through the rounding unchanged (straight-through estimator), so the layers train on any autodiff device.
//! Three kinds of parameters want three learning rates, the same in every network:
//!
//! - shadow weights (`latent`) are stored in steps of their codes: 0.01 moves each by about a hundredth of a code in a step of
//!   Adam;
//! - the scales' factors (`gain`) start at 1: 0.0003 moves each scale by about 0.03 percent;
//! - everything else, biases for example, has its own units, and the rate that it has in a float network.
//!
//! ```
//! use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
//! use burn::module::{Module, ParamGroup};
//! use burn::nn::conv::Conv2dConfig;
//! use burn::optim::{AdamConfig, GradientsParams};
//! use burn::tensor::{Device, Distribution, Tensor};
//! use dsconv::{DsConv2d, QuantizationConfig};
//!
//! let device = Device::flex().autodiff();
//! let teacher = Conv2dConfig::new([16, 16], [3, 3]).init(&device);
//! let mut student = DsConv2d::from_conv(teacher.clone(), QuantizationConfig::new())?;
//! let mut optimizer = AdamConfig::new().init();
//! let mut rates = ModuleLrScheduler::new(1e-3)
//!     .with_group(dsconv::shadow_weights(&student), 1e-2)
//!     .with_group(ParamGroup::from_predicate("gain"), 3e-4);
//! for _ in 0..3 {
//!     let x = Tensor::random([4, 16, 8, 8], Distribution::Default, &device);
//!     let error = student.forward(x.clone()) - teacher.forward(x).detach();
//!     let gradients = GradientsParams::from_grads(error.square().mean().backward(), &student);
//!     student = optimizer.step(rates.step(), student, gradients);
//! }
//! let codes = student.valid().codes()?;
//! assert_eq!(codes.shape(), [16, 16, 3, 3]);
//! # Ok::<(), dsconv::blockfloat::Error>(())
//! ```
//!
//! # Anybody's module
//! [`quantize`] gives the convolution and linear layers of a module integer weights without a change of its code, and
//! [`codes`] gives the codes out again. [`export`] makes a model file's content of it.
//!
//! # Networks
//! [`Network`] runs a whole [`graph::Graph`], in floats or quantized.

pub use {blockfloat, graph, model};

mod activation;
mod conv2d;
mod convolve;
#[cfg(feature = "cube")]
mod cube;
mod error;
mod flex;
mod linear;
mod module;
mod network;
mod quantization;
mod shadow;

pub use activation::block_float;
pub use conv2d::{DsConv2d, DsConv2dConfig};
pub use error::Error;
pub use linear::{DsLinear, DsLinearConfig};
pub use module::{codes, export, quantize, shadow_weights};
pub use network::{Network, Step};
pub use quantization::{QuantizationConfig, ScaleUpdate};

pub mod guide;
pub mod matrix;
