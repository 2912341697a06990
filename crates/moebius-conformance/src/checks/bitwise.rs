//! The same bits whatever the batch, the chunks, the neighbours and the instance.
//!
//! A battery computes runs of the rows of a fixed problem: all of them, runs of several sizes, and again. Every
//! row must be the same each time, bit for bit.

mod recurrence;
mod routed;

pub use routed::experts_that_a_bank_chooses_are_those_of_the_router;

use std::ops::Range;

use moebius_backend::{Activation, Backend, ExpertSpec, Linear, Pairing, WeightFormat};
use moebius_metering::Meter;
use moebius_router::{Routing, WeightTarget};

use super::experts::Loaded;
use super::linear::{for_each_format, load, load_heads, matrices};
use super::ops::{ACTIVATIONS, angles, attend, rope_table, sequence};
use crate::Failure;
use crate::failure::ensure;
use crate::fixtures::{Matrix, Samples, expert_spec, fitted, tensor, values_of};
use crate::oracle::{AttentionCase, Sequence};

/// Rows of each problem: more than any tile, and no multiple of one.
const ROWS: usize = 33;

/// Sizes of the runs into which the rows are cut.
const RUNS: [usize; 4] = [1, 2, 8, 20];

/// Rows of `width` values, for each run that was asked for.
struct Output {
    label: String,
    width: usize,
    runs: Vec<Vec<f32>>,
}

type Battery = fn(&dyn Backend, &[Range<usize>]) -> Result<Vec<Output>, Failure>;

const BATTERIES: [Battery; 6] =
    [linear, heads, experts, small_operations, attention, recurrence::recurrences];

pub fn linear_rows_do_not_depend_on_their_batch(backend: &dyn Backend) -> Result<(), Failure> {
    runs_equal_the_whole(backend, linear)
}

pub fn head_rows_do_not_depend_on_their_batch(backend: &dyn Backend) -> Result<(), Failure> {
    runs_equal_the_whole(backend, heads)
}

pub fn projections_together_have_the_bits_of_each_alone(backend: &dyn Backend) -> Result<(), Failure> {
    const INPUTS: usize = 512; // whole blocks of every format
    let mut samples = Samples::new(55);
    let mut linears = Vec::new();
    for_each_format(|format| {
        for outputs in [65, 16] {
            let matrix = Matrix::sampled(&mut samples, "projection", format, (outputs, INPUTS))?;
            let bias = (outputs == 16).then(|| samples.vector(outputs));
            linears.extend(load(backend, &matrix, bias)?);
        }
        Ok(())
    })?;
    let linears: Vec<&dyn Linear> = linears.iter().map(|linear| linear.as_ref()).collect();
    for tokens in [0, 1, 9] {
        let x = samples.vector(tokens * INPUTS);
        let x = tensor(&x, &[tokens, INPUTS], &backend.info().device)?;
        let together = backend.ops().project(&linears, &x)?;
        ensure(together.len() == linears.len(), || format!("{} outputs", together.len()))?;
        for (linear, together) in linears.iter().zip(&together) {
            let shape = [tokens, linear.spec().outputs];
            let alone = values_of(&linear.forward(&x)?, &shape)?;
            same(&alone, &values_of(together, &shape)?, || {
                format!("{tokens} tokens in {}, alone and with others", linear.spec().format)
            })?;
        }
    }
    Ok(())
}

pub fn expert_rows_do_not_depend_on_their_batch(backend: &dyn Backend) -> Result<(), Failure> {
    runs_equal_the_whole(backend, experts)
}

pub fn small_operations_do_not_depend_on_their_batch(backend: &dyn Backend) -> Result<(), Failure> {
    runs_equal_the_whole(backend, small_operations)
}

pub fn attention_does_not_depend_on_how_a_prompt_was_cut(backend: &dyn Backend) -> Result<(), Failure> {
    runs_equal_the_whole(backend, attention)
}

pub fn attention_does_not_depend_on_other_sequences(backend: &dyn Backend) -> Result<(), Failure> {
    for case in attention_cases() {
        let mut samples = Samples::new(54);
        let sequences =
            [(0, 9, 0), (17, 1, 3), (5, 20, 40)].map(|shape| sequence(&mut samples, &case, shape));
        let together = attend(backend, &case, &sequences)?;
        let mut alone = Vec::new();
        for sequence in sequences {
            alone.extend(attend(backend, &case, &[sequence])?);
        }
        same(&alone, &together, || format!("{case:?}, three sequences alone and together"))?;
    }
    Ok(())
}

pub fn recurrences_do_not_depend_on_how_a_sequence_was_cut(backend: &dyn Backend) -> Result<(), Failure> {
    runs_equal_the_whole(backend, recurrence::recurrences)
}

pub fn the_same_call_gives_the_same_bits(backend: &dyn Backend) -> Result<(), Failure> {
    instances_agree(backend, backend)
}

/// Compares two instances on every battery.
pub(crate) fn instances_agree(a: &dyn Backend, b: &dyn Backend) -> Result<(), Failure> {
    for battery in BATTERIES {
        let all = std::slice::from_ref(&(0..ROWS));
        let (first, second) = (battery(a, all)?, battery(b, all)?);
        ensure(first.len() == second.len(), || "one instance supports less than the other".into())?;
        for (first, second) in first.iter().zip(&second) {
            same(&first.runs[0], &second.runs[0], || first.label.clone())?;
        }
    }
    Ok(())
}

fn runs_equal_the_whole(backend: &dyn Backend, battery: Battery) -> Result<(), Failure> {
    let cut = |size: usize| (0..ROWS).step_by(size).map(move |first| first..(first + size).min(ROWS));
    let runs: Vec<Range<usize>> = std::iter::once(0..ROWS).chain(RUNS.into_iter().flat_map(cut)).collect();
    for output in battery(backend, &runs)? {
        for (rows, got) in runs.iter().zip(&output.runs) {
            let expected = &output.runs[0][rows.start * output.width..rows.end * output.width];
            same(expected, got, || format!("{}, rows {rows:?} of {ROWS}", output.label))?;
        }
    }
    Ok(())
}

fn same(expected: &[f32], got: &[f32], label: impl Fn() -> String) -> Result<(), Failure> {
    ensure(expected.len() == got.len(), || format!("{}: another number of elements", label()))?;
    for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
        ensure(expected.to_bits() == got.to_bits(), || {
            format!("{}, element {index}: {expected:?} and {got:?} are not the same bits", label())
        })?;
    }
    Ok(())
}

fn linear(backend: &dyn Backend, runs: &[Range<usize>]) -> Result<Vec<Output>, Failure> {
    let mut outputs = Vec::new();
    for_each_format(|format| {
        for (width, inputs) in [(65, 300), (16, 17), (3, 33)] {
            let inputs = fitted(inputs, format);
            let mut samples = Samples::new(51);
            let matrix = Matrix::sampled(&mut samples, "projection", format, (width, inputs))?;
            let bias = samples.vector(width);
            let x = samples.vector(ROWS * inputs);
            let Some(linear) = load(backend, &matrix, Some(bias))? else { continue };
            let label = format!("{width} x {inputs} in {format}");
            outputs.push(Output::of(label, width, runs, |rows| {
                let x = &x[rows.start * inputs..rows.end * inputs];
                let out = linear.forward(&tensor(x, &[rows.len(), inputs], &backend.info().device)?)?;
                values_of(&out, &[rows.len(), width])
            })?);
        }
        Ok(())
    })?;
    Ok(outputs)
}

fn heads(backend: &dyn Backend, runs: &[Range<usize>]) -> Result<Vec<Output>, Failure> {
    let mut outputs = Vec::new();
    for_each_format(|format| {
        for (heads, rows, inputs) in [(3, 65, 100), (2, 32, 17)] {
            let inputs = fitted(inputs, format);
            let mut samples = Samples::new(56);
            let matrices = matrices(&mut samples, format, heads, (rows, inputs))?;
            let Some(loaded) = load_heads(backend, &matrices)? else { continue };
            let x = samples.vector(ROWS * heads * inputs);
            let label = format!("{heads} heads of {rows} x {inputs} in {format}");
            outputs.push(Output::of(label, heads * rows, runs, |run| {
                let x = &x[run.start * heads * inputs..run.end * heads * inputs];
                let x = tensor(x, &[run.len(), heads, inputs], &backend.info().device)?;
                values_of(&loaded.forward(&x)?, &[run.len(), heads, rows])
            })?);
        }
        Ok(())
    })?;
    Ok(outputs)
}

fn experts(backend: &dyn Backend, runs: &[Range<usize>]) -> Result<Vec<Output>, Failure> {
    let mut outputs = Vec::new();
    for_each_format(|format| {
        let mut seen = Vec::new();
        let clamped = Activation::ClampedSwiglu { limit: 0.5 };
        for (sizes, choice, target, (activation, gated, biases)) in [
            ((100, 65), (6, 3), WeightTarget::Output, (Activation::Silu, true, false)),
            ((33, 17), (4, 1), WeightTarget::Input, (Activation::Silu, true, false)),
            ((16, 31), (1, 1), WeightTarget::Output, (Activation::Silu, true, false)),
            ((17, 16), (5, 5), WeightTarget::Output, (Activation::Silu, true, false)),
            ((33, 40), (6, 3), WeightTarget::Output, (Activation::ReluSquared, false, false)),
            ((40, 33), (6, 3), WeightTarget::Output, (clamped, true, true)),
        ] {
            // What these do beside their products is the same in every format.
            if (!gated || biases) && ![WeightFormat::F32, WeightFormat::Q8_0].contains(&format) {
                continue;
            }
            let mut samples = Samples::new(52);
            let spec = ExpertSpec { activation, gated, biases, ..expert_spec(format, choice.0, sizes) };
            let sizes = (spec.hidden, spec.intermediate);
            let kind = (sizes, gated, biases);
            if seen.contains(&kind) {
                continue;
            }
            seen.push(kind);
            let Some(loaded) = Loaded::new(backend, &mut samples, spec)? else { continue };
            let width = loaded.bank.spec.hidden;
            let x = samples.vector(ROWS * width);
            let routing = samples.routing(ROWS, choice, target);
            let label = format!("{} of {} experts {sizes:?} in {format}, {activation}", choice.1, choice.0);
            outputs.push(Output::of(label, width, runs, |rows| {
                let x = loaded.tensor(&x[rows.start * width..rows.end * width])?;
                let out = loaded.experts.forward(&x, &part_of(&routing, rows.clone()), &Meter::new())?;
                values_of(&out, &[rows.len(), width])
            })?);
        }
        Ok(())
    })?;
    Ok(outputs)
}

/// The routing of some of the tokens.
fn part_of(routing: &Routing, rows: Range<usize>) -> Routing {
    let pairs = rows.start * routing.top_k()..rows.end * routing.top_k();
    let (ids, weights) = (&routing.all_experts()[pairs.clone()], &routing.all_weights()[pairs]);
    Routing::from_parts(
        routing.n_experts(),
        routing.top_k(),
        ids.to_vec(),
        weights.to_vec(),
        routing.applies_to(),
    )
    .expect("a part of a routing is one")
}

fn small_operations(backend: &dyn Backend, runs: &[Range<usize>]) -> Result<Vec<Output>, Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let mut outputs = Vec::new();
    for width in [6, 34, 100] {
        let mut samples = Samples::new(53);
        let (x, y) = (samples.vector(ROWS * width), samples.vector(ROWS * width));
        let part = |x: &[f32], rows: &Range<usize>| {
            tensor(&x[rows.start * width..rows.end * width], &[rows.len(), width], device)
        };
        let weight = tensor(&samples.vector(width), &[width], device)?;
        outputs.push(Output::of(format!("rms_norm of {width}"), width, runs, |rows| {
            values_of(&ops.rms_norm(&part(&x, rows)?, &weight, 1e-5)?, &[rows.len(), width])
        })?);
        outputs.push(Output::of(format!("layer_norm of {width}"), width, runs, |rows| {
            let out = ops.layer_norm(&part(&x, rows)?, &weight, Some(&weight), 1e-5)?;
            values_of(&out, &[rows.len(), width])
        })?);
        for activation in ACTIVATIONS {
            if !activation.needs_gate() {
                outputs.push(Output::of(format!("{activation} alone of {width}"), width, runs, |rows| {
                    values_of(&ops.activate(activation, &part(&x, rows)?)?, &[rows.len(), width])
                })?);
            }
            outputs.push(Output::of(format!("{activation} of {width}"), width, runs, |rows| {
                let out = ops.glu(activation, &part(&x, rows)?, &part(&y, rows)?)?;
                values_of(&out, &[rows.len(), width])
            })?);
        }
        outputs.push(Output::of(format!("sums of {width}"), width, runs, |rows| {
            values_of(&ops.add(&part(&x, rows)?, &part(&y, rows)?, 0.22)?, &[rows.len(), width])
        })?);
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            outputs.push(Output::of(format!("rope of {width}, {pairing:?}"), width, runs, |rows| {
                let (pairs, heads) = (width / 4, [rows.len(), 2, width / 2]);
                let (cos, sin) = angles(rows.len(), pairs, rows.start);
                let table = rope_table(backend, (&cos, &sin), [rows.len(), pairs], pairing)?;
                values_of(&ops.rope(&part(&x, rows)?.reshape(&heads)?, &table)?, &heads)
            })?);
        }
    }
    Ok(outputs)
}

/// Rows of a prompt whose later keys are not there yet.
fn attention(backend: &dyn Backend, runs: &[Range<usize>]) -> Result<Vec<Output>, Failure> {
    let output = |case: AttentionCase| {
        let whole = sequence(&mut Samples::new(55), &case, (0, ROWS, 4));
        let (query, width) = (case.heads * case.head_dim, case.heads * case.value_dim);
        Output::of(format!("{case:?}"), width, runs, |rows| {
            let part = Sequence {
                first_position: rows.start,
                queries: whole.queries[rows.start * query..rows.end * query].to_vec(),
                keys: until(&whole.keys, rows.end, (whole.capacity, case.head_dim)),
                values: until(&whole.values, rows.end, (whole.capacity, case.value_dim)),
                capacity: whole.capacity,
            };
            attend(backend, &case, &[part])
        })
    };
    attention_cases().into_iter().map(output).collect()
}

impl Output {
    /// Computes every run.
    fn of(
        label: String,
        width: usize,
        runs: &[Range<usize>],
        compute: impl FnMut(&Range<usize>) -> Result<Vec<f32>, Failure>,
    ) -> Result<Output, Failure> {
        let runs = runs.iter().map(compute).collect::<Result<_, _>>()?;
        Ok(Output { label, width, runs })
    }
}

/// A cache `[kv_heads, capacity, width]` that is filled up to a position.
fn until(cache: &[f32], filled: usize, (capacity, width): (usize, usize)) -> Vec<f32> {
    let mut cache = cache.to_vec();
    for head in cache.chunks_exact_mut(capacity * width) {
        head[filled * width..].fill(f32::NAN);
    }
    cache
}

fn attention_cases() -> [AttentionCase; 6] {
    let case = AttentionCase {
        heads: 4,
        kv_heads: 2,
        head_dim: 33,
        value_dim: 17,
        scale: 0.2,
        window: None,
        chunk: None,
        sinks: None,
        shared: false,
    };
    [
        AttentionCase { window: Some(3), ..case.clone() },
        AttentionCase { head_dim: 64, value_dim: 100, ..case.clone() },
        AttentionCase { chunk: Some(5), ..case.clone() },
        AttentionCase { sinks: Some(vec![0.5, -3.0, 2.0, 0.0]), ..case.clone() },
        AttentionCase { shared: true, ..case.clone() },
        case,
    ]
}
