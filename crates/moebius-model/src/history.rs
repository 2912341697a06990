//! What a sequence read, kept by models that may have to read it again.
//!
//! With LongRoPE (arXiv 2402.13753) all angles change once a sequence is longer than the trained context, and with them
//! what every layer saw: rows in the cache that were made with others are made anew from the tokens.

/// The tokens of a sequence, and how its rows in the cache were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    tokens: Vec<u32>,
    /// Whether rows were made with the angles of long sequences; `None` while they are being made anew.
    pub(crate) is_long: Option<bool>,
}

impl History {
    /// Notes `tokens` from `position` on; what was there before is forgotten.
    pub(crate) fn remember(&mut self, position: usize, tokens: &[u32]) {
        self.tokens.truncate(position);
        if self.tokens.len() == position {
            self.tokens.extend_from_slice(tokens);
        }
    }

    /// The first `len` tokens if they must be read again for a sequence that is long, or is not.
    pub(crate) fn outdated(&self, len: usize, is_long: bool) -> Option<&[u32]> {
        let tokens = self.tokens.get(..len).filter(|tokens| !tokens.is_empty())?;
        (self.is_long != Some(is_long)).then_some(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_again_when_the_sequence_is_of_another_kind() {
        let mut history = History::default();
        assert_eq!(history.outdated(0, true), None);
        history.remember(0, &[1, 2, 3]);
        history.is_long = Some(false);
        assert_eq!(history.outdated(3, false), None);
        assert_eq!(history.outdated(3, true), Some(&[1, 2, 3][..]));
        history.is_long = None;
        assert_eq!(history.outdated(2, false), Some(&[1, 2][..]));
    }

    #[test]
    fn what_is_taken_back_is_forgotten() {
        let mut history = History::default();
        history.remember(0, &[1, 2, 3]);
        history.remember(2, &[7]);
        assert_eq!(history.outdated(3, true), Some(&[1, 2, 7][..]));
    }

    #[test]
    fn positions_that_were_filled_in_without_tokens_are_not_read_again() {
        let mut history = History::default();
        history.remember(5, &[9]);
        assert_eq!(history.outdated(6, true), None);
    }
}
