use blockfloat::{Bits, BlockSize};

/// Why a layer cannot be made from codes, or the weights of a module cannot be quantized or read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration has groups that do not divide its channels.
    #[error("{groups} groups do not divide {} input and {} output channels", channels[0], channels[1])]
    Groups {
        /// The numbers of input and output channels.
        channels: [usize; 2],
        /// The number of groups.
        groups: usize,
    },
    /// Codes have another shape than the weight of the layer that they are meant for.
    #[error("codes of shape {found:?} for a layer with a weight of shape {expected:?}")]
    Shape {
        /// `[Co, Ci/G, Kh, Kw]` of the layer.
        expected: [usize; 4],
        /// `[Co, Ci/G, Kh, Kw]` of the codes.
        found: [usize; 4],
    },
    /// Codes have other bits or blocks than the layer that they are meant for.
    #[error("{}-bit codes in blocks of {} for a layer of {}-bit codes in blocks of {}", found.0, found.1, expected.0, expected.1)]
    Format {
        /// The bits and the block length of the layer.
        expected: (Bits, BlockSize),
        /// The bits and the block length of the codes.
        found: (Bits, BlockSize),
    },
    /// A bias has another length than the layer has output channels, or one is there and the layer has none.
    #[error("a bias of {found} values for a layer whose bias has {expected}")]
    Bias {
        /// The length of the layer's bias, 0 for a layer without one.
        expected: usize,
        /// The length of the bias that was given, 0 for none.
        found: usize,
    },
    /// The weights at a path of a module cannot be quantized, or are no codes and scales.
    #[error("'{path}': {error}")]
    Numbers {
        /// The path of the parameter, `conv1.weight` for example.
        path: String,
        /// What is wrong with its numbers.
        error: blockfloat::Error,
    },
    /// A parameter that is to be quantized already has a reparameterization: it is quantized, or has a LoRA adapter.
    #[error("'{path}' is reparameterized already")]
    Reparameterized {
        /// The path of the parameter.
        path: String,
    },
    /// A module has no weight of a convolution or linear layer among the parameters that are to be quantized.
    #[error("no weight of a convolution or linear layer is among the parameters to quantize")]
    NothingToQuantize,
}
