use std::fmt;

/// A part of a `.dsc` file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Section {
    /// The first 64 bytes.
    Header,
    /// The section table.
    Table,
    /// The metadata.
    Metadata,
    /// The codes and scales of a layer: its number, and its node's name, empty while it is not known.
    Layer(usize, String),
    /// The floats.
    Floats,
    /// The logits of the stored [`Pair`](super::Pair).
    Logits,
    /// The zeros between sections.
    Padding,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Table => f.write_str("section table"),
            Self::Metadata => f.write_str("metadata"),
            Self::Layer(index, name) if name.is_empty() => write!(f, "layer {index}"),
            Self::Layer(_, name) => write!(f, "layer `{name}`"),
            Self::Floats => f.write_str("floats"),
            Self::Logits => f.write_str("logits"),
            Self::Padding => f.write_str("padding"),
        }
    }
}

/// Why a `.dsc` file is refused, and where.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{section}, byte {offset}: {reason}")]
#[non_exhaustive]
pub struct DscError {
    /// The section with the fault.
    pub section: Section,
    /// The position in the file of the first byte at fault, or of the section.
    pub offset: u64,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a `.dsc` file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The file is of another format.
    #[error("not a .dsc file")]
    Magic,
    /// The file has another version of the format.
    #[error("version {0}: this reads version {version}", version = super::version::VERSION)]
    Version(u32),
    /// The file is cut short, or goes on after its end.
    #[error("the file has {found} bytes, {expected} are due")]
    Length {
        /// The number of bytes that the file says or needs.
        expected: u64,
        /// The number of bytes that it has.
        found: u64,
    },
    /// The file has more of something than is allowed.
    #[error("{found} {what}: at most {most} are allowed")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// The number of them.
        found: u64,
        /// The number that is allowed.
        most: u64,
    },
    /// A byte that must be 0 is not.
    #[error("a byte that must be 0 is not")]
    NotZero,
    /// A checksum is not that of the bytes.
    #[error("checksum {found:#010x}, its bytes have {expected:#010x}: the file is damaged")]
    Checksum {
        /// The checksum of the bytes.
        expected: u32,
        /// The checksum in the file.
        found: u32,
    },
    /// A section has another kind, position, offset or length than it must have here.
    #[error("{what} is {found}, {expected} is due")]
    Table {
        /// The name of the field.
        what: &'static str,
        /// The value that it must have.
        expected: u64,
        /// The value that it has.
        found: u64,
    },
    /// The metadata do not parse, or do not fit together.
    #[error("{0}")]
    Metadata(String),
    /// The metadata are not as [`write()`](super::write()) writes them.
    #[error("the metadata are not in their canonical form")]
    NotCanonical,
    /// A layer's codes or scales are not valid.
    #[error("{0}")]
    Numbers(blockfloat::Error),
    /// A tensor has a NaN or an infinity.
    #[error("`{tensor}` has a NaN or an infinity")]
    NonFinite {
        /// The tensor's name.
        tensor: String,
    },
    /// An engine computed other logits for the stored input than the file has.
    #[error("logit {index} is {found} where {stored} is stored, for the input of the stored pair")]
    Logits {
        /// The position of the first logit that differs.
        index: usize,
        /// The logit in the file.
        stored: f32,
        /// The logit that the engine computed.
        found: f32,
    },
    /// The file does not have the layer or tensor that was asked for.
    #[error("there is no `{0}`")]
    Absent(String),
}

impl DscError {
    pub(crate) fn new(section: Section, offset: usize, reason: Reason) -> Self {
        Self { section, offset: offset as u64, reason }
    }
}
