//! What a batch reads: the union of its experts, and what that does to speed on a machine that is not here.
//!
//! ```text
//! experts of a layer that B tokens touch by chance = N (1 - (1 - k/N)^B)
//! ```
//!
//! Shapes: gpt-oss-20b, 4 of 32 experts in 24 layers, in llama.cpp's MXFP4 file; nothing is downloaded.
//! You learn: why a second sequence is nearly free in a dense model and is not in a sparse one.
//! Run: `cargo run --release -p moebius-examples --example plan`

use std::error::Error;
use std::io::{Write, stdout};

use moebius::plan::{CacheFormat, Demand, Estimator, Load, Machine};

const BATCHES: [u64; 5] = [1, 2, 8, 32, 128];

fn main() -> Result<(), Box<dyn Error>> {
    lesson(&mut stdout().lock())
}

fn lesson(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let demand = Demand::find("gpt-oss-20b", None, Some("mxfp4_moe".parse()?))?;
    let (estimator, machine) = (Estimator::new()?, Machine::find("rtx-5090")?);
    writeln!(
        out,
        "gpt-oss-20b on {}\n\nbatch  experts a layer  weights a step  tokens/s in all",
        machine.name()
    )?;
    for batch in BATCHES {
        let load = Load::new(batch, 512, CacheFormat::F16);
        let speed = estimator.estimate(&demand, &machine, &load).decode.map(|band| band.expected);
        let distinct = demand.distinct_experts(batch as f64).unwrap_or(0.0);
        let gb = demand.step_weight_bytes(batch as f64) / 1e9;
        let speed = speed.map_or("n/a".into(), |speed| format!("{speed:.0}"));
        writeln!(out, "{batch:>5} {distinct:>8.1} of 32 {gb:>10.2} GB {speed:>16}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_union_grows_to_all_experts_and_never_beyond() {
        let demand = Demand::find("gpt-oss-20b", None, Some("mxfp4_moe".parse().unwrap())).unwrap();
        let distinct = BATCHES.map(|batch| demand.distinct_experts(batch as f64).unwrap());
        assert!(
            distinct.is_sorted() && (distinct[0] - 4.0).abs() < 1e-9 && distinct[4] <= 32.0,
            "{distinct:?}"
        );
        lesson(&mut Vec::new()).unwrap();
    }
}
