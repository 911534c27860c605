//! Messages of serde in the words of a config file.
use crate::error::Error;
use crate::names;

/// What is wrong at a place in the file.
pub struct Complaint {
    /// The message.
    pub message: String,
    /// The words under the caret; they may be empty.
    pub label: String,
    /// What the user can do.
    pub hint: Option<String>,
}

impl Complaint {
    /// Reads a message of serde: `unknown field`, `unknown variant`, `missing field`, `invalid type`, or a library's own.
    pub fn read(message: &str) -> Self {
        let names = quoted(message);
        let plain = |message: String, label: &str| Self { message, label: label.into(), hint: None };
        match names.split_first() {
            Some((given, allowed)) if message.starts_with("unknown field") => Self {
                message: format!("unknown key `{given}`"),
                label: "not a key here".into(),
                hint: names::suggestion(given, "the keys here are", allowed),
            },
            Some((given, allowed)) if message.starts_with("unknown variant") => Self {
                message: format!("unknown value `{given}`"),
                label: "not a value of this key".into(),
                hint: names::suggestion(given, "allowed are", allowed),
            },
            Some((given, _)) if message.starts_with("missing field") => Self {
                message: format!("missing key `{given}`"),
                label: String::new(),
                hint: Some(format!("add `{given} = ...` here")),
            },
            _ => match message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
                Some((found, expected)) => plain(format!("expected {}, found {found}", type_in_words(expected)), ""),
                None => plain(message.trim_end().replace('\n', ", "), ""),
            },
        }
    }

    /// Makes an error of wrong usage.
    pub fn into_error(self) -> Error {
        let error = Error::usage(self.message);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Tells a type by the words of a config file in place of Rust's name.
fn type_in_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

/// Returns the texts between backquotes.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}
