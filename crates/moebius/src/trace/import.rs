//! Traces from the routed experts that SGLang and vLLM return.
//!
//! SGLang: `meta_info.routed_experts` (or `sglext.routed_experts`), base64 of int32 `[tokens, layers, k]` without its
//! shape. vLLM: `choices[i].routed_experts` behind `prompt_routed_experts`, nested lists or base64 of a NumPy file.
//!
//! Shapes: `[tokens, layers, k]`, where the layers may be all of the decoder or those with a router.
//! Invariants: ids are put in ascending order; -1 is no expert; a layer in which no token has any, or in which all ids of
//! all tokens are 0 and k is above 1, is one without a router.

use std::path::Path;

use serde_json::Value;

use super::TokenRoutes;
use super::header::{TraceHeader, TraceLayer};
use super::npy::{self, Ids};
use super::reader::read_error;
use super::recorder::TraceSummary;
use super::writer::TraceWriter;
use crate::text::base64;
use crate::{Error, LayerRoute, ModelInfo, Result};

/// What the returned numbers do not say of themselves.
#[derive(Clone, Debug, Default)]
pub struct ImportShape {
    /// Experts of a layer.
    pub n_experts: Option<u32>,
    /// Layers of the array, for numbers without a shape.
    pub layers: Option<usize>,
    /// Experts of a token, for numbers without a shape.
    pub k: Option<usize>,
    /// Which decoder layers have a router, if that is known: of how many, and which.
    pub routed: Option<(usize, Vec<usize>)>,
    /// `model_type`, if known.
    pub family: Option<String>,
    /// [`fingerprint`](super::fingerprint), if known.
    pub model: Option<String>,
}

impl ImportShape {
    /// What `info` says of a model.
    pub fn of_model(info: &ModelInfo, fingerprint: Option<String>) -> Self {
        let first = info.routed_layers.first();
        ImportShape {
            n_experts: first.and_then(|layer| u32::try_from(layer.n_experts).ok()),
            layers: None,
            k: first.map(|layer| layer.top_k),
            routed: Some((info.n_layers, info.routed_layers.iter().map(|layer| layer.layer).collect())),
            family: Some(info.family.into()),
            model: fingerprint,
        }
    }
}

/// One sequence of the input.
struct Sequence {
    ids: Ids,
    tokens: Option<Vec<u32>>,
}

/// Writes a trace at `output` of what is in `input`: a response as JSON, several of them in a list or one a line, nested
/// lists, or a NumPy file. The trace has no weights, and ids of tokens where every response has them; each token is a
/// step of its own.
///
/// # Errors
/// [`Error::Trace`] for an input that is nothing of this or does not fit `shape`; those of [`TraceWriter::create`].
pub fn import_trace(input: &Path, output: &Path, shape: &ImportShape) -> Result<TraceSummary> {
    let bytes = std::fs::read(input).map_err(read_error(input))?;
    let refuse = |reason: String| Error::Trace { path: input.into(), reason };
    let sequences = sequences(&bytes, shape).map_err(refuse)?;
    let layers = layers(&sequences, shape).map_err(refuse)?;
    let token_ids = sequences.iter().all(|sequence| sequence.tokens.is_some());
    let header = TraceHeader {
        family: shape.family.clone(),
        model: shape.model.clone(),
        token_ids,
        weights: false,
        ..TraceHeader::new(layers.iter().map(|(_, layer)| *layer).collect())
    };
    // Everything is looked at before a file is begun.
    let mut records = Vec::new();
    for (number, sequence) in (0..).zip(&sequences) {
        let [tokens, _, k] = sequence.ids.shape;
        for position in 0..tokens {
            let route = |&(row, layer): &(usize, TraceLayer)| route(sequence, (position, row, k), layer);
            let routes = layers.iter().map(route).collect::<Result<_, _>>();
            let routes =
                routes.map_err(|reason| refuse(format!("sequence {number}, token {position}: {reason}")))?;
            let token = sequence.tokens.as_ref().filter(|_| token_ids).map(|ids| ids[position]);
            let step = records.len() as u32;
            records.push(TokenRoutes { step, sequence: number, position: position as u32, token, routes });
        }
    }
    let mut writer = TraceWriter::create(output, &header)?;
    records.iter().try_for_each(|record| writer.token(record))?;
    writer.flush()?;
    Ok(TraceSummary { path: output.into(), tokens: records.len() as u64, bytes: writer.bytes() })
}

/// What one layer of the array, `row`, chose for a token.
fn route(
    sequence: &Sequence,
    (position, row, k): (usize, usize, usize),
    layer: TraceLayer,
) -> Result<LayerRoute, String> {
    let [_, rows, _] = sequence.ids.shape;
    let ids = &sequence.ids.values[(position * rows + row) * k..][..k];
    let mut experts = Vec::with_capacity(k);
    for &id in ids.iter().filter(|&&id| id != -1) {
        let valid = u32::try_from(id).ok().filter(|&id| id < layer.experts);
        let expected = || format!("layer {}: expected ids below {}, got {id}", layer.layer, layer.experts);
        experts.push(valid.ok_or_else(expected)?);
    }
    experts.sort_unstable();
    if !experts.is_sorted_by(|a, b| a < b) {
        return Err(format!("layer {}: expected each expert once, got {experts:?}", layer.layer));
    }
    let n_experts = layer.experts as usize;
    Ok(LayerRoute { layer: layer.layer, n_experts, experts, weights: Vec::new() })
}

/// Rows of the array that have a router, each with the layer that it is.
fn layers(sequences: &[Sequence], shape: &ImportShape) -> Result<Vec<(usize, TraceLayer)>, String> {
    let first = sequences.first().ok_or("no routed experts in it")?;
    let [_, rows, k] = first.ids.shape;
    if let Some(other) = sequences.iter().find(|sequence| sequence.ids.shape[1..] != [rows, k]) {
        let [_, other_rows, other_k] = other.ids.shape;
        return Err(format!("expected {rows} layers of {k} experts in all, got {other_rows} of {other_k}"));
    }
    let experts = shape.n_experts.ok_or("the number of experts is not known")?;
    if k == 0 || k > experts as usize {
        return Err(format!("expected 1 to {experts} experts for a token, got {k}"));
    }
    let layer = |layer| TraceLayer { layer, experts, k: k as u32 };
    let numbered: Vec<(usize, TraceLayer)> = match &shape.routed {
        Some((all, routed)) if *all == rows => routed.iter().map(|&index| (index, layer(index))).collect(),
        Some((_, routed)) if routed.len() == rows => {
            routed.iter().enumerate().map(|(row, &index)| (row, layer(index))).collect()
        }
        Some((all, routed)) => {
            return Err(format!("expected {all} layers, or {} with routers, got {rows}", routed.len()));
        }
        None => (0..rows).filter(|&row| is_routed(sequences, row)).map(|row| (row, layer(row))).collect(),
    };
    if numbered.is_empty() { Err("no layer of it has a router".into()) } else { Ok(numbered) }
}

/// Whether a row of the array holds more than what stands where there is no router.
fn is_routed(sequences: &[Sequence], row: usize) -> bool {
    let mut ids = sequences.iter().flat_map(|sequence| {
        let [tokens, rows, k] = sequence.ids.shape;
        (0..tokens).flat_map(move |token| &sequence.ids.values[(token * rows + row) * k..][..k])
    });
    let [_, _, k] = sequences[0].ids.shape;
    ids.any(|&id| id > 0 || (id == 0 && k == 1))
}

/// Everything in the input.
fn sequences(bytes: &[u8], shape: &ImportShape) -> Result<Vec<Sequence>, String> {
    if bytes.starts_with(npy::MAGIC) {
        return Ok(vec![Sequence { ids: npy::parse(bytes)?, tokens: None }]);
    }
    let mut found = Vec::new();
    for value in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
        let value = value.map_err(|error| format!("it is neither JSON nor a NumPy file: {error}"))?;
        collect(&value, shape, &mut found)?;
    }
    Ok(found)
}

fn collect(value: &Value, shape: &ImportShape, found: &mut Vec<Sequence>) -> Result<(), String> {
    match value {
        Value::Array(items) if items.iter().all(Value::is_object) => {
            items.iter().try_for_each(|item| collect(item, shape, found))
        }
        Value::Array(_) => {
            found.push(Sequence { ids: parse_ids(value, shape)?, tokens: None });
            Ok(())
        }
        Value::Object(_) => response(value, shape, found),
        _ => Err("expected a response, a list of them, or nested lists".into()),
    }
}

/// A response, with one sequence or with several choices.
fn response(value: &Value, shape: &ImportShape, found: &mut Vec<Sequence>) -> Result<(), String> {
    let choices = match &value["choices"] {
        Value::Array(choices) => choices.iter().collect(),
        _ => vec![value],
    };
    for choice in choices {
        let own = returned(choice).or_else(|| returned(value));
        let prompt = Some(&value["prompt_routed_experts"]).filter(|ids| !ids.is_null());
        let parts = prompt.into_iter().chain(own).map(|part| parse_ids(part, shape));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let Some(ids) = joined(parts)? else { continue };
        let tokens = token_ids(value, choice).filter(|tokens| tokens.len() >= ids.shape[0]);
        found.push(Sequence { ids, tokens });
    }
    Ok(())
}

/// Where a response or a choice has its routed experts.
fn returned(value: &Value) -> Option<&Value> {
    let places =
        [&value["routed_experts"], &value["meta_info"]["routed_experts"], &value["sglext"]["routed_experts"]];
    places.into_iter().find(|ids| !ids.is_null())
}

/// Ids of the tokens of a sequence, as far as a response tells them: at least those that were routed, in their order.
fn token_ids(response: &Value, choice: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let list = |value: &Value| value.as_array()?.iter().map(id).collect::<Option<Vec<u32>>>();
    let prompt =
        list(&response["prompt_token_ids"]).or_else(|| list(&choice["prompt_token_ids"])).or_else(|| {
            let scored = response["meta_info"]["input_token_logprobs"].as_array()?;
            scored.iter().map(|entry| id(&entry[1])).collect()
        })?;
    let output = list(&choice["token_ids"]).or_else(|| list(&choice["output_ids"]))?;
    Some([prompt, output].concat())
}

/// The parts of one sequence after one another; `None` if there are none.
fn joined(parts: Vec<Ids>) -> Result<Option<Ids>, String> {
    let mut parts = parts.into_iter();
    let Some(mut whole) = parts.next() else { return Ok(None) };
    for part in parts {
        // A part without tokens has no shape as nested lists.
        if part.shape[0] == 0 {
            continue;
        }
        if whole.shape[0] > 0 && part.shape[1..] != whole.shape[1..] {
            return Err(format!("the prompt is `{:?}`, what follows `{:?}`", whole.shape, part.shape));
        }
        whole.shape = [whole.shape[0] + part.shape[0], part.shape[1], part.shape[2]];
        whole.values.extend(part.values);
    }
    Ok(Some(whole).filter(|whole| whole.shape[0] > 0))
}

fn parse_ids(value: &Value, shape: &ImportShape) -> Result<Ids, String> {
    match value {
        Value::String(text) => {
            let bytes = base64::decode(text.as_bytes()).ok_or("expected base64")?;
            if bytes.starts_with(npy::MAGIC) { npy::parse(&bytes) } else { shaped(&bytes, shape) }
        }
        Value::Array(tokens) => nested(tokens),
        _ => Err("expected base64 or nested lists of ids".into()),
    }
}

/// Numbers without a shape: that of the whole decoder if it fits, else that of the layers with routers.
fn shaped(bytes: &[u8], shape: &ImportShape) -> Result<Ids, String> {
    let k = shape.k.ok_or("it has no shape, and the experts of a token are not known")?;
    let routed = shape.routed.as_ref().map(|(all, routed)| [*all, routed.len()]);
    let candidates = match (shape.layers, routed) {
        (Some(layers), _) => vec![layers],
        (None, Some(layers)) => layers.to_vec(),
        (None, None) => return Err("it has no shape, and the number of layers is not known".into()),
    };
    let per_token =
        |layers: usize| layers.checked_mul(k)?.checked_mul(size_of::<i32>()).filter(|&bytes| bytes > 0);
    let fits = |&layers: &usize| per_token(layers).is_some_and(|size| bytes.len().is_multiple_of(size));
    let Some(layers) = candidates.iter().copied().find(fits) else {
        let expected = format!("whole tokens of {candidates:?} layers of {k} int32");
        return Err(format!("expected {expected}, got {} bytes", bytes.len()));
    };
    let tokens = bytes.len() / per_token(layers).unwrap_or(1);
    let number = |bytes: &[u8]| i64::from(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    Ok(Ids { shape: [tokens, layers, k], values: bytes.chunks_exact(4).map(number).collect() })
}

/// Numbers as lists of lists of lists.
fn nested(tokens: &[Value]) -> Result<Ids, String> {
    let list = |value: &Value| value.as_array().map(Vec::as_slice).unwrap_or_default().to_vec();
    let first = tokens.first().map(list).unwrap_or_default();
    let (layers, k) = (first.len(), first.first().map_or(0, |layer| list(layer).len()));
    let mut values = Vec::new();
    for (position, token) in tokens.iter().enumerate() {
        let token = token.as_array().filter(|token| token.len() == layers);
        let token =
            token.ok_or_else(|| format!("token {position}: expected {layers} layers like the first"))?;
        for layer in token {
            let ids = layer.as_array().filter(|ids| ids.len() == k);
            let ids = ids.ok_or_else(|| format!("token {position}: expected {k} ids in each layer"))?;
            let number =
                |id: &Value| id.as_i64().ok_or_else(|| format!("token {position}: expected ids, got {id}"));
            for id in ids {
                values.push(number(id)?);
            }
        }
    }
    Ok(Ids { shape: [tokens.len(), layers, k], values })
}
