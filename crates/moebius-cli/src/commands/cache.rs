//! `moebius cache`.

use std::time::{SystemTime, UNIX_EPOCH};

use moebius::metering::format::si;
use moebius::{Cache, CacheEntry};
use serde::Serialize;

use crate::args::{CacheCommand, CacheListArgs, ClearArgs, JsonArg, OutputArgs};
use crate::commands::cache_sim::sim;
use crate::errors::Result;
use crate::json;
use crate::table::{Align, Table};
use crate::terminal::{print, printable};

#[derive(Serialize)]
struct List<'a> {
    dir: String,
    entries: Vec<Entry<'a>>,
    bytes: u64,
}

#[derive(Serialize)]
struct Cleared<'a> {
    dir: String,
    removed: Vec<Entry<'a>>,
    leftover_bytes: u64,
    bytes: u64,
}

/// An entry for programs. Times in seconds since 1970.
#[derive(Serialize)]
struct Entry<'a> {
    model: Option<&'a str>,
    format: Option<&'a str>,
    bytes: u64,
    made: Option<u64>,
    used: Option<u64>,
    state: &'static str,
    path: String,
}

/// Lists the cache, clears it, or says where it is; or tries caches of experts, which need no place.
pub(crate) fn cache(args: &CacheListArgs, output: &OutputArgs) -> Result<()> {
    match &args.command {
        None => list(&Cache::standard()?, args.json),
        Some(CacheCommand::List { json }) => list(&Cache::standard()?, *json),
        Some(CacheCommand::Clear(args)) => clear(&Cache::standard()?, args),
        Some(CacheCommand::Dir) => print(&format!("{}\n", printable(&dir(&Cache::standard()?)))),
        Some(CacheCommand::Sim(args)) => sim(args, output),
    }
}

fn list(cache: &Cache, json: JsonArg) -> Result<()> {
    let entries = cache.entries()?;
    let bytes = total(&entries);
    if json.json {
        let entries = entries.iter().map(Entry::new).collect();
        return json::print(&List { dir: dir(cache), entries, bytes });
    }
    let dir = dir(cache);
    let dir = printable(&dir);
    if entries.is_empty() {
        return print(&format!("nothing is kept in {dir}\n"));
    }
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("format", Align::Left),
        ("size", Align::Right),
        ("packed", Align::Right),
        ("last used", Align::Right),
        ("state", Align::Left),
    ]);
    let now = SystemTime::now();
    for entry in &entries {
        let known =
            |text: &Option<String>| text.as_deref().map_or("n/a".into(), |t| printable(t).into_owned());
        table.row([
            known(&entry.model),
            known(&entry.format),
            size(entry.bytes),
            age(entry.made, now),
            age(entry.used, now),
            entry.state.name().into(),
        ]);
    }
    print(&format!("{}\n{} in {dir}\n", table.render(), size(bytes)))
}

fn clear(cache: &Cache, args: &ClearArgs) -> Result<()> {
    let (removed, leftover_bytes) = cache.clear(&args.filter())?;
    let bytes = total(&removed) + leftover_bytes;
    if args.json.json {
        let removed = removed.iter().map(Entry::new).collect();
        return json::print(&Cleared { dir: dir(cache), removed, leftover_bytes, bytes });
    }
    let mut text = String::new();
    for entry in &removed {
        let name = entry.model.clone().unwrap_or_else(|| entry.path.display().to_string());
        let format = entry.format.as_deref().unwrap_or("damaged");
        text += &format!("removed {} ({format}, {})\n", printable(&name), size(entry.bytes));
    }
    if leftover_bytes > 0 {
        text += &format!("removed what ended programs had left ({})\n", size(leftover_bytes));
    }
    text += &if text.is_empty() { "nothing to remove\n".into() } else { format!("{} freed\n", size(bytes)) };
    print(&text)
}

fn total(entries: &[CacheEntry]) -> u64 {
    entries.iter().map(|entry| entry.bytes).sum()
}

fn dir(cache: &Cache) -> String {
    cache.dir().display().to_string()
}

fn size(bytes: u64) -> String {
    si(Some(bytes as f64), "B")
}

/// How long ago a time is, in its largest unit.
fn age(time: Option<SystemTime>, now: SystemTime) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let Some(time) = time else { return "n/a".into() };
    let seconds = now.duration_since(time).map_or(0, |since| since.as_secs());
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| seconds >= *unit).unwrap_or((1, "s"));
    format!("{} {name} ago", seconds / unit)
}

impl<'a> Entry<'a> {
    fn new(entry: &'a CacheEntry) -> Self {
        let seconds = |time: Option<SystemTime>| Some(time?.duration_since(UNIX_EPOCH).ok()?.as_secs());
        Entry {
            model: entry.model.as_deref(),
            format: entry.format.as_deref(),
            bytes: entry.bytes,
            made: seconds(entry.made),
            used: seconds(entry.used),
            state: entry.state.name(),
            path: entry.path.display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ago = |seconds| age(now.checked_sub(Duration::from_secs(seconds)), now);
        assert_eq!(
            [0, 59, 60, 7199, 86_399, 200_000].map(ago),
            ["0 s ago", "59 s ago", "1 min ago", "1 h ago", "23 h ago", "2 d ago"]
        );
        assert_eq!(age(Some(now + Duration::from_secs(5)), now), "0 s ago");
        assert_eq!(age(None, now), "n/a");
    }
}
