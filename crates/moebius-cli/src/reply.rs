//! One generation, streamed: text to stdout, routes to stderr.

use std::io::{self, IsTerminal, Write};

use moebius::metering::Energy;
use moebius::{GenerateOptions, LayerRoute, Model, Piece, Prompt, Summary};

use crate::errors::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::route_strip::RouteStrip;
use crate::terminal::{HEADING, printable, say};

/// Where the text of a generation goes.
#[derive(Debug)]
pub(crate) struct Outlet {
    shows: Shows,
    /// Shows what routers chose.
    strip: Option<RouteStrip>,
    /// Stdout is a terminal, which would obey control characters.
    terminal: bool,
    /// Text that waits until the strip is done.
    held: String,
    /// The prompt, to be shown once the model has taken it.
    prompt: Option<String>,
    /// The last character that was shown.
    last: Option<char>,
}

/// When text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Never,
    AtOnce,
    AtTheEnd,
}

/// What came of a generation.
#[derive(Debug)]
pub(crate) struct Reply {
    /// All text.
    pub(crate) text: String,
    /// Log-probability of each token, if asked for.
    pub(crate) logprobs: Vec<f32>,
    /// What the routers chose for each token, if asked for.
    pub(crate) routes: Vec<Vec<LayerRoute>>,
    /// Counts and times.
    pub(crate) summary: Summary,
    /// Energy, if whoever asked counts it.
    pub(crate) energy: Option<Energy>,
}

impl Outlet {
    /// Text goes to stdout, unless only the reply matters. Where a strip may end up in the same place, such as
    /// with `| cat` or `2>&1`, the text comes after the strip, which names each token already.
    pub(crate) fn new(show_text: bool, strip: Option<RouteStrip>) -> Self {
        let terminal = io::stdout().is_terminal();
        let apart = terminal && !io::stderr().is_terminal();
        let shows = match (show_text, strip.is_some() && !apart) {
            (false, _) => Shows::Never,
            (true, false) => Shows::AtOnce,
            (true, true) => Shows::AtTheEnd,
        };
        Outlet { shows, strip, terminal, held: String::new(), prompt: None, last: None }
    }

    /// The text that is continued will be shown before its continuation.
    pub(crate) fn continues(&mut self, text: &str) {
        self.prompt = Some(text.to_owned());
    }

    fn start(&mut self) -> Result<()> {
        let Some(text) = self.prompt.take() else { return Ok(()) };
        if self.shows == Shows::AtOnce && self.terminal {
            let text = printable(&text);
            self.last = text.chars().last().or(self.last);
            let mut stdout = anstream::stdout();
            return write!(stdout, "{HEADING}{text}{HEADING:#}")
                .and_then(|()| stdout.flush())
                .map_err(CliError::Output);
        }
        self.text(&text)
    }

    fn piece(&mut self, piece: &Piece, token: impl FnOnce() -> String) -> Result<()> {
        if let Some(strip) = &mut self.strip {
            say(strip.line(&token(), &piece.routes).trim_end());
        }
        self.text(&piece.text)
    }

    fn text(&mut self, text: &str) -> Result<()> {
        match self.shows {
            Shows::Never => Ok(()),
            Shows::AtOnce => self.write(text),
            Shows::AtTheEnd => {
                self.held += text;
                Ok(())
            }
        }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let Some(last) = text.chars().last() else { return Ok(()) };
        self.last = Some(last);
        let text = if self.terminal { printable(text) } else { text.into() };
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::Output)
    }

    /// Shows what waits and ends the line.
    fn finish(&mut self) -> Result<()> {
        if !self.held.is_empty() {
            say("");
        }
        let held = std::mem::take(&mut self.held);
        self.write(&held)?;
        match self.last.take() {
            Some('\n') | None => Ok(()),
            Some(_) => self.write("\n"),
        }?;
        self.last = None;
        Ok(())
    }
}

/// Continues `prompt` until it ends or Ctrl-C is pressed.
pub(crate) fn generate(
    model: &mut Model,
    prompt: Prompt<'_>,
    options: &GenerateOptions,
    outlet: &mut Outlet,
    interrupt: &Interrupt,
) -> Result<Reply> {
    let tokenizer = model.tokenizer().ok().cloned();
    let name = |id: u32| tokenizer.as_ref().and_then(|t| t.token(id)).unwrap_or_else(|| format!("#{id}"));
    let watch = interrupt.generating();
    let mut generation = model.generate(prompt, options)?;
    outlet.start()?;
    let (mut text, mut logprobs, mut routes) = (String::new(), Vec::new(), Vec::new());
    let mut failure = None;
    while !watch.stopped() {
        let piece = match generation.next() {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => {
                failure = Some(error);
                break;
            }
            None => break,
        };
        outlet.piece(&piece, || name(piece.token))?;
        text += &piece.text;
        logprobs.extend(piece.logprob);
        if options.record_routes {
            routes.push(piece.routes);
        }
    }
    outlet.finish()?;
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(Reply { text, logprobs, routes, summary: generation.finish(), energy: None }),
    }
}
