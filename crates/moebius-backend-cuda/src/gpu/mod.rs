//! Devices: memory, and the launching of kernels on it.
//!
//! Invariants: a launch holds the memory that its arguments point to; all work of a device is in one stream, so that
//! what is launched first is done first.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "emulated")]
pub(crate) mod emulated;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod late;
/// Elsewhere the system looks for libraries when the program starts.
#[cfg(all(feature = "cuda", not(target_os = "linux")))]
mod late {
    pub(super) fn load() -> Result<(), String> {
        Ok(())
    }
}

use std::marker::PhantomData;

use candle_core::{DType, Device, Storage, Tensor};
use moebius_backend::{Error, Result};

/// Threads of a block, in every kernel that is not wide.
pub(crate) const THREADS: usize = 128;
/// Threads of a block of a wide kernel.
const WIDE_THREADS: usize = 256;

/// The most blocks of a grid in its first and second dimension.
pub(crate) const MAX_GRID: [usize; 2] = [i32::MAX as usize, u16::MAX as usize];

/// What buffers hold: numbers of four bytes, of which every pattern is one.
pub(crate) trait Element: Copy + 'static {
    /// What memory holds that nobody has written to, in the emulator.
    #[cfg(feature = "emulated")]
    const UNWRITTEN: Self;
}

impl Element for f32 {
    #[cfg(feature = "emulated")]
    const UNWRITTEN: Self = f32::NAN;
}
impl Element for u32 {
    #[cfg(feature = "emulated")]
    const UNWRITTEN: Self = u32::MAX;
}

/// A device.
pub(crate) enum Gpu {
    #[cfg(feature = "cuda")]
    Cuda(cuda::CudaGpu),
    #[cfg(feature = "emulated")]
    Emulated(emulated::Emulator),
}

/// Some numbers in a device's memory.
pub(crate) enum Buffer<T: Element> {
    #[cfg(feature = "cuda")]
    Cuda(cuda::CudaBuffer<T>),
    #[cfg(feature = "emulated")]
    Emulated(Vec<T>),
}

/// An argument of a kernel: a number in the low bytes of `value`, or an address and how many bytes are there.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Arg<'a> {
    value: u64,
    bytes: u64,
    memory: PhantomData<&'a ()>,
}

impl Arg<'_> {
    /// Memory that the kernel is told not to use.
    pub(crate) const NONE: Arg<'static> = Arg { value: 0, bytes: 0, memory: PhantomData };
}

impl From<usize> for Arg<'_> {
    fn from(value: usize) -> Self {
        Arg { value: value as u64, ..Arg::NONE }
    }
}

impl From<u32> for Arg<'_> {
    fn from(value: u32) -> Self {
        Arg { value: u64::from(value), ..Arg::NONE }
    }
}

impl From<bool> for Arg<'_> {
    fn from(value: bool) -> Self {
        u32::from(value).into()
    }
}

impl From<f32> for Arg<'_> {
    fn from(value: f32) -> Self {
        value.to_bits().into()
    }
}

/// The blocks of a launch.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    /// How many in both dimensions.
    pub(crate) grid: [usize; 2],
    /// The room that a wide kernel's blocks have; 0 for kernels that are not wide.
    pub(crate) shared_bytes: usize,
}

impl From<[usize; 2]> for Blocks {
    fn from(grid: [usize; 2]) -> Self {
        Blocks { grid, shared_bytes: 0 }
    }
}

impl Blocks {
    fn threads(&self) -> usize {
        if self.shared_bytes > 0 { WIDE_THREADS } else { THREADS }
    }
}

/// A kernel on a grid of blocks.
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a str,
    pub(crate) blocks: Blocks,
    /// As the kernel's parameters.
    pub(crate) args: &'a [Arg<'a>],
}

/// `$body` with what is in either variant.
macro_rules! on {
    ($enum:ident, $value:expr, $inner:ident => $body:expr) => {
        match $value {
            #[cfg(feature = "cuda")]
            $enum::Cuda($inner) => $body,
            #[cfg(feature = "emulated")]
            $enum::Emulated($inner) => $body,
        }
    };
}

impl Gpu {
    /// Where candle's tensors are.
    pub(crate) fn device(&self) -> Device {
        on!(Gpu, self, gpu => gpu.device())
    }

    /// Bytes of shared memory that a block can have at the most.
    pub(crate) fn most_shared_bytes(&self) -> usize {
        on!(Gpu, self, gpu => gpu.most_shared_bytes)
    }

    /// Memory that was not written to.
    pub(crate) fn unwritten<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(gpu) => Ok(Buffer::Cuda(gpu.unwritten(len)?)),
            #[cfg(feature = "emulated")]
            Gpu::Emulated(_) => Ok(Buffer::Emulated(vec![T::UNWRITTEN; len])),
        }
    }

    /// A copy of what the host has.
    pub(crate) fn upload<T: Element>(&self, values: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.unwritten(values.len())?;
        buffer.write_at(0, values)?;
        Ok(buffer)
    }

    /// What a kernel wrote, as a tensor; nothing is copied.
    pub(crate) fn tensor(&self, buffer: Buffer<f32>, shape: &[usize]) -> Result<Tensor> {
        match buffer {
            #[cfg(feature = "cuda")]
            Buffer::Cuda(buffer) => Ok(buffer.tensor(shape)),
            #[cfg(feature = "emulated")]
            Buffer::Emulated(values) => Ok(Tensor::from_vec(values, shape, &Device::Cpu)?),
        }
    }

    /// Runs a kernel after all that were launched before. A grid without blocks is none.
    pub(crate) fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let grid = launch.blocks.grid;
        if grid.contains(&0) {
            return Ok(());
        }
        if grid.iter().zip(MAX_GRID).any(|(&blocks, most)| blocks > most) {
            return Err(Error::Shape {
                what: format!("grid of `{}`", launch.kernel),
                expected: format!("at most {MAX_GRID:?}"),
                got: format!("{grid:?}"),
            });
        }
        on!(Gpu, self, gpu => gpu.launch(launch))
    }
}

impl<T: Element> Buffer<T> {
    /// Overwrites a part.
    pub(crate) fn write_at(&mut self, first: usize, values: &[T]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        match self {
            #[cfg(feature = "cuda")]
            Buffer::Cuda(buffer) => buffer.write_at(first, values)?,
            #[cfg(feature = "emulated")]
            Buffer::Emulated(all) => all[first..first + values.len()].copy_from_slice(values),
        }
        Ok(())
    }

    /// For a kernel that reads it.
    pub(crate) fn read(&self) -> Arg<'_> {
        self.read_from(0)
    }

    /// For a kernel that reads it from an element on.
    pub(crate) fn read_from(&self, first: usize) -> Arg<'_> {
        let (address, len) = match self {
            #[cfg(feature = "cuda")]
            Buffer::Cuda(buffer) => buffer.address(),
            #[cfg(feature = "emulated")]
            Buffer::Emulated(values) => (values.as_ptr().expose_provenance() as u64, values.len()),
        };
        memory::<T>(address, len, first)
    }

    /// For a kernel that writes to it.
    pub(crate) fn write(&mut self) -> Arg<'_> {
        self.write_from(0)
    }

    /// For a kernel that writes to it from an element on.
    pub(crate) fn write_from(&mut self, first: usize) -> Arg<'_> {
        let (address, len) = self.address_mut();
        memory::<T>(address, len, first)
    }

    /// For a kernel that writes to parts of it, each from one of `firsts`, which ascend, up to the next.
    pub(crate) fn write_parts<const N: usize>(&mut self, firsts: [usize; N]) -> [Arg<'_>; N] {
        let (address, len) = self.address_mut();
        std::array::from_fn(|part| {
            let end = firsts.get(part + 1).map_or(len, |&end| end.min(len));
            memory::<T>(address, end, firsts[part])
        })
    }

    fn address_mut(&mut self) -> (u64, usize) {
        match self {
            #[cfg(feature = "cuda")]
            Buffer::Cuda(buffer) => buffer.address_mut(),
            #[cfg(feature = "emulated")]
            Buffer::Emulated(values) => (values.as_mut_ptr().expose_provenance() as u64, values.len()),
        }
    }
}

impl Buffer<u32> {
    /// A copy of the first `len` words for the host, which waits until all that was launched before is done.
    pub(crate) fn download(&self, len: usize) -> Result<Vec<u32>> {
        match self {
            #[cfg(feature = "cuda")]
            Buffer::Cuda(buffer) => buffer.download(len),
            #[cfg(feature = "emulated")]
            Buffer::Emulated(words) => Ok(words[..len].to_vec()),
        }
    }
}

/// For a kernel that reads a tensor from its first element on. The tensor keeps its memory: nothing here changes one in
/// place, and candle does so in the order of the stream.
pub(crate) fn tensor_arg(x: &Tensor) -> Result<Arg<'_>> {
    let (storage, layout) = x.storage_and_layout();
    let (address, len) = match &*storage {
        #[cfg(feature = "cuda")]
        Storage::Cuda(values) if x.dtype() == DType::F32 => cuda::address_of(values)?,
        #[cfg(feature = "emulated")]
        Storage::Cpu(values) if x.dtype() == DType::F32 => {
            let values = values.as_slice::<f32>()?;
            (values.as_ptr().expose_provenance() as u64, values.len())
        }
        _ => {
            return Err(Error::Shape {
                what: "activation".into(),
                expected: "f32 on the device of the backend".into(),
                got: format!("{:?} on {:?}", x.dtype(), x.device()),
            });
        }
    };
    Ok(memory::<f32>(address, len, layout.start_offset()))
}

/// Memory from an element on.
fn memory<'a, T>(address: u64, len: usize, first: usize) -> Arg<'a> {
    let width = size_of::<T>();
    let bytes = len.saturating_sub(first) * width;
    Arg { value: address + (first.min(len) * width) as u64, bytes: bytes as u64, memory: PhantomData }
}
