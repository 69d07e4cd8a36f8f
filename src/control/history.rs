//! The last commands with their results. Bounded in number and in bytes, whatever is written.

use std::collections::VecDeque;
use std::fmt::Write;

use parking_lot::Mutex;

use super::CommandError;
use crate::base::{Timestamp, now};

/// How many commands are kept.
const KEPT: usize = 64;
/// How many bytes of a line, and of its answer, are kept.
const WORDS: usize = 512;

struct Entry {
    time: Timestamp,
    line: String,
    outcome: &'static str,
    words: String,
}

/// A ring of commands. Its lock is a leaf: nothing is called while it is held.
#[derive(Default)]
pub struct History {
    /// At most [`KEPT`], oldest first; kept by [`History::push`].
    entries: Mutex<VecDeque<Entry>>,
}

impl History {
    /// Remembers a command that ended.
    pub fn push(&self, line: &str, result: &Result<String, CommandError>) {
        let (outcome, words) = match result {
            Ok(answer) => ("ok", answer.as_str()),
            Err(error) => (error.kind.name(), error.message.as_str()),
        };
        let entry = Entry {
            time: now(),
            line: shorten(line.trim()),
            outcome,
            words: shorten(words.trim_end()),
        };
        let mut entries = self.entries.lock();
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// All that is remembered as text, a line and its indented answer each.
    #[must_use]
    pub fn render(&self) -> String {
        let entries = self.entries.lock();
        if entries.is_empty() {
            return "No command has been given yet. Write one line to this file; 'help' lists the commands.\n"
                .to_owned();
        }
        let mut text = String::new();
        for entry in entries.iter() {
            let time = entry.time.rfc3339();
            let _ = writeln!(text, "{time}  {:<7} {}", entry.outcome, entry.line);
            for line in entry.words.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
        text
    }
}

fn shorten(text: &str) -> String {
    let clean = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    if text.len() <= WORDS {
        return text.chars().map(clean).collect();
    }
    let end = (0..=WORDS).rev().find(|at| text.is_char_boundary(*at));
    let end = end.unwrap_or(0);
    let mut short: String = text[..end].chars().map(clean).collect();
    short.push_str(" ...");
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ErrorKind;

    #[test]
    fn the_last_commands_are_shown_and_older_ones_forgotten() {
        let history = History::default();
        assert!(history.render().contains("help"));
        for n in 0..KEPT + 3 {
            history.push(
                &format!("snapshot vm1.img {n}\n"),
                &Ok(format!("taken {n}\n")),
            );
        }
        let busy = CommandError::new(ErrorKind::Busy, "it is open");
        history.push("rollback vm1.img@3", &Err(busy));
        let text = history.render();
        assert_eq!(text.lines().count(), 2 * KEPT);
        assert!(
            text.contains("Z  ok      snapshot vm1.img 66\n    taken 66\n"),
            "{text}"
        );
        assert!(
            text.ends_with("EBUSY   rollback vm1.img@3\n    it is open\n"),
            "{text}"
        );
        assert!(!text.contains("snapshot vm1.img 3\n"));
    }

    #[test]
    fn what_is_kept_of_a_long_answer_is_short() {
        let history = History::default();
        history.push(&"ä".repeat(4000), &Ok("é".repeat(100_000)));
        assert!(history.render().len() < 2 * WORDS + 100);
    }
}
