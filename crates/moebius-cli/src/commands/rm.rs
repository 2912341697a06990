//! `moebius rm`.

use std::io::{self, IsTerminal, Write};

use moebius::Removed;
use moebius::metering::format::si;
use serde::Serialize;

use crate::args::{OutputArgs, RmArgs};
use crate::commands::pull;
use crate::errors::{CliError, Result};
use crate::json;
use crate::terminal::{print, printable};

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    files: usize,
    bytes: u64,
}

/// Removes a model from the cache of the hub, and says what that freed.
pub(crate) fn rm(args: &RmArgs, output: &OutputArgs) -> Result<()> {
    let (hub, name) = (pull::hub(output)?, pull::parse(&args.name)?);
    let removable = hub.removable(&name)?;
    if !args.yes && !confirmed(&args.name, removable)? {
        return print("nothing removed\n");
    }
    let Removed { files, bytes } = hub.remove(&name)?;
    if args.json.json {
        return json::print(&Report { name: &args.name, files, bytes });
    }
    print(&format!("removed {}, {} freed\n", printable(&args.name), si(Some(bytes as f64), "B")))
}

/// Asks whoever sits at the terminal.
fn confirmed(name: &str, removable: Removed) -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CliError::usage("nobody can be asked whether to remove it", "give --yes"));
    }
    let size = si(Some(removable.bytes as f64), "B");
    let question = format!("remove {} ({} files, {size})? [y/N] ", printable(name), removable.files);
    let mut answer = String::new();
    let asked =
        anstream::stderr().write_all(question.as_bytes()).and_then(|()| io::stdin().read_line(&mut answer));
    asked.map_err(|source| CliError::Input { name: "the answer".into(), source })?;
    Ok(["y", "yes"].contains(&&*answer.trim().to_ascii_lowercase()))
}
