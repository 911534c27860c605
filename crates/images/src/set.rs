use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use graph::{ChannelOrder, Preprocess};
use rayon::prelude::*;

use crate::ImageError;
use crate::random::{Random, shuffle};

/// What part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `[N, C, H, W]`.
    pub shape: [usize; 4],
    /// The values, row-major.
    pub pixels: Vec<f32>,
}

/// Normalised images with their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledBatch {
    /// The images.
    pub images: Batch,
    /// One class index an image.
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

/// Decoded images of one size, interleaved RGB bytes.
pub(crate) struct Memory {
    /// Height and width.
    size: [usize; 2],
    pixels: Vec<u8>,
}

impl Memory {
    pub(crate) fn new(size: [usize; 2], pixels: Vec<u8>) -> Self {
        assert_eq!(pixels.len() % (3 * size[0] * size[1]), 0, "whole images of {size:?}");
        Self { size, pixels }
    }

    fn len(&self) -> usize {
        self.pixels.len() / (3 * self.size[0] * self.size[1])
    }

    fn image(&self, index: usize) -> &[u8] {
        let bytes = 3 * self.size[0] * self.size[1];
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
    /// `[channel of the network][byte]` to the normalised value.
    values: [[f32; 256]; 3],
    order: ChannelOrder,
    source: Source,
}

enum Source {
    Memory(Arc<Memory>),
}

impl Unlabelled {
    pub(crate) fn from_memory(name: String, memory: Arc<Memory>, preprocess: &Preprocess) -> Self {
        let [height, width] = memory.size;
        let members = (0..memory.len()).collect();
        let store = Store {
            name,
            shape: [3, height, width],
            values: value_table(preprocess),
            order: preprocess.order,
            source: Source::Memory(memory),
        };
        Self { store: Arc::new(store), members }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.members.len()
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

    /// The images at `indices`, normalised, in that order.
    ///
    /// # Errors
    /// An index past the end.
    pub fn batch(&self, indices: &[usize]) -> Result<Batch, ImageError> {
        let members = self.members_at(indices)?;
        let [channels, height, width] = self.store.shape;
        let mut pixels = vec![0.0; members.len() * channels * height * width];
        pixels
            .par_chunks_exact_mut(channels * height * width)
            .zip(&members)
            .for_each(|(out, &member)| self.store.image(member, out));
        Ok(Batch { shape: [members.len(), channels, height, width], pixels })
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

    fn select(&self, indices: &[usize]) -> Self {
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
    fn image(&self, member: usize, out: &mut [f32]) {
        match &self.source {
            Source::Memory(memory) => self.normalise(memory.image(member), out),
        }
    }

    /// `[H, W, RGB]` bytes to `[C, H, W]` in the network's channel order.
    fn normalise(&self, rgb: &[u8], out: &mut [f32]) {
        let plane = out.len() / 3;
        for (channel, (out, values)) in out.chunks_exact_mut(plane).zip(&self.values).enumerate() {
            let from = match self.order {
                ChannelOrder::Rgb => channel,
                ChannelOrder::Bgr => 2 - channel,
            };
            for (value, pixel) in out.iter_mut().zip(rgb.chunks_exact(3)) {
                *value = values[usize::from(pixel[from])];
            }
        }
    }
}

/// `(byte / divide - mean) / std` in that order of rounding, as torchvision's `ToTensor` and `Normalize` do.
fn value_table(preprocess: &Preprocess) -> [[f32; 256]; 3] {
    std::array::from_fn(|c| {
        std::array::from_fn(|byte| (byte as f32 / preprocess.divide - preprocess.mean[c]) / preprocess.std[c])
    })
}

/// Images with labels, for evaluation and supervised training. Cheap to clone.
#[derive(Clone)]
pub struct Labelled {
    images: Unlabelled,
    labels: Arc<[usize]>,
    classes: Arc<[String]>,
}

impl Labelled {
    pub(crate) fn new(images: Unlabelled, labels: Arc<[usize]>, classes: Arc<[String]>) -> Self {
        assert_eq!(images.len(), labels.len(), "one label an image");
        Self { images, labels, classes }
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

    /// Name of each class; empty where the source has only indices.
    pub fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// The images at `indices`, normalised, with their labels, in that order.
    ///
    /// # Errors
    /// As [`Unlabelled::batch`].
    pub fn batch(&self, indices: &[usize]) -> Result<LabelledBatch, ImageError> {
        let images = self.images.batch(indices)?;
        Ok(LabelledBatch { images, labels: indices.iter().map(|&i| self.labels[i]).collect() })
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

fn spread(len: usize, count: usize) -> Vec<usize> {
    let count = count.min(len);
    (0..count).map(|i| i * len / count).collect()
}
