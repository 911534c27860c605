use std::fmt;

/// A part of a `.dsc` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section {
    /// The first 64 bytes.
    Header,
    /// The section table.
    Table,
    /// The metadata.
    Metadata,
    /// A layer's codes and scales, by its number; its node's name where it is known.
    Layer(usize, String),
    /// The floats.
    Floats,
    /// The logits of the stored pair.
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
pub struct DscError {
    /// The section.
    pub section: Section,
    /// Position in the file of the first byte at fault, or of the section.
    pub offset: u64,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a `.dsc` file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Not this format.
    #[error("not a .dsc file")]
    Magic,
    /// Another version.
    #[error("version {0}: this reads version {version}", version = super::VERSION)]
    Version(u32),
    /// A file cut short, or with bytes after its end.
    #[error("the file has {found} bytes, {expected} are due")]
    Length {
        /// What the file says or needs.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// More of something than a file may have.
    #[error("{found} {what}: at most {most} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// The cap.
        most: u64,
    },
    /// A byte that must be 0.
    #[error("a byte that must be 0 is not")]
    NotZero,
    /// A checksum.
    #[error("checksum {found:#010x}, its bytes have {expected:#010x}: the file is damaged")]
    Checksum {
        /// Of the bytes.
        expected: u32,
        /// Of the file.
        found: u32,
    },
    /// A section that must not be here: wrong kind, position, place or length.
    #[error("{what} is {found}, {expected} is due")]
    Table {
        /// Which field.
        what: &'static str,
        /// What is due.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Metadata that do not parse or fit.
    #[error("{0}")]
    Metadata(String),
    /// Metadata that this format's writer would write otherwise.
    #[error("the metadata are not in their canonical form")]
    NotCanonical,
    /// Numbers of a layer.
    #[error("{0}")]
    Numbers(blockfloat::Error),
    /// A NaN or an infinity among the floats.
    #[error("`{tensor}` has a NaN or an infinity")]
    NonFinite {
        /// The tensor.
        tensor: String,
    },
    /// An engine that gives other logits for the stored input.
    #[error("logit {index} is {found} where {stored} is stored, for the input of the stored pair")]
    Logits {
        /// The first one that differs.
        index: usize,
        /// As stored.
        stored: f32,
        /// As found.
        found: f32,
    },
    /// A layer or tensor that was asked for and is not in the file.
    #[error("there is no `{0}`")]
    Absent(String),
}

impl DscError {
    pub(crate) fn new(section: Section, offset: usize, reason: Reason) -> Self {
        Self { section, offset: offset as u64, reason }
    }
}
