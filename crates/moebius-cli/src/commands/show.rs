//! `moebius show`.

use moebius::metering::format::{UNKNOWN, percent, si};
use moebius::{ModelInfo, Needs, OpenOptions, TextSummary, WeightFormat};
use serde::Serialize;

use crate::args::{OutputArgs, ShowArgs};
use crate::commands::model_dir;
use crate::errors::Result;
use crate::table::{Align, Table, facts};
use crate::terminal::{FAINT, printable};
use crate::{json, terminal};

/// How many names of a kind are spelt out before the rest is only counted.
const LISTED_NAMES: usize = 8;
/// Formats with a smaller share of the bytes, such as those of biases, are not named.
const LISTED_SHARE: f64 = 0.01;

#[derive(Serialize)]
struct Report<'a> {
    family: &'static str,
    layers: usize,
    hidden: usize,
    vocab_size: usize,
    context: usize,
    attention: &'a str,
    moe: Option<Moe<'a>>,
    mtp_layers: usize,
    text_part_of: Option<&'a str>,
    total_parameters: u64,
    active_parameters: u64,
    active_parameters_without_embedding: u64,
    weight_bytes: Option<u64>,
    packed: Option<String>,
    parts: Vec<Part>,
    cache_bytes_per_token: u64,
    cache_bytes_full_context: u64,
    cache_bytes_per_sequence: u64,
    tokenizer_tokens: Option<usize>,
    chat_template: bool,
    bos_token_id: Option<u32>,
    eos_token_ids: &'a [u32],
    ignored_tensors: &'a [String],
    unknown_tensors: &'a [String],
    unknown_keys: &'a [String],
}

#[derive(Serialize)]
struct Moe<'a> {
    layers: usize,
    n_experts: usize,
    experts_per_token: usize,
    intermediate: usize,
    shared_intermediate: Option<usize>,
    router: &'a str,
}

#[derive(Serialize)]
struct Part {
    name: &'static str,
    parameters: u64,
    active_parameters: u64,
    bytes: Option<u64>,
    formats: Vec<&'static str>,
}

/// Says what a model is.
pub(crate) fn show(args: &ShowArgs, output: &OutputArgs) -> Result<()> {
    let dir = model_dir(args.model.as_deref(), Needs::Description, output)?;
    let options =
        OpenOptions { experts: args.experts.experts, format: args.format.held(), ..OpenOptions::default() };
    let (info, text) = moebius::inspect(&dir, &options)?;
    let report = Report::new(&info, text);
    if args.json.json {
        return json::print(&report);
    }
    let path = dir.display().to_string();
    terminal::print(&[report.facts(&path), report.table(), report.remarks()].concat())
}

impl<'a> Report<'a> {
    fn new(info: &'a ModelInfo, text: TextSummary) -> Self {
        let moe = info.moe.as_ref().map(|moe| Moe {
            layers: moe.layers,
            n_experts: moe.n_experts,
            experts_per_token: moe.top_k,
            intermediate: moe.intermediate,
            shared_intermediate: moe.shared_intermediate,
            router: &moe.formula,
        });
        let part = |(place, tally): (&moebius::Place, &moebius::Tally)| Part {
            name: place.name(),
            parameters: tally.total,
            active_parameters: tally.active,
            bytes: tally.bytes,
            formats: listed(&tally.formats),
        };
        Report {
            family: info.family,
            layers: info.n_layers,
            hidden: info.hidden,
            vocab_size: info.vocab_size,
            context: info.context,
            attention: &info.attention,
            moe,
            mtp_layers: info.mtp_layers,
            text_part_of: info.text_part_of.as_deref(),
            total_parameters: info.total_parameters(),
            active_parameters: info.active_parameters(),
            active_parameters_without_embedding: info.active_without_embedding(),
            weight_bytes: info.weight_bytes(),
            packed: info.packed.map(|formats| formats.to_string()),
            parts: info.tally.iter().map(part).collect(),
            cache_bytes_per_token: info.cache_bytes_per_token,
            cache_bytes_full_context: info.cache_bytes_per_token.saturating_mul(info.context as u64),
            cache_bytes_per_sequence: info.cache_bytes_per_sequence,
            tokenizer_tokens: text.tokens,
            chat_template: text.chat_template,
            bos_token_id: info.bos_token_id,
            eos_token_ids: &info.eos_token_ids,
            ignored_tensors: &info.ignored_tensors,
            unknown_tensors: &info.unknown_tensors,
            unknown_keys: &info.unknown_keys,
        }
    }

    fn facts(&self, path: &str) -> String {
        let mut rows = vec![
            ("model", printable(path).into_owned()),
            ("family", self.family.to_owned()),
            ("layers", format!("{} of width {}", self.layers, self.hidden)),
            ("attention", self.attention.to_owned()),
        ];
        match &self.moe {
            Some(moe) => rows.extend(moe.facts(self.layers)),
            None => rows.push(("experts", "none: all layers are dense".into())),
        }
        if let Some(whole) = self.text_part_of {
            rows.push(("left out", format!("what is not text in this `{}`", printable(whole))));
        }
        if self.mtp_layers > 0 {
            let layers = if self.mtp_layers == 1 { "layer" } else { "layers" };
            rows.push((
                "left out",
                format!("{} {layers} that would predict further tokens (MTP)", self.mtp_layers),
            ));
        }
        if let Some(formats) = &self.packed {
            rows.push(("weights", format!("packed, {formats}: mapped as they lie")));
        }
        let tokenizer = match self.tokenizer_tokens {
            Some(tokens) => format!("{tokens} tokens"),
            None => "none: the model takes token ids only".into(),
        };
        rows.extend([
            ("parameters", self.parameters()),
            ("context", format!("{} tokens", self.context)),
            ("KV cache", self.cache()),
            ("vocabulary", format!("{} rows", self.vocab_size)),
            ("tokenizer", tokenizer),
            ("chat template", if self.chat_template { "yes" } else { "no" }.into()),
            (
                "special ids",
                format!("begin {}, end {}", ids(self.bos_token_id.as_slice()), ids(self.eos_token_ids)),
            ),
        ]);
        facts(&rows)
    }

    fn parameters(&self) -> String {
        let (total, active) = (self.total_parameters, self.active_parameters);
        let share = percent((total > 0).then(|| active as f64 / total as f64));
        let number = |count: u64| si(Some(count as f64), "");
        let text = format!("{} in all, {} active per token ({share})", number(total), number(active));
        match self.active_parameters_without_embedding {
            without if without == active => text,
            without => format!("{text}, {} without the embedding table", number(without)),
        }
    }

    fn cache(&self) -> String {
        let bytes = |bytes: u64| si(Some(bytes as f64), "B");
        let (token, full) = (bytes(self.cache_bytes_per_token), bytes(self.cache_bytes_full_context));
        let text = format!("{token} per token, {full} for the full context");
        match self.cache_bytes_per_sequence {
            0 => text,
            states => format!("{text}, and states of {} per sequence", bytes(states)),
        }
    }

    fn table(&self) -> String {
        let columns = ["parameters", "active", "bytes", "share"].map(|name| (name, Align::Right));
        let format = ("format", Align::Left);
        let mut table = Table::new(&[&[("part", Align::Left)][..], &columns, &[format]].concat());
        let number = |number: u64| si(Some(number as f64), "");
        let bytes = |bytes: Option<u64>| si(bytes.map(|bytes| bytes as f64), "B");
        let share = |parameters: u64| {
            percent((self.total_parameters > 0).then(|| parameters as f64 / self.total_parameters as f64))
        };
        for part in &self.parts {
            let Part { name, parameters, active_parameters, .. } = *part;
            let formats = if part.formats.is_empty() { UNKNOWN.into() } else { part.formats.join(" + ") };
            table.row([
                name.into(),
                number(parameters),
                number(active_parameters),
                bytes(part.bytes),
                share(parameters),
                formats,
            ]);
        }
        table.row([
            "all".into(),
            number(self.total_parameters),
            number(self.active_parameters),
            bytes(self.weight_bytes),
            share(self.total_parameters),
            String::new(),
        ]);
        format!("\n{}", table.render())
    }

    fn remarks(&self) -> String {
        let mut text = String::new();
        if self.weight_bytes.is_none() {
            text += &format!(
                "\n{FAINT}No weights here: this is what config.json says, so bytes are n/a; name a --format for them.{FAINT:#}\n"
            );
        }
        let lists = [
            ("ignored tensors", self.ignored_tensors),
            ("unknown tensors", self.unknown_tensors),
            ("unknown keys of config.json", self.unknown_keys),
        ];
        for (what, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
            let listed: Vec<_> = names.iter().take(LISTED_NAMES).map(|name| printable(name)).collect();
            let more = names.len() - listed.len();
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            text += &format!("\n{} {what}: {}{more}\n", names.len(), listed.join(", "));
        }
        text
    }
}

impl Moe<'_> {
    fn facts(&self, n_layers: usize) -> Vec<(&'static str, String)> {
        let Moe { layers, n_experts, experts_per_token, intermediate, .. } = *self;
        let place = if layers == n_layers { String::new() } else { format!(" in {layers} of the layers") };
        let shared = match self.shared_intermediate {
            Some(width) => format!("one of width {width}, for every token"),
            None => "none".into(),
        };
        vec![
            ("experts", format!("{n_experts} of width {intermediate}{place}, {experts_per_token} per token")),
            ("shared", shared),
            ("router", self.router.to_owned()),
        ]
    }
}

/// The names of formats that hold more than a trace of the bytes.
pub(crate) fn listed(formats: &[(WeightFormat, u64)]) -> Vec<&'static str> {
    let trace = LISTED_SHARE * formats.iter().map(|&(_, bytes)| bytes as f64).sum::<f64>();
    formats.iter().filter(|&&(_, bytes)| bytes as f64 >= trace).map(|(format, _)| format.name()).collect()
}

fn ids(ids: &[u32]) -> String {
    match ids {
        [] => "none".into(),
        ids => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
