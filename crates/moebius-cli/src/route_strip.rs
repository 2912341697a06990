//! Which experts each layer chose for a token, on one line where it fits.
//!
//! Four degrees of detail: every expert with its weight, every expert, the strongest expert, and a bar whose
//! colour is the strongest expert. The most detailed one that fits the terminal is taken.
//!
//! Shapes: a token is a row, a layer is a cell, a chosen expert is an entry; entries stand by weight, the
//! heaviest first.
//! Invariants: without colour nothing is lost but the looks; no row is wider than the terminal as long as
//! it has room for a token and one cell.

mod paint;

use console::measure_text_width;
use moebius::LayerRoute;

use crate::terminal::{
    FAINT, HEADING, printable, stderr_has_color, stderr_width, stdout_has_color, stdout_width,
};
use paint::{bar, swatch};

/// Columns for the token's text.
const TOKEN_WIDTH: usize = 12;
/// Columns for the first layer of a row, when a token takes several rows.
const LABEL_WIDTH: usize = 5;
/// Tokens after which the heading is shown again.
const HEADING_EVERY: usize = 24;

/// Draws the routes of one token after another.
#[derive(Clone, Debug)]
pub(crate) struct RouteStrip {
    /// Columns; `None` is as many as it takes.
    width: Option<usize>,
    color: bool,
    /// All experts with their weights, over several rows if need be.
    detailed: bool,
    /// Most experts of a token, if known: cells have room for as many, so that columns stand below each other.
    entries: usize,
    /// Whether weights are known.
    weighted: bool,
    tokens: usize,
}

/// How much of each layer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    Weights,
    Experts,
    Strongest,
    Bar,
}

/// How the cells of a token stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    detail: Detail,
    entries: usize,
    id_width: usize,
    cell_width: usize,
    /// Cells of a row.
    per_row: usize,
    /// A token takes several rows.
    wrapped: bool,
}

impl RouteStrip {
    /// For the terminal behind stderr, or for the file that it is.
    pub(crate) fn for_stderr(detailed: bool) -> Self {
        RouteStrip::new(stderr_width(), stderr_has_color(), detailed)
    }

    /// For the terminal behind stdout, or for the file that it is.
    pub(crate) fn for_stdout(detailed: bool) -> Self {
        RouteStrip::new(stdout_width(), stdout_has_color(), detailed)
    }

    fn new(width: Option<usize>, color: bool, detailed: bool) -> Self {
        RouteStrip { width, color, detailed, entries: 1, weighted: true, tokens: 0 }
    }

    /// For tokens of at most `entries` experts a layer.
    pub(crate) fn of_at_most(self, entries: usize) -> Self {
        RouteStrip { entries, ..self }
    }

    /// For routes whose weights mean nothing.
    pub(crate) fn without_weights(self) -> Self {
        RouteStrip { weighted: false, detailed: false, ..self }
    }

    /// The rows of one token, below a legend and a heading where they are due.
    pub(crate) fn line(&mut self, token: &str, routes: &[LayerRoute]) -> String {
        let layout = self.layout(routes);
        let mut text = String::new();
        if self.tokens == 0 {
            text += &format!("{FAINT}{}{FAINT:#}\n", layout.legend(routes, self.color));
        }
        if self.tokens.is_multiple_of(HEADING_EVERY) && !layout.wrapped {
            text += &layout.heading(routes);
        }
        self.tokens += 1;
        text + &layout.rows(&token_cell(token), routes, self.color)
    }

    fn layout(&self, routes: &[LayerRoute]) -> Layout {
        let room = self.width.unwrap_or(usize::MAX);
        let fits = |detail: &Detail| {
            let layout = Layout::new(*detail, routes, (room, self.entries));
            (!layout.wrapped).then_some(layout)
        };
        let last = match (self.detailed, self.color) {
            (true, _) => Detail::Weights,
            (false, true) => Detail::Bar,
            (false, false) => Detail::Strongest,
        };
        let tried = [Detail::Weights, Detail::Experts, Detail::Strongest];
        let tried = match (self.detailed, self.weighted) {
            (true, _) => &tried[..1],
            (false, true) => &tried[..],
            (false, false) => &tried[1..],
        };
        tried.iter().find_map(fits).unwrap_or_else(|| Layout::new(last, routes, (room, self.entries)))
    }
}

impl Detail {
    /// What stands between two cells.
    fn gap(self) -> &'static str {
        match self {
            Detail::Weights | Detail::Experts => " │ ",
            Detail::Strongest => " ",
            Detail::Bar => "",
        }
    }
}

impl Layout {
    fn new(detail: Detail, routes: &[LayerRoute], (room, least): (usize, usize)) -> Layout {
        let most = |count: fn(&LayerRoute) -> usize| routes.iter().map(count).max().unwrap_or(0);
        let id_width = most(|r| r.n_experts).saturating_sub(1).to_string().len();
        let entries = most(|r| r.experts.len()).max(least).max(1);
        let entry_width = id_width + WEIGHT_WIDTH + 1;
        let cell_width = match detail {
            Detail::Weights => entries * (entry_width + 1) - 1,
            Detail::Experts => entries * (id_width + 1) - 1,
            Detail::Strongest => id_width,
            Detail::Bar => 1,
        };
        let gap = measure_text_width(detail.gap());
        let cells = |room: usize| room.saturating_add(gap) / (cell_width + gap);
        let per_row = cells(room.saturating_sub(TOKEN_WIDTH + 1));
        let wrapped = per_row < routes.len();
        let per_row =
            if wrapped { cells(room.saturating_sub(TOKEN_WIDTH + 1 + LABEL_WIDTH)) } else { per_row };
        Layout { detail, entries, id_width, cell_width, per_row: per_row.max(1), wrapped }
    }

    fn legend(&self, routes: &[LayerRoute], color: bool) -> String {
        let Some(first) = routes.first() else { return "This model has no routers.".into() };
        let (k, n_experts) = (self.entries, first.n_experts);
        let intensity = if color { ", the brighter the heavier" } else { "" };
        match self.detail {
            Detail::Weights => format!("expert·weight by layer ({k} of {n_experts}), heaviest first"),
            Detail::Experts => format!("experts by layer ({k} of {n_experts}), heaviest first{intensity}"),
            Detail::Strongest => {
                format!("heaviest of {k} experts by layer (of {n_experts}){intensity}; -v shows all")
            }
            Detail::Bar => {
                format!("a bar by layer: colour the heaviest of {k} experts, height its share (-v: all)")
            }
        }
    }

    /// The numbers of the layers above their cells, as far as there is room.
    fn heading(&self, routes: &[LayerRoute]) -> String {
        let step = self.cell_width + measure_text_width(self.detail.gap());
        let mut line = format!("{:TOKEN_WIDTH$} ", "token");
        for (index, route) in routes.iter().enumerate() {
            let start = TOKEN_WIDTH + 1 + index * step;
            let label = format!("L{}", route.layer);
            let ends_inside = label.len() <= self.cell_width || (index + 1) * step > label.len() + step;
            let free = index == 0 || line.len() < start;
            if free && (ends_inside || index == 0) {
                line += &" ".repeat(start - line.len());
                line += &label;
            }
        }
        format!("{HEADING}{}{HEADING:#}\n", line.trim_end())
    }

    fn rows(&self, token: &str, routes: &[LayerRoute], color: bool) -> String {
        let mut rows = Vec::new();
        for (index, part) in routes.chunks(self.per_row).enumerate() {
            let token = if index == 0 { token.to_owned() } else { " ".repeat(TOKEN_WIDTH) };
            let label = match part.first() {
                Some(route) if self.wrapped => {
                    let label = format!("L{}", route.layer);
                    format!("{FAINT}{label:<LABEL_WIDTH$}{FAINT:#}")
                }
                _ => String::new(),
            };
            let gap = self.detail.gap();
            let gap = if gap.is_empty() { String::new() } else { format!("{FAINT}{gap}{FAINT:#}") };
            let cells: Vec<String> = part.iter().map(|route| self.cell(route, color)).collect();
            rows.push(format!("{token} {label}{}", cells.join(&gap)));
        }
        if rows.is_empty() { token.to_owned() } else { rows.join("\n") }
    }

    fn cell(&self, route: &LayerRoute, color: bool) -> String {
        let mut entries: Vec<(u32, f32)> =
            route.experts.iter().copied().zip(route.weights.iter().copied()).collect();
        entries.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let Some(&(strongest, heaviest)) = entries.first() else { return " ".repeat(self.cell_width) };
        let total: f32 = entries.iter().map(|(_, weight)| weight).sum();
        let share = ratio(heaviest, total);
        let width = self.id_width;
        let paint = |expert: u32, intensity: f32, text: String| {
            if color { swatch(expert, intensity, &text) } else { text }
        };
        let entry = |(expert, weight): &(u32, f32)| match self.detail {
            Detail::Weights => {
                paint(*expert, ratio(*weight, heaviest), format!("{expert:>width$}·{}", short(*weight)))
            }
            Detail::Experts => paint(*expert, ratio(*weight, heaviest), format!("{expert:>width$}")),
            Detail::Strongest => paint(*expert, share, format!("{expert:>width$}")),
            Detail::Bar => bar(strongest, share),
        };
        let shown = match self.detail {
            Detail::Weights | Detail::Experts => entries.len(),
            Detail::Strongest | Detail::Bar => 1,
        };
        let cell = entries.iter().take(shown).map(entry).collect::<Vec<_>>().join(" ");
        let missing = self.cell_width.saturating_sub(measure_text_width(&cell));
        cell + &" ".repeat(missing)
    }
}

/// Columns of [`short`].
const WEIGHT_WIDTH: usize = 3;

/// A weight in three columns: `.61`, `1.2`, ` 12`.
fn short(weight: f32) -> String {
    let two = format!("{weight:.2}");
    let fraction = two.strip_prefix("0.").map(|fraction| format!(".{fraction}"));
    let one = fraction.unwrap_or_else(|| format!("{weight:.1}"));
    if one.len() <= WEIGHT_WIDTH { one } else { format!("{:>WEIGHT_WIDTH$}", format!("{weight:.0}")) }
}

/// `part / whole` from 0 to 1; 1 where that makes no sense.
fn ratio(part: f32, whole: f32) -> f32 {
    let share = part / whole;
    if share.is_finite() { share.clamp(0.0, 1.0) } else { 1.0 }
}

/// The token in its columns, a space at its start made visible.
fn token_cell(token: &str) -> String {
    let token = match token.strip_prefix(' ') {
        Some(rest) => format!("␣{rest}"),
        None => token.to_owned(),
    };
    let mut shown = String::new();
    for character in printable(&token).replace(['\n', '\t'], " ").chars() {
        if measure_text_width(&shown) + measure_text_width(&character.to_string()) > TOKEN_WIDTH - 1 {
            shown.push('…');
            break;
        }
        shown.push(character);
    }
    let space = " ".repeat(TOKEN_WIDTH.saturating_sub(measure_text_width(&shown)));
    shown + &space
}

#[cfg(test)]
mod tests;
