//! Charts as SVG: lines, measured points with their spread, and what theory says beside them.
//!
//! A [`Figure`] is a page of [`Chart`]s; each has two axes and some [`Series`]. Text is set in whatever sans-serif font
//! the viewer has, so nothing is asked of this machine.
//!
//! Invariants: values that an axis cannot show (not finite, or not above zero on a logarithmic axis) are left out, and
//! a chart without any says so; the same data give the same bytes.

mod draw;
mod scale;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::errors::{CliError, Result};
use crate::files;

pub(crate) use scale::Scale;

/// One direction of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// What is on it, with its unit.
    pub(crate) label: String,
    /// How values lie along it.
    pub(crate) scale: Scale,
}

impl Axis {
    /// An axis.
    pub(crate) fn new(label: impl Into<String>, scale: Scale) -> Self {
        Axis { label: label.into(), scale }
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Points joined by a line, each with its spread: what was measured.
    Measured,
    /// Points alone.
    Points,
    /// A broken line: what theory says.
    Theory,
}

/// A value with what it depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Where it stands.
    pub(crate) x: f64,
    /// The value.
    pub(crate) y: f64,
    /// From where to where its samples lie, if there are several.
    pub(crate) spread: Option<(f64, f64)>,
}

impl Point {
    /// A value of one sample, or of none.
    pub(crate) fn new(x: f64, y: f64) -> Self {
        Point { x, y, spread: None }
    }
}

/// Words beside a point.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    /// The point.
    pub(crate) at: Point,
    /// The words.
    pub(crate) text: String,
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Its entry in the legend; series without a name have none.
    pub(crate) name: String,
    /// Which colour of the palette: theory takes that of the measurement that it explains.
    pub(crate) color: usize,
    /// How it is drawn.
    pub(crate) mark: Mark,
    /// In ascending x.
    pub(crate) points: Vec<Point>,
}

/// A diagram.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// What it shows.
    pub(crate) title: String,
    /// From left to right.
    pub(crate) x: Axis,
    /// Upwards.
    pub(crate) y: Axis,
    /// What is in it, the first at the bottom.
    pub(crate) series: Vec<Series>,
}

/// A page of charts.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What all of them are about.
    pub(crate) title: String,
    /// What they were measured on.
    pub(crate) subtitle: String,
    /// From left to right, then down.
    pub(crate) charts: Vec<Chart>,
    /// Charts side by side, at least one.
    pub(crate) columns: usize,
}

impl Figure {
    /// The page as the text of an SVG file, with notes for each chart, in their order.
    fn svg(&self, notes: &[Vec<Note>]) -> Result<String> {
        draw::svg(self, notes).map_err(|error| CliError::Output(std::io::Error::other(error.to_string())))
    }

    /// Writes the page to a file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        self.write_noted(path, &[])
    }

    /// As [`Figure::write`], with notes for each chart, in their order.
    pub(crate) fn write_noted(&self, path: &Path, notes: &[Vec<Note>]) -> Result<()> {
        let svg = self.svg(notes)?;
        files::write(path, &svg).map(drop)
    }
}
