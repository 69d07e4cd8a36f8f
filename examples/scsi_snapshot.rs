//! Takes a snapshot over iSCSI, between two writes of its own, and shows what is in it:
//!
//! ```sh
//! snapmark mount --iscsi 127.0.0.1 /srv/store /mnt/disks
//! truncate -s 1G /mnt/disks/db.img
//! cargo run --example scsi_snapshot -- 127.0.0.1:3260 iqn.2026-11.io.snapmark:store:db.img demo
//! ```
//!
//! It overwrites the disk's first block.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use snapmark::frontend::iscsi::{Identity, Initiator, Outcome, Transfer, snapshot_cdb};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [portal, target, name] = &arguments[..] else {
        anyhow::bail!("usage: scsi_snapshot ADDRESS:PORT TARGET NAME");
    };
    let portal: SocketAddr = portal.parse().context("no address")?;
    let mut disk = log_in(portal, target)?;

    write(&mut disk, b'1')?;
    let cdb = snapshot_cdb(name, false, false).context("the name is too long")?;
    good(&disk.command(&cdb, Transfer::Out(name.as_bytes()))?)?;
    write(&mut disk, b'2')?;

    let mut snapshot = log_in(portal, &format!("{target}:{name}"))?;
    let (then, now) = (read(&mut snapshot)?, read(&mut disk)?);
    println!(
        "the snapshot has {:?}, the disk has {:?}",
        char::from(then),
        char::from(now)
    );
    ensure!((then, now) == (b'1', b'2'), "that is not right");
    snapshot.log_out()?;
    Ok(disk.log_out()?)
}

fn log_in(portal: SocketAddr, target: &str) -> Result<Initiator> {
    let identity = Identity {
        initiator: "iqn.2026-11.io.snapmark:example".to_owned(),
        target: Some(target.to_owned()),
        ..Identity::default()
    };
    let mut session = Initiator::log_in(portal, &identity)?;
    // TEST UNIT READY, until the target has told what it had to tell.
    while session.command(&[0; 6], Transfer::None)?.status != 0 {}
    Ok(session)
}

/// WRITE (10) of one block.
fn write(disk: &mut Initiator, byte: u8) -> Result<()> {
    let cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    good(&disk.command(&cdb, Transfer::Out(&[byte; 512]))?)
}

/// READ (10) of one block.
fn read(disk: &mut Initiator) -> Result<u8> {
    let cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let outcome = disk.command(&cdb, Transfer::In(512))?;
    good(&outcome)?;
    outcome.data.first().copied().context("no data")
}

fn good(outcome: &Outcome) -> Result<()> {
    let words = outcome.words().unwrap_or_default();
    ensure!(
        outcome.status == 0,
        "status {:02x}h: {words}",
        outcome.status
    );
    Ok(())
}
