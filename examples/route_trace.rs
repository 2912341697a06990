//! Which experts read what: the load of every expert in every layer, for four kinds of text.
//!
//! ```text
//! share[e] = visits of e / all visits        distance(a, b) = sum of |share_a - share_b| / 2, from 0 to 1
//! ```
//!
//! Shapes: one `ExpertLoad` of `[experts]` per layer and text.
//! You learn: how a `Probe` looks into a forward pass, and that a router sends different texts to different experts.
//! Run: `cargo run --release -p moebius-examples --example route_trace`

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Write, stdout};

use candle_core::Tensor;
use moebius::text::Tokenizer;
use moebius::{BackendOptions, bundled_model, open_backend};
use moebius_engine::{Engine, EngineOptions};
use moebius_model::{ModelFiles, Probe, TokenBatch};
use moebius_router::{ExpertLoad, Routing};

const TEXTS: [(&str, &str); 4] = [
    (
        "story",
        "Once upon a time there was a little girl named Lily. She had a red ball and a small brown dog. One day \
         they went to the park to play. The dog ran after the ball and fell into the pond. Lily was scared, but a \
         kind old man helped her. The dog was wet and happy. They all laughed and went home for dinner.",
    ),
    (
        "python",
        "def count_words(lines):\n    counts = {}\n    for line in lines:\n        for word in line.split():\n            \
         counts[word] = counts.get(word, 0) + 1\n    return counts\n\n\ndef largest(values):\n    best = None\n    \
         for value in values:\n        if best is None or value > best:\n            best = value\n    return best\n",
    ),
    (
        "arithmetic",
        "12 + 7 = 19\n34 - 15 = 19\n8 * 6 = 48\n105 + 27 = 132\n90 - 41 = 49\n7 * 9 = 63\n56 + 38 = 94\n\
         81 - 27 = 54\n3 * 12 = 36\n240 + 160 = 400\n75 - 50 = 25\n11 * 11 = 121\n64 + 64 = 128\n",
    ),
    (
        "japanese",
        "むかしむかし、ある村に小さな男の子がいました。男の子は毎日、森へ行って鳥と遊びました。ある日、森の中で白い犬に\
         会いました。犬は足をけがしていました。男の子は犬を家につれて帰り、水とごはんをあげました。二人は友だちになりました。",
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    lesson(&mut stdout().lock())
}

/// The loads of one text, by layer.
#[derive(Default)]
struct Trace {
    layers: BTreeMap<usize, ExpertLoad>,
}

impl Probe for Trace {
    fn batch(&mut self, _: &TokenBatch) {}

    fn hidden(&mut self, _: usize, _: &Tensor) -> moebius_model::Result<()> {
        Ok(())
    }

    fn routing(&mut self, layer: usize, routing: &Routing) -> moebius_model::Result<()> {
        let load = self.layers.entry(layer).or_insert_with(|| ExpertLoad::new(routing.n_experts()));
        load.add(routing).map_err(moebius_backend::Error::from)?;
        Ok(())
    }
}

fn lesson(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let traces = traces()?;
    for (name, trace) in &traces {
        heat_map(name, trace, out)?;
    }
    writeln!(
        out,
        "   load of an expert: blank is none, ░░ below half of its fair share, ▒▒ up to it, ▓▓ up to twice it, ██ more\n"
    )?;
    writeln!(out, "distance between the loads of two texts: 0 is the same experts, 1 is none in common\n")?;
    write!(out, "{:10}", "")?;
    traces.iter().try_for_each(|(name, _)| write!(out, " {name:>10}"))?;
    for (name, trace) in &traces {
        write!(out, "\n{name:>10}")?;
        traces.iter().try_for_each(|(_, other)| write!(out, " {:>10.2}", distance(trace, other)))?;
    }
    writeln!(out)?;
    Ok(())
}

/// Runs every text through the bundled model with a probe that looks on.
fn traces() -> Result<Vec<(&'static str, Trace)>, Box<dyn Error>> {
    let dir = bundled_model()?;
    let (tokenizer, backend) = (Tokenizer::from_dir(&dir)?, open_backend(&BackendOptions::default())?);
    let model = ModelFiles::open(&dir, None)?.load(&backend, &|_| {})?;
    let options = EngineOptions { context: usize::MAX, chunk: 512 };
    let mut engine = Engine::new(model, &backend.info().device, options);
    let mut traces = Vec::new();
    for (name, text) in TEXTS {
        let mut ids = tokenizer.encode(text, true)?;
        ids.truncate(engine.context());
        let mut trace = Trace::default();
        engine.score(&[ids], Some(&mut trace), |_| {})?;
        traces.push((name, trace));
    }
    Ok(traces)
}

fn heat_map(name: &str, trace: &Trace, out: &mut impl Write) -> std::io::Result<()> {
    let tokens = trace.layers.values().map(ExpertLoad::tokens).max().unwrap_or(0);
    writeln!(out, "{name}, {tokens} tokens")?;
    for (layer, load) in &trace.layers {
        let stats = load.stats();
        let fair = 1.0 / load.counts().len() as f64;
        let shares = stats.shares.unwrap_or_default();
        let blocks: String = shares.iter().map(|&share| block(share / fair)).collect();
        let busiest =
            shares.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(expert, _)| expert);
        let (entropy, jain) =
            (stats.normalized_entropy.unwrap_or(f64::NAN), stats.jain_index.unwrap_or(f64::NAN));
        writeln!(
            out,
            "   layer {layer} |{blocks}| entropy {entropy:.2}  Jain {jain:.2}  busiest expert {busiest}"
        )?;
    }
    writeln!(out)
}

/// Two columns for a load, given as a multiple of the fair share.
fn block(load: f64) -> &'static str {
    match load {
        0.0 => "  ",
        l if l < 0.5 => "░░",
        l if l <= 1.0 => "▒▒",
        l if l <= 2.0 => "▓▓",
        _ => "██",
    }
}

/// The total variation distance of the shares, averaged over layers.
fn distance(a: &Trace, b: &Trace) -> f64 {
    let shares = |load: &ExpertLoad| load.stats().shares.unwrap_or_default();
    let apart = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0;
    let layers = a.layers.values().zip(b.layers.values());
    layers.map(|(a, b)| apart(shares(a), shares(b))).sum::<f64>() / a.layers.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_texts_visit_different_experts() {
        let traces = traces().unwrap();
        for (idx, (name, trace)) in traces.iter().enumerate() {
            assert!(!trace.layers.is_empty(), "{name}");
            assert_eq!(distance(trace, trace), 0.0);
            for (other_name, other) in &traces[..idx] {
                let distance = distance(trace, other);
                assert!(distance > 0.1 && distance <= 1.0, "{name} and {other_name}: {distance}");
            }
        }
    }

    #[test]
    fn every_layer_has_its_row() {
        let mut out = Vec::new();
        lesson(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let layers = traces().unwrap()[0].1.layers.len();
        assert_eq!(text.lines().filter(|line| line.contains("| entropy")).count(), TEXTS.len() * layers);
    }
}
