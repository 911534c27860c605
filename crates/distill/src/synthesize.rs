//! Pictures that a network itself makes of drawn ones, for those who have no images.
use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use dsconv::Network;
use graph::{ChannelOrder, Folded, Preprocess};
use images::Unlabelled;

use crate::evaluate::{check_fits, host};
use crate::loss::Loss;
use crate::random::Random;
use crate::workers::{Workers, cores};
use crate::{Context, Error};

/// The name of a set of synthetic pictures.
pub const SYNTHETIC: &str = "synthetic pictures";

/// The steps that each picture is changed in, and how far about a pixel moves in one of them, in levels of 255.
const STEPS: usize = 8;
const RATE: f32 = 2.0;
/// The probability of a class over that of all others, as a logarithm, that pictures are changed towards.
const CERTAINTY: f32 = 4.0;
/// Pictures are shifted in every step by at most this part of a side, so that no single pixel decides.
const SHIFT: usize = 28;
/// The most pictures of a tensor.
const CHUNK: usize = 8;
/// Adam's decays.
const DECAYS: [f32; 2] = [0.5, 0.9];

/// Makes `count` pictures for a float network: drawn ones ([`images::generated`]), changed in 8 small steps towards what the network
/// calls a class, each towards another that is drawn by chance. On them the layers near the end see more of what they see on
/// real images than on drawn ones, which show nothing (Yin et al., "Dreaming to Distill", CVPR 2020, without statistics of
/// batch normalisation, that few files still have).
///
/// A picture depends on the network, the seed and its place in the set, and in its last levels on the CPU's vector instructions.
///
/// # Errors
/// [`Error::Data`] for a network whose input is no picture; [`Error::Interrupted`].
pub fn synthetic(
    teacher: &Folded,
    preprocess: &Preprocess,
    count: usize,
    seed: u64,
    context: &Context,
) -> Result<Unlabelled, Error> {
    let (folded, input) = (teacher.clone().without_head(), teacher.graph().input());
    let size = [input.height, input.width];
    let drawn = images::generated(count, seed, preprocess, size);
    check_fits(folded.graph(), &drawn)?;
    let device = context.device.clone().autodiff();
    let dreamer = Dreamer {
        network: Network::trainable(folded.graph(), folded.weights(), &device).no_grad(),
        loss: Loss::of(teacher.graph()),
        outputs: folded.graph().head().count,
        device,
        levels: Levels::new(preprocess),
        seed,
    };
    let workers = Workers::new(&context.device, cores())?;
    let most = folded.graph().at_once(CHUNK);
    let parts: Vec<Range<usize>> = (0..count).step_by(most).map(|i| i..count.min(i + most)).collect();
    let mut pixels = Vec::with_capacity(count * size[0] * size[1] * input.channels);
    context.progress.start("make pictures", count);
    for parts in parts.chunks(cores()) {
        let made = workers.run(parts.to_vec(), |part: Range<usize>| dreamer.dream(&drawn, part, context));
        for bytes in made {
            pixels.append(&mut bytes?);
        }
        context.progress.advance(parts.last().map_or(0, |part| part.end), "");
    }
    context.progress.finish();
    Ok(images::of_input_size(SYNTHETIC, pixels, size, preprocess))
}

/// The scale of a network's input.
struct Levels {
    order: ChannelOrder,
    /// The value of level 0 and the difference between two levels, of each channel in the network's order.
    channels: Vec<[f32; 2]>,
}

impl Levels {
    fn new(preprocess: &Preprocess) -> Self {
        let channels = preprocess.mean.iter().zip(&preprocess.std);
        let channels = channels.map(|(mean, std)| [-mean / std, 1.0 / (preprocess.divide * std)]).collect();
        Self { order: preprocess.order, channels }
    }

    /// Rounds values `[C, H, W]` to levels, `[H, W, C]` of red, green and blue.
    fn bytes(&self, values: &[f32]) -> Vec<u8> {
        let (count, size) = (self.channels.len(), values.len() / self.channels.len());
        let mut bytes = vec![0; values.len()];
        for (c, (&[zero, step], plane)) in self.channels.iter().zip(values.chunks_exact(size)).enumerate() {
            let at = if self.order == ChannelOrder::Bgr { count - 1 - c } else { c };
            let pixels = bytes.iter_mut().skip(at).step_by(count);
            pixels.zip(plane).for_each(|(byte, v)| *byte = ((v - zero) / step).round().clamp(0.0, 255.0) as u8);
        }
        bytes
    }
}

struct Dreamer {
    /// The float network, whose parameters need no gradient.
    network: Network,
    loss: Loss,
    outputs: usize,
    device: Device,
    levels: Levels,
    seed: u64,
}

impl Dreamer {
    /// Changes some of the drawn pictures; bytes `[N, H, W, C]`.
    fn dream(&self, drawn: &Unlabelled, part: Range<usize>, context: &Context) -> Result<Vec<u8>, Error> {
        let targets: Vec<f32> = part.clone().flat_map(|image| self.target(image)).collect();
        let batch = drawn.batch(&part.collect::<Vec<_>>())?;
        let ([n, c, h, w], mut x) = (batch.shape, batch.pixels);
        let (mut mean, mut square) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        for step in 1..=STEPS {
            context.check()?;
            let mut random = Random::new(self.seed, &[8, step as u64]);
            let shift = [h, w].map(|side| random.below(2 * (side / SHIFT) + 1) + side - side / SHIFT);
            let shifted = rolled(&x, [h, w], shift);
            let leaf = Tensor::<4>::from_data(TensorData::new(shifted, [n, c, h, w]), &self.device).require_grad();
            let wanted = Tensor::from_data(TensorData::new(targets.clone(), [n, self.outputs]), &self.device);
            let outputs = self.network.forward(leaf.clone());
            let gradients = self.loss.divergence(wanted, outputs, 1.0).sum().backward();
            let Some(gradient) = leaf.grad(&gradients) else { break };
            let gradient = rolled(&host(gradient.without_autodiff()), [h, w], [h - shift[0] % h, w - shift[1] % w]);
            let corrections = DECAYS.map(|decay| 1.0 - decay.powi(step as i32));
            for (i, g) in gradient.into_iter().enumerate() {
                // A picture whose gradient is no number stays as it is.
                let g = if g.is_finite() { g } else { 0.0 };
                mean[i] = DECAYS[0] * mean[i] + (1.0 - DECAYS[0]) * g;
                square[i] = DECAYS[1] * square[i] + (1.0 - DECAYS[1]) * g * g;
                let moved = (mean[i] / corrections[0]) / ((square[i] / corrections[1]).sqrt() + f32::MIN_POSITIVE);
                let [zero, level] = self.levels.channels[i / (h * w) % c];
                let bounds = [zero, zero + 255.0 * level];
                x[i] = (x[i] - RATE * level * moved).clamp(bounds[0], bounds[1]);
            }
        }
        Ok(x.chunks_exact(c * h * w).flat_map(|picture| self.levels.bytes(picture)).collect())
    }

    /// The logits of a network that is certain of a class, or of yes or no for every output, drawn by chance.
    fn target(&self, image: usize) -> Vec<f32> {
        let mut random = Random::new(self.seed, &[9, image as u64]);
        match self.loss {
            Loss::Classes => {
                let mut logits = vec![0.0; self.outputs];
                logits[random.below(self.outputs)] = CERTAINTY + (self.outputs as f32).ln();
                logits
            }
            Loss::Decisions { .. } => {
                (0..self.outputs).map(|_| if random.below(2) == 0 { CERTAINTY } else { -CERTAINTY }).collect()
            }
        }
    }
}

/// Shifts planes `[H, W]` in a circle: what was at `y, x` is at `y + shift[0], x + shift[1]`.
fn rolled(planes: &[f32], [h, w]: [usize; 2], shift: [usize; 2]) -> Vec<f32> {
    let mut out = vec![0.0; planes.len()];
    for (from, into) in planes.chunks_exact(h * w).zip(out.chunks_exact_mut(h * w)) {
        for (y, row) in from.chunks_exact(w).enumerate() {
            let into = &mut into[(y + shift[0]) % h * w..][..w];
            into.copy_from_slice(row);
            into.rotate_right(shift[1] % w);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::evaluate::predict;

    fn network() -> (Folded, Preprocess) {
        let model = files::from_bytes(zoo::teacher("alexnet-embedded").unwrap()).unwrap();
        let preprocess = model.preprocess();
        (model.fold().unwrap(), preprocess)
    }

    #[test]
    fn pictures_are_near_drawn_ones_and_the_network_is_more_certain_of_them() {
        let (folded, preprocess) = network();
        let context = Context::default();
        let made = synthetic(&folded, &preprocess, 12, 3, &context).unwrap();
        let input = folded.graph().input();
        let drawn = images::generated(12, 3, &preprocess, [input.height, input.width]);
        assert_eq!((made.len(), made.name()), (12, SYNTHETIC));
        let network = Arc::new(Network::trainable(folded.graph(), folded.weights(), &context.device));
        let certainty = |set: &Unlabelled| -> f64 {
            let logits = predict("", &[&network], set, &context).unwrap().remove(0);
            let values = logits.values().to_vec();
            let most = |row: &[f32]| {
                let largest = row.iter().copied().fold(f32::MIN, f32::max);
                1.0 / row.iter().map(|v| f64::from(v - largest).exp()).sum::<f64>()
            };
            values.chunks_exact(folded.graph().head().count).map(most).sum::<f64>() / 12.0
        };
        let (of_drawn, of_made) = (certainty(&drawn), certainty(&made));
        assert!(of_made > of_drawn + 0.1, "{of_drawn} {of_made}");
        // A step moves a pixel by about two levels, of 255.
        let pixels = |set: &Unlabelled| set.batch(&(0..12).collect::<Vec<_>>()).unwrap().pixels;
        let level = 1.0 / (preprocess.divide * preprocess.std[0]);
        let apart = pixels(&made).iter().zip(pixels(&drawn)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart > level && apart < 40.0 * level, "{}", apart / level);
        // The first ones are the same where there are fewer.
        let fewer = synthetic(&folded, &preprocess, 8, 3, &context).unwrap();
        let whole = pixels(&made);
        let fewer = fewer.batch(&(0..8).collect::<Vec<_>>()).unwrap().pixels;
        assert!(whole[..fewer.len()] == fewer[..]);
    }

    #[test]
    fn levels_are_those_that_inputs_are_made_of() {
        let mut preprocess = Preprocess::imagenet();
        preprocess.order = ChannelOrder::Bgr;
        let drawn = images::generated(1, 5, &preprocess, [6, 4]).batch(&[0]).unwrap().pixels;
        let bytes = Levels::new(&preprocess).bytes(&drawn);
        let again = images::of_input_size("", bytes, [6, 4], &preprocess).batch(&[0]).unwrap().pixels;
        assert_eq!(again, drawn);
    }

    #[test]
    fn planes_are_shifted_in_a_circle_and_back() {
        let planes: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let shifted = rolled(&planes, [2, 3], [1, 2]);
        assert_eq!(shifted, [4.0, 5.0, 3.0, 1.0, 2.0, 0.0, 10.0, 11.0, 9.0, 7.0, 8.0, 6.0]);
        assert_eq!(rolled(&shifted, [2, 3], [1, 1]), planes);
    }

    #[test]
    fn stopped_work_is_interrupted() {
        let (folded, preprocess) = network();
        let context = Context::default();
        context.interrupter.stop(Some("test"));
        assert!(matches!(synthetic(&folded, &preprocess, 8, 0, &context), Err(Error::Interrupted { .. })));
    }
}
