//! `moebius score`.

pub(crate) mod inputs;

use moebius::metering::format::percent;
use moebius::router::ExpertLoad;
use moebius::{LayerLoads, Model, Score, ScoreOptions, perplexity};
use serde::Serialize;

use crate::args::{OutputArgs, ScoreArgs};
use crate::commands::routing::{self, Routing};
use crate::errors::Result;
use crate::interrupt::Interrupt;
use crate::json;
use crate::meter::{self, Meter};
use crate::modelled::Modelled;
use crate::progress::Opening;
use crate::table::{Align, Table};
use crate::terminal::{print, printable, remark, say};
use crate::tracing;
use inputs::Input;

#[derive(Serialize)]
struct Report<'a> {
    sequences: Vec<Sequence<'a>>,
    total: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<routing::Report<'a>>,
    meter: Meter,
    #[serde(skip_serializing_if = "Option::is_none")]
    modelled: Option<Modelled>,
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
    let dir = request.dir(output)?;
    let texts = request.read()?;
    let interrupt = Interrupt::install();
    let (mut model, _) = Opening::new(&args.model_args).open(&dir, &interrupt, output)?;
    let inputs = inputs::inputs(&model, args, texts)?;
    let sequences: Vec<Vec<u32>> = inputs.iter().flat_map(|input| input.sequences.clone()).collect();
    let options = ScoreOptions { dump: args.dump.as_deref(), routing: args.routing };
    tracing::start(&mut model, &args.trace)?;
    let before = model.modelled();
    let (scores, reading) = model.score(&sequences, &options)?;
    let account = model.modelled().zip(before).map(|(now, before)| &now - &before);
    let modelled = model.declared().zip(account);
    let modelled = modelled.map(|(declared, account)| declared.prefill(account, &reading.counts));
    tracing::finish(&mut model, output)?;
    let scored = inputs::by_input(&inputs, &scores);
    let routing = args.routing.then(|| routing_of(&scored));
    if args.json.json {
        return json::print(&Report {
            sequences: scored.iter().flat_map(|(input, scores)| Sequence::of(input, scores)).collect(),
            total: Figures::new(&scores),
            routing: routing.as_ref().map(Routing::report),
            meter: Meter::new(model.info(), &reading, None),
            modelled: (modelled.as_ref().zip(model.declared()))
                .map(|(phase, declared)| Modelled::of_prompt(phase, declared, model.info().hidden)),
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
        say(format!("\n{}", meter::score_block(&model, &reading, modelled.as_ref())).trim_end());
    }
    Ok(())
}

/// How the inputs used the experts.
fn routing_of<'a>(scored: &[(&'a Input, &[Score])]) -> Routing<'a> {
    let loads: Vec<LayerLoads> = scored.iter().map(|(_, scores)| loads_of(scores)).collect();
    Routing::new(scored.iter().map(|(input, _)| input.name.as_str()).collect(), &loads)
}

/// The loads of all sequences of an input.
fn loads_of(scores: &[Score]) -> LayerLoads {
    let mut sum = LayerLoads::new();
    for (&layer, load) in scores.iter().filter_map(|score| score.loads.as_ref()).flatten() {
        let all = sum.entry(layer).or_insert_with(|| ExpertLoad::new(load.counts().len()));
        all.merge(load).expect("a layer has one number of experts");
    }
    sum
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
