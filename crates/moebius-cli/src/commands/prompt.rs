//! Which model and which prompt a person means by the words of `moebius run`.

use std::io::{self, IsTerminal, Read};
use std::path::Path;

use crate::args::RunArgs;
use crate::errors::{CliError, Result};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The model; `None` is the default one.
    pub(crate) model: Option<String>,
    /// The model was guessed from a word that might have been meant as a prompt.
    pub(crate) guessed: bool,
    /// What to continue.
    pub(crate) source: Source,
}

/// Where the prompt comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// These words.
    Text(String),
    /// These ids.
    Ids(Vec<u32>),
    /// A person, line after line.
    Chat,
}

/// Sorts the words into model and prompt and reads the prompt.
pub(crate) fn resolve(args: &RunArgs) -> Result<Request> {
    let elsewhere = args.prompt.is_some() || args.file.is_some() || args.ids.is_some();
    let (first, second, model) = (args.first.clone(), args.second.clone(), args.model.clone());
    let (model, word, guessed) = match (first, second, model) {
        (None, _, model) => (model, None, false),
        (Some(_), None, Some(_)) | (Some(_), Some(_), None) if elsewhere => {
            return Err(CliError::usage("there are two prompts", "give one, in quotes if it has spaces"));
        }
        (Some(prompt), None, Some(model)) => (Some(model), Some(prompt), false),
        (Some(model), None, None) if elsewhere => (Some(model), None, false),
        (Some(model), None, None) if names_model(&model) => (Some(model), None, true),
        (Some(prompt), None, None) => (None, Some(prompt), false),
        (Some(model), Some(prompt), None) => (Some(model), Some(prompt), false),
        (Some(_), Some(_), Some(_)) => {
            let hint = "leave out --model, or give the prompt as one argument in quotes";
            return Err(CliError::usage("the model is named twice", hint));
        }
    };
    Ok(Request { model, guessed, source: source(args, word)? })
}

fn source(args: &RunArgs, word: Option<String>) -> Result<Source> {
    if let Some(ids) = &args.ids {
        return Ok(Source::Ids(ids.0.clone()));
    }
    if let Some(path) = &args.file {
        if path == Path::new("-") {
            return stdin();
        }
        let text = std::fs::read_to_string(path).map_err(|source| CliError::input(path, source))?;
        return Ok(Source::Text(without_line_break(text)));
    }
    match args.prompt.clone().or(word) {
        Some(text) if text == "-" => stdin(),
        Some(text) => Ok(Source::Text(text)),
        None if io::stdin().is_terminal() => Ok(Source::Chat),
        None => stdin(),
    }
}

fn stdin() -> Result<Source> {
    let mut text = String::new();
    let read = io::stdin().lock().read_to_string(&mut text);
    read.map_err(|source| CliError::Input { name: "stdin".into(), source })?;
    Ok(Source::Text(without_line_break(text)))
}

/// Without the line break that editors and `echo` put at the end.
fn without_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// Whether a single word is a model rather than a prompt: a directory, a GGUF file, a path, or `owner/name`.
fn names_model(word: &str) -> bool {
    let path = Path::new(word);
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if path.is_dir() || (is_gguf && path.is_file()) {
        return true;
    }
    let path_like = word.starts_with(['/', '~']) || word.starts_with("./") || word.starts_with("../");
    let separated = word.contains(['/', std::path::MAIN_SEPARATOR]);
    !word.contains(char::is_whitespace) && (path_like || separated || [".", ".."].contains(&word))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(words: &[&str]) -> Result<Request> {
        let cli = Cli::try_parse_from(["moebius", "run"].iter().chain(words)).expect("valid usage");
        let Some(Command::Run(args)) = cli.command else { panic!("expected `run`") };
        resolve(&args)
    }

    fn check(words: &[&str], model: Option<&str>, source: Source) {
        let request = parse(words).expect("a model and a prompt");
        assert_eq!((request.model.as_deref(), request.source), (model, source), "{words:?}");
    }

    fn text(text: &str) -> Source {
        Source::Text(text.into())
    }

    #[test]
    fn a_single_word_is_a_prompt_unless_it_looks_like_a_model() {
        check(&["Once"], None, text("Once"));
        check(&["Once upon / a time"], None, text("Once upon / a time"));
        check(&["...and then"], None, text("...and then"));
        for word in [".", "./model", "../model", "/models/a", "~/model", "owner/name", "src"] {
            assert!(names_model(word), "{word}");
        }
        for word in ["Hello", "...", "", "~ a/b"] {
            assert!(!names_model(word) || word.starts_with('~'), "{word}");
        }
    }

    #[test]
    fn two_words_are_model_and_prompt() {
        check(&["m", "Once"], Some("m"), text("Once"));
        check(&["-m", "m", "Once"], Some("m"), text("Once"));
        check(&["m", "--prompt", "Once"], Some("m"), text("Once"));
        check(&["m", "--ids", "1,2"], Some("m"), Source::Ids(vec![1, 2]));
        check(&["--ids", "1,2"], None, Source::Ids(vec![1, 2]));
    }

    #[test]
    fn two_models_or_two_prompts_are_refused() {
        for words in [
            &["-m", "m", "a", "b"][..],
            &["m", "a", "--prompt", "b"],
            &["m", "a", "--ids", "1"],
            &["-m", "m", "a", "--prompt", "b"],
        ] {
            assert!(matches!(parse(words), Err(CliError::Usage { .. })), "{words:?}");
        }
    }

    #[test]
    fn one_line_break_is_dropped() {
        for (text, expected) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", "")] {
            assert_eq!(without_line_break(text.into()), expected);
        }
    }
}
