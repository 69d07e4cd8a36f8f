//! A real tree: found on this machine, copied to the disk, and looked for in snapshots.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use snapmark::base::{Checksum, checksum};

use crate::lab::Result;

/// How much is copied.
const BYTES: u64 = 256 << 20;
const FILES: usize = 12_000;
/// Bigger files would be most of it.
const LARGEST: u64 = 16 << 20;
/// Bytes in a second: the copy is to last long enough for snapshots in the midst of it.
const PACE: f64 = 48.0 * (1 << 20) as f64;
/// The pieces that the file way writes.
const PIECE: usize = 1 << 20;

/// A file of the tree.
pub struct Entry {
    pub source: PathBuf,
    /// Where its content goes when it is copied onto the bare disk.
    pub offset: u64,
    pub len: u64,
}

/// What was found to copy, and where.
pub struct Tree {
    pub entries: Vec<Entry>,
    pub bytes: u64,
    pub roots: Vec<PathBuf>,
}

impl Tree {
    /// Files of this machine, up to some hundred megabytes.
    pub fn find() -> Result<Self> {
        let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo = cargo.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        let mut roots: Vec<PathBuf> = ["/usr/include", "/usr/share", "/usr/lib"]
            .map(PathBuf::from)
            .into();
        roots.extend(cargo.map(|cargo| cargo.join("registry/src")));
        roots.push(env!("CARGO_MANIFEST_DIR").into());
        let mut tree = Self {
            entries: Vec::new(),
            bytes: 0,
            roots: Vec::new(),
        };
        for root in roots {
            if tree.is_full() {
                break;
            }
            let before = tree.entries.len();
            tree.walk(&root);
            if tree.entries.len() > before {
                tree.roots.push(root);
            }
        }
        if tree.entries.len() < 10 {
            return Err("no tree to copy was found".into());
        }
        Ok(tree)
    }

    fn is_full(&self) -> bool {
        self.bytes >= BYTES || self.entries.len() >= FILES
    }

    fn walk(&mut self, dir: &Path) {
        let Ok(found) = std::fs::read_dir(dir) else {
            return;
        };
        let mut found: Vec<_> = found.flatten().collect();
        found.sort_by_key(std::fs::DirEntry::file_name);
        for entry in found {
            let Ok(meta) = entry.metadata() else { continue };
            if self.is_full() {
                return;
            } else if meta.is_dir() {
                self.walk(&entry.path());
            } else if meta.is_file() && (1..=LARGEST).contains(&meta.len()) {
                let (offset, len) = (self.bytes, meta.len());
                self.bytes += len.next_multiple_of(4096);
                let source = entry.path();
                self.entries.push(Entry {
                    source,
                    offset,
                    len,
                });
            }
        }
    }
}

/// Where the tree is copied to: a mounted file system, or the bare disk.
#[derive(Clone)]
pub enum Place {
    FileSystem(PathBuf),
    Disk(Arc<File>),
}

impl Place {
    fn path(root: &Path, entry: &Entry) -> PathBuf {
        root.join(entry.source.strip_prefix("/").unwrap_or(&entry.source))
    }

    fn put(&self, entry: &Entry, content: &[u8]) -> std::io::Result<()> {
        match self {
            Self::FileSystem(root) => {
                let path = Self::path(root, entry);
                if let Some(dir) = path.parent() {
                    std::fs::create_dir_all(dir)?;
                }
                File::create(path)?.write_all(content)
            }
            Self::Disk(file) => (entry.offset..)
                .step_by(PIECE)
                .zip(content.chunks(PIECE))
                .try_for_each(|(at, piece)| file.write_all_at(piece, at)),
        }
    }

    /// What is there; nothing where the file is not, or all of its place is zero.
    fn get(&self, entry: &Entry) -> std::io::Result<Option<Vec<u8>>> {
        let mut content = vec![0; entry.len as usize];
        match self {
            Self::FileSystem(root) => match File::open(Self::path(root, entry)) {
                Ok(mut file) => {
                    content.clear();
                    file.read_to_end(&mut content)?;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
            Self::Disk(file) => {
                file.read_exact_at(&mut content, entry.offset)?;
                if content.iter().all(|byte| *byte == 0) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(content))
    }

    /// Deletes an entry; on the bare disk, punches it out.
    pub fn delete(&self, entry: &Entry) -> std::io::Result<()> {
        match self {
            Self::FileSystem(root) => std::fs::remove_file(Self::path(root, entry)),
            Self::Disk(file) => {
                use rustix::fs::{FallocateFlags, fallocate};
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(fallocate(&**file, flags, entry.offset, entry.len)?)
            }
        }
    }
}

/// How far a copy is: what a snapshot must hold follows from two looks at it.
#[derive(Default)]
pub struct Progress {
    /// Checksums of the entries whose copy is complete, in the tree's order. `None` for a file
    /// that could not be read and was left out.
    done: Mutex<Vec<Option<Checksum>>>,
    /// Entries whose copy has begun.
    begun: AtomicU64,
    pub bytes: AtomicU64,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Checksum>>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn done(&self) -> usize {
        self.lock().len()
    }

    pub fn begun(&self) -> usize {
        self.begun.load(Relaxed) as usize
    }
}

/// A copy under way.
pub struct Copy {
    pub progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Copy {
    pub fn start(tree: &Arc<Tree>, place: &Place, stop: &Arc<AtomicBool>) -> Result<Self> {
        let progress = Arc::new(Progress::default());
        let (tree, place) = (Arc::clone(tree), place.clone());
        let (told, until) = (Arc::clone(&progress), Arc::clone(stop));
        let thread = std::thread::Builder::new()
            .name("copy".to_owned())
            .spawn(move || {
                let start = Instant::now();
                for entry in &tree.entries {
                    if until.load(Relaxed) {
                        break;
                    }
                    let content = std::fs::read(&entry.source).ok();
                    // A file that has changed its size since it was found has no place to go to.
                    let content = content.filter(|content| content.len() as u64 == entry.len);
                    told.begun.fetch_add(1, Relaxed);
                    if let Some(content) = &content {
                        place.put(entry, content)?;
                        told.bytes.fetch_add(entry.len, Relaxed);
                    }
                    told.lock().push(content.as_deref().map(checksum));
                    let due = Duration::from_secs_f64(told.bytes.load(Relaxed) as f64 / PACE);
                    std::thread::sleep(due.saturating_sub(start.elapsed()));
                }
                Ok(())
            })?;
        Ok(Self {
            progress,
            stop: Arc::clone(stop),
            thread: Some(thread),
        })
    }

    /// Whether there is nothing more to come.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub fn wait(&mut self) -> Result<()> {
        match self.thread.take() {
            Some(thread) => Ok(thread.join().map_err(|_| "the copy panicked")??),
            None => Ok(()),
        }
    }
}

impl std::ops::Drop for Copy {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.store(true, Relaxed);
            let _ = thread.join();
        }
    }
}

/// What a snapshot must hold.
#[derive(Clone, Copy)]
pub struct Claim {
    /// So many entries were complete before the command was given.
    pub complete: usize,
    /// So many had begun when it returned.
    pub begun: usize,
}

/// What was found in a snapshot.
pub struct Found {
    pub exact: usize,
    pub bytes: u64,
    /// Entries that were being copied, and are there in part.
    pub partial: usize,
    pub absent: usize,
}

/// Looks at every entry in a snapshot: those that were complete have to match their checksum,
/// those that had not begun must not be there, and what lies between is whole, absent or a part
/// from the beginning on. Without `strict` the last does not hold: a file system that was not
/// frozen had not written everything yet.
pub fn prove(
    tree: &Tree,
    progress: &Progress,
    place: &Place,
    claim: Claim,
    strict: bool,
) -> Result<Found> {
    let sums = progress.lock().clone();
    let mut found = Found {
        exact: 0,
        bytes: 0,
        partial: 0,
        absent: 0,
    };
    for (at, (entry, sum)) in tree.entries.iter().zip(&sums).enumerate() {
        let Some(sum) = sum else { continue };
        let content = place.get(entry)?;
        let wrong = |what: &str| format!("{} {what} in the snapshot", entry.source.display());
        match content {
            Some(_) if at >= claim.begun => return Err(wrong("comes from the future").into()),
            Some(content) if checksum(&content) == *sum => {
                found.exact += 1;
                found.bytes += entry.len;
            }
            _ if at < claim.complete => return Err(wrong("is not what was copied").into()),
            Some(content) if strict && !is_part(&content, entry)? => {
                return Err(wrong("is torn").into());
            }
            Some(_) => found.partial += 1,
            None => found.absent += 1,
        }
    }
    Ok(found)
}

/// Whether this is the beginning of the entry's content, and after that nothing.
fn is_part(content: &[u8], entry: &Entry) -> Result<bool> {
    let source = std::fs::read(&entry.source)?;
    let same = content.iter().zip(&source).take_while(|(a, b)| a == b);
    let same = same.count();
    Ok(content[same..].iter().all(|byte| *byte == 0))
}
