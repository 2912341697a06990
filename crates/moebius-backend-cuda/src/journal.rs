//! What layers of a pass chose, in one stretch of the device's memory, so that the host fetches it in one piece when all is
//! launched.
//!
//! Invariants: an entry is written once, before any is read; a page that was read takes no more entries.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moebius_backend::Result;

use crate::gpu::{Buffer, Gpu};

/// Words of the first page.
const FIRST_WORDS: usize = 4096;

/// A device's open page.
#[derive(Default)]
pub(crate) struct Journal {
    page: Mutex<Option<Arc<Mutex<Page>>>>,
}

struct Page {
    buffer: Buffer<u32>,
    capacity: usize,
    used: usize,
    /// What the host knows of it: all of it, once any of it.
    fetched: Option<Vec<u32>>,
}

/// Some words of a page.
pub(crate) struct Entry {
    page: Arc<Mutex<Page>>,
    range: Range<usize>,
}

impl Journal {
    /// An entry of `len` words, which `write` launches the writing of, from the word that it is told on.
    pub(crate) fn entry(
        &self,
        gpu: &Gpu,
        len: usize,
        write: impl FnOnce(&mut Buffer<u32>, usize) -> Result<()>,
    ) -> Result<Entry> {
        let mut open = lock(&self.page);
        let mut least = FIRST_WORDS;
        if let Some(page) = open.as_ref() {
            let page = lock(page);
            least = page.capacity;
            if page.fetched.is_some() || page.capacity - page.used < len {
                // A pass that did not fit into this page fits into the next one.
                least = if page.fetched.is_some() { least } else { least.saturating_mul(2) };
                drop(page);
                *open = None;
            }
        }
        let page = match open.as_ref() {
            Some(page) => page.clone(),
            None => {
                let capacity = least.max(len);
                let page = Page { buffer: gpu.unwritten(capacity)?, capacity, used: 0, fetched: None };
                open.insert(Arc::new(Mutex::new(page))).clone()
            }
        };
        drop(open);
        let mut state = lock(&page);
        let range = state.used..state.used + len;
        state.used = range.end;
        write(&mut state.buffer, range.start)?;
        drop(state);
        Ok(Entry { page, range })
    }
}

impl Entry {
    /// Its words; waits for the device the first time that one of the page's entries is read.
    pub(crate) fn read(&self) -> Result<Vec<u32>> {
        let mut page = lock(&self.page);
        if page.fetched.is_none() {
            page.fetched = Some(page.buffer.download(page.used)?);
        }
        let words = page.fetched.as_ref().expect("it was fetched");
        Ok(words[self.range.clone()].to_vec())
    }
}

/// Pages are whole whatever became of a thread that held one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
