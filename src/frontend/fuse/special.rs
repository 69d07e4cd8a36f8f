//! The mount's own files: `.control`, `.stats` and `.status`.

use crate::control::Commands;

/// One of the mount's own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// Takes commands; shows the last ones.
    Control,
    /// Counters as Prometheus text.
    Stats,
    /// The state as YAML.
    Status,
}

impl Special {
    /// All of them, in the order that a listing shows.
    pub(super) const ALL: [Self; 3] = [Self::Control, Self::Stats, Self::Status];

    /// The one with this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|special| special.name() == name)
    }

    /// Its file name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Control => ".control",
            Self::Stats => ".stats",
            Self::Status => ".status",
        }
    }

    /// Its inode number; 1 is the root.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Control => 2,
            Self::Stats => 3,
            Self::Status => 4,
        }
    }

    /// Its permission bits.
    pub(super) fn mode(self) -> u16 {
        match self {
            Self::Control => 0o600,
            Self::Stats | Self::Status => 0o444,
        }
    }

    /// What a reader gets.
    pub(super) fn text(self, commands: &dyn Commands) -> String {
        match self {
            Self::Control => commands.history(),
            Self::Stats => commands.stats(),
            Self::Status => commands.status(),
        }
    }
}

/// The part of a text that a read at `offset` of `size` bytes answers with.
pub(super) fn slice(text: &[u8], offset: u64, size: u32) -> &[u8] {
    let start = usize::try_from(offset).map_or(text.len(), |at| at.min(text.len()));
    let end = start.saturating_add(size as usize).min(text.len());
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_files() {
        for special in Special::ALL {
            assert_eq!(Special::named(special.name()), Some(special));
        }
        assert_eq!(Special::named(".other"), None);
        assert_eq!(Special::named("control"), None);
    }

    #[test]
    fn a_read_gets_what_lies_in_its_range() {
        assert_eq!(slice(b"abcdef", 2, 3), b"cde");
        assert_eq!(slice(b"abcdef", 4, 100), b"ef");
        assert_eq!(slice(b"abcdef", 6, 1), b"");
        assert_eq!(slice(b"abcdef", u64::MAX, u32::MAX), b"");
    }
}
