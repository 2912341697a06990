//! Runs of the tokens of a sequence, each with the state that the tokens before it leave.

use std::ops::Range;

use moebius_backend::Backend;

use super::{Output, ROWS};
use crate::Failure;
use crate::checks::ops::{delta_case, run_delta, run_scan, scan_case};
use crate::fixtures::{Samples, tensor, values_of};
use crate::oracle::{DeltaCase, ScanCase};

pub(super) fn recurrences(backend: &dyn Backend, runs: &[Range<usize>]) -> Result<Vec<Output>, Failure> {
    let mut outputs = Vec::new();
    let mut samples = Samples::new(56);
    for (channels, kernel) in [(33, 4), (100, 3), (16, 1)] {
        outputs.push(convolution(backend, runs, &mut samples, (channels, kernel))?);
    }
    for sizes in [[2, 8, 4, 17], [1, 33, 3, 64], [2, 16, 2, 100]] {
        let case = delta_case(&mut samples, sizes, ROWS);
        outputs.push(Output::of(format!("delta rule {sizes:?}"), sizes[2] * sizes[3], runs, |rows| {
            let (_, state) = run_delta(backend, &part_of_delta(&case, 0..rows.start, case.state.clone()))?;
            Ok(run_delta(backend, &part_of_delta(&case, rows.clone(), state))?.0)
        })?);
    }
    for sizes in [[4, 5, 2, 17, 1], [33, 1, 1, 16, 16], [4, 64, 4, 128, 1]] {
        let case = scan_case(&mut samples, sizes, ROWS);
        outputs.push(Output::of(format!("scan {sizes:?}"), sizes[0] * sizes[1], runs, |rows| {
            let (_, state) = run_scan(backend, &part_of_scan(&case, 0..rows.start, case.state.clone()))?;
            Ok(run_scan(backend, &part_of_scan(&case, rows.clone(), state))?.0)
        })?);
    }
    Ok(outputs)
}

fn convolution(
    backend: &dyn Backend,
    runs: &[Range<usize>],
    samples: &mut Samples,
    (channels, kernel): (usize, usize),
) -> Result<Output, Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let x = samples.vector(ROWS * channels);
    let weight = tensor(&samples.vector(kernel * channels), &[kernel, channels], device)?;
    let bias = tensor(&samples.vector(channels), &[channels], device)?;
    let state = tensor(&samples.vector((kernel - 1) * channels), &[kernel - 1, channels], device)?;
    let part = |rows: Range<usize>| {
        tensor(&x[rows.start * channels..rows.end * channels], &[rows.len(), channels], device)
    };
    Output::of(format!("convolution of {channels} over {kernel}"), channels, runs, |rows| {
        let (_, state) = ops.causal_conv(&part(0..rows.start)?, &weight, Some(&bias), &state)?;
        let (out, _) = ops.causal_conv(&part(rows.clone())?, &weight, Some(&bias), &state)?;
        let softplus = ops.softplus(&out)?;
        values_of(&(out + softplus)?, &[rows.len(), channels])
    })
}

fn part_of_delta(case: &DeltaCase, rows: Range<usize>, state: Vec<f32>) -> DeltaCase {
    let part = |values: &[f32]| of_rows(values, &rows);
    DeltaCase {
        sizes: case.sizes,
        query: part(&case.query),
        key: part(&case.key),
        value: part(&case.value),
        log_decay: part(&case.log_decay),
        strength: part(&case.strength),
        state,
    }
}

fn part_of_scan(case: &ScanCase, rows: Range<usize>, state: Vec<f32>) -> ScanCase {
    let part = |values: &[f32]| of_rows(values, &rows);
    ScanCase {
        x: part(&case.x),
        step: part(&case.step),
        input: part(&case.input),
        output: part(&case.output),
        state,
        ..case.clone()
    }
}

/// Some of [`ROWS`] rows.
fn of_rows(values: &[f32], rows: &Range<usize>) -> Vec<f32> {
    let width = values.len() / ROWS;
    values[rows.start * width..rows.end * width].to_vec()
}
