//! Where a scrub has come to, in a small file of the store: a big pool takes days, and its daemon
//! may be restarted meanwhile. Nothing depends on the file: without it the scrub begins anew.

use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::state::Reached;
use crate::base::DeviceNo;
use crate::config::open_own;
use crate::volume::ScrubStatus;

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Saved {
    /// The stretch that comes next: device and number.
    next: Option<(u16, u64)>,
    scrub: ScrubStatus,
}

/// Reads the file; nothing where there is none.
pub(super) fn load(path: &Path) -> io::Result<Option<(ScrubStatus, Reached)>> {
    let file = match open_own(path, OFlags::RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    let saved: Saved = serde_yaml::from_str(&text).map_err(io::Error::other)?;
    let next = saved.next.map(|(device, at)| (DeviceNo(device), at));
    let reached = Reached::of(next, &saved.scrub);
    Ok(Some((saved.scrub, reached)))
}

/// Writes it anew, one at a time. It is not synced: after a power loss the scrub may begin anew.
pub(super) fn save(path: &Path, mut scrub: ScrubStatus, reached: Reached) -> io::Result<()> {
    let next = reached.next.map(|(device, at)| (device.0, at));
    if scrub.finished.is_none() {
        reached.put(&mut scrub);
    }
    let text = serde_yaml::to_string(&Saved { next, scrub }).map_err(io::Error::other)?;
    let new = path.with_extension("new");
    let mut file = open_own(&new, OFlags::WRONLY | OFlags::CREATE)?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::scrub::state::Shared;
    use crate::volume::{ScrubProblem, ScrubState};

    #[test]
    fn what_is_looked_at_again_is_not_counted_twice() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("scrub.yaml");
        let shared = Shared::new(0);
        shared.with(super::super::state::State::begin);
        let damage = |segment| ScrubProblem {
            segment,
            count: 2,
            ..ScrubProblem::default()
        };
        shared.checked(100);
        shared.damaged(damage(1));
        shared.suspects(5);
        shared.reached((DeviceNo(0), 7));
        // In the middle of what comes next.
        shared.checked(50);
        shared.damaged(damage(2));
        shared.suspects(1);
        let (status, reached) = shared.with(|state| (state.status(), state.reached.clone()));
        assert_eq!(
            (status.checked, status.damaged, status.suspects),
            (150, 4, 6)
        );
        save(&file, status, reached).unwrap();
        let (status, reached) = load(&file).unwrap().unwrap();
        let after = Shared::new(0);
        after.with(|state| state.restore(status, reached));
        let status = after.with(|state| state.status());
        assert_eq!(status.state, ScrubState::Running);
        assert_eq!(
            (status.checked, status.damaged, status.suspects),
            (100, 2, 5)
        );
        assert_eq!(status.problems, [damage(1)]);
        // What was found by one that has ended is all of it.
        shared.ended(Ok(()));
        let (status, reached) = shared.with(|state| (state.status(), state.reached.clone()));
        save(&file, status.clone(), reached).unwrap();
        assert_eq!(load(&file).unwrap().unwrap().0, status);
    }

    #[test]
    fn nothing_is_written_through_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (file, new) = (at("scrub.yaml"), at("scrub.new"));
        let save = || save(&file, ScrubStatus::default(), Reached::default());
        std::fs::write(at("victim"), "precious").unwrap();
        std::fs::hard_link(at("victim"), &new).unwrap();
        assert!(save().is_err());
        std::fs::remove_file(&new).unwrap();
        std::os::unix::fs::symlink(at("victim"), &new).unwrap();
        assert!(save().is_err());
        std::fs::remove_file(&new).unwrap();
        let victim = std::fs::read_to_string(at("victim")).unwrap();
        assert_eq!(victim, "precious");
        // One that a death left is written over, and the end of it does not stay.
        std::fs::write(&new, "#".repeat(10_000)).unwrap();
        save().unwrap();
        assert_eq!(load(&file).unwrap().unwrap().0, ScrubStatus::default());
    }
}
