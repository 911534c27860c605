//! Folders of image files: one subfolder a class, a labels file, or no labels.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use graph::Preprocess;
use rayon::prelude::*;

use crate::decode::{Fit, decode};
use crate::set::{Files, Labelled, Memory, Unlabelled, spread};
use crate::{ImageError, OpenOptions, Skipped};

/// What is decoded; the content decides, but only files named so are looked at.
const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "webp"];
/// Image files that are reported as skipped instead of passed over.
const UNSUPPORTED: [&str; 8] = ["gif", "tif", "tiff", "ppm", "pgm", "heic", "avif", "jp2"];
/// Folders in folders, so that a link to a parent ends.
const DEPTH: usize = 12;
const LABEL_HINT: &str = "give each class a subfolder, or put lines `name.jpg index` into labels.txt inside the folder \
                          or into <folder>_labels.txt beside it";

/// A file of a folder, before it is decoded.
struct Entry {
    path: PathBuf,
    label: usize,
}

/// Opens a folder with labels: from subfolders or from a labels file.
pub(crate) fn labelled(root: &Path, preprocess: &Preprocess, options: &OpenOptions) -> Result<Labelled, ImageError> {
    let mut skipped = Vec::new();
    let (entries, classes) = match labels_file(root) {
        Some(labels) => (listed(root, &labels, &mut skipped)?, Vec::new()),
        None => by_subfolder(root, &mut skipped)?,
    };
    let (paths, labels): (Vec<_>, Vec<_>) = entries.into_iter().map(|entry| (entry.path, entry.label)).unzip();
    let picked = pick(paths.len(), options);
    let opened = open(root, select(&paths, &picked), skipped, preprocess, options)?;
    let labels = opened.kept.iter().map(|&i| labels[picked[i]]).collect();
    Ok(Labelled::new(opened.images, labels, classes.into()))
}

/// Opens every image under a folder. Labels files are not read, and what a subfolder is called goes nowhere.
pub(crate) fn unlabelled(
    root: &Path,
    preprocess: &Preprocess,
    options: &OpenOptions,
) -> Result<Unlabelled, ImageError> {
    let mut skipped = Vec::new();
    let mut paths = Vec::new();
    walk(root, DEPTH, &mut paths, &mut skipped)?;
    let picked = pick(paths.len(), options);
    Ok(open(root, select(&paths, &picked), skipped, preprocess, options)?.images)
}

fn pick(len: usize, options: &OpenOptions) -> Vec<usize> {
    spread(len, options.limit.unwrap_or(len))
}

fn select(paths: &[PathBuf], picked: &[usize]) -> Vec<PathBuf> {
    picked.iter().map(|&i| paths[i].clone()).collect()
}

struct Opened {
    images: Unlabelled,
    /// Which of the paths the set's images are.
    kept: Vec<usize>,
}

/// Decodes everything if that fits into memory, else only the first image.
fn open(
    root: &Path,
    paths: Vec<PathBuf>,
    mut skipped: Vec<Skipped>,
    preprocess: &Preprocess,
    options: &OpenOptions,
) -> Result<Opened, ImageError> {
    let name = root.file_name().unwrap_or(root.as_os_str()).to_string_lossy().into_owned();
    let total = paths.len() + skipped.len();
    let allowed = options.allowed_bad(total);
    let too_many = |bad| ImageError::TooManyBad { set: name.clone(), bad, total, allowed };
    if total == 0 {
        return Err(ImageError::Empty { path: root.to_owned(), hint: "JPEG, PNG, BMP and WebP files are read" });
    }
    if skipped.len() > allowed || paths.is_empty() {
        return Err(too_many(skipped));
    }

    let fit = Fit::new(preprocess);
    // The size of every image is the first good one's.
    let mut first = None;
    for (i, path) in paths.iter().enumerate() {
        match decode(path).and_then(|image| fit.apply(image)) {
            Ok(image) => {
                first = Some((i, image.size));
                break;
            }
            Err(reason) => skipped.push(Skipped { path: path.clone(), reason }),
        }
        if skipped.len() > allowed {
            return Err(too_many(skipped));
        }
    }
    let Some((start, size)) = first else { return Err(too_many(skipped)) };

    let channels = preprocess.channels();
    let image = channels * size[0] * size[1];
    if image.saturating_mul(paths.len() - start) > options.memory {
        let kept = (start..paths.len()).collect();
        let named = |images: Unlabelled| images.with_names(root, paths[start..].iter());
        let files = Files {
            paths: paths[start..].to_vec(),
            allowed: allowed - skipped.len(),
            bad: Mutex::new(BTreeMap::new()),
        };
        return Ok(Opened { images: named(Unlabelled::from_files(name, files, size, preprocess, skipped)), kept });
    }

    let decoded: Vec<_> =
        paths[start..].par_iter().map(|path| decode(path).and_then(|image| fit.apply(image))).collect();
    let mut kept = Vec::with_capacity(decoded.len());
    let mut pixels = Vec::with_capacity(decoded.len() * image);
    for (i, (path, decoded)) in paths[start..].iter().zip(decoded).enumerate() {
        match decoded {
            Ok(image) if image.size == size => {
                kept.push(start + i);
                pixels.extend(image.pixels);
            }
            Ok(image) => {
                return Err(ImageError::SizesDiffer { path: path.clone(), got: image.size, expected: size });
            }
            Err(reason) => skipped.push(Skipped { path: path.clone(), reason }),
        }
    }
    if skipped.len() > allowed {
        return Err(too_many(skipped));
    }
    let memory = Arc::new(Memory::new(channels, size, pixels));
    let images = Unlabelled::from_fitted(name, memory, preprocess, skipped);
    Ok(Opened { images: images.with_names(root, kept.iter().map(|&i| &paths[i])), kept })
}

/// Every image under `folder`, each folder's entries sorted by name.
fn walk(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>, skipped: &mut Vec<Skipped>) -> Result<(), ImageError> {
    for path in sorted(folder)? {
        if path.is_dir() {
            if depth > 0 {
                walk(&path, depth - 1, paths, skipped)?;
            }
        } else if has_extension(&path, &EXTENSIONS) {
            paths.push(path);
        } else if has_extension(&path, &UNSUPPORTED) {
            let reason = "format not supported: JPEG, PNG, BMP and WebP are".to_owned();
            skipped.push(Skipped { path, reason });
        }
    }
    Ok(())
}

/// The entries of a folder by name, without hidden ones (`._name.jpg` of macOS is no image).
fn sorted(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let fail = |source| ImageError::Io { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    Ok(paths)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|extension| found.eq_ignore_ascii_case(extension)))
}

/// Class `i` is the `i`-th subfolder by name that holds an image, as in torchvision's `ImageFolder`.
fn by_subfolder(root: &Path, skipped: &mut Vec<Skipped>) -> Result<(Vec<Entry>, Vec<String>), ImageError> {
    let (mut entries, mut classes) = (Vec::new(), Vec::new());
    let mut loose = false;
    for path in sorted(root)? {
        if !path.is_dir() {
            loose |= has_extension(&path, &EXTENSIONS);
            continue;
        }
        let mut paths = Vec::new();
        walk(&path, DEPTH - 1, &mut paths, skipped)?;
        if !paths.is_empty() {
            let label = classes.len();
            classes.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            entries.extend(paths.into_iter().map(|path| Entry { path, label }));
        }
    }
    if loose {
        // Beside subfolders, images without a class would silently be left out.
        return Err(ImageError::NoLabels { name: root.display().to_string(), hint: LABEL_HINT.to_owned() });
    }
    Ok((entries, classes))
}

/// `labels.txt` inside the folder or `<folder>_labels.txt` beside it.
fn labels_file(root: &Path) -> Option<PathBuf> {
    let inside = root.join("labels.txt");
    if inside.is_file() {
        return Some(inside);
    }
    // `val/..` and `.` have no name of their own.
    let full = root.canonicalize().ok()?;
    let mut name = full.file_name()?.to_owned();
    name.push("_labels.txt");
    let beside = full.with_file_name(name);
    beside.is_file().then_some(beside)
}

/// The folder's images that a labels file of lines `name index` lists.
fn listed(root: &Path, file: &Path, skipped: &mut Vec<Skipped>) -> Result<Vec<Entry>, ImageError> {
    let text = std::fs::read_to_string(file).map_err(|source| ImageError::Io { path: file.to_owned(), source })?;
    let fail = |line: usize, reason: String| ImageError::LabelsFile { path: file.to_owned(), line, reason };
    let mut labels = HashMap::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, label) = line
            .rsplit_once(char::is_whitespace)
            .ok_or_else(|| fail(i + 1, format!("`{line}` is not `name index`")))?;
        let label: usize = label.parse().map_err(|_| fail(i + 1, format!("`{label}` is no class index")))?;
        if labels.insert(root.join(name.trim_end()), label).is_some_and(|before| before != label) {
            return Err(fail(i + 1, format!("`{}` is listed before with another index", name.trim_end())));
        }
    }
    let mut paths = Vec::new();
    walk(root, DEPTH, &mut paths, skipped)?;
    let mut entries = Vec::new();
    for path in paths {
        match labels.remove(&path) {
            Some(label) => entries.push(Entry { path, label }),
            None => skipped.push(Skipped { path, reason: format!("not listed in {}", file.display()) }),
        }
    }
    let mut missing: Vec<PathBuf> = labels.into_keys().collect();
    missing.sort();
    let reason = format!("listed in {}, but not there", file.display());
    skipped.extend(missing.into_iter().map(|path| Skipped { path, reason: reason.clone() }));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{open_labelled, open_unlabelled};
    use std::fs;

    /// A folder of one-pixel PNGs.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, u8)]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            fs::create_dir(tree.path("set")).unwrap();
            for &(name, grey) in files {
                tree.image(name, grey);
            }
            tree
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn image(&self, name: &str, grey: u8) {
            let path = self.path("set").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut bytes = std::io::Cursor::new(Vec::new());
            image::RgbImage::from_pixel(1, 1, image::Rgb([grey; 3]))
                .write_to(&mut bytes, image::ImageFormat::Png)
                .unwrap();
            fs::write(path, bytes.into_inner()).unwrap();
        }

        fn text(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn spec(&self) -> String {
            self.path("set").to_str().unwrap().to_owned()
        }

        fn labelled(&self) -> Result<Labelled, ImageError> {
            open_labelled(&self.spec(), &bytes_as_they_are(), &OpenOptions::default())
        }

        fn unlabelled(&self, options: &OpenOptions) -> Result<Unlabelled, ImageError> {
            open_unlabelled(&self.spec(), &bytes_as_they_are(), options)
        }
    }

    fn bytes_as_they_are() -> Preprocess {
        Preprocess::bytes(graph::ChannelOrder::Rgb)
    }

    /// The grey value of each image.
    fn greys(set: &Unlabelled) -> Vec<f32> {
        let all: Vec<usize> = (0..set.len()).collect();
        set.batch(&all).unwrap().pixels.iter().step_by(3).copied().collect()
    }

    /// Nothing fits into memory: decoded when used.
    fn lazily() -> OpenOptions {
        OpenOptions { memory: 0, ..OpenOptions::default() }
    }

    #[test]
    fn subfolders_are_classes_in_the_order_of_their_names() {
        let tree = Tree::new(&[("dog/2.PNG", 2), ("cat/b/1.jpg", 1), ("dog/1.png", 3), ("cat/._1.jpg", 9)]);
        fs::create_dir(tree.path("set/ant")).unwrap();
        tree.text("set/readme.md", "about");
        let set = tree.labelled().unwrap();
        assert_eq!(set.class_names(), ["cat", "dog"]);
        assert_eq!(set.labels(), [0, 1, 1]);
        assert_eq!(greys(&set.without_labels()), [1.0, 3.0, 2.0]);
        assert_eq!(greys(&tree.unlabelled(&lazily()).unwrap()), [1.0, 3.0, 2.0]);
    }

    #[test]
    fn labels_file_inside_or_beside() {
        let tree = Tree::new(&[("a.png", 1), ("b c.png", 2)]);
        tree.text("set_labels.txt", "b c.png 7\r\n\r\n# comment\r\na.png 999\r\n");
        assert_eq!(tree.labelled().unwrap().labels(), [999, 7]);
        tree.text("set/labels.txt", "a.png 1\nb c.png 2\n");
        assert_eq!(tree.labelled().unwrap().labels(), [1, 2]);
    }

    #[test]
    fn labels_file_errors_name_the_line() {
        let tree = Tree::new(&[("a.png", 1)]);
        for (text, reason) in [
            ("# x\na.png", "labels.txt:2: `a.png` is not `name index`"),
            ("a.png -1", "labels.txt:1: `-1` is no class index"),
            ("a.png 1\na.png 2", "labels.txt:2: `a.png` is listed before with another index"),
        ] {
            tree.text("set/labels.txt", text);
            let error = tree.labelled().unwrap_err().to_string();
            assert!(error.ends_with(reason), "{error}");
        }
    }

    #[test]
    fn what_labels_and_images_lack_is_reported() {
        let tree = Tree::new(&[("a.png", 1), ("b.png", 2)]);
        tree.text("set/labels.txt", "a.png 1\nc.png 2\n");
        let set = tree.labelled().unwrap();
        assert_eq!(set.labels(), [1]);
        let skipped = set.skipped();
        assert!(skipped[0].path.ends_with("b.png") && skipped[0].reason.starts_with("not listed"));
        assert!(skipped[1].path.ends_with("c.png") && skipped[1].reason.ends_with("not there"));
    }

    #[test]
    fn images_without_a_class_are_no_labelled_set() {
        let tree = Tree::new(&[("a.png", 1)]);
        assert!(matches!(tree.labelled(), Err(ImageError::NoLabels { .. })));
        tree.image("cat/b.png", 1);
        assert!(matches!(tree.labelled(), Err(ImageError::NoLabels { .. })));
        assert_eq!(tree.unlabelled(&OpenOptions::default()).unwrap().len(), 2);
    }

    #[test]
    fn empty_folder_is_an_error() {
        let error = Tree::new(&[]).unlabelled(&OpenOptions::default()).unwrap_err();
        assert!(matches!(error, ImageError::Empty { .. }));
    }

    #[test]
    fn bad_files_are_skipped_and_reported_when_decoded_at_opening() {
        let tree = Tree::new(&[("k/a.png", 1), ("k/c.png", 3), ("k/e.png", 5)]);
        tree.text("set/k/b.png", "no image");
        tree.text("set/k/d.jpg", "");
        tree.text("set/k/f.gif", "GIF89a");
        let set = tree.labelled().unwrap();
        assert_eq!(set.len(), 3);
        assert_eq!(greys(&set.without_labels()), [1.0, 3.0, 5.0]);
        let mut names: Vec<_> =
            set.skipped().iter().map(|s| s.path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["b.png", "d.jpg", "f.gif"]);
    }

    #[test]
    fn bad_files_leave_a_batch_when_decoded_late() {
        let tree = Tree::new(&[("j/a.png", 1), ("k/c.png", 3)]);
        tree.text("set/j/b.png", "no image");
        let set = open_labelled(&tree.spec(), &bytes_as_they_are(), &lazily()).unwrap();
        assert_eq!(set.len(), 3);
        assert!(set.skipped().is_empty());
        let batch = set.batch(&[0, 1, 2, 1]).unwrap();
        assert_eq!(batch.images.shape, [2, 3, 1, 1]);
        assert_eq!(batch.images.pixels, [1.0, 1.0, 1.0, 3.0, 3.0, 3.0]);
        assert_eq!(batch.labels, [0, 1]);
        assert_eq!(batch.images.indices, [0, 2]);
        assert_eq!(set.skipped().len(), 1);
    }

    #[test]
    fn too_many_bad_files_are_an_error_that_names_the_first() {
        let tree = Tree::new(&[("e.png", 1)]);
        for name in ["a", "b", "c", "d"] {
            tree.text(&format!("set/{name}.png"), "no image");
        }
        let error = tree.unlabelled(&OpenOptions::default()).unwrap_err().to_string();
        assert!(error.starts_with("set: 4 of 5 images cannot be used, 3 may\n"), "{error}");
        assert!(error.contains("a.png: not an image") && error.ends_with("and 1 more"), "{error}");

        tree.image("0.png", 1);
        let error = tree.unlabelled(&lazily()).unwrap().batch(&[0, 1, 2, 3, 4]).unwrap_err();
        assert!(matches!(error, ImageError::TooManyBad { .. }));

        let tolerant = OpenOptions { max_bad: 0.9, ..OpenOptions::default() };
        assert_eq!(tree.unlabelled(&tolerant).unwrap().len(), 2);
    }

    #[test]
    fn sizes_that_differ_need_a_crop() {
        let tree = Tree::new(&[("a.png", 1), ("b.png", 2)]);
        image::RgbImage::new(2, 1).save(tree.path("set/c.png")).unwrap();
        let error = tree.unlabelled(&OpenOptions::default()).unwrap_err().to_string();
        assert!(error.contains("c.png: 2x1 after resizing, other images are 1x1"), "{error}");
        let crop = Preprocess { crop: Some([2; 2]), ..bytes_as_they_are() };
        assert_eq!(open_unlabelled(&tree.spec(), &crop, &OpenOptions::default()).unwrap().len(), 3);
    }

    #[test]
    fn limit_spreads_over_the_classes() {
        let tree = Tree::new(&[("a/1.png", 1), ("a/2.png", 2), ("b/1.png", 3), ("b/2.png", 4)]);
        let options = OpenOptions { limit: Some(2), ..OpenOptions::default() };
        let set = open_labelled(&tree.spec(), &bytes_as_they_are(), &options).unwrap();
        assert_eq!(set.labels(), [0, 1]);
    }
}
