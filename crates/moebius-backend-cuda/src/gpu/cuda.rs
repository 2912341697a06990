//! The device itself, through candle's: its stream, its memory, its modules.
//!
//! Invariants: kernels were compiled with this crate; a module is loaded when the first of its kernels is launched.

use std::fmt;
use std::marker::PhantomData;

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaSlice, DevicePtr, DevicePtrMut, DriverError, LaunchConfig, PushKernelArg, result, sys,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{Device, Storage, Tensor};
use moebius_backend::{Error, Result};

use super::{Element, Launch, THREADS, late};

/// The modules, and what each was compiled to.
const MODULES: [(&str, &str); 5] = [
    ("attention", include_str!(concat!(env!("OUT_DIR"), "/attention.ptx"))),
    ("products", include_str!(concat!(env!("OUT_DIR"), "/products.ptx"))),
    ("recurrence", include_str!(concat!(env!("OUT_DIR"), "/recurrence.ptx"))),
    ("routing", include_str!(concat!(env!("OUT_DIR"), "/routing.ptx"))),
    ("small", include_str!(concat!(env!("OUT_DIR"), "/small.ptx"))),
];

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
        if device.cuda_stream().context().has_async_alloc() {
            keep_freed_memory(index).map_err(|error| error.to_string())?;
        }
        Ok(CudaGpu { device })
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

    pub(crate) fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let module = module_of(launch.kernel);
        let (_, ptx) = MODULES.iter().find(|(name, _)| *name == module).expect("every kernel is in a module");
        let function = self.device.get_or_load_custom_func(launch.kernel, module, ptx)?;
        let [x, y] = launch.grid.map(|blocks| blocks as u32);
        let config =
            LaunchConfig { grid_dim: (x, y, 1), block_dim: (THREADS as u32, 1, 1), shared_mem_bytes: 0 };
        let mut builder = function.builder();
        for arg in launch.args {
            // A kernel takes as many of the low bytes as its parameter has.
            builder.arg(&arg.value);
        }
        // SAFETY: arguments are those of the kernel's parameters, which the emulator checks for the same launches; they
        // point to memory that they borrow and that is freed in the order of the same stream.
        unsafe { builder.launch(config) }
            .map_err(|error| Error::Kernel(format!("kernel `{}`: {error}", launch.kernel).into()))?;
        Ok(())
    }
}

/// Memory that is freed stays with the program: every pass takes what the last one freed, and the driver would give it back
/// to the system whenever the host waits.
fn keep_freed_memory(index: usize) -> Result<(), DriverError> {
    let mut most = u64::MAX;
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    // SAFETY: the device and its pool are there, since a context of it is open; the threshold is a number of 64 bits.
    unsafe {
        let pool = result::device::get_default_mem_pool(result::device::get(index)?)?;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut most).cast())
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
fn module_of(kernel: &str) -> &'static str {
    match kernel {
        "attention" => "attention",
        "causal_conv" | "delta_rule" | "selective_scan" => "recurrence",
        "count_pairs" | "place_pairs" | "route" => "routing",
        kernel if ["dense_", "experts_", "rows_"].iter().any(|prefix| kernel.starts_with(prefix)) => {
            "products"
        }
        _ => "small",
    }
}
