//! `moebius run`, and the story that is told without any arguments.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal};
use std::time::Duration;

use moebius::metering::format::si;
use moebius::text::Message;
use moebius::{CacheUse, EnergyMeter, Error, GenerateOptions, LayerRoute, Model, Needs, Prompt};
use serde::Serialize;

use crate::args::{MeterMode, OutputArgs, RunArgs, SamplingArgs};
use crate::commands::prompt::{self, Request, Source};
use crate::commands::show::listed;
use crate::commands::{chat, model_dir};
use crate::energy::{self, Joules};
use crate::errors::{CliError, Result};
use crate::interrupt::Interrupt;
use crate::json;
use crate::meter::{self, FullMeter, Meter, Timings};
use crate::modelled::Modelled;
use crate::progress::Opening;
use crate::reply::{self, Outlet, Reply};
use crate::route_strip::RouteStrip;
use crate::terminal::{printable, remark, say};
use crate::tracing;

/// How the story begins.
const STORY: &str = "Once upon a time";

/// A model that is open, and how it is to answer.
pub(crate) struct Session {
    pub(crate) model: Model,
    pub(crate) options: GenerateOptions,
    pub(crate) interrupt: Interrupt,
    pub(crate) meter: MeterMode,
    pub(crate) output: OutputArgs,
    /// Counts energy, if somebody will be told.
    energy: Option<EnergyMeter>,
    load: Duration,
    seed: u64,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    ids: &'a [u32],
    text: Option<&'a str>,
    prompt_ids: &'a [u32],
    finish: &'static str,
    logprobs: &'a [f32],
    seed: u64,
    timings: Timings,
    meter: Meter,
    #[serde(skip_serializing_if = "Option::is_none")]
    work: Option<FullMeter>,
    energy: Option<Joules>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modelled: Option<Modelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<Vec<Vec<Route<'a>>>>,
}

/// What one layer chose for one token.
#[derive(Serialize)]
struct Route<'a> {
    layer: usize,
    experts: &'a [u32],
    weights: &'a [f32],
}

/// Tells a story with the default model.
pub(crate) fn story(output: &OutputArgs) -> Result<()> {
    let interrupt = Interrupt::install();
    let (model, load) =
        Opening::default().open(&model_dir(None, Needs::Everything, output)?, &interrupt, output)?;
    let meter = unless_told(!output.quiet);
    let mut session = Session::new((model, load), &SamplingArgs::default(), interrupt, meter, *output);
    let told = session.answer(&Source::Text(STORY.into()), &mut Outlet::new(true, None), true)?;
    session.conclude(&told);
    remark(output, "\n`moebius --help` shows how to go on.");
    interrupted(&told)
}

/// Continues a prompt, or chats.
pub(crate) fn run(args: &RunArgs, output: &OutputArgs) -> Result<()> {
    let Request { model, guessed, source } = prompt::resolve(args)?;
    let json = args.report.json.json;
    if json && source == Source::Chat {
        return Err(CliError::usage("--json needs a prompt", "give one, or pipe it to stdin"));
    }
    let dir = model_dir(model.as_deref(), Needs::Everything, output)
        .map_err(|error| if guessed { doubt(error) } else { error })?;
    if source == Source::Text(String::new()) {
        let hint = "give one as an argument or on stdin, such as `moebius run \"Once upon a time\"`";
        return Err(CliError::usage("the prompt is empty", hint));
    }
    // Where a model in Ollama's store says how it is to be run, that holds below all flags.
    let told = model.as_deref().map(moebius::ollama_settings).transpose()?.flatten().unwrap_or_default();
    let interrupt = Interrupt::install();
    let opening = Opening::new(&args.model_args).or_context(told.context);
    let opened = opening.open(&dir, &interrupt, output)?;
    let meter = args.report.meter().unwrap_or_else(|| unless_told(!output.quiet && !json));
    let mut session = Session::new(opened, &args.sampling.clone().or(&told), interrupt, meter, *output);
    if json || meter != MeterMode::Off {
        session.energy = Some(energy::opened(args.report.watts.watts));
    }
    session.options.record_routes = args.report.route;
    session.options.logprobs = json;
    if args.system.is_some() && session.model.chat_template().is_none() {
        let hint = "leave out --system, or put what it says into the prompt";
        return Err(CliError::Hinted(Error::NoChatTemplate, hint.into()));
    }
    if output.verbose {
        session.introduce();
        let words = told.to_string();
        if !words.is_empty() {
            remark(output, &format!("as Ollama has it: {}", printable(&words)));
        }
    }
    let system = args.system.as_deref().or(told.system.as_deref());
    tracing::start(&mut session.model, &args.report.trace)?;
    let answered = tell(&mut session, source, args, system);
    let traced = tracing::finish(&mut session.model, output);
    answered.and(traced)
}

/// Does what was asked of an open model.
fn tell(session: &mut Session, source: Source, args: &RunArgs, system: Option<&str>) -> Result<()> {
    let (json, output) = (args.report.json.json, session.output);
    let template = session.model.chat_template().filter(|_| !args.raw).cloned();
    let most = session.model.info().routed_layers.iter().map(|layer| layer.top_k).max().unwrap_or(1);
    let strip = (args.report.route && !json).then(|| RouteStrip::for_stderr(output.verbose).of_at_most(most));
    let mut outlet = Outlet::new(!json, strip);
    let reply = match (source, template) {
        (Source::Chat, template) => {
            return chat::chat(session, template, system.map(str::to_owned), &mut outlet);
        }
        (Source::Text(text), Some(template)) => {
            let message = [Message::new("user", text)];
            let rendered = chat::render(&template, system, &message)?;
            session.generate(Prompt::Rendered(&rendered), &mut outlet)?
        }
        (source, _) => session.answer(&source, &mut outlet, !args.report.no_display_prompt)?,
    };
    if json {
        session.print_json(&reply)?;
    }
    session.conclude(&reply);
    interrupted(&reply)
}

/// A word was taken for a model and there is none: maybe it was meant as a prompt.
fn doubt(error: CliError) -> CliError {
    match error {
        CliError::Library(error) => {
            let hint = error.hint().unwrap_or_default();
            CliError::Hinted(error, format!("{hint};\n      if it is a prompt, put --prompt before it"))
        }
        other => other,
    }
}

fn interrupted(reply: &Reply) -> Result<()> {
    if reply.summary.finish == "cancelled" { Err(CliError::Interrupted) } else { Ok(()) }
}

/// What the meter says unless told otherwise: something on a terminal, if it is wanted at all.
fn unless_told(wanted: bool) -> MeterMode {
    if wanted && io::stderr().is_terminal() { MeterMode::Short } else { MeterMode::Off }
}

/// A seed that nobody can foresee, short enough to type and exact in every JSON reader.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

impl Session {
    fn new(
        (model, load): (Model, Duration),
        sampling: &SamplingArgs,
        interrupt: Interrupt,
        meter: MeterMode,
        output: OutputArgs,
    ) -> Self {
        let seed = sampling.seed.unwrap_or_else(random_seed);
        let options = GenerateOptions {
            max_tokens: sampling.max_tokens(),
            sampling: Some(sampling.apply(model.default_sampling(), seed)),
            stop: sampling.stop.clone(),
            ignore_eos: sampling.ignore_eos,
            record_routes: false,
            logprobs: false,
        };
        Session { model, options, interrupt, meter, output, energy: None, load, seed }
    }

    /// Generates after `prompt`.
    pub(crate) fn generate(&mut self, prompt: Prompt<'_>, outlet: &mut Outlet) -> Result<Reply> {
        let mark = self.energy.as_mut().map(EnergyMeter::mark);
        let mut reply = reply::generate(&mut self.model, prompt, &self.options, outlet, &self.interrupt)?;
        reply.energy = self.energy.as_mut().zip(mark).and_then(|(meter, mark)| meter.since(&mark));
        Ok(reply)
    }

    /// Continues text or ids; `echo` shows the text first.
    fn answer(&mut self, source: &Source, outlet: &mut Outlet, echo: bool) -> Result<Reply> {
        let prompt = match source {
            Source::Text(text) => {
                if echo {
                    outlet.continues(text);
                }
                Prompt::Text(text)
            }
            Source::Ids(ids) => Prompt::Ids(ids),
            Source::Chat => Prompt::Text(""),
        };
        self.generate(prompt, outlet)
    }

    /// Says what runs, and how.
    fn introduce(&self) {
        let info = self.model.info();
        let sampling = self.options.sampling.clone().unwrap_or_default();
        let unless_off = |off: bool, value: String| if off { "off".into() } else { value };
        let top_k = sampling.top_k.unwrap_or(0);
        let penalty = format!("{} over {}", sampling.repeat_penalty, sampling.repeat_last_n);
        let no_penalty = sampling.repeat_penalty == 1.0 || sampling.repeat_last_n == 0;
        let backend = self.model.backend().info();
        let (formats, bytes) =
            (listed(&info.formats()), si(info.weight_bytes().map(|bytes| bytes as f64), "B"));
        let mut rows = vec![
            ("model", format!("{} ({})", self.model.dir().display(), info.family)),
            ("backend", format!("{}: {}", backend.name, backend.detail)),
            ("weights", format!("{bytes} in {}", formats.join(" + "))),
            ("context", format!("{} tokens", self.model.context())),
            (
                "sampling",
                format!(
                    "temperature {}, top-k {}, top-p {}, min-p {}, repeat penalty {}",
                    sampling.temperature,
                    unless_off(top_k == 0, top_k.to_string()),
                    unless_off(sampling.top_p >= 1.0, sampling.top_p.to_string()),
                    unless_off(sampling.min_p <= 0.0, sampling.min_p.to_string()),
                    unless_off(no_penalty, penalty),
                ),
            ),
            ("seed", self.seed.to_string()),
        ];
        if let Some(plan) = self.model.memory_plan() {
            rows.insert(3, ("memory", meter::plan(plan)));
        }
        if let CacheUse::Mapped(path) = self.model.cache_use() {
            rows.insert(3, ("cache", path.display().to_string()));
        }
        say(&crate::table::facts(&rows));
    }

    /// Ends with the meter, if it is wanted.
    fn conclude(&self, reply: &Reply) {
        if self.meter != MeterMode::Off {
            let block = meter::block(&self.model, &reply.summary, self.energy.as_ref().map(|_| reply.energy));
            say(format!("\n{block}").trim_end());
        }
        if self.meter == MeterMode::Full {
            let residency = self.model.residency();
            say(format!("\n{}", meter::tables(&reply.summary, &residency)).trim_end());
        }
    }

    fn print_json(&self, reply: &Reply) -> Result<()> {
        let summary = &reply.summary;
        let meter = Meter::new(self.model.info(), &summary.prefill, Some(&summary.decode));
        let report = Report {
            ids: &summary.tokens,
            text: self.model.tokenizer().is_ok().then_some(reply.text.as_str()),
            prompt_ids: &summary.prompt,
            finish: summary.finish,
            logprobs: &reply.logprobs,
            seed: self.seed,
            timings: Timings::new(self.load, summary),
            meter,
            work: (self.meter == MeterMode::Full).then(|| FullMeter::new(summary)),
            energy: reply.energy.map(Joules::from),
            modelled: (summary.modelled.as_ref().zip(self.model.declared()))
                .map(|(run, declared)| Modelled::of_run(run, declared, self.model.info().hidden)),
            routes: self.options.record_routes.then(|| reply.routes.iter().map(|r| routes(r)).collect()),
        };
        json::print(&report)
    }
}

fn routes(layers: &[LayerRoute]) -> Vec<Route<'_>> {
    layers.iter().map(|r| Route { layer: r.layer, experts: &r.experts, weights: &r.weights }).collect()
}
