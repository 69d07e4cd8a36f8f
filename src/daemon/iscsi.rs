//! From settings to an iSCSI target.

use std::net::SocketAddr;
use std::path::Path;

use super::store::OpenStore;
use crate::config::{Portal, Secrets, SecretsError};
use crate::frontend::iscsi::{Access, IscsiOptions};

/// How the disks of a store are served over iSCSI, where they are: at the addresses of its settings, and
/// at `more`.
///
/// # Errors
/// Where the secrets can't be had.
pub fn options(
    store: &OpenStore,
    dir: &Path,
    more: &[Portal],
) -> Result<Option<IscsiOptions>, SecretsError> {
    let settings = &store.settings.iscsi;
    let mut listen: Vec<SocketAddr> = Vec::new();
    for portal in settings.listen.iter().chain(more) {
        if !listen.contains(&portal.0) {
            listen.push(portal.0);
        }
    }
    if listen.is_empty() {
        return Ok(None);
    }
    let secrets = settings.secrets.as_ref();
    let secrets = secrets
        .map(|file| Secrets::load(&dir.join(file)))
        .transpose()?;
    let access = settings.access.iter().map(|rule| Access {
        disks: rule.pattern.clone(),
        initiators: rule.initiators.clone(),
    });
    Ok(Some(IscsiOptions {
        listen,
        store: settings.name.clone().unwrap_or_else(|| name_of(dir)),
        uuid: store.volumes.uuid(),
        secrets,
        access: access.collect(),
        open: settings.open,
        sessions: usize::from(settings.sessions),
        silence: IscsiOptions::SILENCE,
        data_patience: IscsiOptions::DATA_PATIENCE,
    }))
}

/// What the directory is called.
fn name_of(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = whole
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "store".to_owned())
}
