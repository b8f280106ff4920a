//! Threads for operations that do not concern each other.
//!
//! Not pure, and apart from everything that is: there are threads here, and a stopwatch. Both decide
//! how operations are carried out, never what comes of them.

use atlas_common::rng::SeededRng;
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// An operation has to take so long, one after the other, for its keys to be worth asking for.
const OPERATION_NANOS_MIN: u64 = 5_000;
/// Operations have to take so long together for other threads to be worth waking.
const TOGETHER_NANOS_MIN: u64 = 200_000;
/// Once in so many decisions the other way is tried, to learn whether it has become the faster one.
const TRY_OTHER_EVERY: usize = 32;
/// So many decisions are run in parallel before that is judged: the first wake the threads.
const PARALLEL_FIRST: usize = 4;

/// Threads on which an executor runs operations of one decision in parallel, when their keys
/// ([`Application::keys`](crate::Application::keys)) do not meet and they take long enough. Clones are
/// the same pool.
#[derive(Clone)]
pub struct ExecutionPool(Kind);

#[derive(Clone)]
enum Kind {
    Alone,
    Threads(Arc<Threads>),
    Shuffled(Arc<Mutex<SeededRng>>),
}

struct Threads {
    pool: rayon::ThreadPool,
    /// With the thread that executes.
    threads: usize,
    /// Whether the time that operations take does not matter.
    eager: bool,
    /// What an operation took lately, on average: one after the other, and in parallel; 0 when that is
    /// not known yet.
    one_by_one_nanos: AtomicU64,
    parallel_nanos: AtomicU64,
    choices: AtomicUsize,
}

impl ExecutionPool {
    /// No threads but the one that executes.
    #[must_use]
    pub const fn sequential() -> Self {
        Self(Kind::Alone)
    }

    /// No threads: what could run in parallel runs one after the other, in an order that is drawn anew
    /// each time, however little there is to do. Stands for whatever threads might do, in simulations.
    #[must_use]
    pub fn shuffled(seed: u64) -> Self {
        Self(Kind::Shuffled(Arc::new(Mutex::new(SeededRng::new(seed)))))
    }

    /// So many threads, the one that executes among them; `None`: one for each core, up to 8. With one
    /// there is nothing to share out.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new(threads: Option<usize>) -> io::Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8));
        Self::start(threads.unwrap_or_else(cores), false)
    }

    /// As [`ExecutionPool::new`], but used however little there is to do: to test that an application
    /// declares its keys rightly.
    ///
    /// # Errors
    /// As [`ExecutionPool::new`].
    pub fn eager(threads: usize) -> io::Result<Self> {
        Self::start(threads, true)
    }

    fn start(threads: usize, eager: bool) -> io::Result<Self> {
        if threads <= 1 {
            return Ok(Self::sequential());
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads - 1)
            .thread_name(|index| format!("atlas-parallel-{index}"))
            .build()
            .map_err(io::Error::other)?;
        Ok(Self(Kind::Threads(Arc::new(Threads {
            pool,
            threads,
            eager,
            one_by_one_nanos: AtomicU64::new(0),
            parallel_nanos: AtomicU64::new(0),
            choices: AtomicUsize::new(0),
        }))))
    }

    /// Whether so many operations are run in parallel: when that was the faster way lately.
    pub(crate) fn chooses_parallel(&self, operations: usize) -> bool {
        let threads = match &self.0 {
            Kind::Alone => return false,
            Kind::Shuffled(_) => return true,
            Kind::Threads(threads) => threads,
        };
        let each = threads.one_by_one_nanos.load(Ordering::Relaxed);
        let together = each.saturating_mul(operations as u64);
        if threads.eager || each < OPERATION_NANOS_MIN || together < TOGETHER_NANOS_MIN {
            return threads.eager;
        }
        let faster = threads.parallel_nanos.load(Ordering::Relaxed) < each;
        let choice = threads.choices.fetch_add(1, Ordering::Relaxed) + 1;
        choice <= PARALLEL_FIRST || faster != choice.is_multiple_of(TRY_OTHER_EVERY)
    }

    /// Runs so many operations, and notes how long they take in this way.
    pub(crate) fn timed(&self, parallel: bool, operations: usize, run: impl FnOnce()) {
        let Some(threads) = self.threads().filter(|_| operations > 0) else {
            return run();
        };
        let start = Instant::now();
        run();
        let (one, two) = (&threads.one_by_one_nanos, &threads.parallel_nanos);
        let faster = two.load(Ordering::Relaxed) < one.load(Ordering::Relaxed);
        let average = if parallel { two } else { one };
        // What is tried but seldom has to count for more.
        let share = if parallel == faster { 8 } else { 2 };
        note(average, start.elapsed(), operations, share);
    }

    /// Runs jobs, each of some operations, on all threads. The results are in the order of the jobs.
    pub(crate) fn map<J: Send, R: Send>(
        &self,
        jobs: Vec<J>,
        run: impl Fn(J) -> R + Sync,
    ) -> Vec<R> {
        match &self.0 {
            Kind::Threads(threads) if jobs.len() > 1 => threads.map(jobs, &run),
            Kind::Shuffled(rng) => in_drawn_order(&mut rng.lock(), jobs, run),
            _ => jobs.into_iter().map(run).collect(),
        }
    }

    fn threads(&self) -> Option<&Threads> {
        match &self.0 {
            Kind::Threads(threads) => Some(threads),
            _ => None,
        }
    }
}

fn in_drawn_order<J, R>(rng: &mut SeededRng, jobs: Vec<J>, run: impl Fn(J) -> R) -> Vec<R> {
    let mut results: Vec<Option<R>> = jobs.iter().map(|_| None).collect();
    let mut jobs: Vec<(usize, J)> = jobs.into_iter().enumerate().collect();
    rng.shuffle(&mut jobs);
    for (index, job) in jobs {
        results[index] = Some(run(job));
    }
    results.into_iter().flatten().collect()
}

impl Threads {
    fn map<J: Send, R: Send>(&self, jobs: Vec<J>, run: &(impl Fn(J) -> R + Sync)) -> Vec<R> {
        let helpers = self.threads.min(jobs.len()) - 1;
        let jobs: Vec<_> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
        let results: Vec<_> = jobs.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((job, result)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                jobs.get(index).zip(results.get(index))
            } {
                let job = job.lock().take();
                *result.lock() = job.map(run);
            }
        };
        self.pool.in_place_scope(|scope| {
            for _ in 0..helpers {
                scope.spawn(|_| work());
            }
            work();
        });
        // Every job was taken by somebody, and a panic of one has gone through here.
        results.into_iter().filter_map(Mutex::into_inner).collect()
    }
}

/// Moves an average of what an operation takes by one in `share`. Only the thread that executes does, so that nothing is
/// lost in between.
fn note(average: &AtomicU64, time: Duration, operations: usize, share: u64) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let each = (nanos / operations as u64).max(1);
    let after = match average.load(Ordering::Relaxed) {
        0 => each,
        before => before - before / share + each / share,
    };
    average.store(after, Ordering::Relaxed);
}

impl fmt::Debug for ExecutionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.threads().map_or(1, |threads| threads.threads);
        write!(f, "execution on {threads} threads")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(one_by_one: u64, parallel: u64) -> ExecutionPool {
        let pool = ExecutionPool::new(Some(2)).unwrap();
        let threads = pool.threads().unwrap();
        threads
            .one_by_one_nanos
            .store(one_by_one, Ordering::Relaxed);
        threads.parallel_nanos.store(parallel, Ordering::Relaxed);
        pool
    }

    fn chosen(pool: &ExecutionPool, operations: usize) -> usize {
        if let Some(threads) = pool.threads() {
            threads.choices.store(PARALLEL_FIRST, Ordering::Relaxed);
        }
        let choices = (0..2 * TRY_OTHER_EVERY).map(|_| pool.chooses_parallel(operations));
        choices.filter(|parallel| *parallel).count()
    }

    #[test]
    fn the_faster_way_is_taken_and_the_other_one_tried_now_and_then() {
        assert_eq!(chosen(&pool(20_000, 11_000), 100), 2 * TRY_OTHER_EVERY - 2);
        assert_eq!(chosen(&pool(20_000, 30_000), 100), 2);
        // Too early to judge.
        let early = pool(20_000, 30_000);
        let choices = (0..2 * PARALLEL_FIRST).map(|_| early.chooses_parallel(100));
        assert_eq!(choices.filter(|parallel| *parallel).count(), PARALLEL_FIRST);
    }

    #[test]
    fn operations_that_take_no_time_are_not_shared_out() {
        assert_eq!(chosen(&pool(0, 0), 1000), 0, "not known yet");
        assert_eq!(chosen(&pool(1_000, 1), 100_000), 0, "short ones");
        assert_eq!(chosen(&pool(20_000, 1), 9), 0, "few");
        assert_eq!(chosen(&ExecutionPool::sequential(), 1000), 0);
        assert!(ExecutionPool::new(Some(1)).unwrap().threads().is_none());
    }

    #[test]
    fn what_operations_take_is_learnt_from_running_them() {
        let pool = pool(0, 0);
        pool.timed(false, 0, || {});
        let threads = pool.threads().unwrap();
        assert_eq!(threads.one_by_one_nanos.load(Ordering::Relaxed), 0);
        pool.timed(false, 1, || {});
        assert!(threads.one_by_one_nanos.load(Ordering::Relaxed) > 0);
        note(&threads.parallel_nanos, Duration::from_nanos(8000), 10, 8);
        note(&threads.parallel_nanos, Duration::from_nanos(16000), 10, 8);
        assert_eq!(threads.parallel_nanos.load(Ordering::Relaxed), 900);
    }

    #[test]
    fn results_are_in_the_order_of_the_jobs() {
        let eager = |threads| ExecutionPool::eager(threads).unwrap();
        for pool in [eager(1), eager(2), eager(5), ExecutionPool::shuffled(3)] {
            let found = pool.map((0..100).collect(), |n: u32| n * n);
            assert!(found.into_iter().eq((0..100).map(|n| n * n)));
        }
    }
}
