//! What sparsity saved and what it cost: the bundled model with 1, 2, 4 and all of its experts per token.
//!
//! ```text
//! executed = tokens * k * m        twin = tokens * E * m        saved = 1 - executed / twin
//! ```
//! `m` is the work of one expert for one token. The twin has the same weights and runs every expert for every token.
//!
//! You learn: to open a model with another k, and to read the meter and the quality of a text side by side.
//! Run: `cargo run --release -p moebius-examples --example meter`

use std::error::Error;
use std::io::{Write, stdout};

use moebius::metering::{Phase, Reading, format};
use moebius::{Model, OpenOptions, ScoreOptions, bundled_model, inspect, perplexity};

/// How well the model knows this text is its quality here: fewer bits per token are better.
const TEXT: &str = "Once upon a time, there was a little boy named Tom. Tom had a big blue kite. One day, Tom went to \
    the park with his mom. The wind was strong, and the kite went up, up, up into the sky. Tom was so happy. Then the \
    string broke and the kite flew away. Tom was sad and began to cry. His mom gave him a hug and said, \"Do not worry, \
    Tom. We can make a new kite.\" They went home and made a new kite together. It was red and yellow. Tom smiled and \
    said, \"Thank you, Mom. I love my new kite.\"";

fn main() -> Result<(), Box<dyn Error>> {
    lesson(&mut stdout().lock())
}

fn lesson(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let (info, _) = inspect(bundled_model()?, &OpenOptions::default())?;
    let moe = info.moe.ok_or("the bundled model has no experts")?;
    writeln!(
        out,
        "{} experts in each of {} layers, trained with {} per token\n",
        moe.n_experts, moe.layers, moe.top_k
    )?;
    writeln!(
        out,
        "  k   executed       twin    saved   of the model   weights read   log-prob/token   perplexity   speed"
    )?;
    for k in [1, 2, 4, moe.n_experts] {
        let (logprob, perplexity, reading) = measure(k)?;
        let flops = |flops: u64| format::si(Some(flops as f64), "FLOP");
        writeln!(
            out,
            "{k:>3} {:>10} {:>10} {:>8} {:>14} {:>14} {logprob:>16.3} {perplexity:>12.2}   {}",
            flops(reading.expert_flops()),
            flops(reading.iso_total_expert_flops()),
            format::percent(reading.expert_saved_share()),
            format::percent(reading.model_saved_share()),
            format::si(Some(reading.experts().weight_bytes as f64), "B"),
            format::si(reading.tokens_per_second(Phase::Prefill), "tok/s"),
        )?;
    }
    writeln!(
        out,
        "\nexecuted, twin, saved: the experts alone; `of the model` counts attention and the rest too."
    )?;
    writeln!(
        out,
        "A whole text shares each expert's weights among its tokens, so bytes saved are fewer than FLOPs saved."
    )?;
    Ok(())
}

/// Mean log-probability in nats, perplexity, and the meter's reading of the text with `k` experts per token.
fn measure(k: usize) -> Result<(f64, f64, Reading), Box<dyn Error>> {
    let options = OpenOptions { experts: Some(k), ..OpenOptions::default() };
    let mut model = Model::open(bundled_model()?, &options)?;
    let windows = model.windows(TEXT)?;
    // The first pass touches every weight for the first time, which is no measure of speed.
    model.score(&windows, &ScoreOptions::default())?;
    let (scores, reading) = model.score(&windows, &ScoreOptions::default())?;
    let perplexity = perplexity(&scores).ok_or("no token was scored")?;
    Ok((-perplexity.ln(), perplexity, reading))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_is_one_minus_k_over_the_experts() {
        let experts =
            inspect(bundled_model().unwrap(), &OpenOptions::default()).unwrap().0.moe.unwrap().n_experts;
        for k in [1, 2, experts] {
            let (_, _, reading) = measure(k).unwrap();
            let expected = 1.0 - k as f64 / experts as f64;
            assert!((reading.expert_saved_share().unwrap() - expected).abs() < 1e-12, "k = {k}");
        }
    }

    #[test]
    fn fewer_experts_than_in_training_know_the_text_less_well() {
        let trained =
            inspect(bundled_model().unwrap(), &OpenOptions::default()).unwrap().0.moe.unwrap().top_k;
        assert!(measure(1).unwrap().0 < measure(trained).unwrap().0);
        lesson(&mut Vec::new()).unwrap();
    }
}
