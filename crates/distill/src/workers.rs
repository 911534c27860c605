//! Work on parts of a batch at the same time.
//!
//! On the CPU many of burn's operations run on one core, so a batch is cut and every part runs through a network of its own,
//! as in data-parallel training. Sums over a batch, so gradients, depend on where it is cut, in their last bits. The number of
//! parts therefore never comes from the number of cores, and results are put together in the order of the parts: the same
//! numbers every time, on any number of cores.
use std::ops::Range;
use std::sync::{Arc, Mutex};

use burn::backend::DispatchDevice;
use burn::tensor::{Device, Tensor};
use burn::train::ClassificationOutput;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use crate::Error;

/// A fixed number of parts of a batch, and threads for them. One part, and work on a GPU, needs none but the caller's.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    parts: usize,
    pools: Arc<[ThreadPool]>,
}

impl Workers {
    /// Makes workers for batches that are cut into `parts`, at least one. All cores are used: several for a part where there are more
    /// cores than parts.
    ///
    /// # Errors
    /// [`Error::Training`] where the system has no more threads.
    pub(crate) fn new(device: &Device, parts: usize) -> Result<Self, Error> {
        let parts = if is_cpu(device) { parts.max(1) } else { 1 };
        Self::on_cores(cores(), parts).map_err(Error::training)
    }

    fn on_cores(cores: usize, parts: usize) -> Result<Self, ThreadPoolBuildError> {
        let count = if parts > 1 { parts.min(cores) } else { 0 };
        let threads = |i: usize| (cores + count - 1 - i) / count;
        let pools: Result<Vec<_>, _> =
            (0..count).map(|i| ThreadPoolBuilder::new().num_threads(threads(i)).build()).collect();
        Ok(Self { parts, pools: pools?.into() })
    }

    /// The parts of `0..len`: as many as batches are cut into, the first ones longer where they do not divide it.
    pub(crate) fn parts(&self, len: usize) -> Vec<Range<usize>> {
        let count = self.parts.min(len.max(1));
        let start = |part: usize| part * (len / count) + part.min(len % count);
        (0..count).map(|part| start(part)..start(part + 1)).collect()
    }

    /// Does `work` on every item, on as many at the same time as there are threads, and returns results in the order of items.
    ///
    /// # Panics
    /// Panics if `work` does.
    pub(crate) fn run<I: Send, T: Send>(&self, items: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
        if items.len() == 1 || self.pools.is_empty() {
            return items.into_iter().map(work).collect();
        }
        let queue = Mutex::new(items.into_iter().enumerate());
        let next = || queue.lock().expect("taking an item does not panic").next();
        let work_off = || {
            let mut results = Vec::new();
            while let Some((i, item)) = next() {
                results.push((i, work(item)));
            }
            results
        };
        let mut results = std::thread::scope(|scope| {
            let threads: Vec<_> = self.pools.iter().map(|pool| scope.spawn(|| pool.install(work_off))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<(usize, T)>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().flat_map(join).collect::<Vec<_>>()
        });
        results.sort_by_key(|&(i, _)| i);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

/// Joins the outputs of the parts of a batch.
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

/// The number of cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Says whether a device is the CPU.
pub(crate) fn is_cpu(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_batch_in_order_on_any_number_of_cores() {
        for cores in [1, 2, 3, 8] {
            let workers = Workers::on_cores(cores, 3).unwrap();
            assert_eq!(workers.parts(8), [0..3, 3..6, 6..8]);
            assert_eq!(workers.parts(2), [0..1, 1..2]);
            assert_eq!(workers.run(workers.parts(8), |range| range.len()), [3, 3, 2]);
            let threads: usize = workers.pools.iter().map(ThreadPool::current_num_threads).sum();
            assert_eq!(threads, cores, "all cores work");
        }
        assert_eq!(Workers::on_cores(4, 1).unwrap().run(vec![7], |x| x + 1), [8]);
    }
}
