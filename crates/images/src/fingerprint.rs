//! Fingerprints of image sets, which tell whether a set has changed.
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::set::ImageContent;
use crate::{Labelled, Unlabelled};

/// The limit of bytes of all files of a set up to which they are read whole, which takes seconds.
const READ_WHOLE: u64 = 4 << 30;
/// The number of bytes that are read at the beginning, the middle and the end of each file of a larger set.
const SAMPLE: u64 = 16 << 10;

/// The names, contents and labels of the images of a set, as hashes. They tell later whether the images are still the same,
/// and which are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The shape of every image, `[C, H, W]`.
    shape: [usize; 3],
    /// The name of each image and the hash of its content, in the set's order.
    images: Vec<(String, String)>,
    /// The label of each image, for a set with labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<usize>>,
}

impl Unlabelled {
    /// Hashes the images: decoded images by their pixels, inputs by their values, files by their bytes. Of files of more than 4 GiB together, only
    /// the size and some of the bytes are hashed. A file that cannot be read counts as one with another content.
    pub fn fingerprint(&self) -> Fingerprint {
        let bytes = |index| match self.content(index) {
            ImageContent::Pixels(_) | ImageContent::Input(_) => 0,
            ImageContent::File(path) => path.metadata().map_or(0, |file| file.len()),
        };
        let whole = (0..self.len()).into_par_iter().map(bytes).sum::<u64>() <= READ_WHOLE;
        let images = (0..self.len()).into_par_iter().map(|index| {
            let digest = match self.content(index) {
                ImageContent::Pixels(pixels) => Ok(Sha256::new().chain_update(pixels)),
                ImageContent::File(path) => digest(path, whole),
                ImageContent::Input(values) => {
                    let mut hash = Sha256::new();
                    values.iter().for_each(|value| hash.update(value.to_le_bytes()));
                    Ok(hash)
                }
            };
            let content = digest.map_or_else(|_| "unreadable".to_owned(), short);
            (self.image_name(index), content)
        });
        Fingerprint { shape: self.shape(), images: images.collect(), labels: None }
    }
}

impl Labelled {
    /// Hashes the images, as [`Unlabelled::fingerprint`] does, and keeps the labels.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { labels: Some(self.labels().to_vec()), ..self.without_labels().fingerprint() }
    }
}

impl Fingerprint {
    /// Says in words how the set `now` differs from this one, or returns `None` where it does not.
    pub fn difference(&self, now: &Self) -> Option<String> {
        let total = self.images.len();
        if self.shape != now.shape {
            let size = |[c, h, w]: [usize; 3]| format!("{c}x{h}x{w}");
            return Some(format!("images of {} before, of {} now", size(self.shape), size(now.shape)));
        }
        let names = |set: &Self| set.images.iter().map(|(name, _)| name.clone()).collect::<HashSet<_>>();
        let (before, after) = (names(self), names(now));
        let missing = |set: &Self, there: &HashSet<String>| {
            let names: Vec<String> =
                set.images.iter().map(|(name, _)| name).filter(|name| !there.contains(*name)).cloned().collect();
            names.first().map(|first| (names.len(), first.clone()))
        };
        let gone = missing(self, &after).map(|(count, first)| format!("{count} of {total} images gone, first {first}"));
        let new = missing(now, &before).map(|(count, first)| format!("{count} new, first {first}"));
        if gone.is_some() || new.is_some() {
            return Some([gone, new].into_iter().flatten().collect::<Vec<_>>().join("; "));
        }
        let pairs = || self.images.iter().zip(&now.images);
        if total != now.images.len() || pairs().any(|((old, _), (new, _))| old != new) {
            return Some("the images are in another order".to_owned());
        }
        let changed: Vec<&String> = pairs().filter(|(old, new)| old != new).map(|((name, _), _)| name).collect();
        if let Some(first) = changed.first() {
            return Some(format!("{} of {total} images changed, first {first}", changed.len()));
        }
        match (&self.labels, &now.labels) {
            (Some(old), Some(new)) => {
                let moved: Vec<usize> = (0..total).filter(|&i| old.get(i) != new.get(i)).collect();
                let &first = moved.first()?;
                let label = |labels: &[usize]| labels.get(first).map_or("none".to_owned(), usize::to_string);
                let (name, count) = (&self.images[first].0, moved.len());
                Some(format!(
                    "labels of {count} of {total} images changed, first of {name}: {} before, {} now",
                    label(old),
                    label(new)
                ))
            }
            (None, None) => None,
            (Some(_), None) => Some("labels before, none now".to_owned()),
            (None, Some(_)) => Some("no labels before, labels now".to_owned()),
        }
    }
}

fn digest(path: &Path, whole: bool) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut hash = Sha256::new();
    hash.update(size.to_le_bytes());
    if whole {
        io::copy(&mut file, &mut hash)?;
        return Ok(hash);
    }
    for start in [0, size / 2, size.saturating_sub(SAMPLE)] {
        file.seek(SeekFrom::Start(start))?;
        io::copy(&mut (&mut file).take(SAMPLE), &mut hash)?;
    }
    Ok(hash)
}

/// Returns half of the digest in hexadecimal, which suffices where nobody forges.
fn short(digest: Sha256) -> String {
    format!("{:.32x}", digest.finalize())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{ImageError, OpenOptions, open_labelled, open_unlabelled};
    use graph::Preprocess;

    struct Tree(tempfile::TempDir);

    impl Tree {
        /// Makes a folder with three images of each of two classes.
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for (class, grey) in [("cat", 10), ("dog", 100)] {
                std::fs::create_dir(tree.0.path().join(class)).unwrap();
                for i in 0..3 {
                    tree.paint(&format!("{class}/{i}.png"), grey + i);
                }
            }
            tree
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn paint(&self, name: &str, grey: u8) {
            image::RgbImage::from_pixel(4, 4, image::Rgb([grey; 3])).save(self.path(name)).unwrap();
        }

        /// Opens the folder. With `memory` 0 files are decoded when they are used.
        fn open(&self, memory: usize) -> Result<Unlabelled, ImageError> {
            let options = OpenOptions { memory, ..OpenOptions::default() };
            open_unlabelled(self.0.path().to_str().unwrap(), &Preprocess::imagenet_statistics(), &options)
        }
    }

    #[test]
    fn what_changed_is_named() {
        for memory in [0, usize::MAX] {
            let tree = Tree::new();
            let before = tree.open(memory).unwrap().fingerprint();
            assert_eq!(before.difference(&tree.open(memory).unwrap().fingerprint()), None);
            let json = serde_json::to_string(&before).unwrap();
            assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), before);
            let now = || before.difference(&tree.open(memory).unwrap().fingerprint()).unwrap();

            tree.paint("cat/1.png", 77);
            tree.paint("dog/2.png", 78);
            assert_eq!(now(), "2 of 6 images changed, first cat/1.png");
            tree.paint("cat/9.png", 79);
            assert_eq!(now(), "1 new, first cat/9.png");
            std::fs::remove_file(tree.path("dog/0.png")).unwrap();
            assert_eq!(now(), "1 of 6 images gone, first dog/0.png; 1 new, first cat/9.png");
        }
    }

    #[test]
    fn labels_belong_to_it() {
        let tree = Tree::new();
        let labels = |of_dog_1: usize| {
            let line = |(name, label): (&str, usize)| format!("{name} {label}\n");
            let of_dogs = [("dog/0.png", 1), ("dog/1.png", of_dog_1), ("dog/2.png", 1)];
            let of_cats = [("cat/0.png", 0), ("cat/1.png", 0), ("cat/2.png", 0)];
            let text: String = of_cats.into_iter().chain(of_dogs).map(line).collect();
            std::fs::write(tree.path("labels.txt"), text).unwrap();
            let preprocess = Preprocess::imagenet_statistics();
            open_labelled(tree.0.path().to_str().unwrap(), &preprocess, &OpenOptions::default()).unwrap()
        };
        let before = labels(1);
        let difference = before.fingerprint().difference(&labels(0).fingerprint());
        assert_eq!(difference.unwrap(), "labels of 1 of 6 images changed, first of dog/1.png: 1 before, 0 now");
        let difference = before.fingerprint().difference(&before.without_labels().fingerprint());
        assert_eq!(difference.unwrap(), "labels before, none now");
        let fewer = before.take(3).fingerprint();
        assert_eq!(
            before.fingerprint().difference(&fewer).unwrap(),
            "3 of 6 images gone, first cat/1.png",
            "0, 2 and 4 of 6 are left"
        );
    }

    #[test]
    fn a_sample_sees_the_size_and_both_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            short(digest(&path, false).unwrap())
        };
        let bytes = vec![7; 100_000];
        let plain = of(&bytes);
        assert_eq!(plain, of(&bytes));
        assert_ne!(plain, of(&bytes[..99_999]));
        for place in [0, 50_000, 99_999] {
            let mut other = bytes.clone();
            other[place] = 8;
            assert_ne!(plain, of(&other), "{place}");
        }
        assert_eq!(short(digest(&path, true).unwrap()).len(), 32);
    }

    #[test]
    fn images_without_files_are_numbered() {
        let set = crate::embedded_unlabelled().take(3);
        // The third of three that are spread over 2,000 is number 2 * 2000 / 3.
        assert_eq!(set.image_name(2), "image 1333");
        assert_eq!(set.fingerprint(), crate::embedded_unlabelled().take(3).fingerprint());
        assert!(set.fingerprint().difference(&crate::embedded_unlabelled().take(4).fingerprint()).is_some());
    }
}
