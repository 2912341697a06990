//! Which experts tokens go to when no router decides: by chance, evenly or with favourites, or as a trace says.
//!
//! Zipf: the expert of rank r has a share proportional to `r^-s`; k of them without repetition are the k largest of
//! `-s ln r + g` with Gumbel noise `g` (arXiv 1903.06059).

use std::fmt;
use std::str::FromStr;

use moebius_router::{Routing, WeightTarget};

use super::replay::{Replay, TraceSource};
use crate::bench::random::Random;
use crate::{Error, Result};

/// Steeper than this, everything goes to the same experts.
const MAX_EXPONENT: f64 = 10.0;

/// How tokens choose experts.
#[derive(Clone, Debug, PartialEq)]
pub enum RoutingPattern {
    /// Every expert alike.
    Uniform,
    /// Some experts are favourites: the share of the r-th is proportional to `r^-s`.
    Zipf(f64),
    /// As in a trace, token after token.
    Trace(TraceSource),
}

impl FromStr for RoutingPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(source) = text.strip_prefix("trace:").filter(|source| !source.is_empty()) {
            return Ok(RoutingPattern::Trace(TraceSource::parse(source)));
        }
        let exponent = text.strip_prefix("zipf:").and_then(|s| s.parse::<f64>().ok());
        match (text, exponent) {
            ("uniform", _) => Ok(RoutingPattern::Uniform),
            (_, Some(s)) if (0.0..=MAX_EXPONENT).contains(&s) => Ok(RoutingPattern::Zipf(s)),
            _ => Err(Error::UnknownName {
                what: "routing",
                got: text.into(),
                expected: format!(
                    "uniform, zipf:S with S from 0 to {MAX_EXPONENT}, trace:FILE or trace:FILE@LAYER"
                ),
            }),
        }
    }
}

impl fmt::Display for RoutingPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoutingPattern::Uniform => f.write_str("uniform"),
            RoutingPattern::Zipf(s) => write!(f, "zipf:{s}"),
            RoutingPattern::Trace(source) => f.write_str(&source.named(source.path.display())),
        }
    }
}

impl RoutingPattern {
    /// Its name in a table or a chart: a file goes by its name alone.
    pub fn label(&self) -> String {
        match self {
            RoutingPattern::Trace(source) => source.named(source.file_name()),
            other => other.to_string(),
        }
    }

    /// Says which layer of a trace is replayed, if none was named, and fails where its choices are not those of `ks` of
    /// `n_experts` experts.
    pub(super) fn settle(&mut self, n_experts: usize, ks: &[usize]) -> Result<()> {
        match self {
            RoutingPattern::Trace(source) => source.settle(n_experts, ks),
            RoutingPattern::Uniform | RoutingPattern::Zipf(_) => Ok(()),
        }
    }

    /// Makes ready to choose for at most `most_tokens` tokens, or for any number by chance.
    pub(super) fn open(&self, most_tokens: usize) -> Result<Chooser> {
        Ok(match self {
            RoutingPattern::Uniform => Chooser::Chance { exponent: 0.0 },
            &RoutingPattern::Zipf(exponent) => Chooser::Chance { exponent },
            RoutingPattern::Trace(source) => Chooser::Replay(source.read(most_tokens)?),
        })
    }
}

/// What chooses.
#[derive(Clone, Debug)]
pub(super) enum Chooser {
    /// The share of the r-th expert is proportional to `r^-exponent`.
    Chance { exponent: f64 },
    /// A trace.
    Replay(Replay),
}

impl Chooser {
    /// `tokens` choices of `top_k` of `n_experts`, each with weight `1/k`. Those of a trace go on from sample to sample.
    pub(super) fn choose(
        &self,
        random: &mut Random,
        (sample, tokens): (usize, usize),
        (n_experts, top_k): (usize, usize),
    ) -> Result<Routing> {
        let experts = match self {
            &Chooser::Chance { exponent } => by_chance(random, exponent, tokens, (n_experts, top_k)),
            Chooser::Replay(replay) => replay.choices(sample * tokens, tokens, top_k),
        };
        let weights = vec![1.0 / top_k as f32; experts.len()];
        let routing = Routing::from_parts(n_experts, top_k, experts, weights, WeightTarget::Output);
        routing.map_err(|error| moebius_backend::Error::from(error).into())
    }
}

fn by_chance(
    random: &mut Random,
    exponent: f64,
    tokens: usize,
    (n_experts, top_k): (usize, usize),
) -> Vec<u32> {
    let mut experts = Vec::with_capacity(tokens * top_k);
    let mut keys: Vec<(f64, u32)> = Vec::with_capacity(n_experts);
    for _ in 0..tokens {
        keys.clear();
        keys.extend((0..n_experts as u32).map(|id| {
            let gumbel = -(-random.unit().ln()).ln();
            (gumbel - exponent * f64::from(id + 1).ln(), id)
        }));
        if top_k < n_experts {
            keys.select_nth_unstable_by(top_k, |a, b| b.0.total_cmp(&a.0));
        }
        let first = experts.len();
        experts.extend(keys[..top_k].iter().map(|&(_, id)| id));
        experts[first..].sort_unstable();
    }
    experts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::expected_distinct;

    fn choose(pattern: &RoutingPattern, random: &mut Random, tokens: usize, of: (usize, usize)) -> Routing {
        pattern.open(tokens).unwrap().choose(random, (0, tokens), of).unwrap()
    }

    fn shares(pattern: RoutingPattern, top_k: usize) -> Vec<f64> {
        let routing = choose(&pattern, &mut Random::new(3), 20_000, (8, top_k));
        let mut counts = vec![0.0; 8];
        routing.all_experts().iter().for_each(|&id| counts[id as usize] += 1.0 / 20_000.0);
        counts
    }

    #[test]
    fn uniform_choices_are_even_and_touch_as_many_experts_as_chance_says() {
        assert!(shares(RoutingPattern::Uniform, 2).iter().all(|share| (share - 0.25).abs() < 0.02));
        let mut random = Random::new(5);
        let mut distinct = 0;
        for _ in 0..500 {
            let routing = choose(&RoutingPattern::Uniform, &mut random, 8, (64, 8));
            distinct += routing.dispatch().n_active();
        }
        let mean = f64::from(u32::try_from(distinct).unwrap()) / 500.0;
        assert!((mean - expected_distinct(64, 8, 8.0)).abs() < 0.5, "{mean}");
    }

    #[test]
    fn favourites_have_the_shares_of_their_ranks() {
        let got = shares(RoutingPattern::Zipf(1.0), 1);
        let sum: f64 = (1..=8).map(|rank| 1.0 / f64::from(rank)).sum();
        for (rank, share) in (1..).zip(got) {
            assert!((share - 1.0 / (f64::from(rank) * sum)).abs() < 0.02, "rank {rank}: {share}");
        }
    }

    #[test]
    fn all_experts_may_be_chosen_and_the_same_seed_chooses_alike() {
        let all = choose(&RoutingPattern::Zipf(1.1), &mut Random::new(1), 2, (4, 4));
        assert_eq!(all.all_experts(), [0, 1, 2, 3, 0, 1, 2, 3]);
        let again = |seed| choose(&RoutingPattern::Uniform, &mut Random::new(seed), 9, (64, 8));
        assert_eq!(again(4), again(4));
        assert_ne!(again(4), again(5));
    }

    #[test]
    fn patterns_are_read_as_they_are_written() {
        for text in ["uniform", "zipf:1.1", "zipf:0", "trace:a/b.trace", "trace:a@b@7"] {
            assert_eq!(text.parse::<RoutingPattern>().unwrap().to_string(), text);
        }
        for text in ["", "zipf", "zipf:", "zipf:-1", "zipf:nan", "zipf:11", "even", "trace", "trace:"] {
            assert!(text.parse::<RoutingPattern>().is_err(), "{text}");
        }
        assert_eq!("trace:a/b.trace@3".parse::<RoutingPattern>().unwrap().label(), "trace:b.trace@3");
    }
}
