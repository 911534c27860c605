use std::path::PathBuf;

use graph::WeightsError;
use model::ModelError;
use model::dsc::DscError;

use crate::version::{FORMAT, VERSION};

/// Why a model cannot be read from a file or written to one. The message holds that of the cause, so that there is no `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file system refused to read or write.
    #[error("`{}`: {error}", path.display())]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The error of the file system.
        error: std::io::Error,
    },
    /// The content of a file is not a model.
    #[error("`{}`: {error}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with its content.
        error: Box<FileError>,
    },
    /// The bytes are not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Container(safetensors::SafeTensorError),
    /// The safetensors file has tensors, but no `dsconv` metadata.
    #[error("a safetensors file without `dsconv` metadata: bare weights, not a model")]
    NoHeader,
    /// The `dsconv` metadata do not parse, or cannot hold a number such as NaN.
    #[error("`dsconv` metadata: {0}")]
    Header(serde_json::Error),
    /// The checksum of the metadata and tensors is not the one that the file states.
    #[error(
        "checksum {expected:#010x}, its metadata and tensors have {found:#010x}: the file is damaged, or was changed by another program"
    )]
    Checksum {
        /// The checksum that the file states.
        expected: u32,
        /// The checksum of what it holds.
        found: u32,
    },
    /// The file is of another format or version.
    #[error("format `{format}` version {version}: this reads `{FORMAT}` version {VERSION}")]
    Version {
        /// The format that the file names.
        format: String,
        /// The version that the file names.
        version: u64,
    },
    /// A tensor has a type that it cannot have.
    #[error("tensor `{tensor}`: expected {expected}, found {found}")]
    Dtype {
        /// The tensor's name.
        tensor: String,
        /// The types it may have.
        expected: &'static str,
        /// The type it has.
        found: String,
    },
    /// The model itself is not valid.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl From<safetensors::SafeTensorError> for FileError {
    fn from(error: safetensors::SafeTensorError) -> Self {
        Self::Container(error)
    }
}

impl From<serde_json::Error> for FileError {
    fn from(error: serde_json::Error) -> Self {
        Self::Header(error)
    }
}

impl From<WeightsError> for FileError {
    fn from(error: WeightsError) -> Self {
        Self::Model(error.into())
    }
}

impl From<DscError> for FileError {
    fn from(error: DscError) -> Self {
        Self::Model(error.into())
    }
}
