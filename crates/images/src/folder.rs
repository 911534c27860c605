//! Opens folders of image files, whose labels come from class subfolders or from a labels file.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use graph::Preprocess;
use rayon::prelude::*;

use crate::classes::{Labels, Named, Source};
use crate::decode::{Fit, decode};
use crate::labelled::Labelled;
use crate::labels::{LabelsFile, labels_file, listed, table};
use crate::names::ClassNames;
use crate::set::{DecodedImages, Files, Unlabelled, spread};
use crate::walk::{Tree, walk};
use crate::{ImageError, OpenOptions, Skipped};

const LABEL_HINT: &str = "give each class a subfolder, or put lines `name.jpg index` into labels.txt inside the folder \
                          or into <folder>_labels.txt beside it, or a table with the columns `file` and `label` into labels.csv";

/// The hint of a folder without images.
pub(crate) const READ: &str = "JPEG, PNG, BMP and WebP files are read";

/// The files of a set before they are decoded, and their labels.
pub(crate) struct LabelledFiles {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) labels: Vec<usize>,
    /// The names of the classes.
    pub(crate) classes: Vec<String>,
    pub(crate) kind: Labels,
}

/// Opens a folder with labels from this table, or from subfolders or a labels file.
pub(crate) fn labelled(
    root: &Path,
    file: Option<&Path>,
    preprocess: &Preprocess,
    options: &OpenOptions,
) -> Result<Labelled, ImageError> {
    let mut tree = walk(root)?;
    let file = file.map(|file| LabelsFile::Table(file.to_owned())).or_else(|| labels_file(root));
    let LabelledFiles { paths, labels, classes, kind } = match file {
        Some(LabelsFile::Lines(file)) => listed(root, &file, &mut tree)?,
        Some(LabelsFile::Table(file)) => table(root, &file, &mut tree)?,
        None => by_subfolder(root, &mut tree, None)?,
    };
    let picked = pick(paths.len(), options);
    let picked_paths = picked.iter().map(|&i| paths[i].clone()).collect();
    let opened = Opening { root, preprocess, options, strict: false }.open(picked_paths, tree)?;
    let labels = opened.kept.iter().map(|&i| labels[picked[i]]).collect();
    Ok(Labelled::new(opened.images, labels, classes.into(), kind))
}

/// Opens every image under a folder. Labels files are not read, and the names of subfolders are not kept.
pub(crate) fn unlabelled(
    root: &Path,
    preprocess: &Preprocess,
    options: &OpenOptions,
) -> Result<Unlabelled, ImageError> {
    let mut tree = walk(root)?;
    let paths = std::mem::take(&mut tree.images);
    let picked = pick(paths.len(), options).into_iter().map(|i| paths[i].clone()).collect();
    Ok(Opening { root, preprocess, options, strict: false }.open(picked, tree)?.images)
}

/// Opens files, which must all be images if `strict`.
pub(crate) fn files(
    paths: &[PathBuf],
    preprocess: &Preprocess,
    options: &OpenOptions,
    strict: bool,
) -> Result<Unlabelled, ImageError> {
    let tree = Tree { folders: Vec::new(), images: Vec::new(), skipped: Vec::new(), notes: Vec::new() };
    let root = match paths {
        [one] => one.as_path(),
        _ => Path::new("given files"),
    };
    let picked = pick(paths.len(), options).into_iter().map(|i| paths[i].clone()).collect();
    let options = &OpenOptions { max_bad: 1.0, ..options.clone() };
    match (Opening { root, preprocess, options, strict }.open(picked, tree)) {
        Ok(opened) => Ok(opened.images),
        Err(ImageError::TooManyBad { mut bad, .. }) if !bad.is_empty() => {
            let Skipped { path, reason } = bad.swap_remove(0);
            Err(ImageError::Unreadable { path, reason })
        }
        Err(error) => Err(error),
    }
}

fn pick(len: usize, options: &OpenOptions) -> Vec<usize> {
    spread(len, options.limit.unwrap_or(len))
}

/// The settings of opening files.
struct Opening<'a> {
    root: &'a Path,
    preprocess: &'a Preprocess,
    options: &'a OpenOptions,
    /// Whether every bad file is an error.
    strict: bool,
}

/// An opened set.
struct Opened {
    images: Unlabelled,
    /// The position of each image among the paths.
    kept: Vec<usize>,
}

impl Opening<'_> {
    /// Decodes everything if that fits into memory, else only the first image. The notes and the skipped files of `tree`
    /// become those of the set.
    fn open(&self, paths: Vec<PathBuf>, tree: Tree) -> Result<Opened, ImageError> {
        let Self { root, preprocess, options, strict } = *self;
        let Tree { mut skipped, notes, .. } = tree;
        let name = root.file_name().unwrap_or(root.as_os_str()).to_string_lossy().into_owned();
        let total = paths.len() + skipped.len();
        let allowed = if strict { 0 } else { options.allowed_bad(total) };
        let too_many = |bad| ImageError::TooManyBad { set: name.clone(), bad, total, allowed };
        if total == 0 {
            return Err(ImageError::Empty { path: root.to_owned(), hint: READ });
        }
        if skipped.len() > allowed || paths.is_empty() {
            return Err(too_many(skipped));
        }

        let fit = Fit::new(preprocess);
        let load = |path: &PathBuf| decode(path).and_then(|image| fit.sized(image));
        // Every image has the size of the first good one.
        let mut first = None;
        for (i, path) in paths.iter().enumerate() {
            match load(path) {
                Ok((image, before)) => {
                    first = Some((i, image.size, before));
                    break;
                }
                Err(reason) => skipped.push(Skipped { path: path.clone(), reason }),
            }
            if skipped.len() > allowed {
                return Err(too_many(skipped));
            }
        }
        let Some((start, size, before)) = first else { return Err(too_many(skipped)) };
        let shown = |path: &PathBuf, before| (path.display().to_string(), before);

        let channels = preprocess.channels();
        let image = channels * size[0] * size[1];
        if image.saturating_mul(paths.len() - start) > options.memory {
            let kept = (start..paths.len()).collect();
            let resized = (before != size).then(|| shown(&paths[start], before));
            let files = Files {
                paths: paths[start..].to_vec(),
                allowed: allowed - skipped.len(),
                bad: Mutex::new(BTreeMap::new()),
            };
            let images = Unlabelled::from_files(name, files, size, preprocess).with_notes(skipped, notes, resized);
            return Ok(Opened { images: images.with_names(root, paths[start..].iter()), kept });
        }

        let mut kept = Vec::new();
        let mut resized = None;
        let mut pixels = Vec::with_capacity((paths.len() - start) * image);
        // A piece at a time is decoded, so that bad files end the work early.
        for (piece, paths) in paths[start..].chunks(PIECE).enumerate() {
            let decoded: Vec<_> = paths.par_iter().map(load).collect();
            for (i, (path, decoded)) in paths.iter().zip(decoded).enumerate() {
                match decoded {
                    Ok((image, before)) if image.size == size => {
                        if before != size && resized.is_none() {
                            resized = Some(shown(path, before));
                        }
                        kept.push(start + piece * PIECE + i);
                        pixels.extend(image.pixels);
                    }
                    Ok((image, _)) => {
                        return Err(ImageError::SizesDiffer { path: path.clone(), got: image.size, expected: size });
                    }
                    Err(reason) => skipped.push(Skipped { path: path.clone(), reason }),
                }
            }
            if skipped.len() > allowed {
                return Err(too_many(skipped));
            }
        }
        let memory = Arc::new(DecodedImages::new(channels, size, pixels));
        let images = Unlabelled::from_fitted(name, memory, preprocess).with_notes(skipped, notes, resized);
        Ok(Opened { images: images.with_names(root, kept.iter().map(|&i| &paths[i])), kept })
    }
}

/// The number of images that are decoded at a time when a set is opened.
const PIECE: usize = 4096;

/// Labels files by their subfolders: class `i` is the `i`-th subfolder by name, with or without images, so that an empty
/// folder moves no label. `listed` are the classes that a file beside the folders lists.
pub(crate) fn by_subfolder(
    root: &Path,
    tree: &mut Tree,
    listed: Option<ClassNames>,
) -> Result<LabelledFiles, ImageError> {
    let depth = root.components().count();
    let is_loose = |path: &PathBuf| path.components().count() == depth + 1;
    if tree.images.iter().any(is_loose) {
        // Images beside the subfolders have no class, and would silently be left out.
        return Err(ImageError::NoLabels { name: root.display().to_string(), hint: LABEL_HINT.to_owned() });
    }
    let paths = std::mem::take(&mut tree.images);
    let deep = paths.iter().all(|path| path.components().count() > depth + 2);
    let class = |path: &PathBuf| {
        let name = path.components().nth(depth)?.as_os_str().to_string_lossy();
        tree.folders.binary_search_by(|folder| folder.as_str().cmp(&*name)).ok()
    };
    let labels: Vec<usize> = paths.iter().map(|path| class(path).expect("a folder that was walked")).collect();
    let used: HashSet<usize> = labels.iter().copied().collect();
    let empty = (0..tree.folders.len()).filter(|folder| !used.contains(folder)).collect();
    let from = Source::Folders { root: root.display().to_string(), deep };
    let kind = Labels::Named(Named { from, listed, empty });
    Ok(LabelledFiles { paths, labels, classes: tree.folders.clone(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Classes, open_labelled, open_unlabelled};
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

    /// Returns the grey value of each image.
    fn greys(set: &Unlabelled) -> Vec<f32> {
        let all: Vec<usize> = (0..set.len()).collect();
        set.batch(&all).unwrap().pixels.iter().step_by(3).copied().collect()
    }

    /// Returns options with which images are decoded when they are used, since none fits into memory.
    fn lazily() -> OpenOptions {
        OpenOptions { memory: 0, ..OpenOptions::default() }
    }

    #[test]
    fn subfolders_are_classes_in_the_order_of_their_names_with_or_without_images() {
        let tree = Tree::new(&[("dog/2.PNG", 2), ("cat/b/1.jpg", 1), ("dog/1.png", 3), ("cat/._1.jpg", 9)]);
        fs::create_dir(tree.path("set/ant")).unwrap();
        tree.text("set/readme.md", "about");
        let set = tree.labelled().unwrap();
        assert_eq!(set.class_names(), ["ant", "cat", "dog"]);
        assert_eq!(set.labels(), [1, 2, 2]);
        assert_eq!(greys(&set.without_labels()), [1.0, 3.0, 2.0]);
        assert_eq!(greys(&tree.unlabelled(&lazily()).unwrap()), [1.0, 3.0, 2.0]);
    }

    /// Returns the labels of the images as outputs of a network, and the notes, or the error's message.
    fn matched(tree: &Tree, count: usize, classes: Classes) -> Result<(Vec<usize>, Vec<String>), String> {
        let matched = tree.labelled().unwrap().for_network(count, classes);
        let matched = matched.map_err(|error| format!("{error}\n{}", error.hint().unwrap_or_default()))?;
        Ok((matched.set.labels().to_vec(), matched.notes))
    }

    fn names(names: &[&str]) -> ClassNames {
        ClassNames::from(names.iter().map(|name| vec![(*name).to_owned()]).collect::<Vec<_>>())
    }

    #[test]
    fn names_that_are_shared_are_told() {
        let refused = |tree: &Tree, classes: &[&str]| {
            let set = tree.labelled().unwrap();
            let error = set.for_network(classes.len(), Classes::OfNetwork(&names(classes))).unwrap_err();
            error.to_string()
        };
        let tree = Tree::new(&[("Cat/1.png", 1), ("cat/1.png", 2)]);
        let error = refused(&tree, &["dog", "CAT"]);
        assert!(error.ends_with("the class folders `Cat` and `cat` share a name, that of the class `CAT`"), "{error}");
        let tree = Tree::new(&[("crane/1.png", 1), ("dog/1.png", 2)]);
        let error = refused(&tree, &["crane", "dog", "crane"]);
        assert!(
            error.ends_with("several classes of the network are called `crane`, as one class folder is"),
            "{error}"
        );
    }

    #[test]
    fn synsets_are_told_where_their_names_are() {
        let tree = Tree::new(&[("n01440764/1.png", 1), ("n01443537/1.png", 2)]);
        let set = tree.labelled().unwrap();
        for classes in [&["tench", "goldfish", "shark"][..], &[]] {
            let error = set.for_network(3, Classes::OfNetwork(&names(classes))).unwrap_err();
            let hint = error.hint().unwrap();
            assert!(hint.contains("--classes imagenet_class_index.json") && !hint.contains("folders`"), "{hint}");
        }
        let error = set.for_network(3, Classes::InOrder).unwrap_err().to_string();
        assert!(error.ends_with("the network has 3 classes"), "{error}");
    }

    #[test]
    fn names_decide_where_the_network_has_them() {
        let tree = Tree::new(&[("b/1.png", 1), ("C/1.png", 2)]);
        fs::create_dir(tree.path("set/a")).unwrap();
        let own = names(&["c", "x", "b", "y"]);
        let (labels, notes) = matched(&tree, 4, Classes::OfNetwork(&own)).unwrap();
        assert_eq!(labels, [0, 2], "sorted, C is before b");
        assert!(notes[0].ends_with("no images in `a`"), "{notes:?}");
        assert!(notes[1].ends_with("set: no images of 2 of the network's 4 classes: `x`, `y`"), "{notes:?}");
        assert_eq!(notes.len(), 2);
        let set = tree.labelled().unwrap().for_network(4, Classes::OfNetwork(&own)).unwrap().set;
        assert_eq!(set.class_names(), ["c", "x", "b", "y"]);
        assert_eq!(set.take(1).labels(), [0]);

        let error = matched(&tree, 3, Classes::OfNetwork(&names(&["c", "d", "e"]))).unwrap_err();
        assert!(error.contains("no class of the network is called `b`: they are `c`, `d`, `e`"), "{error}");
        assert!(error.contains("--classes"), "{error}");
        let error = matched(&tree, 3, Classes::OfNetwork(&names(&["tench", "shark", "ray"]))).unwrap_err();
        assert!(error.contains("is called `C`, `b`"), "{error}");
        let error = matched(&tree, 4, Classes::Given(&names(&["b", "c"]))).unwrap_err();
        assert!(error.starts_with("class names: there are 2, the network has 4 classes"), "{error}");
        // Names that a user gives are taken without doubt.
        let given = names(&["b", "c", "a"]);
        assert_eq!(matched(&tree, 3, Classes::Given(&given)).unwrap().0, [1, 0]);
        assert_eq!(matched(&tree, 3, Classes::InOrder).unwrap().0, [0, 2]);
    }

    #[test]
    fn without_names_there_are_as_many_folders_as_classes() {
        let none = ClassNames::default();
        let tree = Tree::new(&[("a/1.png", 1), ("c/1.png", 2)]);
        let error = matched(&tree, 3, Classes::OfNetwork(&none)).unwrap_err();
        assert!(error.contains("set: 2 class folders (`a`, `c`), the network has 3 classes without names"), "{error}");
        fs::create_dir(tree.path("set/b")).unwrap();
        let (labels, notes) = matched(&tree, 3, Classes::OfNetwork(&none)).unwrap();
        assert_eq!(labels, [0, 2]);
        assert!(notes[0].ends_with("set: no images in `b`"), "{notes:?}");
        assert!(notes[1].contains("the network's classes have no names"), "{notes:?}");
        assert!(matched(&tree, 2, Classes::InOrder).is_err());
    }

    #[test]
    fn folders_that_are_numbers_sorted_as_words_are_noted() {
        let cases: [(&[(&str, u8)], &str); 2] = [
            (&[("9/1.png", 1), ("10/1.png", 2)], "`10` is class 0, `9` class 1"),
            (&[("9/1.png", 1), ("10/1.png", 2), ("2/1.png", 3)], "`2` is class 1, `9` class 2"),
        ];
        for (files, expected) in cases {
            let (_, notes) = matched(&Tree::new(files), files.len(), Classes::InOrder).unwrap();
            assert!(notes[0].ends_with(expected), "{notes:?}");
        }
        let error = matched(&Tree::new(cases[0].0), 0, Classes::Given(&ClassNames::default())).unwrap_err();
        assert!(error.contains("2 class folders"), "{error}");
    }

    #[test]
    fn folders_that_are_numbers_are_outputs_or_sorted_as_words() {
        let numbers: Vec<String> = (0..12).map(|i| format!("{i}/x.png")).collect();
        let files: Vec<(&str, u8)> = numbers.iter().map(|name| (name.as_str(), 0)).collect();
        let letters: Vec<String> = ('a'..='l').map(String::from).collect();
        let own = ClassNames::from(letters.as_slice());
        let (labels, notes) = matched(&Tree::new(&files), 12, Classes::OfNetwork(&own)).unwrap();
        assert_eq!(labels, [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(notes[0].contains("taken as outputs"), "{notes:?}");
        let (labels, notes) = matched(&Tree::new(&files), 12, Classes::OfNetwork(&ClassNames::default())).unwrap();
        assert_eq!(labels, (0..12).collect::<Vec<_>>());
        assert!(notes[0].ends_with("`1` is class 1, `10` class 2"), "{notes:?}");
    }

    #[test]
    fn parts_of_a_data_set_and_images_one_folder_deeper_are_no_classes() {
        let none = ClassNames::default();
        let tree = Tree::new(&[("train/a/1.png", 1), ("val/a/1.png", 2), ("val/b/1.png", 3)]);
        let error = matched(&tree, 2, Classes::OfNetwork(&none)).unwrap_err();
        assert!(error.contains("`train`, `val` look like parts of a data set"), "{error}");
        assert!(error.ends_with("set/val`"), "{error}");
        let own = names(&["val", "train"]);
        assert_eq!(matched(&tree, 2, Classes::OfNetwork(&own)).unwrap().0, [1, 0, 0]);

        let tree = Tree::new(&[("photos/a/1.png", 1), ("photos/b/1.png", 2)]);
        let error = matched(&tree, 2, Classes::OfNetwork(&none)).unwrap_err();
        assert!(error.contains("1 class folder (`photos`)") && error.ends_with("set/photos` is meant"), "{error}");
        let tree = Tree::new(&[("a/x/1.png", 1), ("b/y/1.png", 2)]);
        let (_, notes) = matched(&tree, 2, Classes::OfNetwork(&none)).unwrap();
        assert!(notes[0].contains("all images lie in folders inside the class folders"), "{notes:?}");
    }

    #[test]
    fn a_list_of_classes_beside_class_folders_gives_their_order() {
        let none = ClassNames::default();
        let tree = Tree::new(&[("cat/1.png", 1), ("dog/1.png", 2)]);
        for text in ["0 dog\n1 bird\n2 Cat\n", "dog\r\nbird\r\ncat\r\n"] {
            tree.text("set/labels.txt", text);
            let (labels, notes) = matched(&tree, 3, Classes::OfNetwork(&none)).unwrap();
            assert_eq!(labels, [2, 0]);
            assert!(notes[0].ends_with("labels.txt gives the order of the classes"), "{notes:?}");
            // The order of the network's own names comes first.
            let own = names(&["cat", "dog"]);
            assert_eq!(matched(&tree, 2, Classes::OfNetwork(&own)).unwrap().0, [0, 1]);
        }
        tree.text("set/labels.txt", "dog\nbird\n");
        let error = tree.labelled().unwrap_err().to_string();
        assert!(error.contains("nor all class folders by name: `cat` is missing"), "{error}");
        tree.text("set/labels.txt", "cat/1.png 1\ndog/1.png 0\n");
        assert_eq!(tree.labelled().unwrap().labels(), [1, 0]);
    }

    #[test]
    fn listed_labels_are_outputs() {
        let tree = Tree::new(&[("a.png", 1)]);
        tree.text("set/labels.txt", "a.png 3\n");
        let own = names(&["w", "x", "y", "z"]);
        let set = tree.labelled().unwrap();
        assert_eq!(set.for_network(4, Classes::OfNetwork(&own)).unwrap().set.class_names(), ["w", "x", "y", "z"]);
        let error = set.for_network(3, Classes::OfNetwork(&own)).unwrap_err().to_string();
        assert!(error.starts_with("set: `a.png` has the label 3, the network 3 classes: 0 to 2"), "{error}");
    }

    #[test]
    fn a_known_set_is_matched_by_name_or_number() {
        let set = crate::embedded(crate::Split::Eval);
        let mut shuffled = crate::EMBEDDED_CLASSES.to_vec();
        shuffled.reverse();
        let matched = set.for_network(16, Classes::OfNetwork(&names(&shuffled))).unwrap().set;
        assert_eq!(matched.labels()[0], 15 - set.labels()[0]);
        let matched = set.for_network(16, Classes::OfNetwork(&ClassNames::default())).unwrap().set;
        assert_eq!((matched.labels(), matched.class_names()), (set.labels(), set.class_names()));
        assert!(set.for_network(10, Classes::InOrder).is_err());
    }

    #[test]
    fn files_are_opened_whatever_they_are_called() {
        let tree = Tree::new(&[("a.png", 1), ("b.png", 2)]);
        fs::rename(tree.path("set/b.png"), tree.path("upload")).unwrap();
        let paths = [tree.path("upload"), tree.path("set/a.png")];
        let set = crate::open_files(&paths, &bytes_as_they_are(), &OpenOptions::default()).unwrap();
        assert_eq!(greys(&set), [2.0, 1.0]);
        tree.text("no image", "no image");
        let paths = [paths[0].clone(), tree.path("no image"), tree.path("missing")];
        let error = crate::open_files(&paths, &bytes_as_they_are(), &OpenOptions::default()).unwrap_err().to_string();
        assert!(error.ends_with("no image: not an image: neither JPEG, PNG, BMP nor WebP"), "{error}");
        let error = crate::open_files(&paths[2..], &bytes_as_they_are(), &lazily()).unwrap_err().to_string();
        assert!(error.contains("missing: "), "{error}");
    }

    #[test]
    fn images_of_another_size_are_noted() {
        let tree = Tree::new(&[("a.png", 1)]);
        image::RgbImage::new(3, 2).save(tree.path("set/b.png")).unwrap();
        let resized = Preprocess { resize: Some(graph::Resize::Exact([1, 1])), ..bytes_as_they_are() };
        for options in [OpenOptions::default(), lazily()] {
            let set = open_unlabelled(&tree.spec(), &resized, &options).unwrap();
            set.batch(&[0, 1]).unwrap();
            let (name, size) = set.resized().unwrap();
            assert!(name.ends_with("b.png"));
            assert_eq!(size, [2, 3]);
        }
        let only = OpenOptions { limit: Some(1), ..OpenOptions::default() };
        assert_eq!(open_unlabelled(&tree.spec(), &resized, &only).unwrap().resized(), None);
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
    fn tables_label_by_number_or_by_name() {
        let tree = Tree::new(&[("a.png", 1), ("sub/b.png", 2), ("c.png", 3)]);
        // Columns are found by their headings, or by what is in them.
        for text in [
            "image,label\na.png,2\nsub/b.png,0\nc.png,1\n",
            "id,breed\na,2\nsub/b,0\nc,1\n",
            "width;Class ID;file_name\n9;2;./a.png\n9;0;sub/b.png\n9;1;c.png\n",
            "2\ta.png\n0\tsub/b.png\n1\tc.png\n",
            "\u{feff}picture,kind\r\na.png,2\r\nsub/b.png,0\r\nc.png,1\r\n",
        ] {
            tree.text("set/labels.csv", text);
            let set = tree.labelled().unwrap();
            assert_eq!((greys(&set.without_labels()), set.labels()), (vec![1.0, 3.0, 2.0], &[2, 1, 0][..]), "{text}");
            assert!(set.class_names().is_empty());
        }
        fs::remove_file(tree.path("set/labels.csv")).unwrap();
        tree.text("set.csv", "file,label\na.png,\"dog, large\"\nsub/b.png,cat\nc.png,cat\n");
        assert_eq!(tree.labelled().unwrap().class_names(), ["cat", "dog, large"]);
        let own = names(&["dog, large", "fox", "cat"]);
        let (labels, notes) = matched(&tree, 3, Classes::OfNetwork(&own)).unwrap();
        assert_eq!(labels, [0, 2, 2]);
        assert!(notes[0].ends_with("set.csv: no images of 1 of the network's 3 classes: `fox`"), "{notes:?}");
        let error = matched(&tree, 2, Classes::OfNetwork(&names(&["wolf", "cat"]))).unwrap_err();
        assert!(error.contains("no class of the network is called `dog, large`"), "{error}");
        let error = matched(&tree, 3, Classes::OfNetwork(&ClassNames::default())).unwrap_err();
        assert!(error.contains("set.csv: 2 labels (`cat`, `dog, large`), the network has 3 classes"), "{error}");
        assert_eq!(matched(&tree, 2, Classes::InOrder).unwrap().0, [1, 0, 0]);
        // A table that is named counts, whatever it is called.
        tree.text("set/annotations.csv", "file,label\na.png,5\nsub/b.png,4\nc.png,3\n");
        let spec = tree.path("set/annotations.csv").to_str().unwrap().to_owned();
        let set = open_labelled(&spec, &bytes_as_they_are(), &OpenOptions::default()).unwrap();
        assert_eq!(set.labels(), [5, 3, 4]);
        assert_eq!(open_unlabelled(&spec, &bytes_as_they_are(), &OpenOptions::default()).unwrap().len(), 3);
    }

    #[test]
    fn errors_in_tables_name_the_line() {
        let tree = Tree::new(&[("a.png", 1), ("b.png", 2), ("b.jpg", 2)]);
        let cases = [
            ("", "labels.csv:1: it is empty"),
            ("file,label\na.png,1\nb.png\n", "labels.csv:3: it has another number of columns"),
            ("file,label\na.png,1\na.png,2\n", "labels.csv:3: `a.png` is listed before with another label"),
            ("file,label\na.png,\n", "labels.csv:2: a file or its label is missing"),
            ("x,label\n1,2\n3,4\n", "labels.csv:1: no column holds files"),
            ("file,x,y\na.png,1,2\n", "labels.csv:1: no column holds labels"),
        ];
        for (text, expected) in cases {
            tree.text("set/labels.csv", text);
            let error = tree.labelled().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        // `b` may be either file.
        tree.text("set/labels.csv", "file,label\na,1\nb,2\n");
        let set = tree.labelled().unwrap();
        assert_eq!((set.labels(), set.skipped().len()), (&[1][..], 0));
        let notes = set.without_labels().notes().to_vec();
        assert!(notes[0].contains("set: 2 of 3 images are not listed in "), "{notes:?}");
    }

    #[test]
    fn what_labels_and_images_lack_is_reported() {
        let tree = Tree::new(&[("a.png", 1), ("b.png", 2)]);
        tree.text("set/labels.txt", "a.png 1\nc.png 2\n");
        let set = tree.labelled().unwrap();
        assert_eq!(set.labels(), [1]);
        assert!(set.skipped().is_empty(), "nothing is wrong with a file");
        let notes = set.without_labels().notes().to_vec();
        assert!(
            notes[0].contains("`b.png` is not listed in ") && notes[0].ends_with("labels.txt: left out"),
            "{notes:?}"
        );
        assert!(notes[1].contains("labels.txt lists `c.png`, which is not in "), "{notes:?}");
        // Any part of a folder may have labels, but some must.
        for number in 0..20 {
            tree.image(&format!("more/{number}.png"), 1);
        }
        assert_eq!(tree.labelled().unwrap().labels(), [1]);
        let tree = Tree::new(&[("a.png", 1), ("b.png", 2)]);
        tree.text("set/labels.txt", "c.png 2\n");
        let error = tree.labelled().unwrap_err();
        assert!(matches!(error, ImageError::NoLabels { .. }), "{error}");
        assert!(error.hint().unwrap().ends_with("labels.txt lists `c.png`, the images are `a.png`, ..."), "{error:?}");
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

        fs::remove_file(tree.path("set/e.png")).unwrap();
        let error = tree.unlabelled(&OpenOptions::default()).unwrap_err().to_string();
        assert!(error.starts_with("set: none of its 4 images can be used\n"), "{error}");
        tree.image("e.png", 1);

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
