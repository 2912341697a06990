//! `moebius sweep`.

mod curve;
mod rows;

use std::path::PathBuf;

use moebius::sweep::{Baseline, Outcome, Setting};
use moebius::{EnergyMeter, HeldFormats, Model, Needs, OpenOptions};

use crate::args::{OutputArgs, SweepArgs};
use crate::commands::model_dir;
use crate::commands::score::inputs;
use crate::errors::Result;
use crate::interrupt::Interrupt;
use crate::progress::{self, Opening};
use crate::terminal::{print, printable, remark};
use crate::{energy, files, keeping};
use rows::{Row, Sweep};

/// A sweep under way.
struct Bench<'a> {
    args: &'a SweepArgs,
    output: &'a OutputArgs,
    dir: PathBuf,
    options: OpenOptions,
    interrupt: Interrupt,
}

/// Runs the model in every setting and says what each gave and took.
pub(crate) fn sweep(args: &SweepArgs, output: &OutputArgs) -> Result<()> {
    let dir = model_dir(args.model.as_deref(), Needs::Everything, output)?;
    let texts = args.text.iter().map(|path| inputs::read(path)).collect::<Result<Vec<_>>>()?;
    let (options, interrupt) = (args.open_options(), Interrupt::install());
    let bench = Bench { args, output, dir, options, interrupt };
    let mut model = bench.open(&Setting::default())?;
    let inputs = inputs::of_texts(&model, texts)?;
    let sequences: Vec<Vec<u32>> = inputs.into_iter().flat_map(|input| input.sequences).collect();
    let info = model.info();
    let trained = info.moe.as_ref().map(|moe| moe.top_k);
    let mut energy = energy::opened(args.watts.watts);
    let mut sweep = Sweep {
        family: info.family,
        model: printable(&model.dir().display().to_string()).into_owned(),
        texts: args.text.iter().map(|path| printable(&path.display().to_string()).into_owned()).collect(),
        watts: args.watts.watts,
        unknown_energy: energy::why_unknown(&energy),
        rows: Vec::new(),
    };
    let shown = bench.doing("the reference");
    // Before the logits are written: the system goes on writing them for a while.
    let decode = model.time_decode(&sequences[0], args.generate, args.repetitions, &mut energy)?;
    let (mut baseline, mut outcome) = model.baseline(&sequences)?;
    outcome.decode = decode;
    drop(shown);
    sweep.rows.push(Row::new(Setting::default(), (trained, None), outcome));
    drop(model);
    for setting in bench.settings(trained) {
        let (k, outcome) = bench.run(&setting, &sequences, &mut baseline, &mut energy)?;
        let reference = sweep.rows.first();
        let row = Row::new(setting, (k, reference), outcome);
        sweep.rows.push(row);
    }
    sweep.mark_best();
    bench.report(&sweep)
}

impl Bench<'_> {
    /// Every combination of the lists but the reference.
    fn settings(&self, trained: Option<usize>) -> Vec<Setting> {
        let args = self.args;
        let formats = if args.format.is_empty() { vec![HeldFormats::AsStored] } else { args.format.clone() };
        let mut experts: Vec<Option<usize>> = args.experts.iter().map(|&k| Some(k)).collect();
        let mut thresholds = args.threshold.clone();
        if experts.is_empty() {
            experts.push(None);
        }
        if thresholds.is_empty() {
            thresholds.push(0.0);
        }
        let mut settings: Vec<Setting> = Vec::new();
        for format in formats {
            for &k in &experts {
                for &threshold in &thresholds {
                    let experts = k.filter(|_| k != trained);
                    let setting = Setting { format, experts, rules: args.rules.rules(threshold) };
                    if !setting.is_published() && !settings.contains(&setting) {
                        settings.push(setting);
                    }
                }
            }
        }
        settings
    }

    fn open(&self, setting: &Setting) -> Result<Model> {
        let options = setting.apply(&self.options);
        if self.args.cache.keeps() {
            keeping::keep(&self.dir, &options, &self.interrupt, self.output)?;
        }
        Ok(Opening::with(options).open(&self.dir, &self.interrupt, self.output)?.0)
    }

    fn run(
        &self,
        setting: &Setting,
        sequences: &[Vec<u32>],
        baseline: &mut Baseline,
        energy: &mut EnergyMeter,
    ) -> Result<(Option<usize>, Outcome)> {
        let mut model = self.open(setting)?;
        let k = model.info().moe.as_ref().map(|moe| moe.top_k);
        let _shown = self.doing(&rows::name(setting, k));
        let decode = model.time_decode(&sequences[0], self.args.generate, self.args.repetitions, energy)?;
        Ok((k, Outcome { decode, ..model.compare(sequences, baseline)? }))
    }

    /// A line on the terminal for as long as it lives.
    fn doing(&self, what: &str) -> Shown {
        let line = progress::line(self.output);
        line.set_message(format!("measuring {what}"));
        line.tick();
        Shown(line)
    }

    fn report(&self, sweep: &Sweep) -> Result<()> {
        let written = |path: &PathBuf| {
            remark(self.output, &format!("wrote {}", printable(&path.display().to_string())))
        };
        if let Some(path) = &self.args.csv {
            files::write(path, &sweep.csv())?;
            written(path);
        }
        if let Some(path) = &self.args.plot {
            curve::write(sweep, path)?;
            written(path);
        }
        if self.args.json.json { sweep.print_json() } else { print(&sweep.table()) }
    }
}

/// A line that goes when this does.
struct Shown(indicatif::ProgressBar);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
