//! Which model and which texts a person means by the words of `moebius score`, and what is in the texts.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use moebius::{Error, Model, Needs, Score};

use crate::args::{OutputArgs, ScoreArgs};
use crate::commands::model_dir;
use crate::errors::{CliError, Result};
use crate::terminal::printable;

/// Sequences from one file, or one sequence of ids.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) sequences: Vec<Vec<u32>>,
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The model; `None` is the default one.
    pub(crate) model: Option<PathBuf>,
    /// Files to read; none when there are ids.
    pub(crate) texts: Vec<PathBuf>,
}

/// A file that was read.
pub(crate) struct Text {
    name: String,
    content: String,
}

/// Sorts the paths into model and texts.
pub(crate) fn resolve(args: &ScoreArgs) -> Result<Request> {
    let (model, first) = match args.first.as_deref() {
        Some(path) if !args.ids.is_empty() || names_model(path) => (Some(path), None),
        Some(path) if is_stdin(path) || path.exists() => (None, Some(path)),
        Some(path) => return Err(nothing_at(path)),
        None => (None, None),
    };
    let texts = first.into_iter().chain(args.files.iter().chain(&args.text).map(PathBuf::as_path));
    let request =
        Request { model: model.map(Path::to_path_buf), texts: texts.map(Path::to_path_buf).collect() };
    if request.texts.is_empty() && args.ids.is_empty() {
        return Err(CliError::usage(
            "there is nothing to score",
            "give text files, --text FILE or --ids IDS",
        ));
    }
    Ok(request)
}

impl Request {
    /// Where the model is.
    pub(crate) fn dir(&self, output: &OutputArgs) -> Result<PathBuf> {
        match &self.model {
            Some(path) if path.exists() => Ok(path.clone()),
            Some(path) => model_dir(Some(&path.to_string_lossy()), Needs::Everything, output),
            None => model_dir(None, Needs::Everything, output),
        }
    }

    /// What the files say.
    pub(crate) fn read(&self) -> Result<Vec<Text>> {
        self.texts.iter().map(|path| read(path)).collect()
    }
}

/// The texts and ids as sequences that fit the model's context.
pub(crate) fn inputs(model: &Model, args: &ScoreArgs, texts: Vec<Text>) -> Result<Vec<Input>> {
    let mut inputs = of_texts(model, texts)?;
    for (index, ids) in args.ids.iter().enumerate() {
        inputs.push(Input { name: format!("ids {}", index + 1), sequences: vec![ids.0.clone()] });
    }
    Ok(inputs)
}

/// The texts as sequences that fit the model's context.
pub(crate) fn of_texts(model: &Model, texts: Vec<Text>) -> Result<Vec<Input>> {
    let input = |Text { name, content }: Text| match model.windows(&content) {
        Ok(sequences) => Ok(Input { name, sequences }),
        Err(error @ Error::NothingToScore(_)) => {
            Err(CliError::Hinted(error, format!("give a longer text than `{name}`")))
        }
        Err(error) => Err(error.into()),
    };
    texts.into_iter().map(input).collect()
}

/// Each input with the scores of its sequences.
pub(crate) fn by_input<'a>(inputs: &'a [Input], scores: &'a [Score]) -> Vec<(&'a Input, &'a [Score])> {
    let mut rest = scores;
    let mut pairs = Vec::new();
    for input in inputs {
        let (these, others) = rest.split_at(input.sequences.len());
        rest = others;
        pairs.push((input, these));
    }
    pairs
}

/// What a file, or stdin for `-`, says.
pub(crate) fn read(path: &Path) -> Result<Text> {
    if is_stdin(path) {
        let mut content = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut content);
        read.map_err(|source| CliError::Input { name: "stdin".into(), source })?;
        return Ok(Text { name: "stdin".into(), content });
    }
    let content = std::fs::read_to_string(path).map_err(|source| CliError::input(path, source))?;
    Ok(Text { name: printable(&path.display().to_string()).into_owned(), content })
}

/// Whether a path is where a model may be: a directory, a configuration, or a GGUF file.
fn names_model(path: &Path) -> bool {
    let is_model_file = |extension: &OsStr| extension == "json" || extension.eq_ignore_ascii_case("gguf");
    path.is_dir() || (path.is_file() && path.extension().is_some_and(is_model_file))
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// What to say of a first path that leads nowhere.
fn nothing_at(path: &Path) -> CliError {
    let hint = "give a model directory, or text files for the default model; nothing lies at this path";
    CliError::Hinted(Error::ModelNotFound(path.into()), hint.into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(words: &[&str]) -> Result<Request> {
        let cli = Cli::try_parse_from(["moebius", "score"].iter().chain(words)).expect("valid usage");
        let Some(Command::Score(args)) = cli.command else { panic!("expected `score`") };
        resolve(&args)
    }

    fn check(words: &[&str], model: Option<&str>, texts: &[&str]) {
        let request = parse(words).expect("a model and texts");
        let texts = texts.iter().map(PathBuf::from).collect();
        assert_eq!(request, Request { model: model.map(PathBuf::from), texts }, "{words:?}");
    }

    #[test]
    fn the_first_path_is_the_model_if_one_may_be_there() {
        check(&["src", "a.txt", "b.txt"], Some("src"), &["a.txt", "b.txt"]);
        check(&["src", "--text", "a.txt"], Some("src"), &["a.txt"]);
        check(&["src", "-"], Some("src"), &["-"]);
        check(&["Cargo.toml", "src"], None, &["Cargo.toml", "src"]);
        check(&["Cargo.toml", "a.txt", "--text", "b.txt"], None, &["Cargo.toml", "a.txt", "b.txt"]);
        check(&["-"], None, &["-"]);
        check(&["--text", "a.txt", "--text", "-"], None, &["a.txt", "-"]);
    }

    #[test]
    fn a_configuration_is_a_model_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("config.json");
        std::fs::write(&config, "{}").expect("a file");
        let config = config.to_str().expect("a name in UTF-8");
        check(&[config, "a.txt"], Some(config), &["a.txt"]);
    }

    #[test]
    fn with_ids_the_only_path_is_the_model() {
        check(&["Cargo.toml", "--ids", "1,2"], Some("Cargo.toml"), &[]);
        check(&["--ids", "1,2"], None, &[]);
    }

    #[test]
    fn a_path_to_nothing_and_a_model_alone_are_refused() {
        assert!(matches!(parse(&["missing", "a.txt"]), Err(CliError::Hinted(Error::ModelNotFound(_), _))));
        for words in [&[][..], &["src"]] {
            assert!(matches!(parse(words), Err(CliError::Usage { .. })), "{words:?}");
        }
    }
}
