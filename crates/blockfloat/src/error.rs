/// Why numbers were refused. Indices are flat, row-major positions in the tensor that was passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A bit width outside 2 to 8.
    #[error("{0} bits: expected 2 to 8")]
    Bits(u64),
    /// A block length that is neither a positive integer nor `pixel`.
    #[error("block size `{0}`: expected a positive integer or `pixel`")]
    BlockSize(String),
    /// A name that is none of the allowed ones.
    #[error("unknown {what} `{name}`: expected one of {allowed}")]
    UnknownName {
        /// What was named, for example `scale rule`.
        what: &'static str,
        /// The name that was found.
        name: String,
        /// The allowed names.
        allowed: &'static str,
    },
    /// A shape with a dimension of zero, or with more elements than memory can address.
    #[error("shape {shape:?}: every dimension must be at least 1 and the element count must fit memory")]
    Shape {
        /// The shape that was passed.
        shape: [usize; 4],
    },
    /// A slice of the wrong length for its shape.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// What its shape asks for.
        expected: usize,
        /// What was passed.
        found: usize,
    },
    /// A NaN or an infinity.
    #[error("element {index} is NaN or infinite")]
    NonFinite {
        /// Its position.
        index: usize,
    },
    /// A scale that is NaN or infinite.
    #[error("scale {index} is NaN or infinite")]
    NonFiniteScale {
        /// Its position among the scales.
        index: usize,
    },
    /// A code that its bit width cannot hold.
    #[error("code {code} at {index} does not fit {bits} bits")]
    CodeRange {
        /// Its position.
        index: usize,
        /// The code.
        code: i32,
        /// The bit width.
        bits: u8,
    },
    /// A product of factor and code, of two-level scales, that an INT8 weight cannot hold.
    #[error("factor times code is {product} at {index}: the limit is 127 either way")]
    ProductRange {
        /// Its position among the codes.
        index: usize,
        /// The product.
        product: i32,
    },
    /// Channels that cannot be split evenly into groups.
    #[error("{channels} channels cannot be split into {groups} groups")]
    Groups {
        /// Channels of the tensor.
        channels: usize,
        /// Groups asked for.
        groups: usize,
    },
    /// Set bits after the last packed code.
    #[error("the padding after the last packed code is not zero")]
    PackedPadding,
    /// An activation whose channels or groups are not the convolution's.
    #[error(
        "the convolution reads {groups} groups of {channels} channels, \
         the activation has {found_groups} groups of {found_channels}"
    )]
    Channels {
        /// Channels a group of the weights.
        channels: usize,
        /// Groups of the convolution.
        groups: usize,
        /// Channels a group of the activation.
        found_channels: usize,
        /// Groups of the activation.
        found_groups: usize,
    },
    /// A stride or dilation of zero, or a kernel that does not fit its padded input.
    #[error("a kernel of {kernel:?} does not fit an input of {input:?}, or a stride or dilation is zero")]
    Geometry {
        /// Kernel height and width.
        kernel: [usize; 2],
        /// Input height and width, without padding.
        input: [usize; 2],
    },
    /// A weight block that spans two activation blocks: the activation's block length must be a multiple of the weight's.
    #[error("weight channels {start}..{end} of a group lie in more than one activation block")]
    BlockMismatch {
        /// First channel of the weight block.
        start: usize,
        /// One past its last channel.
        end: usize,
    },
    /// A block so long that its integer dot product could overflow an i32.
    #[error("a block of {len} channels can overflow a 32-bit sum")]
    BlockTooLong {
        /// Its length.
        len: usize,
    },
}

/// The number of elements of `shape`.
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
