//! Threads for numbered tasks: the only place of the crate that starts any.

use std::sync::Arc;

use crate::{KernelError, arch::team::Team, error::check_nonzero};

/// A fixed number of threads, the caller's included, that run numbered tasks. Clones share the threads.
///
/// Invariants: a task's number alone says what it computes, so results do not depend on the thread count.
#[derive(Debug, Clone)]
pub struct Pool {
    threads: usize,
    team: Option<Arc<Team>>,
}

impl Pool {
    /// Starts `threads - 1` workers; the calling thread is the last.
    ///
    /// # Errors
    /// [`KernelError::ZeroDimension`] for no threads, [`KernelError::Threads`] if the system refuses them.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        check_nonzero("threads", threads)?;
        let start = |workers| Team::start(workers).map(Arc::new);
        let team = (threads > 1).then(|| start(threads - 1)).transpose()?;
        Ok(Self { threads, team })
    }

    /// The number of threads that tasks are spread over.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0)` to `task(n_tasks - 1)`, in any order and in parallel, and returns when all are done.
    /// A single task, or a pool of one thread, runs on the calling thread; so do tasks within tasks, and those of
    /// a caller who finds the threads at work for another.
    ///
    /// # Panics
    /// If a task does.
    pub fn for_each(&self, n_tasks: usize, task: impl Fn(usize) + Sync) {
        match &self.team {
            Some(team) if n_tasks > 1 => team.run(n_tasks, &task),
            _ => (0..n_tasks).for_each(task),
        }
    }
}
