//! What a store directory holds by name, who has it open, and its settings.

mod cron;
mod directory;
mod glob;
mod layout;
mod lock;
mod own_file;
mod portal;
mod schedule;
mod secrets;
mod settings;
mod value;

pub use cron::{Cron, ParseCronError};
pub use directory::{DirectoryError, check_directory, claim_directory};
pub use glob::Glob;
pub use layout::Layout;
pub use lock::{LockError, StoreLock};
pub use own_file::open_own;
pub use portal::{ParsePortalError, Portal};
pub use schedule::{Keep, ScheduleRule};
pub use secrets::{Account, Secret, Secrets, SecretsError};
pub use settings::{
    AccessRule, CacheMode, CacheSettings, DestageSettings, DiskRule, FuseSettings, IscsiSettings,
    JournalSettings, LogLevel, LogSettings, Settings, SettingsError, SpaceSettings,
};
pub use value::{Interval, ParseIntervalError};
