//! Everything that a scored sequence went through, as a safetensors file.
//!
//! Names, for sequence `i` of `n` tokens: `p{i}.logits` f32 `[n, vocab]`; `p{i}.h{j}` f32 `[n, hidden]`, the
//! residual stream into layer 0 (`h0`) and out of layer `j - 1`; `p{i}.router{l}.experts` i32 `[n, k]`
//! ascending; `p{i}.router{l}.weights` f32 `[n, k]`. Where a token has fewer experts, -1 with weight 0 fills its row up.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use candle_core::Tensor;
use moebius_router::Routing;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::{Error, Result};

/// What one sequence went through, row after row.
#[derive(Default)]
struct Record {
    hidden: BTreeMap<usize, Vec<f32>>,
    experts: BTreeMap<usize, Vec<i32>>,
    weights: BTreeMap<usize, Vec<f32>>,
}

/// Everything that a pass showed of each sequence, numbered in the order in which they first ran.
#[derive(Default)]
pub(crate) struct Dump {
    records: Vec<Record>,
}

impl Dump {
    /// Keeps `rows` of the residual stream, all of one sequence.
    pub(crate) fn hidden(
        &mut self,
        sequence: usize,
        rows: Range<usize>,
        index: usize,
        x: &Tensor,
    ) -> moebius_model::Result<()> {
        let values = x.narrow(0, rows.start, rows.len())?.flatten_all()?.to_vec1::<f32>()?;
        self.record(sequence).hidden.entry(index).or_default().extend(values);
        Ok(())
    }

    /// Keeps `rows` of what the router of `layer` chose, all of one sequence.
    pub(crate) fn routing(&mut self, sequence: usize, rows: Range<usize>, layer: usize, routing: &Routing) {
        let record = self.record(sequence);
        let experts = record.experts.entry(layer).or_default();
        let weights = record.weights.entry(layer).or_default();
        for row in rows {
            let row_end = experts.len() + routing.top_k();
            experts.extend(routing.experts(row).iter().map(|&expert| expert as i32));
            weights.extend_from_slice(routing.weights(row));
            experts.resize(row_end, -1);
            weights.resize(row_end, 0.0);
        }
    }

    fn record(&mut self, sequence: usize) -> &mut Record {
        if self.records.len() <= sequence {
            self.records.resize_with(sequence + 1, Record::default);
        }
        &mut self.records[sequence]
    }

    /// Writes the file; `logits` holds the rows of each sequence.
    pub(crate) fn write(self, path: &Path, sequences: &[Vec<u32>], logits: Vec<Vec<f32>>) -> Result<()> {
        let mut entries = Vec::new();
        for (i, (record, logits)) in self.records.iter().zip(&logits).enumerate() {
            let rows = sequences[i].len();
            entries.push(Entry::floats(format!("p{i}.logits"), rows, logits));
            for (j, values) in &record.hidden {
                entries.push(Entry::floats(format!("p{i}.h{j}"), rows, values));
            }
            for (layer, experts) in &record.experts {
                let name = format!("p{i}.router{layer}.experts");
                let bytes = experts.iter().map(|e| e.to_le_bytes());
                entries.push(Entry::new(name, Dtype::I32, rows, bytes));
            }
            for (layer, weights) in &record.weights {
                entries.push(Entry::floats(format!("p{i}.router{layer}.weights"), rows, weights));
            }
        }
        let write =
            |source: Box<dyn std::error::Error + Send + Sync>| Error::Write { path: path.into(), source };
        let views = entries.iter().map(|entry| {
            let view = TensorView::new(entry.dtype, entry.shape.clone(), &entry.bytes);
            view.map(|view| (&entry.name, view))
        });
        let views: Vec<_> = views.collect::<std::result::Result<_, _>>().map_err(|e| write(Box::new(e)))?;
        safetensors::serialize_to_file(views, None, path).map_err(|e| write(Box::new(e)))
    }
}

/// A tensor on its way into the file.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Entry {
    fn new<const N: usize>(
        name: String,
        dtype: Dtype,
        rows: usize,
        elements: impl ExactSizeIterator<Item = [u8; N]>,
    ) -> Self {
        let shape = vec![rows, elements.len() / rows];
        Entry { name, dtype, shape, bytes: elements.flatten().collect() }
    }

    fn floats(name: String, rows: usize, values: &[f32]) -> Self {
        Entry::new(name, Dtype::F32, rows, values.iter().map(|v| v.to_le_bytes()))
    }
}
