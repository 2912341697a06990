//! `moebius explain`: a lesson with true numbers, 80 columns wide.

use moebius::metering::format::{percent, si};
use moebius::router::{Renormalize, Score, WeightTarget};
use moebius::{Explanation, Model, Needs};
use serde::Serialize;

use crate::args::{ExplainArgs, OutputArgs};
use crate::commands::model_dir;
use crate::errors::Result;
use crate::table::{Align, Table};
use crate::terminal::{FAINT, GOOD, HEADING, print, printable};
use crate::{json, progress};

const PROMPT: &str = "Once upon a time";
/// Experts that are listed beyond the chosen ones.
const RUNNERS_UP: usize = 3;
/// Differences as small as this share of a vector's length are rounding.
const ROUNDING: f64 = 1e-6;
/// Columns of the longest bar.
const BAR: f32 = 24.0;

#[derive(Serialize)]
struct Report<'a> {
    tokens: &'a [u32],
    token: usize,
    text: Option<&'a str>,
    layer: usize,
    layers_with_router: &'a [usize],
    formula: String,
    n_experts: usize,
    experts_per_token: usize,
    logits: &'a [f32],
    scores: &'a [f32],
    ranks: Option<&'a [f32]>,
    experts: Vec<Expert>,
    input_norm: f64,
    output_norm: f64,
    largest_difference: f64,
    flops: u64,
    dense_twin_flops: u64,
    expert_saved_share: f64,
    expert_bytes: u64,
    dense_twin_expert_bytes: u64,
    prompt_expert_flops: u64,
    prompt_iso_total_expert_flops: u64,
    model_saved_share: Option<f64>,
}

#[derive(Serialize)]
struct Expert {
    expert: u32,
    logit: f32,
    score: f32,
    weight: f32,
    output_norm: f64,
    added_norm: f64,
}

/// Walks one token through one layer.
pub(crate) fn explain(args: &ExplainArgs, output: &OutputArgs) -> Result<()> {
    let dir = model_dir(args.model.as_deref(), Needs::Everything, output)?;
    let options = args.model_args.open_options();
    let mut model =
        progress::with_bar(output, "loading", |bar| Model::open_with_progress(&dir, &options, bar))?;
    let ids = match &args.ids {
        Some(ids) => ids.0.clone(),
        None => model.tokenizer()?.encode(args.prompt.as_deref().unwrap_or(PROMPT), true)?,
    };
    let token = args.token.unwrap_or(ids.len().saturating_sub(1));
    let explained = model.explain(&ids, token, args.layer)?;
    let text = model.tokenizer().ok().map(|tokenizer| tokenizer.decode(&ids[token..=token], false));
    let report = Report::new(&explained, &ids, text.as_deref());
    if args.json.json {
        return json::print(&report);
    }
    print(&report.lesson(&explained))
}

impl<'a> Report<'a> {
    fn new(explained: &'a Explanation, tokens: &'a [u32], text: Option<&'a str>) -> Self {
        let (n_experts, top_k) = (explained.router.n_experts as u64, explained.experts.len() as u64);
        let flops = |experts: u64| 2 * explained.macs_per_expert * experts;
        let experts = explained.experts.iter().map(|e| Expert {
            expert: e.expert,
            logit: e.logit,
            score: e.score,
            weight: e.weight,
            output_norm: e.output_norm,
            added_norm: e.added_norm,
        });
        Report {
            tokens,
            token: explained.position,
            text,
            layer: explained.layer,
            layers_with_router: &explained.layers_with_router,
            formula: explained.router.formula(),
            n_experts: explained.router.n_experts,
            experts_per_token: explained.experts.len(),
            logits: &explained.logits,
            scores: &explained.scores,
            ranks: explained.ranks.as_deref(),
            experts: experts.collect(),
            input_norm: explained.input_norm,
            output_norm: explained.output_norm,
            largest_difference: explained.largest_difference,
            flops: flops(top_k),
            dense_twin_flops: flops(n_experts),
            expert_saved_share: 1.0 - top_k as f64 / n_experts as f64,
            expert_bytes: top_k * explained.bytes_per_expert,
            dense_twin_expert_bytes: n_experts * explained.bytes_per_expert,
            prompt_expert_flops: explained.reading.expert_flops(),
            prompt_iso_total_expert_flops: explained.reading.iso_total_expert_flops(),
            model_saved_share: explained.reading.model_saved_share(),
        }
    }

    fn lesson(&self, explained: &Explanation) -> String {
        let text = self.text.map_or(String::new(), |text| format!(" \"{}\"", printable(text)));
        let mut lesson = format!(
            "{HEADING}Token {} of {}{text}, in decoder layer {}{HEADING:#}\n{}\n",
            self.token,
            self.tokens.len(),
            self.layer,
            wrapped(&format!("The router's formula: {}.", self.formula)),
        );
        lesson += &self.gate(explained);
        lesson += &self.weights(explained);
        lesson += &self.combine(explained);
        lesson + &self.saved(explained)
    }

    fn gate(&self, explained: &Explanation) -> String {
        let (score, words) = match explained.router.score {
            Score::Sigmoid => ("sigmoid", "A sigmoid makes each a score between 0 and 1."),
            Score::SoftmaxOverTopK => {
                ("softmax", "Logits are ranked; the softmax over all shows how they compare.")
            }
            Score::SparseMixer { .. } => {
                ("softmax", "Logits are ranked; the softmax over all shows how they compare.")
            }
            Score::Softmax => ("softmax", "The softmax makes them shares of 1."),
        };
        let mut columns = vec![("expert", Align::Right), ("logit", Align::Right), (score, Align::Right)];
        if self.ranks.is_some() {
            columns.push(("with bias", Align::Right));
        }
        columns.extend([("chosen", Align::Left), ("", Align::Left)]);
        let mut table = Table::new(&columns);
        let mut order: Vec<usize> = (0..self.n_experts).collect();
        let rank = self.ranks.unwrap_or(self.scores);
        order.sort_by(|&a, &b| rank[b].total_cmp(&rank[a]).then(a.cmp(&b)));
        let chosen = |expert: usize| self.experts.iter().any(|e| e.expert as usize == expert);
        let (yes, no): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&expert| chosen(expert));
        let most = self.scores.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        for &expert in yes.iter().chain(no.iter().take(RUNNERS_UP)) {
            let mut cells = vec![expert.to_string(), format!("{:.3}", self.logits[expert])];
            cells.push(format!("{:.4}", self.scores[expert]));
            cells.extend(self.ranks.map(|ranks| format!("{:.4}", ranks[expert])));
            cells.push(if chosen(expert) { "yes" } else { "-" }.into());
            cells.push("#".repeat((BAR * self.scores[expert] / most).round() as usize));
            table.row(cells);
        }
        let more = no.len().saturating_sub(RUNNERS_UP);
        let more = if more > 0 {
            format!("{FAINT}... and {more} more that were not chosen{FAINT:#}\n")
        } else {
            String::new()
        };
        let (width, n_experts) = (explained.widths.0, self.n_experts);
        let intro = format!(
            "The gate multiplies the token's {width} numbers with a matrix: {n_experts} logits, one for each expert. {words}"
        );
        format!("\n{HEADING}1. Gate and choice{HEADING:#}\n{}\n\n{}{more}", wrapped(&intro), table.render())
    }

    fn weights(&self, explained: &Explanation) -> String {
        let sum: f32 = self.experts.iter().map(|e| e.score).sum();
        let rule = match (explained.router.score, explained.router.renormalize) {
            (Score::SoftmaxOverTopK, _) => {
                "The softmax is taken once more over the chosen logits alone.".to_owned()
            }
            (Score::SparseMixer { .. }, _) => "Each is weighted by a softmax of its own.".to_owned(),
            (_, Renormalize::No) => "The scores are the weights as they are.".to_owned(),
            _ => format!("Their scores sum to {sum:.4}; divided by that they sum to 1."),
        };
        let scale = match explained.router.scale {
            1.0 => String::new(),
            scale => format!(" All are multiplied by {scale}."),
        };
        let weights: Vec<String> =
            self.experts.iter().map(|e| format!("{} x {:.4}", e.expert, e.weight)).collect();
        let intro = format!("{rule}{scale}");
        let list = wrapped(&format!("expert x weight: {}", weights.join(", ")));
        format!("\n{HEADING}2. Weights{HEADING:#}\n{}\n{list}\n", wrapped(&intro))
    }

    fn combine(&self, explained: &Explanation) -> String {
        let (width, intermediate) = explained.widths;
        let columns = ["expert", "weight", "|expert(x)|", "|added|"].map(|name| (name, Align::Right));
        let mut table =
            Table::new(&[&columns[..], &[("first numbers of what it adds", Align::Left)]].concat());
        let numbers =
            |values: &[f32]| values.iter().map(|v| format!("{v:+.3}")).collect::<Vec<_>>().join(" ");
        for (e, shown) in self.experts.iter().zip(&explained.experts) {
            table.row([
                e.expert.to_string(),
                format!("{:.4}", e.weight),
                format!("{:.4}", e.output_norm),
                format!("{:.4}", e.added_norm),
                numbers(&shown.added),
            ]);
        }
        table.row([
            "sum".into(),
            String::new(),
            String::new(),
            format!("{:.4}", self.output_norm),
            numbers(&explained.output),
        ]);
        let target = match explained.router.applies_to {
            WeightTarget::Output => "multiplied by its weight and added up",
            WeightTarget::Input => "given its input times its weight, and added up",
        };
        let intro = format!(
            "Each chosen expert, {width} to {intermediate} to {width} numbers, looks at the same vector of length {:.4}; \
             what it makes of that is {target}.",
            self.input_norm
        );
        let check = match self.largest_difference <= ROUNDING * self.output_norm {
            true => {
                "The layer itself gave this sum: no number is off by more than a millionth of its length."
                    .into()
            }
            false => {
                format!("The layer gave another sum: a number is off by {:.1e}.", self.largest_difference)
            }
        };
        format!(
            "\n{HEADING}3. Experts and their sum{HEADING:#}\n{}\n\n{}{}\n",
            wrapped(&intro),
            table.render(),
            wrapped(&check)
        )
    }

    fn saved(&self, explained: &Explanation) -> String {
        let (ran, all) = (self.experts_per_token, self.n_experts);
        let (flops, bytes) = (|n: u64| si(Some(n as f64), "FLOP"), |n: u64| si(Some(n as f64), "B"));
        let here = format!(
            "{ran} of {all} experts ran: {} instead of {}, {} of weights instead of {}.",
            flops(self.flops),
            flops(self.dense_twin_flops),
            bytes(self.expert_bytes),
            bytes(self.dense_twin_expert_bytes),
        );
        let share = percent(Some(self.expert_saved_share));
        let whole = format!(
            "All {} tokens in all {} layers with a router: {} of the experts instead of {}, which saves {} of the whole \
             model's work beside a twin that runs every expert (iso-total).",
            self.tokens.len(),
            explained.layers_with_router.len(),
            flops(self.prompt_expert_flops),
            flops(self.prompt_iso_total_expert_flops),
            percent(self.model_saved_share),
        );
        format!(
            "\n{HEADING}4. What that saved{HEADING:#}\n{}\n{GOOD}{share} of the experts' work saved (1 - {ran}/{all}){GOOD:#}\n{}\n",
            wrapped(&here),
            wrapped(&whole)
        )
    }
}

/// Text in lines of at most 80 columns.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 80;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(word.to_owned());
        } else {
            *line += if line.is_empty() { "" } else { " " };
            *line += word;
        }
    }
    lines.join("\n")
}
