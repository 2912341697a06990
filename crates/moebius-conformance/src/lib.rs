//! Acceptance tests that every backend passes.
