//! Pages: larger ones behind large buffers, so that fewer addresses are looked up while weights stream by, and kept
//! ones behind buffers that come and go, until they are given back.

use std::mem::MaybeUninit;

/// The size of a large page on most machines.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// Larger buffers get pages of their own, in programs that call [`keep_freed_memory`].
#[cfg(target_os = "linux")]
const LARGEST_IN_HEAP: usize = 32 << 20;

/// Buffers from which on it pays to ask.
#[cfg(target_os = "linux")]
const WORTH_ASKING: usize = 64 << 10;

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

    let (first, length) = (memory.as_mut_ptr().cast::<u8>(), size_of_val(memory));
    if length >= WORTH_ASKING {
        // What lies beside `memory` in the heap, and is allocated behind it next, is often of the same kind; alone, small
        // buffers would have no large page, and the heap's own notes behind a buffer would take a small one.
        let before = first.addr() % LARGE_PAGE;
        let length = (before + length + LARGEST_IN_HEAP).next_multiple_of(LARGE_PAGE);
        // SAFETY: the range starts with a page; the advice changes no contents, whoever they belong to, and its failure,
        // which the result would tell, leaves everything as it was.
        unsafe { madvise(first.wrapping_sub(before).cast(), length, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn prefer_large_pages<T>(_: &mut [MaybeUninit<T>]) {}

/// Has the C library keep up to 256 MB of freed memory for what is allocated next. Activations of the same sizes come
/// and go with every layer of a prompt, and fresh pages for them cost about as much as the small operations on them.
///
/// This concerns the whole process, so a program decides on it and not a library. It does nothing elsewhere than on
/// Linux with the GNU C library.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;

        /// Free memory above which the heap's end is given back to the system.
        const TRIM_THRESHOLD: (c_int, c_int) = (-1, 256 << 20);
        /// Sizes from which on buffers get pages of their own, which are given back with them: the most there is.
        const MMAP_THRESHOLD: (c_int, c_int) = (-3, LARGEST_IN_HEAP as c_int);
        /// What the heap grows by beyond what is asked for, so that large pages fit into it.
        const TOP_PAD: (c_int, c_int) = (-2, 2 * LARGEST_IN_HEAP as c_int);

        // SAFETY: the declaration is that of the GNU C library, which the standard library links on this target.
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }

        for (parameter, value) in [TRIM_THRESHOLD, MMAP_THRESHOLD, TOP_PAD] {
            // SAFETY: the call takes two numbers and may be made at any time; a refusal changes nothing.
            unsafe { mallopt(parameter, value) };
        }
    }
}

/// Has the C library give all freed memory back to the system, so that what is counted from now on is in use. It does
/// nothing elsewhere than on Linux with the GNU C library.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;

        // SAFETY: the declaration is that of the GNU C library, which the standard library links on this target.
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> c_int;
        }

        // SAFETY: the call may be made at any time; what is allocated stays where it is.
        unsafe { malloc_trim(0) };
    }
}
