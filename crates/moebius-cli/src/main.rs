//! The program `moebius`: a front to the library of the same name.
//!
//! Invariants: results go to stdout and all else to stderr; no input makes it panic; exit codes are those of
//! [`errors`].
#![forbid(unsafe_code)]

mod args;
mod commands;
mod energy;
mod errors;
mod files;
mod heat;
mod interrupt;
mod json;
mod keeping;
mod markdown;
mod meter;
mod modelled;
mod plot;
mod progress;
mod reply;
mod route_strip;
mod rows;
mod table;
mod terminal;
mod tracing;
mod version;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

fn main() -> ExitCode {
    moebius::keep_freed_memory();
    moebius::end_with_message_when_a_mapped_file_goes(errors::MAPPED_FILE_GONE);
    let result = match Cli::try_parse_from(args::with_prompt_as_run(std::env::args_os())) {
        Ok(cli) => commands::dispatch(&cli),
        Err(error) => return errors::report_usage(&error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => errors::report(&error),
    }
}
