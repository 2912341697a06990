//! Recurrences against f64: shared heads, awkward widths, states that come from somewhere.

use candle_core::Tensor;
use moebius_backend::{Backend, DeltaRule, SelectiveScan};

use crate::failure::{ensure, ensure_refused};
use crate::fixtures::{Samples, strided, tensor, values_of};
use crate::oracle::{self, ConvCase, DeltaCase, ScanCase};
use crate::{Failure, OPS_TOLERANCE};

const TOKENS: [usize; 4] = [0, 1, 2, 7];

/// Key heads, their width, value heads, theirs.
const DELTA_SIZES: [[usize; 4]; 6] =
    [[1, 1, 1, 1], [2, 8, 4, 16], [3, 7, 3, 17], [1, 16, 6, 33], [2, 33, 2, 64], [2, 64, 4, 100]];

/// Heads, their width, groups, entries of a state, rates of a head.
const SCAN_SIZES: [[usize; 5]; 7] = [
    [1, 1, 1, 1, 1],
    [4, 8, 2, 16, 1],
    [6, 5, 3, 17, 1],
    [33, 1, 1, 16, 16],
    [7, 1, 1, 5, 5],
    [8, 64, 4, 128, 1],
    [2, 3, 1, 33, 33],
];

pub fn softplus_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let device = &backend.info().device;
    let mut samples = Samples::new(61);
    for (width, magnitude) in
        super::WIDTHS.into_iter().flat_map(|width| [1.0, 16.0, 80.0].map(|m| (width, m)))
    {
        let x: Vec<f32> = samples.vector(3 * width).iter().map(|x| x * magnitude).collect();
        let out = backend.ops().softplus(&tensor(&x, &[3, width], device)?)?;
        oracle::softplus(&x)
            .check(&values_of(&out, &[3, width])?, OPS_TOLERANCE)
            .map_err(|f| f.at(format!("{width} values up to {magnitude}")))?;
    }
    Ok(())
}

pub fn causal_conv_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let mut samples = Samples::new(62);
    for (channels, tokens) in super::WIDTHS.into_iter().flat_map(|width| TOKENS.map(|tokens| (width, tokens)))
    {
        for (kernel, bias) in [(1, true), (2, false), (4, true), (9, false)] {
            let case = ConvCase {
                channels,
                x: samples.vector(tokens * channels),
                weight: samples.vector(kernel * channels),
                bias: bias.then(|| samples.vector(channels)),
                state: samples.vector((kernel - 1) * channels),
            };
            let at = || format!("{tokens} tokens, {channels} channels, kernel of {kernel}, bias {bias}");
            convolves(backend, &case, Ok).map_err(|f| f.at(at()))?;
            convolves(backend, &case, |x| strided(&x)).map_err(|f| f.at(at()).at("strided"))?;
        }
    }
    Ok(())
}

/// Checks the rows, and that the state is the last inputs.
fn convolves(
    backend: &dyn Backend,
    case: &ConvCase,
    laid_out: impl Fn(Tensor) -> Result<Tensor, Failure>,
) -> Result<(), Failure> {
    let (device, channels) = (&backend.info().device, case.channels);
    let rows = |values: &[f32]| tensor(values, &[values.len() / channels, channels], device);
    let bias = case.bias.as_ref().map(|bias| tensor(bias, &[channels], device)).transpose()?;
    let x = if case.x.is_empty() { rows(&case.x)? } else { laid_out(rows(&case.x)?)? };
    let (weight, state) = (rows(&case.weight)?, rows(&case.state)?);
    let (out, next) = backend.ops().causal_conv(&x, &weight, bias.as_ref(), &state)?;
    oracle::causal_conv(case).check(&values_of(&out, x.dims())?, OPS_TOLERANCE)?;
    let seen = [&case.state[..], &case.x].concat();
    let expected = &seen[seen.len() - case.state.len()..];
    let next = values_of(&next, state.dims())?;
    ensure(next == expected, || format!("expected the last inputs {expected:?} as state, got {next:?}"))
}

pub fn delta_rule_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let mut samples = Samples::new(63);
    for (sizes, tokens) in DELTA_SIZES.into_iter().flat_map(|sizes| TOKENS.map(|tokens| (sizes, tokens))) {
        let case = delta_case(&mut samples, sizes, tokens);
        let (out, state) = run_delta(backend, &case)?;
        let (expected, expected_state) = oracle::delta_rule(&case);
        let checked = expected.check(&out, OPS_TOLERANCE);
        let checked =
            checked.and_then(|()| expected_state.check(&state, OPS_TOLERANCE).map_err(|f| f.at("state")));
        checked.map_err(|f| f.at(format!("{tokens} tokens, {sizes:?}")))?;
    }
    Ok(())
}

pub fn selective_scan_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let mut samples = Samples::new(64);
    for (sizes, tokens) in SCAN_SIZES.into_iter().flat_map(|sizes| TOKENS.map(|tokens| (sizes, tokens))) {
        let case = scan_case(&mut samples, sizes, tokens);
        let (out, state) = run_scan(backend, &case)?;
        let (expected, expected_state) = oracle::selective_scan(&case);
        let checked = expected.check(&out, OPS_TOLERANCE);
        let checked =
            checked.and_then(|()| expected_state.check(&state, OPS_TOLERANCE).map_err(|f| f.at("state")));
        checked.map_err(|f| f.at(format!("{tokens} tokens, {sizes:?}")))?;
    }
    Ok(())
}

pub fn recurrences_that_do_not_fit_are_errors(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let ones = |shape: &[usize]| tensor(&vec![1.0; shape.iter().product()], shape, device);
    let (x, weight, state) = (ones(&[2, 6])?, ones(&[3, 6])?, ones(&[2, 6])?);
    for wrong in [[2, 5], [3, 6], [6, 2]] {
        let refused = ops.causal_conv(&x, &weight, None, &ones(&wrong)?);
        ensure_refused(&format!("a convolution with a state {wrong:?} in place of [2, 6]"), refused)?;
    }
    ensure_refused(
        "a convolution with another bias",
        ops.causal_conv(&x, &weight, Some(&ones(&[5])?), &state),
    )?;

    let mut samples = Samples::new(65);
    let mut case = delta_case(&mut samples, [2, 8, 4, 16], 2);
    case.sizes = [2, 8, 4, 8];
    ensure_refused("a delta rule with values of another width", run_delta(backend, &case))?;
    let three = DeltaCase { sizes: [2, 8, 3, 16], ..delta_case(&mut samples, [1, 8, 3, 16], 2) };
    ensure_refused("a delta rule with two key heads for three", run_delta(backend, &three))?;

    let mut case = scan_case(&mut samples, [4, 8, 2, 16, 1], 2);
    case.state.truncate(4 * 8 * 8);
    ensure_refused("a scan with half a state", run_scan(backend, &case))?;
    let case = ScanCase { sizes: [4, 8, 3, 16, 1], ..scan_case(&mut samples, [4, 8, 2, 16, 1], 3) };
    ensure_refused("a scan with three groups for four heads", run_scan(backend, &case))
}

/// Keys and queries of unit length, decays from `exp(-1)` to 1.
pub(crate) fn delta_case(samples: &mut Samples, sizes: [usize; 4], tokens: usize) -> DeltaCase {
    let [key_heads, key_dim, value_heads, value_dim] = sizes;
    let mut unit = || {
        let mut rows = samples.vector(tokens * key_heads * key_dim);
        for row in rows.chunks_exact_mut(key_dim) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(0.01);
            row.iter_mut().for_each(|x| *x /= length);
        }
        rows
    };
    let (query, key) = (unit(), unit());
    let mut shares =
        || samples.vector(tokens * value_heads).iter().map(|x| (x + 1.0) / 2.0).collect::<Vec<_>>();
    let (decays, strength) = (shares(), shares());
    DeltaCase {
        sizes,
        query,
        key,
        log_decay: decays.iter().map(|x| -x).collect(),
        strength,
        value: samples.vector(tokens * value_heads * value_dim),
        state: samples.vector(value_heads * key_dim * value_dim),
    }
}

/// Steps from 0 to 1, rates from -2 to 0.
pub(crate) fn scan_case(samples: &mut Samples, sizes: [usize; 5], tokens: usize) -> ScanCase {
    let [heads, head_dim, groups, state_dim, rates] = sizes;
    ScanCase {
        sizes,
        x: samples.vector(tokens * heads * head_dim),
        step: samples.vector(tokens * heads).iter().map(|x| (x + 1.0) / 2.0).collect(),
        rate: samples.vector(heads * rates).iter().map(|x| x - 1.0).collect(),
        input: samples.vector(tokens * groups * state_dim),
        output: samples.vector(tokens * groups * state_dim),
        skip: samples.vector(heads),
        state: samples.vector(heads * head_dim * state_dim),
    }
}

/// The outputs and the new state.
pub(crate) fn run_delta(backend: &dyn Backend, case: &DeltaCase) -> Result<(Vec<f32>, Vec<f32>), Failure> {
    let device = &backend.info().device;
    let [key_heads, key_dim, value_heads, value_dim] = case.sizes;
    let rows = |values: &[f32], shape: &[usize]| {
        let tokens = values.len() / shape.iter().product::<usize>();
        tensor(values, &[&[tokens], shape].concat(), device)
    };
    let inputs = DeltaRule {
        query: &rows(&case.query, &[key_heads, key_dim])?,
        key: &rows(&case.key, &[key_heads, key_dim])?,
        value: &rows(&case.value, &[value_heads, value_dim])?,
        log_decay: &rows(&case.log_decay, &[value_heads])?,
        strength: &rows(&case.strength, &[value_heads])?,
    };
    let shape = [case.state.len() / (key_dim * value_dim), key_dim, value_dim];
    let (out, state) = backend.ops().delta_rule(&inputs, &tensor(&case.state, &shape, device)?)?;
    let tokens = case.log_decay.len() / value_heads;
    Ok((values_of(&out, &[tokens, value_heads * value_dim])?, values_of(&state, &shape)?))
}

/// The outputs and the new state.
pub(crate) fn run_scan(backend: &dyn Backend, case: &ScanCase) -> Result<(Vec<f32>, Vec<f32>), Failure> {
    let device = &backend.info().device;
    let [heads, head_dim, groups, state_dim, rates] = case.sizes;
    let tokens = case.step.len() / heads;
    let inputs = SelectiveScan {
        x: &tensor(&case.x, &[tokens, heads, head_dim], device)?,
        step: &tensor(&case.step, &[tokens, heads], device)?,
        rate: &tensor(&case.rate, &[heads, rates], device)?,
        input: &tensor(&case.input, &[tokens, groups, state_dim], device)?,
        output: &tensor(&case.output, &[tokens, groups, state_dim], device)?,
        skip: &tensor(&case.skip, &[heads], device)?,
    };
    let shape = [heads, head_dim, case.state.len() / (heads * head_dim)];
    let (out, state) = backend.ops().selective_scan(&inputs, &tensor(&case.state, &shape, device)?)?;
    Ok((values_of(&out, &[tokens, heads * head_dim])?, values_of(&state, &shape)?))
}
