use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Steps of which each tells which thread did it.
struct Steps {
    left: usize,
    by: Vec<ThreadId>,
    /// The schedule's decisions that are executed while a step is done.
    executes: u64,
    executed: Arc<AtomicU64>,
    /// Whether only the asking thread gets anywhere.
    is_starved_elsewhere: bool,
    began: Instant,
    fails_at: Option<usize>,
    panics_at: Option<usize>,
}

impl Steps {
    fn new(count: usize) -> Self {
        Self {
            left: count,
            by: Vec::new(),
            executes: 0,
            executed: Arc::default(),
            is_starved_elsewhere: false,
            began: Instant::now(),
            fails_at: None,
            panics_at: None,
        }
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            executed: Arc::clone(&self.executed),
            from: 0,
            decisions: 1000,
            time: Duration::from_secs(3600),
            urgent: Arc::default(),
        }
    }

    fn all(self) -> Result<Self, usize> {
        let schedule = self.schedule();
        Background::new().run(self, schedule)
    }
}

impl InSteps for Steps {
    type Error = usize;

    fn step(&mut self) -> Result<usize, usize> {
        self.executed.fetch_add(self.executes, Ordering::Relaxed);
        let own = thread::current().id();
        if self.is_starved_elsewhere && self.by.first().is_some_and(|asking| *asking != own) {
            assert!(
                self.began.elapsed() < Duration::from_secs(60),
                "nobody took it back"
            );
            return Ok(self.left);
        }
        self.left -= 1;
        self.by.push(own);
        assert_ne!(self.panics_at, Some(self.left), "a step panics");
        match self.fails_at {
            Some(at) if at == self.left => Err(at),
            _ => Ok(self.left),
        }
    }
}

/// Runs on a thread of its own, since it becomes nicer.
fn apart<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// How many of the steps behind the first the asking thread did itself.
fn own_steps(done: &Steps) -> usize {
    let own = done.by[0];
    done.by[1..].iter().filter(|by| **by == own).count()
}

#[test]
fn work_on_time_is_done_where_a_processor_is_idle_and_comes_back_done() {
    let done = apart(|| Steps::new(50).all().unwrap_or_else(|_| panic!("it failed")));
    assert_eq!((done.left, done.by.len()), (0, 50));
    let others = if cfg!(target_os = "linux") { 0 } else { 49 };
    assert_eq!(own_steps(&done), others);
}

/// What is late is finished by the asking thread, for the other one may be starved.
#[test]
fn late_work_is_taken_back() {
    let mut work = Steps::new(200);
    work.executes = 100;
    work.is_starved_elsewhere = true;
    let done = apart(|| work.all().unwrap_or_else(|_| panic!("it failed")));
    assert_eq!((done.left, own_steps(&done)), (0, 199));
}

#[test]
fn work_of_one_step_stays_where_it_is() {
    let done = apart(|| Steps::new(1).all().unwrap_or_else(|_| panic!("it failed")));
    assert_eq!((done.left, own_steps(&done)), (0, 0));
}

#[test]
fn a_step_that_fails_ends_the_work_wherever_it_was_done() {
    for at in [0, 3, 9] {
        let mut work = Steps::new(10);
        work.fails_at = Some(at);
        assert_eq!(apart(|| work.all().err()), Some(at));
    }
}

#[test]
fn a_panic_of_a_step_reaches_who_asked_for_the_work() {
    for at in [3, 9] {
        let mut work = Steps::new(10);
        work.panics_at = Some(at);
        let panicked = apart(|| catch_unwind(AssertUnwindSafe(|| drop(work.all()))).is_err());
        assert!(panicked, "at {at}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_asking_thread_becomes_nicer_and_others_do_not() {
    let own = || rustix::process::getpriority_process(None).unwrap();
    let before = own();
    let there = apart(|| {
        drop(Background::<Steps>::new());
        own()
    });
    assert_eq!(there, (before + NICER).min(19));
    assert_eq!(own(), before);
}
