//! Opening a model, with a bar on the terminal while its weights load.

use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use moebius::{Constraint, Model, OpenOptions};

use crate::args::{ModelArgs, OutputArgs};
use crate::errors::Result;
use crate::interrupt::Interrupt;
use crate::keeping;
use crate::terminal::{self, printable};

/// A model that opens faster than this needs no bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// Told the bytes loaded so far and in all.
pub(crate) type Loading<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// How a model is opened.
#[derive(Default)]
pub(crate) struct Opening {
    options: OpenOptions,
    keeps: bool,
}

impl Opening {
    /// As the flags say.
    pub(crate) fn new(args: &ModelArgs) -> Self {
        Opening { options: args.open_options(), keeps: args.cache.keeps() }
    }

    /// With this context where none was asked for.
    pub(crate) fn or_context(mut self, context: Option<usize>) -> Self {
        self.options.context = self.options.context.or(context);
        self
    }

    /// With these options, keeping nothing.
    pub(crate) fn with(options: OpenOptions) -> Self {
        Opening { options, keeps: false }
    }

    /// Opens the model in `dir` and says how long it took.
    pub(crate) fn open(
        &self,
        dir: &Path,
        interrupt: &Interrupt,
        output: &OutputArgs,
    ) -> Result<(Model, Duration)> {
        let started = Instant::now();
        let options = &self.options;
        if self.keeps {
            keeping::keep(dir, options, interrupt, output)?;
        }
        let model = with_bar(output, "loading", |bar| Model::open_with_progress(dir, options, bar))?;
        if !output.quiet {
            keeping::warn_of_unused(model.cache_use(), output);
            warn_of_unknowns(&model);
            warn_of_less_context(options.context, &model);
            warn_of_idle_constraint(&options.backend.constraint, &model);
        }
        Ok((model, started.elapsed()))
    }
}

/// Does something with a bar on the terminal, which begins with what it is `doing`.
pub(crate) fn with_bar<T>(output: &OutputArgs, doing: &str, load: impl FnOnce(Loading<'_>) -> T) -> T {
    let started = Instant::now();
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    let wanted = !output.quiet && !output.no_progress && terminal::can_redraw();
    let shown = Once::new();
    let progress = |bytes: u64, total: u64| {
        if wanted && started.elapsed() > PATIENCE {
            shown.call_once(|| show(&bar, doing, total));
            bar.set_length(total);
            bar.set_position(bytes);
        }
    };
    let loaded = load(&progress);
    bar.finish_and_clear();
    loaded
}

/// A line on the terminal that says what is going on.
pub(crate) fn line(output: &OutputArgs) -> ProgressBar {
    if output.quiet || output.no_progress || !terminal::can_redraw() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_msg}").expect("a valid template");
    ProgressBar::new_spinner().with_style(style)
}

/// Names what the model's files hold and nothing used: results may differ from what its authors meant.
fn warn_of_unknowns(model: &Model) {
    const NAMED: usize = 3;
    let info = model.info();
    for (what, names) in [("tensor", &info.unknown_tensors), ("key of config.json", &info.unknown_keys)] {
        let Some(rest) = names.len().checked_sub(1) else { continue };
        let named = names.iter().take(NAMED).map(|name| format!("`{}`", printable(name)));
        let more = if rest >= NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
        let named = named.collect::<Vec<_>>().join(", ");
        anstream::eprintln!("warning: unknown {what}: {named}{more}; `moebius show` lists them");
    }
}

/// Says so if more context was asked for than the model has.
fn warn_of_less_context(asked: Option<usize>, model: &Model) {
    let has = model.context();
    if let Some(asked) = asked.filter(|asked| *asked > has) {
        anstream::eprintln!("warning: the context is {has} tokens, all that this model has, not {asked}");
    }
}

/// Says so if flags about fetching were given where nothing is fetched.
fn warn_of_idle_constraint(constraint: &Constraint, model: &Model) {
    let asked = Constraint { memory: None, resident: None, ..constraint.clone() } != Constraint::default();
    if asked && model.residency().is_empty() {
        anstream::eprintln!(
            "warning: --expert-cache, --no-prefetch and --fetch-limit change nothing without --memory or --resident-experts"
        );
    }
}

fn show(bar: &ProgressBar, doing: &str, total: u64) {
    let rest = "{wide_bar:.cyan/blue} {decimal_bytes} of {decimal_total_bytes}, {eta} left";
    let template = format!("{doing} {rest}");
    bar.set_style(ProgressStyle::with_template(&template).expect("a valid template").progress_chars("━╸─"));
    bar.set_length(total);
    bar.set_draw_target(ProgressDrawTarget::stderr());
}
