//! `moebius score`.

use std::io::Read;
use std::path::Path;

use moebius::metering::format::percent;
use moebius::{Model, Score, ScoreOptions, perplexity};
use serde::Serialize;

use crate::args::{OutputArgs, ScoreArgs};
use crate::commands::model_dir;
use crate::errors::{CliError, Result};
use crate::meter::{self, Meter};
use crate::table::{Align, Table};
use crate::terminal::{print, printable, say};
use crate::{json, progress};

/// Sequences from one file, or one sequence of ids.
struct Input {
    name: String,
    sequences: Vec<Vec<u32>>,
}

#[derive(Serialize)]
struct Report<'a> {
    sequences: Vec<Sequence<'a>>,
    total: Figures,
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
    let dir = model_dir(args.model.as_deref())?;
    let texts: Vec<(String, String)> = args.text.iter().map(|path| read(path)).collect::<Result<_>>()?;
    let (mut model, _) = progress::open(&dir, &args.model_args.open_options(), output)?;
    let mut inputs = Vec::new();
    for (name, text) in texts {
        inputs.push(Input { name, sequences: model.windows(&text)? });
    }
    for (index, ids) in args.ids.iter().enumerate() {
        inputs.push(Input { name: format!("ids {}", index + 1), sequences: vec![ids.0.clone()] });
    }
    let sequences: Vec<Vec<u32>> = inputs.iter().flat_map(|input| input.sequences.clone()).collect();
    let (scores, reading) = model.score(&sequences, &ScoreOptions { dump: args.dump.as_deref() })?;
    if args.json.json {
        let names = inputs.iter().flat_map(|input| input.sequences.iter().map(|_| input.name.as_str()));
        let parts = names.zip(&sequences).zip(&scores);
        let sequences = parts.map(|((source, ids), score)| Sequence {
            source,
            ids,
            logprobs: &score.logprobs,
            predicted: score.predicted,
            figures: Figures::new(std::slice::from_ref(score)),
        });
        let sequences = sequences.collect();
        let meter = Meter::new(model.info(), &reading, None);
        return json::print(&Report { sequences, total: Figures::new(&scores), meter });
    }
    print(&table(&model, &inputs, &scores))?;
    if output.verbose {
        say(format!("\n{}", meter::score_block(model.info(), &reading)).trim_end());
    }
    Ok(())
}

fn read(path: &Path) -> Result<(String, String)> {
    if path == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut text);
        read.map_err(|source| CliError::Input { name: "stdin".into(), source })?;
        return Ok(("stdin".into(), text));
    }
    let text = std::fs::read_to_string(path).map_err(|source| CliError::input(path, source))?;
    Ok((printable(&path.display().to_string()).into_owned(), text))
}

fn table(model: &Model, inputs: &[Input], scores: &[Score]) -> String {
    let columns = ["tokens", "logprob", "perplexity", "top-1"].map(|name| (name, Align::Right));
    let mut table =
        Table::new(&[&[("input", Align::Left)][..], &columns, &[("then comes", Align::Left)]].concat());
    let mut rest = scores;
    for input in inputs {
        let (these, others) = rest.split_at(input.sequences.len());
        rest = others;
        table.row(row(&input.name, these, next_token(model, these)));
    }
    if inputs.len() > 1 {
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
