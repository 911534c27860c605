//! Makes the table of the recipes that travel in the binary: the files of `configs/`.
//!
//! `configs` in this crate is a link to the folder at the top of the repository, and a folder of its own in the published
//! package. Where git makes no links (Windows, unless it is told to), the folder at the top is read itself.
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let folder = ["configs", "../../configs"].map(|configs| here.join(configs)).into_iter().find(|path| path.is_dir());
    let folder = fs::canonicalize(folder.expect("the recipes")).expect("a folder that is there");
    let mut table = String::from("const RECIPES: &[(&str, &str)] = &[\n");
    for (name, path) in recipes(&folder) {
        let _ = writeln!(table, "    ({name:?}, include_str!({path:?})),");
    }
    table.push_str("];\n");
    let out = Path::new(&env::var_os("OUT_DIR").expect("set by cargo")).join("built_in.rs");
    fs::write(out, table).expect("OUT_DIR can be written");
}

/// The `.toml` files of a folder and of the folders in it, sorted, each with its path in the folder without the ending.
fn recipes(folder: &Path) -> Vec<(String, PathBuf)> {
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of this repository") {
        let path = entry.expect("a folder of this repository").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(recipes(&path).into_iter().map(|(below, path)| (format!("{name}/{below}"), path)));
        } else if let Some(stem) = name.strip_suffix(".toml") {
            found.push((stem.to_owned(), path));
        }
    }
    found.sort();
    found
}
