//! Why a command ends without its result, as the user reads it.
use std::fmt;

/// What the shell is told: see [`Error::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    Usage,
    Interrupted,
}

/// An error with what to do about it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    /// Lines of the file with a caret, drawn.
    snippet: Option<String>,
    hint: Option<String>,
}

/// What commands return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The work could not be done. A message may bring its own hint, after a blank line.
    pub fn failed(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let (message, hint) = match message.split_once("\n\nhint: ") {
            Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
            None => (message, None),
        };
        Self { kind: Kind::Failed, message, snippet: None, hint }
    }

    /// The command was wrongly used: arguments or a config file.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Usage, ..Self::failed(message) }
    }

    /// Stopped by Ctrl-C.
    pub fn interrupted(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Interrupted, ..Self::failed(message) }
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Adds lines of the file at fault.
    pub fn snippet(mut self, snippet: String) -> Self {
        self.snippet = Some(snippet);
        self
    }

    /// Puts the place before the message: `place: message`.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The exit status: 1 failed, 2 wrongly used, 130 interrupted.
    pub fn code(&self) -> u8 {
        match self.kind {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Interrupted => 130,
        }
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The drawn lines of the file at fault.
    pub fn drawing(&self) -> Option<&str> {
        self.snippet.as_deref()
    }

    /// What to do.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// Library errors say what is wrong and where; they all mean that the work could not be done.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self::failed(error)
    }
}
