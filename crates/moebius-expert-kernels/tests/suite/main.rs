//! One runner for every instruction set and format: kernels against a naive `f64` oracle, and bits against bits.

mod attention;
mod bf16_inputs;
mod experts;
mod foreign;
mod formats;
mod heads;
mod matmul;
mod packing;
mod pool;
mod shared;
mod support;
mod vector;
