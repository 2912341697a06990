//! Matrix and expert maths on slices: weight formats, packing, kernels picked at run time.
//!
//! Weights are packed once into panels ([`PackedMatrix`], [`PackedExperts`]); activations stay plain `f32`
//! slices. A [`Kernels`] value says which instruction set computes, a [`Pool`] says on how many threads.
//!
//! Shapes: every slice is row-major and dense; `[tokens, cols]` reads "tokens rows of cols values".
//! Invariants:
//! - Each output element is summed in one fixed order that depends on its weights and on its own input row
//!   only: never on the number of rows, the tile, the thread count or the neighbours in the batch.
//! - A token's experts are combined in ascending expert id.
//! - Kernels of an instruction set exist only where the processor has it.
//!
//! ```
//! use moebius_expert_kernels::{Kernels, PackedMatrix, Pool, WeightFormat};
//!
//! let (kernels, pool) = (Kernels::detect(), Pool::new(1)?);
//! let weights: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|w| w.to_le_bytes()).collect();
//! let packed = PackedMatrix::pack(&pool, WeightFormat::F32, 2, 2, &weights)?;
//! let mut out = [0.0; 2];
//! kernels.matmul(&pool, &[1.0, 10.0], &packed, None, &mut out)?;
//! assert_eq!(out, [21.0, 43.0]);
//! # Ok::<(), moebius_expert_kernels::KernelError>(())
//! ```

#![deny(unsafe_code)]

#[expect(
    unsafe_code,
    reason = "intrinsics, disjoint writes and casts of plain numbers; every other module is safe code"
)]
mod arch;
mod attention;
mod bandwidth;
mod error;
mod experts;
mod format;
mod heads;
mod kernels;
mod matmul;
mod pack;
mod peak;
mod pool;
mod recurrence;
mod rows;
mod scratch;
mod shares;
mod shelf;
mod tile;
mod units;
mod vector;

pub use arch::pages::{give_back_freed_memory, keep_freed_memory};
pub use attention::{AttentionCall, AttentionInputs, AttentionShape};
pub use error::KernelError;
pub use experts::{ExpertBiases, ExpertRows, PackedExperts};
pub use format::{ForeignFormat, WeightFormat};
pub use kernels::{Isa, Kernels};
pub use matmul::Product;
pub use pack::{Done, Formats, PackedMatrix};
pub use peak::Peaks;
pub use pool::Pool;
pub use recurrence::{DeltaInputs, DeltaShape, ScanInputs, ScanShape};
pub use units::SharedBytes;
pub use vector::{Activation, RotaryLayout, RotaryTables};
