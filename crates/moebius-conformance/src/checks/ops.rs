//! The operations between projections against f64.

mod attention;
mod recurrence;
mod stream;

pub(super) use attention::{attend, sequence};
pub use attention::{
    attention_agrees_with_f64, attention_keeps_sequences_apart, attention_sees_no_earlier_chunk,
    attention_sees_no_more_than_its_window, sinks_take_their_share_of_attention,
    spans_that_do_not_fit_are_errors, values_may_be_columns_of_the_keys,
};
pub use recurrence::{
    causal_conv_agrees_with_f64, delta_rule_agrees_with_f64, recurrences_that_do_not_fit_are_errors,
    selective_scan_agrees_with_f64, softplus_agrees_with_f64,
};
pub(super) use recurrence::{delta_case, run_delta, run_scan, scan_case};
pub use stream::{additions_agree_with_f64, rows_are_written_where_they_belong};

use moebius_backend::{Activation, Backend, Pairing, RopeTable};

use crate::failure::ensure_refused;
use crate::fixtures::{Samples, strided, tensor, values_of};
use crate::{Failure, OPS_TOLERANCE, oracle};

const WIDTHS: [usize; 8] = [1, 3, 15, 16, 17, 33, 64, 100];
const ROWS: [usize; 4] = [1, 2, 7, 33];
pub(super) const ACTIVATIONS: [Activation; 6] = [
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::ReluSquared,
    Activation::ClampedSwiglu { limit: 0.5 },
    Activation::ClampedSwiglu { limit: 7.0 },
];
const PAIRINGS: [Pairing; 2] = [Pairing::HalfSplit, Pairing::Interleaved];

pub fn rms_norm_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let mut samples = Samples::new(31);
    for (width, rows) in WIDTHS.iter().flat_map(|&width| ROWS.map(|rows| (width, rows))) {
        // The smallest rows are dominated by eps.
        for (magnitude, eps) in [(1.0, 1e-5), (1e-3, 1e-5), (1e4, 1e-6)] {
            let x: Vec<f32> = samples.vector(rows * 2 * width).iter().map(|x| x * magnitude).collect();
            let weight = samples.vector(width);
            let expected = oracle::rms_norm(&x, &weight, eps);
            let weight = tensor(&weight, &[width], device)?;
            // Hidden states have two dimensions, the queries and keys of a head three.
            for shape in [&[2 * rows, width][..], &[rows, 2, width]] {
                let out = values_of(&ops.rms_norm(&tensor(&x, shape, device)?, &weight, eps)?, shape)?;
                expected.check(&out, OPS_TOLERANCE).map_err(|f| f.at(format!("{shape:?}, eps {eps}")))?;
            }
        }
    }
    Ok(())
}

pub fn rms_norm_of_a_zero_row_is_zero(backend: &dyn Backend) -> Result<(), Failure> {
    let device = &backend.info().device;
    let weight = tensor(&[1.0; 17], &[17], device)?;
    let out = backend.ops().rms_norm(&tensor(&[0.0; 34], &[2, 17], device)?, &weight, 1e-6)?;
    oracle::rms_norm(&[0.0; 34], &[1.0; 17], 1e-6).check(&values_of(&out, &[2, 17])?, OPS_TOLERANCE)
}

pub fn layer_norm_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let mut samples = Samples::new(35);
    for (width, rows) in WIDTHS.iter().flat_map(|&width| ROWS.map(|rows| (width, rows))) {
        // Rows far from zero, and such that eps dominates.
        for (magnitude, offset, eps) in [(1.0, 0.5, 1e-5), (1e-3, 0.0, 1e-5), (1e4, -3e3, 1e-6)] {
            let x: Vec<f32> =
                samples.vector(rows * 2 * width).iter().map(|x| x * magnitude + offset).collect();
            let (weight, shift) = (samples.vector(width), samples.vector(width));
            let on_device = [&weight, &shift].map(|values| tensor(values, &[width], device));
            let [weight_tensor, bias_tensor] = on_device;
            let (weight_tensor, bias_tensor) = (weight_tensor?, bias_tensor?);
            for shape in [&[2 * rows, width][..], &[rows, 2, width]] {
                let x_tensor = tensor(&x, shape, device)?;
                for biased in [false, true] {
                    let bias = biased.then_some(&bias_tensor);
                    let out = values_of(&ops.layer_norm(&x_tensor, &weight_tensor, bias, eps)?, shape)?;
                    oracle::layer_norm(&x, &weight, biased.then_some(&shift[..]), eps)
                        .check(&out, OPS_TOLERANCE)
                        .map_err(|f| f.at(format!("{shape:?}, eps {eps}, bias {biased}")))?;
                }
            }
        }
    }
    Ok(())
}

pub fn rope_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let device = &backend.info().device;
    let mut samples = Samples::new(32);
    for (head_dim, pairs) in [(2, 1), (16, 8), (34, 17), (128, 64), (16, 4), (35, 16), (6, 0)] {
        for (tokens, heads) in [(1, 1), (1, 3), (7, 2), (33, 4)] {
            for pairing in PAIRINGS {
                let x = samples.vector(tokens * heads * head_dim);
                let (cos, sin) = angles(tokens, pairs, 100);
                let shape = [tokens, heads, head_dim];
                let table = rope_table(backend, (&cos, &sin), [tokens, pairs], pairing)?;
                let out = values_of(&backend.ops().rope(&tensor(&x, &shape, device)?, &table)?, &shape)?;
                oracle::rope(&x, (heads, head_dim), pairing, (&cos, &sin))
                    .check(&out, OPS_TOLERANCE)
                    .map_err(|f| f.at(format!("{shape:?}, {pairs} pairs, {pairing:?}")))?;
            }
        }
    }
    Ok(())
}

pub fn glu_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let mut samples = Samples::new(33);
    for (width, rows) in WIDTHS.iter().flat_map(|&width| ROWS.map(|rows| (width, rows))) {
        for (activation, magnitude) in ACTIVATIONS.iter().flat_map(|&a| [1.0, 8.0, 200.0].map(|m| (a, m))) {
            let gate: Vec<f32> = samples.vector(rows * width).iter().map(|x| x * magnitude).collect();
            let up = samples.vector(rows * width);
            let shape = [rows, width];
            let out = ops.glu(activation, &tensor(&gate, &shape, device)?, &tensor(&up, &shape, device)?)?;
            oracle::glu(activation, &gate, &up)
                .check(&values_of(&out, &shape)?, OPS_TOLERANCE)
                .map_err(|f| f.at(format!("{shape:?}, {activation}, gates up to {magnitude}")))?;
        }
    }
    Ok(())
}

pub fn activate_agrees_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let mut samples = Samples::new(36);
    for (width, rows) in WIDTHS.iter().flat_map(|&width| ROWS.map(|rows| (width, rows))) {
        for (activation, magnitude) in ACTIVATIONS.iter().flat_map(|&a| [1.0, 8.0, 200.0].map(|m| (a, m))) {
            let x: Vec<f32> = samples.vector(rows * width).iter().map(|x| x * magnitude).collect();
            let shape = [rows, width];
            let out = ops.activate(activation, &tensor(&x, &shape, device)?);
            let case = || format!("{shape:?}, {activation}, inputs up to {magnitude}");
            if activation.needs_gate() {
                ensure_refused(&case(), out)?;
                continue;
            }
            oracle::activated(activation, &x)
                .check(&values_of(&out?, &shape)?, OPS_TOLERANCE)
                .map_err(|f| f.at(case()))?;
        }
    }
    Ok(())
}

pub fn strided_inputs_change_nothing(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let mut samples = Samples::new(34);
    let (rows, width) = (7, 34);
    let (x, y, weight) = (samples.vector(rows * width), samples.vector(rows * width), samples.vector(width));
    let (a, b) = (tensor(&x, &[rows, width], device)?, tensor(&y, &[rows, width], device)?);

    let spread = strided(&tensor(&weight, &[1, width], device)?)?.squeeze(0)?;
    let out = values_of(&ops.rms_norm(&strided(&a)?, &spread, 1e-5)?, &[rows, width])?;
    oracle::rms_norm(&x, &weight, 1e-5).check(&out, OPS_TOLERANCE).map_err(|f| f.at("rms_norm"))?;

    let out = values_of(&ops.layer_norm(&strided(&a)?, &spread, Some(&spread), 1e-5)?, &[rows, width])?;
    let expected = oracle::layer_norm(&x, &weight, Some(&weight), 1e-5);
    expected.check(&out, OPS_TOLERANCE).map_err(|f| f.at("layer_norm"))?;

    let out = values_of(&ops.activate(Activation::ReluSquared, &strided(&a)?)?, &[rows, width])?;
    let expected = oracle::activated(Activation::ReluSquared, &x);
    expected.check(&out, OPS_TOLERANCE).map_err(|f| f.at("activate"))?;

    let out = values_of(&ops.glu(Activation::Silu, &strided(&a)?, &strided(&b)?)?, &[rows, width])?;
    oracle::glu(Activation::Silu, &x, &y).check(&out, OPS_TOLERANCE).map_err(|f| f.at("glu"))?;

    let (cos, sin) = angles(rows, 8, 3);
    for pairing in PAIRINGS {
        let mut table = rope_table(backend, (&cos, &sin), [rows, 8], pairing)?;
        (table.cos, table.sin) = (strided(&table.cos)?, strided(&table.sin)?);
        let heads = strided(&tensor(&x, &[rows, 2, width / 2], device)?)?;
        let out = values_of(&ops.rope(&heads, &table)?, &[rows, 2, width / 2])?;
        oracle::rope(&x, (2, width / 2), pairing, (&cos, &sin))
            .check(&out, OPS_TOLERANCE)
            .map_err(|f| f.at(format!("rope, {pairing:?}")))?;
    }
    attention::strided_inputs_change_nothing(backend).map_err(|f| f.at("attention"))
}

pub fn no_rows_give_no_rows(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let (none, weight) = (tensor(&[], &[0, 16], device)?, tensor(&[1.0; 16], &[16], device)?);
    values_of(&ops.rms_norm(&none, &weight, 1e-5)?, &[0, 16]).map_err(|f| f.at("rms_norm"))?;
    let normed = ops.layer_norm(&none, &weight, Some(&weight), 1e-5)?;
    values_of(&normed, &[0, 16]).map_err(|f| f.at("layer_norm"))?;
    values_of(&ops.glu(Activation::Silu, &none, &none)?, &[0, 16]).map_err(|f| f.at("glu"))?;
    values_of(&ops.activate(Activation::Silu, &none)?, &[0, 16]).map_err(|f| f.at("activate"))?;
    values_of(&ops.add(&none, &none, 0.5)?, &[0, 16]).map_err(|f| f.at("add"))?;
    for pairing in PAIRINGS {
        let table = rope_table(backend, (&[], &[]), [0, 4], pairing)?;
        let heads = tensor(&[], &[0, 2, 8], device)?;
        values_of(&ops.rope(&heads, &table)?, &[0, 2, 8]).map_err(|f| f.at("rope"))?;
    }
    Ok(())
}

pub fn shapes_that_do_not_fit_are_errors(backend: &dyn Backend) -> Result<(), Failure> {
    let (ops, device) = (backend.ops(), &backend.info().device);
    let ones = |shape: &[usize]| tensor(&vec![1.0; shape.iter().product()], shape, device);
    let x = ones(&[2, 16])?;
    for width in [8, 15, 17, 32] {
        let refused = ops.rms_norm(&x, &ones(&[width])?, 1e-5);
        ensure_refused(&format!("rms_norm of 16 columns with {width} weights"), refused)?;
        let refused = ops.layer_norm(&x, &ones(&[width])?, None, 1e-5);
        ensure_refused(&format!("layer_norm of 16 columns with {width} weights"), refused)?;
        let refused = ops.layer_norm(&x, &ones(&[16])?, Some(&ones(&[width])?), 1e-5);
        ensure_refused(&format!("layer_norm of 16 columns with {width} biases"), refused)?;
    }
    for shape in [[2, 15], [16, 2], [3, 16]] {
        let refused = ops.glu(Activation::Silu, &x, &ones(&shape)?);
        ensure_refused(&format!("glu of [2, 16] with {shape:?}"), refused)?;
    }
    let heads = ones(&[4, 2, 16])?;
    for shape in [[3, 8], [5, 8], [8, 4], [4, 9]] {
        let table = RopeTable { cos: ones(&shape)?, sin: ones(&shape)?, pairing: Pairing::HalfSplit };
        ensure_refused(&format!("rope of [4, 2, 16] with {shape:?}"), ops.rope(&heads, &table))?;
    }
    Ok(())
}

/// Cosines and sines `[tokens, pairs]` of the usual angles, from a position on.
pub(super) fn angles(tokens: usize, pairs: usize, first_position: usize) -> (Vec<f32>, Vec<f32>) {
    let positions = first_position..first_position + tokens;
    let angle = |position: usize, pair: usize| position as f64 * 1e4f64.powf(-(pair as f64) / pairs as f64);
    let angles = positions.flat_map(|position| (0..pairs).map(move |pair| angle(position, pair)));
    angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
}

/// The table of these angles on the device.
pub(super) fn rope_table(
    backend: &dyn Backend,
    (cos, sin): (&[f32], &[f32]),
    shape: [usize; 2],
    pairing: Pairing,
) -> Result<RopeTable, Failure> {
    let device = &backend.info().device;
    Ok(RopeTable { cos: tensor(cos, &shape, device)?, sin: tensor(sin, &shape, device)?, pairing })
}
