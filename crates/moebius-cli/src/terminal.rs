//! What the terminal is like, and what may be sent to it.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use console::Term;

use crate::args::{Color, OutputArgs};
use crate::errors::{CliError, Result};

/// Headings.
pub(crate) const HEADING: Style = Style::new().bold();
/// What may be overlooked.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// Figures that matter most.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Things to act on.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// Makes every stream follow the wish for colours.
pub(crate) fn set_color(color: Color) {
    let choice = match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    };
    choice.write_global();
}

/// Whether what goes to stdout may be coloured.
pub(crate) fn stdout_has_color() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// Columns of the terminal behind stdout; `None` when there is none.
pub(crate) fn stdout_width() -> Option<usize> {
    let stdout = io::stdout().is_terminal();
    let (_, columns) = Term::stdout().size_checked().filter(|_| stdout)?;
    (columns > 0).then_some(columns.into())
}

/// Whether what goes to stderr may be coloured.
pub(crate) fn stderr_has_color() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// Columns of the terminal behind stderr; `None` when there is none.
pub(crate) fn stderr_width() -> Option<usize> {
    let stderr = io::stderr().is_terminal();
    let (_, columns) = Term::stderr().size_checked().filter(|_| stderr)?;
    (columns > 0).then_some(columns.into())
}

/// Whether stderr is a terminal that can redraw a line.
pub(crate) fn can_redraw() -> bool {
    io::stderr().is_terminal() && console::Term::stderr().features().is_attended()
}

/// A remark on stderr, unless it should be quiet.
pub(crate) fn remark(output: &OutputArgs, text: &str) {
    if !output.quiet {
        say(&format!("{FAINT}{text}{FAINT:#}"));
    }
}

/// A line on stderr. If stderr is gone there is nobody to tell.
pub(crate) fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Lines of results on stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::Output)
}

/// `text` with control characters other than line breaks and tabs as pictures, so that what a file or a
/// model says cannot move the cursor or set the title.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let unsafe_here = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(unsafe_here) {
        return text.into();
    }
    let picture = |c: char| match u32::from(c) {
        _ if !unsafe_here(c) => c,
        code @ 0..=0x1f => char::from_u32(0x2400 + code).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7f => '\u{2421}',
        _ => char::REPLACEMENT_CHARACTER,
    };
    text.chars().map(picture).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown_and_not_obeyed() {
        assert_eq!(printable("a\nb\tc ü"), "a\nb\tc ü");
        assert_eq!(printable("\x1b[2J\x07\x7f\u{9b}"), "␛[2J␇␡\u{fffd}");
    }
}
