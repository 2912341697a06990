//! Attention against f64: shared heads, windows, caches with room to spare, several sequences in a call.
//!
//! Invariants: what lies in a cache beyond the last row's position is NaN, so that reading it shows.

use std::ops::Range;

use candle_core::Tensor;
use moebius_backend::{AttentionSpan, AttentionSpec, Backend};

use crate::failure::ensure_refused;
use crate::fixtures::{Samples, strided, tensor, values_of};
use crate::oracle::{AttentionCase, Expected, Sequence, attention};
use crate::{Failure, OPS_TOLERANCE};

/// Heads, key heads, width of a head, width of a value.
const HEADS: [(usize, usize, usize, usize); 6] =
    [(1, 1, 1, 1), (4, 4, 16, 16), (4, 1, 15, 17), (6, 2, 33, 8), (8, 4, 64, 64), (2, 1, 8, 100)];

pub fn attention_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let mut samples = Samples::new(41);
    for heads in HEADS {
        for window in [None, Some(1), Some(3), Some(1000)] {
            let case = case(heads, window);
            for (first_position, rows, spare) in
                [(0, 1, 0), (0, 2, 3), (0, 33, 1), (5, 1, 0), (31, 7, 9), (100, 1, 28)]
            {
                let sequence = sequence(&mut samples, &case, (first_position, rows, spare));
                agrees(backend, &case, &[sequence])?;
            }
        }
    }
    Ok(())
}

pub fn attention_sees_no_more_than_its_window(backend: &dyn Backend) -> Result<(), Failure> {
    let case = case((4, 2, 16, 16), Some(4));
    let mut sequence = sequence(&mut Samples::new(42), &case, (10, 3, 2));
    // The first row sits at 10 and sees 7 to 10.
    for head in 0..case.kv_heads {
        let old = head * sequence.capacity..head * sequence.capacity + 7;
        sequence.keys[old.start * case.head_dim..old.end * case.head_dim].fill(1e15);
        sequence.values[old.start * case.value_dim..old.end * case.value_dim].fill(1e15);
    }
    agrees(backend, &case, &[sequence])
}

pub fn attention_sees_no_earlier_chunk(backend: &dyn Backend) -> Result<(), Failure> {
    let mut samples = Samples::new(45);
    for (chunk, window) in [(1, None), (4, None), (7, Some(3)), (16, Some(100)), (1000, None)] {
        let case = AttentionCase { chunk: Some(chunk), ..case((4, 2, 16, 24), window) };
        for shape in [(0, 33, 2), (12, 9, 0), (63, 1, 1), (64, 2, 0)] {
            agrees(backend, &case, &[sequence(&mut samples, &case, shape)])?;
        }
    }
    let case = AttentionCase { chunk: Some(8), ..case((4, 2, 16, 16), None) };
    let mut sequence = sequence(&mut samples, &case, (9, 3, 2));
    // The first row sits at 9 and sees 8 and 9.
    for head in 0..case.kv_heads {
        let old = head * sequence.capacity..head * sequence.capacity + 8;
        sequence.keys[old.start * case.head_dim..old.end * case.head_dim].fill(1e15);
        sequence.values[old.start * case.value_dim..old.end * case.value_dim].fill(1e15);
    }
    agrees(backend, &case, &[sequence])
}

pub fn sinks_take_their_share_of_attention(backend: &dyn Backend) -> Result<(), Failure> {
    let mut samples = Samples::new(46);
    for (heads, window) in HEADS.into_iter().flat_map(|heads| [None, Some(3)].map(|w| (heads, w))) {
        for magnitude in [1.0, 20.0] {
            let sinks = samples.vector(heads.0).iter().map(|sink| magnitude * sink).collect();
            let case = AttentionCase { sinks: Some(sinks), ..case(heads, window) };
            let shapes = [(0, 33, 1), (31, 7, 9), (100, 1, 0)];
            let sequences = shapes.map(|shape| sequence(&mut samples, &case, shape));
            agrees(backend, &case, &sequences)?;
        }
    }
    Ok(())
}

pub fn values_may_be_columns_of_the_keys(backend: &dyn Backend) -> Result<(), Failure> {
    let mut samples = Samples::new(47);
    for heads in [(1, 1, 2, 1), (4, 2, 20, 17), (16, 1, 80, 64), (24, 1, 576, 512), (3, 3, 16, 16)] {
        let case = AttentionCase { shared: true, ..case(heads, None) };
        for shape in [(0, 1, 0), (0, 9, 3), (40, 2, 5)] {
            agrees(backend, &case, &[sequence(&mut samples, &case, shape)])?;
        }
    }
    Ok(())
}

pub fn attention_keeps_sequences_apart(backend: &dyn Backend) -> Result<(), Failure> {
    let mut samples = Samples::new(43);
    for window in [None, Some(3)] {
        let case = case((6, 2, 16, 24), window);
        let shapes = [(0, 7, 2), (20, 1, 0), (0, 1, 5), (3, 33, 1), (64, 1, 64)];
        let sequences = shapes.map(|shape| sequence(&mut samples, &case, shape));
        agrees(backend, &case, &sequences)?;
    }
    Ok(())
}

pub fn spans_that_do_not_fit_are_errors(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let ones = |shape: &[usize]| tensor(&vec![1.0; shape.iter().product()], shape, device);
    let spec = AttentionSpec { scale: 0.25, window: None, chunk: None, sinks: None };
    let refused = |what: &str, heads: usize, rows: Range<usize>, first_position: usize| {
        let (keys, values) = (ones(&[2, 8, 16])?, ones(&[2, 8, 16])?);
        let span = AttentionSpan { rows, first_position, keys: &keys, values: &values };
        ensure_refused(what, ops.attention(&ones(&[4, heads, 16])?, &[span], &spec))
    };
    refused("five heads over two key heads", 5, 0..4, 0)?;
    refused("rows beyond the capacity of the cache", 4, 0..4, 5)?;
    refused("rows beyond the batch", 4, 2..6, 0)?;
    refused("rows that start beyond the batch", 4, 5..6, 0)?;

    let (keys, values) = (ones(&[2, 8, 12])?, ones(&[2, 8, 16])?);
    let span = AttentionSpan { rows: 0..4, first_position: 0, keys: &keys, values: &values };
    ensure_refused("keys narrower than queries", ops.attention(&ones(&[4, 4, 16])?, &[span], &spec))?;

    let keys = ones(&[2, 8, 16])?;
    let spec = |window, chunk, sinks| AttentionSpec { scale: 0.25, window, chunk, sinks };
    for (what, spec) in [
        ("a window of no key", spec(Some(0), None, None)),
        ("a chunk of no key", spec(None, Some(0), None)),
        ("one sink for four heads", spec(None, None, Some(ones(&[1])?))),
        ("five sinks for four heads", spec(None, None, Some(ones(&[5])?))),
    ] {
        let span = AttentionSpan { rows: 0..4, first_position: 0, keys: &keys, values: &keys };
        ensure_refused(what, ops.attention(&ones(&[4, 4, 16])?, &[span], &spec))?;
    }
    Ok(())
}

pub(super) fn strided_inputs_change_nothing(backend: &dyn Backend) -> Result<(), Failure> {
    let case = case((4, 2, 16, 24), Some(5));
    let sequence = sequence(&mut Samples::new(44), &case, (6, 7, 3));
    let out = call(backend, &case, std::slice::from_ref(&sequence), strided)?;
    attention(&case, &sequence).check(&out, OPS_TOLERANCE)
}

/// Sizes as a case; the scale is the usual one.
fn case(
    (heads, kv_heads, head_dim, value_dim): (usize, usize, usize, usize),
    window: Option<usize>,
) -> AttentionCase {
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (chunk, sinks, shared) = (None, None, false);
    AttentionCase { heads, kv_heads, head_dim, value_dim, scale, window, chunk, sinks, shared }
}

/// Rows from a position on, with a cache that has `spare` positions more than they need.
pub(in crate::checks) fn sequence(
    samples: &mut Samples,
    case: &AttentionCase,
    (first_position, rows, spare): (usize, usize, usize),
) -> Sequence {
    let filled = first_position + rows;
    let capacity = filled + spare;
    let mut cache = |width: usize| {
        let head = |_| {
            let mut head = samples.vector(filled * width);
            head.resize(capacity * width, f32::NAN);
            head
        };
        (0..case.kv_heads).flat_map(head).collect()
    };
    let keys = cache(case.head_dim);
    let values = if case.shared { Vec::new() } else { cache(case.value_dim) };
    let queries = samples.vector(rows * case.heads * case.head_dim).iter().map(|q| 4.0 * q).collect();
    Sequence { first_position, queries, capacity, keys, values }
}

/// The backend's answer for some sequences in one call: `[rows, heads * value_dim]`.
pub(in crate::checks) fn attend(
    backend: &dyn Backend,
    case: &AttentionCase,
    sequences: &[Sequence],
) -> Result<Vec<f32>, Failure> {
    call(backend, case, sequences, |x| Ok(x.clone()))
}

fn call(
    backend: &dyn Backend,
    case: &AttentionCase,
    sequences: &[Sequence],
    prepare: fn(&Tensor) -> Result<Tensor, Failure>,
) -> Result<Vec<f32>, Failure> {
    let device = &backend.info().device;
    let (mut queries, mut caches, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in sequences {
        let first = queries.len() / (case.heads * case.head_dim);
        queries.extend_from_slice(&sequence.queries);
        rows.push(first..queries.len() / (case.heads * case.head_dim));
        let shape = |width| [case.kv_heads, sequence.capacity, width];
        let keys = prepare(&tensor(&sequence.keys, &shape(case.head_dim), device)?)?;
        let values = if case.shared {
            keys.narrow(2, 0, case.value_dim)?
        } else {
            prepare(&tensor(&sequence.values, &shape(case.value_dim), device)?)?
        };
        caches.push((keys, values));
    }
    let tokens = queries.len() / (case.heads * case.head_dim);
    let queries = prepare(&tensor(&queries, &[tokens, case.heads, case.head_dim], device)?)?;
    let mut spans: Vec<AttentionSpan<'_>> = (sequences.iter().zip(rows).zip(&caches))
        .map(|((sequence, rows), (keys, values))| AttentionSpan {
            rows,
            first_position: sequence.first_position,
            keys,
            values,
        })
        .collect();
    // Rows say where a sequence belongs; the order of the spans says nothing.
    spans.reverse();
    let sinks = case.sinks.as_ref().map(|sinks| tensor(sinks, &[case.heads], device)).transpose()?;
    let spec = AttentionSpec { scale: case.scale, window: case.window, chunk: case.chunk, sinks };
    values_of(&backend.ops().attention(&queries, &spans, &spec)?, &[tokens, case.heads * case.value_dim])
}

fn agrees(backend: &dyn Backend, case: &AttentionCase, sequences: &[Sequence]) -> Result<(), Failure> {
    let at = || {
        format!(
            "{case:?}, first positions {:?}",
            sequences.iter().map(|s| s.first_position).collect::<Vec<_>>()
        )
    };
    let mut expected = Expected::default();
    for sequence in sequences {
        let part = attention(case, sequence);
        expected.values.extend(part.values);
        expected.scales.extend(part.scales);
    }
    let out = attend(backend, case, sequences).map_err(|failure| failure.at(at()))?;
    expected.check(&out, OPS_TOLERANCE).map_err(|failure| failure.at(at()))
}
