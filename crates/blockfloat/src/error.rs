//! The errors of this crate, and the checks that several modules share.

/// The reason why numbers were refused. An `index` is a flat, row-major position in the tensor that was passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A bit width lies outside 2 to 8.
    #[error("{0} bits: expected 2 to 8")]
    Bits(u64),
    /// A block length is none.
    #[error("block size `{0}`: expected a positive integer or `pixel`, or for an activation `image`")]
    BlockSize(String),
    /// The blocks of weights are those of an activation.
    #[error("weights have no blocks of a whole image")]
    ImageBlock,
    /// A name is none of the allowed ones.
    #[error("unknown {what} `{name}`: expected one of {allowed}")]
    UnknownName {
        /// The kind of thing that was named, for example `scale rule`.
        what: &'static str,
        /// The name that was given.
        name: String,
        /// The list of allowed names, for a message.
        allowed: &'static str,
    },
    /// A shape has a dimension of zero, or more elements than memory can address.
    #[error("shape {shape:?}: every dimension must be at least 1 and the element count must fit memory")]
    Shape {
        /// The shape that was passed.
        shape: [usize; 4],
    },
    /// A slice does not have the length of its shape.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// The name of the slice.
        what: &'static str,
        /// The length that the shape asks for.
        expected: usize,
        /// The length of the slice.
        found: usize,
    },
    /// An element is NaN or infinite.
    #[error("element {index} is NaN or infinite")]
    NonFinite {
        /// The position of the first such element.
        index: usize,
    },
    /// A scale is NaN or infinite.
    #[error("scale {index} is NaN or infinite")]
    NonFiniteScale {
        /// The position of the first such scale among the scales.
        index: usize,
    },
    /// A code does not fit its bit width.
    #[error("code {code} at {index} does not fit {bits} bits")]
    CodeRange {
        /// The position of the code.
        index: usize,
        /// The code.
        code: i32,
        /// The bit width.
        bits: u8,
    },
    /// A weight with two-level scales has a product of factor and code that an INT8 weight cannot hold.
    #[error("factor times code is {product} at {index}: the limit is 127 either way")]
    ProductRange {
        /// The position of the code.
        index: usize,
        /// The product of factor and code.
        product: i32,
    },
    /// Channels do not split evenly into groups.
    #[error("{channels} channels cannot be split into {groups} groups")]
    Groups {
        /// The channels of the tensor.
        channels: usize,
        /// The groups that were asked for.
        groups: usize,
    },
    /// A bit after the last packed code is set.
    #[error("the padding after the last packed code is not zero")]
    PackedPadding,
    /// An activation does not have the channels or the groups of the convolution.
    #[error(
        "the convolution reads {groups} groups of {channels} channels, \
         the activation has {found_groups} groups of {found_channels}"
    )]
    Channels {
        /// The channels of a group of the weights.
        channels: usize,
        /// The groups of the convolution.
        groups: usize,
        /// The channels of a group of the activation.
        found_channels: usize,
        /// The groups of the activation.
        found_groups: usize,
    },
    /// A stride or a dilation is zero, or the kernel does not fit its padded input.
    #[error("a kernel of {kernel:?} does not fit an input of {input:?}, or a stride or dilation is zero")]
    Geometry {
        /// The height and width of the kernel.
        kernel: [usize; 2],
        /// The height and width of the input, without padding.
        input: [usize; 2],
    },
    /// A weight block spans two activation blocks: the activation's block length must be a multiple of the weight's.
    #[error("weight channels {start}..{end} of a group lie in more than one activation block")]
    BlockMismatch {
        /// The first channel of the weight block.
        start: usize,
        /// The channel after the last one of the weight block.
        end: usize,
    },
    /// A block is so long that its integer dot product could overflow an i32.
    #[error("a block of {len} channels can overflow a 32-bit sum")]
    BlockTooLong {
        /// The channels of the block.
        len: usize,
    },
}

/// Returns the number of elements of `shape`.
pub(crate) fn elements(shape: [usize; 4]) -> Result<usize, Error> {
    let product = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    // No Vec holds more than isize::MAX bytes; four bytes an element.
    product.filter(|&n| n > 0 && n <= isize::MAX as usize / 4).ok_or(Error::Shape { shape })
}

pub(crate) fn check_len(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}

pub(crate) fn check_finite(values: &[f32]) -> Result<(), Error> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NonFinite { index }),
    }
}
