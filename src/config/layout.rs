//! The names of the files in a store's directory.

use std::path::{Component, Path, PathBuf};

/// A store's directory. All names in it are given here and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// The settings.
    pub const SETTINGS: &str = "store.yaml";
    /// The file that the daemon holds locked.
    pub const LOCK: &str = "lock";
    /// The pages of the catalog.
    pub const CATALOG_PAGES: &str = "catalog.pages";
    /// The log of the catalog.
    pub const CATALOG_LOG: &str = "catalog.log";
    /// The journal, unless the settings say another file.
    pub const JOURNAL: &str = "journal";
    /// The backing file of the default device.
    pub const POOL: &str = "pool.img";
    /// How far the online data check is.
    pub const SCRUB: &str = "scrub.yaml";
    /// What schedules have done.
    pub const SCHEDULES: &str = "schedules.yaml";
    /// The daemon's log.
    pub const LOG: &str = "snapmark.log";

    /// The store in this directory.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of [`Layout::SETTINGS`].
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.dir.join(Self::SETTINGS)
    }

    /// The path of [`Layout::LOCK`].
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.dir.join(Self::LOCK)
    }

    /// The path of [`Layout::CATALOG_PAGES`].
    #[must_use]
    pub fn catalog_pages(&self) -> PathBuf {
        self.dir.join(Self::CATALOG_PAGES)
    }

    /// The path of [`Layout::CATALOG_LOG`].
    #[must_use]
    pub fn catalog_log(&self) -> PathBuf {
        self.dir.join(Self::CATALOG_LOG)
    }

    /// The path of [`Layout::POOL`].
    #[must_use]
    pub fn pool(&self) -> PathBuf {
        self.dir.join(Self::POOL)
    }

    /// The path of [`Layout::SCRUB`].
    #[must_use]
    pub fn scrub(&self) -> PathBuf {
        self.dir.join(Self::SCRUB)
    }

    /// The path of [`Layout::SCHEDULES`].
    #[must_use]
    pub fn schedules(&self) -> PathBuf {
        self.dir.join(Self::SCHEDULES)
    }

    /// The path of [`Layout::LOG`].
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join(Self::LOG)
    }

    /// A path of the device table: as it stands where it begins with `/`, else in the store.
    #[must_use]
    pub fn device(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// Whether a path as it stands in the device table or the settings leads to a file in the
    /// store. Such a file is never reached through a symbolic link; one elsewhere was named by
    /// the administrator, and may be.
    #[must_use]
    pub fn is_inside(path: &Path) -> bool {
        let mut parts = path.components();
        path.is_relative() && parts.all(|part| matches!(part, Component::Normal(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lie_in_the_store_unless_absolute() {
        let layout = Layout::new("/var/store");
        assert_eq!(layout.settings(), Path::new("/var/store/store.yaml"));
        assert_eq!(layout.device("pool.img"), layout.pool());
        assert_eq!(layout.device("/dev/sdb"), Path::new("/dev/sdb"));
    }

    #[test]
    fn what_climbs_or_begins_elsewhere_is_not_inside() {
        for inside in ["pool.img", "more/pool2", "..a"] {
            assert!(Layout::is_inside(Path::new(inside)), "{inside}");
        }
        for outside in ["/dev/sdb", "..", "../../etc/passwd", "more/../../x"] {
            assert!(!Layout::is_inside(Path::new(outside)), "{outside}");
        }
    }
}
