//! Writers that stamp every block with who wrote it and as which of its operations, and the proof
//! that an image holds exactly the first so many operations of every writer.
//!
//! A block is a 32-byte stamp repeated: a torn block is not periodic, a block in the wrong place
//! says where it belongs, and both are seen by one comparison. Each writer owns the chunks whose
//! number is its own modulo the writers, so that all of them meet in every segment and still each
//! block has one history. The blocks of several disks are counted through, so that one writer can
//! write to all of them in one order.

#[path = "prefix.rs"]
mod prefix;

pub use prefix::Checker;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Bytes in a block.
pub const BLOCK: usize = 4096;
/// Blocks in a chunk: the most that one operation covers.
pub const CHUNK: u32 = 16;
const STAMP: usize = 32;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// Spreads a number over 64 bits.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The seed of this run: `SNAPMARK_SEED`, or one from the clock. It is printed, and shown where
/// the test fails.
pub fn seed() -> u64 {
    let given = std::env::var("SNAPMARK_SEED").ok();
    let seed = given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    eprintln!("seed: SNAPMARK_SEED={seed}");
    seed
}

/// Sets a flag at the end, also where that is a panic.
pub struct OnDrop<'a>(pub &'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Room of so many bytes at an address that `O_DIRECT` takes.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start, len }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

/// Opens a disk or snapshot past the page cache.
pub fn open_direct(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32)
        .open(path)
}

/// Why there is no image.
#[derive(Debug)]
pub enum Unreadable {
    /// Nobody answered, or with an error.
    Io(io::Error),
    /// What was read was never written there.
    Wrong(String),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Write,
    Discard,
    /// There was no space for it: it did nothing.
    Refused,
}

/// One operation of a writer; its number is its place in the writer's log, from 1 on.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub kind: Kind,
    pub block: u32,
    pub count: u32,
}

/// Who writes where.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub writers: u32,
    pub disks: u32,
    /// Blocks of each disk, a multiple of the chunk times the writers.
    pub blocks: u32,
    /// One operation in so many is a discard; none where 0.
    pub discards: u64,
}

impl Plan {
    /// The writer whose block this is.
    pub fn owner(&self, block: u32) -> u32 {
        block / CHUNK % self.writers
    }

    /// Bytes of each disk.
    pub fn disk_bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK as u64
    }

    fn tag(&self, writer: u32, seq: u32, block: u32) -> u64 {
        mix(self.seed ^ (u64::from(seq) << 32 | u64::from(block)) ^ (u64::from(writer) << 20))
    }

    /// Fills a block with its stamp.
    pub fn stamp(&self, writer: u32, seq: u32, block: u32, into: &mut [u8]) {
        let mut stamp = [0; STAMP];
        stamp[..8].copy_from_slice(&self.tag(writer, seq, block).to_le_bytes());
        stamp[8..12].copy_from_slice(&writer.to_le_bytes());
        stamp[12..16].copy_from_slice(&seq.to_le_bytes());
        stamp[16..20].copy_from_slice(&block.to_le_bytes());
        stamp[20..].copy_from_slice(b"snapmarktest");
        for part in into.chunks_exact_mut(STAMP) {
            part.copy_from_slice(&stamp);
        }
    }

    /// The number of the operation that wrote a block, 0 where it is zeros.
    ///
    /// # Errors
    /// Where the block is torn, or is no block of this place.
    pub fn read_stamp(&self, block: u32, bytes: &[u8]) -> Result<u32, String> {
        if bytes[STAMP..] != bytes[..BLOCK - STAMP] {
            let at = bytes.chunks(STAMP).position(|part| *part != bytes[..STAMP]);
            return Err(format!("block {block} is torn at its {at:?}th stamp"));
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        if bytes[..STAMP] == [0; STAMP] {
            return Ok(0);
        }
        let (writer, seq) = (word(8), word(12));
        let tag = self.tag(writer, seq, block).to_le_bytes();
        if bytes[..8] != tag || writer != self.owner(block) {
            return Err(format!(
                "block {block} holds what writer {writer} wrote to block {} as its {seq}th",
                word(16)
            ));
        }
        Ok(seq)
    }

    /// Reads an image of one disk: the operation that each of its blocks is from.
    ///
    /// # Errors
    /// Where it can't be read, has another size, or a block is damaged.
    pub fn read_image(&self, disk: u32, path: &Path) -> Result<Vec<u32>, Unreadable> {
        let wrong = |what: String| Unreadable::Wrong(format!("{}: {what}", path.display()));
        let file = open_direct(path, false)?;
        let size = file.metadata()?.len();
        if size != self.disk_bytes() {
            return Err(wrong(format!("it has {size} bytes")));
        }
        let mut buffer = Buffer::new(1 << 20);
        let mut found = Vec::with_capacity(self.blocks as usize);
        while found.len() < self.blocks as usize {
            let left = (self.blocks as usize - found.len()) * BLOCK;
            let len = left.min(1 << 20);
            let part = &mut buffer.bytes()[..len];
            file.read_exact_at(part, (found.len() * BLOCK) as u64)?;
            for bytes in part.chunks_exact(BLOCK) {
                let block = disk * self.blocks + found.len() as u32;
                found.push(self.read_stamp(block, bytes).map_err(wrong)?);
            }
        }
        Ok(found)
    }

    /// A random operation of a writer.
    fn choose(&self, writer: u32, rng: &mut Rng) -> Op {
        let chunks = u64::from(self.disks * self.blocks / CHUNK / self.writers);
        let chunk = rng.below(chunks) as u32 * self.writers + writer;
        let kind = if self.discards > 0 && rng.chance(self.discards) {
            Kind::Discard
        } else {
            Kind::Write
        };
        // Mostly one block; sometimes several, which may not be torn either.
        let count = if kind == Kind::Discard || rng.chance(8) {
            1 + rng.below(u64::from(CHUNK)) as u32
        } else {
            1
        };
        let within = rng.below(u64::from(CHUNK - count + 1)) as u32;
        Op {
            kind,
            block: chunk * CHUNK + within,
            count,
        }
    }
}

/// What one writer has done. The thread that writes changes it; others look.
pub struct Writer {
    pub plan: Plan,
    pub number: u32,
    history: Mutex<History>,
    begun: AtomicU32,
    acked: AtomicU32,
}

/// Operations, and what was there before them.
#[derive(Clone)]
struct History {
    /// Operations that are in `start` already.
    base: u32,
    /// For every block of all disks, the operation that it is from.
    start: Vec<u32>,
    /// Operation `base + 1` is the first. It is here before it is begun.
    log: Vec<Op>,
}

/// How far a writer was at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub acked: u32,
    pub begun: u32,
}

impl Writer {
    pub fn new(plan: Plan, number: u32) -> Self {
        Self {
            plan,
            number,
            history: Mutex::new(History {
                base: 0,
                start: vec![0; (plan.disks * plan.blocks) as usize],
                log: Vec::new(),
            }),
            begun: AtomicU32::new(0),
            acked: AtomicU32::new(0),
        }
    }

    /// A writer that has done all this.
    pub fn with(plan: Plan, number: u32, operations: Vec<Op>) -> Self {
        let writer = Self::new(plan, number);
        let done = operations.len() as u32;
        writer.lock().log = operations;
        writer.begun.store(done, SeqCst);
        writer.acked.store(done, SeqCst);
        writer
    }

    /// What it has done since it was made or restarted.
    pub fn operations(&self) -> Vec<Op> {
        self.lock().log.clone()
    }

    pub fn all(plan: Plan) -> Vec<Self> {
        (0..plan.writers).map(|n| Self::new(plan, n)).collect()
    }

    pub fn progress(&self) -> Progress {
        Progress {
            acked: self.acked.load(SeqCst),
            begun: self.begun.load(SeqCst),
        }
    }

    /// One operation. Returns how long it took.
    ///
    /// # Errors
    /// Where the daemon refused it or is gone: it was begun and not acknowledged. One that there
    /// was no space for is noted as having done nothing.
    pub fn step(&self, disks: &[File], rng: &mut Rng, buffer: &mut Buffer) -> io::Result<Duration> {
        self.step_by(rng, buffer, |kind, disk, offset, bytes| {
            let file = &disks[disk as usize];
            match kind {
                Kind::Write => file.write_all_at(bytes, offset),
                Kind::Discard => punch(file, offset, bytes.len() as u64),
                Kind::Refused => Ok(()),
            }
        })
    }

    /// As [`step`](Self::step), done by a call with what it is, on which disk, where, and the
    /// bytes, which of a discard only say how many.
    ///
    /// # Errors
    /// As there.
    pub fn step_by(
        &self,
        rng: &mut Rng,
        buffer: &mut Buffer,
        does: impl FnOnce(Kind, u32, u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<Duration> {
        let op = self.plan.choose(self.number, rng);
        let seq = self.note(op);
        let offset = u64::from(op.block % self.plan.blocks) * BLOCK as u64;
        let len = op.count as usize * BLOCK;
        if op.kind == Kind::Write {
            for (block, bytes) in (op.block..).zip(buffer.bytes()[..len].chunks_exact_mut(BLOCK)) {
                self.plan.stamp(self.number, seq, block, bytes);
            }
        }
        self.begun.store(seq, SeqCst);
        let started = Instant::now();
        let disk = op.block / self.plan.blocks;
        let done = does(op.kind, disk, offset, &buffer.bytes()[..len]);
        let took = started.elapsed();
        match &done {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => self.refuse(seq),
            _ => {}
        }
        done?;
        self.acked.store(seq, SeqCst);
        Ok(took)
    }

    fn note(&self, op: Op) -> u32 {
        let mut history = self.lock();
        history.log.push(op);
        history.base + history.log.len() as u32
    }

    fn refuse(&self, seq: u32) {
        let mut history = self.lock();
        let at = (seq - history.base - 1) as usize;
        history.log[at].kind = Kind::Refused;
        self.acked.store(seq, SeqCst);
    }

    /// Goes on from what a checker has just seen of all disks. What was begun behind that did not
    /// happen, because the daemon died, and nothing else ever gets its number.
    pub fn restart_at(&self, seen: &Checker) {
        let mut history = self.lock();
        history.base += history.log.len() as u32;
        history.start = seen.blocks();
        history.log.clear();
        self.begun.store(history.base, SeqCst);
        self.acked.store(history.base, SeqCst);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().expect("no panic while it is held")
    }
}

/// Gives a range back, as a discard does.
pub fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, offset, len)?)
}

/// Ends a daemon as a crash would, and leaves its mount where it is.
pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
}

/// How long things took.
#[derive(Default, Clone)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Count, median, 99th, 99.9th percentile and longest, in words.
    pub fn words(&mut self) -> String {
        self.0.sort_unstable();
        let at = |part: f64| {
            let last = self.0.len().saturating_sub(1);
            self.0
                .get((last as f64 * part) as usize)
                .copied()
                .unwrap_or_default()
        };
        format!(
            "{} times, p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}",
            self.0.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        )
    }
}
