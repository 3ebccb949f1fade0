//! The charts of `bench` and `timeline`, as SVG files for light and for dark pages:
//! bars, text, and axes with ticks.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::output::say;
use crate::results::{Boots, Outcome, Results, STAGES, Timeline, grouped};
use crate::{measure, workspace};

const WIDTH: i32 = 1120;
/// Width of a letter as a share of its size, on average and a little more: the
/// font is the viewer's.
const LETTER: f64 = 0.6;

// Marks in a page, which a theme replaces by its colours.
const PAGE: &str = "$page";
const INK: &str = "$ink";
const GRID: &str = "$grid";

/// The same for a series.
fn series(n: usize) -> String {
    format!("$series{}", n % 5)
}

/// The end of the files' names, the page, ink and grid, and a colour for each series.
struct Theme(&'static str, [&'static str; 3], [&'static str; 5]);

const THEMES: [Theme; 2] = [
    Theme(
        "",
        ["#ffffff", "#282828", "#d9d9d9"],
        ["#b7410e", "#466ea0", "#8c8c8c", "#5a965a", "#966eaa"],
    ),
    Theme(
        "-dark",
        ["#0d1117", "#e6edf3", "#30363d"],
        ["#ef7f4d", "#79a6dc", "#9a9a9a", "#7fbf7f", "#c39bd9"],
    ),
];

/// A page, whose colours are still marks.
pub struct Svg(String);

impl Svg {
    fn new(height: i32) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" fill=\"{INK}\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"{PAGE}\"/>\n"
        ))
    }

    /// Text at `(x, y)`: `y` is its middle, `anchor` the end at `x`. Lines of the grid
    /// keep a distance from it.
    fn text(&mut self, text: &str, (x, y): (i32, i32), size: i32, anchor: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.0,
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" dy=\"0.35em\" \
             text-anchor=\"{anchor}\" stroke=\"{PAGE}\" stroke-width=\"3\" \
             paint-order=\"stroke\">{text}</text>"
        );
    }

    fn bar(&mut self, (x, y): (i32, i32), (width, height): (i32, i32), fill: &str) {
        let _ = writeln!(
            self.0,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>"
        );
    }

    /// A vertical line through the chart, and its value below.
    fn tick(&mut self, x: i32, (top, bottom): (i32, i32), label: &str) {
        self.bar((x, top), (1, bottom - top), GRID);
        self.text(label, (x, bottom + 10), 11, "middle");
    }

    /// Names beside their colours, in a line.
    fn legend<'n>(&mut self, y: i32, names: impl Iterator<Item = &'n str>) {
        let mut x = 16;
        for (n, name) in names.enumerate() {
            self.bar((x, y - 6), (12, 12), &series(n));
            self.text(name, (x + 18, y), 13, "start");
            let width = name.chars().count() as f64 * 13.0 * LETTER;
            x += 18 + width as i32 + 16;
        }
    }

    /// Writes `path`, and a second file for dark pages beside it.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        for Theme(end, [page, ink, grid], colours) in THEMES {
            let mut text = self.0.replace(PAGE, page).replace(INK, ink);
            text = text.replace(GRID, grid) + "</svg>\n";
            for (n, colour) in colours.iter().enumerate() {
                text = text.replace(&series(n), colour);
            }
            let path = path.with_file_name(format!("{stem}{end}.svg"));
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            let shown = path.strip_prefix(workspace::root()).unwrap_or(&path);
            say!("wrote {}", shown.display())?;
        }
        Ok(())
    }
}

type Value = fn(&Outcome) -> Option<f64>;

/// The benchmark's panels beside that of the boots.
const QUANTITIES: [(&str, Value); 3] = [
    ("accesses to the kernel", |one| {
        Some(one.counts.as_ref()?.accesses as f64)
    }),
    ("instructions to the kernel", |one| {
        Some(one.counts.as_ref()?.instructions as f64)
    }),
    ("ms to the kernel, KVM", |one| {
        Some(one.kvm.as_ref()?.ms.median)
    }),
];

/// A panel's title, and its bars: the firmware's number, the place and the value.
type Panel = (&'static str, Vec<(usize, i32, Option<f64>)>);

/// The panels with values; `place` returns the height for a cell and a firmware.
fn panels(
    results: &Results,
    boots: &Boots,
    cells: &[&String],
    place: impl Fn(i32, i32) -> i32,
) -> Vec<Panel> {
    let bars = |value: &dyn Fn(&str, &str) -> Option<f64>| {
        let mut bars = Vec::new();
        for (n, cell) in (0..).zip(cells) {
            for (f, name) in results.firmware.iter().enumerate() {
                bars.push((f, place(n, f as i32), value(cell, name)));
            }
        }
        bars
    };
    let exits = bars(&|cell, name| Some(boots.outcome(cell, name)?.exits as f64));
    let mut panels = vec![("exits to user space", exits)];
    panels.extend(QUANTITIES.map(|(title, get)| {
        let value = |cell: &str, name: &str| get(results.outcome(cell, name)?);
        (title, bars(&value))
    }));
    let filled = |panel: &Panel| panel.1.iter().any(|(.., value)| value.is_some());
    panels.into_iter().filter(filled).collect()
}

/// Draws the bare cells of a benchmark and of boots: bars on a logarithmic scale, one panel a
/// quantity.
#[must_use]
pub fn benchmark(results: &Results, boots: &Boots) -> Svg {
    const LABELS: i32 = 170;
    const BAR: i32 = 13;
    const GAP: i32 = 12;
    const TOP: i32 = 88;
    // Room right of the longest bar for its number.
    const NUMBER: i32 = 80;

    let cells = results.cells.iter();
    let cells: Vec<&String> = cells.filter(|cell| measure::is_bare(cell)).collect();
    let row = BAR * results.firmware.len() as i32 + GAP;
    let bottom = TOP + row * cells.len() as i32 - GAP + 4;
    let panels = panels(results, boots, &cells, |n, f| TOP + row * n + BAR * f);

    let mut svg = Svg::new(bottom + 28);
    let title = "From reset to user space, and to the kernel's first instruction (logarithmic)";
    svg.text(title, (16, 22), 18, "start");
    svg.legend(44, results.firmware.iter().map(String::as_str));
    for (n, cell) in (0..).zip(&cells) {
        let y = TOP + row * n + (row - GAP) / 2;
        svg.text(cell, (LABELS - 10, y), 13, "end");
    }
    let width = (WIDTH - LABELS) / panels.len().max(1) as i32;
    for (p, (title, bars)) in (0..).zip(&panels) {
        let left = LABELS + width * p;
        svg.text(title, (left, 72), 14, "start");
        let most = bars
            .iter()
            .filter_map(|(.., value)| *value)
            .fold(0.0, f64::max);
        // The logarithm of one more than the value, which starts at 0.
        let place = |value: f64| {
            let share = (value + 1.0).ln() / (most + 1.0).ln();
            (f64::from(width - NUMBER) * share) as i32
        };
        let decades = [
            (0.0, "0"),
            (1e1, "10"),
            (1e3, "1k"),
            (1e5, "100k"),
            (1e7, "10M"),
        ];
        for (value, label) in decades.into_iter().filter(|(value, _)| *value <= most) {
            svg.tick(left + place(value), (TOP - 4, bottom), label);
        }
        for (f, y, value) in bars {
            let Some(value) = value else {
                svg.text("not reached", (left + 5, y + BAR / 2), 11, "start");
                continue;
            };
            let len = place(*value);
            svg.bar((left, y + 1), (len, BAR - 2), &series(*f));
            let number = if *value < 100.0 && value.fract() != 0.0 {
                format!("{value:.1}")
            } else {
                grouped(value.round() as u64)
            };
            svg.text(&number, (left + len + 5, y + BAR / 2), 11, "start");
        }
    }
    svg
}

/// The machine whose timelines are drawn.
const MACHINE: &str = "q35";

/// Draws a bar for each boot, grouped by kernel.
#[must_use]
pub fn timelines(timelines: &[Timeline]) -> Svg {
    const LEFT: i32 = 190;
    // Room for the note behind the longest bar.
    const RIGHT: i32 = 270;
    const BAR: i32 = 20;
    const ROW: i32 = 28;
    const GAP: i32 = 14;
    const TOP: i32 = 74;

    let drawn = timelines.iter().filter(|one| one.machine == MACHINE);
    let timelines: Vec<_> = drawn.cloned().collect();
    let total = |one: &Timeline| one.stages.iter().map(|stage| stage.ms).sum();
    let most = timelines.iter().map(total).fold(1.0, f64::max);
    let scale = f64::from(WIDTH - LEFT - RIGHT) / most;
    let x = |ms: f64| LEFT + (ms * scale) as i32;
    let mut rows = Vec::new();
    let mut y = TOP;
    for of_kernel in timelines.chunk_by(|a, b| a.kernel == b.kernel) {
        for one in of_kernel {
            rows.push((y, one));
            y += ROW;
        }
        y += GAP;
    }
    y -= GAP;

    let mut svg = Svg::new(y + 34);
    let title = format!("From QEMU's start to user space: {MACHINE} under TCG, milliseconds");
    svg.text(&title, (16, 22), 18, "start");
    svg.legend(48, STAGES.into_iter());
    let step = [50.0, 100.0, 200.0, 250.0, 500.0, 1000.0, 2000.0, 5000.0];
    let step = step
        .into_iter()
        .find(|step| most / step <= 8.0)
        .unwrap_or(1e4);
    for n in 0..=(most / step) as i32 {
        let ms = f64::from(n) * step;
        svg.tick(x(ms), (TOP - 6, y), &grouped(ms as u64));
    }
    for (y, one) in rows {
        let name = format!("{}, {}", one.kernel, one.firmware);
        svg.text(&name, (LEFT - 12, y + BAR / 2), 13, "end");
        let mut at = 0.0;
        for (n, stage) in one.stages.iter().enumerate() {
            let width = (x(at + stage.ms) - x(at)).max(1);
            svg.bar((x(at), y), (width, BAR), &series(n));
            at += stage.ms;
        }
        let firmware = one.stages.get(1).map_or(0.0, |stage| stage.ms);
        let total = grouped(at.round() as u64);
        let note = format!("{total} ms, of which firmware {firmware:.1} ms");
        svg.text(&note, (x(at) + 6, y + BAR / 2), 12, "start");
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_themes_have_all_their_colours() {
        let dir = tempfile::tempdir().unwrap();
        let mut svg = Svg::new(20);
        svg.tick(10, (0, 10), "a < b");
        svg.legend(5, ["x", "y", "z", "v", "w", "u"].into_iter());
        svg.write(&dir.path().join("chart.svg")).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (light, dark) = (read("chart.svg"), read("chart-dark.svg"));
        assert!(!light.contains('$') && !dark.contains('$'));
        assert!(light.contains("a &lt; b") && light.contains("#ffffff"));
        assert_ne!(light, dark);
    }
}
