//! `moebius list`.

use std::collections::BTreeMap;
use std::path::Path;

use moebius::metering::format::{UNKNOWN, si};
use moebius::{Cache, CacheEntry, Hub, HubEntry, HubModel, ModelInfo, OllamaStore, OpenOptions};
use serde::Serialize;

use crate::args::{ListModelsArgs, OutputArgs};
use crate::commands::{pull, show};
use crate::errors::Result;
use crate::json;
use crate::table::{Align, Table};
use crate::terminal::{print, printable};

/// Digits of a commit that people are shown.
const SHORT: usize = 8;

#[derive(Serialize)]
struct List {
    dir: String,
    models: Vec<Row>,
}

/// One model. What cannot be known without opening it, and it cannot be opened, is null.
#[derive(Serialize)]
struct Row {
    name: String,
    revisions: Vec<String>,
    commit: Option<String>,
    bytes: Option<u64>,
    unfinished_bytes: u64,
    /// Bytes of packed copies that --cache keeps of it.
    packed_bytes: u64,
    family: Option<&'static str>,
    total_parameters: Option<u64>,
    active_parameters: Option<u64>,
    /// What its weights are stored in.
    formats: Vec<&'static str>,
    is_complete: bool,
    can_run: bool,
    /// Why it cannot.
    reason: Option<String>,
    path: Option<String>,
}

/// Lists the cache of the hub, or Ollama's store.
pub(crate) fn list(args: &ListModelsArgs, output: &OutputArgs) -> Result<()> {
    let (dir, models) = match args.ollama {
        true => ollama(),
        false => cached(&pull::hub(output)?)?,
    };
    if args.json.json {
        return json::print(&List { dir, models });
    }
    if models.is_empty() {
        let hint = if args.ollama { "" } else { "; `moebius pull owner/name` downloads a model" };
        return print(&format!("no models in {}{hint}\n", printable(&dir)));
    }
    let names = [("model", Align::Left), ("revision", Align::Left)];
    let numbers = ["size", "total", "active", "packed"].map(|name| (name, Align::Right));
    let ends = [("family", Align::Left), ("runs", Align::Left)];
    let mut table = Table::new(&[&names[..], &numbers, &ends].concat());
    models.iter().for_each(|row| table.row(row.cells()));
    let note = if args.ollama {
        "\nchat templates are those of the GGUF files; Ollama's own are not read"
    } else {
        ""
    };
    print(&format!("{}\nin {}{note}\n", table.render(), printable(&dir)))
}

fn cached(hub: &Hub) -> Result<(String, Vec<Row>)> {
    let packed = Cache::standard().and_then(|cache| cache.entries()).unwrap_or_default();
    let mut rows = Vec::new();
    for entry in &hub.entries()? {
        match entry.models.as_slice() {
            [] => rows.push(Row::nothing(entry)),
            models => rows.extend(models.iter().map(|model| Row::of(entry, model, &packed))),
        }
    }
    Ok((hub.dir().display().to_string(), rows))
}

fn ollama() -> (String, Vec<Row>) {
    let Some(store) = OllamaStore::standard() else { return ("~/.ollama/models".into(), Vec::new()) };
    let entries = store.entries().into_iter().map(|entry| {
        let row = Row { bytes: entry.bytes, ..Row::named(format!("ollama:{}", entry.name)) };
        match entry.model {
            Ok(path) => row.opened(&path),
            Err(reason) => Row { reason: Some(reason), ..row },
        }
    });
    (store.dir().display().to_string(), entries.collect())
}

impl Row {
    fn named(name: String) -> Self {
        Row {
            name,
            revisions: Vec::new(),
            commit: None,
            bytes: None,
            unfinished_bytes: 0,
            packed_bytes: 0,
            family: None,
            total_parameters: None,
            active_parameters: None,
            formats: Vec::new(),
            is_complete: false,
            can_run: false,
            reason: None,
            path: None,
        }
    }

    fn nothing(entry: &HubEntry) -> Self {
        Row { reason: Some("no config.json and no weights".into()), ..Row::entry(entry, entry.repo.clone()) }
    }

    fn entry(entry: &HubEntry, name: String) -> Self {
        let (revisions, commit) = (entry.revisions.clone(), Some(entry.commit.clone()));
        let HubEntry { unfinished_bytes, bytes, .. } = *entry;
        Row { revisions, commit, bytes: Some(bytes), unfinished_bytes, ..Row::named(name) }
    }

    fn of(entry: &HubEntry, model: &HubModel, packed: &[CacheEntry]) -> Self {
        let name = match &model.quant {
            Some(quant) => format!("{}:{quant}", entry.repo),
            None => entry.repo.clone(),
        };
        let row = Row::entry(entry, name).opened(&model.path);
        let full = model.path.canonicalize().unwrap_or_else(|_| model.path.clone());
        let own = |copy: &&CacheEntry| copy.model.as_deref().map(Path::new) == Some(&*full);
        let packed_bytes = packed.iter().filter(own).map(|copy| copy.bytes).sum();
        let missing =
            (!model.is_complete).then(|| "weights are missing: `moebius pull` completes it".to_owned());
        let (can_run, reason) = (row.can_run && model.is_complete, missing.or(row.reason));
        Row { packed_bytes, is_complete: model.is_complete, can_run, reason, ..row }
    }

    /// With what its files say.
    fn opened(self, path: &Path) -> Self {
        let row = Row { path: Some(path.display().to_string()), is_complete: true, ..self };
        match moebius::inspect(path, &OpenOptions::default()) {
            Ok((info, _)) => row.described(&info),
            Err(error) => Row { reason: Some(error.to_string()), ..row },
        }
    }

    fn described(self, info: &ModelInfo) -> Self {
        let mut bytes: BTreeMap<&str, (moebius::WeightFormat, u64)> = BTreeMap::new();
        for (format, n) in info.tally.values().flat_map(|tally| &tally.formats) {
            bytes.entry(format.name()).or_insert((*format, 0)).1 += n;
        }
        let mut formats: Vec<_> = bytes.into_values().collect();
        formats.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        Row {
            family: Some(info.family),
            total_parameters: Some(info.total_parameters()),
            active_parameters: Some(info.active_parameters()),
            formats: show::listed(&formats),
            can_run: info.weight_bytes().is_some(),
            ..self
        }
    }

    fn cells(&self) -> [String; 8] {
        let number = |number: Option<u64>, unit: &str| si(number.map(|number| number as f64), unit);
        let commit = self.commit.as_deref().map_or(UNKNOWN, |commit| &commit[..commit.len().min(SHORT)]);
        let revision = match self.revisions.first() {
            Some(revision) => format!("{revision} {commit}"),
            None => commit.to_owned(),
        };
        let runs = match (&self.reason, self.can_run) {
            (_, true) => format!("yes, {}", self.formats.join(" + ")),
            (Some(reason), false) => format!("no: {reason}"),
            (None, false) => "no: the weights are not there".into(),
        };
        [
            printable(&self.name).into_owned(),
            printable(&revision).into_owned(),
            number(self.bytes, "B"),
            number(self.total_parameters, ""),
            number(self.active_parameters, ""),
            if self.packed_bytes == 0 { "none".into() } else { number(Some(self.packed_bytes), "B") },
            self.family.unwrap_or(UNKNOWN).to_owned(),
            printable(&runs).into_owned(),
        ]
    }
}
