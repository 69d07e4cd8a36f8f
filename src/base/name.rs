//! Names of disks and snapshots, as they stand in the mount and in commands.

/// The longest name that a directory entry can have, in bytes.
const NAME_MAX: usize = 255;

/// Why a name can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("the name is empty")]
    Empty,
    /// Longer than a directory entry can be.
    #[error("the name has {0} bytes; {NAME_MAX} are allowed for DISK@SNAPSHOT together")]
    TooLong(usize),
    /// A character that a name can't have.
    #[error(
        "{name:?} has {bad:?} in it; a name has no '/', '@', ',', spaces or control characters"
    )]
    Character {
        /// The name.
        name: String,
        /// The offender.
        bad: char,
    },
    /// A leading dot, kept for the mount's own files, or a leading dash.
    #[error("{0:?} starts with '{c}'; names that start so are reserved", c = .0.chars().next().unwrap_or('.'))]
    Start(String),
}

/// Checks a disk's name.
///
/// # Errors
/// Where no disk can have it, saying why.
pub fn check_disk_name(name: &str) -> Result<(), NameError> {
    match name.strip_prefix('.') {
        Some(rest) if is_rsync_temporary(name) && name.len() <= NAME_MAX => check(rest),
        _ => check(name),
    }
}

/// Whether this is what rsync calls a file until it is complete: `.NAME.XXXXXX`. It is the one
/// kind of name with a leading dot that a disk may have, so that rsync works without options.
fn is_rsync_temporary(name: &str) -> bool {
    let parts = name
        .strip_prefix('.')
        .and_then(|rest| rest.rsplit_once('.'));
    parts.is_some_and(|(stem, random)| {
        !stem.is_empty()
            && random.len() == 6
            && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Checks the part of a snapshot's name after the `@`.
///
/// # Errors
/// Where no snapshot of that disk can have it, saying why.
pub fn check_snapshot_name(disk: &str, name: &str) -> Result<(), NameError> {
    check(name)?;
    let len = snapshot_file_name(disk, name).len();
    if len > NAME_MAX {
        Err(NameError::TooLong(len))
    } else {
        Ok(())
    }
}

/// The file name of a snapshot: `DISK@SNAPSHOT`.
#[must_use]
pub fn snapshot_file_name(disk: &str, snapshot: &str) -> String {
    format!("{disk}@{snapshot}")
}

/// The disk and the snapshot in `DISK@SNAPSHOT`, or nothing where it has no `@`.
#[must_use]
pub fn split_snapshot_file_name(name: &str) -> Option<(&str, &str)> {
    name.split_once('@')
}

fn check(name: &str) -> Result<(), NameError> {
    if name.len() > NAME_MAX {
        return Err(NameError::TooLong(name.len()));
    }
    let reserved = |c: &char| matches!(c, '/' | '@' | ',') || c.is_whitespace() || c.is_control();
    if let Some(bad) = name.chars().find(reserved) {
        return Err(NameError::Character {
            name: name.to_owned(),
            bad,
        });
    }
    match name.chars().next() {
        None => Err(NameError::Empty),
        Some('.' | '-') => Err(NameError::Start(name.to_owned())),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_refused_and_others_pass() {
        for bad in ["", ".control", "a/b", "vm@1", "a b", "a\nb", "a,b", "-n"] {
            assert!(check_disk_name(bad).is_err(), "{bad:?}");
        }
        for good in ["vm1.img", "Größe", "2026-11-20T21-30-00Z", "a.b-c_d+e"] {
            assert_eq!(check_disk_name(good), Ok(()), "{good:?}");
        }
        assert!(check_disk_name(".vm1.img.8AfteT").is_ok(), "rsync's");
        for bad in [
            ".vm1.img",
            ".a.12345",
            "..123456",
            "..a.123456",
            ".a@b.123456",
        ] {
            assert!(check_disk_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_snapshot_name("vm1.img", ".a.123456").is_err());
        assert!(check_disk_name(&"x".repeat(255)).is_ok());
        assert!(check_snapshot_name(&"x".repeat(250), "12345").is_err());
    }
}
