//! Sets of images with labels.
use std::fmt;
use std::sync::Arc;

use crate::ImageError;
use crate::classes::Labels;
use crate::set::{Batch, Skipped, Unlabelled, shuffled_parts, spread};

/// A batch of normalised images with their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledBatch {
    /// The images.
    pub images: Batch,
    /// The class of each image of the batch.
    pub labels: Vec<usize>,
}

/// A set of images with labels, for evaluation and supervised training. A clone shares the images.
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

    /// Returns the meaning of the labels.
    pub(crate) fn kind(&self) -> &Labels {
        &self.kind
    }

    /// Changes each label to its entry in `outputs`, and the class names to those of a network.
    pub(crate) fn relabelled(&self, outputs: Option<&[usize]>, classes: Vec<String>) -> Self {
        let label = |&label: &usize| outputs.map_or(label, |outputs| outputs[label]);
        let labels = self.labels.iter().map(label).collect();
        Self { images: self.images.clone(), labels, classes: classes.into(), kind: Arc::new(Labels::Outputs) }
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Returns the shape of every image, `[C, H, W]`.
    pub fn shape(&self) -> [usize; 3] {
        self.images.shape()
    }

    /// Returns the name of the set for messages and reports.
    pub fn name(&self) -> &str {
        self.images.name()
    }

    /// Returns the class of each image, in the set's order.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// Returns the name of each class, or nothing where the source has none. After [`for_network`](Self::for_network) they
    /// are those of the network's classes.
    pub fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// Returns the files that were left out so far: see [`Unlabelled::skipped`].
    pub fn skipped(&self) -> Vec<Skipped> {
        self.images.skipped()
    }

    /// Decodes and normalises the images at `indices`, in that order, with their labels. An image that
    /// [`Unlabelled::batch`] leaves out has no label here.
    ///
    /// # Errors
    /// The errors of [`Unlabelled::batch`].
    pub fn batch(&self, indices: &[usize]) -> Result<LabelledBatch, ImageError> {
        Ok(self.with_labels(self.images.batch(indices)?))
    }

    /// Returns a [`batch`](Self::batch) that is not empty if `indices` is not.
    ///
    /// # Errors
    /// The errors of [`Unlabelled::batch_of_some`].
    pub fn batch_of_some(&self, indices: &[usize]) -> Result<LabelledBatch, ImageError> {
        Ok(self.with_labels(self.images.batch_of_some(indices)?))
    }

    fn with_labels(&self, images: Batch) -> LabelledBatch {
        let labels = images.indices.iter().map(|&index| self.labels[index]).collect();
        LabelledBatch { images, labels }
    }

    /// Returns the images without their labels.
    pub fn without_labels(&self) -> Unlabelled {
        self.images.clone()
    }

    /// Shuffles by `seed` and splits into the rest and `held_out` images (fewer if the set is smaller).
    pub fn split(&self, held_out: usize, seed: u64) -> (Self, Self) {
        let (rest, held) = shuffled_parts(self.len(), held_out, seed);
        (self.select(&rest), self.select(&held))
    }

    /// Returns `count` images spread evenly over the set, or all if it is smaller.
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

#[cfg(test)]
mod tests {
    use graph::{ChannelOrder, Preprocess, Resize};

    use super::*;
    use crate::set::DecodedImages;

    /// Makes a set of five images of one pixel: 0, 10, 20, 30, 40.
    fn five(preprocess: &Preprocess) -> Labelled {
        let pixels = (0..5).flat_map(|i| [i * 10; 3]).collect();
        let images =
            Unlabelled::from_memory("five".to_owned(), Arc::new(DecodedImages::new(3, [1, 1], pixels)), preprocess);
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
        let memory = Arc::new(DecodedImages::new(3, [1, 1], vec![10, 20, 30]));
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
        let memory = Arc::new(DecodedImages::new(3, [1, 2], vec![0, 0, 0, 100, 100, 100]));
        let preprocess = Preprocess { resize: Some(Resize::Exact([1, 4])), crop: Some([1, 2]), ..bytes_as_they_are() };
        let set = Unlabelled::from_memory("two".to_owned(), memory, &preprocess);
        // 0, 25, 75, 100 in the middle.
        assert_eq!(set.batch(&[0]).unwrap().pixels, [25.0, 75.0, 25.0, 75.0, 25.0, 75.0]);
    }

    #[test]
    fn grey_networks_take_one_channel() {
        let memory = Arc::new(DecodedImages::new(3, [1, 2], vec![255, 0, 0, 7, 7, 7]));
        let set = Unlabelled::from_memory("two".to_owned(), memory, &Preprocess::bytes(ChannelOrder::Grey));
        assert_eq!(set.shape(), [1, 1, 2]);
        assert_eq!(set.batch(&[0]).unwrap().pixels, [76.0, 7.0]);
    }
}
