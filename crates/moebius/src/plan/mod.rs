//! What a model would need and how fast it would be on machines that are not here.
//!
//! ```
//! use moebius::plan::{CacheFormat, Demand, Estimator, Fit, Load, Machine};
//!
//! # fn main() -> Result<(), moebius::Error> {
//! let demand = Demand::find("qwen3-30b-a3b", None, Some("q4_k_m".parse()?))?;
//! let load = Load::new(1, 8192, CacheFormat::F16);
//! let machine = Machine::find("rtx-4090")?;
//! let estimate = Estimator::new()?.estimate(&demand, &machine, &load);
//! assert!(matches!(estimate.fit, Fit::Whole { .. }));
//! let speed = estimate.decode.expect("all figures are known");
//! assert!(speed.low < speed.expected && speed.expected < speed.high);
//! # Ok(())
//! # }
//! ```
//!
//! Sizes are counted as the loader counts them. Speeds come from a roofline of two parameters, fitted to published
//! measurements that this crate carries with their sources, and have a band around them.

mod citations;
mod cost;
mod demand;
mod device_file;
mod estimate;
mod hardware;
mod here;
mod rules;
mod speed;
mod validate;
mod weights;

pub use cost::{Cost, Rates};
pub use demand::{CacheFormat, Demand, PartDemand};
pub(crate) use estimate::fits;
pub use estimate::{Band, Estimate, Estimator, Fit, Load, Memory, StepTime};
pub use hardware::{Cited, Class, Device, Machine, Peaks, Trust, devices};
pub use here::here;
pub use rules::Rules;
pub use speed::Speed;
pub use validate::{Comparison, ValidationSet, validate_here, validate_published};
pub use weights::Weights;

impl Estimator {
    /// With speeds fitted to the measurements that come with this crate.
    ///
    /// # Errors
    /// None for those files.
    pub fn new() -> crate::Result<Self> {
        Ok(Estimator { speeds: speed::Measurements::read()?.speeds() })
    }
}
