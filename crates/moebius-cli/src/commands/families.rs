//! `moebius families`.

use serde::Serialize;

use crate::args::ListArgs;
use crate::errors::Result;
use crate::table::{Align, Table};
use crate::{json, terminal};

#[derive(Serialize)]
struct Family {
    model_type: &'static str,
    about: &'static str,
}

/// Lists what can be run.
pub(crate) fn families(args: &ListArgs) -> Result<()> {
    let families = moebius::FAMILIES;
    if args.json.json {
        let list = families.iter().map(|f| Family { model_type: f.model_type, about: f.about }).collect();
        return json::print(&std::collections::BTreeMap::<_, Vec<Family>>::from([("families", list)]));
    }
    let mut table = Table::new(&[("model_type", Align::Left), ("what it is", Align::Left)]);
    for family in families {
        table.row([family.model_type.into(), family.about.into()]);
    }
    terminal::print(&table.render())
}
