//! Threads that read experts while others compute.
//!
//! Invariants: what is needed now goes before what may be needed; a job ends in an arrival, whatever comes of it, unless it
//! was taken back; dropping the readers waits for the reads under way.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::ReadLimit;
use crate::buffer::Buffer;
use crate::files::UnitSpans;
use crate::limit::Throttle;

/// Reads under way at a time: disks are fast only when they may choose among several. Threads that wait cost no processor.
const READERS: usize = 8;

/// An expert to be read.
pub(crate) struct Job {
    pub(crate) unit: usize,
    pub(crate) spans: Arc<UnitSpans>,
    pub(crate) buffer: Buffer,
}

/// An expert that was read, or was not.
pub(crate) struct Arrival {
    pub(crate) unit: usize,
    pub(crate) buffer: Buffer,
    pub(crate) result: io::Result<()>,
}

/// The threads and what they have to do.
pub(crate) struct Readers {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    more: Condvar,
}

#[derive(Default)]
struct Jobs {
    needed: VecDeque<Job>,
    ahead: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; `None` when there will be none.
    fn take(&self) -> Option<Job> {
        let mut jobs = self.lock();
        loop {
            if jobs.closed {
                return None;
            }
            if let Some(job) = jobs.needed.pop_front().or_else(|| jobs.ahead.pop_front()) {
                return Some(job);
            }
            jobs = self.more.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Readers {
    /// Starts the threads; what they read comes out of the receiver.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(limit: Option<ReadLimit>) -> io::Result<(Self, Receiver<Arrival>)> {
        let (arrivals, arrived) = channel();
        let throttle = limit.map(|limit| Arc::new(Throttle::new(limit)));
        let mut readers = Readers { queue: Arc::default(), threads: Vec::new() };
        for _ in 0..READERS {
            let (queue, throttle) = (readers.queue.clone(), throttle.clone());
            let arrivals: Sender<Arrival> = arrivals.clone();
            let work = move || {
                while let Some(job) = queue.take() {
                    if arrivals.send(read(job, throttle.as_deref())).is_err() {
                        return;
                    }
                }
            };
            readers.threads.push(std::thread::Builder::new().name("reader".into()).spawn(work)?);
        }
        Ok((readers, arrived))
    }

    /// Reads what is needed.
    pub(crate) fn need(&self, job: Job) {
        self.queue.lock().needed.push_back(job);
        self.queue.more.notify_one();
    }

    /// Reads what may be needed, when there is nothing else to read.
    pub(crate) fn ahead(&self, job: Job) {
        self.queue.lock().ahead.push_back(job);
        self.queue.more.notify_one();
    }

    /// What may be needed is.
    pub(crate) fn hurry(&self, unit: usize) {
        let mut jobs = self.queue.lock();
        if let Some(place) = jobs.ahead.iter().position(|job| job.unit == unit)
            && let Some(job) = jobs.ahead.remove(place)
        {
            jobs.needed.push_back(job);
        }
    }

    /// Takes back what may be needed, unless it is under way.
    pub(crate) fn take_back(&self, unit: usize) -> Option<Buffer> {
        let mut jobs = self.queue.lock();
        let place = jobs.ahead.iter().position(|job| job.unit == unit)?;
        jobs.ahead.remove(place).map(|job| job.buffer)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.more.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to do either.
            let _ = thread.join();
        }
    }
}

fn read(job: Job, throttle: Option<&Throttle>) -> Arrival {
    let Job { unit, spans, mut buffer } = job;
    let done = throttle.map(|throttle| throttle.take(spans.bytes(), Instant::now()));
    let read = catch_unwind(AssertUnwindSafe(|| spans.read(buffer.bytes_mut())));
    let result = read.unwrap_or_else(|_| Err(io::Error::other("reading it failed unexpectedly")));
    if let Some(done) = done {
        std::thread::sleep(done.saturating_duration_since(Instant::now()));
    }
    Arrival { unit, buffer, result }
}
