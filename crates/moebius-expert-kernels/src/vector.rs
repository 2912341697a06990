//! Small maths on rows: normalisation, softmax, gated activation, rotary positions.
//!
//! ```text
//! rms_norm(x) = x / sqrt(mean(x^2) + eps) * weight                    (arXiv 1910.07467)
//! layer_norm(x) = (x - mean x) / sqrt(mean((x - mean x)^2) + eps) * weight + bias    (arXiv 1607.06450)
//! softmax(x)  = exp(x - max x) / sum exp(x - max x)
//! glu(g, u)   = act(g) u;  silu(g) = g / (1 + exp -g)                 (arXiv 2002.05202)
//! rotary      = (a cos t - b sin t, b cos t + a sin t) for a pair     (arXiv 2104.09864)
//! ```
//!
//! Shapes: x `[rows, row_len]`, row-major.
//! Invariants: a row's tail is padded to full lanes and takes the same instructions, so an element's bits do not
//! depend on its place; sums over a row run in sixteen chains that are added pairwise at the end.

pub(crate) mod lanes;

use self::lanes::{act, exp, factor, load_padded, reduce_max, reduce_sum, store_part};
use crate::{
    KernelError, Kernels,
    arch::{LANES, Op, Simd},
    error::{check_len, check_nonzero, rows_in},
};

/// The non-linearity of an expert: `act(gate) * up` where there is a gate, `act(up)` where there is none.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `x / (1 + exp(-x))`, also called swish (arXiv 1702.03118).
    Silu,
    /// `x (1 + erf(x / sqrt 2)) / 2` (arXiv 1606.08415), off by no more than 3e-7 |x|.
    Gelu,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2` (arXiv 1606.08415).
    GeluTanh,
    /// `max(x, 0)^2` (arXiv 2109.08668).
    ReluSquared,
    /// `(u + 1) g / (1 + exp(-1.702 g))` with `g = min(gate, limit)` and `u = clamp(up, -limit, limit)`: only with a
    /// gate.
    ClampedSwiglu {
        /// The largest gate, and the largest magnitude of up.
        limit: f32,
    },
}

impl Activation {
    /// Fails for one that is nothing without a gate.
    pub(crate) fn check_gateless(self) -> Result<(), KernelError> {
        match self {
            Self::ClampedSwiglu { .. } => Err(KernelError::MissingGate),
            _ => Ok(()),
        }
    }
}

/// Which elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RotaryLayout {
    /// Element `i` with element `i + pairs`.
    HalfSplit,
    /// Element `2 i` with element `2 i + 1`.
    Interleaved,
}

/// Cosines and sines of the angles of each token: both `[tokens, pairs]`.
#[derive(Debug, Clone, Copy)]
pub struct RotaryTables<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
    /// Pairs in each head; elements from `2 pairs` on are not rotated.
    pub pairs: usize,
    /// Which elements form a pair.
    pub layout: RotaryLayout,
}

impl Kernels {
    /// Normalises rows by their root mean square: x and out `[rows, row_len]`, weight `[row_len]`.
    ///
    /// # Errors
    /// If a slice does not fit these shapes or `row_len` is zero.
    pub fn rms_norm(
        &self,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        row_len: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        rows_in("x", x.len(), row_len)?;
        check_len("weight", row_len, weight.len())?;
        check_len("out", x.len(), out.len())?;
        self.run(RmsNorm { x, weight, eps, out });
        Ok(())
    }

    /// Normalises rows by their mean and variance: x and out `[rows, row_len]`, weight and bias `[row_len]`.
    ///
    /// # Errors
    /// If a slice does not fit these shapes or `weight` is empty.
    pub fn layer_norm(
        &self,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        rows_in("x", x.len(), weight.len())?;
        check_len("bias", weight.len(), bias.map_or(weight.len(), <[f32]>::len))?;
        check_len("out", x.len(), out.len())?;
        self.run(LayerNorm { x, weight, bias, eps, out });
        Ok(())
    }

    /// Replaces each row of `x`, `[rows, row_len]`, by its softmax. Elements of minus infinity become zero.
    ///
    /// # Errors
    /// If `x` is no whole number of rows or `row_len` is zero.
    pub fn softmax(&self, x: &mut [f32], row_len: usize) -> Result<(), KernelError> {
        rows_in("x", x.len(), row_len)?;
        self.run(Softmax { x, row_len });
        Ok(())
    }

    /// Computes `activation(x)` in place, element by element.
    ///
    /// # Errors
    /// [`KernelError::MissingGate`] for [`Activation::ClampedSwiglu`].
    pub fn activate(&self, activation: Activation, x: &mut [f32]) -> Result<(), KernelError> {
        activation.check_gateless()?;
        self.run(Activate { activation, x });
        Ok(())
    }

    /// Computes `out = activation(gate) * up`, element by element.
    ///
    /// # Errors
    /// [`KernelError::Length`] if the slices differ in length.
    pub fn glu(
        &self,
        activation: Activation,
        gate: &[f32],
        up: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_len("up", gate.len(), up.len())?;
        check_len("out", gate.len(), out.len())?;
        out.copy_from_slice(gate);
        self.run(Glu { activation, gate: out, up });
        Ok(())
    }

    /// Computes `e^x` in place, within 2 units in the last place.
    pub fn exp(&self, x: &mut [f32]) {
        self.run(Exp { x });
    }

    /// Computes `out = x + factor y`, element by element; the product is rounded before it is added.
    ///
    /// # Errors
    /// [`KernelError::Length`] if the slices differ in length.
    pub fn add_scaled(&self, x: &[f32], y: &[f32], factor: f32, out: &mut [f32]) -> Result<(), KernelError> {
        check_len("y", x.len(), y.len())?;
        check_len("out", x.len(), out.len())?;
        self.run(AddScaled { x, y, factor, out });
        Ok(())
    }

    /// Rotates the pairs of every head: x and out `[tokens, heads, head_dim]`.
    ///
    /// # Errors
    /// If the tables do not have `[tokens, pairs]` values, the pairs do not fit into `head_dim`, or `out` is no copy of
    /// `x` in length.
    pub fn rotate(
        &self,
        x: &[f32],
        (heads, head_dim): (usize, usize),
        tables: &RotaryTables<'_>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_nonzero("heads", heads)?;
        check_nonzero("head_dim", head_dim)?;
        let tokens = rows_in("x", x.len(), heads.saturating_mul(head_dim))?;
        if tables.pairs > head_dim / 2 {
            return Err(KernelError::OutOfRange {
                what: "pairs",
                limit: head_dim / 2 + 1,
                got: tables.pairs,
            });
        }
        check_len("cos", tokens * tables.pairs, tables.cos.len())?;
        check_len("sin", tokens * tables.pairs, tables.sin.len())?;
        check_len("out", x.len(), out.len())?;
        if tables.pairs == 0 {
            out.copy_from_slice(x);
        } else {
            self.run(Rotate { x, token_len: heads * head_dim, head_dim, tables, out });
        }
        Ok(())
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let row_len = self.weight.len();
        for (x, out) in self.x.chunks_exact(row_len).zip(self.out.chunks_exact_mut(row_len)) {
            let mean_square = lanes::dot(simd, x, x) / row_len as f32;
            let inverse = simd.splat(1.0 / (mean_square + self.eps).sqrt());
            let parts = x.chunks(LANES).zip(self.weight.chunks(LANES)).zip(out.chunks_mut(LANES));
            for ((x, weight), out) in parts {
                let normal = simd.mul(load_padded(simd, x, 0.0), inverse);
                store_part(simd, simd.mul(normal, load_padded(simd, weight, 0.0)), out);
            }
        }
    }
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f32,
    out: &'a mut [f32],
}

impl Op for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let row_len = self.weight.len();
        let bias = self.bias.unwrap_or_default();
        for (x, out) in self.x.chunks_exact(row_len).zip(self.out.chunks_exact_mut(row_len)) {
            let mut sum = simd.splat(0.0);
            for x in x.chunks(LANES) {
                sum = simd.add(sum, load_padded(simd, x, 0.0));
            }
            let mean = reduce_sum(simd, sum) / row_len as f32;
            // Lanes without an element hold the mean, so that they add nothing.
            let centred = |x: &[f32]| simd.sub(load_padded(simd, x, mean), simd.splat(mean));
            let mut squares = simd.splat(0.0);
            for x in x.chunks(LANES) {
                squares = simd.fma(centred(x), centred(x), squares);
            }
            let variance = reduce_sum(simd, squares) / row_len as f32;
            let inverse = simd.splat(1.0 / (variance + self.eps).sqrt());
            let parts = x.chunks(LANES).zip(self.weight.chunks(LANES)).zip(out.chunks_mut(LANES));
            for (part, ((x, weight), out)) in parts.enumerate() {
                let bias = load_padded(simd, bias.get(part * LANES..).unwrap_or_default(), 0.0);
                let normal = simd.mul(centred(x), inverse);
                store_part(simd, simd.add(simd.mul(normal, load_padded(simd, weight, 0.0)), bias), out);
            }
        }
    }
}

/// Softmax of rows, in place.
pub(crate) struct Softmax<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) row_len: usize,
}

impl Op for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for row in self.x.chunks_exact_mut(self.row_len) {
            softmax_row(simd, row);
        }
    }
}

/// Softmax of one row, in place.
#[inline(always)]
fn softmax_row<S: Simd>(simd: S, row: &mut [f32]) {
    let (_, sum) = exp_row(simd, row);
    let sum = simd.splat(sum);
    for part in row.chunks_mut(LANES) {
        let quotient = simd.div(load_padded(simd, part, 0.0), sum);
        store_part(simd, quotient, part);
    }
}

/// Replaces a row by `exp(x - max x)`; returns the maximum and the sum.
#[inline(always)]
pub(crate) fn exp_row<S: Simd>(simd: S, row: &mut [f32]) -> (f32, f32) {
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for part in row.chunks(LANES) {
        largest = simd.max(largest, load_padded(simd, part, f32::NEG_INFINITY));
    }
    let largest = reduce_max(simd, largest);
    let mut sum = simd.splat(0.0);
    for part in row.chunks_mut(LANES) {
        let e = exp(simd, simd.sub(load_padded(simd, part, f32::NEG_INFINITY), simd.splat(largest)));
        sum = simd.add(sum, e);
        store_part(simd, e, part);
    }
    (largest, reduce_sum(simd, sum))
}

/// Replaces `x` by `activation(x)`.
pub(crate) struct Activate<'a> {
    pub(crate) activation: Activation,
    pub(crate) x: &'a mut [f32],
}

impl Op for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for part in self.x.chunks_mut(LANES) {
            store_part(simd, act(simd, self.activation, load_padded(simd, part, 0.0)), part);
        }
    }
}

/// Replaces `gate` by `activation(gate) * up`.
pub(crate) struct Glu<'a> {
    pub(crate) activation: Activation,
    pub(crate) gate: &'a mut [f32],
    pub(crate) up: &'a [f32],
}

impl Op for Glu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (gate, up) in self.gate.chunks_mut(LANES).zip(self.up.chunks(LANES)) {
            let gated = act(simd, self.activation, load_padded(simd, gate, 0.0));
            let up = factor(simd, self.activation, load_padded(simd, up, 0.0));
            store_part(simd, simd.mul(gated, up), gate);
        }
    }
}

struct Exp<'a> {
    x: &'a mut [f32],
}

impl Op for Exp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for part in self.x.chunks_mut(LANES) {
            let e = exp(simd, load_padded(simd, part, 0.0));
            store_part(simd, e, part);
        }
    }
}

struct AddScaled<'a> {
    x: &'a [f32],
    y: &'a [f32],
    factor: f32,
    out: &'a mut [f32],
}

impl Op for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let factor = simd.splat(self.factor);
        let parts = self.x.chunks(LANES).zip(self.y.chunks(LANES)).zip(self.out.chunks_mut(LANES));
        for ((x, y), out) in parts {
            let scaled = simd.mul(load_padded(simd, y, 0.0), factor);
            store_part(simd, simd.add(load_padded(simd, x, 0.0), scaled), out);
        }
    }
}

struct Rotate<'a> {
    x: &'a [f32],
    token_len: usize,
    head_dim: usize,
    tables: &'a RotaryTables<'a>,
    out: &'a mut [f32],
}

impl Op for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let RotaryTables { cos, sin, pairs, layout } = *self.tables;
        let tokens = self.x.chunks_exact(self.token_len).zip(self.out.chunks_exact_mut(self.token_len));
        for ((x, out), angles) in tokens.zip(cos.chunks_exact(pairs).zip(sin.chunks_exact(pairs))) {
            for (x, out) in x.chunks_exact(self.head_dim).zip(out.chunks_exact_mut(self.head_dim)) {
                let ((x, rest), (out, rest_out)) = (x.split_at(2 * pairs), out.split_at_mut(2 * pairs));
                match layout {
                    RotaryLayout::HalfSplit => rotate_halves(simd, x, angles, out),
                    RotaryLayout::Interleaved => rotate_neighbours(x, angles, out),
                }
                rest_out.copy_from_slice(rest);
            }
        }
    }
}

#[inline(always)]
fn rotate_halves<S: Simd>(simd: S, x: &[f32], (cos, sin): (&[f32], &[f32]), out: &mut [f32]) {
    let ((a, b), (first, second)) = (x.split_at(cos.len()), out.split_at_mut(cos.len()));
    let elements = a.chunks(LANES).zip(b.chunks(LANES)).zip(cos.chunks(LANES).zip(sin.chunks(LANES)));
    let places = first.chunks_mut(LANES).zip(second.chunks_mut(LANES));
    for (((a, b), (cos, sin)), (first, second)) in elements.zip(places) {
        let (a, b) = (load_padded(simd, a, 0.0), load_padded(simd, b, 0.0));
        let (cos, sin) = (load_padded(simd, cos, 0.0), load_padded(simd, sin, 0.0));
        store_part(simd, simd.sub(simd.mul(a, cos), simd.mul(b, sin)), first);
        store_part(simd, simd.add(simd.mul(b, cos), simd.mul(a, sin)), second);
    }
}

/// The same products and sums as [`rotate_halves`], one pair at a time, so the bits are the same.
#[inline(always)]
fn rotate_neighbours(x: &[f32], (cos, sin): (&[f32], &[f32]), out: &mut [f32]) {
    let pairs = x.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0);
    for (([a, b], out), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
        *out = [a * cos - b * sin, b * cos + a * sin];
    }
}
