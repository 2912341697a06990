//! Router logits in, expert choices and dispatch out: pure functions.
//!
//! A Mixture-of-Experts layer asks, for every token, which of its experts to run and how much each counts.
//! The published families answer with a dozen formulas that differ only in numbers and small choices, so here
//! a family is a [`RouterConfig`] (data) and there is one [`Router`] (code):
//!
//! ```text
//! logits [tokens, n_experts] --Router::route--> Routing [tokens, top_k] --Routing::dispatch--> Dispatch
//! ```
//!
//! Shapes: logits are row-major, one row per token; a [`Routing`] holds `top_k` pairs (expert, weight) per
//! token; a [`Dispatch`] holds the same pairs grouped by expert.
//! Invariants: scores and weights are f32 whatever the weights of the model; ties go to the lower id (of
//! experts and of groups); the experts of a token are in ascending order; every weight is finite; a NaN logit
//! is an error that names its layer, token and expert.
//!
//! The first gate of this kind is Shazeer et al. 2017 (arXiv 1701.06538): keep the `k` largest logits,
//! softmax over those. By hand, for the odds 4 : 2 : 1 : 1 and `k = 2`, the weights are 4/6 and 2/6:
//!
//! ```
//! use moebius_router::{Router, RouterConfig};
//!
//! let router = Router::new(0, RouterConfig::top_k_softmax(4, 2))?;
//! let logits = [1.0_f32, 4.0, 1.0, 2.0].map(f32::ln);
//! let routing = router.route(&logits)?;
//! assert_eq!(routing.experts(0), [1, 3]);
//! assert!((routing.weights(0)[0] - 4.0 / 6.0).abs() < 1e-6);
//! assert!((routing.weights(0)[1] - 2.0 / 6.0).abs() < 1e-6);
//!
//! let dispatch = routing.dispatch();
//! assert_eq!(dispatch.offsets(), [0, 0, 1, 1, 2]); // experts 1 and 3 have one row each
//! # Ok::<(), moebius_router::RouterError>(())
//! ```
#![forbid(unsafe_code)]

mod config;
mod dispatch;
mod error;
mod formula;
mod load;
mod presets;
mod published;
mod router;
mod routing;
mod score;
mod select;
mod specialisation;
mod validate;

pub use config::{GroupRank, Renormalize, RouterConfig, Score, Selection, WeightTarget};
pub use dispatch::Dispatch;
pub use error::RouterError;
pub use load::{ExpertLoad, LoadStats};
pub use published::{FORMULAS, PublishedFormula};
pub use router::{Judgement, Router};
pub use routing::Routing;
pub use specialisation::{Favourite, Specialisation};
