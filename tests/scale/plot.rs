//! The figures as curves over the number of streams, both axes logarithmic: an SVG of small panels.

use std::fmt::Write as _;

use crate::measure::Row;

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 262.0;
/// Of a panel: room for the numbers at the left, the title, the numbers below.
const LEFT: f64 = 58.0;
const TOP: f64 = 54.0;
const BOTTOM: f64 = 46.0;
const RIGHT: f64 = 18.0;
const COLOURS: [&str; 2] = ["#1f5fa8", "#c4541a"];

/// A curve: its name, and its figure of a row.
type Curve = (&'static str, fn(&Row) -> f64);

/// One picture: a title with the unit, one or two curves, and what they must stay below.
struct Panel {
    title: &'static str,
    curves: &'static [Curve],
    bound: Option<f64>,
}

const PANELS: &[Panel] = &[
    Panel {
        title: "Operator memory for each stream, KiB",
        curves: &[("a stream", |row| row.per_stream() / 1024.0)],
        bound: Some(40.0),
    },
    Panel {
        title: "Until all streams hold everything, s",
        curves: &[
            ("connect storm", |row| row.storm.took.as_secs_f64()),
            ("operator restart", |row| row.restart.took.as_secs_f64()),
        ],
        bound: None,
    },
    Panel {
        title: "Edit for 100 sidecars to last Ack, ms",
        curves: &[
            ("p50", |row| row.edit(50).as_secs_f64() * 1000.0),
            ("p99", |row| row.edit(99).as_secs_f64() * 1000.0),
        ],
        bound: Some(1000.0),
    },
    Panel {
        title: "Bytes of an edit for each sidecar",
        curves: &[
            ("ApiRoute", |row| row.edit_bytes),
            ("mesh-wide", |row| row.wide_bytes),
        ],
        bound: None,
    },
    Panel {
        title: "Mesh-wide edit to last Ack, ms",
        curves: &[("median", |row| row.wide_edit().as_secs_f64() * 1000.0)],
        bound: None,
    },
    Panel {
        title: "Operator at rest, % of a CPU",
        curves: &[("idle", |row| row.steady.busy() * 100.0)],
        bound: None,
    },
];

/// A logarithmic axis from one power of ten to another.
#[derive(Clone, Copy)]
struct Axis {
    least: i32,
    most: i32,
    from: f64,
    to: f64,
}

/// All panels.
pub(crate) fn svg(rows: &[Row]) -> String {
    let (across, down) = (3, PANELS.len().div_ceil(3));
    let (width, height) = (f64::from(across) * WIDTH, down as f64 * HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (place, panel) in PANELS.iter().enumerate() {
        let x = (place % 3) as f64 * WIDTH;
        let y = (place / 3) as f64 * HEIGHT;
        let _ = writeln!(
            svg,
            "<g transform=\"translate({x} {y})\">\n{}</g>",
            panel.draw(rows)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

// === impl Panel ===

impl Panel {
    fn draw(&self, rows: &[Row]) -> String {
        let figures = self.curves.iter();
        let figures = figures.flat_map(|(_, figure)| rows.iter().map(figure));
        let x = Axis::over(
            rows.iter().map(|row| row.streams as f64),
            (LEFT, WIDTH - RIGHT),
        );
        let y = Axis::over(figures.chain(self.bound), (HEIGHT - BOTTOM, TOP));
        let mut svg = format!(
            "<text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{}</text>\n",
            self.title
        );
        for tick in x.ticks() {
            let at = x.place(tick);
            let _ = writeln!(
                svg,
                "<path d=\"M{at:.1} {TOP}V{:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 14.0,
                number(tick),
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">streams</text>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - BOTTOM + 29.0,
        );
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                number(tick),
            );
        }
        if let Some(bound) = self.bound {
            let at = y.place(bound);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#888\" stroke-dasharray=\"5 4\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">at most {bound}</text>",
                WIDTH - RIGHT,
                WIDTH - RIGHT,
                at + 13.0,
            );
        }
        let mut legend = LEFT;
        for ((name, figure), colour) in self.curves.iter().zip(COLOURS) {
            let points = rows
                .iter()
                .map(|row| (x.place(row.streams as f64), y.place(figure(row))));
            let points = Vec::from_iter(points);
            let line = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} "));
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>",
                line.collect::<String>().trim_end()
            );
            for (x, y) in points {
                let _ = write!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\" fill=\"{colour}\"/>"
                );
            }
            let _ = writeln!(
                svg,
                "<rect x=\"{legend}\" y=\"30\" width=\"10\" height=\"3\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"35\">{name}</text>",
                legend + 15.0
            );
            legend += 40.0 + 6.5 * name.len() as f64;
        }
        svg
    }
}

// === impl Axis ===

impl Axis {
    /// The powers of ten around all figures; those that are not above nothing are drawn at the lowest.
    fn over(figures: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Self {
        let (mut least, mut most) = (f64::MAX, f64::MIN_POSITIVE);
        for figure in figures.filter(|figure| *figure > 0.0) {
            (least, most) = (least.min(figure), most.max(figure));
        }
        let least = least.min(most).log10().floor() as i32;
        let most = (most.log10().ceil() as i32).max(least + 1);
        Self {
            least,
            most,
            from,
            to,
        }
    }

    /// The powers of ten, and 2 and 5 times them where these are few.
    fn ticks(&self) -> Vec<f64> {
        let powers = (self.least..=self.most).map(|power| 10f64.powi(power));
        let few = self.most - self.least < 3;
        let times: &[f64] = if few { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let most = 10f64.powi(self.most);
        let all = powers.flat_map(|power| times.iter().map(move |times| power * times));
        all.filter(|tick| *tick <= most).collect()
    }

    fn place(&self, figure: f64) -> f64 {
        let (least, most) = (f64::from(self.least), f64::from(self.most));
        let power = figure.max(f64::MIN_POSITIVE).log10().clamp(least, most);
        self.from + (power - least) / (most - least) * (self.to - self.from)
    }
}

/// As few digits as it has: 0.05, 1000.
fn number(figure: f64) -> String {
    let places = (-figure.log10().floor()).max(0.0) as usize;
    format!("{figure:.places$}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_panel_has_its_curves_and_each_curve_a_point_for_each_row() {
        let row = |streams| Row {
            streams,
            with_streams: streams as u64 * 30_000,
            edits: vec![Duration::from_millis(150)],
            edit_bytes: 200.0,
            ..Row::default()
        };
        let rows = [row(10), row(100), row(1000)];
        let svg = svg(&rows);
        let curves: usize = PANELS.iter().map(|panel| panel.curves.len()).sum();
        assert_eq!(svg.matches("<polyline").count(), curves);
        assert_eq!(svg.matches("<circle").count(), curves * rows.len());
        assert!(PANELS.iter().all(|panel| svg.contains(panel.title)));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!([0.05, 1.0, 1000.0].map(number), ["0.05", "1", "1000"]);
    }
}
