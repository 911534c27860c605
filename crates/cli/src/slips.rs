//! What was probably meant where something else was typed.
use std::path::Path;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::Cli;
use crate::error::Error;
use crate::names;

/// A better answer than clap's, where there is one: a model in a command's place, another command's option.
pub fn of_usage(error: &clap::Error) -> Option<Error> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand if error.get(ContextKind::SuggestedSubcommand).is_none() => {
            let word = text(ContextKind::InvalidSubcommand)?;
            let refused = Error::usage(format!("no command is named `{word}`"));
            let is_model = zoo::variant(word).is_ok() || Path::new(word).exists();
            Some(match is_model {
                true => refused.hint(format!("a command comes first, such as `dsconv inspect {word}`")),
                false => refused.hint("`dsconv --help` lists the commands"),
            })
        }
        ErrorKind::UnknownArgument if error.get(ContextKind::SuggestedArg).is_none() => {
            let option = text(ContextKind::InvalidArg)?;
            let root = Cli::command();
            let command = words().find(|word| root.find_subcommand(word).is_some())?;
            if !option.starts_with('-') {
                let refused =
                    Error::usage(format!("`{option}`: `dsconv {command}` takes one model and nothing after it"));
                return match command.as_str() {
                    "eval" => Some(
                        refused
                            .hint(format!("images: `--data {option}`; a model to compare with: `--against {option}`")),
                    ),
                    "quantize" | "export" => Some(refused.hint(format!("a file to write: `-o {option}`"))),
                    _ => None,
                };
            }
            let long = option.strip_prefix("--")?;
            let has = |other: &&clap::Command| other.get_arguments().any(|arg| arg.get_long() == Some(long));
            let others: Vec<String> =
                root.get_subcommands().filter(has).map(|other| format!("dsconv {}", other.get_name())).collect();
            let refused = Error::usage(format!("`dsconv {command}` has no option `{option}`"));
            Some(match others.is_empty() {
                true => refused.hint(format!("`dsconv {command} --help` lists its options")),
                false => {
                    let verb = if others.len() == 1 { "has" } else { "have" };
                    refused.hint(format!("{} {verb} it", names::quoted(others.iter().map(String::as_str))))
                }
            })
        }
        _ => None,
    }
}

/// What was typed after the program's name.
fn words() -> impl Iterator<Item = String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())
}

/// Why a file is no model, where its name or its size tells.
pub fn of_model(path: &Path) -> Option<Error> {
    let shown = path.display();
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    // Names of checkpoints all the same: of PyTorch's examples, and of one in several files.
    if [".pth.tar", ".pt.tar", ".ckpt.tar", ".index.json"].iter().any(|ending| name.ends_with(ending)) {
        return None;
    }
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let refused = |what: &str| Error::usage(format!("`{shown}` is {what}, not a model"));
    Some(match ending.as_str() {
        "jpg" | "jpeg" | "png" | "bmp" | "webp" | "gif" | "tif" | "tiff" => {
            refused("a picture").hint(format!("the model comes first: `dsconv predict MODEL {shown}`"))
        }
        "toml" => refused("a config").hint(format!("`dsconv distill {shown}` runs it")),
        "zip" | "tar" | "gz" | "tgz" | "xz" | "7z" => refused("an archive").hint("unpack it first"),
        "tflite" | "pb" | "h5" | "keras" | "mlmodel" | "engine" | "plan" | "caffemodel" | "pdmodel" | "pdiparams" => {
            refused("a file of another framework").hint("ONNX files are read: that framework may write one")
        }
        "txt" | "csv" | "json" | "yaml" | "yml" | "py" | "md" => {
            refused("a text").hint("models are .safetensors, .dsc, .onnx and PyTorch files")
        }
        _ if path.metadata().is_ok_and(|file| file.len() == 0) => Error::failed(format!("`{shown}` is empty")),
        _ => return None,
    })
}

/// The file in its folder that was probably meant: a name nearly as it was typed, or without its ending.
pub fn of_file(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    let mut files: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    let typed = path.file_name()?.to_string_lossy();
    let is_model = |file: &&String| {
        let ending = Path::new(file.as_str()).extension().unwrap_or_default().to_string_lossy().to_lowercase();
        ["safetensors", "dsc", "onnx", "pth", "pt", "th", "bin"].contains(&ending.as_str())
    };
    let models: Vec<&str> = files.iter().filter(is_model).map(String::as_str).collect();
    let whole = models.iter().find(|file| Path::new(file).file_stem().is_some_and(|stem| *stem == *typed));
    let name = whole.copied().or_else(|| names::nearest(&typed, models))?;
    Some(folder.map_or(name.to_owned(), |folder| folder.join(name).display().to_string()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn usage_is_explained_where_clap_has_nothing_near() {
        let of =
            |args: &[&str]| of_usage(&Cli::try_parse_from(args).unwrap_err()).map(|error| error.message().to_owned());
        assert_eq!(of(&["dsconv", "resnet50"]).unwrap(), "no command is named `resnet50`");
        assert_eq!(of(&["dsconv", "distil"]), None, "clap knows better");
        assert_eq!(of(&["dsconv", "eval"]), None);
    }

    #[test]
    fn files_that_were_meant_are_found() {
        let place = tempfile::tempdir().unwrap();
        for file in ["tiny.safetensors", "other.onnx", "tiny.png"] {
            std::fs::write(place.path().join(file), "x").unwrap();
        }
        let near = |name: &str| of_file(&place.path().join(name));
        let path = |name: &str| Some(place.path().join(name).display().to_string());
        assert_eq!(near("tiny"), path("tiny.safetensors"));
        assert_eq!(near("tiny.safetensor"), path("tiny.safetensors"));
        assert_eq!(near("nothing.dsc"), None);
        assert!(of_model(&place.path().join("tiny.png")).unwrap().message().contains("is a picture"));
        for name in ["tiny.safetensors", "model_best.pth.tar", "model.safetensors.index.json"] {
            assert!(of_model(&place.path().join(name)).is_none(), "{name}");
        }
    }
}
