//! The commands in one table: what `help` prints and what errors show as the right form.

use std::fmt::Write;

/// One command: how it is written and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// The first word.
    pub verb: &'static str,
    /// What follows it.
    pub arguments: &'static str,
    /// What it does, in a sentence.
    pub does: &'static str,
}

const fn form(verb: &'static str, arguments: &'static str, does: &'static str) -> Form {
    Form {
        verb,
        arguments,
        does,
    }
}

/// All commands, in the order in which help shows them.
pub const FORMS: [Form; 15] = [
    form(
        "snapshot",
        "DISK[,DISK...] [NAME] [nosync]",
        "take a snapshot of all these disks at one point; without NAME it is named by the UTC time; \
         nosync returns before the marker would survive power loss",
    ),
    form("delete", "DISK@NAME|DISK", "delete a snapshot or a disk"),
    form(
        "rename",
        "OLD NEW",
        "rename a disk (its snapshots go with it) or a snapshot of a disk",
    ),
    form(
        "rollback",
        "DISK@NAME [force]",
        "make the disk's content that of the snapshot; refused while the disk is open, unless forced",
    ),
    form(
        "clone",
        "DISK@NAME NEW",
        "make a writable disk over a snapshot",
    ),
    form(
        "resize",
        "DISK SIZE",
        "change the virtual size, as in: resize vm1.img 200GiB",
    ),
    form("flush", "", "move everything that is cached to the devices"),
    form(
        "priority",
        "DISK 0-255",
        "a disk with a higher number is destaged first",
    ),
    form(
        "device-add",
        "PATH[:SIZE]",
        "give the pool another backing file or block device",
    ),
    form("device-list", "", "the devices of the pool"),
    form(
        "scrub",
        "start [RATE]|pause|resume|stop|rate RATE",
        "read all data while the store is in use, and compare it with its checksums; RATE is bytes \
         a second, as in 200MiB/s, and 0 is no limit; status shows how far it is",
    ),
    form("list", "", "disks and snapshots"),
    form("status", "", "the state of the store, as YAML"),
    form("stats", "", "the counters, as Prometheus text"),
    form("help", "", "this text"),
];

/// The form of a verb, if there is such a verb.
#[must_use]
pub fn form_of(verb: &str) -> Option<&'static Form> {
    FORMS.iter().find(|form| form.verb == verb)
}

/// The verb that was probably meant.
#[must_use]
pub fn nearest(verb: &str) -> Option<&'static Form> {
    FORMS
        .iter()
        .map(|form| (distance(verb, form.verb), form))
        .filter(|(far, form)| *far <= form.verb.len() / 3)
        .min_by_key(|(far, _)| *far)
        .map(|(_, form)| form)
}

/// What `help` answers.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("One command a line; a name has no spaces.\n");
    for form in &FORMS {
        let _ = write!(text, "  {form}\n      {}\n", form.does);
    }
    text.push_str("Read .control to see the last commands with their results.\n");
    text
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.verb)?;
        if self.arguments.is_empty() {
            Ok(())
        } else {
            write!(f, " {}", self.arguments)
        }
    }
}

/// Edits between two words (Levenshtein 1966); the inputs are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(32).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_verb_that_was_meant() {
        assert_eq!(nearest("snapshto").map(|form| form.verb), Some("snapshot"));
        assert_eq!(nearest("stat").map(|form| form.verb), Some("stats"));
        assert!(nearest("xyzzy").is_none());
        assert!(nearest("").is_none());
    }
}
