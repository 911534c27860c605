//! Why a file is no checkpoint, before its path is known.
use std::io;

/// What is wrong with a file.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system's reason.
    Io(io::Error),
    /// It contradicts its own format.
    Broken(String),
    /// It is something else, or uses what is not supported, with what to do about it.
    Refused {
        /// What it is.
        what: String,
        /// What to do.
        hint: String,
    },
}

impl Fault {
    /// Sizes beyond the address space.
    pub(super) fn too_large() -> Self {
        Self::Broken("a size in it is too large".into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What reading gives.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// An `Err` that says how the file contradicts its format.
pub(super) fn broken<T>(why: impl Into<String>) -> Result<T> {
    Err(Fault::Broken(why.into()))
}

/// An `Err` that says what the file is and what to do.
pub(super) fn refused<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(Fault::Refused { what: what.into(), hint: hint.into() })
}
