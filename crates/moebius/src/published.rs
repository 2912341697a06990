//! Published models by the numbers of their configurations, without any of their files.

use moebius_model::{ModelFiles, ModelInfo};

use crate::bench::SHAPES;
use crate::{BackendOptions, Result, open_backend};

/// A published model as its configuration describes it.
#[derive(Clone, Debug)]
pub struct PublishedModel {
    /// Its name, as `moebius bench --shape` knows it.
    pub name: String,
    /// What it is.
    pub info: ModelInfo,
}

impl PublishedModel {
    /// Bytes of all parameters at so many bits each, rounded to whole bytes.
    pub fn bytes_at(&self, bits_per_weight: f64) -> u64 {
        (self.info.total_parameters() as f64 * bits_per_weight / 8.0).round() as u64
    }
}

/// Every published model whose configuration comes with this crate, by name.
///
/// # Errors
/// When the backend cannot start.
pub fn published_models() -> Result<Vec<PublishedModel>> {
    let backend = open_backend(&BackendOptions { threads: Some(1), ..BackendOptions::default() })?;
    SHAPES
        .iter()
        .map(|shape| {
            let info = ModelFiles::described(shape.config(), None)?.info(&backend)?;
            Ok(PublishedModel { name: shape.name().into(), info })
        })
        .collect()
}
