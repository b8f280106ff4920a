//! The picture of a comparison: three panels of bars, as SVG and as PNG.

use super::compare::{Comparison, Outcome, grouped, milliseconds};
use anyhow::{Context, Result, anyhow, bail};
use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::coord::Shift;
use plotters::coord::ranged1d::SegmentedCoord;
use plotters::coord::types::{RangedCoordf64, RangedCoordi32};
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

/// Width and height, in pixels.
const SIZE: (u32, u32) = (1200, 560);
/// Of the strip for the title and of that for the set-up, in pixels.
const TITLE_HEIGHT: u32 = 50;
const SET_UP_HEIGHT: u32 = 110;
const SET_UP_LINE_HEIGHT: i32 = 23;

/// What the SVG asks its viewer for, and the name that our own font has in the PNG.
const FONT: &str = "sans-serif";

/// One colour per protocol, told apart by colour-blind eyes too (Okabe and Ito).
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// Where a picture goes.
pub(super) struct Files {
    svg: PathBuf,
    png: PathBuf,
}

impl Files {
    /// In this directory, which is made if need be.
    ///
    /// # Errors
    /// When they could not be written there.
    pub(super) fn in_directory(dir: &Path) -> Result<Self> {
        let refused = || format!("the picture cannot be written to {}", dir.display());
        fs::create_dir_all(dir).with_context(refused)?;
        // Writes a nameless file and removes it: permissions do not tell everything.
        tempfile::tempfile_in(dir).with_context(refused)?;
        let files = Self {
            svg: dir.join("atlas-compare.svg"),
            png: dir.join("atlas-compare.png"),
        };
        for file in [&files.svg, &files.png] {
            if file.exists() {
                let opened = OpenOptions::new().write(true).open(file);
                opened.with_context(|| format!("{} cannot be replaced", file.display()))?;
            }
        }
        Ok(files)
    }

    /// Draws it into both files.
    pub(super) fn write(&self, comparison: &Comparison) -> Result<()> {
        let refused = |path: &Path| format!("{} was not written", path.display());
        fs::write(&self.svg, svg(comparison, SIZE)?).with_context(|| refused(&self.svg))?;
        png(comparison, SIZE, &self.png).with_context(|| refused(&self.png))
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.svg.display(), self.png.display())
    }
}

fn svg(comparison: &Comparison, size: (u32, u32)) -> Result<String> {
    let mut text = String::new();
    draw(
        &SVGBackend::with_string(&mut text, size).into_drawing_area(),
        comparison,
    )?;
    Ok(text)
}

fn png(comparison: &Comparison, size: (u32, u32), path: &Path) -> Result<()> {
    draw(
        &BitMapBackend::new(path, size).into_drawing_area(),
        comparison,
    )
}

/// One kind of figure, for all protocols.
struct Panel {
    title: &'static str,
    value: fn(&Outcome) -> f64,
    label: fn(f64) -> String,
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "Throughput, operations/s (more is better)",
        value: |outcome| outcome.ops_per_second,
        label: grouped,
    },
    Panel {
        title: "Latency, p99 (less is better)",
        value: |outcome| outcome.p99_ms,
        label: milliseconds,
    },
    Panel {
        title: "Pause after a crash (less is better)",
        value: |outcome| outcome.pause_ms,
        label: milliseconds,
    },
];

fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, comparison: &Comparison) -> Result<()> {
    register_font(FONT, FontStyle::Normal, UBUNTU_LIGHT).map_err(|_| anyhow!("no font"))?;
    if comparison.outcomes.is_empty() {
        bail!("there is nothing to draw");
    }
    drawn(area.fill(&WHITE))?;
    let (_, height) = area.dim_in_pixel();
    let (title, rest) = area.split_vertically(TITLE_HEIGHT);
    let panels_height = height.saturating_sub(TITLE_HEIGHT + SET_UP_HEIGHT);
    let (panels, set_up) = rest.split_vertically(panels_height);
    draw_title(&title, comparison)?;
    let areas = panels.split_evenly((1, PANELS.len()));
    for (area, panel) in areas.iter().zip(&PANELS) {
        draw_panel(area, panel, &comparison.outcomes)?;
    }
    draw_set_up(&set_up, &comparison.set_up())?;
    drawn(area.present())
}

fn draw_title<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    comparison: &Comparison,
) -> Result<()> {
    let title = if comparison.good() {
        "One application, ordered by each protocol in turn"
    } else {
        "NOT ALL OF THESE RUNS ENDED WELL"
    };
    let middle = (area.dim_in_pixel().0 / 2) as i32;
    let style = text(26.0, HPos::Center, VPos::Center);
    drawn(area.draw(&Text::new(title, (middle, TITLE_HEIGHT as i32 / 2), style)))
}

fn draw_set_up<B: DrawingBackend>(area: &DrawingArea<B, Shift>, lines: &[String]) -> Result<()> {
    let style = text(17.0, HPos::Left, VPos::Top);
    for (y, line) in (0..).step_by(SET_UP_LINE_HEIGHT as usize).zip(lines) {
        drawn(area.draw(&Text::new(line.as_str(), (24, y + 8), style.clone())))?;
    }
    Ok(())
}

/// Protocols, by their number, against what was measured.
type Bars<'a, B> = ChartContext<'a, B, Cartesian2d<SegmentedCoord<RangedCoordi32>, RangedCoordf64>>;

fn draw_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel,
    outcomes: &[Outcome],
) -> Result<()> {
    let values: Vec<f64> = outcomes.iter().map(panel.value).collect();
    let highest = values.iter().copied().fold(0.0, f64::max);
    // Room for the number on the highest bar; an axis needs some length where all bars are flat.
    let top = if highest > 0.0 { highest * 1.15 } else { 1.0 };
    let last = outcomes.len() as i32 - 1;
    let chart = ChartBuilder::on(area)
        .margin(12)
        .caption(panel.title, text(19.0, HPos::Left, VPos::Top))
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d((0..last).into_segmented(), 0.0..top);
    let mut chart = drawn(chart)?;
    draw_axes(&mut chart, panel, outcomes)?;
    for ((index, value), colour) in (0..).zip(values).zip(COLOURS.iter().cycle()) {
        let (left, right) = (SegmentValue::Exact(index), SegmentValue::Exact(index + 1));
        let mut bar = Rectangle::new([(left, 0.0), (right, value)], colour.filled());
        bar.set_margin(0, 0, 22, 22);
        let number = Text::new(
            (panel.label)(value),
            (SegmentValue::CenterOf(index), value + top * 0.01),
            text(18.0, HPos::Center, VPos::Bottom),
        );
        drawn(chart.draw_series([bar]).map(drop))?;
        drawn(chart.draw_series([number]).map(drop))?;
    }
    Ok(())
}

fn draw_axes<B: DrawingBackend>(
    chart: &mut Bars<'_, B>,
    panel: &Panel,
    outcomes: &[Outcome],
) -> Result<()> {
    let name = |at: &SegmentValue<i32>| match at {
        SegmentValue::CenterOf(index) => {
            outcomes.get(*index as usize).map_or_else(String::new, |o| {
                format!("{} (n={})", o.protocol, o.replicas)
            })
        }
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    let tick = |value: &f64| (panel.label)(*value);
    let mesh = chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .axis_style(BLACK.mix(0.5))
        .x_labels(outcomes.len())
        .y_labels(5)
        .x_label_formatter(&name)
        .y_label_formatter(&tick)
        .x_label_style(text(17.0, HPos::Center, VPos::Top))
        .y_label_style(text(14.0, HPos::Right, VPos::Center))
        .draw();
    drawn(mesh)
}

fn text(size: f64, h: HPos, v: VPos) -> TextStyle<'static> {
    TextStyle::from((FONT, size).into_font()).pos(Pos::new(h, v))
}

/// A drawing error, whose own type may borrow from the backend.
fn drawn<T, E: fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("the picture cannot be drawn: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::{comparison, outcome, three};
    use super::*;

    #[test]
    fn the_svg_has_every_protocol_and_every_value_and_the_set_up() {
        let comparison = three();
        let svg = svg(&comparison, SIZE).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for o in &comparison.outcomes {
            let name = format!("{} (n={})", o.protocol, o.replicas);
            assert_eq!(svg.matches(&name).count(), PANELS.len(), "{name}");
            for panel in &PANELS {
                let value = (panel.label)((panel.value)(o));
                assert!(svg.contains(&format!("\n{value}\n")), "{value} of {name}");
            }
        }
        for fact in ["durability sync", "3 cores", "TLS 1.3", "pbft n=4"] {
            assert!(svg.contains(fact), "{fact}");
        }
    }

    #[test]
    fn the_png_is_one_and_has_the_size_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picture.png");
        png(&three(), (900, 500), &path).unwrap();
        let bytes = fs::read(path).unwrap();
        assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
        assert_eq!(&bytes[12..16], b"IHDR");
        assert_eq!(bytes[16..20], 900u32.to_be_bytes());
        assert_eq!(bytes[20..24], 500u32.to_be_bytes());
    }

    #[test]
    fn bars_of_no_height_and_a_lone_protocol_are_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let flat = comparison(vec![outcome("pbft", 4, 0.0), outcome("raft", 3, 0.0)]);
        let lone = comparison(vec![outcome("rabia", 3, 1.0)]);
        for comparison in [flat, lone] {
            svg(&comparison, SIZE).unwrap();
            png(&comparison, SIZE, &dir.path().join("picture.png")).unwrap();
        }
        assert!(svg(&comparison(Vec::new()), SIZE).is_err());
    }

    #[test]
    fn both_files_are_written_to_a_directory_that_is_made_and_replaced_there() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        for _ in 0..2 {
            let files = Files::in_directory(&out).unwrap();
            files.write(&three()).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["atlas-compare.png", "atlas-compare.svg"]);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Files::in_directory(&file).is_err());
        assert!(Files::in_directory(&file.join("below")).is_err());
        fs::create_dir(dir.path().join("atlas-compare.png")).unwrap();
        assert!(Files::in_directory(dir.path()).is_err());
    }
}
