//! Who may change what is stored: many that add, or one that removes.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

#[derive(Debug, Default)]
struct State {
    writers: usize,
    collecting: bool,
    /// A collection was asked for while somebody wrote.
    due: bool,
}

/// Keeps garbage collection away while somebody relies on blobs that no checkpoint reaches yet.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

/// While it lives, nothing is removed.
#[derive(Debug)]
pub(super) struct Pass(Arc<Gate>);

/// While it lives, nothing is added.
#[derive(Debug)]
pub(super) struct Collecting<'a>(&'a Gate);

impl Gate {
    /// Waits while a collection runs.
    pub(super) fn enter(self: &Arc<Self>) -> Pass {
        let mut state = self.state.lock();
        while state.collecting {
            self.opened.wait(&mut state);
        }
        state.writers += 1;
        Pass(Arc::clone(self))
    }

    /// `None` when somebody writes: then it is remembered ([`Self::is_due`]).
    pub(super) fn collect(&self) -> Option<Collecting<'_>> {
        let mut state = self.state.lock();
        if state.writers > 0 || state.collecting {
            state.due = true;
            return None;
        }
        state.due = false;
        state.collecting = true;
        Some(Collecting(self))
    }

    pub(super) fn is_due(&self) -> bool {
        self.state.lock().due
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.state.lock().writers -= 1;
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().collecting = false;
        self.0.opened.notify_all();
    }
}
