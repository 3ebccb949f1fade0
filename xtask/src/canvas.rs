//! What the charts are drawn on: an SVG file, bars and text.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
pub use plotters::style::RGBColor;
pub use plotters::style::text_anchor::HPos;
use plotters::style::text_anchor::{Pos, VPos};

use crate::output::say;
use crate::workspace;

const INK: RGBColor = RGBColor(40, 40, 40);
/// Width of a letter as a share of its size, on average and a little more: the
/// font is the viewer's.
const LETTER: f64 = 0.6;

/// A white page.
pub struct Canvas<'p> {
    area: DrawingArea<SVGBackend<'p>, Shift>,
    path: &'p Path,
}

impl<'p> Canvas<'p> {
    /// A page of that size, to be written to `path`.
    ///
    /// # Errors
    /// It cannot be drawn on.
    pub fn new(path: &'p Path, width: i32, height: i32) -> Result<Self> {
        let size = (width.unsigned_abs(), height.unsigned_abs());
        let canvas = Self {
            area: SVGBackend::new(path, size).into_drawing_area(),
            path,
        };
        canvas.drawn(canvas.area.fill(&WHITE))?;
        Ok(canvas)
    }

    /// Text whose left end, or another of its points, is at `at`.
    ///
    /// # Errors
    /// It cannot be drawn.
    pub fn text(&self, text: &str, at: (i32, i32), size: i32, h: HPos) -> Result<()> {
        let style = ("sans-serif", size)
            .into_font()
            .color(&INK)
            .pos(Pos::new(h, VPos::Center));
        self.drawn(self.area.draw(&Text::new(text, at, style)))
    }

    /// A filled rectangle between two corners.
    ///
    /// # Errors
    /// It cannot be drawn.
    pub fn bar(&self, corners: [(i32, i32); 2], colour: RGBColor) -> Result<()> {
        let shape = Rectangle::new(corners, colour.filled());
        self.drawn(self.area.draw(&shape))
    }

    /// Names beside their colours, in a line from the left.
    ///
    /// # Errors
    /// It cannot be drawn.
    pub fn legend(&self, y: i32, names: &[&str], colours: &[RGBColor]) -> Result<()> {
        let mut x = 16;
        for (name, colour) in names.iter().zip(colours.iter().cycle()) {
            self.bar([(x, y - 6), (x + 12, y + 6)], *colour)?;
            self.text(name, (x + 18, y), 13, HPos::Left)?;
            x += 18 + text_width(name, 13) + 16;
        }
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(self) -> Result<()> {
        self.drawn(self.area.present())
    }

    fn drawn<E: std::fmt::Debug>(&self, result: Result<(), E>) -> Result<()> {
        result.map_err(|error| anyhow!("drawing {}: {error:?}", self.path.display()))
    }
}

/// Copies a chart to `docs/` under this name.
///
/// # Errors
/// It cannot be copied.
pub fn keep(chart: &Path, name: &str) -> Result<()> {
    let to = workspace::root().join("docs").join(name);
    fs::copy(chart, &to).with_context(|| format!("writing {}", to.display()))?;
    say!("wrote docs/{name}")?;
    Ok(())
}

/// About how wide a text of that size is.
#[must_use]
pub fn text_width(text: &str, size: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(size) * LETTER) as i32
}
