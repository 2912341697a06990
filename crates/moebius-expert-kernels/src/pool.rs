//! The worker threads: the only place of the crate that spawns.

use std::sync::Arc;

use rayon::prelude::*;

use crate::{KernelError, error::check_nonzero};

/// A fixed number of worker threads that run numbered tasks. Clones share the threads.
///
/// Invariants: a task's number alone says what it computes, so results do not depend on the thread count.
#[derive(Debug, Clone)]
pub struct Pool {
    threads: usize,
    workers: Option<Arc<rayon::ThreadPool>>,
}

impl Pool {
    /// Starts `threads` workers; with one, tasks run on the calling thread and nothing is started.
    ///
    /// # Errors
    /// [`KernelError::ZeroDimension`] for no threads, [`KernelError::Threads`] if the system refuses them.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        check_nonzero("threads", threads)?;
        let workers = if threads == 1 {
            None
        } else {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|index| format!("moebius-{index}"))
                .build()
                .map_err(|error| KernelError::Threads { reason: error.to_string() })?;
            Some(Arc::new(pool))
        };
        Ok(Self { threads, workers })
    }

    /// The number of threads that tasks are spread over.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0)` to `task(n_tasks - 1)`, in any order and in parallel, and returns when all are done.
    /// A single task, or a pool of one thread, runs on the calling thread.
    pub fn for_each(&self, n_tasks: usize, task: impl Fn(usize) + Sync) {
        match &self.workers {
            Some(workers) if n_tasks > 1 => {
                workers.install(|| (0..n_tasks).into_par_iter().with_max_len(1).for_each(&task));
            }
            _ => (0..n_tasks).for_each(task),
        }
    }
}
