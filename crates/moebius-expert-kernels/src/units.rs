//! Where packed weights lie: in memory of their own, or in bytes that somebody else keeps.
//!
//! Invariants: shared bytes were found long enough and aligned when they were taken over; an owner that shows other
//! bytes later than it did then ends in a panic, never in a read beyond them, because every look checks again.

use std::{fmt, ops::Deref, ops::Range, sync::Arc};

use crate::{
    KernelError,
    arch::plain::{Plain, units_of},
};

/// A part of bytes that several holders keep alive together, such as a mapped file.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl SharedBytes {
    /// The bytes `range` of `owner`, which should show the same bytes whenever it is asked.
    ///
    /// # Errors
    /// [`KernelError::OutOfRange`] if the range ends beyond the owner's bytes or before it starts.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Result<Self, KernelError> {
        let len = (*owner).as_ref().len();
        for (limit, got) in [(len + 1, range.end), (range.end.saturating_add(1), range.start)] {
            if got >= limit {
                return Err(KernelError::OutOfRange { what: "range", limit, got });
            }
        }
        Ok(Self { owner, range })
    }

    /// The bytes.
    ///
    /// # Panics
    /// If the owner shows fewer bytes than it did when it was handed over.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes").field("range", &self.range).finish_non_exhaustive()
    }
}

/// The units of a matrix.
#[derive(Debug, Clone)]
pub(crate) enum Units<U> {
    Owned(Vec<U>),
    Shared(SharedBytes),
}

impl<U: Plain> Units<U> {
    /// Units that lie in shared bytes.
    pub(crate) fn shared(bytes: SharedBytes) -> Result<Self, KernelError> {
        match units_of::<U>(bytes.as_slice()) {
            Some(_) => Ok(Self::Shared(bytes)),
            None => Err(KernelError::Misaligned { what: "memory", of: align_of::<U>() }),
        }
    }
}

impl<U: Plain> Deref for Units<U> {
    type Target = [U];

    #[inline]
    fn deref(&self) -> &[U] {
        match self {
            Self::Owned(units) => units,
            Self::Shared(bytes) => {
                units_of(bytes.as_slice()).expect("the owner shows the bytes that it showed before")
            }
        }
    }
}
