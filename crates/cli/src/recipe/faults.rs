//! Errors of the libraries in the words of a config, pointed at where the file has the value at fault.
use images::ImageError;

use crate::config::ConfigFile;
use crate::error::Error;

/// Points at the setting that the library refuses; `table` is where the library's settings lie in the config.
pub fn setting_error(file: &ConfigFile, error: distill::Error, table: &str) -> Error {
    match error {
        distill::Error::Config { setting, why } => {
            let key = setting.rsplit('.').next().unwrap_or(&setting);
            file.error_at(&format!("{table}{setting}"), format!("`{key}` {why}"), None)
        }
        error => Error::from(error),
    }
}

/// Tells an error of a run in the words of the command line; `table` is where the library's settings lie in the config.
pub fn run_error(error: distill::Error, file: &ConfigFile, table: &str) -> Error {
    match error {
        distill::Error::Config { .. } => setting_error(file, error, table),
        distill::Error::RunExists { .. } => {
            Error::failed(error).hint("`--resume` goes on with it, `--force` replaces it, `--out` names another folder")
        }
        distill::Error::NoRun { .. } => Error::failed(error).hint("`--out` names another folder"),
        distill::Error::OtherRun { .. } => Error::usage(error).hint(
            "resume with what it was begun with (config, device, weights and images), or choose another folder with `--out`",
        ),
        error => Error::from(error),
    }
}

/// Points at a name or a path of images that leads nowhere; other errors are about the files themselves.
pub fn images_error(file: &ConfigFile, key: &str, error: ImageError) -> Error {
    use ImageError::{Empty, NoLabels, NotFetched, NotFound};
    let named = matches!(error, NotFound { .. } | Empty { .. } | NoLabels { .. } | NotFetched { .. });
    let error = Error::from(error);
    if named { point_at_path(file, key, error) } else { error }
}

/// Points at a path that leads nowhere. A shell knows what `~` is, a config does not.
pub fn point_at_path(file: &ConfigFile, key: &str, error: Error) -> Error {
    let error =
        if error.message().contains("`~/") { error.hint("`~` is the shell's: write the whole path") } else { error };
    file.point(key, &error)
}
