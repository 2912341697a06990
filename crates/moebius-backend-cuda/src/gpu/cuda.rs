//! The device itself, through candle's: its stream, its memory, its modules.
//!
//! Invariants: kernels were compiled with this crate; a module is loaded when the first of its kernels is launched.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, DevicePtr, DevicePtrMut, DriverError, LaunchConfig, PushKernelArg,
    result, sys,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{Device, Storage, Tensor};
use moebius_backend::{Error, Result};

use super::{Element, Launch, late};

/// Modules by name, and what each was compiled to.
macro_rules! modules {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")))),*]
    };
}

/// The modules: those of formats are named after them.
const MODULES: [(&str, &str); 16] = modules! {
    "attention" "recurrence" "routing" "small"
    "f32" "f16" "bf16" "q8_0" "q4_0" "q4_k" "q5_k" "q6_k" "q5_1" "mxfp4" "iq4_xs" "q2_k"
};

/// A GPU's name and memory.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    /// As the driver names it.
    pub name: String,
    /// Bytes that nobody uses.
    pub free_bytes: usize,
    /// All bytes.
    pub total_bytes: usize,
}

impl fmt::Display for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [free, total] =
            [self.free_bytes, self.total_bytes].map(|bytes| bytes as f64 / f64::from(1 << 30));
        write!(f, "{}, {free:.1} of {total:.1} GiB free", self.name)
    }
}

/// The GPUs that the driver shows, in the order of their indices.
///
/// # Errors
/// What the driver says, if it does not start or a GPU cannot be used.
pub fn devices() -> Result<Vec<DeviceMemory>, String> {
    late::load()?;
    let devices = || -> Result<Vec<DeviceMemory>, DriverError> {
        let count = CudaContext::device_count()? as usize;
        (0..count).map(|index| DeviceMemory::of(&*CudaContext::new(index)?)).collect()
    };
    devices().map_err(|error| error.to_string())
}

impl DeviceMemory {
    fn of(context: &CudaContext) -> Result<Self, DriverError> {
        let (free_bytes, total_bytes) = context.mem_get_info()?;
        Ok(DeviceMemory { name: context.name()?, free_bytes, total_bytes })
    }
}

pub(crate) struct CudaGpu {
    device: CudaDevice,
    pub(crate) most_shared_bytes: usize,
    /// Kernels that were launched before, with the shared memory that they may have: asking the driver for one takes as
    /// long as launching it.
    functions: Mutex<HashMap<String, (CudaFunction, usize)>>,
    /// The pool that keeps what is freed, and gets rid of it with this device.
    pool: Option<MemoryPool>,
}

/// Numbers of four bytes; the device does not care which.
pub(crate) struct CudaBuffer<T> {
    slice: CudaSlice<f32>,
    device: CudaDevice,
    kind: PhantomData<T>,
}

impl CudaGpu {
    pub(crate) fn open(index: usize) -> Result<Self, String> {
        late::load()?;
        let device = Device::new_cuda_with_stream(index).map_err(|error| error.to_string())?;
        let Device::Cuda(device) = device else { return Err("candle gave another device".into()) };
        let pools = device.cuda_stream().context().has_async_alloc();
        let pool = pools.then(|| MemoryPool::kept(index)).transpose().map_err(|error| error.to_string())?;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let most = device.cuda_stream().context().attribute(attribute).map_err(|error| error.to_string())?;
        let (most_shared_bytes, functions) = (usize::try_from(most).unwrap_or(0), Mutex::default());
        Ok(CudaGpu { device, most_shared_bytes, functions, pool })
    }

    pub(crate) fn memory(&self) -> Result<DeviceMemory, String> {
        let stream = self.device.cuda_stream();
        DeviceMemory::of(stream.context()).map_err(|error| error.to_string())
    }

    pub(crate) fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    pub(crate) fn unwritten<T: Element>(&self, len: usize) -> Result<CudaBuffer<T>> {
        // SAFETY: every pattern of bits is a number, so memory that was not written to is only unknown.
        let slice = unsafe { self.device.alloc::<f32>(len) }?;
        Ok(CudaBuffer { slice, device: self.device.clone(), kind: PhantomData })
    }

    /// A kernel that may have the shared memory that its launch asks for.
    fn function(&self, launch: &Launch<'_>) -> Result<CudaFunction> {
        let bytes = launch.blocks.shared_bytes;
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((function, most)) = functions.get(launch.kernel)
            && bytes <= *most
        {
            return Ok(function.clone());
        }
        let module = module_of(launch.kernel);
        let (_, ptx) = MODULES.iter().find(|(name, _)| *name == module).expect("every kernel is in a module");
        let function = self.device.get_or_load_custom_func(launch.kernel, module, ptx)?.into_cuda_function();
        if bytes > 0 {
            // A block has no more than 48 KiB unless it is asked for.
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let failed = |error| Error::Kernel(format!("kernel `{}`: {error}", launch.kernel).into());
            function.set_attribute(attribute, bytes as i32).map_err(failed)?;
        }
        functions.insert(launch.kernel.into(), (function.clone(), bytes));
        Ok(function)
    }

    pub(crate) fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let function = self.function(launch)?;
        let failed =
            |error: DriverError| Error::Kernel(format!("kernel `{}`: {error}", launch.kernel).into());
        let [x, y] = launch.blocks.grid.map(|blocks| blocks as u32);
        let config = LaunchConfig {
            grid_dim: (x, y, 1),
            block_dim: (launch.blocks.threads() as u32, 1, 1),
            shared_mem_bytes: launch.blocks.shared_bytes as u32,
        };
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&function);
        for arg in launch.args {
            // A kernel takes as many of the low bytes as its parameter has.
            builder.arg(&arg.value);
        }
        // SAFETY: arguments are those of the kernel's parameters, which the emulator checks for the same launches; they
        // point to memory that they borrow and that is freed in the order of the same stream.
        unsafe { builder.launch(config) }.map_err(failed)?;
        Ok(())
    }
}

/// A device's memory that was freed and stays with the program: every pass takes what the last one freed, and the driver
/// would give it back to the system whenever the host waits.
struct MemoryPool(sys::CUmemoryPool);

// SAFETY: the driver's functions may be called with a pool by any thread, and it lasts as long as the program.
unsafe impl Send for MemoryPool {}
// SAFETY: as above.
unsafe impl Sync for MemoryPool {}

impl MemoryPool {
    fn kept(index: usize) -> Result<Self, DriverError> {
        let mut most = u64::MAX;
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        // SAFETY: the device and its pool are there, since a context of it is open; the threshold is a number of 64 bits.
        unsafe {
            let pool = result::device::get_default_mem_pool(result::device::get(index)?)?;
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, threshold, (&raw mut most).cast())?;
            Ok(MemoryPool(pool))
        }
    }

    /// Gives back to the system what is free.
    fn trim(&self) -> Result<(), DriverError> {
        // SAFETY: the pool is the device's own, which lasts as long as the program.
        unsafe { result::mem_pool::trim_to(self.0, 0) }
    }
}

/// The weights of a model are gone by now, and others may want their memory. Where that fails, the program's end does it.
impl Drop for CudaGpu {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            // What was freed in the order of the stream is free when the stream got there.
            let _ = self.device.cuda_stream().synchronize().and_then(|()| pool.trim());
        }
    }
}

impl<T: Element> CudaBuffer<T> {
    pub(crate) fn write_at(&mut self, first: usize, values: &[T]) -> Result<()> {
        const { assert!(size_of::<T>() == size_of::<f32>() && align_of::<T>() == align_of::<f32>()) };
        // SAFETY: elements are as large as f32 and aligned alike, and every pattern of their bits is one.
        let floats = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<f32>(), values.len()) };
        let mut part = self.slice.slice_mut(first..first + values.len());
        Ok(self.device.memcpy_htod(floats, &mut part)?)
    }

    pub(crate) fn address(&self) -> (u64, usize) {
        let stream = self.device.cuda_stream();
        let (address, _) = self.slice.device_ptr(&stream);
        (address, self.slice.len())
    }

    pub(crate) fn address_mut(&mut self) -> (u64, usize) {
        let stream = self.device.cuda_stream();
        let len = self.slice.len();
        let (address, _) = self.slice.device_ptr_mut(&stream);
        (address, len)
    }
}

impl CudaBuffer<u32> {
    pub(crate) fn download(&self, len: usize) -> Result<Vec<u32>> {
        let floats = self.device.clone_dtoh(&self.slice.slice(0..len))?;
        Ok(floats.into_iter().map(f32::to_bits).collect())
    }
}

impl CudaBuffer<f32> {
    pub(crate) fn tensor(self, shape: &[usize]) -> Tensor {
        let storage = CudaStorage::wrap_cuda_slice(self.slice, self.device);
        Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
    }
}

/// Address and length of what a tensor's storage holds.
pub(crate) fn address_of(storage: &CudaStorage) -> Result<(u64, usize)> {
    let slice = storage.as_cuda_slice::<f32>()?;
    let stream = storage.device.cuda_stream();
    let (address, _) = slice.device_ptr(&stream);
    Ok((address, slice.len()))
}

/// The module that a kernel was compiled into.
fn module_of(kernel: &str) -> &str {
    match kernel {
        "attention" => "attention",
        "causal_conv" | "delta_rule" | "selective_scan" => "recurrence",
        "count_pairs" | "place_pairs" | "route" | "route_few" => "routing",
        _ => match kernel.strip_prefix("product_").map(|rest| rest.rsplit_once('_')) {
            // Behind the format there is a number of tiles, or words.
            Some(Some((format, _))) => format.strip_suffix("_wide").unwrap_or(format),
            _ => kernel.strip_prefix("rows_").unwrap_or("small"),
        },
    }
}
