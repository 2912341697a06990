//! The families that can be run.

use moebius_model::{FAMILIES, Family};

/// All families that are built in, by name.
pub fn families() -> &'static [Family] {
    FAMILIES
}
