//! Makes the guide's pages for rustdoc. In the repository a page links others as files. In the documentation these are modules,
//! and other files of the repository are at its address.
use std::path::Path;
use std::{env, fs};

const REPOSITORY: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/tree/HEAD/");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let to = env::var("OUT_DIR")?;
    for page in fs::read_dir("src/guide")? {
        let page = page?.path();
        println!("cargo:rerun-if-changed={}", page.display());
        let name = page.file_name().ok_or("a page is a file")?;
        fs::write(Path::new(&to).join(name), for_rustdoc(&fs::read_to_string(&page)?))?;
    }
    Ok(())
}

/// Changes the targets of links, `](target)` and `]: target`.
fn for_rustdoc(page: &str) -> String {
    let mut parts = page.split_inclusive("](").flat_map(|part| part.split_inclusive("]: "));
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find([')', '\n']).unwrap_or(part.len());
        let (target, rest) = part.split_at(end);
        let module = target.strip_suffix(".md").filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase()));
        text += &match (target.strip_prefix("../../../../"), module) {
            (Some(path), _) => format!("{REPOSITORY}{path}"),
            (_, Some(name)) => format!("crate::guide::{name}"),
            _ => target.to_owned(),
        };
        text += rest;
    }
    text
}
