//! The thread that works where a processor has nothing else to do.

use super::pace::Pace;
use super::{InSteps, work_on};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often it is looked whether the work is late.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What becomes of work on the thread: it comes back, done or because it is wanted, or it cannot go on.
type Outcome<W> = thread::Result<Result<W, <W as InSteps>::Error>>;

/// The thread, with at most one work.
pub(super) struct IdleThread<W: InSteps> {
    queue: Option<Sender<Job<W>>>,
    thread: Option<JoinHandle<()>>,
}

struct Job<W: InSteps> {
    work: W,
    pace: Arc<Pace>,
    /// That the work is to come back before it is done.
    is_wanted: Arc<AtomicBool>,
    back: Sender<Outcome<W>>,
}

impl<W: InSteps> IdleThread<W> {
    /// `None` where no thread can be told to wait for an idle processor.
    pub(super) fn start() -> Option<Self> {
        let (queue, jobs) = bounded(1);
        let (ready, is_ready) = bounded(1);
        let name = thread::current().name().map(|name| format!("{name}-idle"));
        let spawned = thread::Builder::new()
            .name(name.unwrap_or_default())
            .spawn(move || {
                if wait_for_idle_processors() && ready.send(()).is_ok() {
                    run(&jobs);
                }
            });
        let thread = Self {
            queue: Some(queue),
            thread: spawned.ok(),
        };
        is_ready.recv().is_ok().then_some(thread)
    }

    /// Lets the thread work until everything is done, or until it is late.
    ///
    /// # Panics
    /// When a step does.
    pub(super) fn work(&mut self, work: W, pace: &Arc<Pace>) -> Result<W, W::Error> {
        let (back, outcome) = bounded(1);
        let is_wanted = Arc::new(AtomicBool::new(false));
        let job = Job {
            work,
            pace: Arc::clone(pace),
            is_wanted: Arc::clone(&is_wanted),
            back,
        };
        if let Some(queue) = &self.queue
            && let Err(refused) = queue.send(job)
        {
            return Ok(refused.into_inner().work);
        }
        loop {
            match outcome.recv_timeout(LOOK_EVERY) {
                Ok(Ok(worked)) => return worked,
                Ok(Err(panic)) => resume_unwind(panic),
                Err(RecvTimeoutError::Timeout) => {
                    is_wanted.store(pace.is_late(), Ordering::Relaxed);
                }
                // It answers before it ends; waiting on would be for ever.
                Err(RecvTimeoutError::Disconnected) => {
                    resume_unwind(Box::new("the thread for idle processors ended"));
                }
            }
        }
    }
}

impl<W: InSteps> Drop for IdleThread<W> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // What a step panicked with was passed on.
            drop(thread.join());
        }
    }
}

impl<W: InSteps> fmt::Debug for IdleThread<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a thread for idle processors")
    }
}

fn run<W: InSteps>(jobs: &Receiver<Job<W>>) {
    for job in jobs {
        let (mut work, pace, is_wanted) = (job.work, job.pace, job.is_wanted);
        let worked = catch_unwind(AssertUnwindSafe(move || {
            work_on(&mut work, &pace, || is_wanted.load(Ordering::Relaxed)).map(|()| work)
        }));
        // Who asked for it waits.
        drop(job.back.send(worked));
    }
}

/// Lets the calling thread run only where a processor has nothing else to do. Whether that is possible.
#[cfg(target_os = "linux")]
fn wait_for_idle_processors() -> bool {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
    if let Err(error) = &set {
        tracing::debug!(?error, "no thread waits for idle processors");
    }
    set.is_ok()
}

#[cfg(not(target_os = "linux"))]
const fn wait_for_idle_processors() -> bool {
    false
}
