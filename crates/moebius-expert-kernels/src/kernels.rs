//! Kernels as a value: an instruction set that detection found on this processor.

use std::{fmt, str::FromStr};

use crate::{
    KernelError, WeightFormat,
    arch::{Arch, Bf16Pairs, Op},
    rows::Inputs,
};

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Portable code; the only set that does not fuse multiply and add.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX2, FMA, F16C and AVX-VNNI: recent processors without AVX-512.
    AvxVnni,
    /// x86-64 with AVX-512 (F, BW, VNNI).
    Avx512,
    /// 64-bit Arm with NEON.
    Neon,
    /// 64-bit Arm with NEON and dot products.
    NeonDot,
}

impl Isa {
    /// Every instruction set, the preferred ones last.
    pub const ALL: [Self; 6] =
        [Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Neon, Self::NeonDot];

    /// The name that [`FromStr`] reads: `scalar`, `avx2`, `avxvnni`, `avx512`, `neon` or `neondot`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
            Self::NeonDot => "neondot",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let isa = Self::ALL.into_iter().find(|isa| isa.name() == name);
        isa.ok_or_else(|| KernelError::UnknownIsa { got: name.to_owned() })
    }
}

/// The kernels of one instruction set. Exists only where the processor has it; cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    arch: Arch,
    /// The form of inputs that weights in bf16 are multiplied with.
    bf16_inputs: Inputs,
}

impl Kernels {
    /// The kernels of the best instruction set of this processor.
    #[must_use]
    pub fn detect() -> Self {
        let best = Isa::ALL.into_iter().rev().find_map(Arch::detect);
        Self::of(best.expect("the scalar set is everywhere"))
    }

    /// The kernels of a given instruction set.
    ///
    /// # Errors
    /// [`KernelError::MissingIsa`] if this processor lacks it.
    pub fn with_isa(isa: Isa) -> Result<Self, KernelError> {
        Arch::detect(isa).map(Self::of).ok_or(KernelError::MissingIsa { isa })
    }

    fn of(arch: Arch) -> Self {
        Self { arch, bf16_inputs: Inputs::Floats }
    }

    /// The same kernels, but that inputs of products with weights in [`WeightFormat::Bf16`] are rounded to bf16 first,
    /// to nearest, ties to even; one that is weighted before it is multiplied is rounded before and after. Products of
    /// other formats stay as they are.
    ///
    /// Sums are those of `f32` products of rounded inputs, in the order of plain ones. Where pairs of bf16 are
    /// multiplied by one instruction, subnormal numbers are zeros to it: then a sum of `n` columns is off by less than
    /// `n 2^-126 (1 + |w| + |x|)` besides, with the largest weight and input.
    #[must_use]
    pub fn with_bf16_inputs(self) -> Self {
        Self { bf16_inputs: self.bf16_pairs().map_or(Inputs::Rounded, Inputs::Pairs), ..self }
    }

    /// Whether inputs are rounded, as [`Kernels::with_bf16_inputs`] says.
    #[must_use]
    pub fn rounds_inputs(&self) -> bool {
        self.bf16_inputs != Inputs::Floats
    }

    /// The instruction sets of this processor, the preferred one last.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|&isa| Arch::detect(isa).is_some()).collect()
    }

    /// The instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.arch.isa()
    }

    /// The features that the kernels use, for people: for example `avx2+fma+f16c`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.isa() {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2+fma+f16c",
            Isa::AvxVnni => "avx2+fma+f16c+avxvnni",
            Isa::Avx512 if matches!(self.bf16_inputs, Inputs::Pairs(_)) => "avx512f+bw+vnni+bf16",
            Isa::Avx512 => "avx512f+bw+vnni",
            Isa::Neon => "neon",
            Isa::NeonDot => "neon+dotprod",
        }
    }

    /// How pairs of bf16 are multiplied at once, if they are.
    pub(crate) fn bf16_pairs(&self) -> Option<Bf16Pairs> {
        Bf16Pairs::detect(self.arch)
    }

    /// The form of inputs that weights of a format are multiplied with.
    pub(crate) fn inputs(&self, format: WeightFormat) -> Inputs {
        match format {
            WeightFormat::Bf16 => self.bf16_inputs,
            _ => format.inputs(),
        }
    }

    /// Runs a kernel.
    #[inline]
    pub(crate) fn run<O: Op>(&self, op: O) -> O::Output {
        self.arch.run(op)
    }
}
