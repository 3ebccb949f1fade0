//! The benchmark's chart: bars on a logarithmic scale, one panel a quantity.

use std::path::Path;

use anyhow::Result;

use super::results::{Outcome, Results, grouped};
use crate::canvas::{Canvas, HPos, RGBColor};

const WIDTH: i32 = 1120;
const LABELS: i32 = 190;
const BAR: i32 = 13;
const GAP: i32 = 12;
const TOP: i32 = 84;
/// Room right of the longest bar for its number.
const NUMBER: i32 = 84;

const COLOURS: [RGBColor; 5] = [
    RGBColor(183, 65, 14),
    RGBColor(70, 110, 160),
    RGBColor(165, 165, 165),
    RGBColor(90, 150, 90),
    RGBColor(150, 110, 170),
];

type Value = fn(&Outcome) -> Option<f64>;

const QUANTITIES: [(&str, Value); 3] = [
    ("device accesses (exits)", |one| {
        Some(one.counts.as_ref()?.accesses as f64)
    }),
    ("instructions", |one| {
        Some(one.counts.as_ref()?.instructions as f64)
    }),
    ("milliseconds under KVM", |one| {
        Some(one.kvm.as_ref()?.ms.median)
    }),
];

/// The cells that are drawn, and one quantity of theirs.
struct Panel<'r> {
    title: &'static str,
    get: Value,
    most: f64,
    results: &'r Results,
    cells: &'r [&'r String],
}

impl Panel<'_> {
    fn value(&self, cell: &str, firmware: &str) -> Option<f64> {
        (self.get)(self.results.results.get(cell)?.get(firmware)?)
    }

    /// The largest value, 0 where nothing was measured.
    fn largest(&self) -> f64 {
        let firmware = &self.results.firmware;
        let all = self
            .cells
            .iter()
            .flat_map(|cell| firmware.iter().filter_map(|name| self.value(cell, name)));
        all.fold(0.0, f64::max)
    }

    fn draw(&self, canvas: &Canvas<'_>, left: i32, width: i32) -> Result<()> {
        canvas.text(self.title, (left, 70), 14, HPos::Left)?;
        let whole = f64::from(width - NUMBER);
        for (n, cell) in self.cells.iter().enumerate() {
            for (f, name) in self.results.firmware.iter().enumerate() {
                let Some(value) = self.value(cell, name) else {
                    continue;
                };
                let y = TOP + row(self.results) * n as i32 + BAR * f as i32;
                // One more than the value: the logarithm then starts at nothing.
                let len = (whole * (value + 1.0).ln() / (self.most + 1.0).ln()) as i32;
                let corners = [(left, y + 1), (left + len, y + BAR - 1)];
                canvas.bar(corners, COLOURS[f % COLOURS.len()])?;
                let number = if value < 100.0 && value.fract() != 0.0 {
                    format!("{value:.1}")
                } else {
                    grouped(value.round() as u64)
                };
                canvas.text(&number, (left + len + 5, y + BAR / 2), 11, HPos::Left)?;
            }
        }
        Ok(())
    }
}

/// Height of a cell's bars and the gap below them.
fn row(results: &Results) -> i32 {
    BAR * results.firmware.len() as i32 + GAP
}

/// Draws the bare cells of `results` to an SVG file.
///
/// # Errors
/// The file cannot be written.
pub fn draw(results: &Results, path: &Path) -> Result<()> {
    let bare = |cell: &&String| !cell.contains("server") && !cell.contains("initrd");
    let cells: Vec<&String> = results.cells.iter().filter(bare).collect();
    let panels = QUANTITIES.map(|(title, get)| Panel {
        title,
        get,
        most: 0.0,
        results,
        cells: &cells,
    });
    let panels: Vec<_> = panels
        .into_iter()
        .map(|panel| Panel {
            most: panel.largest(),
            ..panel
        })
        .filter(|panel| panel.most > 0.0)
        .collect();

    let row = row(results);
    let canvas = Canvas::new(path, WIDTH, TOP + row * cells.len() as i32 + 16)?;
    let title = "From reset to the kernel's first instruction (logarithmic)";
    canvas.text(title, (16, 22), 18, HPos::Left)?;
    let names: Vec<&str> = results.firmware.iter().map(String::as_str).collect();
    canvas.legend(44, &names, &COLOURS)?;
    for (n, cell) in cells.iter().enumerate() {
        let y = TOP + row * n as i32 + (row - GAP) / 2;
        canvas.text(cell, (LABELS - 10, y), 13, HPos::Right)?;
    }
    let width = (WIDTH - LABELS) / panels.len().max(1) as i32;
    for (p, panel) in panels.iter().enumerate() {
        panel.draw(&canvas, LABELS + width * p as i32, width)?;
    }
    canvas.write()
}
