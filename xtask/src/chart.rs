//! The charts of `bench` and `timeline`, as SVG files: bars and text.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::bench::{Outcome, Results, grouped};
use crate::output::say;
use crate::timeline::{self, Stage, Timeline};
use crate::workspace;

const WIDTH: i32 = 1120;
const INK: &str = "#282828";
/// Width of a letter as a share of its size, on average and a little more: the
/// font is the viewer's.
const LETTER: f64 = 0.6;
/// Of firmware.
const FIRMWARE: [&str; 5] = ["#b7410e", "#466ea0", "#a5a5a5", "#5a965a", "#966eaa"];
/// Of a boot's stages.
const STAGES: [&str; 7] = [
    "#a5a5a5", "#6e280a", "#b7410e", "#e6965a", "#c8b43c", "#466ea0", "#5a965a",
];

/// A white page.
struct Svg(String);

impl Svg {
    fn new(height: i32) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" fill=\"{INK}\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        ))
    }

    /// Text that starts at `(x, y)`, or ends there; `y` is its middle.
    fn text(&mut self, text: &str, (x, y): (i32, i32), size: i32, ends: bool) {
        let anchor = if ends { " text-anchor=\"end\"" } else { "" };
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.0,
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" dy=\"0.35em\"{anchor}>{text}</text>"
        );
    }

    fn bar(&mut self, (x, y): (i32, i32), (width, height): (i32, i32), colour: &str) {
        let _ = writeln!(
            self.0,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{colour}\"/>"
        );
    }

    /// Names beside their colours, in a line from the left.
    fn legend<'n>(&mut self, y: i32, names: impl Iterator<Item = &'n str>, colours: &[&str]) {
        let mut x = 16;
        for (name, colour) in names.zip(colours.iter().cycle()) {
            self.bar((x, y - 6), (12, 12), colour);
            self.text(name, (x + 18, y), 13, false);
            let width = name.chars().count() as f64 * 13.0 * LETTER;
            x += 18 + width as i32 + 16;
        }
    }

    /// Writes the file and, for the documents, a copy to `docs/`.
    fn write(mut self, path: &Path, keep_as: Option<&str>) -> Result<()> {
        self.0.push_str("</svg>\n");
        let write = |path: &Path| {
            fs::write(path, &self.0).with_context(|| format!("writing {}", path.display()))
        };
        write(path)?;
        if let Some(name) = keep_as {
            write(&workspace::root().join("docs").join(name))?;
            say!("wrote docs/{name}")?;
        }
        Ok(())
    }
}

type Value = fn(&Outcome) -> Option<f64>;

/// The benchmark's panels.
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

/// Draws the bare cells of a benchmark: bars on a logarithmic scale, one panel a
/// quantity.
///
/// # Errors
/// The file cannot be written.
pub fn benchmark(results: &Results, path: &Path, keep: bool) -> Result<()> {
    const LABELS: i32 = 190;
    const BAR: i32 = 13;
    const GAP: i32 = 12;
    const TOP: i32 = 84;
    // Room right of the longest bar for its number.
    const NUMBER: i32 = 84;

    let bare = |cell: &&String| !cell.contains("server") && !cell.contains("initrd");
    let cells: Vec<&String> = results.cells.iter().filter(bare).collect();
    let row = BAR * results.firmware.len() as i32 + GAP;
    // By quantity: the number and place of each bar, and its value.
    let panels = QUANTITIES.map(|(title, get)| {
        let mut bars = Vec::new();
        for (n, cell) in (0..).zip(&cells) {
            let outcomes = results.results.get(*cell);
            for (f, name) in results.firmware.iter().enumerate() {
                if let Some(value) = outcomes.and_then(|by| get(by.get(name)?)) {
                    bars.push((f, TOP + row * n + BAR * f as i32, value));
                }
            }
        }
        (title, bars)
    });
    let panels: Vec<_> = panels
        .into_iter()
        .filter(|(_, bars)| bars.iter().any(|(.., value)| *value > 0.0))
        .collect();

    let mut svg = Svg::new(TOP + row * cells.len() as i32 + 16);
    let title = "From reset to the kernel's first instruction (logarithmic)";
    svg.text(title, (16, 22), 18, false);
    svg.legend(44, results.firmware.iter().map(String::as_str), &FIRMWARE);
    for (n, cell) in (0..).zip(&cells) {
        svg.text(
            cell,
            (LABELS - 10, TOP + row * n + (row - GAP) / 2),
            13,
            true,
        );
    }
    let width = (WIDTH - LABELS) / panels.len().max(1) as i32;
    for (p, (title, bars)) in (0..).zip(&panels) {
        let left = LABELS + width * p;
        svg.text(title, (left, 70), 14, false);
        let most = bars.iter().map(|(.., value)| *value).fold(0.0, f64::max);
        for (f, y, value) in bars {
            // One more than the value: the logarithm then starts at nothing.
            let share = (value + 1.0).ln() / (most + 1.0).ln();
            let len = (f64::from(width - NUMBER) * share) as i32;
            svg.bar((left, y + 1), (len, BAR - 2), FIRMWARE[f % FIRMWARE.len()]);
            let number = if *value < 100.0 && value.fract() != 0.0 {
                format!("{value:.1}")
            } else {
                grouped(value.round() as u64)
            };
            svg.text(&number, (left + len + 5, y + BAR / 2), 11, false);
        }
    }
    svg.write(path, keep.then_some("benchmark.svg"))
}

/// Draws one bar a boot, and under it the firmware's part again, enlarged.
///
/// # Errors
/// The file cannot be written.
pub fn timelines(timelines: &[Timeline], path: &Path, keep: bool) -> Result<()> {
    const LEFT: i32 = 120;
    const RIGHT: i32 = 100;
    // Room for the note on the enlarged bar.
    const NOTE: i32 = 300;
    const ROW: i32 = 92;
    const TOP: i32 = 90;

    let mut svg = Svg::new(TOP + ROW * timelines.len() as i32 + 10);
    let machine = timeline::MACHINE;
    let title = format!("From QEMU's start to user space, {machine} under TCG");
    svg.text(&title, (16, 22), 18, false);
    let stages = timelines.first().map_or(&[][..], |one| &one.stages);
    svg.legend(51, stages.iter().map(|stage| stage.name), &STAGES);
    let most = timelines.iter().map(Timeline::total).fold(1.0, f64::max);
    let scale = f64::from(WIDTH - LEFT - RIGHT) / most;
    // The stages one after the other; gives where the last one ends.
    let bars = |svg: &mut Svg, stages: &[Stage], colours: &[&str], scale: f64, y, height| {
        let x = |ms: f64| LEFT + (ms * scale) as i32;
        let mut at = 0.0;
        for (stage, colour) in stages.iter().zip(colours) {
            let width = (x(at + stage.ms) - x(at)).max(1);
            svg.bar((x(at), y), (width, height), colour);
            at += stage.ms;
        }
        x(at)
    };
    for (n, one) in (0..).zip(timelines) {
        let y = TOP + ROW * n;
        svg.text(one.kernel, (LEFT - 12, y + 16), 13, true);
        let end = bars(&mut svg, &one.stages, &STAGES, scale, y, 32);
        let total = format!("{:.0} ms", one.total());
        svg.text(&total, (end + 6, y + 16), 12, false);
        // The firmware's three stages again, as large as there is room for.
        if let (Some(stages), Some(colours)) = (one.stages.get(1..4), STAGES.get(1..4)) {
            let ms: f64 = stages.iter().map(|stage| stage.ms).sum();
            let fits = |times: &f64| ms * scale * times <= f64::from(WIDTH - LEFT - NOTE);
            let times = [1000.0, 100.0, 10.0].into_iter().find(fits).unwrap_or(1.0);
            let end = bars(&mut svg, stages, colours, scale * times, y + 42, 16);
            let note = format!("firmware, {times} times enlarged: {ms:.2} ms");
            svg.text(&note, (end + 8, y + 50), 12, false);
        }
    }
    svg.write(path, keep.then_some("timeline.svg"))
}
