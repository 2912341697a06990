//! Eight devices with eight experts each: who waits for whom under plain top-k, and why nobody does under MoGE.
//!
//! ```text
//! straggler = tokens of the busiest device / tokens of an even share
//! ```
//!
//! Shapes: 64 experts, 8 of them for each of 4096 random tokens, in batches of 64; both routers see the same logits.
//! You learn: a batch takes as long as its busiest device, so uneven routing costs time that no kernel wins back.
//! Run: `cargo run --release -p moebius-examples --example device_balance`

use std::error::Error;
use std::io::{Write, stdout};

use moebius::balance::{Rule, Spread, Synthetic, Taste, synthetic};

const TASK: Synthetic = Synthetic { n_experts: 64, top_k: 8, tokens: 4096, seed: 0 };
const SPREAD: Spread = Spread { devices: 8, batch: 64, capacity_factor: Some(1.25) };

fn main() -> Result<(), Box<dyn Error>> {
    lesson(&mut stdout().lock())
}

fn lesson(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    writeln!(out, "{:<8} {:<20} {:>9} {:>6} {:>8}", "logits", "router", "straggler", "Jain", "no room")?;
    for row in synthetic(&TASK, &SPREAD)? {
        let Some(balance) = row.balance else { continue };
        let (taste, rule) = (name(&Taste::ALL, row.taste), name(&Rule::ALL, row.rule));
        let number = |value: Option<f64>| value.map_or("n/a".into(), |value| format!("{value:.2}"));
        let (straggler, jain) = (number(balance.straggler()), number(balance.jain_index()));
        let no_room =
            balance.overflow_share().map_or("n/a".into(), |share| format!("{:.1} %", 100.0 * share));
        writeln!(out, "{taste:<8} {rule:<20} {straggler:>9} {jain:>6} {no_room:>8}")?;
    }
    writeln!(out, "\nA straggler of 1.5 means that eight devices do the work of {:.1}.", 8.0 / 1.5)?;
    Ok(())
}

fn name<T: Copy + PartialEq>(all: &[(T, &'static str)], wanted: T) -> &'static str {
    all.iter().find(|(one, _)| *one == wanted).map_or("", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grouped_routing_keeps_every_device_equally_busy() {
        for row in synthetic(&TASK, &SPREAD).unwrap() {
            let straggler = row.balance.and_then(|balance| balance.straggler());
            assert_eq!(row.rule == Rule::Grouped, straggler == Some(1.0), "{:?}: {straggler:?}", row.rule);
        }
        lesson(&mut Vec::new()).unwrap();
    }
}
