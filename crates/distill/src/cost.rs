//! What a stage of a run costs.
use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{Error, write};

/// What a stage of a run cost, all starts of the run together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The time, in seconds, to the millisecond. What a killed process did after its last checkpoint does not count.
    pub seconds: f64,
    /// The largest resident memory of the process during the stage, in bytes; `None` where the system does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
}

/// A meter of a stage that is being worked on.
#[derive(Debug)]
pub(crate) struct Meter {
    before: Cost,
    begun: Instant,
}

impl Meter {
    /// Begins a stage of which earlier starts of the run have done some.
    pub(crate) fn start(before: Cost) -> Self {
        // Linux takes up the highest resident memory anew from here on. Elsewhere it is that of the process so far.
        let _ = fs::write("/proc/self/clear_refs", "5");
        Self { before, begun: Instant::now() }
    }

    /// What the stage has cost up to now.
    pub(crate) fn cost(&self) -> Cost {
        Cost {
            seconds: self.before.seconds + (self.begun.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            peak_bytes: peak_bytes().max(self.before.peak_bytes),
        }
    }
}

impl Cost {
    /// Reads what earlier starts of a run have left; nothing where they left none.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        Ok(write::read_json(path)?.unwrap_or_default())
    }
}

/// Returns the largest resident memory of this process in bytes; `None` where the system does not tell it.
pub fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_goes_on_from_what_was_before() {
        let before = Cost { seconds: 10.0, peak_bytes: Some(1 << 50) };
        let cost = Meter::start(before).cost();
        assert!(cost.seconds >= 10.0 && cost.seconds < 100.0, "{cost:?}");
        assert_eq!(cost.peak_bytes, before.peak_bytes);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_that_of_the_stage() {
        let used = |bytes: usize| {
            let meter = Meter::start(Cost::default());
            let block = std::hint::black_box(vec![1u8; bytes]);
            (meter.cost().peak_bytes.unwrap(), block.len()).0
        };
        let large = used(256 << 20);
        assert!(large > 256 << 20, "{large}");
        let small = used(1);
        assert!(small + (128 << 20) < large, "{small} after {large}");
    }
}
