//! The library in one page: open a model, continue a prompt, print each piece as it comes.
//!
//! You learn: `Model::open`, `GenerateOptions`, streaming by iterating, and what the summary says.
//! Run: `cargo run --release -p moebius-examples --example generate -- "Once upon a time"`

use std::error::Error;
use std::io::{Write, stdout};

use moebius::metering::{Phase, format};
use moebius::{GenerateOptions, Model, OpenOptions, Prompt, SamplingParams, Summary, bundled_model};

fn main() -> Result<(), Box<dyn Error>> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "Once upon a time".into());
    let options = GenerateOptions {
        max_tokens: Some(120),
        // A seed makes a sampled text repeatable. `SamplingParams::default()` is greedy.
        sampling: Some(SamplingParams { temperature: 0.7, top_p: 0.9, seed: 7, ..SamplingParams::default() }),
        stop: vec!["The end".into()],
        ..GenerateOptions::default()
    };
    let summary = lesson(&prompt, &options, &mut stdout().lock())?;
    print_summary(&summary, &mut stdout().lock())?;
    Ok(())
}

fn lesson(prompt: &str, options: &GenerateOptions, out: &mut impl Write) -> Result<Summary, Box<dyn Error>> {
    let mut model = Model::open(bundled_model()?, &OpenOptions::default())?;
    write!(out, "{prompt}")?;
    let mut generation = model.generate(Prompt::Text(prompt), options)?;
    for piece in generation.by_ref() {
        // A piece is empty while a character or a stop string may still be incomplete.
        write!(out, "{}", piece?.text)?;
        out.flush()?;
    }
    Ok(generation.finish())
}

fn print_summary(summary: &Summary, out: &mut impl Write) -> std::io::Result<()> {
    let speed =
        |reading: &moebius::metering::Reading, phase| format::si(reading.tokens_per_second(phase), "tok/s");
    writeln!(out, "\n")?;
    writeln!(out, "finished by   {}", summary.finish)?;
    writeln!(
        out,
        "prompt        {:>4} tokens, {}",
        summary.prompt.len(),
        speed(&summary.prefill, Phase::Prefill)
    )?;
    writeln!(
        out,
        "generated     {:>4} tokens, {}",
        summary.tokens.len(),
        speed(&summary.decode, Phase::Decode)
    )?;
    writeln!(
        out,
        "experts       {} of their dense twin's work saved",
        format::percent(summary.decode.expert_saved_share())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_are_the_text_of_the_tokens() {
        let options = GenerateOptions {
            max_tokens: Some(12),
            sampling: Some(SamplingParams::default()),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let mut out = Vec::new();
        let summary = lesson("Once upon a time", &options, &mut out).unwrap();
        let model = Model::open(bundled_model().unwrap(), &OpenOptions::default()).unwrap();
        let ids = [summary.prompt.as_slice(), &summary.tokens].concat();
        assert_eq!((summary.tokens.len(), summary.finish), (12, "length"));
        assert_eq!(String::from_utf8(out).unwrap(), model.tokenizer().unwrap().decode(&ids, true));
        print_summary(&summary, &mut Vec::new()).unwrap();
    }
}
