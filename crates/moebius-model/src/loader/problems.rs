//! What a plan finds wrong with a tensor.

use safetensors::Dtype;

use crate::checkpoint::{Encoding, FP8_SCALES, TensorEntry};
use crate::error::TensorProblem;

/// What is wrong with a tensor that was asked for, as plain numbers or in any format.
pub(super) fn problem_of(
    entry: Option<&TensorEntry>,
    name: &str,
    shape: &[usize],
    plain: bool,
) -> Option<TensorProblem> {
    let name = name.to_owned();
    let Some(entry) = entry else {
        return Some(TensorProblem::Missing { name, shape: shape.to_vec() });
    };
    let expected = match entry.dtype {
        Dtype::F8_E4M3 if !plain => format!("F32, F16 or BF16, or scales in `{name}{FP8_SCALES}`"),
        _ => "F32, F16 or BF16".into(),
    };
    if entry.shape != shape {
        return Some(TensorProblem::Shape { name, expected: shape.to_vec(), got: entry.shape.clone() });
    }
    if let (Some(packed), true) = (&entry.packed, plain) {
        let got = format!("{} in panels", packed.format);
        return Some(TensorProblem::Dtype { name, expected, got });
    }
    let joined = matches!(entry.encoding, Encoding::Joined(_));
    if (entry.format().is_none() && !joined) || (plain && entry.encoding != Encoding::Plain) {
        return Some(TensorProblem::Dtype { name, expected, got: format!("{:?}", entry.dtype) });
    }
    None
}

/// What is wrong with a tensor whose packed matrices are not of the shape that was asked for.
pub(super) fn other_matrices(
    entry: &TensorEntry,
    name: &str,
    matrix: (usize, usize),
) -> Option<TensorProblem> {
    let packed = entry.packed.as_ref().filter(|packed| packed.matrix != matrix)?;
    let [expected, got] = [matrix, packed.matrix].map(|(rows, cols)| format!("matrices [{rows}, {cols}]"));
    Some(TensorProblem::Dtype { name: name.into(), expected, got })
}
