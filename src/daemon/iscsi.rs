//! From settings to an iSCSI target.

use std::net::SocketAddr;
use std::path::Path;

use super::store::OpenStore;
use crate::config::{Account, Glob, Portal, Secrets, SecretsError};
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
    if !settings.access.is_empty() {
        for doubt in doubts(secrets.as_ref()) {
            log::warn!("iSCSI: {doubt}");
        }
    }
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
        space_patience: IscsiOptions::SPACE_PATIENCE,
    }))
}

/// Where rules of access keep nobody out who knows an initiator's name: that is all that they go by.
fn doubts(secrets: Option<&Secrets>) -> Vec<String> {
    let Some(secrets) = secrets else {
        return vec![
            "'access' goes by the names that initiators give, and without 'secrets' nothing proves them"
                .to_owned(),
        ];
    };
    // A pattern that nothing matches too lets everybody come under any name.
    let is_any = |name: &Glob| name.matches("");
    let anybody = |account: &&Account| account.initiator.as_ref().is_none_or(is_any);
    let unbound = secrets.initiators.iter().filter(anybody);
    let doubt = |account: &Account| {
        format!(
            "'access' goes by the names that initiators give, and the account {} may come under any: name \
             its 'initiator' in the secrets",
            account.user
        )
    };
    unbound.map(doubt).collect()
}

/// What the directory is called.
fn name_of(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = whole
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "store".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nothing_proves_are_doubted() {
        assert_eq!(doubts(None).len(), 1);
        let text = b"initiators:\n- {user: a, secret: abcdefghijkl, initiator: iqn.x:*}\n\
            - {user: b, secret: abcdefghijkl}\n- {user: c, secret: abcdefghijkl, initiator: '*'}\n";
        let secrets = Secrets::parse("s", text).unwrap();
        let doubts = doubts(Some(&secrets));
        assert_eq!(doubts.len(), 2);
        assert!(doubts[0].contains("account b ") && doubts[1].contains("account c "));
        assert!(!doubts[0].contains("abcdefghijkl"));
    }
}
