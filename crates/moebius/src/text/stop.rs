//! Stop strings in text that arrives in pieces.
//!
//! The match that is complete first wins; of those that end at the same place, the longest. So the result
//! depends on the text alone, not on where the pieces were cut, and nothing waits longer than it must.
//!
//! Shapes: piece of text -> the text that may be shown now.
//! Invariants: what is shown never holds a part of the stop string that ended the text; what is held back
//! is the longest end of the text that could begin a stop string, so shorter than the longest of them.

use super::{Result, TextError};

/// Watches a text for stop strings.
///
/// ```
/// # use moebius::text::StopStrings;
/// let mut stop = StopStrings::new(["\nUser:"])?;
/// assert_eq!(stop.push("Hello\nUs").text, "Hello");
/// let step = stop.push("er: hi");
/// assert_eq!((step.text.as_str(), step.stopped), ("", Some(0)));
/// # Ok::<(), moebius::text::TextError>(())
/// ```
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: Option<usize>,
}

/// What one piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopStep {
    /// The text that may be shown now.
    pub text: String,
    /// Which stop string ended the text, as its position in the list.
    pub stopped: Option<usize>,
}

impl StopStrings {
    /// A watcher for any of `stops`; with none of them all text passes at once.
    ///
    /// # Errors
    /// [`TextError::EmptyStopString`] if one of them is empty.
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> Result<Self> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        match stops.iter().position(String::is_empty) {
            Some(index) => Err(TextError::EmptyStopString { index }),
            None => Ok(Self { stops, held: String::new(), stopped: None }),
        }
    }

    /// Takes the next piece of the text. After a stop nothing more is shown.
    pub fn push(&mut self, piece: &str) -> StopStep {
        if self.stopped.is_some() {
            return StopStep { text: String::new(), stopped: self.stopped };
        }
        let known = self.held.len();
        self.held.push_str(piece);
        if let Some((start, index)) = self.first_match(known) {
            self.stopped = Some(index);
            self.held.truncate(start);
            return StopStep { text: std::mem::take(&mut self.held), stopped: self.stopped };
        }
        let tail = self.held.split_off(self.held.len() - self.undecided());
        StopStep { text: std::mem::replace(&mut self.held, tail), stopped: None }
    }

    /// The text that was held back, now that no more will come.
    pub fn finish(self) -> String {
        self.held
    }

    /// Start and index of the match that ends first, beyond the `known` bytes that hold none.
    fn first_match(&self, known: usize) -> Option<(usize, usize)> {
        let held = self.held.as_bytes();
        (known + 1..=held.len()).find_map(|end| {
            let ending = |stop: &String| held[..end].ends_with(stop.as_bytes());
            let matches = self.stops.iter().enumerate().filter(|(_, stop)| ending(stop));
            // Of equal ones the first in the list: `max_by_key` alone would take the last.
            let longest = matches.rev().max_by_key(|(_, stop)| stop.len());
            longest.map(|(index, stop)| (end - stop.len(), index))
        })
    }

    /// Length of the longest end of the held text that begins a stop string.
    ///
    /// It starts on a character's border, because the stop string does.
    fn undecided(&self) -> usize {
        let held = self.held.as_bytes();
        let longest = self.stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0);
        let begins =
            |len: usize| self.stops.iter().any(|stop| stop.as_bytes().starts_with(&held[held.len() - len..]));
        (1..=longest.min(held.len())).rev().find(|&len| begins(len)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is shown of `text` and which stop ended it, with the whole text at hand.
    fn naive(text: &str, stops: &[String]) -> (String, Option<usize>) {
        let mut best: Option<(usize, usize, usize)> = None; // end, start, index
        for (index, stop) in stops.iter().enumerate() {
            if let Some(start) = text.find(stop.as_str()) {
                let found = (start + stop.len(), start, index);
                best = Some(best.map_or(found, |other| other.min(found)));
            }
        }
        match best {
            Some((_, start, index)) => (text[..start].to_owned(), Some(index)),
            None => (text.to_owned(), None),
        }
    }

    fn streamed(pieces: &[String], stops: &[String]) -> (String, Option<usize>) {
        let mut watcher = StopStrings::new(stops.to_vec()).unwrap();
        let mut shown = String::new();
        let mut stopped = None;
        for piece in pieces {
            let step = watcher.push(piece);
            shown.push_str(&step.text);
            stopped = step.stopped;
        }
        shown.push_str(&watcher.finish());
        (shown, stopped)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]
        #[test]
        fn a_stream_shows_what_a_search_of_the_whole_text_shows(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
        ) {
            prop_assert_eq!(streamed(&pieces, &stops), naive(&pieces.concat(), &stops));
        }

        #[test]
        fn only_what_could_begin_a_stop_string_is_held_back(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,4}", 1..4),
        ) {
            let mut watcher = StopStrings::new(stops.clone()).unwrap();
            for piece in &pieces {
                watcher.push(piece);
                let held = watcher.held.as_str();
                prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)));
            }
        }
    }

    #[test]
    fn the_first_complete_match_wins_and_the_longest_of_those() {
        let stops = ["abcd", "bc", "abc"];
        let mut watcher = StopStrings::new(stops).unwrap();
        assert_eq!(watcher.push("xabcd"), StopStep { text: "x".into(), stopped: Some(2) });
        assert_eq!(watcher.push("more"), StopStep { text: String::new(), stopped: Some(2) });
        assert_eq!(watcher.finish(), "");
    }

    #[test]
    fn text_that_only_looked_like_a_stop_comes_out() {
        let mut watcher = StopStrings::new(["<|end|>"]).unwrap();
        assert_eq!(watcher.push("a<|e").text, "a");
        assert_eq!(watcher.push("x").text, "<|ex");
        assert_eq!(watcher.push("<|").text, "");
        assert_eq!(watcher.finish(), "<|");
    }

    #[test]
    fn without_stops_everything_passes() {
        let mut watcher = StopStrings::new(Vec::<String>::new()).unwrap();
        assert_eq!(watcher.push("abc").text, "abc");
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopStrings::new(["a", ""]).unwrap_err();
        assert!(matches!(error, TextError::EmptyStopString { index: 1 }));
    }
}
