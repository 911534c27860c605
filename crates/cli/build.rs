//! Makes the tables of what travels in the binary: the recipes of `configs/` and the weights of the embedded networks.
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("../..");
    let mut tables = String::new();
    let recipes = files(&root.join("configs"), "toml");
    table(&mut tables, "RECIPES: &[(&str, &str)]", "include_str", &recipes);
    let teachers = files(&root.join("crates/zoo/teachers"), "safetensors");
    table(&mut tables, "TEACHERS: &[(&str, &[u8])]", "include_bytes", &teachers);
    let out = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("built_in.rs");
    fs::write(out, tables).expect("OUT_DIR can be written");
}

/// The files of this ending in a folder and the folders in it, sorted, by their path in it without the ending.
fn files(folder: &Path, ending: &str) -> Vec<(String, PathBuf)> {
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of this repository") {
        let path = entry.expect("a folder of this repository").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path, ending).into_iter().map(|(below, path)| (format!("{name}/{below}"), path)));
        } else if let Some(stem) = name.strip_suffix(&format!(".{ending}")) {
            found.push((stem.to_owned(), path.clone()));
        }
    }
    found.sort();
    found
}

fn table(out: &mut String, declaration: &str, include: &str, files: &[(String, PathBuf)]) {
    let _ = writeln!(out, "const {declaration} = &[");
    for (name, path) in files {
        let path = fs::canonicalize(path).expect("a file that is there");
        let _ = writeln!(out, "    ({name:?}, {include}!({path:?})),");
    }
    out.push_str("];\n");
}
