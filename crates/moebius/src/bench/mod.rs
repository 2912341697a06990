//! How fast a model runs here: tokens per second of reading prompts and of generating, beside what the machine
//! and the routing allow.
//!
//! A [`Plan`] says what to measure and gives its [`Test`]s; a [`Session`] is a loaded model that measures them one
//! by one. The model is a directory, or a [`Shape`] of random weights that needs no files at all. Token ids are
//! random and generated tokens are not fed back, so that every test routes alike.
//!
//! ```no_run
//! use moebius::OpenOptions;
//! use moebius::bench::{Plan, SHAPES, Session, Subject};
//!
//! # fn main() -> Result<(), moebius::Error> {
//! let plan = Plan { prompt_tokens: vec![512], generate: vec![128], ..Plan::default() };
//! let subject = Subject::Shape { shape: SHAPES[0].clone(), layers: Some(4) };
//! let mut session = Session::open(&subject, &plan, &OpenOptions::default(), &|_, _| {})?;
//! for test in plan.tests() {
//!     let measured = session.measure(test, &mut |_| std::ops::ControlFlow::Continue(()))?;
//!     let speed = measured.map(|m| m.tokens_per_second().mean);
//!     println!("{test}: {speed:?} tokens per second");
//! }
//! # Ok(())
//! # }
//! ```

mod gpu;
mod layer;
mod measurement;
mod plan;
mod random;
mod session;
mod shape;
mod statistics;

pub use gpu::{GpuRates, gpu_rates};
pub(crate) use layer::largest_difference;
pub use layer::{LayerCell, LayerPlan, LayerRow, LayerSession, RoutingPattern, Timed, TraceSource};
pub use measurement::{Measurement, StageShare};
pub use plan::{Kind, Plan, Test};
pub(crate) use random::Random;
pub(crate) use session::subject_files;
pub use session::{Progress, Session};
pub use shape::{SHAPES, Shape, Subject};
pub use statistics::{Quartiles, Statistics, expected_distinct};
