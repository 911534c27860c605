//! burn's Adam on the CPU, in one pass over memory.
use burn::optim::{Adam, AdamConfig, AdamState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::workers::is_cpu;

/// The elements that one thread works on at a time.
const PART: usize = 1 << 14;
const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Adam (Kingma, Ba 2015) without weight decay, with the bits and the records of burn's [`Adam`], which makes a tensor for each of
/// some fifteen operations. On other devices than the CPU it is burn's.
#[derive(Clone)]
pub(crate) struct OnePassAdam {
    burns: Adam,
}

impl OnePassAdam {
    pub(crate) fn new() -> Self {
        let config = AdamConfig::new().with_beta_1(BETA_1).with_beta_2(BETA_2).with_epsilon(EPSILON);
        Self { burns: config.build() }
    }
}

impl Optimizer for OnePassAdam {
    type State<const D: usize> = AdamState<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        weight: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamState<D>>,
    ) -> (Tensor<D>, Option<AdamState<D>>) {
        let (device, shape) = (weight.device(), weight.shape());
        if !is_cpu(&device) || shape.num_elements() == 0 {
            return self.burns.step(rate, weight, gradient, state);
        }
        let zeros = || TensorData::new(vec![0.0f32; shape.num_elements()], shape.clone());
        let (time, mut mean, mut square) = match state {
            Some(AdamState { momentum: AdaptiveMomentumState { time, moment_1, moment_2, .. } }) => {
                (time + 1, moment_1.into_data(), moment_2.into_data())
            }
            None => (1, zeros(), zeros()),
        };
        let (mut weight, gradient) = (weight.into_data(), gradient.into_data());
        let correction = (1.0 - BETA_2.powi(time as i32)).sqrt();
        let step = Step {
            rate: rate as f32,
            factor: correction / (1.0 - BETA_1.powi(time as i32)),
            epsilon: EPSILON * correction,
        };
        let parts =
            slice(&mut weight).par_chunks_mut(PART).zip(gradient.as_slice::<f32>().expect("f32").par_chunks(PART));
        let moments = slice(&mut mean).par_chunks_mut(PART).zip(slice(&mut square).par_chunks_mut(PART));
        parts.zip(moments).for_each(|((weight, gradient), (mean, square))| step.take(weight, gradient, mean, square));
        let tensor = |data: TensorData| Tensor::from_data(data, &device);
        let momentum = AdaptiveMomentumState::new(time, tensor(mean), tensor(square));
        (tensor(weight), Some(AdamState::new(momentum)))
    }

    fn to_device<const D: usize>(state: AdamState<D>, device: &Device) -> AdamState<D> {
        Adam::to_device(state, device)
    }
}

fn slice(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("the CPU's floats are f32")
}

/// The numbers of one step.
#[derive(Clone, Copy)]
struct Step {
    rate: f32,
    /// The correction of both moments for having begun at 0.
    factor: f32,
    epsilon: f32,
}

impl Step {
    /// Rounds after every operation, in burn's order.
    fn take(self, weight: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        let moments = mean.iter_mut().zip(square);
        for ((weight, &gradient), (mean, square)) in weight.iter_mut().zip(gradient).zip(moments) {
            *mean = *mean * BETA_1 + gradient * (1.0 - BETA_1);
            *square = *square * BETA_2 + gradient * gradient * (1.0 - BETA_2);
            *weight -= *mean * self.factor / (square.sqrt() + self.epsilon) * self.rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn its_steps_have_the_bits_of_burns() {
        let device = Device::flex();
        for shape in [[1, 1], [3, 7], [130, 257]] {
            let adam = OnePassAdam::new();
            let (mut ours, mut burns) = (Tensor::<2>::random(shape, Distribution::Default, &device), None);
            let mut other = ours.clone();
            let mut state = None;
            for step in 0..4 {
                let gradient = Tensor::<2>::random(shape, Distribution::Normal(0.0, 1e-3), &device);
                let rate = 1e-2 / f64::from(step + 1);
                (ours, state) = adam.step(rate, ours, gradient.clone(), state);
                (other, burns) = adam.burns.step(rate, other, gradient, burns);
                assert_eq!(ours.clone().into_data(), other.clone().into_data(), "step {step}");
            }
            let (ours, burns) = (state.unwrap().momentum, burns.unwrap().momentum);
            assert_eq!(ours.time, burns.time);
            assert_eq!(ours.moment_1.into_data(), burns.moment_1.into_data());
            assert_eq!(ours.moment_2.into_data(), burns.moment_2.into_data());
        }
    }
}
