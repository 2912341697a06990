//! A projection of its own for each head, against f64.

use candle_core::Tensor;
use moebius_backend::{Backend, HeadLinear, WeightFormat, WeightSpec};

use super::for_each_format;
use crate::Failure;
use crate::failure::{ensure, ensure_refused};
use crate::fixtures::{Matrix, Samples, fitted, linear_spec, strided, tensor, values_of};
use crate::oracle::{self, Expected};
use crate::tolerance::tolerance;

/// Heads, outputs and inputs, these in whole blocks for formats that have them.
const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (3, 17, 33), (4, 16, 16), (5, 3, 100), (2, 128, 15), (8, 65, 64)];
const TOKENS: [usize; 5] = [0, 1, 2, 7, 33];

pub fn each_head_has_a_matrix_of_its_own(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        let mut samples = Samples::new(6);
        for (heads, outputs, inputs) in SIZES {
            let inputs = fitted(inputs, format);
            let matrices = matrices(&mut samples, format, heads, (outputs, inputs))?;
            let Some(loaded) = load_heads(backend, &matrices)? else { continue };
            ensure(loaded.heads() == heads && *loaded.spec() == linear_spec(&matrices[0]), || {
                format!("spec() or heads() changed: {} of {:?}", loaded.heads(), loaded.spec())
            })?;
            for tokens in TOKENS {
                let x = samples.vector(tokens * heads * inputs);
                let input = tensor(&x, &[tokens, heads, inputs], &backend.info().device)?;
                agrees((backend, &*loaded), &matrices, &x, &input).map_err(|failure| {
                    failure.at(format!("{heads} heads of {outputs} x {inputs}, {tokens} tokens"))
                })?;
            }
        }
        Ok(())
    })
}

pub fn strided_inputs_of_heads_agree_with_f64(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        let mut samples = Samples::new(7);
        let inputs = fitted(33, format);
        let matrices = matrices(&mut samples, format, 3, (19, inputs))?;
        let Some(loaded) = load_heads(backend, &matrices)? else { return Ok(()) };
        let x = samples.vector(7 * 3 * inputs);
        let input = strided(&tensor(&x, &[7, 3, inputs], &backend.info().device)?)?;
        agrees((backend, &*loaded), &matrices, &x, &input)
    })
}

pub fn inputs_for_other_heads_are_errors(backend: &dyn Backend) -> Result<(), Failure> {
    for_each_format(|format| {
        let inputs = fitted(16, format);
        let matrices = matrices(&mut Samples::new(8), format, 4, (16, inputs))?;
        let Some(loaded) = load_heads(backend, &matrices)? else { return Ok(()) };
        for shape in
            [&[2, 3, inputs][..], &[2, 5, inputs], &[2, 4, inputs + 1], &[2, 4 * inputs], &[4, inputs]]
        {
            let x = tensor(&vec![1.0; shape.iter().product()], shape, &backend.info().device)?;
            ensure_refused(
                &format!("an input of shape {shape:?} for 4 heads of {inputs}"),
                loaded.forward(&x),
            )?;
        }
        Ok(())
    })
}

fn agrees(
    (backend, loaded): (&dyn Backend, &dyn HeadLinear),
    matrices: &[Matrix],
    x: &[f32],
    input: &Tensor,
) -> Result<(), Failure> {
    let (heads, outputs, inputs) = (matrices.len(), matrices[0].rows, matrices[0].cols);
    let tokens = x.len() / (heads * inputs);
    let out = values_of(&loaded.forward(input)?, &[tokens, heads, outputs])?;
    let mut expected = Expected::default();
    for (place, x) in x.chunks_exact(inputs).enumerate() {
        let part = oracle::linear(x, &matrices[place % heads], None);
        expected.values.extend(part.values);
        expected.scales.extend(part.scales);
    }
    expected.check(&out, tolerance(backend.info(), matrices[0].format)?.linear)
}

/// A matrix for each head.
pub(in crate::checks) fn matrices(
    samples: &mut Samples,
    format: WeightFormat,
    heads: usize,
    shape: (usize, usize),
) -> Result<Vec<Matrix>, Failure> {
    (0..heads).map(|_| Matrix::sampled(samples, "heads", format, shape)).collect()
}

/// The loaded matrices, or nothing where the backend says that it does not take them.
pub(in crate::checks) fn load_heads(
    backend: &dyn Backend,
    matrices: &[Matrix],
) -> Result<Option<Box<dyn HeadLinear>>, Failure> {
    let (spec, heads) = (linear_spec(&matrices[0]), matrices.len());
    match backend.supports(&WeightSpec::Heads(&spec, heads)) {
        Ok(()) => Ok(Some(backend.load_heads(&spec, heads, &|head| Ok(matrices[head].view()))?)),
        Err(_) => Ok(None),
    }
}
