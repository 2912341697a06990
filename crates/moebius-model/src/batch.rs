//! The tokens of one forward pass, possibly of several sequences.
//!
//! Shapes: `[rows]`, one token a row; each sequence has consecutive rows.

use std::ops::Range;

use crate::cache::SequenceId;

/// Which rows of a span the caller wants logits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: an early chunk of a prompt.
    None,
    /// The last row: the next token is wanted.
    Last,
    /// Every row: the prompt is scored.
    All,
}

/// Consecutive tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Span {
    /// The sequence in the cache.
    pub sequence: SequenceId,
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first row in its sequence.
    pub first_position: usize,
    /// Wanted logits.
    pub outputs: Outputs,
    /// Positions that the sequence will have when all that is known of it was read. The angles of some models depend
    /// on it.
    pub length: usize,
}

/// Tokens in, with where they stand.
#[derive(Clone, Debug, Default)]
pub struct TokenBatch {
    tokens: Vec<u32>,
    spans: Vec<Span>,
}

impl TokenBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `tokens` of `sequence`, the first of them at `first_position`. A sequence may stand in a
    /// batch once.
    pub fn push(&mut self, sequence: SequenceId, tokens: &[u32], first_position: usize, outputs: Outputs) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        let rows = start..self.tokens.len();
        let length = first_position + rows.len();
        self.spans.push(Span { sequence, rows, first_position, outputs, length });
    }

    /// Says that the sequence which was pushed last is known up to `length` positions: its next ones come in later
    /// batches. Results do not depend on how a sequence is cut into batches as long as all of them say the same.
    pub fn expect_length(&mut self, length: usize) {
        if let Some(span) = self.spans.last_mut() {
            span.length = span.length.max(length);
        }
    }

    /// Token ids, one a row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The sequences' parts, in row order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Rows in the batch.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The position of every row in its own sequence.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.spans.iter().flat_map(|span| span.first_position..span.first_position + span.rows.len())
    }

    /// The position of every row with the length of its sequence.
    pub(crate) fn positions_in_lengths(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let spans = self.spans.iter();
        spans.flat_map(|s| {
            (s.first_position..s.first_position + s.rows.len()).map(|position| (position, s.length))
        })
    }

    /// Rows for which logits are wanted, ascending.
    pub fn output_rows(&self) -> Vec<u32> {
        let wanted = |span: &Span| match span.outputs {
            Outputs::None => span.rows.end..span.rows.end,
            Outputs::Last => span.rows.end.saturating_sub(1).max(span.rows.start)..span.rows.end,
            Outputs::All => span.rows.clone(),
        };
        self.spans.iter().flat_map(wanted).map(|row| row as u32).collect()
    }
}
