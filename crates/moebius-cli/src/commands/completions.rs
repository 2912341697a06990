//! `moebius completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::errors::Result;
use crate::terminal;

/// Prints a completion script.
pub(crate) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "moebius", &mut script);
    terminal::print(&String::from_utf8_lossy(&script))
}
