//! The ratios as bars, in SVG.

use std::fmt::Write;

use super::figures::{Figures, PeerFigures, RowFigures};

/// The scale is logarithmic and ends here on both sides, in powers of ten.
const DECADES: f64 = 2.0;
const LABELS: f64 = 300.0;
const BARS: f64 = 560.0;
const FIGURES: f64 = 120.0;
const BAR: f64 = 14.0;
const GAP: f64 = 12.0;
const TOP: f64 = 34.0;
const COLOURS: [&str; 9] = [
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999933", "#882255",
    "#777777",
];

/// A bar for each ratio: right of the line at 1 Snapmark is ahead. The thin line on a bar goes from
/// the lowest pair to the highest.
pub fn chart(figures: &Figures) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for (at, peer) in figures.peers.iter().enumerate() {
        legend(&mut body, y, at, peer);
        y += BAR + 4.0;
    }
    let top = y + GAP;
    y = top;
    for row in figures.plan.rows() {
        let ratio = |peer: &PeerFigures| peer.row(row).and_then(RowFigures::ratio);
        let peers = figures.peers.iter().enumerate();
        let bars: Vec<_> = peers
            .filter_map(|(at, peer)| Some((at, ratio(peer)?)))
            .collect();
        let middle = y + BAR * bars.len().max(1) as f64 / 2.0 + 4.0;
        text(&mut body, LABELS - 10.0, middle, "end", row.name);
        for (at, ratio) in &bars {
            let (one, end) = (position(1.0), position(ratio.median));
            let (left, width) = (one.min(end), (end - one).abs().max(1.0));
            let height = BAR - 2.0;
            let colour = COLOURS[at % COLOURS.len()];
            let _ = writeln!(
                body,
                r#"<rect x="{left:.1}" y="{y:.1}" width="{width:.1}" height="{height}" fill="{colour}"/>"#
            );
            let (low, high, line) = (position(ratio.low), position(ratio.high), y + height / 2.0);
            let _ = writeln!(
                body,
                r##"<path d="M{low:.1} {line:.1}H{high:.1}" stroke="#222222"/>"##
            );
            let label = format!("{:.2}", ratio.median);
            text(
                &mut body,
                end.max(high).max(one) + 5.0,
                y + BAR - 3.5,
                "start",
                &label,
            );
            y += BAR;
        }
        y += GAP;
    }
    axis(&mut body, top - GAP / 2.0, y);
    let (width, height) = (LABELS + BARS + FIGURES, y + 30.0);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0}" width="{width}" height="{height:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="10" y="20" font-size="14" font-weight="bold">Snapmark / peer, median of pairs (logarithmic; above 1 Snapmark is ahead)</text>
{body}</svg>
"##
    )
}

fn legend(body: &mut String, y: f64, at: usize, peer: &PeerFigures) {
    let colour = COLOURS[at % COLOURS.len()];
    let _ = writeln!(
        body,
        r#"<rect x="10" y="{y:.1}" width="{BAR}" height="{BAR}" fill="{colour}"/>"#
    );
    text(body, 16.0 + BAR, y + BAR - 2.5, "start", peer.name);
}

/// Where a ratio is, from the left.
fn position(ratio: f64) -> f64 {
    let decades = ratio.log10().clamp(-DECADES, DECADES);
    LABELS + BARS * (decades + DECADES) / (2.0 * DECADES)
}

fn axis(body: &mut String, from: f64, to: f64) {
    for ratio in [0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 100.0] {
        let (x, colour) = (
            position(ratio),
            if ratio == 1.0 { "#222222" } else { "#dddddd" },
        );
        let line = format!(r#"<path d="M{x:.1} {from:.1}V{to:.1}" stroke="{colour}"/>"#);
        // Behind the bars.
        body.insert_str(0, &(line + "\n"));
        text(body, x, to + 16.0, "middle", &ratio.to_string());
    }
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        body,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
    );
}
