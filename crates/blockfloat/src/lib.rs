//! The numbers of DSConv: block-scaled integer weights, block floating point activations, their packing, and the
//! plain-loop reference convolution every engine is compared with.
//!
//! The method is Nascimento, Fawcett, Prisacariu, "DSConv: Efficient Convolution Operator", ICCV 2019
//! ([arXiv 1901.01928](https://arxiv.org/abs/1901.01928)). A weight tensor is cut along its input channels into blocks;
//! a block is stored as `b`-bit integers (the paper's VQK) and one signed float scale (its KDS). Activations are turned
//! into block floating point on the fly, so that each block of a convolution is an exact integer dot product.
//!
//! # Letters
//! | letter | meaning |
//! |---|---|
//! | `N`, `C`, `H`, `W` | batch, channels, height and width of an activation |
//! | `Co`, `Ci`, `G` | output channels, input channels, groups of a convolution; `Cg = Ci/G` |
//! | `Kh`, `Kw` | kernel height and width; a tap is one `(kh, kw)` |
//! | `B` | block length: consecutive channels of one group that share a scale; the last block of a group may be shorter |
//! | `b`, `m` | bits of a weight code, bits of an activation mantissa, 2 to 8 each |
//! | `q`, `alpha` | a weight's integer code, its block's scale: `w ~ alpha * q` |
//! | `s`, `k` | two-level scales of a weight: `alpha = s * k`, `s` a float an output channel, `k` an integer a block |
//! | `a`, `sx` | an activation's mantissa, its block's scale: `x ~ sx * a` |
//!
//! All tensors are row-major slices. Rounding is half to even everywhere.
//!
//! # Reference and fast twins
//! A reference is written in plain loops and defines the result; its fast twin gives the same bits:
//!
//! | reference | fast twin |
//! |---|---|
//! | [`quantize_activations`], then [`QuantizedActivations::dequantize`] | [`dequantized_activations`] |

//! | [`conv2d`] | the integer kernels of the runtime |
//!
//! # Example
//! ```
//! use blockfloat::*;
//!
//! // One 1x1 filter over four channels, 4-bit codes in blocks of two channels.
//! let format = WeightFormat::new(Bits::new(4)?, BlockSize::new(2)?, ScaleRule::L2);
//! let w = QuantizedWeights::quantize(&[0.8, -0.3, 0.1, 0.1], [1, 4, 1, 1], format)?;
//! // The largest weight of a block lands on -2^(4-1) = -8; -0.3 is round(-8 / 0.8 * -0.3) = 3.
//! assert_eq!(w.codes(), [-8, 3, -8, -8]);
//! assert_eq!(w.scale_shape(), [1, 2, 1, 1]);
//!
//! let format = ActivationFormat { bits: Bits::new(8)?, block: BlockSize::new(2)?, scale: ActivationScale::Pow2 };
//! let spec = ActivationSpec { shape: [1, 4, 1, 1], groups: 1, format, signed: false };
//! let x = quantize_activations(&[1.0, 2.0, 3.0, 4.0], &spec)?;
//! let y = conv2d(&x, &w, None, &ConvParams::default())?;
//! assert!((y[0] - (0.8 - 0.6 + 0.3 + 0.4)).abs() < 0.05);
//! # Ok::<(), Error>(())
//! ```
#![forbid(unsafe_code)]

mod activations;
mod conv;
mod error;
mod pack;
mod random;
mod round;
mod rules;
mod search;

mod two_level;
mod types;
mod weights;

pub use activations::{ActivationSpec, QuantizedActivations, dequantized_activations, quantize_activations};
pub use conv::{ConvParams, conv2d};
pub use error::Error;
pub use pack::{pack, packed_len, unpack};
pub use random::SplitMix64;
pub use rules::BlockQuantizer;

pub use two_level::TwoLevel;
pub use types::{ActivationFormat, ActivationScale, Bits, BlockSize, ScaleFormat, ScaleRule, TapScales, WeightFormat};
pub use weights::QuantizedWeights;
