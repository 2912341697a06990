//! One token of a real model at one layer: what the gate says, who is chosen, and what their sum is.
//!
//! ```text
//! logits = gate(x)    p = softmax(logits)    w = p[chosen] / sum    y = sum of w * expert(x)
//! ```
//!
//! Shapes: 32 logits; 4 experts chosen; vectors of the model's width.
//! You learn: that a layer's output is nothing but the weighted sum of the experts that were asked.
//! Run: `cargo run --release -p moebius-examples --example one_token`

use std::error::Error;
use std::io::{Write, stdout};

use moebius::{Explanation, Model, OpenOptions, bundled_model};

const TEXT: &str = "Once upon a time";

fn main() -> Result<(), Box<dyn Error>> {
    lesson(&mut stdout().lock())
}

fn lesson(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let explained = last_token(0)?;
    writeln!(out, "{TEXT:?}, last token, layer {}: {}\n", explained.layer, explained.router.formula())?;
    writeln!(out, "expert   logit   score  weight  length of what it adds")?;
    for e in &explained.experts {
        let added = e.added_norm;
        writeln!(out, "{:>6} {:>7.3} {:>7.4} {:>7.4}  {added:>8.4}", e.expert, e.logit, e.score, e.weight)?;
    }
    let (norm, difference) = (explained.output_norm, explained.largest_difference);
    writeln!(out, "\nthe layer's own sum: length {norm:.4}, largest difference {difference:.1e}")?;
    let (ran, all) = (explained.experts.len(), explained.router.n_experts);
    let saved = 100.0 * (1.0 - ran as f64 / all as f64);
    writeln!(out, "{ran} of {all} experts ran: {saved} % of their work saved")?;
    Ok(())
}

fn last_token(layer: usize) -> Result<Explanation, Box<dyn Error>> {
    let mut model = Model::open(bundled_model()?, &OpenOptions::default())?;
    let ids = model.tokenizer()?.encode(TEXT, true)?;
    Ok(model.explain(&ids, ids.len() - 1, Some(layer))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_the_experts_is_what_the_layer_gave() {
        for layer in 0..4 {
            let explained = last_token(layer).unwrap();
            assert!(explained.largest_difference < 1e-6 * explained.output_norm, "layer {layer}");
            let weights: f32 = explained.experts.iter().map(|e| e.weight).sum();
            assert!((weights - 1.0).abs() < 1e-5, "layer {layer}: {weights}");
        }
        lesson(&mut Vec::new()).unwrap();
    }
}
