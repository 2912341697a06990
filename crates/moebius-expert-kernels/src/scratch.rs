//! Memory for what one call needs while it runs, kept for the next call: it is neither asked for, touched for the first
//! time nor zeroed again.
//!
//! Invariants: what is taken holds values of former calls, so whoever takes it writes every value before reading it.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

/// Most values of a buffer that is kept.
const MOST_KEPT: usize = 16 << 20;

/// Buffers that nobody uses at the moment.
#[derive(Debug)]
pub(crate) struct Scratch<T> {
    free: Mutex<Vec<Vec<T>>>,
    unwritten: T,
}

impl<T: Copy> Scratch<T> {
    /// No memory yet. In new memory, and in debug builds in all that is taken, every value is `unwritten`: one that shows
    /// wherever it is read.
    pub(crate) fn new(unwritten: T) -> Self {
        Self { free: Mutex::default(), unwritten }
    }

    /// Memory for `len` values, which are whatever they are.
    pub(crate) fn take(&self, len: usize) -> Taken<'_, T> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, else the largest, which grows.
        let fits = |index: &usize| (free[*index].len() < len, free[*index].len().abs_diff(len));
        let found = (0..free.len()).min_by_key(fits);
        let mut buffer = found.map(|index| free.swap_remove(index)).unwrap_or_default();
        drop(free);
        if buffer.len() < len {
            // Nothing of the old values is worth a copy.
            buffer.clear();
            buffer.resize(len, self.unwritten);
        } else if cfg!(debug_assertions) {
            buffer.fill(self.unwritten);
        }
        Taken { from: self, buffer, len }
    }
}

/// Values that go back when they are dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a, T> {
    from: &'a Scratch<T>,
    buffer: Vec<T>,
    len: usize,
}

impl<T> Deref for Taken<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.buffer[..self.len]
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.buffer[..self.len]
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if (1..=MOST_KEPT).contains(&self.buffer.len()) {
            let buffer = std::mem::take(&mut self.buffer);
            self.from.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_grows() {
        let scratch = Scratch::new(-1);
        let place = |taken: &Taken<'_, i32>| taken.as_ptr();
        let (first, second) = {
            let (mut large, small) = (scratch.take(100), scratch.take(10));
            assert!(large.iter().all(|value| *value == -1));
            large.fill(7);
            (place(&large), place(&small))
        };
        assert_eq!(place(&scratch.take(9)), second);
        let again = scratch.take(50);
        assert_eq!((place(&again), again.len()), (first, 50));
        assert_eq!(again[49], if cfg!(debug_assertions) { -1 } else { 7 });
        drop(again);
        assert_eq!(scratch.take(101).len(), 101);
        assert_eq!(scratch.free.lock().unwrap().len(), 2);
    }

    #[test]
    fn what_is_very_large_goes_back_to_the_system() {
        let scratch = Scratch::new(0u8);
        drop((scratch.take(MOST_KEPT + 1), scratch.take(0)));
        assert!(scratch.free.lock().unwrap().is_empty());
    }
}
