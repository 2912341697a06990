//! The libraries of a GPU, looked for when a device is opened and not when the program starts, so that one program serves
//! machines with and without a driver.
//!
//! The functions that candle calls are defined here under their names, each as a jump through a slot. A slot leads to a
//! function that answers with an error until its library is there.
//!
//! Invariants: the linker finds every one of these functions here and asks for no library at start; slots change once.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A shared library, its functions, and where they lead.
struct Library {
    file: &'static str,
    /// What people install to have it.
    of: &'static str,
    slots: &'static [(&'static str, &'static AtomicPtr<c_void>)],
}

/// `CUDA_ERROR_NOT_FOUND`.
extern "C" fn no_driver() -> c_int {
    500
}

/// `CUBLAS_STATUS_NOT_INITIALIZED`.
extern "C" fn no_cublas() -> c_int {
    1
}

/// `CURAND_STATUS_NOT_INITIALIZED`.
extern "C" fn no_curand() -> c_int {
    101
}

/// Defines the functions of a library and the list of their slots.
macro_rules! functions {
    ($list:ident, $missing:ident: $($name:ident)*) => {
        mod $list {
            use super::{AtomicPtr, c_void};

            $(
                #[allow(non_upper_case_globals)]
                pub(super) static $name: AtomicPtr<c_void> = AtomicPtr::new(super::$missing as *mut c_void);

                #[cfg(target_arch = "x86_64")]
                std::arch::global_asm!(
                    concat!(".globl ", stringify!($name)),
                    concat!(".hidden ", stringify!($name)),
                    concat!(".type ", stringify!($name), ",@function"),
                    concat!(stringify!($name), ":"),
                    "jmp qword ptr [rip + {slot}]",
                    slot = sym $name
                );
                #[cfg(target_arch = "aarch64")]
                std::arch::global_asm!(
                    concat!(".globl ", stringify!($name)),
                    concat!(".hidden ", stringify!($name)),
                    concat!(".type ", stringify!($name), ",%function"),
                    concat!(stringify!($name), ":"),
                    "adrp x16, {slot}",
                    "ldr x16, [x16, :lo12:{slot}]",
                    "br x16",
                    slot = sym $name
                );
            )*

            pub(super) static SLOTS: &[(&str, &AtomicPtr<c_void>)] = &[$((stringify!($name), &$name)),*];
        }
    };
}

functions! { driver, no_driver:
    cuCtxDestroy_v2 cuCtxGetCurrent cuCtxSetCurrent cuCtxSynchronize cuDeviceGet cuDeviceGetAttribute
    cuDeviceGetCount cuDeviceGetDefaultMemPool cuDeviceGetName cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain
    cuEventCreate cuEventDestroy_v2 cuEventElapsedTime_v2 cuEventRecord cuEventSynchronize
    cuFuncGetAttribute cuFuncSetAttribute cuGetErrorName cuGetErrorString cuInit cuLaunchKernel
    cuMemAllocAsync cuMemAllocHost_v2 cuMemAlloc_v2 cuMemFreeAsync cuMemFreeHost cuMemFree_v2
    cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolSetAttribute cuMemPoolTrimTo cuMemcpyDtoDAsync_v2 cuMemcpyDtoHAsync_v2
    cuMemcpyHtoDAsync_v2 cuMemcpyPeerAsync cuMemsetD8Async cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload cuStreamCreate
    cuStreamDestroy_v2 cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
}

functions! { cublas, no_cublas:
    cublasCreate_v2 cublasDestroy_v2 cublasGemmStridedBatchedEx cublasSetStream_v2
    cublasSgemmStridedBatched cublasDgemmStridedBatched
}

functions! { curand, no_curand:
    curandCreateGenerator curandDestroyGenerator curandGenerateNormal curandGenerateNormalDouble
    curandGenerateUniform curandGenerateUniformDouble curandSetPseudoRandomGeneratorSeed
    curandSetStream
}

const LIBRARIES: [Library; 3] = [
    Library { file: "libcuda.so.1", of: "NVIDIA's driver", slots: driver::SLOTS },
    Library { file: concat!("libcublas.so.", env!("MOEBIUS_CUDA_MAJOR")), of: TOOLKIT, slots: cublas::SLOTS },
    Library { file: "libcurand.so.10", of: TOOLKIT, slots: curand::SLOTS },
];

const TOOLKIT: &str = concat!(
    "the libraries of CUDA ",
    env!("MOEBIUS_CUDA_MAJOR"),
    ", in a folder of LD_LIBRARY_PATH if need be"
);

const RTLD_NOW: c_int = 2;

unsafe extern "C" {
    /// Opens a shared library; null if that is not possible.
    ///
    /// # Safety
    /// - `file` ends in a zero byte.
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    /// A function of a library; null if it has none of that name.
    ///
    /// # Safety
    /// - `library` comes from `dlopen` and is not null; `name` ends in a zero byte.
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    /// What went wrong last, in this thread.
    fn dlerror() -> *const c_char;
}

/// Opens the libraries and fills the slots; later calls say the same as the first one.
///
/// # Errors
/// Which library is missing, and where it comes from.
pub(super) fn load() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(|| LIBRARIES.iter().try_for_each(Library::load)).clone()
}

impl Library {
    fn load(&self) -> Result<(), String> {
        let file = CString::new(self.file).expect("names of files have no zero bytes");
        // SAFETY: the name ends in a zero byte; what a library does when it is opened is up to NVIDIA.
        let library = unsafe { dlopen(file.as_ptr(), RTLD_NOW) };
        if library.is_null() {
            // SAFETY: after a failure there is a message, which ends in a zero byte, until the next call in this thread.
            let reason = unsafe { CStr::from_ptr(dlerror()) }.to_string_lossy();
            return Err(format!("{reason}; it is part of {}", self.of));
        }
        for (name, slot) in self.slots {
            let name = CString::new(*name).expect("names of functions have no zero bytes");
            // SAFETY: the library was opened and the name ends in a zero byte.
            let function = unsafe { dlsym(library, name.as_ptr()) };
            // One that an old driver lacks goes on answering with an error.
            if !function.is_null() {
                slot.store(function, Ordering::Release);
            }
        }
        Ok(())
    }
}
