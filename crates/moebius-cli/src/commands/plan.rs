//! `moebius plan`.

mod report;
mod validation;

use moebius::plan::{Demand, Estimate, Estimator, Machine, here};
use moebius::{ModelName, Needs};

use crate::args::{OutputArgs, PlanArgs, TableFormat};
use crate::commands::model_dir;
use crate::errors::Result;
use crate::json;
use crate::terminal::{print, remark};
use report::Report;

/// What stands for this machine.
const HERE: &str = "here";

/// Plans a model for machines, or sets predictions beside measurements.
pub(crate) fn plan(args: &PlanArgs, output: &OutputArgs) -> Result<()> {
    if args.validate {
        return validation::validate(args, output);
    }
    let name = match &args.model {
        Some(name) => match ModelName::of(name)? {
            // The planner finds it in the cache by this name.
            ModelName::Hub(_) => model_dir(Some(name), Needs::Description, output).map(|_| name.clone())?,
            _ => name.clone(),
        },
        None => model_dir(None, Needs::Description, output)?.to_string_lossy().into_owned(),
    };
    let demand = Demand::find(&name, args.experts.experts, args.format)?;
    let (estimator, load) = (Estimator::new()?, args.load());
    let estimates: Vec<Estimate> =
        machines(args, output)?.iter().map(|machine| estimator.estimate(&demand, machine, &load)).collect();
    let report = Report::new(&demand, &load, &estimates, args);
    match (args.json.json, args.output) {
        (true, _) => json::print(&report),
        (false, TableFormat::Csv) => print(&report.csv()),
        (false, TableFormat::Md) => print(&report.markdown()),
        (false, TableFormat::Text) => print(&report.text()),
    }
}

fn machines(args: &PlanArgs, output: &OutputArgs) -> Result<Vec<Machine>> {
    let whole = |device| Machine { count: 1, device, host: None };
    let mut machines: Vec<Machine> = match args.hardware.as_slice() {
        [] => moebius::plan::devices().into_iter().map(whole).collect(),
        names => {
            let find = |name: &String| match name.as_str() {
                HERE => {
                    remark(output, "measuring this machine ...");
                    Ok(here(std::thread::available_parallelism().map_or(1, |n| n.get()))?)
                }
                name => Ok(Machine::find(name)?),
            };
            names.iter().map(find).collect::<Result<_>>()?
        }
    };
    let stated = args.memory_gb.map(|gb| (gb * 1e9) as u64);
    for machine in &mut machines {
        let devices = std::iter::once(&mut machine.device).chain(machine.host.as_mut());
        devices.for_each(|device| device.memory_bytes = device.memory_bytes.or(stated));
    }
    Ok(machines)
}

/// Rows as CSV under the names that JSON has; lists are left out and what is unknown is empty.
fn csv<T: serde::Serialize>(rows: impl Iterator<Item = T>) -> String {
    let mut text = String::new();
    for row in rows {
        let value = serde_json::to_value(row).expect("plain data can be written");
        let fields = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_array());
        let (names, cells): (Vec<String>, Vec<String>) =
            fields.map(|(name, value)| (name.clone(), csv_cell(value))).unzip();
        if text.is_empty() {
            text += &format!("{}\n", names.join(","));
        }
        text += &format!("{}\n", cells.join(","));
    }
    text
}

fn csv_cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) if text.contains([',', '"', '\n']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
