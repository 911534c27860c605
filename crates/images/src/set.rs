use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use graph::{Normaliser, Preprocess};
use rayon::prelude::*;

use crate::ImageError;
use crate::classes::Labels;
use crate::decode::{Fit, Picture, decode};
use crate::random::{Random, shuffle};

/// What part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To train a teacher with labels.
    Train,
    /// To adapt a student without labels.
    Adapt,
    /// To measure accuracy.
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

/// Normalised images, `[N, C, H, W]`.
///
/// A file that turns out to be bad when it is decoded has no image: there may be fewer than were asked for, or none. What
/// belongs to an image is found by its entry in `indices`, never by its place in what was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `[N, C, H, W]`.
    pub shape: [usize; 4],
    /// The values, row-major.
    pub pixels: Vec<f32>,
    /// Which image of the set each of the `N` is, in the order in which they were asked for.
    pub indices: Vec<usize>,
}

/// Normalised images with their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledBatch {
    /// The images.
    pub images: Batch,
    /// One class index for each image of the batch.
    pub labels: Vec<usize>,
}

/// A file that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What the decoder said.
    pub reason: String,
}

/// Decoded images of one size, interleaved bytes.
pub(crate) struct Memory {
    channels: usize,
    /// Height and width.
    size: [usize; 2],
    pixels: Vec<u8>,
}

impl Memory {
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

/// Images without labels: all that training and adaptation may see.
///
/// There is no way from it to a label; a labelled source that is opened unlabelled drops its labels at reading. Cheap to
/// clone.
#[derive(Clone)]
pub struct Unlabelled {
    store: Arc<Store>,
    /// Which of the store's images, in order.
    members: Arc<[usize]>,
}

struct Store {
    name: String,
    /// `[C, H, W]` of a network input.
    shape: [usize; 3],
    fit: Fit,
    normaliser: Normaliser,
    source: Source,
    /// Files found bad when the set was opened.
    skipped: Vec<Skipped>,
    /// What each image is called; empty where images have no names.
    names: Box<[String]>,
    /// What was found in the folder that is neither read nor skipped.
    notes: Vec<String>,
    /// The first image met that is not of the network's size, and its height and width.
    resized: OnceLock<(String, [usize; 2])>,
}

/// Where an image comes from.
pub(crate) enum Content<'a> {
    /// Decoded bytes.
    Pixels(&'a [u8]),
    /// A file that is decoded as it is used.
    File(&'a Path),
}

enum Source {
    Memory(Arc<Memory>),
    Files(Files),
}

/// Image files, decoded each time they are asked for.
pub(crate) struct Files {
    pub(crate) paths: Vec<PathBuf>,
    /// How many bad files may still be met.
    pub(crate) allowed: usize,
    /// Bad files met so far, by position in `paths`.
    pub(crate) bad: Mutex<BTreeMap<usize, String>>,
}

impl Files {
    fn bad(&self) -> Vec<Skipped> {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.iter().map(|(&i, reason)| Skipped { path: self.paths[i].clone(), reason: reason.clone() }).collect()
    }
}

impl Unlabelled {
    pub(crate) fn from_memory(name: String, memory: Arc<Memory>, preprocess: &Preprocess) -> Self {
        let fit = Fit::new(preprocess);
        let size = fit.output(memory.size);
        let len = memory.len();
        Self::new(name, Source::Memory(memory), len, size, fit, preprocess, Vec::new())
    }

    /// Images that went through `Fit` already.
    pub(crate) fn from_fitted(
        name: String,
        memory: Arc<Memory>,
        preprocess: &Preprocess,
        skipped: Vec<Skipped>,
    ) -> Self {
        let (len, size) = (memory.len(), memory.size);
        Self::new(name, Source::Memory(memory), len, size, Fit::none(), preprocess, skipped)
    }

    /// Files that become images of `size`.
    pub(crate) fn from_files(
        name: String,
        files: Files,
        size: [usize; 2],
        preprocess: &Preprocess,
        skipped: Vec<Skipped>,
    ) -> Self {
        let len = files.paths.len();
        Self::new(name, Source::Files(files), len, size, Fit::new(preprocess), preprocess, skipped)
    }

    fn new(
        name: String,
        source: Source,
        len: usize,
        [height, width]: [usize; 2],
        fit: Fit,
        preprocess: &Preprocess,
        skipped: Vec<Skipped>,
    ) -> Self {
        let shape = [preprocess.channels(), height, width];
        let (normaliser, names) = (preprocess.normaliser(), Box::default());
        let (notes, resized) = (Vec::new(), OnceLock::new());
        let store = Store { name, shape, fit, normaliser, source, skipped, names, notes, resized };
        Self { store: Arc::new(store), members: (0..len).collect() }
    }

    /// The set just made, with what was found beside its images, and the first one that was resized.
    pub(crate) fn with_notes(mut self, notes: Vec<String>, resized: Option<(String, [usize; 2])>) -> Self {
        let store = Arc::get_mut(&mut self.store).expect("nobody else has a set just made");
        store.notes = notes;
        if let Some(resized) = resized {
            store.resized = resized.into();
        }
        self
    }

    /// The set just made, whose images are these files under `root`.
    pub(crate) fn with_names<'a>(mut self, root: &Path, paths: impl Iterator<Item = &'a PathBuf>) -> Self {
        let inside = |path: &'a PathBuf| path.strip_prefix(root).ok().filter(|name| !name.as_os_str().is_empty());
        let name = |path: &'a PathBuf| inside(path).unwrap_or(path).display().to_string();
        Arc::get_mut(&mut self.store).expect("nobody else has a set just made").names = paths.map(name).collect();
        self
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// What an image is called in messages: its file's path in the set's folder, or its number.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn image_name(&self, index: usize) -> String {
        let member = self.members[index];
        self.store.names.get(member).cloned().unwrap_or_else(|| format!("image {member}"))
    }

    pub(crate) fn content(&self, index: usize) -> Content<'_> {
        match (&self.store.source, self.members[index]) {
            (Source::Memory(memory), member) => Content::Pixels(memory.image(member)),
            (Source::Files(files), member) => Content::File(&files.paths[member]),
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// `[C, H, W]` of every image.
    pub fn shape(&self) -> [usize; 3] {
        self.store.shape
    }

    /// What the set is called in messages and reports.
    pub fn name(&self) -> &str {
        &self.store.name
    }

    /// The files left out so far, and why. A small set is decoded when it is opened; a large one as it is used, so the
    /// list may grow.
    pub fn skipped(&self) -> Vec<Skipped> {
        let mut skipped = self.store.skipped.clone();
        if let Source::Files(files) = &self.store.source {
            skipped.extend(files.bad());
        }
        skipped
    }

    /// What a folder holds that is not as a user may think, such as links that are not followed.
    pub fn notes(&self) -> &[String] {
        &self.store.notes
    }

    /// The first image met whose height and width were not those of the network, so that it was resized or cropped. A small
    /// set is decoded when it is opened; of a large one more is known as it is used.
    pub fn resized(&self) -> Option<(&str, [usize; 2])> {
        self.store.resized.get().map(|(name, size)| (name.as_str(), *size))
    }

    /// The images at `indices`, normalised, in that order; decoded in parallel.
    ///
    /// In a set too large to be decoded when it was opened, an image that cannot be decoded is left out, and is reported by
    /// [`skipped`](Self::skipped): [`Batch::indices`] says which images are there.
    ///
    /// # Errors
    /// An index past the end; more bad files than [`OpenOptions::max_bad`](crate::OpenOptions::max_bad) allows.
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

    /// As [`batch`](Self::batch), but never empty where images are asked for.
    ///
    /// # Errors
    /// As [`batch`](Self::batch); none of the images can be read.
    pub fn batch_of_some(&self, indices: &[usize]) -> Result<Batch, ImageError> {
        let batch = self.batch(indices)?;
        match indices.first() {
            Some(&first) if batch.indices.is_empty() => Err(self.unreadable(first)),
            _ => Ok(batch),
        }
    }

    /// An image that could not be read and is the only one of a batch.
    fn unreadable(&self, index: usize) -> ImageError {
        let path = self.path(index);
        let bad = self.skipped().into_iter().find(|bad| Some(bad.path.as_path()) == path);
        let reason = bad.map_or_else(String::new, |bad| bad.reason);
        ImageError::Unreadable { path: path.unwrap_or(Path::new(self.name())).to_owned(), reason }
    }

    /// The error that a file is another one than it was a moment ago.
    pub fn changed(&self, index: usize) -> ImageError {
        let path = self.path(index).unwrap_or(Path::new(self.name())).to_owned();
        ImageError::Unreadable { path, reason: "it changed while it was used".to_owned() }
    }

    /// The file of an image, in a set too large to be decoded when it was opened.
    fn path(&self, index: usize) -> Option<&Path> {
        match &self.store.source {
            Source::Files(files) => Some(&files.paths[self.members[index]]),
            Source::Memory(_) => None,
        }
    }

    /// Shuffles by `seed` and parts into the rest and `held_out` images (fewer if the set is smaller).
    pub fn split(&self, held_out: usize, seed: u64) -> (Self, Self) {
        let (rest, held) = shuffled_parts(self.len(), held_out, seed);
        (self.select(&rest), self.select(&held))
    }

    /// `count` images spread evenly over the set (all of them if it is smaller): a folder's order is by class, and its
    /// first images would all be of one.
    pub fn take(&self, count: usize) -> Self {
        self.select(&spread(self.len(), count))
    }

    /// The images at `indices`, in that order.
    ///
    /// # Panics
    /// For an index past the end.
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
    /// Remembers the first image that is not of the network's size.
    fn resized(&self, size: [usize; 2], name: impl FnOnce() -> String) {
        if size != [self.shape[1], self.shape[2]] {
            self.resized.get_or_init(|| (name(), size));
        }
    }

    /// Writes the image; `false` if its file is bad.
    fn image(&self, member: usize, out: &mut [f32]) -> Result<bool, ImageError> {
        match &self.source {
            Source::Memory(memory) if self.fit.keeps(memory.channels, memory.size) => {
                self.normaliser.apply(memory.image(member), out);
            }
            Source::Memory(memory) => {
                self.resized(memory.size, || self.name.clone());
                let pixels = memory.image(member).to_vec();
                let image = Picture { channels: memory.channels, size: memory.size, pixels };
                let image = self.fit.apply(image).map_err(ImageError::Preprocess)?;
                self.normaliser.apply(&image.pixels, out);
            }
            Source::Files(files) => match decode(&files.paths[member]).and_then(|image| self.fit.sized(image)) {
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

/// Images with labels, for evaluation and supervised training. Cheap to clone.
#[derive(Clone)]
pub struct Labelled {
    images: Unlabelled,
    labels: Arc<[usize]>,
    classes: Arc<[String]>,
    kind: Arc<Labels>,
}

impl Labelled {
    pub(crate) fn new(images: Unlabelled, labels: Arc<[usize]>, classes: Arc<[String]>, kind: Labels) -> Self {
        assert_eq!(images.len(), labels.len(), "one label an image");
        Self { images, labels, classes, kind: Arc::new(kind) }
    }

    /// What its labels are.
    pub(crate) fn kind(&self) -> &Labels {
        &self.kind
    }

    /// Each label changed to its entry in `outputs`, and the names of a network's classes.
    pub(crate) fn relabelled(&self, outputs: Option<&[usize]>, classes: Vec<String>) -> Self {
        let label = |&label: &usize| outputs.map_or(label, |outputs| outputs[label]);
        let labels = self.labels.iter().map(label).collect();
        Self { images: self.images.clone(), labels, classes: classes.into(), kind: Arc::new(Labels::Outputs) }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// `[C, H, W]` of every image.
    pub fn shape(&self) -> [usize; 3] {
        self.images.shape()
    }

    /// What the set is called in messages and reports.
    pub fn name(&self) -> &str {
        self.images.name()
    }

    /// One class index an image, in the set's order.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// Name of each class that a label counts; empty where the source has only indices. A set of
    /// [`for_network`](Self::for_network) has the names of the network's classes.
    pub fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// The files left out so far, and why: see [`Unlabelled::skipped`].
    pub fn skipped(&self) -> Vec<Skipped> {
        self.images.skipped()
    }

    /// The images at `indices`, normalised, with their labels, in that order; an image that [`Unlabelled::batch`] leaves
    /// out has no label here.
    ///
    /// # Errors
    /// As [`Unlabelled::batch`].
    pub fn batch(&self, indices: &[usize]) -> Result<LabelledBatch, ImageError> {
        Ok(self.with_labels(self.images.batch(indices)?))
    }

    /// As [`batch`](Self::batch), but never empty where images are asked for.
    ///
    /// # Errors
    /// As [`Unlabelled::batch_of_some`].
    pub fn batch_of_some(&self, indices: &[usize]) -> Result<LabelledBatch, ImageError> {
        Ok(self.with_labels(self.images.batch_of_some(indices)?))
    }

    fn with_labels(&self, images: Batch) -> LabelledBatch {
        let labels = images.indices.iter().map(|&index| self.labels[index]).collect();
        LabelledBatch { images, labels }
    }

    /// The images alone.
    pub fn without_labels(&self) -> Unlabelled {
        self.images.clone()
    }

    /// Shuffles by `seed` and parts into the rest and `held_out` images (fewer if the set is smaller).
    pub fn split(&self, held_out: usize, seed: u64) -> (Self, Self) {
        let (rest, held) = shuffled_parts(self.len(), held_out, seed);
        (self.select(&rest), self.select(&held))
    }

    /// `count` images spread evenly over the set (all of them if it is smaller).
    pub fn take(&self, count: usize) -> Self {
        self.select(&spread(self.len(), count))
    }

    fn select(&self, indices: &[usize]) -> Self {
        Self {
            images: self.images.select(indices),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            classes: self.classes.clone(),
            kind: self.kind.clone(),
        }
    }
}

impl fmt::Debug for Labelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [c, h, w] = self.shape();
        let classes = self.classes.len();
        write!(f, "Labelled({}, {} images of [{c}, {h}, {w}], {classes} class names)", self.name(), self.len())
    }
}

fn shuffled_parts(len: usize, held_out: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..len).collect();
    shuffle(&mut order, &mut Random::new(seed, 0));
    let held = order.split_off(len - held_out.min(len));
    (order, held)
}

/// `count` of `len` indices at equal distances.
pub(crate) fn spread(len: usize, count: usize) -> Vec<usize> {
    let count = count.min(len);
    (0..count).map(|i| i * len / count).collect()
}

#[cfg(test)]
mod tests {
    use graph::{ChannelOrder, Resize};

    use super::*;

    /// Five images of one pixel: 0, 10, 20, 30, 40.
    fn five(preprocess: &Preprocess) -> Labelled {
        let pixels = (0..5).flat_map(|i| [i * 10; 3]).collect();
        let images = Unlabelled::from_memory("five".to_owned(), Arc::new(Memory::new(3, [1, 1], pixels)), preprocess);
        Labelled::new(images, Arc::from([0, 1, 2, 3, 4]), Arc::from([]), Labels::Outputs)
    }

    fn bytes_as_they_are() -> Preprocess {
        Preprocess::bytes(ChannelOrder::Rgb)
    }

    #[test]
    fn values_are_divided_shifted_and_scaled() {
        let preprocess =
            Preprocess { divide: 2.0, mean: vec![1.0, 2.0, 3.0], std: vec![0.5, 2.0, 4.0], ..Preprocess::imagenet() };
        let preprocess = Preprocess { resize: None, crop: None, ..preprocess };
        // (20 / 2 - 1) / 0.5, (20 / 2 - 2) / 2, (20 / 2 - 3) / 4
        assert_eq!(five(&preprocess).batch(&[2]).unwrap().images.pixels, [18.0, 4.0, 1.75]);
    }

    #[test]
    fn mean_and_std_follow_the_networks_channel_order() {
        let preprocess = Preprocess { order: ChannelOrder::Bgr, mean: vec![1.0, 2.0, 3.0], ..bytes_as_they_are() };
        let memory = Arc::new(Memory::new(3, [1, 1], vec![10, 20, 30]));
        let set = Unlabelled::from_memory("one".to_owned(), memory, &preprocess);
        // blue 30 - 1, green 20 - 2, red 10 - 3
        assert_eq!(set.batch(&[0]).unwrap().pixels, [29.0, 18.0, 7.0]);
    }

    #[test]
    fn batches_repeat_and_reorder() {
        let batch = five(&bytes_as_they_are()).batch(&[4, 0, 4]).unwrap();
        assert_eq!(batch.labels, [4, 0, 4]);
        assert_eq!(batch.images.shape, [3, 3, 1, 1]);
        assert_eq!(batch.images.pixels.iter().step_by(3).copied().collect::<Vec<_>>(), [40.0, 0.0, 40.0]);
    }

    #[test]
    fn index_past_the_end_is_an_error() {
        let error = five(&bytes_as_they_are()).batch(&[5]).unwrap_err();
        assert_eq!(error.to_string(), "five: image 5 asked for, the set has 5");
    }

    #[test]
    fn split_parts_the_set_and_keeps_labels_with_images() {
        let set = five(&bytes_as_they_are());
        let (rest, held) = set.split(2, 7);
        assert_eq!((rest.len(), held.len()), (3, 2));
        let mut all = [rest.labels(), held.labels()].concat();
        for part in [&rest, &held] {
            let batch = part.batch(&(0..part.len()).collect::<Vec<_>>()).unwrap();
            let firsts: Vec<usize> = batch.images.pixels.iter().step_by(3).map(|&p| p as usize / 10).collect();
            assert_eq!(firsts, batch.labels);
        }
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        assert_eq!(set.split(2, 7).1.labels(), held.labels());
        assert_eq!(set.without_labels().split(9, 7).1.len(), 5);
    }

    #[test]
    fn take_spreads_over_the_set() {
        let set = five(&bytes_as_they_are());
        assert_eq!(set.take(2).labels(), [0, 2]);
        assert_eq!(set.take(9).labels(), [0, 1, 2, 3, 4]);
        assert!(set.take(0).is_empty());
    }

    #[test]
    fn small_images_are_resized_when_they_are_used() {
        let preprocess = Preprocess { resize: Some(Resize::Shorter(4)), crop: Some([2; 2]), ..bytes_as_they_are() };
        let set = five(&preprocess);
        assert_eq!(set.shape(), [3, 2, 2]);
        assert_eq!(set.batch(&[3]).unwrap().images.pixels, [30.0; 12]);
    }

    #[test]
    fn images_in_memory_are_resized_even_where_the_crop_has_their_size() {
        let memory = Arc::new(Memory::new(3, [1, 2], vec![0, 0, 0, 100, 100, 100]));
        let preprocess = Preprocess { resize: Some(Resize::Exact([1, 4])), crop: Some([1, 2]), ..bytes_as_they_are() };
        let set = Unlabelled::from_memory("two".to_owned(), memory, &preprocess);
        // 0, 25, 75, 100 in the middle.
        assert_eq!(set.batch(&[0]).unwrap().pixels, [25.0, 75.0, 25.0, 75.0, 25.0, 75.0]);
    }

    #[test]
    fn grey_networks_take_one_channel() {
        let memory = Arc::new(Memory::new(3, [1, 2], vec![255, 0, 0, 7, 7, 7]));
        let set = Unlabelled::from_memory("two".to_owned(), memory, &Preprocess::bytes(ChannelOrder::Grey));
        assert_eq!(set.shape(), [1, 1, 2]);
        assert_eq!(set.batch(&[0]).unwrap().pixels, [76.0, 7.0]);
    }
}
