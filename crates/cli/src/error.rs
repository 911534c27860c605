//! The error that ends a command, as the user reads it.
use std::error::Error as StdError;
use std::{fmt, io};

use images::{FetchError, ImageError};
use onnx::ImportError;
use zoo::checkpoint::CheckpointError;

use crate::table::harmless;

/// How a command ended, which decides its exit status: see [`Error::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Failed,
    Usage,
    Interrupted,
}

/// The error that ends a command, with what the user can do about it.
#[derive(Debug)]
pub struct Error {
    ending: Ending,
    message: String,
    /// The lines of the file at fault, drawn with a caret under the place.
    snippet: Option<String>,
    hint: Option<String>,
    /// Whether what was named is not there.
    is_missing: bool,
}

/// What commands return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The work could not be done.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self { ending: Ending::Failed, message: message.to_string(), snippet: None, hint: None, is_missing: false }
    }

    /// The command was wrongly used: its arguments or its config file are at fault.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::failed(message).into_usage()
    }

    /// The user stopped the command with Ctrl-C.
    pub fn interrupted(message: impl fmt::Display) -> Self {
        Self { ending: Ending::Interrupted, ..Self::failed(message) }
    }

    /// Whether the user ended the work.
    pub fn is_interruption(&self) -> bool {
        self.ending == Ending::Interrupted
    }

    /// The same error as one of wrong usage.
    pub fn into_usage(self) -> Self {
        Self { ending: Ending::Usage, ..self }
    }

    /// The same error as one of a name or a path at which there is nothing.
    pub fn into_missing(self) -> Self {
        Self { is_missing: true, ..self }
    }

    /// Adds what the user can do.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Adds the drawn lines of the file at fault.
    pub fn snippet(mut self, snippet: String) -> Self {
        self.snippet = Some(snippet);
        self
    }

    /// Puts the place before the message: `place: message`.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The exit status of the process: 1 for work that failed, 2 for wrong usage, 130 for an interruption.
    pub fn code(&self) -> u8 {
        match self.ending {
            Ending::Failed => 1,
            Ending::Usage => 2,
            Ending::Interrupted => 130,
        }
    }

    /// Tells whether the command was wrongly used.
    pub fn is_usage(&self) -> bool {
        self.ending == Ending::Usage
    }

    /// Tells whether there is nothing at a name or a path that the user gave.
    pub fn is_missing(&self) -> bool {
        self.is_missing
    }

    /// The message alone, without drawing and hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The drawn lines of the file at fault.
    pub fn drawing(&self) -> Option<&str> {
        self.snippet.as_deref()
    }

    /// What the user can do.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// Writes it as stderr shows it, without colour.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&harmless(&self.message))?;
        if let Some(drawing) = &self.snippet {
            write!(f, "\n{}", anstream::adapter::strip_str(drawing))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {}", harmless(hint)),
            None => Ok(()),
        }
    }
}

/// An error of a library means that the work could not be done, or that the user stopped it. It brings its own hint.
impl<E: StdError + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let any: &(dyn StdError + 'static) = &error;
        if let Some(distill::Error::Interrupted { .. }) = any.downcast_ref() {
            return crate::progress::stopped();
        }
        Self { hint: hint_of(&error), is_missing: is_missing(&error), ..Self::failed(error) }
    }
}

/// Tells whether an error of a library is that of a file, or of images, that are not there.
fn is_missing(error: &(dyn StdError + 'static)) -> bool {
    let of_images = |error: &ImageError| match error {
        ImageError::NotFound { .. } | ImageError::NotFetched { .. } => true,
        ImageError::Io { error, .. } => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    };
    if let Some(distill::Error::Images(error)) = error.downcast_ref() {
        return of_images(error);
    }
    if let Some(CheckpointError::Io { error, .. }) = error.downcast_ref() {
        return error.kind() == io::ErrorKind::NotFound;
    }
    error.downcast_ref().is_some_and(of_images)
}

/// The hint that an error of one of the project's libraries carries.
fn hint_of(error: &(dyn StdError + 'static)) -> Option<String> {
    None.or_else(|| error.downcast_ref::<distill::Error>().and_then(distill::Error::hint))
        .or_else(|| error.downcast_ref::<ImageError>().and_then(ImageError::hint))
        .or_else(|| error.downcast_ref::<FetchError>().and_then(FetchError::hint).map(str::to_owned))
        .or_else(|| error.downcast_ref::<CheckpointError>().and_then(CheckpointError::hint).map(str::to_owned))
        .or_else(|| error.downcast_ref::<ImportError>().and_then(ImportError::hint).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stops_a_command_has_not_seen_it_fail() {
        let error = Error::from(distill::Error::Interrupted { reason: Some("Ctrl-C".into()) });
        assert_eq!((error.message(), error.code(), error.is_interruption()), ("stopped", 130, true));
    }

    #[test]
    fn a_library_error_keeps_its_hint_as_data() {
        let missing = || ImageError::NotFound { spec: "x".into(), known: "cifar10, embedded".into() };
        for error in [Error::from(missing()), Error::from(distill::Error::Images(missing())).into_usage()] {
            assert_eq!(error.message(), "no images at `x`: it is no file or folder, and no data set has that name");
            assert_eq!(error.advice(), Some("data sets are cifar10, embedded"));
        }
        assert_eq!(Error::from(std::fmt::Error).advice(), None);
    }

    #[test]
    fn a_chain_of_library_errors_says_nothing_twice() {
        let folder = tempfile::tempdir().unwrap();
        let (missing, text) = (folder.path().join("missing"), folder.path().join("text"));
        std::fs::write(&text, "a text, and longer than eight bytes").unwrap();
        let numbers = || blockfloat::Error::NonFiniteScale { index: 3 };
        let layer = || model::ModelError::Numbers { layer: "conv1".into(), error: numbers() };
        let mut errors: Vec<Box<dyn StdError>> = vec![
            Box::new(onnx::import(b"a text", &onnx::ImportOptions::default()).unwrap_err()),
            Box::new(distill::predictions(&missing).unwrap_err()),
            Box::new(distill::Error::Model(layer())),
            Box::new(dsconv::Error::Numbers { path: "conv1.weight".into(), error: numbers() }),
            Box::new(ImageError::Io { path: missing.clone(), error: std::fs::read(&missing).unwrap_err() }),
        ];
        for file in [&missing, &text] {
            errors.push(Box::new(runtime::Model::load(file).unwrap_err()));
            errors.push(Box::new(files::load(file).unwrap_err()));
            errors.push(Box::new(zoo::checkpoint::Checkpoint::open(file).unwrap_err()));
        }
        for error in errors {
            let mut chain = vec![error.to_string()];
            let mut source = error.source();
            while let Some(error) = source {
                chain.push(error.to_string());
                source = error.source();
            }
            assert!(chain.windows(2).all(|pair| !pair[0].contains(&pair[1])), "{chain:#?}");
        }
    }
}
