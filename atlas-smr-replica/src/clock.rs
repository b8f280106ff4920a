//! The node's two clocks.

use atlas_common::{AgreedTime, Time};
use atlas_smr_core::core::Moment;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Reads the monotonic clock, from which all time-outs come, and the wall clock, which only gives
/// proposals their time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let millis = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        Moment {
            now: Time::from_nanos(nanos),
            wall: AgreedTime::from_unix_millis(millis),
        }
    }

    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.start + Duration::from_nanos(at.as_nanos())
    }
}
