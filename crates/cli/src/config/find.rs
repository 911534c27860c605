//! Configs by the names that users type.
use std::path::{Path, PathBuf};

use distill::RunFolder;

use crate::error::{Error, Result};
use crate::{built_in, names, places, runs};

use super::kind::ConfigKind;

/// The folder of recipes.
pub const FOLDER: &str = "configs";

/// A config that was found.
#[derive(Debug)]
pub enum Found {
    /// A file.
    File(PathBuf),
    /// A recipe in the binary, by name and text.
    BuiltIn(String, &'static str),
}

/// Returns the config that `typed` means, seen from the folder `here`.
///
/// # Errors
/// There is none of that name; the file is no TOML file.
pub fn find(typed: &str, kind: ConfigKind, here: &Path) -> Result<Found> {
    let given = here.join(typed);
    if given.is_file() {
        return is_toml(&given, typed).map(|()| Found::File(places::plain(&given)));
    }
    // `config/x.toml`, `configs/x.toml`, `./configs/x` and `x` are all `x` in the folder.
    let name = typed.trim_start_matches("./");
    let name = ["configs/", "config/"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let name = name.strip_suffix(".toml").unwrap_or(name);
    let folder = places::folder_above(here, FOLDER);
    if let Some(file) = folder.as_ref().map(|folder| folder.join(format!("{name}.toml"))).filter(|file| file.is_file())
    {
        return Ok(Found::File(places::plain(&file)));
    }
    if let Some(text) = built_in::recipe(name) {
        return Ok(Found::BuiltIn(name.to_owned(), text));
    }
    if !typed.is_empty() && given.is_dir() {
        let error = Error::usage(format!("`{typed}` is a folder, not a TOML file"));
        return Err(match given.join("config.toml").is_file() {
            true if RunFolder::is_run(&given) => {
                error.hint(format!("`{}` goes on with the run in it", runs::resuming(Path::new(typed))))
            }
            true => error.hint(format!("`{typed}/config.toml` is the config in it")),
            false => error.hint(LIST),
        });
    }
    let mut all: Vec<String> = folder.map(|folder| configs(&folder, "")).unwrap_or_default();
    all.extend(built_in::recipes().map(str::to_owned));
    all.sort();
    all.dedup();
    all.retain(|name| ConfigKind::of_name(name) == kind);
    Err(Error::usage(format!("no config is named `{typed}`")).hint(nearest(name, &all)))
}

/// A config that has a name.
#[derive(Debug)]
pub struct Listed {
    /// The path of the config in `configs/`, without `.toml`.
    pub name: String,
    /// The file; `None` for one in the binary.
    pub path: Option<PathBuf>,
    /// The text of the config; empty where the file cannot be read.
    pub text: String,
}

/// Returns all configs that have names, sorted. One in the folder hides one of the same name in the binary.
pub fn all() -> Vec<Listed> {
    let mut all = Vec::new();
    if let Some(folder) = places::folder_above(Path::new("."), FOLDER) {
        for name in configs(&folder, "") {
            let path = places::plain(&folder.join(format!("{name}.toml")));
            all.push(Listed { name, text: read(&path).unwrap_or_default(), path: Some(path) });
        }
    }
    for name in built_in::recipes() {
        if all.iter().all(|listed| listed.name != name) {
            let text = built_in::recipe(name).unwrap_or_default().to_owned();
            all.push(Listed { name: name.to_owned(), path: None, text });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Returns the text of the config that `typed` means, of either command.
///
/// # Errors
/// There is no such config, or it cannot be read.
pub fn text(typed: &str) -> Result<(ConfigKind, String)> {
    let text = match find(typed, ConfigKind::Distill, Path::new("."))? {
        Found::File(path) => read(&path)?,
        Found::BuiltIn(_, text) => text.to_owned(),
    };
    Ok((ConfigKind::of_text(&text).unwrap_or(ConfigKind::Distill), text))
}

/// The hint that says where the names of configs stand.
const LIST: &str = "`dsconv config list` lists the recipes, `dsconv config new FILE.toml` writes one";

/// Returns the hint for a wrong name: the configs that were probably meant.
fn nearest(name: &str, all: &[String]) -> String {
    // The bare name of a config in a subfolder is a likely slip, and so is a network's name.
    let stem = |known: &str| known.rsplit('/').next().unwrap_or_default().to_owned();
    let of_network = |known: &&String| stem(known).strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
    let mut likely: Vec<&str> = all.iter().filter(|known| stem(known) == name).map(String::as_str).collect();
    if likely.is_empty() && !name.is_empty() {
        likely = all.iter().filter(of_network).map(String::as_str).collect();
    }
    if likely.is_empty() {
        likely.extend(names::nearest(name, all.iter().map(String::as_str)));
    }
    match likely.is_empty() {
        true => LIST.to_owned(),
        false => {
            format!("did you mean {}?", likely.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or "))
        }
    }
}

/// Checks that a file's ending is not that of a model or of another kind of file.
fn is_toml(path: &Path, typed: &str) -> Result<()> {
    match path.extension() {
        Some(ending) if !ending.eq_ignore_ascii_case("toml") => {
            Err(Error::usage(format!("`{typed}` is no config: that is a TOML file, which names the model"))
                .hint(format!("`dsconv config new mine.toml --model {}` writes one", names::typed(typed))))
        }
        _ => Ok(()),
    }
}

/// Reads the text of a config file.
///
/// # Errors
/// The file cannot be read, or is no text.
pub fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| Error::usage(format!("`{shown}`: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Error::usage(format!("`{shown}` is no TOML file: it is not UTF-8 text")))
}

/// Returns the names of all configs below `folder`, sorted, each with `prefix` before it.
fn configs(folder: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(configs(&entry.path(), &format!("{prefix}{name}/")));
        } else if let Some(stem) = name.strip_suffix(".toml") {
            found.push(format!("{prefix}{stem}"));
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_reach_the_file() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("configs/imagenet")).unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        for name in ["resnet50_4bit", "vgg_4bit", "imagenet/resnet18_4bit"] {
            std::fs::write(root.path().join(format!("configs/{name}.toml")), "").unwrap();
        }
        let wanted = root.path().join("configs/resnet50_4bit.toml").canonicalize().unwrap();
        let typed = [
            "config/resnet50_4bit.toml",
            "configs/resnet50_4bit.toml",
            "./configs/resnet50_4bit.toml",
            "configs/resnet50_4bit",
            "resnet50_4bit.toml",
            "resnet50_4bit",
        ];
        for typed in typed {
            for here in ["", "a/b"] {
                let Found::File(found) = find(typed, ConfigKind::Distill, &root.path().join(here)).unwrap() else {
                    panic!("{typed}")
                };
                assert_eq!(found.canonicalize().unwrap(), wanted, "{typed} from `{here}`");
            }
        }
        let hint = |typed| find(typed, ConfigKind::Distill, root.path()).unwrap_err().advice().unwrap().to_owned();
        assert_eq!(hint("config/resnet5_4bit.toml"), "did you mean `resnet50_4bit`?");
        assert_eq!(hint("resnet34_4bit"), "did you mean `imagenet/resnet34_4bit`?");
        assert_eq!(hint("resnet50"), "did you mean `imagenet/resnet50_4bit` or `resnet50_4bit`?");
        assert_eq!(hint("nothing"), LIST);
        // A folder of one's own does not hide what comes along.
        let Found::BuiltIn(name, _) = find("configs/alexnet_4bit.toml", ConfigKind::Distill, root.path()).unwrap()
        else {
            panic!()
        };
        assert_eq!(name, "alexnet_4bit");
        std::fs::write(root.path().join("net.onnx"), "").unwrap();
        assert!(find("net.onnx", ConfigKind::Distill, root.path()).unwrap_err().message().contains("is no config"));
        assert_eq!(
            find("configs", ConfigKind::Distill, root.path()).unwrap_err().message(),
            "`configs` is a folder, not a TOML file"
        );
    }
}
