//! qcow2 over the FUSE export of `qemu-storage-daemon`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Kind, Need, Peer, Place, SETUP, need};
use crate::process::{Server, run};

pub(super) const QEMU_IMG: Need = need("qemu-img", "qemu-utils");

pub const STORAGE_DAEMON: Kind = Kind {
    id: "qcow2",
    name: "qcow2, qemu-storage-daemon FUSE export",
    needs: &[
        need("qemu-storage-daemon", "qemu-utils or qemu-system-common"),
        QEMU_IMG,
    ],
    file_system: None,
    keeps_data: true,
    short: true,
    all_jobs: true,
    start,
};

/// How long a command may take: a snapshot waits for requests under way.
const ANSWER: Duration = Duration::from_secs(120);

struct StorageDaemon {
    path: PathBuf,
    monitor: BufReader<UnixStream>,
    // Goes first: the mount is in the directory.
    _server: Server,
    _scratch: TempDir,
}

/// Makes an empty qcow2 image.
pub(super) fn qcow2(path: &Path, size: u64) -> Result<()> {
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2"]).arg(path);
    run(create.arg(size.to_string()), SETUP).map(drop)
}

fn start(place: &Place) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch("qcow2")?;
    let image = scratch.path().join("disk.qcow2");
    qcow2(&image, place.size)?;
    // The export is mounted over a file.
    let path = scratch.path().join("export.img");
    std::fs::write(&path, "")?;
    let socket = scratch.path().join("qmp");
    let (file, export, qmp) = (image.display(), path.display(), socket.display());
    let mut daemon = Command::new("qemu-storage-daemon");
    daemon.args([
        "--blockdev",
        &format!("driver=file,node-name=file,filename={file}"),
    ]);
    daemon.args(["--blockdev", "driver=qcow2,node-name=disk,file=file"]);
    let fuse = format!("type=fuse,id=export,node-name=disk,mountpoint={export},writable=on");
    daemon.args(["--export", &fuse]);
    daemon.args([
        "--chardev",
        &format!("socket,id=qmp,path={qmp},server=on,wait=off"),
    ]);
    daemon.args(["--monitor", "chardev=qmp"]);
    let server = Server::start(&mut daemon, &path, &path, Some(place.size))?;
    let stream = UnixStream::connect(&socket).context("can't reach the monitor")?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut made = StorageDaemon {
        path,
        monitor: BufReader::new(stream),
        _server: server,
        _scratch: scratch,
    };
    made.command(&json!({ "execute": "qmp_capabilities" }))?;
    Ok(Box::new(made))
}

impl StorageDaemon {
    /// Gives a command to the monitor (QEMU Machine Protocol) and waits for its result.
    fn command(&mut self, command: &Value) -> Result<()> {
        writeln!(self.monitor.get_mut(), "{command}").context("the monitor takes no command")?;
        loop {
            let mut line = String::new();
            let read = self
                .monitor
                .read_line(&mut line)
                .context("the monitor's answer")?;
            ensure!(read > 0, "the monitor is closed");
            let answer: Value = serde_json::from_str(&line).context("the monitor's answer")?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            // What else it sends are greetings and events.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }
}

impl Peer for StorageDaemon {
    fn path(&self) -> &Path {
        &self.path
    }

    fn snapshot(&mut self, number: u32) -> Result<bool> {
        let arguments = json!({ "device": "disk", "name": format!("bench{number}") });
        let execute = "blockdev-snapshot-internal-sync";
        self.command(&json!({ "execute": execute, "arguments": arguments }))?;
        Ok(true)
    }

    fn delete(&mut self, number: u32) -> Result<bool> {
        let arguments = json!({ "device": "disk", "name": format!("bench{number}") });
        let execute = "blockdev-snapshot-delete-internal-sync";
        self.command(&json!({ "execute": execute, "arguments": arguments }))?;
        Ok(true)
    }
}
