//! What a network gets right, and how far a quantized one is from its teacher.
use burn::tensor::{DType, Tensor};
use dsconv::Network;
use images::Unlabelled;
use serde::{Deserialize, Serialize};

use crate::loader::{Prefetch, tensor};
use crate::workers::{Workers, cores};
use crate::{Context, Error};

/// Images of a batch in evaluation: memory and speed depend on it.
const BATCH: usize = 64;
/// Images of a part of one, at least. An image's logits do not depend on the others beside it.
const LEAST: usize = 8;

/// The outputs of a network for the images of a set, before softmax. An image that could not be read has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    classes: usize,
    /// Which images of the set, ascending.
    images: Vec<usize>,
    /// `[images, classes]`.
    values: Vec<f32>,
}

/// The numbers by which networks are compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Images.
    pub count: usize,
    /// Percent of the images whose label has the largest logit.
    pub top1: f64,
    /// Percent of the images whose label is among the five largest logits.
    pub top5: f64,
    /// Percent of the images for which the network and its teacher name the same class; 100 for the teacher.
    pub agreement: f64,
    /// `10 log10(sum t^2 / sum (t - s)^2)` over all raw logits, `t` the teacher's and `s` the network's. `None` where the
    /// two are the same to the bit.
    pub sqnr_db: Option<f64>,
}

impl Logits {
    /// Of all images of a set, `[images, classes]`, row-major.
    ///
    /// # Panics
    /// If there are no classes, or `values` is not a whole number of rows.
    pub fn new(classes: usize, values: Vec<f32>) -> Self {
        assert!(classes > 0 && values.len().is_multiple_of(classes), "{} values of {classes} classes", values.len());
        Self { classes, images: (0..values.len() / classes).collect(), values }
    }

    /// Of some images of a set, in its order.
    ///
    /// # Panics
    /// If there are no classes, or not one row of `values` for each of `images`, ascending.
    pub fn of_images(classes: usize, images: Vec<usize>, values: Vec<f32>) -> Self {
        assert!(classes > 0 && values.len() == images.len() * classes, "{} rows of {classes}", images.len());
        assert!(images.is_sorted_by(|a, b| a < b), "images in their order");
        Self { classes, images, values }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Which images of the set these are of, ascending; a row is one of them.
    pub fn images(&self) -> &[usize] {
        &self.images
    }

    /// What a network says to an image of the set.
    pub fn of(&self, image: usize) -> Option<&[f32]> {
        self.images.binary_search(&image).ok().map(|row| self.row(row))
    }

    /// Each image's logits beside another network's, of the images that both have.
    ///
    /// # Panics
    /// If the two have other numbers of classes.
    fn beside<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
        assert_eq!(self.classes, other.classes, "logits of the same classes");
        (0..self.len()).filter_map(|row| Some((self.row(row), other.of(self.images[row])?)))
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// One row: see [`images`](Self::images).
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.classes..][..self.classes]
    }

    /// All logits, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The class with the largest logit of a row, the first of equal ones.
    pub fn class(&self, row: usize) -> usize {
        largest(self.row(row))
    }

    /// Percent of the images whose label is among the `k` largest logits; of equal logits the lower class counts as the
    /// larger. A label without a number for a logit is never among them. `labels` has one for each image of the set; those
    /// of images without logits do not count.
    ///
    /// # Panics
    /// If an image has no label.
    pub fn accuracy(&self, labels: &[usize], k: usize) -> f64 {
        let right = (0..self.len()).filter(|&row| {
            let (label, row) = (labels[self.images[row]], self.row(row));
            let Some(&own) = row.get(label).filter(|own| !own.is_nan()) else { return false };
            let ahead =
                row.iter().enumerate().filter(|&(class, &v)| v.is_nan() || v > own || (v == own && class < label));
            ahead.count() < k
        });
        percent(right.count(), self.len())
    }

    /// Percent of the images for which both name the same class; images that one of them lacks do not count.
    ///
    /// # Panics
    /// If the two have other numbers of classes.
    pub fn agreement(&self, teacher: &Self) -> f64 {
        let (mut same, mut count) = (0, 0);
        for (mine, theirs) in self.beside(teacher) {
            same += usize::from(largest(mine) == largest(theirs));
            count += 1;
        }
        percent(same, count)
    }

    /// See [`Scores::sqnr_db`].
    ///
    /// # Panics
    /// If the two have other numbers of classes.
    pub fn sqnr_db(&self, teacher: &Self) -> Option<f64> {
        let pairs =
            || self.beside(teacher).flat_map(|(s, t)| t.iter().zip(s)).map(|(&t, &s)| (f64::from(t), f64::from(s)));
        let signal: f64 = pairs().map(|(t, _)| t * t).sum();
        let noise: f64 = pairs().map(|(t, s)| (t - s) * (t - s)).sum();
        (noise != 0.0).then(|| 10.0 * (signal / noise).log10())
    }

    /// For each image the largest difference from another network's logits, relative to the largest of those.
    ///
    /// # Panics
    /// If the two have other numbers of classes.
    pub fn differences(&self, other: &Self) -> Vec<f64> {
        let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let image = |(mine, theirs): (&[f32], &[f32])| {
            let mut apart = mine.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
            match largest(&mut apart) {
                0.0 => 0.0,
                apart => apart / largest(&mut theirs.iter().map(|v| f64::from(v.abs()))),
            }
        };
        self.beside(other).map(image).collect()
    }

    /// Accuracy against labels, one for each image of the set, and closeness to a teacher.
    ///
    /// # Panics
    /// If an image has no label, or the teacher another number of classes.
    pub fn scores(&self, labels: &[usize], teacher: &Self) -> Scores {
        Scores {
            count: self.len(),
            top1: self.accuracy(labels, 1),
            top5: self.accuracy(labels, 5),
            agreement: self.agreement(teacher),
            sqnr_db: self.sqnr_db(teacher),
        }
    }
}

/// The largest value's place, the first of equal ones.
fn largest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// The logits of several networks in one pass over the images: each is decoded once, ahead of the networks, on another
/// thread.
///
/// # Errors
/// [`Error::Data`] where the images do not fit the networks, [`Error::Images`], [`Error::Interrupted`].
pub fn predict(
    phase: &str,
    networks: &[&Network],
    images: &Unlabelled,
    context: &Context,
) -> Result<Vec<Logits>, Error> {
    for network in networks {
        check_fits(network.graph(), images)?;
    }
    let count = images.len();
    let batches = count.div_ceil(BATCH);
    let workers = Workers::new(&context.device, cores().min(count.min(BATCH) / LEAST))?;
    let source = {
        let images = images.clone();
        Prefetch::new(0..batches, move |i| images.batch(&(i * BATCH..count.min((i + 1) * BATCH)).collect::<Vec<_>>()))
    };
    context.progress.start(phase, count);
    let mut outputs: Vec<Vec<f32>> = vec![Vec::new(); networks.len()];
    let mut seen = Vec::with_capacity(count);
    for (batch, number) in source.zip(1..) {
        context.check()?;
        let batch = batch?;
        if batch.indices.is_empty() {
            continue;
        }
        seen.extend_from_slice(&batch.indices);
        let x = tensor(batch, &context.device);
        for (network, output) in networks.iter().zip(&mut outputs) {
            let [len, ..] = x.dims();
            let part =
                |range: std::ops::Range<usize>| ((*network).clone(), x.clone().narrow(0, range.start, range.len()));
            let parts = workers.parts(len).into_iter().map(part).collect();
            let logits = workers.run(parts, |(network, x): (Network, Tensor<4>)| host(network.forward(x)));
            output.extend(logits.into_iter().flatten());
        }
        context.progress.advance(count.min(number * BATCH), "");
    }
    context.progress.finish();
    let classes = networks.iter().map(|network| network.graph().output().channels);
    Ok(classes.zip(outputs).map(|(classes, values)| Logits::of_images(classes, seen.clone(), values)).collect())
}

/// # Errors
/// [`Error::Data`] where a set is empty or its images have another size than the network's input.
pub(crate) fn check_fits(graph: &graph::Graph, images: &Unlabelled) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::Data { set: images.name().to_owned(), why });
    let (input, [channels, height, width]) = (graph.input(), images.shape());
    if (input.channels, input.height, input.width) != (channels, height, width) {
        return refuse(format!(
            "its images are {channels}x{height}x{width}, `{}` takes {}x{}x{}",
            graph.name(),
            input.channels,
            input.height,
            input.width
        ));
    }
    if images.is_empty() { refuse("it has no images".into()) } else { Ok(()) }
}

/// A tensor's elements, row-major.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.without_autodiff().into_data().convert_dtype(DType::F32).try_into_vec::<f32>().expect("f32 data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_labels_among_the_largest() {
        let logits = Logits::new(3, vec![0.1, 0.9, 0.5, 2.0, 1.0, 3.0, f32::NAN, 1.0, 0.0]);
        // Ranks of the labels: 1 is first, 1 is third, 1 comes after the NaN.
        assert_eq!(logits.accuracy(&[1, 1, 1], 1), 100.0 / 3.0);
        assert_eq!(logits.accuracy(&[1, 1, 1], 2), 200.0 / 3.0);
        assert_eq!(logits.accuracy(&[1, 1, 0], 5), 200.0 / 3.0);
        assert_eq!(Logits::new(2, vec![1.0, 1.0]).accuracy(&[1], 1), 0.0);
    }

    #[test]
    fn images_without_logits_do_not_count() {
        // Images 0 and 2 of three.
        let logits = Logits::of_images(2, vec![0, 2], vec![0.0, 1.0, 1.0, 0.0]);
        assert_eq!((logits.of(1), logits.of(2)), (None, Some([1.0, 0.0].as_slice())));
        assert_eq!(logits.accuracy(&[1, 1, 1], 1), 50.0);
        let teacher = Logits::new(2, vec![0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        let scores = logits.scores(&[1, 1, 1], &teacher);
        assert_eq!((scores.count, scores.agreement), (2, 50.0));
        // Signal 1 + 1, noise 0 + 2.
        assert_eq!(scores.sqnr_db, Some(0.0));
    }

    #[test]
    fn agreement_and_noise_are_against_the_teacher() {
        let teacher = Logits::new(2, vec![3.0, 1.0, 1.0, 3.0]);
        let student = Logits::new(2, vec![3.0, 1.0, 3.0, 1.0]);
        let scores = student.scores(&[0, 1], &teacher);
        assert_eq!((scores.agreement, scores.top1, scores.top5), (50.0, 50.0, 100.0));
        // Signal 20, noise 4 + 4.
        assert!((scores.sqnr_db.unwrap() - 10.0 * 2.5f64.log10()).abs() < 1e-12);
        assert_eq!(teacher.sqnr_db(&teacher), None);
    }
}
