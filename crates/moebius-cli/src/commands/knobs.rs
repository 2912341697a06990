//! `moebius knobs`.

use clap::{ArgAction, CommandFactory};
use serde::Serialize;

use crate::args::{Cli, ListArgs};
use crate::errors::Result;
use crate::table::{Align, Table};
use crate::{json, terminal};

#[derive(Serialize)]
struct Knob {
    name: String,
    flag: Option<String>,
    help: String,
}

/// Lists every variable of the environment that is read.
pub(crate) fn knobs(args: &ListArgs) -> Result<()> {
    let knobs = collect();
    if args.json.json {
        return json::print(&std::collections::BTreeMap::from([("knobs", knobs)]));
    }
    let mut table =
        Table::new(&[("variable", Align::Left), ("flag", Align::Left), ("what it does", Align::Left)]);
    for knob in knobs {
        table.row([knob.name, knob.flag.unwrap_or_default(), knob.help]);
    }
    terminal::print(&table.render())
}

/// The library's variables, then those of flags by name, each once.
fn collect() -> Vec<Knob> {
    let library = moebius::KNOBS;
    let mut knobs: Vec<Knob> =
        library.iter().map(|k| Knob { name: k.name.into(), flag: None, help: k.help.into() }).collect();
    let cli = Cli::command();
    let commands = std::iter::once(&cli).chain(cli.get_subcommands());
    let mut flags: Vec<Knob> = commands.flat_map(clap::Command::get_arguments).filter_map(knob).collect();
    flags.sort_by(|a, b| a.name.cmp(&b.name));
    flags.dedup_by(|a, b| a.name == b.name);
    knobs.extend(flags);
    knobs
}

fn knob(arg: &clap::Arg) -> Option<Knob> {
    let name = arg.get_env()?.to_string_lossy().into_owned();
    let value = match arg.get_action() {
        ArgAction::SetTrue => String::new(),
        _ => arg.get_value_names().and_then(|names| names.first()).map_or(String::new(), |n| format!(" {n}")),
    };
    let flag = arg.get_long().map(|long| format!("--{long}{value}"));
    Some(Knob { name, flag, help: arg.get_help().map(ToString::to_string).unwrap_or_default() })
}
