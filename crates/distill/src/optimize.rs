use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::adam::OnePassAdam;
use crate::workers::is_cpu;

/// The rule by which a step moves weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Gradient descent with Nesterov momentum 0.9.
    #[default]
    Sgd,
    /// Adam (Kingma, Ba 2015); weight decay joins the gradient.
    Adam,
    /// Adam with decoupled weight decay (Loshchilov, Hutter 2019).
    AdamW,
}

impl Optimizer {
    pub(crate) fn init(self, weight_decay: f32) -> ModuleOptimizer {
        let penalty = || (weight_decay > 0.0).then(|| WeightDecayConfig::new(weight_decay));
        match self {
            Self::Sgd => {
                let momentum = MomentumConfig::new().with_dampening(0.0).with_nesterov(true);
                SgdConfig::new().with_momentum(Some(momentum)).with_weight_decay(penalty()).init()
            }
            Self::Adam if weight_decay == 0.0 => ModuleOptimizer::from(OnePassAdam::new()),
            Self::Adam => AdamConfig::new().with_epsilon(1e-8).with_weight_decay(penalty()).init(),
            Self::AdamW => AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(weight_decay).init(),
        }
    }
}

/// A learning rate over the steps: a linear warm-up to `peak`, then half a cosine down to 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Schedule {
    /// The highest learning rate.
    pub(crate) peak: f64,
    /// The number of steps of the warm-up.
    pub(crate) warmup: usize,
    /// The number of all steps.
    pub(crate) total: usize,
}

impl Schedule {
    /// The learning rate of a step, which is counted from 0.
    pub(crate) fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / (self.warmup as f64 + 1.0);
        }
        let length = self.total.saturating_sub(self.warmup).max(1);
        let part = ((step - self.warmup) as f64 / length as f64).min(1.0);
        self.peak * 0.5 * (1.0 + (std::f64::consts::PI * part).cos())
    }

    pub(crate) fn scheduler(self) -> Scheduler {
        Scheduler { schedule: self, step: 0 }
    }
}

/// A [`Schedule`] as burn takes it; its state is the step.
#[derive(Debug, Clone)]
pub(crate) struct Scheduler {
    schedule: Schedule,
    step: usize,
}

impl LrScheduler for Scheduler {
    fn step(&mut self) -> f64 {
        let rate = self.schedule.at(self.step);
        self.step += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar("step", self.step)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        self.step = record.scalar("step").expect("a record of this scheduler");
    }
}

/// Scales all gradients by one factor so that their norm together is at most `limit` (burn's own clipping looks at each
/// parameter alone, which changes the direction).
pub(crate) fn clip_global_norm<M: Module>(module: &M, grads: GradientsParams, limit: f32) -> GradientsParams {
    let mut squares = Squares { grads, sums: Vec::new() };
    module.visit(&mut squares);
    let Squares { grads, sums } = squares;
    if sums.is_empty() {
        return grads;
    }
    let norm = Tensor::cat(sums, 0).sum().sqrt();
    let factor = norm.add_scalar(1e-12).recip().mul_scalar(limit).clamp_max(1.0);
    let host = is_cpu(&factor.device()).then(|| factor.clone().into_scalar());
    let mut scale = Scale { grads, factor, host };
    if host != Some(1.0) {
        module.visit(&mut scale);
    }
    scale.grads
}

/// The sum of all elements, one dimension after the other, the last first: burn adds four million and more at once in an order
/// that differs from call to call.
pub(crate) fn total<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let add = |x: Tensor<D>, dim: usize| if x.dims()[dim] > 1 { x.sum_dim(dim) } else { x };
    (0..D).rev().fold(x, add).reshape([1])
}

/// The elements that one thread works on at a time.
const PART: usize = 1 << 14;

/// Adds up squares on the CPU, in an order that does not depend on the number of threads.
fn sum_of_squares(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let sum = |part: &[f32]| {
        let mut lanes = [0.0; LANES];
        for chunk in part.chunks(LANES) {
            lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value * value);
        }
        lanes.iter().sum::<f32>()
    };
    let sums: Vec<f32> = values.par_chunks(PART).map(sum).collect();
    sums.iter().sum()
}

struct Squares {
    grads: GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(grad) = self.grads.remove::<D>(param.id) else { return };
        let device = grad.device();
        let (grad, sum) = if is_cpu(&device) {
            let data = grad.into_data();
            let sum = sum_of_squares(data.as_slice().expect("the CPU's floats are f32"));
            (Tensor::from_data(data, &device), Tensor::from_data([sum], &device))
        } else {
            (grad.clone(), total(grad.square()))
        };
        self.grads.register(param.id, grad);
        self.sums.push(sum);
    }
}

struct Scale {
    grads: GradientsParams,
    factor: Tensor<1>,
    /// The factor, where gradients lie in this process's memory.
    host: Option<f32>,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let id: ParamId = param.id;
        let Some(grad) = self.grads.remove::<D>(id) else { return };
        let scaled = match self.host {
            Some(factor) => {
                let (device, mut data) = (grad.device(), grad.into_data());
                let values = data.as_mut_slice::<f32>().expect("the CPU's floats are f32");
                values.par_chunks_mut(PART).for_each(|part| part.iter_mut().for_each(|value| *value *= factor));
                Tensor::from_data(data, &device)
            }
            None => grad * self.factor.clone().reshape([1; D]),
        };
        self.grads.register(id, scaled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_warms_up_and_falls_as_a_cosine() {
        let schedule = Schedule { peak: 1.0, warmup: 3, total: 13 };
        let rates: Vec<f64> = (0..3).map(|step| schedule.at(step)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75]);
        assert_eq!(schedule.at(3), 1.0);
        // Half way between 3 and 13.
        assert!((schedule.at(8) - 0.5).abs() < 1e-12);
        assert!(schedule.at(13) < 1e-12);
    }

    #[test]
    fn a_scheduler_goes_on_from_its_record() {
        let mut one = Schedule { peak: 0.1, warmup: 2, total: 9 }.scheduler();
        let mut other = one.clone();
        one.step();
        one.step();
        other.load_record(one.to_record());
        assert_eq!(one.step(), other.step());
    }

    #[test]
    fn a_total_of_millions_is_the_same_every_time() {
        let device = burn::tensor::Device::flex();
        // As long as the first fully connected layer of AlexNet is wide, and with a last dimension that is no help.
        let values: Vec<f32> = (0..9216 * 512).map(|i| ((i * 7919) % 10_007) as f32 * 1e-3).collect();
        let x = Tensor::<4>::from_data(burn::tensor::TensorData::new(values.clone(), [512, 9216, 1, 1]), &device);
        let bits = || total(x.clone()).into_scalar::<f32>().to_bits();
        let first = bits();
        assert!((0..8).all(|_| bits() == first));
        let exact: f64 = values.iter().map(|&v| f64::from(v)).sum();
        assert!((f64::from(f32::from_bits(first)) / exact - 1.0).abs() < 1e-6);
    }
}
