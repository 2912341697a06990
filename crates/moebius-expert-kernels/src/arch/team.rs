//! Worker threads that wait for numbered tasks: awake for a moment after each job, then asleep.
//!
//! A decode step is some hundred short jobs with microseconds between them, so a worker that has finished looks out
//! for the next one before it lets the system put it to sleep; after a while it gives its core away between looks,
//! so that other programs do not wait for it. The calling thread works too, and waits for nobody who has not begun.
//!
//! Every thread has a list of neighbouring tasks and takes them in their order, so that it reads on where it has read;
//! when its own list is done it takes from those of the others.
//!
//! Invariants: a job is written while it is closed and no worker is at it, and read by workers that are. A task is taken
//! by whoever moves its list's mark past it, and by nobody else.

use std::{
    any::Any,
    cell::UnsafeCell,
    hint, mem,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::KernelError;

/// Looks at the state before a worker begins to give its core away, and before it goes to sleep.
const SPINS: usize = 4_000;
const YIELDS: usize = 200;

/// The parts of [`Shared::state`]: workers at the job, whether any sleeps, whether more may join, and the job's number.
const ONE_WORKER: u64 = 1;
const WORKERS: u64 = SLEEPING - 1;
const SLEEPING: u64 = 1 << 30;
const OPEN: u64 = 1 << 31;
const ONE_JOB: u64 = 1 << 32;

/// Threads that help whoever calls [`Team::run`].
#[derive(Debug)]
pub(crate) struct Team {
    shared: Arc<Shared>,
    /// Held by the caller whose job the workers do.
    caller: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

/// What a worker reads and writes on its way into a job comes first and lies in one cache line, which takes part of a
/// microsecond from core to core.
#[derive(Debug)]
#[repr(C, align(64))]
struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Job>,
    ending: AtomicBool,
    /// One for the caller and each worker.
    lists: Box<[List]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// How many tasks of a thread's list were taken, in the lower half, and of which job, in the upper one: nobody has to reset
/// the lists of all threads, which lie in cache lines of their own.
#[derive(Debug)]
#[repr(align(64))]
struct List(AtomicU64);

impl List {
    /// The place of a task that nobody has taken yet, of so many in a job.
    fn take(&self, number: u32, tasks: u32) -> Option<u32> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let taken = if (seen >> 32) as u32 == number { seen as u32 } else { 0 };
            if taken >= tasks {
                return None;
            }
            let next = u64::from(number) << 32 | u64::from(taken + 1);
            match self.0.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => seen = now,
            }
        }
    }
}

/// What a call asked for. The lifetime of the closure is that of the call.
#[derive(Clone, Copy)]
struct Job {
    number: u32,
    n_tasks: u32,
    task: &'static (dyn Fn(usize) + Sync),
}

impl Job {
    /// The tasks of a thread's list, one of `lists`.
    fn tasks_of(&self, list: usize, lists: usize) -> Range<usize> {
        let first = |list: usize| (list as u64 * u64::from(self.n_tasks) / lists as u64) as usize;
        first(list)..first(list + 1)
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job of {} tasks", self.n_tasks)
    }
}

// SAFETY: `job` is the only field that is not `Sync`. It is written by the thread that holds `Team::caller`, while
// the job is closed and no worker is at it; workers read it after they have joined an open job.
unsafe impl Sync for Shared {}

impl Team {
    /// Starts `workers` threads.
    ///
    /// # Errors
    /// [`KernelError::Threads`] if the system refuses them.
    pub(crate) fn start(workers: usize) -> Result<Self, KernelError> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { number: 0, n_tasks: 0, task: &|_| {} }),
            ending: AtomicBool::new(false),
            lists: (0..=workers).map(|_| List(AtomicU64::new(0))).collect(),
            panic: Mutex::new(None),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut team = Self { shared, caller: Mutex::new(()), workers: Vec::with_capacity(workers) };
        for index in 0..workers {
            let shared = team.shared.clone();
            let builder = thread::Builder::new().name(format!("moebius-{index}"));
            let worker = builder.spawn(move || shared.work_until_the_end(1 + index));
            team.workers.push(worker.map_err(|error| KernelError::Threads { reason: error.to_string() })?);
        }
        Ok(team)
    }

    /// Runs `task(0)` to `task(n_tasks - 1)` and returns when all are done. While another caller has the workers,
    /// or from within a task, the calling thread does all of them; so it does with more than can be numbered.
    ///
    /// # Panics
    /// With the first panic of a task, once no task runs any more.
    pub(crate) fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let _caller = match self.caller.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..n_tasks).for_each(task),
        };
        let Ok(numbered) = u32::try_from(n_tasks) else { return (0..n_tasks).for_each(task) };
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Workers call the closure only between joining and leaving the job, and
        // `close`, which runs before this function returns or unwinds, waits until none is left and none can join.
        let task =
            unsafe { mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        let job = shared.open(numbered, task);
        let own = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(job, 0)));
        shared.close();
        let others = lock(&shared.panic).take();
        if let Some(payload) = own.err().or(others) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.shared.state.fetch_add(ONE_JOB, Ordering::Release);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Lets workers join a new job.
    fn open(&self, n_tasks: u32, task: &'static (dyn Fn(usize) + Sync)) -> Job {
        let state = self.state.load(Ordering::Relaxed) & !(ONE_JOB - 1);
        let number = ((state / ONE_JOB) as u32).wrapping_add(1);
        if number == 0 {
            // Marks of the numbers that begin again would hold for new jobs.
            self.lists.iter().for_each(|list| list.0.store(0, Ordering::Relaxed));
        }
        let job = Job { number, n_tasks, task };
        // SAFETY: the caller holds `Team::caller` and the last job was closed, so nobody else is at `job`.
        unsafe { *self.job.get() = job };
        let before = self.state.swap(state.wrapping_add(ONE_JOB) | OPEN, Ordering::Release);
        if before & SLEEPING > 0 {
            self.wake_all();
        }
        job
    }

    /// Lets nobody join any more and waits for those who have.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::Relaxed);
        let mut looks = 0;
        while self.state.load(Ordering::Acquire) & WORKERS > 0 {
            look_away(&mut looks);
        }
    }

    /// Takes the tasks of one's own list, then what is left of the others.
    fn take_tasks(&self, job: Job, own: usize) {
        let lists = self.lists.len();
        for list in (own..lists).chain(0..own) {
            let tasks = job.tasks_of(list, lists);
            while let Some(place) = self.lists[list].take(job.number, tasks.len() as u32) {
                (job.task)(tasks.start + place as usize);
            }
        }
    }

    fn work_until_the_end(&self, own: usize) {
        let mut state = 0;
        loop {
            state = self.wait_for_news(state);
            if self.ending.load(Ordering::Relaxed) {
                return;
            }
            if !self.join(state) {
                continue;
            }
            // SAFETY: this worker has joined the job, so `close` waits for it before the job is replaced.
            let job = unsafe { *self.job.get() };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.take_tasks(job, own))) {
                // Nobody needs the other tasks, and the caller is told.
                let all = u64::from(job.number) << 32 | u64::from(u32::MAX);
                self.lists.iter().for_each(|list| list.0.store(all, Ordering::Relaxed));
                lock(&self.panic).get_or_insert(payload);
            }
            self.state.fetch_sub(ONE_WORKER, Ordering::Release);
        }
    }

    /// The state once it has another job number than `last`.
    fn wait_for_news(&self, last: u64) -> u64 {
        let mut looks = 0;
        while looks < SPINS + YIELDS {
            let state = self.state.load(Ordering::Acquire);
            if state / ONE_JOB != last / ONE_JOB {
                return state;
            }
            look_away(&mut looks);
        }
        let mut asleep = lock(&self.sleep);
        loop {
            let state = self.state.fetch_or(SLEEPING, Ordering::Acquire);
            if state / ONE_JOB != last / ONE_JOB {
                return state;
            }
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Joins the job of `state`, unless it is closed.
    fn join(&self, mut state: u64) -> bool {
        let number = state / ONE_JOB;
        while state & OPEN > 0 && state / ONE_JOB == number {
            let joined = state + ONE_WORKER;
            match self.state.compare_exchange_weak(state, joined, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Wakes the workers that sleep. The lock orders this after their last look at the state, at which they said so.
    fn wake_all(&self) {
        drop(lock(&self.sleep));
        self.wake.notify_all();
    }
}

/// Waits a little: first without leaving the core, after a while by giving it away.
fn look_away(looks: &mut usize) {
    *looks += 1;
    if *looks < SPINS { hint::spin_loop() } else { thread::yield_now() }
}

/// No panic happens while these locks are held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
