//! Norms over the last dimension, with what families vary: RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450).
//!
//! RMS: `x / sqrt(mean(x²) + eps) * w`; layer: `(x - mean) / sqrt(var + eps) * w + b`.

use candle_core::{DType, Tensor};
use moebius_backend::Ops;

use crate::Result;
use crate::info::Place;
use crate::loader::Loader;

/// Which norm a family uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormConfig {
    /// Its form.
    pub(crate) kind: NormKind,
    /// Added under the root.
    pub(crate) eps: f64,
}

/// The form of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// RMSNorm.
    Rms,
    /// RMSNorm whose factor is one more than the stored weight.
    RmsPlusOne,
    /// LayerNorm, with a bias or without.
    Layer {
        /// Whether there is a bias.
        bias: bool,
    },
}

impl NormConfig {
    /// RMSNorm with `eps`.
    pub(crate) fn rms(eps: f64) -> Self {
        NormConfig { kind: NormKind::Rms, eps }
    }
}

/// A norm with its weights.
pub(crate) struct Norm {
    config: NormConfig,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Norm {
    /// Loads `{prefix}.weight` of `dim` elements, and `{prefix}.bias` where the form has one.
    pub(crate) fn load(
        loader: &Loader<'_>,
        place: Place,
        prefix: &str,
        dim: usize,
        config: NormConfig,
    ) -> Result<Self> {
        let weight = loader.tensor(place, &format!("{prefix}.weight"), &[dim])?;
        let weight = match config.kind {
            NormKind::RmsPlusOne => (weight + 1.0)?,
            NormKind::Rms | NormKind::Layer { .. } => weight,
        };
        let bias = match config.kind {
            NormKind::Layer { bias: true } => {
                Some(loader.tensor(place, &format!("{prefix}.bias"), &[dim])?)
            }
            _ => None,
        };
        Ok(Norm { config, weight, bias })
    }

    /// RMSNorm with the weight `factor * {name}` of `dim` elements, `name` being the tensor's full name.
    pub(crate) fn scaled(
        loader: &Loader<'_>,
        place: Place,
        name: &str,
        (dim, factor): (usize, f64),
        eps: f64,
    ) -> Result<Self> {
        let weight = (loader.tensor(place, name, &[dim])? * factor)?;
        Ok(Norm { config: NormConfig::rms(eps), weight, bias: None })
    }

    /// RMSNorm without a weight.
    pub(crate) fn weightless(loader: &Loader<'_>, dim: usize, eps: f64) -> Result<Self> {
        let weight = Tensor::ones(dim, DType::F32, &loader.backend().info().device)?;
        Ok(Norm { config: NormConfig::rms(eps), weight, bias: None })
    }

    /// Brings vectors to a Euclidean length: `x * length / sqrt(Σx² + eps)`.
    pub(crate) fn to_length(loader: &Loader<'_>, dim: usize, length: f64, eps: f64) -> Result<Self> {
        let ones = Norm::weightless(loader, dim, eps / dim as f64)?;
        Ok(Norm { weight: (ones.weight * (length / (dim as f64).sqrt()))?, ..ones })
    }

    /// Normalises the last dimension of `x`.
    pub(crate) fn forward(&self, ops: &dyn Ops, x: &Tensor) -> Result<Tensor> {
        let eps = self.config.eps as f32;
        Ok(match self.config.kind {
            NormKind::Rms | NormKind::RmsPlusOne => ops.rms_norm(x, &self.weight, eps)?,
            NormKind::Layer { .. } => ops.layer_norm(x, &self.weight, self.bias.as_ref(), eps)?,
        })
    }
}
