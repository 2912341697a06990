//! Heatmaps: numbers around 1 as blocks on the terminal, and as SVG.
//!
//! Shapes: rows of cells, each with a name; `None` is not known or has no meaning.
//! Invariants: without colour the height of a block says the same; no line is wider than the terminal, rows that do not
//! fit go over several.

use std::fmt::Write;
use std::path::Path;

use anstyle::{Ansi256Color, Style};
use plotters::prelude::*;

use crate::errors::{CliError, Result};
use crate::files;
use crate::terminal::{FAINT, HEADING, stdout_has_color, stdout_width};

/// Cells that stand between two marks above the grid.
const TICK: usize = 8;
/// Columns without a terminal.
const USUAL_WIDTH: usize = 100;

/// Rows of numbers.
pub(crate) struct Grid {
    /// The name of each row, and its cells.
    pub(crate) rows: Vec<(String, Vec<Option<f64>>)>,
}

/// Steps by which numbers around 1 are told apart: each is twice the one before.
pub(crate) struct Ramp;

impl Ramp {
    /// What the blocks mean.
    pub(crate) const LEGEND: &str = "· none, ▁ below 1/4, ▂ 1/2, ▃ 1, ▅ 2, ▆ 4, ▇ 8, █ above";
    /// Upper bounds.
    const BOUNDS: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];
    const BLOCKS: [char; 7] = ['▁', '▂', '▃', '▅', '▆', '▇', '█'];
    /// From blue over grey to red, in the cube of 256 colours.
    const COLORS: [u8; 7] = [19, 26, 67, 179, 208, 196, 199];

    fn step(value: f64) -> usize {
        Ramp::BOUNDS.iter().position(|&bound| value < bound).unwrap_or(Ramp::BOUNDS.len())
    }

    fn cell(value: Option<f64>, color: bool) -> String {
        let Some(value) = value.filter(|value| value.is_finite()) else { return " ".into() };
        if value <= 0.0 {
            return format!("{FAINT}·{FAINT:#}");
        }
        let step = Ramp::step(value);
        let block = Ramp::BLOCKS[step];
        if !color {
            return block.into();
        }
        let style = Style::new().fg_color(Some(Ansi256Color(Ramp::COLORS[step]).into()));
        format!("{style}{block}{style:#}")
    }
}

impl Grid {
    /// For the terminal behind stdout, or for the file that it is.
    pub(crate) fn render(&self) -> String {
        self.render_in(stdout_width().unwrap_or(USUAL_WIDTH), stdout_has_color())
    }

    fn render_in(&self, width: usize, color: bool) -> String {
        let names = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let cells = self.rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
        let room = width.saturating_sub(names + 1).max(TICK);
        let per_line = if cells <= room { cells } else { room / TICK * TICK };
        let mut text = marks(names, 0, per_line.min(cells));
        for (name, cells) in &self.rows {
            for (index, part) in cells.chunks(per_line.max(1)).enumerate() {
                let name = if index == 0 { name.as_str() } else { "" };
                let part: String = part.iter().map(|&value| Ramp::cell(value, color)).collect();
                writeln!(text, "{name:<names$} {part}").expect("writing to a string cannot fail");
            }
        }
        text
    }

    /// Writes the grid as an SVG file, with what it shows above it, and says how many bytes it has.
    pub(crate) fn write_svg(&self, path: &Path, words: &Words) -> Result<u64> {
        let svg =
            self.svg(words).map_err(|error| CliError::Output(std::io::Error::other(error.to_string())))?;
        files::write(path, &svg)
    }

    fn svg(&self, words: &Words) -> std::result::Result<String, Box<dyn std::error::Error>> {
        const LEFT: i32 = 60;
        const TOP: i32 = 84;
        const KEY: i32 = 64;
        let cells = self.rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0).max(1) as i32;
        let side = (1200 / cells).clamp(3, 22);
        let height = side.max(if self.rows.len() > 40 { side } else { 14 }).max(4);
        let width = (LEFT + cells * side + 30).max(560);
        let bottom = TOP + height * self.rows.len() as i32;
        let mut text = String::new();
        {
            let root = SVGBackend::with_string(&mut text, (width as u32, (bottom + KEY + 30) as u32));
            let root = root.into_drawing_area();
            root.fill(&WHITE)?;
            let font = |size: i32| ("sans-serif", size).into_font();
            root.draw(&Text::new(words.title.as_str(), (20, 14), font(20).color(&BLACK)))?;
            root.draw(&Text::new(words.subtitle.as_str(), (20, 40), font(13).color(&GREY)))?;
            for cell in (0..cells).step_by(label_step(cells as usize, side)) {
                root.draw(&Text::new(
                    cell.to_string(),
                    (LEFT + cell * side, TOP - 16),
                    font(11).color(&GREY),
                ))?;
            }
            let row_step = (12 / height).max(1) as usize;
            for (index, (name, cells)) in self.rows.iter().enumerate() {
                let y = TOP + height * index as i32;
                if index % row_step == 0 {
                    root.draw(&Text::new(name.as_str(), (16, y + height / 2 - 6), font(11).color(&GREY)))?;
                }
                for (column, value) in (0..).zip(cells) {
                    let x = LEFT + column * side;
                    let color = shade(*value);
                    root.draw(&Rectangle::new([(x, y), (x + side, y + height)], color.filled()))?;
                }
            }
            draw_key(&root, (LEFT, bottom + 22), &words.unit)?;
            root.present()?;
        }
        Ok(text)
    }
}

/// What is written on a picture.
pub(crate) struct Words {
    /// What it shows.
    pub(crate) title: String,
    /// Of what.
    pub(crate) subtitle: String,
    /// What the numbers are.
    pub(crate) unit: String,
}

const GREY: RGBColor = RGBColor(90, 90, 90);
/// Nothing at all.
const UNUSED: RGBColor = RGBColor(235, 235, 235);

/// Blue below 1, white at 1, red above, by powers of two up to 8.
fn shade(value: Option<f64>) -> RGBColor {
    let Some(value) = value.filter(|value| value.is_finite()) else { return WHITE };
    if value <= 0.0 {
        return UNUSED;
    }
    let at = (value.log2() / 3.0).clamp(-1.0, 1.0);
    let toward = |(red, green, blue): (f64, f64, f64), share: f64| {
        let mix = |end: f64| (250.0 + (end - 250.0) * share).round() as u8;
        RGBColor(mix(red), mix(green), mix(blue))
    };
    if at < 0.0 { toward((33.0, 102.0, 172.0), -at) } else { toward((178.0, 24.0, 43.0), at) }
}

/// Columns between two labels, so that they do not touch.
fn label_step(cells: usize, side: i32) -> usize {
    let fits = (26 / side).max(1) as usize;
    [1, 2, 4, 8, 16, 32, 64, 128].into_iter().find(|&step| step >= fits).unwrap_or(cells.max(1))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_key(
    root: &Area<'_>,
    (x, y): (i32, i32),
    unit: &str,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let font = || ("sans-serif", 11).into_font().color(&GREY);
    let steps = [None, Some(0.125_f64), Some(0.25), Some(0.5), Some(1.0), Some(2.0), Some(4.0), Some(8.0)];
    for (index, value) in (0..).zip(steps) {
        let left = x + 44 * index;
        let name = match value {
            None => "none".to_owned(),
            Some(value) if value < 1.0 => format!("1/{}", value.recip()),
            Some(value) => value.to_string(),
        };
        let color = value.map_or(UNUSED, |value| shade(Some(value)));
        root.draw(&Rectangle::new([(left, y), (left + 44, y + 14)], color.filled()))?;
        root.draw(&Rectangle::new([(left, y), (left + 44, y + 14)], GREY.stroke_width(1)))?;
        root.draw(&Text::new(name, (left + 8, y + 18), font()))?;
    }
    root.draw(&Text::new(unit.to_owned(), (x, y + 36), font()))?;
    Ok(())
}

/// The numbers of the first cell of every few.
fn marks(names: usize, first: usize, cells: usize) -> String {
    let mut line = String::new();
    for cell in (first..first + cells).step_by(TICK) {
        let number = cell.to_string();
        if line.len() <= cell - first {
            line += &" ".repeat(cell - first - line.len());
            line += &number;
        }
    }
    format!("{HEADING}{:names$} {line}{HEADING:#}\n", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(cells: &[Option<f64>]) -> Grid {
        Grid { rows: vec![("L0".into(), cells.to_vec()), ("L10".into(), cells.to_vec())] }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn blocks_rise_with_the_numbers_and_nothing_is_a_dot() {
        let values =
            [Some(0.0), Some(0.1), Some(0.3), Some(0.9), Some(1.0), Some(3.0), Some(7.9), Some(80.0), None];
        let text = plain(&grid(&values).render_in(80, false));
        assert_eq!(text, "    0       8\nL0  ·▁▂▃▅▆▇█ \nL10 ·▁▂▃▅▆▇█ \n");
        assert_eq!(plain(&grid(&values).render_in(80, true)), text);
    }

    #[test]
    fn rows_that_do_not_fit_go_over_several_lines() {
        let text = plain(&grid(&[Some(1.0); 40]).render_in(24, false));
        assert!(text.lines().all(|line| line.chars().count() <= 24), "{text}");
        assert_eq!(text.lines().count(), 1 + 2 * 3, "{text}");
    }

    #[test]
    fn a_picture_has_a_rectangle_for_each_cell_and_escapes_its_words() {
        let words = Words { title: "a < b".into(), subtitle: "x".into(), unit: "times even".into() };
        let svg = grid(&[Some(0.0), Some(2.0), None]).svg(&words).expect("a picture");
        assert!(svg.starts_with("<svg ") && svg.contains("a &lt; b"), "{svg}");
        // The page, six cells, and eight fields of the key with their frames.
        assert_eq!(svg.matches("<rect").count(), 1 + 6 + 16, "{svg}");
        assert!(!svg.contains("NaN"));
    }
}
