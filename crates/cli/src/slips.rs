//! Files that are typed in a model's place.
use std::path::Path;

use crate::error::Error;
use crate::names;

/// Says why a file is no model, where its name or its size tells.
pub fn of_model(path: &Path) -> Option<Error> {
    let shown = path.display();
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    // These are checkpoints all the same: those of PyTorch's examples, and those in several files.
    if [".pth.tar", ".pt.tar", ".ckpt.tar", ".index.json"].iter().any(|ending| name.ends_with(ending)) {
        return None;
    }
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let refused = |what: &str| Error::usage(format!("`{shown}` is {what}, not a model"));
    Some(match ending.as_str() {
        "jpg" | "jpeg" | "png" | "bmp" | "webp" | "gif" | "tif" | "tiff" => {
            refused("a picture").hint(format!("the model comes first: `dsconv predict MODEL {}`", names::typed(shown)))
        }
        "toml" => refused("a config").hint(format!("`dsconv distill {}` runs it", names::typed(shown))),
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

/// Returns the file that was probably meant: one in the same folder whose name is nearly the one that was typed, or is it but
/// for its ending.
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
    use super::*;

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
