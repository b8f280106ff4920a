//! The tasks that serve one network, ended together.

use crate::error::NetworkError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

#[derive(Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    running: Mutex<Running>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Running {
    /// `None` for a task that is being started.
    handles: HashMap<u64, Option<AbortHandle>>,
    next: u64,
    stopping: bool,
}

impl Tasks {
    /// Tasks on the runtime of the caller.
    pub(crate) fn new() -> Result<Arc<Self>, NetworkError> {
        let runtime = Handle::try_current().map_err(|_| NetworkError::NoRuntime)?;
        Ok(Arc::new(Self {
            runtime,
            running: Mutex::default(),
            ended: Notify::new(),
        }))
    }

    /// Starts a task; `None` once stopped.
    pub(crate) fn spawn<F>(self: &Arc<Self>, task: F) -> Option<AbortHandle>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = self.running.lock();
        if running.stopping {
            return None;
        }
        let id = running.next;
        running.next += 1;
        running.handles.insert(id, None);
        drop(running);
        let listed = Listed {
            tasks: Arc::clone(self),
            id,
        };
        // Not under the lock: a runtime that is shutting down drops the task here and now.
        let handle = self.runtime.spawn(async move {
            let _listed = listed;
            task.await;
        });
        let mut running = self.running.lock();
        if running.stopping {
            handle.abort();
        }
        if let Some(listed) = running.handles.get_mut(&id) {
            *listed = Some(handle.abort_handle());
        }
        Some(handle.abort_handle())
    }

    /// Ends all tasks at their next await, and starts no more.
    pub(crate) fn stop(&self) {
        let mut running = self.running.lock();
        running.stopping = true;
        let handles: Vec<_> = running.handles.values().flatten().cloned().collect();
        drop(running);
        for handle in handles {
            handle.abort();
        }
    }

    /// Waits until no task is left.
    pub(crate) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.running.lock().handles.is_empty() {
                return;
            }
            ended.await;
        }
    }
}

/// Takes its task off the list when that ends, in whichever way.
struct Listed {
    tasks: Arc<Tasks>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.tasks.running.lock().handles.remove(&self.id);
        self.tasks.ended.notify_waiters();
    }
}
