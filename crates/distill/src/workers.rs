//! Work on parts of a batch, one part a core.
//!
//! On the CPU many of burn's operations run on one core, so a batch is cut and every part runs through a network of its own,
//! as in data-parallel training. Which part runs on which thread is fixed, each worker's operations stay on its thread,
//! and results are put together in the order of the parts: the same numbers every time.
use std::ops::Range;
use std::sync::Arc;

use burn::backend::DispatchDevice;
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use burn::train::ClassificationOutput;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Error;

/// More threads than this bring little to batches of this size.
const MOST: usize = 8;

/// A fixed number of threads; none but the caller's for one part, and on a GPU.
#[derive(Debug, Clone)]
pub(crate) struct Workers(Arc<[ThreadPool]>);

impl Workers {
    /// For batches of `batch` images of which no part is to have fewer than `least`.
    ///
    /// # Errors
    /// The system has no more threads.
    pub(crate) fn new(device: &Device, batch: usize, least: usize) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let parts = if is_cpu(device) { cores.min(batch / least) } else { 1 };
        let pool = |_| ThreadPoolBuilder::new().num_threads(1).build();
        let pools: Result<Vec<_>, _> = (0..if parts > 1 { parts } else { 0 }).map(pool).collect();
        pools.map(|pools| Self(pools.into())).map_err(|e| Error::Training(e.to_string()))
    }

    /// The parts of `0..len`: as many as there are workers, the first ones longer where they do not divide it.
    pub(crate) fn parts(&self, len: usize) -> Vec<Range<usize>> {
        let count = self.0.len().clamp(1, len.max(1));
        let start = |part: usize| part * (len / count) + part.min(len % count);
        (0..count).map(|part| start(part)..start(part + 1)).collect()
    }

    /// `work` on every item at the same time, item `i` on worker `i`; results in the order of the items.
    ///
    /// # Panics
    /// If `work` does.
    pub(crate) fn run<I: Send, T: Send>(&self, items: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
        if items.len() == 1 || self.0.is_empty() {
            return items.into_iter().map(work).collect();
        }
        assert!(items.len() <= self.0.len(), "one worker an item");
        std::thread::scope(|scope| {
            let threads: Vec<_> = items
                .into_iter()
                .zip(self.0.iter())
                .map(|(item, pool)| scope.spawn(|| pool.install(|| work(item))))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, T>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        })
    }

    /// Gradients and output of a training step from those of its parts. `step` gets a copy of the module, the part, and the
    /// part's share of the images, by which it weighs its loss.
    pub(crate) fn train_step<M, I>(
        &self,
        module: &M,
        device: &Device,
        items: Vec<(I, f64)>,
        step: impl Fn(&M, I, f64) -> (GradientsParams, ClassificationOutput) + Sync,
    ) -> (GradientsParams, ClassificationOutput)
    where
        M: Module,
        I: Send,
    {
        if items.len() == 1 {
            let (item, share) = items.into_iter().next().expect("one item");
            return step(module, item, share);
        }
        // Each worker's gradients are of leaves of its own; the ids stay those of `module`.
        let items = items.into_iter().map(|item| (module.clone().fork(device), item)).collect();
        let results = self.run(items, |(module, (item, share)): (M, (I, f64))| step(&module, item, share));
        let mut sum = GradientsAccumulator::<M>::new();
        let mut outputs = Vec::new();
        for (grads, output) in results {
            sum.accumulate(module, grads);
            outputs.push(output);
        }
        (sum.grads(), join(outputs))
    }
}

/// The outputs of a batch from those of its parts.
pub(crate) fn join(mut parts: Vec<ClassificationOutput>) -> ClassificationOutput {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let (mut losses, mut outputs, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        losses.push(part.loss);
        outputs.push(part.output);
        targets.push(part.targets);
    }
    ClassificationOutput::new(Tensor::cat(losses, 0), Tensor::cat(outputs, 0), Tensor::cat(targets, 0))
}

fn is_cpu(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_batch_in_order() {
        let pools = (0..3).map(|_| ThreadPoolBuilder::new().num_threads(1).build().unwrap()).collect::<Vec<_>>();
        let workers = Workers(pools.into());
        assert_eq!(workers.parts(8), [0..3, 3..6, 6..8]);
        assert_eq!(workers.parts(2), [0..1, 1..2]);
        assert_eq!(workers.run(workers.parts(8), |range| range.len()), [3, 3, 2]);
    }
}
