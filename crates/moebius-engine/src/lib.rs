//! Sequences, scheduling and sampling over token ids.
