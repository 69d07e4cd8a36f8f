//! The temporary directory with its mounts, and the way back from all of it.

use std::error::Error;
use std::ffi::OsStr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What the temporary directory must have room for, in bytes.
const ROOM: u64 = 2 << 30;

/// Tools of the ext4 way, each with the Debian package that has it.
const TOOLS: [(&str, &str); 6] = [
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("losetup", "mount"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("fstrim", "util-linux"),
];

/// What has to be undone, newest first.
enum Undo {
    Unmount(PathBuf),
    DetachLoop(String),
    UnmountStore(PathBuf),
    RemoveDirectory(PathBuf),
}

/// The place where the quickstart happens. Dropping it leaves nothing behind.
pub struct Lab {
    pub dir: PathBuf,
    pub stop: Arc<AtomicBool>,
    started: Instant,
    undo: Vec<Undo>,
}

impl Lab {
    pub fn new() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let dir = parent().join(format!("snapmark-quickstart-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(|error| format!("can't make {}: {error}", dir.display()))?;
        let lab = Self {
            undo: vec![Undo::RemoveDirectory(dir.clone())],
            dir,
            stop,
            started: Instant::now(),
        };
        let space = rustix::fs::statvfs(&lab.dir)?;
        if space.f_bavail * space.f_frsize < ROOM {
            return Err(format!(
                "{} has less than 2 GiB free; set TMPDIR to a directory with more",
                lab.dir.display()
            )
            .into());
        }
        Ok(lab)
    }

    /// A line of the timeline.
    pub fn say(&self, what: impl std::fmt::Display) {
        println!("{:6.2} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// Fails where the user wants it to end.
    pub fn check(&self) -> Result<()> {
        if self.stop.load(Relaxed) {
            return Err("stopped; everything is being undone".into());
        }
        Ok(())
    }

    /// An empty directory in the lab.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    }

    /// Runs a `snapmark` command, which this very program is when it has arguments.
    pub fn snapmark<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<String> {
        self.check()?;
        run(Command::new(std::env::current_exe()?).args(arguments))
    }

    /// Runs a tool of the system.
    pub fn tool<A: AsRef<OsStr>>(&self, name: &str, arguments: &[A]) -> Result<String> {
        self.check()?;
        run(Command::new(name).args(arguments))
    }

    /// Serves a store.
    pub fn mount_store(&mut self, store: &Path, mountpoint: &Path) -> Result<()> {
        // Before the mount: should it be interrupted, there is still something to undo.
        self.undo.push(Undo::UnmountStore(mountpoint.to_owned()));
        self.snapmark(&[OsStr::new("mount"), store.as_ref(), mountpoint.as_ref()])?;
        Ok(())
    }

    /// A loop device over a file.
    pub fn attach_loop(&mut self, file: &Path) -> Result<String> {
        let words = ["--find", "--show", "--direct-io=on"].map(OsStr::new);
        let device = self.tool("losetup", &[&words[..], &[file.as_ref()]].concat())?;
        let device = device.trim().to_owned();
        self.undo.push(Undo::DetachLoop(device.clone()));
        Ok(device)
    }

    /// Mounts a device or, with the option `loop`, a file.
    pub fn mount(&mut self, what: &Path, options: &str, mountpoint: &Path) -> Result<()> {
        let words = ["-t", "ext4", "-o", options].map(OsStr::new);
        let paths = [what.as_os_str(), mountpoint.as_os_str()];
        self.tool("mount", &[&words[..], &paths[..]].concat())?;
        self.undo.push(Undo::Unmount(mountpoint.to_owned()));
        Ok(())
    }

    /// Undoes all since the store was mounted, but for that.
    pub fn release_disks(&mut self) -> Result<()> {
        while matches!(
            self.undo.last(),
            Some(Undo::Unmount(_) | Undo::DetachLoop(_))
        ) {
            self.undo_one()?;
        }
        Ok(())
    }

    /// Undoes everything, and says how that went.
    pub fn finish(mut self) -> Result<()> {
        let mut result = Ok(());
        while !self.undo.is_empty() {
            result = result.and(self.undo_one());
        }
        result
    }

    fn undo_one(&mut self) -> Result<()> {
        let Some(undo) = self.undo.pop() else {
            return Ok(());
        };
        let done = undo_it(&undo);
        if let Err(error) = &done {
            eprintln!("quickstart: cleaning up: {error}");
        }
        done
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        while !self.undo.is_empty() {
            let _ = self.undo_one();
        }
    }
}

fn undo_it(undo: &Undo) -> Result<()> {
    match undo {
        Undo::Unmount(path) => run(Command::new("umount").arg(path)).map(drop),
        Undo::DetachLoop(device) => run(Command::new("losetup").args(["-d", device])).map(drop),
        Undo::UnmountStore(path) => unmount_store(path),
        Undo::RemoveDirectory(path) => {
            if is_mounted(&path.join("mnt")) {
                return Err(format!("{} stays: a mount is still in it", path.display()).into());
            }
            Ok(std::fs::remove_dir_all(path)?)
        }
    }
}

fn unmount_store(path: &Path) -> Result<()> {
    if !is_mounted(path) {
        return Ok(());
    }
    let snapmark = |words: &[&str]| {
        let exe = std::env::current_exe()?;
        run(Command::new(exe).arg("unmount").args(words).arg(path)).map(drop)
    };
    // A handle may be on its way to be closed: a loop device lets go a moment after its umount.
    for _ in 0..20 {
        if snapmark(&[]).is_ok() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    snapmark(&["--lazy"])
}

fn is_mounted(path: &Path) -> bool {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let at = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
    info.lines().filter_map(at).any(|at| at == path)
}

/// On a real disk where there is one: /tmp is often memory.
fn parent() -> PathBuf {
    if std::env::var_os("TMPDIR").is_some() {
        return std::env::temp_dir();
    }
    let on_disk = Path::new("/var/tmp");
    if rustix::fs::access(on_disk, rustix::fs::Access::WRITE_OK).is_ok() {
        return on_disk.to_owned();
    }
    std::env::temp_dir()
}

/// Runs a program and returns what it printed. In a process group of its own: Ctrl-C is for the
/// quickstart, which ends its programs in order.
fn run(command: &mut Command) -> Result<String> {
    let command = command.stdin(Stdio::null()).process_group(0);
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| missing(&name, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let name = name.rsplit('/').next().unwrap_or_default();
    Err(format!("{name} {} failed: {said}", words.join(" ")).into())
}

fn missing(name: &str, error: &std::io::Error) -> String {
    match TOOLS.iter().find(|(tool, _)| *tool == name) {
        Some((tool, package)) => format!("{tool}: {error}; install the package {package}"),
        None => format!("{name}: {error}"),
    }
}

/// Why the ext4 way can't be gone here, if it can't.
pub fn why_not_ext4() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root, so no loop device".to_owned());
    }
    for (tool, package) in TOOLS {
        let found = Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Some(format!(
                "{tool} is not there; it is in the package {package}"
            ));
        }
    }
    // Loads the module where that is still to be done.
    let _ = Command::new("modprobe").args(["-q", "loop"]).status();
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices here (/dev/loop-control)".to_owned());
    }
    None
}
