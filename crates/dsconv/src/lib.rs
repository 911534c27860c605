//! DSConv as burn modules, with straight-through quantization.
//!
//! [`DsConv2d`] and [`DsLinear`] replace burn's own layers in any model:
//!
//! ```
//! use burn::nn::{PaddingConfig2d, conv::{Conv2d, Conv2dConfig}};
//! use burn::prelude::*;
//! use dsconv::DsConv2d;
//!
//! #[derive(Module, Debug)]
//! struct Block {
//!     conv1: DsConv2d,
//!     conv2: DsConv2d,
//! }
//!
//! impl Block {
//!     /// Takes over trained FP32 convolutions: 4-bit codes, 4-bit block-floating-point input.
//!     fn quantize(conv1: Conv2d, conv2: Conv2d) -> Self {
//!         Self { conv1: conv1.into(), conv2: conv2.into() }
//!     }
//!
//!     fn forward(&self, x: Tensor<4>) -> Tensor<4> {
//!         let y = burn::tensor::activation::relu(self.conv1.forward(x.clone()));
//!         x + self.conv2.forward(y)
//!     }
//! }
//!
//! let device = Device::flex();
//! let conv = Conv2dConfig::new([64, 64], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
//! let block = Block::quantize(conv.init(&device), conv.init(&device));
//! let y = block.forward(Tensor::ones([1, 64, 8, 8], &device));
//! assert_eq!(y.dims(), [1, 64, 8, 8]);
//! ```
//!
//! [`Network`] runs a whole [`graph::Graph`], in floats or quantized. Gradients pass through the rounding unchanged
//! (straight-through estimator), so both train on any autodiff device.
#![forbid(unsafe_code)]

mod activation;
mod layer;
mod network;

pub use activation::block_float;
pub use layer::{Alpha, DsConfig, DsConv2d, DsLinear};
pub use network::Network;

/// Compiles and runs the README's Rust code.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
