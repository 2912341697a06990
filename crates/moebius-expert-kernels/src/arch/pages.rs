//! Larger pages for large buffers: fewer addresses to look up while weights stream by.

use std::mem::MaybeUninit;

/// The size of a large page on most machines; smaller buffers cannot hold one.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// A multiple of the small pages of every machine.
#[cfg(target_os = "linux")]
const SMALL_PAGES: usize = 64 << 10;

/// Asks the system for large pages behind memory that nothing was written to. It may decline; elsewhere than on
/// Linux nothing is asked.
#[cfg(target_os = "linux")]
pub(crate) fn prefer_large_pages<T>(memory: &mut [MaybeUninit<T>]) {
    use std::ffi::{c_int, c_void};

    /// Large pages for a range of addresses.
    const MADV_HUGEPAGE: c_int = 14;

    // SAFETY: the declaration is that of the C library, which the standard library links on Linux.
    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }

    let first = memory.as_mut_ptr().cast::<u8>();
    let skipped = first.align_offset(SMALL_PAGES);
    let length = size_of_val(memory).saturating_sub(skipped) / SMALL_PAGES * SMALL_PAGES;
    if length >= LARGE_PAGE {
        // SAFETY: the range lies within `memory` and starts with a page; the advice changes no contents, and its
        // failure, which the result would tell, leaves everything as it was.
        unsafe { madvise(first.wrapping_add(skipped).cast(), length, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn prefer_large_pages<T>(_: &mut [MaybeUninit<T>]) {}
