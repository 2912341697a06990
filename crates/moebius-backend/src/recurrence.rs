//! What recurrences read, token by token. Each carries a state from one call to the next.

use candle_core::Tensor;

use crate::{Error, Result};

/// What a gated delta rule reads (arXiv 2412.06464). Consecutive value heads share a key head in equal groups.
#[derive(Clone, Debug)]
pub struct DeltaRule<'a> {
    /// Queries `[tokens, key_heads, key_dim]`, normalised and scaled.
    pub query: &'a Tensor,
    /// Keys of the same shape, normalised.
    pub key: &'a Tensor,
    /// Values `[tokens, value_heads, value_dim]`.
    pub value: &'a Tensor,
    /// Logarithms of the factors on the state, `[tokens, value_heads]`: at most 0.
    pub log_decay: &'a Tensor,
    /// How much of a key's old value is replaced by the new one, `[tokens, value_heads]`.
    pub strength: &'a Tensor,
}

/// The sizes of a gated delta rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaRuleSizes {
    /// Rows.
    pub tokens: usize,
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Width of a query and of a key.
    pub key_dim: usize,
    /// Heads of values, each with a state of its own.
    pub value_heads: usize,
    /// Width of a value.
    pub value_dim: usize,
}

impl DeltaRule<'_> {
    /// Reads off the sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] when the tensors or `state` do not fit each other.
    pub fn sizes(&self, state: &Tensor) -> Result<DeltaRuleSizes> {
        let (tokens, key_heads, key_dim) = self.query.dims3()?;
        let (_, value_heads, value_dim) = self.value.dims3()?;
        expect("delta rule keys", &[tokens, key_heads, key_dim], self.key)?;
        expect("delta rule values", &[tokens, value_heads, value_dim], self.value)?;
        expect("delta rule decays", &[tokens, value_heads], self.log_decay)?;
        expect("delta rule strengths", &[tokens, value_heads], self.strength)?;
        expect("delta rule state", &[value_heads, key_dim, value_dim], state)?;
        expect_groups("delta rule", value_heads, key_heads)?;
        Ok(DeltaRuleSizes { tokens, key_heads, key_dim, value_heads, value_dim })
    }
}

/// What a selective scan reads: a state space whose coefficients depend on the token. Mamba (arXiv 2312.00752) has
/// heads of width 1 and a decay for each entry of the state, Mamba-2 (arXiv 2405.21060) wider heads and one decay for
/// all entries of a head. Consecutive heads share `input` and `output` in equal groups.
#[derive(Clone, Debug)]
pub struct SelectiveScan<'a> {
    /// Values `[tokens, heads, head_dim]`.
    pub x: &'a Tensor,
    /// Step sizes `[tokens, heads]`: positive.
    pub step: &'a Tensor,
    /// Rates of decay `[heads, state_dim]`, or `[heads, 1]` for one that all entries of a head share: negative.
    pub rate: &'a Tensor,
    /// What a value writes into the state, `[tokens, groups, state_dim]`; B in the papers.
    pub input: &'a Tensor,
    /// What is read from the state, `[tokens, groups, state_dim]`; C in the papers.
    pub output: &'a Tensor,
    /// Factors on the values that bypass the state, `[heads]`; D in the papers.
    pub skip: &'a Tensor,
}

/// The sizes of a selective scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanSizes {
    /// Rows.
    pub tokens: usize,
    /// Heads, each with a state of its own.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Groups of heads.
    pub groups: usize,
    /// Entries of the state for each value of a head.
    pub state_dim: usize,
    /// Decay rates of a head: `state_dim` or 1.
    pub rates: usize,
}

impl SelectiveScan<'_> {
    /// Reads off the sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] when the tensors or `state` do not fit each other.
    pub fn sizes(&self, state: &Tensor) -> Result<ScanSizes> {
        let (tokens, heads, head_dim) = self.x.dims3()?;
        let (_, groups, state_dim) = self.input.dims3()?;
        let (_, rates) = self.rate.dims2()?;
        let rates = if rates == 1 { 1 } else { state_dim };
        expect("scan steps", &[tokens, heads], self.step)?;
        expect("scan rates", &[heads, rates], self.rate)?;
        expect("scan inputs", &[tokens, groups, state_dim], self.input)?;
        expect("scan outputs", &[tokens, groups, state_dim], self.output)?;
        expect("scan skips", &[heads], self.skip)?;
        expect("scan state", &[heads, head_dim, state_dim], state)?;
        expect_groups("scan", heads, groups)?;
        Ok(ScanSizes { tokens, heads, head_dim, groups, state_dim, rates })
    }
}

/// Tokens, channels and kernel size of a causal convolution.
///
/// # Errors
/// [`Error::Shape`] when the tensors do not fit each other.
pub fn conv_sizes(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    state: &Tensor,
) -> Result<(usize, usize, usize)> {
    let (tokens, channels) = x.dims2()?;
    let kernel = weight.dim(0)?;
    expect("convolution weight", &[kernel, channels], weight)?;
    expect("convolution state", &[kernel.saturating_sub(1), channels], state)?;
    if let Some(bias) = bias {
        expect("convolution bias", &[channels], bias)?;
    }
    if kernel == 0 {
        return Err(wrong("convolution weight", "at least one row", weight));
    }
    Ok((tokens, channels, kernel))
}

fn expect(what: &str, dims: &[usize], got: &Tensor) -> Result<()> {
    if got.dims() == dims { Ok(()) } else { Err(wrong(what, &format!("{dims:?}"), got)) }
}

fn expect_groups(what: &str, heads: usize, groups: usize) -> Result<()> {
    if groups > 0 && heads.is_multiple_of(groups) {
        return Ok(());
    }
    Err(Error::Shape {
        what: format!("{what} heads"),
        expected: format!("a multiple of {groups}"),
        got: heads.to_string(),
    })
}

fn wrong(what: &str, expected: &str, got: &Tensor) -> Error {
    Error::Shape { what: what.into(), expected: expected.into(), got: format!("{:?}", got.dims()) }
}
