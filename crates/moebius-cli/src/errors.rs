//! What goes wrong, as people read it, and the exit code that programs read.
//!
//! Codes: 0 done, 1 failed while running, 2 wrong usage, 3 model not found, 4 invalid model, 5 not enough
//! memory, 130 interrupted. A reader of stdout who has seen enough (`| head`) is no error.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use moebius::ErrorKind;

use crate::terminal::{WARNING, printable};

/// What the exit code says after Ctrl-C, as shells do.
pub(crate) const INTERRUPTED: u8 = 130;

/// What is said of a file that is read through a mapping, where no error can be returned.
pub(crate) const MAPPED_FILE_GONE: &str = "\
error: a file of the model cannot be read any more: it was cut short, or its disk fails

hint: weights that are mapped need their file as it was when the model was opened: open it again
";

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The library says no.
    Library(moebius::Error),
    /// The library says no, and the command line knows better what to do about it.
    Hinted(moebius::Error, String),
    /// What was asked for makes no sense.
    Usage {
        /// What is wrong with it.
        message: String,
        /// What to try.
        hint: &'static str,
    },
    /// A file or stdin cannot be read.
    Input {
        /// What it is called.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Results cannot be written.
    Output(io::Error),
    /// Ctrl-C. All there is to say has been said.
    Interrupted,
}

/// Shorthand for results of this program.
pub(crate) type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// Usage that makes no sense.
    pub(crate) fn usage(message: impl Into<String>, hint: &'static str) -> Self {
        CliError::Usage { message: message.into(), hint }
    }

    /// A file that cannot be read.
    pub(crate) fn input(path: &Path, source: io::Error) -> Self {
        CliError::Input { name: format!("`{}`", path.display()), source }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CliError::Library(error) => error.hint(),
            CliError::Hinted(_, hint) => Some(hint.clone()),
            CliError::Usage { hint, .. } => Some((*hint).into()),
            CliError::Input { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                Some("texts are read as UTF-8".into())
            }
            CliError::Input { .. } => Some("check the name and the permissions".into()),
            CliError::Output(_) => Some("check that there is room where the output goes".into()),
            CliError::Interrupted => None,
        }
    }

    fn code(&self) -> u8 {
        match self {
            CliError::Library(error) | CliError::Hinted(error, _) => match error.kind() {
                ErrorKind::Runtime => 1,
                ErrorKind::Usage => 2,
                ErrorKind::NotFound => 3,
                ErrorKind::InvalidModel => 4,
                ErrorKind::Memory => 5,
            },
            CliError::Usage { .. } => 2,
            CliError::Input { .. } | CliError::Output(_) => 1,
            CliError::Interrupted => INTERRUPTED,
        }
    }

    fn is_silent(&self) -> bool {
        match self {
            CliError::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            CliError::Interrupted => true,
            _ => false,
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::Library(error) | CliError::Hinted(error, _) => error.fmt(f),
            CliError::Usage { message, .. } => f.write_str(message),
            CliError::Input { name, .. } => write!(f, "cannot read {name}"),
            CliError::Output(_) => f.write_str("cannot write the results"),
            CliError::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl StdError for CliError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            CliError::Library(error) | CliError::Hinted(error, _) => error.source(),
            CliError::Input { source, .. } | CliError::Output(source) => Some(source),
            CliError::Usage { .. } | CliError::Interrupted => None,
        }
    }
}

impl From<moebius::Error> for CliError {
    fn from(error: moebius::Error) -> Self {
        CliError::Library(error)
    }
}

impl From<moebius::text::TextError> for CliError {
    fn from(error: moebius::text::TextError) -> Self {
        CliError::Library(error.into())
    }
}

/// Says on stderr what went wrong and gives the exit code.
pub(crate) fn report(error: &CliError) -> ExitCode {
    if let CliError::Output(source) = error
        && source.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    if !error.is_silent() {
        explain(error);
    }
    ExitCode::from(error.code())
}

/// Says on stderr what went wrong, why, and what to try.
pub(crate) fn explain(error: &CliError) {
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let head = format!("{red}error:{red:#} {}\n", printable(&error.to_string()));
    tell(head, &causes(error), error.hint());
}

/// Says on stderr what is done without because of an error, why, and what to try.
pub(crate) fn warn(message: &str, error: &moebius::Error) {
    let mut all = vec![error.to_string()];
    all.extend(causes(error));
    tell(format!("{WARNING}warning:{WARNING:#} {message}\n"), &all, error.hint());
}

fn tell(head: String, causes: &[String], hint: Option<String>) {
    let cyan = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
    let bold = Style::new().bold();
    let mut lines = head;
    for cause in causes {
        lines += &format!("{bold}caused by:{bold:#} {}\n", printable(cause));
    }
    if let Some(hint) = hint {
        lines += &format!("\n{cyan}hint:{cyan:#} {}\n", printable(&hint));
    }
    // Nobody can be told that stderr is gone.
    let _ = anstream::stderr().write_all(lines.as_bytes());
}

/// The messages below an error, without those that repeat the one above.
fn causes(error: &dyn StdError) -> Vec<String> {
    let mut above = error.to_string();
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        // Some libraries repeat the cause in their own message.
        if !above.contains(&message) {
            causes.push(message.clone());
        }
        above = message;
        next = cause.source();
    }
    causes
}

/// Prints what clap has to say: help and versions on stdout, mistakes on stderr.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is the only thing that can go wrong, and then nobody is reading.
    let _ = if error.use_stderr() {
        anstream::stderr().write_all(with_hint(&error.render().ansi().to_string()).as_bytes())
    } else {
        error.print()
    };
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Clap's message with its last line in the form of all other hints.
fn with_hint(message: &str) -> String {
    const POINTER: &str = "For more information, try ";
    let cyan = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
    message.replace(POINTER, &format!("{cyan}hint:{cyan:#} for more information, try "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_not_said_twice() {
        let source = io::Error::other("disk on fire");
        let error = CliError::input(Path::new("a.txt"), source);
        assert_eq!(
            (error.to_string(), causes(&error)),
            ("cannot read `a.txt`".into(), vec!["disk on fire".to_string()])
        );
        let error = CliError::Library(moebius::Error::NoChatTemplate);
        assert!(causes(&error).is_empty());
    }

    #[test]
    fn each_kind_of_trouble_has_its_code() {
        let library = |error: moebius::Error| CliError::from(error).code();
        assert_eq!(library(moebius::Error::NoBundledModel), 3);
        assert_eq!(library(moebius::Error::Memory { needed_bytes: 2, available_bytes: 1 }), 5);
        assert_eq!(library(moebius::Error::NothingToScore(1)), 2);
        assert_eq!(CliError::Output(io::Error::other("full")).code(), 1);
        assert_eq!(CliError::Interrupted.code(), 130);
    }
}
