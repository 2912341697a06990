//! The emulator: kernels on the processor, thread by thread, every access checked.
//!
//! Invariants: blocks and threads run one after the other, in an order that a correct kernel does not notice.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};

use candle_core::Device;
use moebius_backend::{Error, Result};

use super::{Arg, Blocks, Launch};

/// In which order blocks and the threads of a block take their turns. A kernel whose threads race gives other results
/// in the other order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the first on.
    Ascending,
    /// From the last back.
    Descending,
}

pub(crate) struct Emulator {
    pub(crate) order: Order,
    pub(crate) most_shared_bytes: usize,
}

/// Bytes of shared memory that a block has at the most, as on an H100.
pub(crate) const MOST_SHARED_BYTES: usize = 227 << 10;

/// What the emulator is asked for; `Request` in `emulator.cpp`.
#[repr(C)]
struct Request<'a> {
    /// Ends in a zero byte.
    kernel: *const c_char,
    args: *const Arg<'a>,
    arg_count: u64,
    /// Room for a message.
    error: *mut c_char,
    error_bytes: u64,
    grid: [c_uint; 2],
    threads: c_uint,
    shared_bytes: c_uint,
    descending: c_int,
}

unsafe extern "C" {
    /// Runs a kernel; 0, or 1 and a message in `error`.
    ///
    /// # Safety
    /// - Pointers of the request lead to as much as it says.
    /// - Memory that an argument points to is there, is nobody else's where the kernel writes, and holds numbers.
    fn moebius_emulate(request: *const Request<'_>) -> c_int;
}

impl Emulator {
    pub(crate) fn device(&self) -> Device {
        Device::Cpu
    }

    pub(crate) fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let kernel = CString::new(launch.kernel).expect("names of kernels have no zero bytes");
        let mut error = [0u8; 512];
        let request = Request {
            kernel: kernel.as_ptr(),
            args: launch.args.as_ptr(),
            arg_count: launch.args.len() as u64,
            error: error.as_mut_ptr().cast(),
            error_bytes: error.len() as u64,
            grid: launch.blocks.grid.map(|blocks| blocks as c_uint),
            threads: launch.blocks.threads() as c_uint,
            shared_bytes: launch.blocks.shared_bytes as c_uint,
            descending: c_int::from(self.order == Order::Descending),
        };
        // SAFETY: pointers and lengths are those of the values above; arguments point to memory that they borrow, and
        // the emulator refuses to leave it.
        let code = unsafe { moebius_emulate(&raw const request) };
        if code == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&error).map_or("no message".into(), CStr::to_string_lossy);
        Err(Error::Kernel(format!("kernel `{}`: {text}", launch.kernel).into()))
    }
}

/// An argument of [`run_kernel`].
#[derive(Debug)]
pub enum KernelArg<'a> {
    /// Memory that the kernel may read and write.
    Floats(&'a mut [f32]),
    /// A number of elements.
    Size(usize),
}

/// Runs one kernel by its name, for tests of kernels and of the emulator itself; `shared_bytes` is 0 unless it is wide.
///
/// # Errors
/// [`Error::Kernel`] when there is no such kernel, it has other parameters, leaves its memory, or its threads wait for
/// each other in vain.
pub fn run_kernel(
    order: Order,
    kernel: &str,
    (grid, shared_bytes): ([usize; 2], usize),
    args: &mut [KernelArg<'_>],
) -> Result<()> {
    let args: Vec<Arg<'_>> = (args.iter_mut())
        .map(|arg| match arg {
            KernelArg::Floats(values) => {
                let address = values.as_mut_ptr().expose_provenance() as u64;
                super::memory::<f32>(address, values.len(), 0)
            }
            KernelArg::Size(size) => (*size).into(),
        })
        .collect();
    let emulator = Emulator { order, most_shared_bytes: MOST_SHARED_BYTES };
    let blocks = Blocks { grid, shared_bytes };
    super::Gpu::Emulated(emulator).launch(&Launch { kernel, blocks, args: &args })
}
