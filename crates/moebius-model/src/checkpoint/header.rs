//! The header of one safetensors file: which tensors it has, and that they fill the file exactly.
//!
//! Invariants: the tensors lie one after another, each as large as its shape and type say, from the end of
//! the header to the end of the file; no sum or product overflows.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde_json::Value;

use super::packed::{self, Packing};

/// Bytes of the length in front of the header.
pub(super) const LENGTH_BYTES: usize = size_of::<u64>();
/// The limit of the format.
pub(super) const HEADER_LIMIT_BYTES: u64 = 100_000_000;

/// One tensor of a file.
pub(super) struct Placed {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
    /// Its bytes, counted from the start of the file.
    pub(super) range: Range<usize>,
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: Option<Value>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorInfo>,
}

/// What a header says.
pub(super) struct Contents {
    /// The tensors, in the order in which they lie.
    pub(super) tensors: Vec<Placed>,
    /// Which of them are packed, if there is word of it.
    pub(super) packing: Option<Packing>,
}

/// Reads the header of a file; or what is wrong, with expected and got.
pub(super) fn read(file: &[u8]) -> Result<Contents, String> {
    let (length, rest) = file
        .split_first_chunk()
        .ok_or_else(|| format!("expected a header of at least {LENGTH_BYTES} bytes, got {}", file.len()))?;
    let length = u64::from_le_bytes(*length);
    if length > HEADER_LIMIT_BYTES {
        return Err(format!(
            "not a safetensors file: expected a header of at most {HEADER_LIMIT_BYTES} bytes, got {length}"
        ));
    }
    let length = length as usize;
    let header = rest.get(..length).ok_or_else(|| {
        format!("the file is cut short: expected a header of {length} bytes, got {}", rest.len())
    })?;
    let header: Header =
        serde_json::from_slice(header).map_err(|error| format!("the header cannot be read: {error}"))?;
    let tensors = place(header.tensors, LENGTH_BYTES + length, file.len())?;
    let packing = match header.metadata.as_ref().and_then(|metadata| metadata.get(packed::KEY)) {
        None => None,
        Some(Value::String(text)) => Some(Packing::read(text)?),
        Some(_) => return Err("the packing cannot be read: expected a text".into()),
    };
    Ok(Contents { tensors, packing })
}

/// Checks that the tensors fill the bytes from `data_start` to `file_len`.
fn place(
    tensors: BTreeMap<String, TensorInfo>,
    data_start: usize,
    file_len: usize,
) -> Result<Vec<Placed>, String> {
    let mut tensors: Vec<(String, TensorInfo)> = tensors.into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut placed = Vec::with_capacity(tensors.len());
    let mut reached = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (start, end) }) in tensors {
        if start != reached {
            return Err(format!("tensor `{name}`: expected it to start at byte {reached}, got {start}"));
        }
        let size = size_bytes(&shape, dtype).ok_or_else(|| {
            format!("tensor `{name}`: expected whole bytes that fit into memory, got {shape:?} of {dtype}")
        })?;
        if start.checked_add(size) != Some(end) {
            return Err(format!(
                "tensor `{name}`: expected {size} bytes for {shape:?} of {dtype}, got bytes {start} to {end}"
            ));
        }
        reached = end;
        // The end is compared with the file's below: until then a range may lie beyond it.
        let range = data_start.saturating_add(start)..data_start.saturating_add(end);
        placed.push(Placed { name, shape, dtype, range });
    }
    let data_bytes = file_len - data_start;
    match reached.cmp(&data_bytes) {
        std::cmp::Ordering::Equal => Ok(placed),
        std::cmp::Ordering::Greater => {
            Err(format!("the file is cut short: expected {reached} bytes of tensors, got {data_bytes}"))
        }
        std::cmp::Ordering::Less => Err(format!(
            "the file has bytes that belong to no tensor: expected {reached} bytes of tensors, got {data_bytes}"
        )),
    }
}

fn size_bytes(shape: &[usize], dtype: Dtype) -> Option<usize> {
    let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}
