//! Who may change what is stored: many that add, or one that removes.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Debug, Default)]
struct State {
    writers: usize,
    collecting: bool,
    /// A collection was asked for that was not begun yet.
    due: bool,
    /// Somebody collects who waits until it is due ([`Gate::wait`]).
    has_collector: bool,
}

impl State {
    const fn is_about_to_collect(&self) -> bool {
        self.due && self.has_collector && self.writers == 0
    }
}

/// Keeps garbage collection away while somebody relies on blobs that no checkpoint reaches yet.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// Somebody may enter, or collect.
    opened: Condvar,
    /// Somebody waits for the end of a collection.
    urgent: Arc<AtomicBool>,
    /// Collections that have begun, and those that have ended. Outside of the lock: who collects may be
    /// a thread that seldom runs, and who asks must not wait for it.
    begun: AtomicU64,
    ended: AtomicU64,
}

/// While it lives, nothing is removed.
#[derive(Debug)]
pub(super) struct Pass(Arc<Gate>);

/// While it lives, nothing is added.
#[derive(Debug)]
pub(super) struct Collecting {
    gate: Arc<Gate>,
    /// It was waited for.
    is_left: bool,
}

impl Gate {
    /// Waits while a collection runs, or is about to: who writes one checkpoint after the other would
    /// otherwise leave no room for one.
    pub(super) fn enter(self: &Arc<Self>) -> Pass {
        let mut state = self.state.lock();
        while state.collecting || state.is_about_to_collect() {
            self.urgent.store(true, Ordering::Relaxed);
            self.opened.wait(&mut state);
        }
        state.writers += 1;
        Pass(Arc::clone(self))
    }

    /// `None` when somebody writes: then it is remembered ([`Self::is_due`]).
    pub(super) fn collect(self: &Arc<Self>) -> Option<Collecting> {
        let mut state = self.state.lock();
        state.due = true;
        self.begin(&mut state, false)
    }

    fn begin(self: &Arc<Self>, state: &mut State, is_left: bool) -> Option<Collecting> {
        if state.writers > 0 || state.collecting || !state.due {
            return None;
        }
        state.due = false;
        state.collecting = true;
        self.begun.fetch_add(1, Ordering::Relaxed);
        let gate = Arc::clone(self);
        Some(Collecting { gate, is_left })
    }

    /// From now on, or no longer, [`Self::wait`] is called.
    pub(super) fn set_collector(&self, is_there: bool) {
        let mut state = self.state.lock();
        state.has_collector = is_there;
        if state.collecting && !is_there {
            self.urgent.store(true, Ordering::Relaxed);
        }
        self.opened.notify_all();
    }

    /// Asks for a collection, and says whether somebody is there to whom it can be left.
    pub(super) fn leave_to_collector(&self) -> bool {
        let mut state = self.state.lock();
        state.due = true;
        self.opened.notify_all();
        state.has_collector
    }

    /// Waits until a collection was asked for and nobody writes. `None` when there is to be none.
    pub(super) fn wait(self: &Arc<Self>) -> Option<Collecting> {
        let mut state = self.state.lock();
        while state.has_collector {
            if let Some(collecting) = self.begin(&mut state, true) {
                return Some(collecting);
            }
            self.opened.wait(&mut state);
        }
        None
    }

    /// How many collections have ended, and whether one is under way.
    pub(super) fn collections(&self) -> (u64, bool) {
        let ended = self.ended.load(Ordering::Relaxed);
        (ended, self.begun.load(Ordering::Relaxed) > ended)
    }

    pub(super) fn is_due(&self) -> bool {
        self.state.lock().due
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.writers -= 1;
        if state.writers == 0 && state.due {
            self.0.opened.notify_all();
        }
    }
}

impl Collecting {
    /// Whether somebody waits for its end.
    pub(super) fn urgent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.gate.urgent)
    }

    /// False when it is to end before everything is done.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_left || self.gate.state.lock().has_collector
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        state.collecting = false;
        self.gate.ended.fetch_add(1, Ordering::Relaxed);
        self.gate.urgent.store(false, Ordering::Relaxed);
        self.gate.opened.notify_all();
    }
}
