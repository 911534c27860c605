//! Where a run's time goes.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What a step spends time on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Activity {
    /// A convolution's sums, with what is done to them before they are stored.
    Convolve,
    /// Making integers of floats.
    Round,
    /// Operations in floats.
    Float,
}

/// The time of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepTime {
    /// From its beginning to its end, in seconds.
    pub seconds: f64,
    /// The seconds of all threads together, by [`Activity`].
    pub spent: [f64; 3],
}

/// Counts nanoseconds, by [`Activity`].
#[derive(Debug, Default)]
pub(crate) struct Clock([AtomicU64; 3]);

impl Clock {
    /// Calls `work`, and counts its time where there is a clock.
    pub fn time<T>(clock: Option<&Self>, activity: Activity, work: impl FnOnce() -> T) -> T {
        let Some(Self(counts)) = clock else { return work() };
        let start = Instant::now();
        let result = work();
        counts[activity as usize].fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }
}

/// The times of the steps of a run.
#[derive(Debug)]
pub(crate) struct Profile {
    pub clock: Clock,
    begun: Instant,
    pub times: Vec<StepTime>,
}

impl Profile {
    /// Begins with the first step.
    pub fn begin() -> Self {
        Self { clock: Clock::default(), begun: Instant::now(), times: Vec::new() }
    }

    /// Notes that a step ends, and the next one begins.
    pub fn next_step(&mut self) {
        let spent = self.clock.0.each_mut().map(|count| std::mem::take(count.get_mut()) as f64 / 1e9);
        self.times.push(StepTime { seconds: self.begun.elapsed().as_secs_f64(), spent });
        self.begun = Instant::now();
    }
}
