//! The benchmark's chart: bars on a logarithmic scale, one panel a quantity.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::bench::{Outcome, Results, grouped};

const WIDTH: u32 = 1120;
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
const INK: RGBColor = RGBColor(40, 40, 40);

type Value = fn(&Outcome) -> Option<f64>;

/// Draws the bare cells of `results` to an SVG file.
///
/// # Errors
/// The file cannot be written.
pub fn draw(results: &Results, path: &Path) -> Result<()> {
    let cells: Vec<&String> = results
        .cells
        .iter()
        .filter(|cell| !cell.contains("server") && !cell.contains("initrd"))
        .collect();
    let panels: [(&str, Value); 3] = [
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
    let value =
        |cell: &str, firmware: &str, get: Value| get(results.results.get(cell)?.get(firmware)?);
    let panels: Vec<_> = panels
        .into_iter()
        .filter_map(|(title, get)| {
            let most = cells
                .iter()
                .flat_map(|cell| results.firmware.iter().map(move |name| (cell, name)))
                .filter_map(|(cell, name)| value(cell, name, get))
                .fold(0.0, f64::max);
            (most > 0.0).then_some((title, get, most))
        })
        .collect();

    let row = BAR * results.firmware.len() as i32 + GAP;
    let height = TOP + row * cells.len() as i32 + 16;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    let failed = |error| anyhow!("drawing {}: {error:?}", path.display());
    area.fill(&WHITE).map_err(failed)?;
    let style = |size: i32, h: HPos| {
        ("sans-serif", size)
            .into_font()
            .color(&INK)
            .pos(Pos::new(h, VPos::Center))
    };
    let text = |text: String, at: (i32, i32), size: i32, h: HPos| {
        area.draw(&Text::new(text, at, style(size, h)))
            .map_err(failed)
    };

    let title = "From reset to the kernel's first instruction (logarithmic)";
    text(title.to_owned(), (16, 22), 18, HPos::Left)?;
    let mut x = 16;
    for (n, name) in results.firmware.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let swatch = Rectangle::new([(x, 38), (x + 12, 50)], colour.filled());
        area.draw(&swatch).map_err(failed)?;
        text(name.clone(), (x + 18, 45), 13, HPos::Left)?;
        x += 40 + 8 * name.len() as i32;
    }
    for (n, cell) in cells.iter().enumerate() {
        let y = TOP + row * n as i32 + (row - GAP) / 2;
        text((*cell).clone(), (LABELS - 10, y), 13, HPos::Right)?;
    }
    let width = (WIDTH as i32 - LABELS) / panels.len().max(1) as i32;
    for (p, (title, get, most)) in panels.iter().enumerate() {
        let left = LABELS + width * p as i32;
        text((*title).to_owned(), (left, 70), 14, HPos::Left)?;
        let whole = f64::from(width - NUMBER);
        for (n, cell) in cells.iter().enumerate() {
            for (f, name) in results.firmware.iter().enumerate() {
                let Some(value) = value(cell, name, *get) else {
                    continue;
                };
                let y = TOP + row * n as i32 + BAR * f as i32;
                // One more than the value: the logarithm then starts at nothing.
                let len = (whole * (value + 1.0).ln() / (most + 1.0).ln()) as i32;
                let bar = Rectangle::new(
                    [(left, y + 1), (left + len, y + BAR - 1)],
                    COLOURS[f % COLOURS.len()].filled(),
                );
                area.draw(&bar).map_err(failed)?;
                let number = if value < 100.0 && value.fract() != 0.0 {
                    format!("{value:.1}")
                } else {
                    grouped(value.round() as u64)
                };
                text(number, (left + len + 5, y + BAR / 2), 11, HPos::Left)?;
            }
        }
    }
    area.present().map_err(failed)
}
