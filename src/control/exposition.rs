//! The Prometheus text exposition format 0.0.4, written and read.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{Display, Write};

use crate::volume::Histogram;

/// Text that grows by families of samples.
#[derive(Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family; its samples follow at once.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(
            self.text,
            "# HELP snapmark_{name} {}\n# TYPE snapmark_{name} {kind}\n",
            help.replace('\\', "\\\\").replace('\n', "\\n")
        );
    }

    /// One sample of the family just begun.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "snapmark_{name}");
        for (at, (label, value)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{}\"", escape(value));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    /// A family with one sample.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram. Its count is that of its last bucket, so that the two agree
    /// also while it is being counted up.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], of: &Histogram) {
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in of.buckets() {
            below += count;
            let bound = if bound.is_finite() {
                bound.to_string()
            } else {
                "+Inf".to_owned()
            };
            let labels: Vec<_> = labels.iter().copied().chain([("le", &*bound)]).collect();
            self.sample(&bucket, &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, of.sum());
        self.sample(&format!("{name}_count"), labels, below);
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// One sample read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// Its labels in the order in which they stand.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads exposition text, as a scraper would.
///
/// # Errors
/// With the first line that is neither a comment nor a sample.
pub fn parse_exposition(text: &str) -> Result<Vec<Sample>, String> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| parse_sample(line).ok_or_else(|| format!("{line:?} is no sample")))
        .collect()
}

fn parse_sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if rest.starts_with('{') {
        loop {
            // Past the '{' or ',' before a label.
            let (label, after) = rest.get(1..)?.split_once("=\"")?;
            let (value, after) = unescape(after)?;
            labels.push((label.to_owned(), value));
            rest = after;
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            if !rest.starts_with(',') {
                return None;
            }
        }
    }
    let value = match rest.trim() {
        "+Inf" => f64::INFINITY,
        number => number.parse().ok()?,
    };
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// A quoted value up to its closing quote, and what follows.
fn unescape(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_survive_escaping() {
        let odd = "a\"b\\c\nd,e=}";
        let mut text = Exposition::default();
        text.family("x", "gauge", "about\nit");
        text.sample("x", &[("disk", odd), ("n", "1")], 2.5);
        let text = text.finish();
        assert_eq!(text.lines().count(), 3);
        let samples = parse_exposition(&text).unwrap();
        assert_eq!(samples[0].label("disk"), Some(odd));
        assert_eq!(samples[0].value, 2.5);
        assert!(parse_exposition("a{b=\"c} 1").is_err());
    }
}
