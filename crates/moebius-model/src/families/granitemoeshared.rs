//! Granite MoE with a shared expert: [`granitemoe`] and a unit beside the experts that every token goes through.
//!
//! Shapes: `shared_mlp.input_linear: [2 shared_intermediate, hidden]`, gate above up, and
//! `shared_mlp.output_linear: [hidden, shared_intermediate]`.

use super::{Architecture, granitemoe};
use crate::config::{Config, MAX_WIDTH};
use crate::{Error, Result};

pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>> {
    const KEY: &str = "shared_intermediate_size";
    let width = config.opt_count(KEY)?.unwrap_or(0);
    if width > MAX_WIDTH {
        return Err(Error::config(KEY, format!("expected at most {MAX_WIDTH}, got {width}")));
    }
    granitemoe::read_with_shared(config, Some(width).filter(|width| *width > 0))
}
