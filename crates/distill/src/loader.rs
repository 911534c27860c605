use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::{Device, Tensor, TensorData};
use images::{Batch, ImageError};
use rayon::ThreadPoolBuilder;

/// The pixels of a batch as a tensor `[N, C, H, W]`.
pub(crate) fn tensor(batch: Batch, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(batch.pixels, batch.shape), device)
}

/// An iterator over items that a thread makes ahead, in order: decoding and augmentation run beside the network. They have threads of
/// their own, since rayon's common ones are lost where a program forks.
pub(crate) struct Prefetch<T> {
    receiver: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Makes the items `make(i)` for `i` in `range`, of which at most two wait.
    pub(crate) fn new(range: std::ops::Range<usize>, make: impl Fn(usize) -> T + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(2);
        // A failed send means that nobody listens any more.
        let work = move || range.map(make).try_for_each(|item| sender.send(item)).unwrap_or(());
        let work = move || match ThreadPoolBuilder::new().build() {
            Ok(pool) => pool.install(work),
            Err(_) => work(),
        };
        Self { receiver: Some(receiver), thread: Some(thread::spawn(work)) }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let item = self.receiver.as_ref().and_then(|receiver| receiver.recv().ok());
        if item.is_none()
            && let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
        item
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Make<R> = Arc<dyn Fn(usize) -> Result<R, ImageError> + Send + Sync>;

/// A loader for burn of batches that are pure functions of their number.
///
/// One call of `iter` is one of burn's epochs: the next `batches` numbers. So a loader that starts at epoch `k` gives
/// what an unbroken run sees from there on.
pub(crate) struct Loader<R, T> {
    make: Make<R>,
    place: fn(R, &Device) -> T,
    batches: usize,
    /// The images of one epoch.
    items: usize,
    device: Device,
    epoch: Arc<AtomicUsize>,
    /// The batches of all epochs together; the last epoch may be shorter.
    total: usize,
    /// Whether every epoch is the first one again (a validation set).
    repeat: bool,
}

impl<R: Send + 'static, T: Send + 'static> Loader<R, T> {
    /// Gives epochs of `batches` batches, beginning with `epoch`. `make` reads a batch, which `place` puts on the device.
    pub(crate) fn new(
        epoch: usize,
        batches: usize,
        items: usize,
        place: fn(R, &Device) -> T,
        make: impl Fn(usize) -> Result<R, ImageError> + Send + Sync + 'static,
    ) -> Self {
        let epoch = Arc::new(AtomicUsize::new(epoch));
        let (total, device) = (usize::MAX, Device::flex());
        Self { make: Arc::new(make), place, batches, items, device, epoch, total, repeat: false }
    }

    /// Ends after `total` batches, within an epoch if need be.
    pub(crate) fn ending(self, total: usize) -> Self {
        Self { total, ..self }
    }

    /// Gives the same epoch again and again: `count` images in their order, in batches of `batch`. `make` gets a batch's indices.
    pub(crate) fn over(
        count: usize,
        batch: usize,
        place: fn(R, &Device) -> T,
        make: impl Fn(Vec<usize>) -> Result<R, ImageError> + Send + Sync + 'static,
    ) -> Self {
        let indices = move |i: usize| (i * batch..count.min((i + 1) * batch)).collect();
        let all = Self::new(0, count.div_ceil(batch), count, place, move |i| make(indices(i)));
        Self { repeat: true, ..all }
    }
}

impl<R: Send + 'static, T: Send + 'static> DataLoader<T> for Loader<R, T> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<T> + 'a> {
        let epoch = if self.repeat { 0 } else { self.epoch.fetch_add(1, Ordering::Relaxed) };
        let first = epoch * self.batches;
        let make = self.make.clone();
        let source = Prefetch::new(first..(first + self.batches).min(self.total), move |number| make(number));
        Box::new(Epoch { source, loader: self, done: 0 })
    }

    fn num_items(&self) -> usize {
        self.items
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<T>> {
        Arc::new(Self { make: self.make.clone(), device: device.clone(), epoch: self.epoch.clone(), ..*self })
    }

    /// # Panics
    /// Always: only training on several devices cuts loaders, and we train on one.
    fn slice(&self, _: usize, _: usize) -> Arc<dyn DataLoader<T>> {
        unimplemented!("loaders are for one device")
    }
}

struct Epoch<'a, R, T> {
    source: Prefetch<Result<R, ImageError>>,
    loader: &'a Loader<R, T>,
    done: usize,
}

impl<R: Send + 'static, T: Send + 'static> Iterator for Epoch<'_, R, T> {
    type Item = Result<T, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.source.next()?;
        self.done += 1;
        Some(batch.map(|batch| (self.loader.place)(batch, &self.loader.device)).map_err(DatasetError::new))
    }
}

impl<R: Send + 'static, T: Send + 'static> DataLoaderIterator<T> for Epoch<'_, R, T> {
    fn progress(&self) -> Progress {
        let items = self.loader.items * self.done / self.loader.batches.max(1);
        Progress::new(items, self.loader.items, Some("images".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetched_items_keep_their_order_and_a_dropped_reader_stops_the_thread() {
        assert_eq!(Prefetch::new(3..8, |i| i * i).collect::<Vec<_>>(), [9, 16, 25, 36, 49]);
        let mut endless = Prefetch::new(0..usize::MAX, |i| i);
        assert_eq!(endless.next(), Some(0));
    }

    #[test]
    fn epochs_go_on_where_a_run_was_resumed() {
        let loader = |epoch| Loader::new(epoch, 2, 2, |n: usize, _: &Device| n, Ok);
        let numbers = |loader: &Loader<usize, usize>| loader.iter().map(Result::unwrap).collect::<Vec<_>>();
        let unbroken = loader(0);
        assert_eq!([numbers(&unbroken), numbers(&unbroken)], [[0, 1], [2, 3]]);
        // The device's copy counts with the original.
        let resumed = loader(1);
        let copy = resumed.to_device(&Device::flex());
        assert_eq!(copy.iter().map(Result::unwrap).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(numbers(&resumed), [4, 5]);
        let fixed = Loader::over(3, 2, |indices: Vec<usize>, _: &Device| indices, Ok);
        let batches = || fixed.iter().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!([batches(), batches()], [[vec![0, 1], vec![2]], [vec![0, 1], vec![2]]]);
        assert_eq!(numbers(&loader(2).ending(5)), [4]);
    }
}
