//! Mounting a store: in the foreground here, in the background by a child of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::background::{self, BackgroundError, Readiness};
use super::iscsi;
use super::mountpoint::{Mountpoint, MountpointError};
use super::process;
use super::serve::{ServeError, Serving, serve};
use super::store::{OpenStore, StoreError};
use crate::config::{Layout, Portal, SecretsError, check_directory};
use crate::control::Control;
use crate::frontend::fuse::FuseOptions;

/// Why a store is not served.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The mountpoint can't be used.
    #[error(transparent)]
    Mountpoint(#[from] MountpointError),
    /// The secrets of iSCSI initiators are not to be had.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// Serving failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The background process did not come up.
    #[error(transparent)]
    Background(#[from] BackgroundError),
}

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct Mounting {
    /// The store's directory.
    pub store: PathBuf,
    /// Where its disks appear.
    pub mountpoint: PathBuf,
    /// Whether other users may use the mount, whatever the settings say.
    pub allow_other: bool,
    /// The mount's source as shown, instead of the store's path.
    pub fs_name: Option<String>,
    /// Where to serve them over iSCSI, beside where the settings say.
    pub iscsi: Vec<Portal>,
}

impl Mounting {
    /// Serves until it is unmounted or told to stop.
    ///
    /// # Errors
    /// Where the store can't be opened or mounted, or did not end well.
    pub fn serve(&self, readiness: &mut Readiness) -> Result<(), MountError> {
        let prepared = process::prepare();
        let mountpoint = Mountpoint::find(&self.mountpoint, &self.store)?;
        let store = OpenStore::open(&self.store)?;
        log::set_max_level(store.settings.log.level.into());
        let fuse = &store.settings.fuse;
        let options = FuseOptions {
            threads: usize::from(fuse.threads),
            max_background: fuse.max_background,
            allow_other: fuse.allow_other || self.allow_other,
            fsname: self
                .fs_name
                .clone()
                .unwrap_or_else(|| self.store.display().to_string()),
        };
        let prepared_to_serve = iscsi::options(&store, &self.store, &self.iscsi)
            .map_err(MountError::from)
            .and_then(|iscsi| {
                let mountpoint = mountpoint
                    .hiding_none(&store.stands_on())
                    .and_then(Mountpoint::clear)?;
                Ok((iscsi, mountpoint))
            });
        let (iscsi, mountpoint) = match prepared_to_serve {
            Ok(both) => both,
            Err(error) => {
                store.volumes.close_store().map_err(ServeError::Close)?;
                return Err(error);
            }
        };
        prepared.report();
        let commands = Arc::new(Control::new(store.volumes.clone()));
        Ok(serve(
            &store.volumes,
            commands,
            &Serving {
                mountpoint: &mountpoint,
                fuse: &options,
                iscsi,
                schedules: &store.settings.snapshots,
                schedules_file: Layout::new(&self.store).schedules(),
            },
            readiness,
        )?)
    }

    /// Serves in a process of its own; returns its number once the disks are there.
    ///
    /// # Errors
    /// What the process says why it can't serve.
    pub fn start(&self) -> Result<u32, MountError> {
        if !Layout::new(&self.store).catalog_pages().exists() {
            return Err(StoreError::NotAStore(self.store.clone()).into());
        }
        // Before the log in it is written.
        check_directory(&self.store).map_err(StoreError::from)?;
        Ok(background::start(
            &self.arguments(),
            &Layout::new(&self.store).log(),
        )?)
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            vec!["mount".into(), path(&self.store), path(&self.mountpoint)];
        if self.allow_other {
            arguments.push("--allow-other".into());
        }
        for portal in &self.iscsi {
            arguments.extend(["--iscsi".into(), portal.to_string().into()]);
        }
        if let Some(name) = &self.fs_name {
            arguments.extend(["-o".into(), format!("fsname={name}").into()]);
        }
        arguments
    }
}

fn path(path: &Path) -> OsString {
    path.as_os_str().to_owned()
}
