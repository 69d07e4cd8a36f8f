//! `snapshot`: one marker over all the disks named.

use super::Answer;
use crate::volume::Volumes;

/// How to mount a crash-consistent snapshot without writing to it, by file system: replaying its
/// journal would be a write, and a snapshot takes none (ext4(5), xfs(5), btrfs(5)).
pub const MOUNT_HINTS: [(&str, &str); 3] = [
    ("ext4", "ro,noload,loop"),
    ("xfs", "ro,norecovery,nouuid,loop"),
    ("btrfs", "ro,rescue=nologreplay,loop"),
];

const CRASH_CONSISTENT: &str = "crash-consistent: what a file system mounted on it still holds in its page cache is not in it; \
     use 'snapmark snapshot --freeze' for that";

/// Takes the snapshot.
pub fn run(volumes: &Volumes, disks: &[String], name: Option<&str>, durable: bool) -> Answer {
    let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
    let names = volumes.snapshot(&disks, name, durable)?;
    Ok(SnapshotAnswer { names }.to_string())
}

/// The answer to `snapshot`, written here and read back here: the line is for people, and
/// programs still need the names that it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotAnswer {
    /// File names of the snapshots, `DISK@NAME`.
    pub names: Vec<String>,
}

impl SnapshotAnswer {
    /// The answer in this text; nothing where it is no answer to `snapshot`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (subject, _) = text.lines().next()?.split_once(" taken ")?;
        let names = subject
            .strip_prefix("snapshots ")
            .or_else(|| subject.strip_prefix("snapshot "))?;
        Some(Self {
            names: names.split(", ").map(str::to_owned).collect(),
        })
    }
}

impl std::fmt::Display for SnapshotAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.names.join(", ");
        if self.names.len() == 1 {
            writeln!(f, "snapshot {names} taken ({CRASH_CONSISTENT})")
        } else {
            writeln!(
                f,
                "snapshots {names} taken at one point (each {CRASH_CONSISTENT})"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_reads_back() {
        for names in [vec!["vm1.img@a"], vec!["a@n", "b@n", "taken@n"]] {
            let names = names.into_iter().map(str::to_owned).collect();
            let answer = SnapshotAnswer { names };
            assert_eq!(SnapshotAnswer::parse(&answer.to_string()), Some(answer));
        }
        assert_eq!(SnapshotAnswer::parse("flushed\n"), None);
    }
}
