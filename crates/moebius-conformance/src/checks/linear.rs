//! Dense projections against f64, and embedding rows against the stored weights.

mod heads;

pub use heads::{
    each_head_has_a_matrix_of_its_own, inputs_for_other_heads_are_errors,
    strided_inputs_of_heads_agree_with_f64,
};
pub(super) use heads::{load_heads, matrices};

use candle_core::{DType, Device};
use moebius_backend::{Backend, Linear, WeightFormat, WeightSpec};

use crate::Failure;
use crate::failure::{ensure, ensure_refused};
use crate::fixtures::{Matrix, Samples, fitted, linear_spec, strided, tensor, values_of};
use crate::oracle;
use crate::tolerance::tolerance;

/// In whole blocks for formats that have them.
const INPUTS: [usize; 8] = [1, 15, 16, 17, 31, 33, 100, 300];
const OUTPUTS: [usize; 4] = [1, 3, 16, 65];
const TOKENS: [usize; 5] = [0, 1, 2, 7, 33];

pub fn awkward_sizes_agree_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        let mut samples = Samples::new(1);
        let mut widths = INPUTS.map(|inputs| fitted(inputs, format)).to_vec();
        widths.dedup();
        for (inputs, outputs) in widths.into_iter().flat_map(|i| OUTPUTS.map(|o| (i, o))) {
            let matrix = Matrix::sampled(&mut samples, "projection", format, (outputs, inputs))?;
            for bias in [None, Some(samples.vector(outputs))] {
                let case = format!("{outputs} x {inputs} in {format}, bias {}", bias.is_some());
                agrees(backend, &matrix, bias, &mut samples).map_err(|failure| failure.at(case))?;
            }
        }
        Ok(())
    })
}

/// All batch sizes of one projection.
fn agrees(
    backend: &dyn Backend,
    matrix: &Matrix,
    bias: Option<Vec<f32>>,
    samples: &mut Samples,
) -> Result<(), Failure> {
    let Some(linear) = load(backend, matrix, bias.clone())? else { return Ok(()) };
    ensure(*linear.spec() == linear_spec(matrix), || format!("spec() changed: {:?}", linear.spec()))?;
    for tokens in TOKENS {
        let x = samples.vector(tokens * matrix.cols);
        let out = linear.forward(&tensor(&x, &[tokens, matrix.cols], &backend.info().device)?)?;
        oracle::linear(&x, matrix, bias.as_deref())
            .check(
                &values_of(&out, &[tokens, matrix.rows])?,
                tolerance(backend.info(), matrix.format)?.linear,
            )
            .map_err(|failure| failure.at(format!("{tokens} tokens")))?;
    }
    Ok(())
}

pub fn strided_inputs_agree_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        let mut samples = Samples::new(2);
        let width = fitted(33, format);
        let matrix = Matrix::sampled(&mut samples, "projection", format, (19, width))?;
        let Some(linear) = load(backend, &matrix, None)? else { return Ok(()) };
        let x = samples.vector(7 * width);
        let input = strided(&tensor(&x, &[7, width], &backend.info().device)?)?;
        let out = values_of(&linear.forward(&input)?, &[7, 19])?;
        oracle::linear(&x, &matrix, None).check(&out, tolerance(backend.info(), format)?.linear)?;

        let row = &x[..width];
        let repeated = tensor(row, &[1, width], &backend.info().device)?.broadcast_as((4, width))?;
        let out = values_of(&linear.forward(&repeated)?, &[4, 19])?;
        oracle::linear(&row.repeat(4), &matrix, None).check(&out, tolerance(backend.info(), format)?.linear)
    })
}

pub fn rows_are_the_exact_weights(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        let (rows, cols) = (19, fitted(33, format));
        let mut matrix = Matrix::sampled(&mut Samples::new(3), "embedding", format, (rows, cols))?;
        for (index, value) in extremes(format).into_iter().enumerate() {
            matrix.set(17 * cols + index, value)?;
        }
        let Some(linear) = load(backend, &matrix, Some(vec![1.0; rows]))? else { return Ok(()) };
        for ids in [&[][..], &[17], &[0, 18, 17, 17, 0, 16, 15, 17]] {
            let got = values_of(&linear.rows(ids)?, &[ids.len(), cols])?;
            let exact = ids.iter().flat_map(|&id| &matrix.values[id as usize * cols..][..cols]);
            for (index, (got, exact)) in got.iter().zip(exact).enumerate() {
                ensure(got.to_bits() == exact.to_bits(), || {
                    format!("rows {ids:?}, element {index}: expected exactly {exact:e}, got {got:e}")
                })?;
            }
        }
        Ok(())
    })
}

/// Zeros of both signs, the largest and the smallest normal values of a format, and whole numbers. What a block can
/// hold depends on its neighbours: there the large ones leave little of the others.
fn extremes(format: WeightFormat) -> [f32; 8] {
    let (largest, smallest) = match format {
        WeightFormat::F16 => (65504.0, 6.103_515_6e-5),
        WeightFormat::Bf16 => (3.389_531_4e38, f32::MIN_POSITIVE),
        WeightFormat::F32 => (f32::MAX, f32::MIN_POSITIVE),
        _ => (1024.0, 1e-3),
    };
    [0.0, -0.0, largest, -largest, smallest, -smallest, 1.0, -2.0]
}

pub fn unknown_row_ids_are_errors(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        let shape = (19, fitted(33, format));
        let matrix = Matrix::sampled(&mut Samples::new(4), "embedding", format, shape)?;
        let Some(linear) = load(backend, &matrix, None)? else { return Ok(()) };
        for id in [19, 31, u32::MAX] {
            ensure_refused(&format!("row {id} of 19"), linear.rows(&[3, id]))?;
        }
        Ok(())
    })
}

pub fn inputs_of_the_wrong_shape_or_type_are_errors(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        let width = fitted(16, format);
        let matrix = Matrix::sampled(&mut Samples::new(5), "projection", format, (16, width))?;
        let Some(linear) = load(backend, &matrix, None)? else { return Ok(()) };
        for shape in [&[1, width + 1][..], &[2, width / 2], &[1, 2 * width], &[width], &[2, 1, width]] {
            let x = tensor(&vec![1.0; shape.iter().product()], shape, &backend.info().device)?;
            ensure_refused(&format!("an input of shape {shape:?} for {width} inputs"), linear.forward(&x))?;
        }
        let x = tensor(&vec![1.0; width], &[1, width], &Device::Cpu)?.to_dtype(DType::F16)?;
        ensure_refused("an input in f16", linear.forward(&x.to_device(&backend.info().device)?))
    })
}

/// The loaded matrix, or nothing where the backend says that it does not take it.
pub(super) fn load(
    backend: &dyn Backend,
    matrix: &Matrix,
    bias: Option<Vec<f32>>,
) -> Result<Option<Box<dyn Linear>>, Failure> {
    let spec = linear_spec(matrix);
    match backend.supports(&WeightSpec::Linear(&spec)) {
        Ok(()) => Ok(Some(backend.load_linear(&spec, matrix.view(), bias)?)),
        Err(_) => Ok(None),
    }
}

/// Runs a check for every format; the failure names the format.
pub(super) fn for_each_format(
    mut check: impl FnMut(WeightFormat) -> Result<(), Failure>,
) -> Result<(), Failure> {
    WeightFormat::ALL
        .into_iter()
        .try_for_each(|format| check(format).map_err(|failure| failure.at(format!("format {format}"))))
}
