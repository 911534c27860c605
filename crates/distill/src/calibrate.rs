//! Ranges of a network's values on unlabelled images, for runtimes whose activations have one fixed scale each.
use std::str::FromStr;

use burn::tensor::Tensor;
use dsconv::Network;
use graph::NodeId;
use images::Unlabelled;

use crate::evaluate::{check_fits, host};
use crate::loader::{Prefetch, tensor};
use crate::workers::{Workers, cores};
use crate::{Context, Error};

/// The images of a batch, of which every observed value is in memory at the same time.
const BATCH: usize = 8;

/// How a range is chosen from the values that were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Calibration {
    /// The range holds all but one in ten thousand values at either end.
    Percentile,
    /// The range gives the least squared error of values that are rounded to 256 levels inside it and limited to its ends outside.
    #[default]
    Mse,
}

impl Calibration {
    /// Every way to choose a range.
    const ALL: [Self; 2] = [Self::Percentile, Self::Mse];

    /// The name by which [`FromStr`] knows it.
    fn name(self) -> &'static str {
        match self {
            Self::Percentile => "percentile",
            Self::Mse => "mse",
        }
    }
}

impl FromStr for Calibration {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|c| c.name() == text).ok_or_else(|| "`percentile` or `mse`".to_owned())
    }
}

/// Runs the network on all images and finds the ranges `[min, max]` of the outputs of `nodes`, in their order.
///
/// # Errors
/// [`Error::Data`] where the images do not fit the network or a value is NaN or infinite, [`Error::Images`],
/// [`Error::Interrupted`].
pub fn calibrate(
    network: &Network,
    nodes: &[NodeId],
    images: &Unlabelled,
    calibration: Calibration,
    context: &Context,
) -> Result<Vec<[f32; 2]>, Error> {
    check_fits(network.graph(), images)?;
    let count = images.len();
    let most = network.graph().at_once(BATCH);
    let workers = Workers::new(&context.device, cores().min(count.min(most)))?;
    let source = {
        let images = images.clone();
        let batch = move |i| images.batch(&(i * most..count.min((i + 1) * most)).collect::<Vec<_>>());
        Prefetch::new(0..count.div_ceil(most), batch)
    };
    context.progress.start("calibrate", count);
    let mut histograms = vec![Histogram::default(); nodes.len()];
    let mut done = 0;
    for batch in source {
        context.check()?;
        let batch = batch?;
        done += batch.shape[0];
        if batch.indices.is_empty() {
            continue;
        }
        let x = tensor(batch, &context.device);
        let [len, ..] = x.dims();
        let part = |range: std::ops::Range<usize>| (network.clone(), x.clone().narrow(0, range.start, range.len()));
        let parts = workers.parts(len).into_iter().map(part).collect();
        let stop = || context.interrupter.should_stop();
        let seen = workers.run(parts, |(network, x): (Network, Tensor<4>)| {
            let (_, values) = network.forward_taps_unless(x, nodes, &stop)?;
            Some(values.into_iter().map(|value| Histogram::of(&host(value))).collect::<Vec<_>>())
        });
        for part in seen {
            let part = part.ok_or_else(|| context.interrupted())?;
            for (sum, part) in histograms.iter_mut().zip(part) {
                sum.add(part);
            }
        }
        context.progress.advance(done, "");
    }
    context.progress.finish();
    let name = |i: usize| network.graph().node(nodes[i]).name.clone();
    let range = |(i, histogram): (usize, &Histogram)| {
        histogram.range(calibration).ok_or_else(|| Error::Data {
            set: images.name().to_owned(),
            why: format!("the output of `{}` is NaN or infinite", name(i)),
        })
    };
    histograms.iter().enumerate().map(range).collect()
}

/// The number of bins of either sign; the largest magnitude seen lies in their upper half.
const BINS: usize = 4096;

/// A histogram counts how often values were seen.
#[derive(Debug, Clone)]
struct Histogram {
    /// Bin `BINS + i` counts the values in `i * width .. (i + 1) * width`, for `i` from `-BINS`.
    counts: Vec<u64>,
    /// The reach is `BINS * width`: the first power of two beyond all magnitudes, or 0 before there is a value other than 0.
    reach: f64,
    zeros: u64,
    min: f32,
    max: f32,
    finite: bool,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; 2 * BINS], reach: 0.0, zeros: 0, min: 0.0, max: 0.0, finite: true }
    }
}

impl Histogram {
    fn of(values: &[f32]) -> Self {
        let mut made = Self::default();
        let largest = values.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        if !values.iter().all(|v| v.is_finite()) {
            made.finite = false;
            return made;
        }
        made.grow(largest);
        let per_value = BINS as f64 / made.reach;
        for &v in values {
            if v == 0.0 {
                made.zeros += 1;
                continue;
            }
            made.min = made.min.min(v);
            made.max = made.max.max(v);
            let bin = (f64::from(v) * per_value).floor() as i64 + BINS as i64;
            made.counts[bin.clamp(0, 2 * BINS as i64 - 1) as usize] += 1;
        }
        made
    }

    /// Widens the bins until `magnitude` has one.
    fn grow(&mut self, magnitude: f32) {
        if magnitude == 0.0 {
            return;
        }
        if self.reach == 0.0 {
            self.reach = f64::from(magnitude).log2().floor().exp2();
        }
        while self.reach <= f64::from(magnitude) {
            self.reach *= 2.0;
            // Neighbours join, towards the middle.
            let mut wider = vec![0; 2 * BINS];
            for (i, &count) in self.counts.iter().enumerate() {
                let place = (i as i64 - BINS as i64).div_euclid(2) + BINS as i64;
                wider[place as usize] += count;
            }
            self.counts = wider;
        }
    }

    fn add(&mut self, mut other: Self) {
        self.finite &= other.finite;
        self.zeros += other.zeros;
        // Both reach to the first power of two beyond their largest magnitude, and now to the same one.
        let largest = |h: &Self| h.max.max(-h.min);
        let most = largest(self).max(largest(&other));
        self.grow(most);
        other.grow(most);
        if most == 0.0 {
            return;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
    }

    /// The range of what was seen, in which zero lies; `None` where a value was not finite.
    fn range(&self, calibration: Calibration) -> Option<[f32; 2]> {
        if !self.finite {
            return None;
        }
        let exact = [self.min, self.max];
        let found = match calibration {
            Calibration::Percentile => self.percentile(),
            Calibration::Mse => self.least_error(),
        };
        Some([found[0].max(exact[0]), found[1].min(exact[1])])
    }

    /// The lower and the upper edge of bin `i`.
    fn edges(&self, i: usize) -> [f64; 2] {
        let width = self.reach / BINS as f64;
        let low = (i as f64 - BINS as f64) * width;
        [low, low + width]
    }

    fn percentile(&self) -> [f32; 2] {
        let total = self.zeros + self.counts.iter().sum::<u64>();
        let outside = total / 10_000;
        let low = self.beyond(0..BINS, outside).map_or(0.0, |i| self.edges(i)[0]);
        let high = self.beyond((BINS..2 * BINS).rev(), outside).map_or(0.0, |i| self.edges(i)[1]);
        [low as f32, high as f32]
    }

    /// Finds the bin before whose end, on a walk through `bins`, more than `outside` values lie.
    fn beyond(&self, mut bins: impl Iterator<Item = usize>, outside: u64) -> Option<usize> {
        let mut passed = 0;
        bins.find(|&i| {
            passed += self.counts[i];
            passed > outside
        })
    }

    /// Tries to cut either end at hundredths of its length, in turns.
    fn least_error(&self) -> [f32; 2] {
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        let filled: Vec<(f64, f64)> = (0..2 * BINS)
            .filter(|&i| self.counts[i] > 0)
            .map(|i| (self.edges(i).iter().sum::<f64>() / 2.0, self.counts[i] as f64))
            .collect();
        let error = |low: f64, high: f64| -> f64 {
            let step = (high - low) / 255.0;
            let term = |&(x, count): &(f64, f64)| {
                let code = ((x - low) / step).round().clamp(0.0, 255.0);
                count * (x - low - code * step).powi(2)
            };
            filled.iter().map(term).sum()
        };
        let best = |tried: &dyn Fn(f64) -> [f64; 2]| {
            let candidates = (1..=100).map(|percent| tried(f64::from(percent) / 100.0));
            let scored = candidates.filter(|[low, high]| high > low).map(|range| (error(range[0], range[1]), range));
            scored.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, range)| range)
        };
        let mut range = [min, max];
        for _ in 0..2 {
            range = best(&|part| [range[0], max * part]).unwrap_or(range);
            range = if min < 0.0 { best(&|part| [min * part, range[1]]).unwrap_or(range) } else { range };
        }
        range.map(|end| end as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f32]) -> Histogram {
        let mut sum = Histogram::default();
        // In parts of different magnitudes, as batches come.
        for part in values.chunks(values.len().div_ceil(3)) {
            sum.add(Histogram::of(part));
        }
        sum
    }

    #[test]
    fn percentile_leaves_out_one_in_ten_thousand_at_either_end() {
        // 0.001, 0.002 ... 20: of 20,000 values the two largest lie outside.
        let values: Vec<f32> = (1..=20_000).map(|i| i as f32 / 1000.0).collect();
        let [low, high] = histogram(&values).range(Calibration::Percentile).unwrap();
        assert_eq!(low, 0.0);
        assert!((19.99..=20.0).contains(&high), "{high}");
        let mut outliers = values.clone();
        outliers.extend([1000.0, -1000.0]);
        let [low, high] = histogram(&outliers).range(Calibration::Percentile).unwrap();
        // The reach is 1024 now, a bin 0.25 wide.
        assert_eq!(low, 0.0, "one of 20,002 values is outside");
        assert!((19.9..=20.3).contains(&high), "{high}");
    }

    #[test]
    fn least_error_cuts_outliers_but_not_a_plain_distribution() {
        let even: Vec<f32> = (0..20_000).map(|i| i as f32 / 10_000.0 - 1.0).collect();
        let [low, high] = histogram(&even).range(Calibration::Mse).unwrap();
        assert!(low <= -0.97 && high >= 0.97, "{low} {high}");
        let mut outlier = even.clone();
        // Keeping 100 costs 20,000 * (100/255)^2 / 12 = 256 squared; but cutting it costs 98^2: it stays.
        outlier.push(100.0);
        let [_, high] = histogram(&outlier).range(Calibration::Mse).unwrap();
        assert!(high > 90.0, "{high}");
        // 8 is cut at a cost of 36 at most; keeping it costs 20,000 times (9/255)^2 / 12 - (2/255)^2 / 12 = 2: it stays.
        // Among 100 times as many values it goes: keeping it would cost 200.
        let mut many: Vec<f32> = (0..2_000_000).map(|i| i as f32 / 1_000_000.0 - 1.0).collect();
        many.push(8.0);
        let [_, high] = histogram(&many).range(Calibration::Mse).unwrap();
        assert!(high < 4.0, "{high}");
    }

    #[test]
    fn parts_of_any_magnitude_add_up() {
        let values: Vec<f32> = (0..3000).map(|i| (i as f32 * 0.37).sin() * (i as f32 / 100.0).exp2()).collect();
        let (whole, parts) = (Histogram::of(&values), histogram(&values));
        assert_eq!((whole.reach, whole.min, whole.max), (parts.reach, parts.min, parts.max));
        assert_eq!(whole.counts, parts.counts);
        assert_eq!(parts.counts.iter().sum::<u64>() + parts.zeros, 3000);
    }

    #[test]
    fn zeros_and_what_is_not_finite() {
        assert_eq!(histogram(&[0.0; 9]).range(Calibration::Mse), Some([0.0, 0.0]));
        assert_eq!(histogram(&[0.0; 9]).range(Calibration::Percentile), Some([0.0, 0.0]));
        assert_eq!(histogram(&[1.0, 0.0, f32::NAN]).range(Calibration::Mse), None);
        assert_eq!(histogram(&[f32::INFINITY, 0.0, 0.0]).range(Calibration::Percentile), None);
        let one = histogram(&[0.0, 3.0, 0.0]).range(Calibration::Mse).unwrap();
        assert!((one[1] - 3.0).abs() < 0.05, "{one:?}");
    }
}
