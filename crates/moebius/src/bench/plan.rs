//! What is measured, and how often.

use std::collections::BTreeSet;
use std::fmt;

/// Reading a prompt or generating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A prompt of this many tokens is read.
    Prompt(usize),
    /// This many tokens are generated in each sequence.
    Generate(usize),
}

/// One thing to measure: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Test {
    /// Tokens that each sequence has before.
    pub depth: usize,
    /// What is done.
    pub kind: Kind,
    /// Sequences that do it together; prompts are read one by one.
    pub batch: usize,
}

impl Test {
    /// Tokens that are read or generated in all.
    pub fn tokens(&self) -> usize {
        let (Kind::Prompt(tokens) | Kind::Generate(tokens)) = self.kind;
        tokens.saturating_mul(self.batch)
    }

    /// Most positions that a sequence gets, when a step reads at most `chunk` prompt tokens: in a batch some
    /// sequences wait for the others' first token, and generate meanwhile.
    pub(super) fn positions(&self, chunk: usize) -> usize {
        let tokens = match self.kind {
            Kind::Prompt(tokens) => tokens,
            Kind::Generate(tokens) => tokens.saturating_add(self.batch.div_ceil(chunk.max(1))),
        };
        tokens.saturating_add(self.depth)
    }
}

/// The name of the test, such as `pp512`, `tg128 @ d4096` or `tg128 x b8`.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Prompt(tokens) => write!(f, "pp{tokens}")?,
            Kind::Generate(tokens) => write!(f, "tg{tokens}")?,
        }
        if self.batch != 1 {
            write!(f, " x b{}", self.batch)?;
        }
        if self.depth != 0 {
            write!(f, " @ d{}", self.depth)?;
        }
        Ok(())
    }
}

/// What to measure: every combination is one [`Test`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Lengths of prompts; 0 leaves them out.
    pub prompt_tokens: Vec<usize>,
    /// Tokens to generate in each sequence; 0 leaves that out.
    pub generate: Vec<usize>,
    /// Tokens that each sequence has before.
    pub depths: Vec<usize>,
    /// Sequences that generate together, at least 1.
    pub batches: Vec<usize>,
    /// Samples of each test, at least 1, after one that does not count.
    pub repetitions: usize,
    /// Whether to time the stages of a step.
    pub profile: bool,
    /// Seed of token ids, caches and random weights.
    pub seed: u64,
}

impl Default for Plan {
    /// A prompt of 512 tokens and 128 generated ones, five times.
    fn default() -> Self {
        Plan {
            prompt_tokens: vec![512],
            generate: vec![128],
            depths: vec![0],
            batches: vec![1],
            repetitions: 5,
            profile: false,
            seed: 0,
        }
    }
}

impl Plan {
    /// The tests: by depth, prompts first, small batches before large ones, each once.
    pub fn tests(&self) -> Vec<Test> {
        let prompts = self.prompt_tokens.iter().map(|&tokens| (Kind::Prompt(tokens), 1));
        let generated = self.generate.iter().map(|&tokens| Kind::Generate(tokens));
        let generated = generated.flat_map(|kind| self.batches.iter().map(move |&batch| (kind, batch)));
        let each: Vec<(Kind, usize)> = prompts.chain(generated).collect();
        let tests = self
            .depths
            .iter()
            .flat_map(|&depth| each.iter().map(move |&(kind, batch)| Test { depth, kind, batch }));
        tests.filter(|test| test.tokens() > 0).collect::<BTreeSet<Test>>().into_iter().collect()
    }

    /// Most positions that any sequence gets.
    pub(super) fn context(&self, chunk: usize) -> usize {
        self.tests().iter().map(|test| test.positions(chunk)).max().unwrap_or(0)
    }

    /// Most positions that the cache holds at once: it grows by doubling, for each sequence up to `context`.
    pub(super) fn cached_positions(&self, chunk: usize, context: usize) -> usize {
        let capacity = |test: &Test| test.positions(chunk).next_power_of_two().min(context);
        let held = |test: &Test| capacity(test).saturating_mul(test.batch);
        self.tests().iter().map(held).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plan: &Plan) -> Vec<String> {
        plan.tests().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_combination_is_one_test() {
        let plan = Plan { depths: vec![4096, 0], batches: vec![8, 1, 8], ..Plan::default() };
        let expected =
            ["pp512", "tg128", "tg128 x b8", "pp512 @ d4096", "tg128 @ d4096", "tg128 x b8 @ d4096"];
        assert_eq!(names(&plan), expected);
        assert_eq!(plan.context(512), 4096 + 512);
        assert_eq!(plan.cached_positions(512, usize::MAX), 8 * 8192);
        assert_eq!(plan.cached_positions(512, 5000), 8 * 5000);
    }

    #[test]
    fn zero_leaves_a_test_out() {
        let plan = Plan { prompt_tokens: vec![0], generate: vec![16, 0], ..Plan::default() };
        assert_eq!(names(&plan), ["tg16"]);
        assert!(Plan { prompt_tokens: vec![0], generate: vec![0], ..Plan::default() }.tests().is_empty());
    }

    #[test]
    fn sequences_that_wait_for_others_need_more_room() {
        let test = Test { depth: 10, kind: Kind::Generate(5), batch: 9 };
        assert_eq!((test.positions(512), test.positions(2), test.tokens()), (16, 20, 45));
    }
}
