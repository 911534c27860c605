//! Random draws that are pure functions of the seed and of what they are for.
use blockfloat::SplitMix64;

/// A stream of random draws.
#[derive(Debug, Clone)]
pub(crate) struct Random(SplitMix64);

impl Random {
    /// Starts a stream for one purpose: `keys` are, say, an epoch and an index.
    pub(crate) fn new(seed: u64, keys: &[u64]) -> Self {
        let mix = |mut random: SplitMix64, key: &u64| {
            SplitMix64::new(random.next_u64() ^ key.wrapping_mul(0xd134_2543_de82_ef95))
        };
        Self(keys.iter().fold(SplitMix64::new(seed), mix))
    }

    /// Draws a 64-bit integer uniformly.
    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Draws an integer uniformly from `0..bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }
}

/// The order in which images are seen: passes over the set, each of which is a permutation that is cut into batches.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) len: usize,
    pub(crate) batch: usize,
    pub(crate) seed: u64,
}

impl Order {
    /// The number of batches of one pass. A last, smaller batch is left out, so that all steps weigh the same; the images left out
    /// differ from pass to pass.
    pub(crate) fn batches(&self) -> usize {
        (self.len / self.batch()).max(1)
    }

    /// The images of a batch: all of them where the set is smaller than the batch asked for.
    pub(crate) fn batch(&self) -> usize {
        self.batch.min(self.len)
    }

    /// The images of a step; steps are counted from 0 over all passes.
    pub(crate) fn indices(&self, step: usize) -> Vec<usize> {
        let (pass, batch) = (step / self.batches(), step % self.batches());
        let mut random = Random::new(self.seed, &[pass as u64]);
        let mut order: Vec<usize> = (0..self.len).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
        order[batch * self.batch()..][..self.batch()].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_sees_no_image_twice_and_passes_differ() {
        let order = Order { len: 10, batch: 3, seed: 7 };
        assert_eq!(order.batches(), 3);
        let pass = |first: usize| (first..first + 3).flat_map(|step| order.indices(step)).collect::<Vec<_>>();
        let (first, second) = (pass(0), pass(3));
        let mut sorted = first.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 9);
        assert_ne!(first, second);
        assert_eq!(first, pass(0));
    }

    #[test]
    fn a_set_smaller_than_a_batch_is_one_batch() {
        let order = Order { len: 2, batch: 32, seed: 0 };
        assert_eq!((order.batches(), order.indices(5).len()), (1, 2));
    }
}
