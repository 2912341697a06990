//! Threads for numbered tasks: the only place of the crate that starts any.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    KernelError,
    arch::{disjoint, team::Team},
    error::check_nonzero,
    scratch::Scratch,
};

/// A fixed number of threads, the caller's included, that run numbered tasks, and the memory that they compute in. Clones
/// share both.
///
/// Invariants: a task's number alone says what it computes, so results do not depend on the thread count.
#[derive(Debug, Clone)]
pub struct Pool {
    threads: usize,
    team: Option<Arc<Team>>,
    memory: Arc<Memory>,
}

/// Buffers of calls, by what they hold.
#[derive(Debug)]
struct Memory {
    words: Scratch<i32>,
    floats: Scratch<f32>,
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
        let memory = Memory { words: Scratch::new(i32::MIN), floats: Scratch::new(f32::NAN) };
        Ok(Self { threads, team, memory: Arc::new(memory) })
    }

    /// Memory for input rows.
    pub(crate) fn words(&self) -> &Scratch<i32> {
        &self.memory.words
    }

    /// Memory for what lies between two products.
    pub(crate) fn floats(&self) -> &Scratch<f32> {
        &self.memory.floats
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

    /// Runs `task` on every chunk of `chunk_len` values, the last perhaps shorter, with the chunk's number; else as
    /// [`Pool::for_each`].
    ///
    /// # Panics
    /// If a task does, or `chunk_len` is zero.
    pub fn for_each_chunk<T: Send>(
        &self,
        values: &mut [T],
        chunk_len: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let chunks: Vec<_> = values.chunks_mut(chunk_len).map(Mutex::new).collect();
        self.for_each(chunks.len(), |index| {
            let mut chunk = chunks[index].lock().unwrap_or_else(PoisonError::into_inner);
            task(index, &mut chunk);
        });
    }
    /// A new buffer of `len` numbers, filled in parallel: `task` gets every chunk of `chunk_len` of them, the last
    /// perhaps shorter, with the chunk's number. They are zero before, written by the thread that the task runs on.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    ///
    /// # Panics
    /// If a task does, or `chunk_len` is zero.
    pub fn collect_chunks(
        &self,
        len: usize,
        chunk_len: usize,
        task: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Vec<f32>, KernelError> {
        disjoint::collect_chunks(self, (len, chunk_len), task)
    }
}
