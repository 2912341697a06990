//! `moebius score`.

mod inputs;
mod routing;

use moebius::metering::format::percent;
use moebius::{Model, Score, ScoreOptions, perplexity};
use serde::Serialize;

use crate::args::{OutputArgs, ScoreArgs};
use crate::errors::Result;
use crate::interrupt::Interrupt;
use crate::json;
use crate::meter::{self, Meter};
use crate::progress::Opening;
use crate::table::{Align, Table};
use crate::terminal::{print, printable, remark, say};
use inputs::Input;
use routing::Routing;

#[derive(Serialize)]
struct Report<'a> {
    sequences: Vec<Sequence<'a>>,
    total: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<routing::Report<'a>>,
    meter: Meter,
}

#[derive(Serialize)]
struct Sequence<'a> {
    source: &'a str,
    ids: &'a [u32],
    logprobs: &'a [f32],
    predicted: u32,
    #[serde(flatten)]
    figures: Figures,
}

/// What is said of one or more sequences.
#[derive(Serialize)]
struct Figures {
    tokens: usize,
    scored: usize,
    correct: usize,
    logprob: Option<f64>,
    perplexity: Option<f64>,
    top1_accuracy: Option<f64>,
}

/// Scores texts or ids.
pub(crate) fn score(args: &ScoreArgs, output: &OutputArgs) -> Result<()> {
    let request = inputs::resolve(args)?;
    let dir = request.dir()?;
    let texts = request.read()?;
    let interrupt = Interrupt::install();
    let (mut model, _) = Opening::new(&args.model_args).open(&dir, &interrupt, output)?;
    let inputs = inputs::inputs(&model, args, texts)?;
    let sequences: Vec<Vec<u32>> = inputs.iter().flat_map(|input| input.sequences.clone()).collect();
    let options = ScoreOptions { dump: args.dump.as_deref(), routing: args.routing };
    let (scores, reading) = model.score(&sequences, &options)?;
    let scored = inputs::by_input(&inputs, &scores);
    let routing = args.routing.then(|| Routing::new(&scored));
    if args.json.json {
        return json::print(&Report {
            sequences: scored.iter().flat_map(|(input, scores)| Sequence::of(input, scores)).collect(),
            total: Figures::new(&scores),
            routing: routing.as_ref().map(Routing::report),
            meter: Meter::new(model.info(), &reading, None),
        });
    }
    let routing = routing.map_or(String::new(), |routing| routing.render());
    print(&(table(&model, &scored, &scores) + &routing))?;
    if args.routing && inputs.len() == 1 {
        remark(
            output,
            "\nSeveral texts show what the experts specialise in: mutual information compares them.",
        );
    }
    if output.verbose {
        say(format!("\n{}", meter::score_block(model.info(), &reading)).trim_end());
    }
    Ok(())
}

fn table(model: &Model, scored: &[(&Input, &[Score])], scores: &[Score]) -> String {
    let columns = ["tokens", "logprob", "perplexity", "top-1"].map(|name| (name, Align::Right));
    let mut table =
        Table::new(&[&[("input", Align::Left)][..], &columns, &[("then comes", Align::Left)]].concat());
    for (input, these) in scored {
        table.row(row(&input.name, these, next_token(model, these)));
    }
    if scored.len() > 1 {
        table.row(row("all", scores, String::new()));
    }
    table.render()
}

/// The most likely token after the last sequence: its id, and its text if there is a tokenizer.
fn next_token(model: &Model, scores: &[Score]) -> String {
    let Some(Score { predicted, .. }) = scores.last() else { return String::new() };
    let token = model.tokenizer().ok().and_then(|tokenizer| tokenizer.token(*predicted));
    match token {
        Some(token) => format!("{predicted} \"{}\"", printable(&token)),
        None => predicted.to_string(),
    }
}

fn row(name: &str, scores: &[Score], next: String) -> [String; 6] {
    let figures = Figures::new(scores);
    let number = |value: Option<f64>| value.map_or("n/a".into(), |value| format!("{value:.4}"));
    [
        name.into(),
        figures.tokens.to_string(),
        number(figures.logprob),
        number(figures.perplexity),
        percent(figures.top1_accuracy),
        next,
    ]
}

impl<'a> Sequence<'a> {
    /// The sequences of an input with their scores.
    fn of(input: &'a Input, scores: &'a [Score]) -> impl Iterator<Item = Self> {
        input.sequences.iter().zip(scores).map(|(ids, score)| Sequence {
            source: &input.name,
            ids,
            logprobs: &score.logprobs,
            predicted: score.predicted,
            figures: Figures::new(std::slice::from_ref(score)),
        })
    }
}

impl Figures {
    fn new(scores: &[Score]) -> Self {
        let scored: usize = scores.iter().map(|score| score.logprobs.len()).sum();
        let correct = scores.iter().map(|score| score.correct).sum();
        let known = scored > 0;
        Figures {
            tokens: scores.iter().map(|score| score.tokens).sum(),
            scored,
            correct,
            logprob: known.then(|| scores.iter().map(Score::total_logprob).sum()),
            perplexity: perplexity(scores),
            top1_accuracy: known.then(|| correct as f64 / scored as f64),
        }
    }
}
