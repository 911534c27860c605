//! Errors of usage that are explained better than clap does.
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::Cli;
use crate::error::Error;
use crate::names;
use crate::printer::{Manner, Printer};

/// Prints an error of usage, or the help or version that was asked for, and returns the exit status.
pub fn refuse(error: &clap::Error) -> ExitCode {
    let json = words().any(|word| word == "--json");
    let told = explain(error).or_else(|| (json && error.use_stderr()).then(|| in_short(error)));
    match told {
        Some(told) => {
            Printer::new(&Manner { json, ..Manner::default() }).error(&told);
            ExitCode::from(told.code())
        }
        None => error.exit(),
    }
}

/// Says what clap says, without the lines on how the command is used.
pub fn in_short(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    Error::usage(text.split("\n\n").next().unwrap_or(text).trim_end())
}

/// Explains an error of usage better than clap does, where that is possible: a model in a command's place, another command's
/// option.
fn explain(error: &clap::Error) -> Option<Error> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand if error.get(ContextKind::SuggestedSubcommand).is_none() => {
            text(ContextKind::InvalidSubcommand).map(unknown_command)
        }
        ErrorKind::UnknownArgument if error.get(ContextKind::SuggestedArg).is_none() => {
            let root = Cli::command();
            let command = words().find(|word| root.find_subcommand(word).is_some())?;
            match text(ContextKind::InvalidArg)? {
                option if option.starts_with("--") => Some(unknown_option(option, &command, &root)),
                number if number.starts_with('-') && number.parse::<f64>().is_ok() => negative(number, &command),
                option if option.starts_with('-') => None,
                word => unexpected_word(word, &command),
            }
        }
        _ => None,
    }
}

/// A word that is no command.
fn unknown_command(word: &str) -> Error {
    let refused = Error::usage(format!("no command is named `{word}`"));
    let is_model = zoo::variant(word).is_ok() || Path::new(word).exists();
    match is_model {
        true => refused.hint(format!("a command comes first, such as `dsconv inspect {}`", names::typed(word))),
        false => refused.hint("`dsconv --help` lists the commands"),
    }
}

/// A word after the model of a command that takes no more.
fn unexpected_word(word: &str, command: &str) -> Option<Error> {
    let refused = Error::usage(format!("`{word}`: `dsconv {command}` takes one model and nothing after it"));
    let word = names::typed(word);
    match command {
        "eval" => Some(refused.hint(format!("images: `--data {word}`; a model to compare with: `--against {word}`"))),
        "quantize" | "export" => Some(refused.hint(format!("a file to write: `-o {word}`"))),
        _ => None,
    }
}

/// A number below 0 after an option that takes none.
fn negative(number: &str, command: &str) -> Option<Error> {
    let words: Vec<String> = words().collect();
    let is_number = |word: &String| word.starts_with(number) && word.parse::<f64>().is_ok();
    let at = words.iter().position(is_number)?;
    let option = words[..at].last().filter(|word| word.starts_with("--"))?;
    Some(
        Error::usage(format!("invalid value '{}' for '{option}': it is below 0", words[at]))
            .hint(format!("`dsconv {command} --help` says what it takes")),
    )
}

/// An option that a command does not have. The commands that have it are named.
fn unknown_option(option: &str, command: &str, root: &clap::Command) -> Error {
    let long = option.trim_start_matches("--");
    let has = |other: &&clap::Command| other.get_arguments().any(|arg| arg.get_long() == Some(long));
    let others: Vec<String> =
        root.get_subcommands().filter(has).map(|other| format!("dsconv {}", other.get_name())).collect();
    let refused = Error::usage(format!("`dsconv {command}` has no option `{option}`"));
    match others.is_empty() {
        true => refused.hint(format!("`dsconv {command} --help` lists its options")),
        false => {
            let verb = if others.len() == 1 { "has" } else { "have" };
            refused.hint(format!("{} {verb} it", names::quoted(others.iter().map(String::as_str))))
        }
    }
}

/// Returns the words that were typed after the program's name.
fn words() -> impl Iterator<Item = String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn usage_is_explained_where_clap_has_nothing_near() {
        let of =
            |args: &[&str]| explain(&Cli::try_parse_from(args).unwrap_err()).map(|error| error.message().to_owned());
        assert_eq!(of(&["dsconv", "resnet50"]).unwrap(), "no command is named `resnet50`");
        assert_eq!(of(&["dsconv", "distil"]), None, "clap knows better");
        assert_eq!(of(&["dsconv", "eval"]), None);
    }
}
