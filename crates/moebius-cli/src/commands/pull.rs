//! `moebius pull`, and downloads of models that other commands name.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use moebius::metering::format::si;
use moebius::{Hub, HubName, Needs, Pulled};
use serde::Serialize;

use crate::args::{OutputArgs, PullArgs};
use crate::errors::Result;
use crate::terminal::{print, printable, remark};
use crate::{json, progress};

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    commit: &'a str,
    path: String,
    files: usize,
    bytes: u64,
    fetched_bytes: u64,
    seconds: f64,
}

/// Downloads a model.
pub(crate) fn pull(args: &PullArgs, output: &OutputArgs) -> Result<()> {
    let started = Instant::now();
    let pulled = fetch(&parse(&args.name)?, Needs::Everything, output)?;
    let path = pulled.path.display().to_string();
    if args.json.json {
        let Pulled { commit, files, bytes, fetched_bytes, .. } = &pulled;
        let (files, bytes, fetched_bytes) = (*files, *bytes, *fetched_bytes);
        let (name, seconds) = (&*args.name, started.elapsed().as_secs_f64());
        return json::print(&Report { name, commit, path, files, bytes, fetched_bytes, seconds });
    }
    print(&format!("{}: {}\n", summary(&args.name, &pulled), printable(&path)))
}

/// Brings what is needed of a model that is not here, and says where it is.
pub(super) fn download(name: &str, needs: Needs, output: &OutputArgs) -> Result<PathBuf> {
    let pulled = fetch(&parse(name)?, needs, output)?;
    remark(output, &summary(name, &pulled));
    Ok(pulled.path)
}

/// The hub, as the environment and the flags say.
pub(super) fn hub(output: &OutputArgs) -> Result<Hub> {
    let hub = Hub::standard()?;
    let is_offline = output.offline || hub.is_offline();
    Ok(hub.offline(is_offline))
}

pub(super) fn parse(name: &str) -> Result<HubName> {
    Ok(name.parse::<HubName>().map_err(moebius::Error::from)?)
}

fn fetch(name: &HubName, needs: Needs, output: &OutputArgs) -> Result<Pulled> {
    let hub = hub(output)?;
    let pulled = progress::with_bar(output, "downloading", |bar| {
        hub.pull(name, needs, &|bytes, total| {
            if total > 0 {
                bar(bytes, total);
            }
            ControlFlow::Continue(())
        })
    });
    Ok(pulled?)
}

fn summary(name: &str, pulled: &Pulled) -> String {
    let size = |bytes: u64| si(Some(bytes as f64), "B");
    let fetched = match pulled.fetched_bytes {
        0 => "all there already".into(),
        bytes if bytes == pulled.bytes => "downloaded".into(),
        bytes => format!("{} downloaded", size(bytes)),
    };
    let commit = &pulled.commit[..pulled.commit.len().min(8)];
    format!("{} at {commit}, {} in {} files, {fetched}", printable(name), size(pulled.bytes), pulled.files)
}
