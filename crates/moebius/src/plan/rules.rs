//! What a device asks of models that run on it: beyond its size and speed, which plans know too.
//!
//! Invariants: what a file does not say is `None`; rates and seconds are SI.

use moebius_backend_constrained::{ShapeRule, Tile};

use crate::WeightFormat;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Bytes per second from the host's memory or disk.
    pub fetch: Option<f64>,
    /// Seconds to launch a product of matrices, a vector operation, an exchange between devices.
    pub launch: Option<[f64; 3]>,
    /// Formats that weights may have, each multiplied in an arithmetic of its own; `None` is all of them, those in blocks
    /// multiplied in half precision.
    pub formats: Option<Vec<WeightFormat>>,
    /// What matrix products are cut into.
    pub tile: Option<Tile>,
    /// What a device takes for its experts, as a multiple of an even share.
    pub capacity_factor: Option<f64>,
    /// Devices that the experts of a layer are spread over in a published deployment.
    pub expert_devices: Option<usize>,
}

/// Reads names of formats, separated by spaces.
pub(super) fn formats(names: &str) -> Result<Vec<WeightFormat>, String> {
    let known = || WeightFormat::ALL.map(WeightFormat::name).join(", ");
    let read = |name: &str| {
        let format = WeightFormat::ALL.into_iter().find(|format| format.name() == name);
        format.ok_or_else(|| format!("`formats`: expected names of {}, got `{name}`", known()))
    };
    let formats: Vec<_> = names.split_whitespace().map(read).collect::<Result<_, _>>()?;
    if formats.is_empty() { Err("`formats`: expected at least one name".into()) } else { Ok(formats) }
}

/// Reads what becomes of shapes that are no multiple of a tile.
pub(super) fn shape_rule(name: &str) -> Result<ShapeRule, String> {
    match name {
        "pad" => Ok(ShapeRule::Pad),
        "refuse" => Ok(ShapeRule::Refuse),
        other => Err(format!("`shapes`: expected pad or refuse, got `{other}`")),
    }
}
