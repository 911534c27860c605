//! Finds the image files under a folder.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{ImageError, Skipped};

/// The extensions of image files. The content of a file decides its format.
const EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "jpe", "jfif", "jif", "jpg_large", "png", "bmp", "dib", "webp"];
/// The extensions of image files that are reported as skipped.
const UNSUPPORTED: [&str; 10] = ["gif", "tif", "tiff", "ppm", "pgm", "heic", "heif", "avif", "jp2", "jxl"];
/// Folders that programs leave beside images. They are passed over, and so are those whose name begins with a dot, such as
/// `.ipynb_checkpoints`, which torchvision would count as classes.
const LEFT_BEHIND: [&str; 3] = ["__MACOSX", "@eaDir", "__pycache__"];

/// The content of a folder.
pub(crate) struct Tree {
    /// The subfolders, sorted by name, with or without images.
    pub(crate) folders: Vec<String>,
    /// All images, sorted by their paths.
    pub(crate) images: Vec<PathBuf>,
    /// The image files that are not read.
    pub(crate) skipped: Vec<Skipped>,
    /// Remarks about links that are not followed.
    pub(crate) notes: Vec<String>,
}

/// Finds every image under `root`. A folder is read once, however many links lead to it, so that no image counts twice and
/// no circle of links is endless. The path of the folder itself is preferred to links.
pub(crate) fn walk(root: &Path) -> Result<Tree, ImageError> {
    let top = canonical(root)?;
    let mut tree = Tree { folders: Vec::new(), images: Vec::new(), skipped: Vec::new(), notes: Vec::new() };
    let mut seen = HashSet::from([top.clone()]);
    let (mut folders, mut links) = (vec![root.to_owned()], BTreeSet::new());
    loop {
        while let Some(folder) = folders.pop() {
            let fail = |error| ImageError::Io { path: folder.clone(), error };
            for entry in std::fs::read_dir(&folder).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(fail)?);
                if is_passed_over(&entry.file_name()) {
                    continue;
                }
                let is_folder = kind.is_dir() || kind.is_symlink() && path.is_dir();
                if !is_folder {
                    tree.file(path);
                } else if kind.is_symlink() {
                    links.insert(path);
                } else if seen.insert(canonical(&path)?) {
                    tree.folder(root, &path);
                    folders.push(path);
                }
            }
        }
        let Some(link) = links.pop_first() else { break };
        let target = canonical(&link)?;
        if top.starts_with(&target) {
            tree.notes.push(format!("{}: a link to a folder above: not followed", link.display()));
        } else if seen.insert(target.clone()) {
            tree.folder(root, &link);
            folders.push(link);
        } else {
            let (link, target) = (link.display(), target.display());
            tree.notes.push(format!("{link}: a link to {target}, which is read already: not followed"));
        }
    }
    tree.folders.sort_unstable();
    tree.images.sort_unstable();
    tree.skipped.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(tree)
}

impl Tree {
    fn folder(&mut self, root: &Path, path: &Path) {
        if path.parent() == Some(root) {
            self.folders.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }

    fn file(&mut self, path: PathBuf) {
        if has_extension(&path, &EXTENSIONS) {
            return self.images.push(path);
        }
        let reason = match (has_extension(&path, &UNSUPPORTED), detect(&path)) {
            (true, _) | (_, Some(Detected::Other)) => "format not supported: JPEG, PNG, BMP and WebP are",
            (false, Some(Detected::Supported)) => {
                "an image by its content, but its name does not end like one, as in .jpg"
            }
            (false, None) => return,
        };
        self.skipped.push(Skipped { path, reason: reason.to_owned() });
    }
}

/// The image format that was detected in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detected {
    Supported,
    Other,
}

/// Detects an image by the first bytes of a regular file.
pub(crate) fn detect(path: &Path) -> Option<Detected> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut start = Vec::new();
    File::open(path).ok()?.take(18).read_to_end(&mut start).ok()?;
    match start.as_slice() {
        [0xFF, 0xD8, 0xFF, ..] | [0x89, b'P', b'N', b'G', b'\r', b'\n', ..] => Some(Detected::Supported),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Detected::Supported),
        // Many texts begin with BM; a bitmap also has one of these header sizes.
        [b'B', b'M', .., 12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0] => Some(Detected::Supported),
        [b'G', b'I', b'F', b'8', ..] | [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some(Detected::Other),
        _ => None,
    }
}

fn is_passed_over(name: &OsStr) -> bool {
    // macOS leaves files such as `._name.jpg`, which are no images.
    name.as_encoded_bytes().starts_with(b".") || LEFT_BEHIND.iter().any(|left| name == *left)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|extension| found.eq_ignore_ascii_case(extension)))
}

fn canonical(path: &Path) -> Result<PathBuf, ImageError> {
    path.canonicalize().map_err(|error| ImageError::Io { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        folder
    }

    /// Paths below the root, with `/`.
    fn images(folder: &Path) -> Vec<String> {
        let shown = |path: &PathBuf| path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
        walk(folder).unwrap().images.iter().map(shown).collect()
    }

    #[test]
    fn each_folders_entries_are_in_the_order_of_their_names() {
        let folder = tree(&["b/2.JPG", "a.png", "b/c/1.webp", "b/10.jfif", "c.jpe", "b.png"]);
        assert_eq!(images(folder.path()), ["a.png", "b/10.jfif", "b/2.JPG", "b/c/1.webp", "b.png", "c.jpe"]);
    }

    #[test]
    fn what_programs_leave_behind_is_passed_over() {
        let folder = tree(&["a/1.png", "a/._1.png", "__MACOSX/a/1.png", ".ipynb_checkpoints/1.png", "a/.git/1.png"]);
        assert_eq!(images(folder.path()), ["a/1.png"]);
        assert_eq!(walk(folder.path()).unwrap().folders, ["a"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_is_read_once_however_many_links_lead_to_it() {
        use std::os::unix::fs::symlink;
        let outside = tree(&["x.png", "deep/y.png"]);
        let folder = tree(&["set/b/1.png", "set/b/sub/2.png", "other/3.png"]);
        let root = folder.path().join("set");
        symlink(&root, root.join("b/up")).unwrap();
        symlink(folder.path(), root.join("above")).unwrap();
        symlink(root.join("b"), root.join("a")).unwrap();
        symlink(root.join("b/sub"), root.join("c")).unwrap();
        symlink(outside.path(), root.join("d")).unwrap();
        symlink(outside.path().join("deep"), root.join("e")).unwrap();
        symlink(root.join("nowhere"), root.join("f")).unwrap();
        assert_eq!(images(&root), ["b/1.png", "b/sub/2.png", "d/deep/y.png", "d/x.png"]);
        let tree = walk(&root).unwrap();
        assert_eq!(tree.folders, ["b", "d"]);
        assert_eq!(tree.notes.len(), 5, "{:?}", tree.notes);
        assert!(
            tree.notes[0].contains("set/a: a link to") && tree.notes[1].contains("above: a link to a folder above")
        );
    }

    #[test]
    fn images_without_an_images_name_are_named() {
        let folder = tree(&["a.png"]);
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        write("upload", b"\xFF\xD8\xFF\xE0 and so on");
        write("photo.dat", b"\x89PNG\r\n\x1a\n");
        write("anim", b"GIF89a");
        write("x.heic", b"");
        write("words.txt", b"BM is how this text begins, which is none");
        write("readme", b"");
        let skipped = walk(folder.path()).unwrap().skipped;
        let names: Vec<_> = skipped.iter().map(|s| s.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["anim", "photo.dat", "upload", "x.heic"]);
        assert!(skipped[0].reason.starts_with("format not supported"));
        assert!(skipped[1].reason.starts_with("an image by its content"));
    }
}
