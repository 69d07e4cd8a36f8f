//! What a store directory holds by name, who has it open, and its settings.

mod directory;
mod glob;
mod layout;
mod lock;
mod own_file;
mod settings;
mod value;

pub use directory::{DirectoryError, check_directory, claim_directory};
pub use glob::Glob;
pub use layout::Layout;
pub use lock::{LockError, StoreLock};
pub use own_file::open_own;
pub use settings::{
    CacheMode, CacheSettings, DestageSettings, DiskRule, FuseSettings, JournalSettings, LogLevel,
    LogSettings, Settings, SettingsError, SpaceSettings,
};
pub use value::{Interval, ParseIntervalError};
