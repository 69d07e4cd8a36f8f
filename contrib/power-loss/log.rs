//! The log of dm-log-writes, as the kernel's `Documentation/admin-guide/device-mapper/log-writes.rst`
//! and `drivers/md/dm-log-writes.c` describe it: a super block, then entries, each a header in a
//! sector of its own and the data. Writes come in the order in which they completed, those that a
//! flush made durable before it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::torture::stamps::Rng;

const MAGIC: u64 = 0x006a_7366_7773_6872;
/// The unit of sector numbers in entries is the device's own, and 512 bytes here.
const SECTOR: u64 = 512;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// One entry.
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its data is in the log.
    data: u64,
    /// The text of a mark.
    mark: Option<String>,
}

struct Log {
    file: File,
    entries: u64,
    sector: u64,
    /// Where the next entry is.
    at: u64,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Log {
    fn open(path: &Path) -> Self {
        let file = File::open(path).expect("the log");
        let mut head = [0; 32];
        file.read_exact_at(&mut head, 0).expect("a super block");
        assert_eq!((word(&head, 0), word(&head, 8)), (MAGIC, 1), "no log");
        let sector = u64::from(u32::from_le_bytes(head[24..28].try_into().expect("four")));
        assert!(sector == SECTOR, "sectors of {sector} bytes");
        Self {
            file,
            entries: word(&head, 16),
            sector,
            at: sector,
        }
    }
}

impl Iterator for Log {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if self.entries == 0 {
            return None;
        }
        self.entries -= 1;
        let mut head = vec![0; self.sector as usize];
        self.file
            .read_exact_at(&mut head, self.at)
            .expect("an entry");
        let (flags, len) = (word(&head, 16), word(&head, 24) as usize);
        let mark = (flags & MARK != 0).then(|| {
            let text = &head[32..(32 + len).min(head.len())];
            String::from_utf8_lossy(text)
                .trim_end_matches('\0')
                .to_owned()
        });
        let sectors = word(&head, 8);
        let data = self.at + self.sector;
        let with_data = flags & (DISCARD | MARK) == 0;
        self.at = data + if with_data { sectors * SECTOR } else { 0 };
        Some(Entry {
            sector: word(&head, 0),
            sectors,
            flags,
            data,
            mark,
        })
    }
}

/// Lists flushes.
#[derive(Args)]
pub struct Points {
    #[arg(long)]
    log: PathBuf,
    #[arg(long)]
    count: usize,
    #[arg(long)]
    seed: u64,
}

impl Points {
    /// First a line of words; then, of each point, the entries up to it, those up to the next
    /// flush, and the last mark.
    pub fn run(&self) {
        let (mut flushes, mut mark, mut all) = (Vec::new(), 0_u32, 0);
        for (number, entry) in (1_u64..).zip(Log::open(&self.log)) {
            all = number;
            match entry.mark.as_deref() {
                Some("end") => break,
                Some(text) => mark = text.parse().expect("a mark of ours"),
                None => {}
            }
            if entry.flags & (FLUSH | FUA) != 0 {
                flushes.push((number, mark));
            }
        }
        // Before the first mark there is no store.
        let first = flushes.iter().position(|(_, mark)| *mark > 0);
        let first = first.expect("flushes after a mark");
        let (total, left) = (flushes.len(), flushes.len() - first);
        println!("{all} entries, {total} flushes, {left} of them with a store; {mark} marks");
        let mut rng = Rng::new(self.seed);
        let count = self.count.min(left);
        for part in 0..count {
            let (from, to) = (part * left / count, (part + 1) * left / count);
            let at = first + from + rng.below((to - from) as u64) as usize;
            let next = flushes.get(at + 1).map_or(flushes[at].0, |next| next.0 - 1);
            println!("{} {next} {}", flushes[at].0, flushes[at].1);
        }
    }
}

/// Writes entries to an image.
#[derive(Args)]
pub struct Replay {
    #[arg(long)]
    log: PathBuf,
    #[arg(long)]
    image: PathBuf,
    /// Entries that are in the image already
    #[arg(long)]
    from: u64,
    /// Entries that are to be in it
    #[arg(long)]
    to: u64,
    /// Leaves out some of them, by chance
    #[arg(long)]
    some: Option<u64>,
}

impl Replay {
    /// Does it.
    pub fn run(&self) {
        let log = Log::open(&self.log);
        let source = File::open(&self.log).expect("the log");
        let image = OpenOptions::new().write(true).open(&self.image);
        let image = image.expect("the image");
        let mut rng = self.some.map(|seed| Rng::new(seed ^ self.from));
        let wanted = (self.to - self.from) as usize;
        for entry in log.skip(self.from as usize).take(wanted) {
            // What carries FUA is durable when it completes.
            let droppable = entry.flags & FUA == 0;
            if droppable && rng.as_mut().is_some_and(|rng| rng.chance(2)) {
                continue;
            }
            let len = (entry.sectors * SECTOR) as usize;
            if entry.mark.is_some() || len == 0 {
                continue;
            }
            let mut bytes = vec![0; len];
            if entry.flags & DISCARD == 0 {
                source
                    .read_exact_at(&mut bytes, entry.data)
                    .expect("its data");
            }
            image
                .write_all_at(&bytes, entry.sector * SECTOR)
                .expect("the image takes it");
        }
    }
}
