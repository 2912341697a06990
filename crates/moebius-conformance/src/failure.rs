//! What a check found.

use std::error::Error as _;
use std::fmt;

use thiserror::Error as ThisError;

use crate::Group;

/// Why a check did not pass.
#[derive(Debug, ThisError)]
pub enum Failure {
    /// A result is not what it should be.
    #[error("{0}")]
    Mismatch(String),
    /// A failure, and the case in which it happened.
    #[error("{case}")]
    Case {
        /// Sizes, format and backend, in words.
        case: String,
        /// What happened.
        source: Box<Failure>,
    },
    /// The backend returned an error where it should not.
    #[error("a call that should work was refused")]
    Refused(#[from] moebius_backend::Error),
    /// A tensor could not be made or read.
    #[error("a tensor of the suite could not be made or read")]
    Tensor(#[from] candle_core::Error),
    /// The backend panicked.
    #[error("panicked: {0}")]
    Panicked(String),
}

impl Failure {
    /// The same failure with the case in which it happened.
    pub(crate) fn at(self, case: impl Into<String>) -> Failure {
        Failure::Case { case: case.into(), source: Box::new(self) }
    }

    /// The failure and all of its causes on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// A check that failed.
#[derive(Debug)]
pub struct Failed {
    /// The group of the check.
    pub group: Group,
    /// The check, as the test is called.
    pub check: &'static str,
    /// What it found.
    pub failure: Failure,
}

/// Every check that a backend failed; never empty.
#[derive(Debug)]
pub struct Failures {
    /// Name and detail of the backend.
    pub backend: String,
    /// The checks, in the order in which they ran.
    pub failed: Vec<Failed>,
    /// How many checks ran.
    pub of: usize,
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed {} of {} checks", self.backend, self.failed.len(), self.of)?;
        for failed in &self.failed {
            write!(f, "\n  {}::{}: {}", failed.group, failed.check, failed.failure.chain())?;
        }
        Ok(())
    }
}

impl std::error::Error for Failures {}

/// Fails with a text unless a condition holds.
pub(crate) fn ensure(condition: bool, text: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(Failure::Mismatch(text())) }
}

/// Fails unless a call was refused. A panic is no refusal: it ends the check.
pub(crate) fn ensure_refused<T, E>(what: &str, result: Result<T, E>) -> Result<(), Failure> {
    ensure(result.is_err(), || format!("{what}: expected an error, got a result"))
}
