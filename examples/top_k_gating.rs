//! What a router computes: from the logits of a token to the experts it visits, by hand and by `Router`.
//!
//! ```text
//! p = softmax(logits)    chosen = the k largest p    w = p[chosen] / sum    y = sum of w * expert(x)
//! ```
//!
//! Shapes: logits `[tokens, 8]`; each token visits 2 of the 8 experts.
//! You learn: why top-k saves work, how five families differ in one line of data, and what a dispatch is.
//! Run: `cargo run --release -p moebius-examples --example top_k_gating`

use std::error::Error;
use std::io::{Write, stdout};

use moebius_router::{ExpertLoad, Router, RouterConfig};

const EXPERTS: usize = 8;
const K: usize = 2;

/// What the gate, a matrix of `[8, hidden]`, said about six tokens.
const LOGITS: [[f32; EXPERTS]; 6] = [
    [1.9, 2.4, 0.2, -0.5, 1.6, 0.1, 1.2, -1.0],
    [2.1, 0.3, -0.7, 1.8, 0.0, 0.4, -1.2, 0.9],
    [0.5, 2.2, 0.1, 0.6, 2.0, -0.3, 0.7, -0.8],
    [-0.4, 0.2, 1.5, 0.3, 0.8, 2.6, 0.0, 0.1],
    [0.9, 1.7, -0.2, 0.4, 1.3, 0.2, -0.6, 0.0],
    [0.3, 2.0, 0.6, -0.1, 0.5, 0.7, 1.9, -0.9],
];

fn main() -> Result<(), Box<dyn Error>> {
    lesson(&mut stdout().lock())
}

fn lesson(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    writeln!(out, "1. One token, {EXPERTS} experts, by hand\n")?;
    let probabilities = softmax(&LOGITS[0]);
    let chosen = largest(&probabilities, K);
    let kept: f32 = chosen.iter().map(|&expert| probabilities[expert]).sum();
    writeln!(out, "   expert   logit   softmax   chosen   weight")?;
    for (expert, (logit, probability)) in LOGITS[0].iter().zip(&probabilities).enumerate() {
        write!(out, "   {expert:>6} {logit:>7.2} {probability:>9.4}")?;
        match chosen.contains(&expert) {
            true => writeln!(out, "      yes   {:.4} = {probability:.4} / {kept:.4}", probability / kept)?,
            false => writeln!(out, "        -        -")?,
        }
    }
    writeln!(out, "\n2. The same token in five families: one `Router`, five configurations\n")?;
    for (family, config) in families() {
        let formula = config.formula();
        let routing = Router::new(0, config)?.route(&LOGITS[0])?;
        let (experts, weights) = (routing.experts(0), routing.weights(0));
        let pairs: Vec<_> = experts.iter().zip(weights).map(|(e, w)| format!("{e} x {w:.4}")).collect();
        writeln!(
            out,
            "   {family:<12} experts {}   sum {:.4}",
            pairs.join(", "),
            weights.iter().sum::<f32>()
        )?;
        writeln!(out, "   {:<12} {formula}", "")?;
    }
    dispatch(out)
}

/// The batch turned around: for each expert its tokens, which is the order in which kernels work.
fn dispatch(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let tokens = LOGITS.len();
    writeln!(out, "\n3. Dispatch: {tokens} tokens grouped by expert, so each matrix is read once\n")?;
    let routing = Router::new(0, RouterConfig::softmax_top_k(EXPERTS, K))?.route(LOGITS.as_flattened())?;
    let dispatch = routing.dispatch();
    for expert in 0..EXPERTS {
        let (rows, weights) = dispatch.expert(expert);
        let pairs: Vec<_> = rows.iter().zip(weights).map(|(t, w)| format!("token {t} x {w:.2}")).collect();
        let visits =
            if pairs.is_empty() { "idle: its weights are not read".into() } else { pairs.join(", ") };
        writeln!(out, "   expert {expert}: {visits}")?;
    }
    let mut load = ExpertLoad::new(EXPERTS);
    load.add(&routing)?;
    let stats = load.stats();
    let (entropy, jain) =
        (stats.normalized_entropy.unwrap_or(f64::NAN), stats.jain_index.unwrap_or(f64::NAN));
    let busiest = stats.max_over_mean.unwrap_or(f64::NAN);
    writeln!(out, "\n4. Load and savings\n")?;
    writeln!(
        out,
        "   entropy {entropy:.2} of 1, Jain index {jain:.2}, busiest expert {busiest:.1} x the mean"
    )?;
    let (executed, dense) = (tokens * K, tokens * EXPERTS);
    let saved = 100.0 * (1.0 - executed as f64 / dense as f64);
    writeln!(out, "   {executed} expert calls instead of {dense}: {saved:.0} % of the work saved (1 - k/E)")?;
    writeln!(out, "   {} of {EXPERTS} experts read from memory", dispatch.n_active())?;
    Ok(())
}

/// The formulas, with what a checkpoint would add to them.
fn families() -> [(&'static str, RouterConfig); 5] {
    // A bias learnt from load (arXiv 2408.15664) that holds expert 1 back and lifts expert 6 above all others;
    // but the group of 6 and 7 loses to that of 4 and 5, so 4 is chosen.
    let bias = vec![0.0, -0.2, 0.0, 0.0, 0.0, 0.0, 0.3, 0.0];
    [
        ("Mixtral", RouterConfig::softmax_top_k(EXPERTS, K)),
        ("OLMoE", RouterConfig::softmax_probabilities(EXPERTS, K)),
        ("Granite", RouterConfig::top_k_softmax(EXPERTS, K)),
        (
            "DeepSeek-V3",
            RouterConfig::sigmoid_grouped(EXPERTS, K, 4, 2).with_selection_bias(bias).with_scale(2.5),
        ),
        ("Pangu MoGE", RouterConfig::one_per_group(EXPERTS, K, vec![1.0; EXPERTS])),
    ]
}

/// `exp(l) / sum`, after subtracting the largest logit so that no `exp` overflows.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let odds: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f32 = odds.iter().sum();
    odds.iter().map(|odds| odds / sum).collect()
}

/// The ids of the `k` largest values, ascending. A stable sort gives ties to the lower id.
fn largest(values: &[f32], k: usize) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..values.len()).collect();
    ids.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    ids.truncate(k);
    ids.sort_unstable();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_agrees_with_the_maths_by_hand() {
        let router = Router::new(0, RouterConfig::softmax_top_k(EXPERTS, K)).unwrap();
        for logits in LOGITS {
            let routing = router.route(&logits).unwrap();
            let probabilities = softmax(&logits);
            let chosen = largest(&probabilities, K);
            let kept: f32 = chosen.iter().map(|&expert| probabilities[expert]).sum();
            assert_eq!(routing.experts(0), chosen.iter().map(|&e| e as u32).collect::<Vec<_>>());
            for (&expert, weight) in chosen.iter().zip(routing.weights(0)) {
                assert!((probabilities[expert] / kept - weight).abs() < 1e-6, "expert {expert}");
            }
        }
    }

    #[test]
    fn the_families_disagree_about_this_token() {
        let route = |config| Router::new(0, config).unwrap().route(&LOGITS[0]).unwrap();
        let chosen = families().map(|(_, config)| route(config).experts(0).to_vec());
        assert_eq!(chosen.each_ref().map(Vec::as_slice), [[0, 1], [0, 1], [0, 1], [0, 4], [1, 4]]);
        let mut out = Vec::new();
        lesson(&mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("75 % of the work saved"));
    }
}
