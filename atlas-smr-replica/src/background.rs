//! Work that takes the time that processors have left, and yet is done when it is due.
//!
//! A nicer thread is not enough for that: it runs on until its slice ends, some milliseconds, when one that
//! somebody waits for wakes up. A thread under Linux's policy `SCHED_IDLE` gives way at once. But it gets
//! nearly nothing of a processor that is always busy, and needs a privilege to be made faster again. So the
//! work is done in small steps, on such a thread as long as it is on time, with rests where there is time
//! enough; when it is late, the thread that asked for the work takes it back and catches up
//! (docs/adr/0008-background-work.md).

mod idle;
mod pace;
#[cfg(test)]
mod tests;

use idle::IdleThread;
use pace::Pace;
pub(crate) use pace::{Executed, Schedule};
use std::sync::Arc;

/// How much nicer than others the thread is that asks for the work, where that can be said of a thread:
/// where processors are short it gets a tenth of another thread's share.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Work in small steps, each on any thread.
pub(crate) trait InSteps: Send + 'static {
    /// Why it cannot go on.
    type Error: Send;

    /// Does a step, and tells how many pieces of work are left then, each as large as another.
    fn step(&mut self) -> Result<usize, Self::Error>;
}

/// Does one work after the other for one thread.
#[derive(Debug)]
pub(crate) struct Background<W: InSteps> {
    idle: Option<IdleThread<W>>,
}

impl<W: InSteps> Background<W> {
    /// For the calling thread, which becomes nicer for as long as it lives.
    pub(crate) fn new() -> Self {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::nice(NICER) {
            tracing::debug!(%error, "a thread keeps its priority");
        }
        Self {
            idle: IdleThread::start(),
        }
    }

    /// Does all of a work, and gives it back.
    ///
    /// # Errors
    /// What the first step fails with that fails.
    ///
    /// # Panics
    /// When a step does.
    pub(crate) fn run(&mut self, mut work: W, schedule: Schedule) -> Result<W, W::Error> {
        // What consists of one step cannot be taken back, and is done here.
        let pace = Arc::new(Pace::new(schedule, work.step()?));
        while pace.left() > 0 {
            let Some(idle) = &mut self.idle else {
                work_on(&mut work, &pace, || false)?;
                continue;
            };
            work = idle.work(work, &pace)?;
            work_on(&mut work, &pace, || !pace.is_late())?;
        }
        Ok(work)
    }
}

/// Does steps until all is done, or until it should stop.
fn work_on<W: InSteps>(
    work: &mut W,
    pace: &Pace,
    should_stop: impl Fn() -> bool,
) -> Result<(), W::Error> {
    while pace.left() > 0 && !should_stop() {
        pace.note_left(work.step()?);
        pace.rest();
    }
    Ok(())
}
