//! The places of files. In a checkout they are its folders; elsewhere runs go to the current folder and downloads to the
//! user's cache.
use std::path::{Path, PathBuf};

/// Returns the folder `name` in the folder `here`, or in the nearest one above that has it.
pub fn folder_above(here: &Path, name: &str) -> Option<PathBuf> {
    let local = here.join(name);
    if local.is_dir() {
        return Some(local);
    }
    let absolute = here.canonicalize().ok()?;
    absolute.ancestors().skip(1).map(|above| above.join(name)).find(|folder| folder.is_dir())
}

/// Returns a path as one types it: `datasets/x`, not `./datasets/x`.
pub fn plain(path: &Path) -> PathBuf {
    path.strip_prefix(".").map(Path::to_owned).unwrap_or_else(|_| path.to_owned())
}

/// Returns the checkout, or a folder laid out like one: the nearest, here or above, that has `configs` and `datasets`.
fn checkout() -> Option<PathBuf> {
    let here = Path::new(".");
    let is = |folder: &Path| folder.join("configs").is_dir() && folder.join("datasets").is_dir();
    if is(here) {
        return Some(here.to_owned());
    }
    let absolute = here.canonicalize().ok()?;
    absolute.ancestors().skip(1).find(|folder| is(folder)).map(Path::to_owned)
}

/// Returns the folder of data sets and downloaded weights: `datasets` of a checkout, else one in the user's cache.
pub fn datasets() -> PathBuf {
    match checkout() {
        Some(home) => plain(&home.join("datasets")),
        None => cache().unwrap_or_default().join("datasets"),
    }
}

/// Returns the folder of runs: `experiments/runs` of a checkout, else `runs` in the current folder.
pub fn runs() -> PathBuf {
    match checkout() {
        Some(home) => plain(&home.join("experiments/runs")),
        None => PathBuf::from("runs"),
    }
}

/// Returns the path where `dsconv data get` puts a network's published weights; `None` where nobody published any.
pub fn fetched(variant: &zoo::Variant) -> Option<PathBuf> {
    let url = &variant.source.as_ref()?.url;
    Some(datasets().join("weights").join(url.rsplit('/').next()?))
}

/// Returns where downloads may come from: `DSCONV_MIRROR` names an address that has all files, and `DSCONV_OFFLINE=1` forbids
/// downloads.
pub fn access() -> images::Access {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty() && value != "0");
    images::Access { offline: set("DSCONV_OFFLINE").is_some(), mirror: set("DSCONV_MIRROR") }
}

/// Returns the folder for what can be downloaded again; `None` where the system names none.
fn cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
    };
    Some(base?.join("dsconv"))
}
