//! The error of reading a checkpoint, without the path of the file.
use std::io;

/// The reason why a file cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system reported an error.
    Io(io::Error),
    /// The file contradicts its own format.
    Broken(String),
    /// The file is something else than a checkpoint, or uses what is not supported.
    Refused {
        /// The kind of file that it is.
        what: String,
        /// The advice for the user.
        hint: String,
    },
}

impl Fault {
    /// Makes the error of a size beyond the address space.
    pub(super) fn too_large() -> Self {
        Self::Broken("a size in it is too large".into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The result of reading.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Returns an `Err` that says how the file contradicts its format.
pub(super) fn broken<T>(why: impl Into<String>) -> Result<T> {
    Err(Fault::Broken(why.into()))
}

/// Returns an `Err` that says what the file is and gives advice.
pub(super) fn refused<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(Fault::Refused { what: what.into(), hint: hint.into() })
}
