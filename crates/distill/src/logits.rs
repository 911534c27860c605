//! The outputs of a network for a set of images, and the numbers by which networks are compared.
use std::borrow::Cow;
use std::collections::BTreeMap;

use graph::{Head, Outputs};
use serde::{Deserialize, Serialize};

/// The outputs of a network for the images of a set. An image that could not be read has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    head: Head,
    /// The images that rows are of, ascending, by their place in the set.
    images: Vec<usize>,
    /// The outputs, `[images, outputs]`, row-major.
    values: Vec<f32>,
}

/// The numbers by which networks are compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The number of images.
    pub count: usize,
    /// The percentage of images whose label is the class that the network names; `None` for images without labels.
    pub top1: Option<f64>,
    /// The percentage of images whose label is among the first five classes.
    pub top5: Option<f64>,
    /// The percentage of images for which the network and its teacher decide the same; 100 for the teacher.
    pub agreement: f64,
    /// The signal-to-quantization-noise ratio in dB, `10 log10(sum t^2 / sum (t - s)^2)` over all outputs, where `t` are the
    /// teacher's and `s` the network's: see [`Logits::sqnr_db`]. `None` where the two are the same.
    pub sqnr_db: Option<f64>,
}

impl Logits {
    /// Takes the outputs for all images of a set, `[images, outputs]`, row-major; `head` says how outputs are read.
    ///
    /// # Panics
    /// If there are no outputs, or `values` is not a whole number of rows.
    pub fn new(head: Head, values: Vec<f32>) -> Self {
        let count = head.count;
        assert!(count > 0 && values.len().is_multiple_of(count), "{} values of {count} outputs", values.len());
        Self { head, images: (0..values.len() / count).collect(), values }
    }

    /// Takes the outputs for some images of a set, which `images` names by their place in it.
    ///
    /// # Panics
    /// If there are no outputs, or not one row of `values` for each of `images`, ascending.
    pub fn of_images(head: Head, images: Vec<usize>, values: Vec<f32>) -> Self {
        let count = head.count;
        assert!(count > 0 && values.len() == images.len() * count, "{} rows of {count}", images.len());
        assert!(images.is_sorted_by(|a, b| a < b), "images in their order");
        Self { head, images, values }
    }

    /// The number of images that have outputs.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// The places in the set of the images that rows are of, ascending.
    pub fn images(&self) -> &[usize] {
        &self.images
    }

    /// The outputs for an image of the set; `None` for one that could not be read.
    pub fn of(&self, image: usize) -> Option<&[f32]> {
        self.images.binary_search(&image).ok().map(|row| self.row(row))
    }

    /// Pairs each image's outputs with another network's, for the images that both have.
    ///
    /// # Panics
    /// If the two have other numbers of outputs.
    pub(crate) fn beside<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
        assert_eq!(self.head.count, other.head.count, "outputs of the same classes");
        (0..self.len()).filter_map(|row| Some((self.row(row), other.of(self.images[row])?)))
    }

    /// Whether no image has outputs.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// How outputs are read as classes.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.head.classes()
    }

    /// The outputs of a row, which is that of one image: see [`images`](Self::images).
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.head.count..][..self.head.count]
    }

    /// The outputs of all images, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The class that a row names: that of the largest output, or of the first of equal ones. A single output names class 1 where its
    /// probability is more than a half, else class 0.
    pub fn class(&self, row: usize) -> usize {
        largest(&ranks(self.head, self.row(row)))
    }

    /// The most images for which one and the same class is named: all of them where the network does not tell images apart.
    pub fn alike(&self) -> usize {
        let mut counts = BTreeMap::<usize, usize>::new();
        (0..self.len()).for_each(|row| *counts.entry(self.class(row)).or_default() += 1);
        counts.into_values().max().unwrap_or(0)
    }

    /// The class that is named for an image of the set; `None` for one that could not be read.
    pub fn named(&self, image: usize) -> Option<usize> {
        self.images.binary_search(&image).ok().map(|row| self.class(row))
    }

    /// The outputs for some images of the set, which become the set: images without outputs have none there either.
    pub fn select(&self, images: &[usize]) -> Self {
        let rows = images.iter().enumerate().filter_map(|(place, &image)| Some((place, self.of(image)?)));
        let (places, rows): (Vec<usize>, Vec<&[f32]>) = rows.unzip();
        Self::of_images(self.head, places, rows.concat())
    }

    /// The percentage of images whose label is among the first `k` classes; of equal outputs the lower class comes first. A
    /// label without a number for an output is never among them. `labels` has one for each image of the set; those of images
    /// without outputs do not count.
    ///
    /// # Panics
    /// If an image has no label.
    pub fn accuracy(&self, labels: &[usize], k: usize) -> f64 {
        let right = (0..self.len()).filter(|&row| self.is_among(row, labels[self.images[row]], k));
        percent(right.count(), self.len())
    }

    /// Whether a class is among the first `k` of a row.
    fn is_among(&self, row: usize, class: usize, k: usize) -> bool {
        let row = ranks(self.head, self.row(row));
        let Some(&own) = row.get(class).filter(|own| !own.is_nan()) else { return false };
        let ahead = row.iter().enumerate().filter(|&(c, &v)| v.is_nan() || v > own || (v == own && c < class));
        ahead.count() < k
    }

    /// Counts the images that only one of two networks gets right. `labels` has one for each image of the set; images that one of
    /// them lacks do not count.
    ///
    /// # Panics
    /// If an image has no label.
    pub fn flips(&self, labels: &[usize], teacher: &Self) -> Flips {
        let mut flips = Flips { won: 0, lost: 0 };
        for (row, image) in self.images.iter().enumerate() {
            let Ok(theirs) = teacher.images.binary_search(image) else { continue };
            match (self.is_among(row, labels[*image], 1), teacher.is_among(theirs, labels[*image], 1)) {
                (true, false) => flips.won += 1,
                (false, true) => flips.lost += 1,
                _ => {}
            }
        }
        flips
    }

    /// The percentage of images for which both name the same class; where several classes can be right at the same time, both
    /// must also say yes to the same ones. Images that one of them lacks do not count.
    ///
    /// # Panics
    /// If the two have other numbers of outputs.
    pub fn agreement(&self, teacher: &Self) -> f64 {
        let (mine, theirs) = (self.head, teacher.head);
        let several = mine.is_multi_label() && theirs.is_multi_label();
        let decisions = |head, row: &[f32]| row.iter().map(|&v| v > threshold(head)).collect::<Vec<_>>();
        let (mut same, mut count) = (0, 0);
        for (s, t) in self.beside(teacher) {
            let agree = largest(&ranks(mine, s)) == largest(&ranks(theirs, t));
            same += usize::from(agree && (!several || decisions(mine, s) == decisions(theirs, t)));
            count += 1;
        }
        percent(same, count)
    }

    /// The power of the teacher's outputs over that of the difference from them, in decibels; `None` where there is no
    /// difference.
    ///
    /// Where one class is right, a shift of all outputs of an image changes nothing that softmax or a comparison sees: the
    /// mean of each image's outputs is taken off first, so that such a shift counts neither as signal nor as noise. A single
    /// output, or one with a sigmoid, is compared with a fixed threshold and by nothing else: there a shift moves decisions,
    /// and nothing is taken off. Outputs of which one network gives logits and the other probabilities are compared as
    /// probabilities.
    ///
    /// # Panics
    /// If the two have other numbers of outputs.
    pub fn sqnr_db(&self, teacher: &Self) -> Option<f64> {
        let (mut signal, mut noise) = (0.0, 0.0);
        for (s, t) in self.compared(teacher) {
            for (s, t) in s.into_iter().zip(t) {
                signal += t * t;
                noise += (t - s) * (t - s);
            }
        }
        (noise != 0.0).then(|| 10.0 * (signal / noise).log10())
    }

    /// Pairs each image's outputs with a teacher's as [`sqnr_db`](Self::sqnr_db) compares them.
    fn compared<'a>(&'a self, teacher: &'a Self) -> impl Iterator<Item = (Vec<f64>, Vec<f64>)> + 'a {
        let alike = self.head.outputs == teacher.head.outputs;
        let of = move |head: Head, row: &[f32]| match alike {
            true => comparable(head, row),
            false => head.probabilities(row),
        };
        self.beside(teacher).map(move |(s, t)| (of(self.head, s), of(teacher.head, t)))
    }

    /// The sum of the squares of all differences from a teacher's outputs, as [`sqnr_db`](Self::sqnr_db) takes them.
    pub(crate) fn noise(&self, teacher: &Self) -> f64 {
        self.compared(teacher).flat_map(|(s, t)| s.into_iter().zip(t)).map(|(s, t)| (t - s) * (t - s)).sum()
    }

    /// The sum of the squares of what tells images apart: of the outputs as [`sqnr_db`](Self::sqnr_db) takes them, without their
    /// mean over the images. It is scaled to be that of a mean over all images there could be, `n / (n - 1)`; a single image
    /// keeps its mean.
    pub(crate) fn contrast(&self) -> f64 {
        let rows: Vec<Vec<f64>> = (0..self.len()).map(|row| comparable(self.head, self.row(row))).collect();
        let count = rows.len() as f64;
        let mean = |output: usize| match rows.len() {
            1 => 0.0,
            _ => rows.iter().map(|row| row[output]).sum::<f64>() / count,
        };
        let means: Vec<f64> = (0..self.head.count).map(mean).collect();
        let squares = rows.iter().flat_map(|row| row.iter().zip(&means)).map(|(v, mean)| (v - mean) * (v - mean));
        squares.sum::<f64>() * if rows.len() > 1 { count / (count - 1.0) } else { 1.0 }
    }

    /// The largest difference from another network's logits for each image, relative to the largest of those.
    ///
    /// # Panics
    /// If the two have other numbers of outputs.
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

    /// Measures accuracy, where there are labels, one for each image of the set; and how close outputs are to a teacher's.
    ///
    /// # Panics
    /// If an image has no label, or the teacher another number of outputs.
    pub fn scores(&self, labels: Option<&[usize]>, teacher: &Self) -> Scores {
        let accuracy = |k| labels.map(|labels| self.accuracy(labels, k));
        Scores {
            count: self.len(),
            top1: accuracy(1),
            top5: accuracy(5),
            agreement: self.agreement(teacher),
            sqnr_db: self.sqnr_db(teacher),
        }
    }
}

/// The images of a set that one of two networks gets right and the other does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Flips {
    /// The number that the network gets right and its teacher does not.
    pub won: usize,
    /// The number that its teacher gets right and it does not.
    pub lost: usize,
}

impl Flips {
    /// The probability that two networks that are equally often right differ at least this much on images that only one of them
    /// gets right: McNemar's test, exact, with both sides. From 0.05 up, the accuracies of the two may well be the same.
    pub fn p_value(&self) -> f64 {
        let (count, fewer) = (self.won + self.lost, self.won.min(self.lost));
        // Logarithms of factorials: a binomial coefficient of many images does not fit a float.
        let mut factorial = vec![0.0; count + 1];
        for n in 1..=count {
            factorial[n] = factorial[n - 1] + (n as f64).ln();
        }
        let log_half = count as f64 * std::f64::consts::LN_2;
        let tail = (0..=fewer).map(|k| (factorial[count] - factorial[k] - factorial[count - k] - log_half).exp());
        (2.0 * tail.sum::<f64>()).min(1.0)
    }
}

/// The outputs of an image as they are compared: without their mean where one class is right.
fn comparable(head: Head, row: &[f32]) -> Vec<f64> {
    let centred = head.outputs != Outputs::Sigmoid && !head.is_binary();
    let mean = if centred { row.iter().map(|&v| f64::from(v)).sum::<f64>() / row.len() as f64 } else { 0.0 };
    row.iter().map(|&v| f64::from(v) - mean).collect()
}

/// Numbers for the classes, of which the largest is the class that is named: the outputs, or, for a single output, the
/// threshold above which it names class 1 and the output itself.
fn ranks(head: Head, row: &[f32]) -> Cow<'_, [f32]> {
    match row {
        &[output] => Cow::Owned(vec![threshold(head), output]),
        row => Cow::Borrowed(row),
    }
}

/// The value that stands for a probability of a half, above which an output that decides for itself says yes.
fn threshold(head: Head) -> f32 {
    if head.outputs == Outputs::Logits { 0.0 } else { 0.5 }
}

/// The place of the largest value, or of the first of equal ones.
fn largest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(outputs: Outputs, count: usize, values: &[f32]) -> Logits {
        Logits::new(Head { outputs, count }, values.to_vec())
    }

    #[test]
    fn accuracy_counts_labels_among_the_largest() {
        let found = logits(Outputs::Logits, 3, &[0.1, 0.9, 0.5, 2.0, 1.0, 3.0, f32::NAN, 1.0, 0.0]);
        // Ranks of the labels: 1 is first, 1 is third, 1 comes after the NaN.
        assert_eq!(found.accuracy(&[1, 1, 1], 1), 100.0 / 3.0);
        assert_eq!(found.accuracy(&[1, 1, 1], 2), 200.0 / 3.0);
        assert_eq!(found.accuracy(&[1, 1, 0], 5), 200.0 / 3.0);
        assert_eq!(logits(Outputs::Logits, 2, &[1.0, 1.0]).accuracy(&[1], 1), 0.0);
    }

    #[test]
    fn flips_are_what_one_network_alone_gets_right() {
        let student = logits(Outputs::Logits, 2, &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
        let teacher = logits(Outputs::Logits, 2, &[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
        let flips = student.flips(&[0, 0, 0, 0], &teacher);
        assert_eq!((flips, flips.p_value()), (Flips { won: 1, lost: 1 }, 1.0));
        // scipy.stats.binomtest(k, n, 0.5).pvalue
        for (won, lost, expected) in
            [(0, 0, 1.0), (2, 10, 0.03857421875), (30, 12, 0.0079158973), (900, 1000, 0.0231088451)]
        {
            let found = Flips { won, lost }.p_value();
            assert!((found - expected).abs() < 1e-6, "{won} {lost}: {found}");
        }
    }

    #[test]
    fn images_without_outputs_do_not_count() {
        // Images 0 and 2 of three.
        let head = Head { outputs: Outputs::Logits, count: 2 };
        let found = Logits::of_images(head, vec![0, 2], vec![-1.0, 1.0, 1.0, -1.0]);
        assert_eq!((found.of(1), found.of(2)), (None, Some([1.0, -1.0].as_slice())));
        assert_eq!(found.accuracy(&[1, 1, 1], 1), 50.0);
        let teacher = logits(Outputs::Logits, 2, &[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]);
        let scores = found.scores(Some(&[1, 1, 1]), &teacher);
        assert_eq!((scores.count, scores.agreement), (2, 50.0));
        // Signal 4, noise 4 + 4.
        assert!((scores.sqnr_db.unwrap() - 10.0 * 0.5f64.log10()).abs() < 1e-12);
    }

    #[test]
    fn agreement_and_noise_are_against_the_teacher() {
        let teacher = logits(Outputs::Logits, 2, &[3.0, 1.0, 1.0, 3.0]);
        let student = logits(Outputs::Logits, 2, &[3.0, 1.0, 3.0, 1.0]);
        let scores = student.scores(Some(&[0, 1]), &teacher);
        assert_eq!((scores.agreement, scores.top1, scores.top5), (50.0, Some(50.0), Some(100.0)));
        // Of centred logits +-1: signal 4, noise 4 + 4.
        assert!((scores.sqnr_db.unwrap() - 10.0 * 0.5f64.log10()).abs() < 1e-12);
        assert_eq!(teacher.sqnr_db(&teacher), None);
        let scores = student.scores(None, &teacher);
        assert_eq!((scores.agreement, scores.top1, scores.top5), (50.0, None, None));
    }

    #[test]
    fn a_shift_of_all_classes_is_no_noise_but_moves_a_sigmoid() {
        let (plain, shifted) = ([3.0, 1.0, 1.0, 3.0], [103.0, 101.0, -49.0, -47.0]);
        let of = |outputs| logits(outputs, 2, &shifted).sqnr_db(&logits(outputs, 2, &plain));
        assert_eq!(of(Outputs::Logits), None);
        assert!(of(Outputs::Sigmoid).is_some());
        // One output decides at 0: 9 + 1 of signal, 4 + 4 of noise.
        let found = logits(Outputs::Logits, 1, &[1.0, 3.0]).sqnr_db(&logits(Outputs::Logits, 1, &[3.0, 1.0]));
        assert!((found.unwrap() - 10.0 * 1.25f64.log10()).abs() < 1e-12);
    }

    #[test]
    fn one_output_names_two_classes() {
        let of_logits = logits(Outputs::Logits, 1, &[0.3, -0.3, 0.0]);
        assert_eq!(of_logits.alike(), 2);
        assert_eq!([0, 1, 2].map(|image| of_logits.class(image)), [1, 0, 0]);
        let of_sigmoid = logits(Outputs::Sigmoid, 1, &[0.6, 0.4, 0.5]);
        assert_eq!([0, 1, 2].map(|image| of_sigmoid.class(image)), [1, 0, 0]);
        assert_eq!(of_sigmoid.accuracy(&[1, 1, 0], 1), 200.0 / 3.0);
        assert_eq!(of_sigmoid.agreement(&of_logits), 100.0);
    }

    #[test]
    fn several_labels_agree_where_all_decisions_do() {
        let teacher = logits(Outputs::Sigmoid, 2, &[0.9, 0.6, 0.4, 0.3]);
        let student = logits(Outputs::Sigmoid, 2, &[0.9, 0.4, 0.2, 0.1]);
        // The first image loses its second label; the second has none in both, and the same likeliest.
        assert_eq!(student.agreement(&teacher), 50.0);
    }

    #[test]
    fn logits_are_compared_with_probabilities_as_probabilities() {
        let teacher = logits(Outputs::Logits, 2, &[0.0, 3.0f32.ln()]);
        let student = logits(Outputs::Softmax, 2, &[0.5, 0.5]);
        // (0.25^2 + 0.75^2) / (2 * 0.25^2) = 5
        assert!((student.sqnr_db(&teacher).unwrap() - 10.0 * 5.0f64.log10()).abs() < 1e-6);
    }
}
