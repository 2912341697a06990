//! `moebius families`.

use moebius::metering::format::si;
use moebius::{Family, HeldFormats, PublishedModel};
use serde::Serialize;

use crate::args::FamiliesArgs;
use crate::errors::Result;
use crate::table::{Align, Table, facts};
use crate::terminal::{FAINT, HEADING};
use crate::{json, terminal};

/// Bits per weight of a typical format of four bits with its scales.
const FOUR_BITS: f64 = 4.5;
/// What checkpoints may store matrices in.
const STORED: [&str; 5] = ["f32", "bf16", "f16", "FP8 (e4m3 in blocks)", "MXFP4"];

#[derive(Serialize)]
struct Report<'a> {
    stored_formats: [&'static str; 5],
    held_formats: Vec<&'static str>,
    families: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    model_type: &'static str,
    aliases: &'static [&'static str],
    about: &'static str,
    router: &'static str,
    attention: &'static str,
    checked: String,
    models: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    total_parameters: u64,
    active_parameters: u64,
    active_parameters_without_embedding: u64,
    bf16_bytes: u64,
    four_bit_bytes: u64,
    router: Option<&'a str>,
    attention: &'a str,
}

/// Lists what can be run.
pub(crate) fn families(args: &FamiliesArgs) -> Result<()> {
    let models = moebius::published_models()?;
    let wanted = |family: &&Family| match &args.family {
        None => true,
        Some(name) => family.model_type == name || family.aliases.contains(&name.as_str()),
    };
    let families: Vec<Entry<'_>> =
        moebius::FAMILIES.iter().filter(wanted).map(|family| Entry::new(family, &models)).collect();
    if let (true, Some(got)) = (families.is_empty(), &args.family) {
        let expected = moebius::FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", ");
        return Err(moebius::Error::UnknownName { what: "family", got: got.clone(), expected }.into());
    }
    if args.json.json {
        return json::print(&Report { stored_formats: STORED, held_formats: HeldFormats::names(), families });
    }
    let entries: Vec<String> = families.iter().map(Entry::text).collect();
    terminal::print(&format!("{}\n{}", entries.join("\n"), legend()))
}

fn legend() -> String {
    let (stored, held) = (STORED.join(", "), HeldFormats::names().join(", "));
    format!(
        "{FAINT}Memory is that of the weights alone, at 16 and at {FOUR_BITS} bits each. Every family is read from {stored}\n\
         and held as stored or in {held} (--format).{FAINT:#}\n"
    )
}

impl<'a> Entry<'a> {
    fn new(family: &Family, models: &'a [PublishedModel]) -> Self {
        let of_family = models.iter().filter(|model| model.info.family == family.model_type);
        Entry {
            model_type: family.model_type,
            aliases: family.aliases,
            about: family.about,
            router: family.router,
            attention: family.attention,
            checked: family.checked.to_string(),
            models: of_family.map(Model::new).collect(),
        }
    }

    fn text(&self) -> String {
        let mut names = vec![self.model_type];
        names.extend(self.aliases);
        let mut text = format!("{HEADING}{}{HEADING:#}  {}\n", names.join(", "), self.about);
        text += &facts(&[
            ("  router", self.router.to_owned()),
            ("  attention", self.attention.to_owned()),
            ("  checked against", self.checked.clone()),
        ]);
        if self.models.is_empty() {
            return text;
        }
        let columns = ["parameters", "active", "bf16", "4.5 bits"].map(|name| (name, Align::Right));
        let mut table = Table::new(&[&[("  model", Align::Left)][..], &columns].concat());
        for model in &self.models {
            let number = |count: u64| si(Some(count as f64), "");
            let bytes = |count: u64| si(Some(count as f64), "B");
            table.row([
                format!("  {}", model.name),
                number(model.total_parameters),
                number(model.active_parameters),
                bytes(model.bf16_bytes),
                bytes(model.four_bit_bytes),
            ]);
        }
        text + &table.render()
    }
}

impl<'a> Model<'a> {
    fn new(model: &'a PublishedModel) -> Self {
        Model {
            name: &model.name,
            total_parameters: model.info.total_parameters(),
            active_parameters: model.info.active_parameters(),
            active_parameters_without_embedding: model.info.active_without_embedding(),
            bf16_bytes: model.bytes_at(16.0),
            four_bit_bytes: model.bytes_at(FOUR_BITS),
            router: model.info.moe.as_ref().map(|moe| moe.formula.as_str()),
            attention: &model.info.attention,
        }
    }
}
