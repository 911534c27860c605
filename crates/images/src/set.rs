//! Sets of images without labels, and the images that they share.
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use graph::{Normaliser, Preprocess};
use rayon::prelude::*;

use crate::ImageError;
use crate::decode::{Fit, Picture, decode};
use crate::random::{Random, shuffle};

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The images that train a teacher, with labels.
    Train,
    /// The images to which a student is adapted, without labels.
    Adapt,
    /// The images on which accuracy is measured.
    Eval,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Adapt => "adapt",
            Self::Eval => "eval",
        })
    }
}

/// A batch of normalised images.
///
/// A file that cannot be decoded has no image, so that there may be fewer images than were asked for, or none. `indices` tells
/// which image of the set each is.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The shape, `[N, C, H, W]`.
    pub shape: [usize; 4],
    /// The values, row-major.
    pub pixels: Vec<f32>,
    /// The index in the set of each of the `N` images, in the order in which they were asked for.
    pub indices: Vec<usize>,
}

/// A file that was left out of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub reason: String,
}

/// Decoded images of one size, as interleaved bytes.
pub(crate) struct DecodedImages {
    channels: usize,
    /// The height and width.
    size: [usize; 2],
    pixels: Vec<u8>,
}

impl DecodedImages {
    pub(crate) fn new(channels: usize, size: [usize; 2], pixels: Vec<u8>) -> Self {
        assert_eq!(pixels.len() % (channels * size[0] * size[1]), 0, "whole images of {channels}, {size:?}");
        Self { channels, size, pixels }
    }

    fn len(&self) -> usize {
        self.pixels.len() / self.image_bytes()
    }

    fn image_bytes(&self) -> usize {
        self.channels * self.size[0] * self.size[1]
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.pixels
    }

    fn image(&self, index: usize) -> &[u8] {
        let bytes = self.image_bytes();
        &self.pixels[index * bytes..][..bytes]
    }
}

/// A set of images without labels. Adaptation takes such a set, so that it cannot see a label.
///
/// Labels of its source are dropped when they are read. A clone shares the images.
#[derive(Clone)]
pub struct Unlabelled {
    store: Arc<Store>,
    /// The positions of the images in the store, in the set's order.
    members: Arc<[usize]>,
}

/// The images that one or more sets share.
struct Store {
    name: String,
    /// The shape of a network input, `[C, H, W]`.
    shape: [usize; 3],
    fit: Fit,
    normaliser: Normaliser,
    backing: Backing,
    /// The files that were found bad when the set was opened.
    skipped: Vec<Skipped>,
    /// The name of each image; empty where images have no names.
    names: Box<[String]>,
    /// Remarks about the folder, such as links that are not followed.
    notes: Vec<String>,
    /// The first image that did not have the network's size, and its height and width.
    resized: OnceLock<(String, [usize; 2])>,
}

/// The content of an image.
pub(crate) enum ImageContent<'a> {
    /// The image is decoded to these bytes.
    Pixels(&'a [u8]),
    /// The image is in a file that is decoded when it is used.
    File(&'a Path),
    /// The image is a network's input.
    Input(&'a [f32]),
}

/// The place of a store's images.
enum Backing {
    Memory(Arc<DecodedImages>),
    Files(Files),
    /// Inputs of a network, one after the other.
    Inputs(Arc<Vec<f32>>),
}

/// Image files that are decoded each time they are used.
pub(crate) struct Files {
    pub(crate) paths: Vec<PathBuf>,
    /// The number of bad files that are still allowed.
    pub(crate) allowed: usize,
    /// The reasons of the bad files found so far, by their positions in `paths`.
    pub(crate) bad: Mutex<BTreeMap<usize, String>>,
}

impl Files {
    fn bad(&self) -> Vec<Skipped> {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.iter().map(|(&i, reason)| Skipped { path: self.paths[i].clone(), reason: reason.clone() }).collect()
    }
}

impl Unlabelled {
    /// Makes a set of decoded images, which are fitted to the network's size when they are used.
    pub(crate) fn from_memory(name: String, memory: Arc<DecodedImages>, preprocess: &Preprocess) -> Self {
        let fit = Fit::new(preprocess);
        let size = fit.output(memory.size);
        Self::new(name, Backing::Memory(memory), size, fit, preprocess)
    }

    /// Makes a set of decoded images that are fitted already.
    pub(crate) fn from_fitted(name: String, memory: Arc<DecodedImages>, preprocess: &Preprocess) -> Self {
        let size = memory.size;
        Self::new(name, Backing::Memory(memory), size, Fit::none(), preprocess)
    }

    /// Makes a set of files that become images of `size`.
    pub(crate) fn from_files(name: String, files: Files, size: [usize; 2], preprocess: &Preprocess) -> Self {
        Self::new(name, Backing::Files(files), size, Fit::new(preprocess), preprocess)
    }

    /// Makes a set of inputs of a network, `[C, H, W]` one after the other, which are used as they are.
    pub(crate) fn from_inputs(name: String, values: Arc<Vec<f32>>, size: [usize; 2], preprocess: &Preprocess) -> Self {
        Self::new(name, Backing::Inputs(values), size, Fit::none(), preprocess)
    }

    fn new(name: String, backing: Backing, [height, width]: [usize; 2], fit: Fit, preprocess: &Preprocess) -> Self {
        let len = match &backing {
            Backing::Memory(memory) => memory.len(),
            Backing::Files(files) => files.paths.len(),
            Backing::Inputs(values) => values.len() / (preprocess.channels() * height * width),
        };
        let store = Store {
            name,
            shape: [preprocess.channels(), height, width],
            fit,
            normaliser: preprocess.normaliser(),
            backing,
            skipped: Vec::new(),
            names: Box::default(),
            notes: Vec::new(),
            resized: OnceLock::new(),
        };
        Self { store: Arc::new(store), members: (0..len).collect() }
    }

    /// Adds the bad files, remarks about the folder, and the first image that was resized, to a set that was just made.
    pub(crate) fn with_notes(
        mut self,
        skipped: Vec<Skipped>,
        notes: Vec<String>,
        resized: Option<(String, [usize; 2])>,
    ) -> Self {
        let store = Arc::get_mut(&mut self.store).expect("nobody else has a set just made");
        (store.skipped, store.notes) = (skipped, notes);
        if let Some(resized) = resized {
            store.resized = resized.into();
        }
        self
    }

    /// Returns the file of an image inside the set's folder, where it is of a folder.
    pub(crate) fn file_name(&self, image: usize) -> Option<&str> {
        self.store.names.get(*self.members.get(image)?).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Names the images of a set that was just made after their files under `root`.
    pub(crate) fn with_names<'a>(mut self, root: &Path, paths: impl Iterator<Item = &'a PathBuf>) -> Self {
        let inside = |path: &'a PathBuf| path.strip_prefix(root).ok().filter(|name| !name.as_os_str().is_empty());
        let name = |path: &'a PathBuf| inside(path).unwrap_or(path).display().to_string();
        Arc::get_mut(&mut self.store).expect("nobody else has a set just made").names = paths.map(name).collect();
        self
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns the name of an image for messages: the path of its file in the set's folder, or its number.
    ///
    /// # Panics
    /// Panics if there is no such image.
    pub fn image_name(&self, index: usize) -> String {
        let member = self.members[index];
        self.store.names.get(member).cloned().unwrap_or_else(|| format!("image {member}"))
    }

    /// Returns the content of an image.
    pub(crate) fn content(&self, index: usize) -> ImageContent<'_> {
        match (&self.store.backing, self.members[index]) {
            (Backing::Memory(memory), member) => ImageContent::Pixels(memory.image(member)),
            (Backing::Files(files), member) => ImageContent::File(&files.paths[member]),
            (Backing::Inputs(values), member) => ImageContent::Input(self.store.input(values, member)),
        }
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the shape of every image, `[C, H, W]`.
    pub fn shape(&self) -> [usize; 3] {
        self.store.shape
    }

    /// Returns the name of the set for messages and reports.
    pub fn name(&self) -> &str {
        &self.store.name
    }

    /// Returns the files that were left out so far. A large set is decoded when it is used, so that the list may grow.
    pub fn skipped(&self) -> Vec<Skipped> {
        let mut skipped = self.store.skipped.clone();
        if let Backing::Files(files) = &self.store.backing {
            skipped.extend(files.bad());
        }
        skipped
    }

    /// Returns remarks about the folder that a user should see, such as links that are not followed.
    pub fn notes(&self) -> &[String] {
        &self.store.notes
    }

    /// Returns the name, height and width of the first image that did not have the network's size and was resized or
    /// cropped. A large set is decoded when it is used, so that such an image may be found later.
    pub fn resized(&self) -> Option<(&str, [usize; 2])> {
        self.store.resized.get().map(|(name, size)| (name.as_str(), *size))
    }

    /// Decodes and normalises the images at `indices`, in that order and in parallel.
    ///
    /// An image that cannot be decoded is left out, and [`skipped`](Self::skipped) reports it. This happens only in a set
    /// that was too large to be decoded when it was opened.
    ///
    /// # Errors
    /// [`ImageError::Index`]; [`ImageError::TooManyBad`] where more files are bad than
    /// [`OpenOptions::max_bad`](crate::OpenOptions::max_bad) allows; [`ImageError::SizesDiffer`].
    pub fn batch(&self, indices: &[usize]) -> Result<Batch, ImageError> {
        let members = self.members_at(indices)?;
        let [channels, height, width] = self.store.shape;
        let image = channels * height * width;
        let mut pixels = vec![0.0; members.len() * image];
        let kept = pixels
            .par_chunks_exact_mut(image)
            .zip(&members)
            .map(|(out, &member)| self.store.image(member, out))
            .collect::<Result<Vec<bool>, _>>()?;
        let mut there = Vec::with_capacity(indices.len());
        for (i, (&index, _)) in indices.iter().zip(kept).enumerate().filter(|(_, (_, kept))| *kept) {
            if i != there.len() {
                pixels.copy_within(i * image..(i + 1) * image, there.len() * image);
            }
            there.push(index);
        }
        pixels.truncate(there.len() * image);
        Ok(Batch { shape: [there.len(), channels, height, width], pixels, indices: there })
    }

    /// Returns a [`batch`](Self::batch) that is not empty if `indices` is not.
    ///
    /// # Errors
    /// The errors of [`batch`](Self::batch); [`ImageError::Unreadable`] where none of the images can be read.
    pub fn batch_of_some(&self, indices: &[usize]) -> Result<Batch, ImageError> {
        let batch = self.batch(indices)?;
        match indices.first() {
            Some(&first) if batch.indices.is_empty() => Err(self.unreadable(first)),
            _ => Ok(batch),
        }
    }

    /// Makes the error of a batch in which no image could be read.
    fn unreadable(&self, index: usize) -> ImageError {
        let path = self.path(index);
        let bad = self.skipped().into_iter().find(|bad| Some(bad.path.as_path()) == path);
        let reason = bad.map_or_else(String::new, |bad| bad.reason);
        ImageError::Unreadable { path: path.unwrap_or(Path::new(self.name())).to_owned(), reason }
    }

    /// Makes the error that the file of an image changed while it was used.
    pub fn changed(&self, index: usize) -> ImageError {
        let path = self.path(index).unwrap_or(Path::new(self.name())).to_owned();
        ImageError::Unreadable { path, reason: "it changed while it was used".to_owned() }
    }

    /// Returns the file of an image, if the set is decoded when it is used.
    fn path(&self, index: usize) -> Option<&Path> {
        match &self.store.backing {
            Backing::Files(files) => Some(&files.paths[*self.members.get(index)?]),
            Backing::Memory(_) | Backing::Inputs(_) => None,
        }
    }

    /// Shuffles by `seed` and splits into the rest and `held_out` images (fewer if the set is smaller).
    pub fn split(&self, held_out: usize, seed: u64) -> (Self, Self) {
        let (rest, held) = shuffled_parts(self.len(), held_out, seed);
        (self.select(&rest), self.select(&held))
    }

    /// Returns `count` images spread evenly over the set, or all if it is smaller. The first images of a folder would all be
    /// of one class.
    pub fn take(&self, count: usize) -> Self {
        self.select(&spread(self.len(), count))
    }

    /// Returns the images at `indices`, in that order.
    ///
    /// # Panics
    /// Panics for an index past the end.
    pub fn select(&self, indices: &[usize]) -> Self {
        Self { store: self.store.clone(), members: indices.iter().map(|&i| self.members[i]).collect() }
    }

    fn members_at(&self, indices: &[usize]) -> Result<Vec<usize>, ImageError> {
        indices
            .iter()
            .map(|&index| {
                self.members.get(index).copied().ok_or_else(|| ImageError::Index {
                    set: self.name().to_owned(),
                    index,
                    len: self.len(),
                })
            })
            .collect()
    }
}

impl fmt::Debug for Unlabelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [c, h, w] = self.shape();
        write!(f, "Unlabelled({}, {} images of [{c}, {h}, {w}])", self.name(), self.len())
    }
}

impl Store {
    /// Records the first image that does not have the network's size.
    fn resized(&self, size: [usize; 2], name: impl FnOnce() -> String) {
        if size != [self.shape[1], self.shape[2]] {
            self.resized.get_or_init(|| (name(), size));
        }
    }

    /// Returns one of the inputs that a set has in memory.
    fn input<'a>(&self, values: &'a [f32], member: usize) -> &'a [f32] {
        let elements = self.shape.iter().product::<usize>();
        &values[member * elements..][..elements]
    }

    /// Writes an image to `out`. Returns whether its file is good.
    fn image(&self, member: usize, out: &mut [f32]) -> Result<bool, ImageError> {
        match &self.backing {
            Backing::Memory(memory) if self.fit.keeps(memory.channels, memory.size) => {
                self.normaliser.apply(memory.image(member), out);
            }
            Backing::Memory(memory) => {
                self.resized(memory.size, || self.name.clone());
                let pixels = memory.image(member).to_vec();
                let image = Picture { channels: memory.channels, size: memory.size, pixels };
                let image = self.fit.apply(image).map_err(ImageError::Preprocess)?;
                self.normaliser.apply(&image.pixels, out);
            }
            Backing::Inputs(values) => out.copy_from_slice(self.input(values, member)),
            Backing::Files(files) => match decode(&files.paths[member]).and_then(|image| self.fit.sized(image)) {
                Ok((image, size)) => {
                    self.resized(size, || files.paths[member].display().to_string());
                    let expected = [self.shape[1], self.shape[2]];
                    if image.size != expected {
                        let path = files.paths[member].clone();
                        return Err(ImageError::SizesDiffer { path, got: image.size, expected });
                    }
                    self.normaliser.apply(&image.pixels, out);
                }
                Err(reason) => {
                    let met = {
                        let mut bad = files.bad.lock().unwrap_or_else(PoisonError::into_inner);
                        bad.insert(member, reason);
                        bad.len()
                    };
                    if met > files.allowed {
                        return Err(ImageError::TooManyBad {
                            set: self.name.clone(),
                            bad: files.bad(),
                            total: files.paths.len(),
                            allowed: files.allowed,
                        });
                    }
                    return Ok(false);
                }
            },
        }
        Ok(true)
    }
}

/// Shuffles `len` indices by `seed` and splits off `held_out` of them.
pub(crate) fn shuffled_parts(len: usize, held_out: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..len).collect();
    shuffle(&mut order, &mut Random::new(seed, 0));
    let held = order.split_off(len - held_out.min(len));
    (order, held)
}

/// Returns `count` of `len` indices at equal distances.
pub(crate) fn spread(len: usize, count: usize) -> Vec<usize> {
    let count = count.min(len);
    (0..count).map(|i| i * len / count).collect()
}
