//! What is done to the store while its device is logged.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use clap::Args;

use crate::record::{Mark, NEVER, Record, Span, Taken, plan_of};
use crate::torture::stamps::{Buffer, Rng, Writer, open_direct};
use crate::torture::{Served, is_full};

/// The shared disks.
pub const DISKS: [&str; 2] = ["a.img", "b.img"];
/// Snapshots that are kept.
const KEPT: usize = 12;

/// Writes.
#[derive(Args)]
pub struct Write {
    /// A directory on the logged device, which is made
    #[arg(long)]
    dir: PathBuf,
    /// A file outside of it
    #[arg(long)]
    record: PathBuf,
    /// The device's name for dmsetup
    #[arg(long)]
    device: String,
    /// How long each of three parts is
    #[arg(long)]
    seconds: u64,
    #[arg(long)]
    seed: u64,
}

/// What the threads share.
struct Load {
    served: Served,
    writers: Vec<Writer>,
    times: Vec<Mutex<Vec<Span>>>,
    snapshots: Mutex<Vec<Taken>>,
    marks: Mutex<Vec<Mark>>,
    tick: AtomicU64,
    /// All that was acknowledged before this tick is durable.
    durable: AtomicU64,
    over: AtomicBool,
}

impl Load {
    fn now(&self) -> u64 {
        self.tick.fetch_add(1, SeqCst)
    }

    fn goes_on(&self) -> bool {
        !self.over.load(SeqCst)
    }

    fn open(&self) -> Vec<File> {
        let open = |name: &str| open_direct(&self.served.file(name), true).expect("a disk");
        DISKS.map(open).into()
    }

    fn write(&self, number: usize, seed: u64) {
        let (writer, disks) = (&self.writers[number], self.open());
        let (mut rng, mut buffer) = (Rng::new(seed), Buffer::new(1 << 16));
        while self.goes_on() {
            let begun = self.now();
            let times = || self.times[number].lock().expect("no panic");
            times().push(Span {
                begun,
                acked: NEVER,
            });
            if let Err(error) = writer.step(&disks, &mut rng, &mut buffer) {
                assert!(is_full(&error), "{error}");
            }
            let acked = self.now();
            times().last_mut().expect("it was just pushed").acked = acked;
            if rng.chance(40) {
                let before = self.now();
                disks[rng.below(2) as usize].sync_data().expect("a sync");
                self.durable.fetch_max(before, SeqCst);
            }
        }
    }

    fn command(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        while self.goes_on() {
            let kept: Vec<usize> = {
                let snapshots = self.snapshots.lock().expect("no panic");
                let there = |at: &usize| snapshots[*at].deleted.is_none();
                (0..snapshots.len()).filter(there).collect()
            };
            if kept.len() > KEPT || (!kept.is_empty() && rng.chance(4)) {
                self.delete(kept[rng.below(kept.len() as u64) as usize]);
            } else {
                self.take(&mut rng);
            }
            std::thread::sleep(Duration::from_millis(rng.below(60)));
        }
    }

    fn take(&self, rng: &mut Rng) {
        let disks = [vec![0], vec![1], vec![0, 1]][rng.below(3) as usize].clone();
        let mut bounds: Vec<_> = self.writers.iter().map(Writer::progress).collect();
        let begun = self.now();
        let name = format!("s{begun}");
        let names: Vec<&str> = disks.iter().map(|disk| DISKS[*disk as usize]).collect();
        let line = format!("snapshot {} {name}\n", names.join(","));
        self.served.control(&line).expect("a snapshot");
        let acked = self.now();
        // As durable as an fsynced write, and so is all before it.
        self.durable.fetch_max(begun, SeqCst);
        for (bound, writer) in bounds.iter_mut().zip(&self.writers) {
            bound.begun = writer.progress().begun;
        }
        self.snapshots.lock().expect("no panic").push(Taken {
            name,
            disks,
            span: Span { begun, acked },
            bounds,
            deleted: None,
        });
    }

    fn delete(&self, at: usize) {
        let taken = self.snapshots.lock().expect("no panic")[at].clone();
        let begun = self.now();
        for disk in &taken.disks {
            let file = format!("{}@{}", DISKS[*disk as usize], taken.name);
            std::fs::remove_file(self.served.file(&file)).expect("a snapshot");
        }
        let acked = self.now();
        let mut snapshots = self.snapshots.lock().expect("no panic");
        snapshots[at].deleted = Some(Span { begun, acked });
    }

    /// Puts a mark into the device's log: what is durable now is durable from there on.
    fn mark(&self, device: &str) {
        let mark = Mark {
            all: self.durable.load(SeqCst),
            snapshots: self.acked_snapshots(),
        };
        let mut marks = self.marks.lock().expect("no panic");
        marks.push(mark);
        let number = marks.len().to_string();
        let dmsetup = Command::new("dmsetup")
            .args(["message", device, "0", "mark", &number])
            .status();
        assert!(dmsetup.expect("dmsetup").success());
    }

    fn acked_snapshots(&self) -> u64 {
        let snapshots = self.snapshots.lock().expect("no panic");
        snapshots.last().map_or(0, |taken| taken.span.acked + 1)
    }

    /// All at once for a while.
    fn run(&self, seconds: u64, seed: u64, device: &str) {
        self.over.store(false, SeqCst);
        std::thread::scope(|scope| {
            for number in 0..self.writers.len() {
                scope.spawn(move || self.write(number, seed + number as u64));
            }
            scope.spawn(move || self.command(seed + 100));
            scope.spawn(move || {
                while self.goes_on() {
                    self.mark(device);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            std::thread::sleep(Duration::from_secs(seconds));
            self.over.store(true, SeqCst);
        });
    }
}

impl Write {
    /// Does it.
    pub fn run(&self) {
        let plan = plan_of(self.seed, 3, 768);
        let program = std::env::current_exe().expect("this program");
        std::fs::create_dir_all(&self.dir).expect("a directory");
        // Segments as small as may be, so that there are many, and writes that cover one whole.
        let options = "--size 96MiB --cache-size 4MiB --journal-size 8MiB --segment 64KiB";
        let options: Vec<String> = options.split(' ').map(str::to_owned).collect();
        let served = Served::init(&program, &self.dir, &options);
        served.mount();
        for name in DISKS {
            let disk = File::create_new(served.file(name)).expect("a new disk");
            disk.set_len(plan.disk_bytes()).expect("a size");
            disk.sync_all().expect("a sync");
        }
        let load = Load {
            served,
            writers: Writer::all(plan),
            times: (0..plan.writers).map(|_| Mutex::default()).collect(),
            snapshots: Mutex::default(),
            marks: Mutex::default(),
            tick: AtomicU64::new(1),
            durable: AtomicU64::new(0),
            over: AtomicBool::new(false),
        };
        load.run(self.seconds, self.seed, &self.device);
        load.served.unmount();
        load.mark(&self.device);
        load.served.mount();
        load.run(self.seconds, self.seed + 1000, &self.device);
        // Nobody waits for an answer: the record stays exact.
        load.served.kill();
        load.served.wait();
        load.served.mount();
        load.run(self.seconds, self.seed + 2000, &self.device);
        load.served.unmount();
        load.mark(&self.device);
        self.record(&load, plan);
    }

    fn record(&self, load: &Load, plan: crate::torture::stamps::Plan) {
        let of = |(writer, times): (&Writer, &Mutex<Vec<Span>>)| {
            let times = times.lock().expect("no panic").clone();
            writer.operations().into_iter().zip(times).collect()
        };
        let record = Record {
            plan,
            operations: load.writers.iter().zip(&load.times).map(of).collect(),
            snapshots: load.snapshots.lock().expect("no panic").clone(),
            marks: load.marks.lock().expect("no panic").clone(),
        };
        record.write(&self.record);
        println!(
            "written: {} operations, {} snapshots, {} marks",
            record.operations.iter().map(Vec::len).sum::<usize>(),
            record.snapshots.len(),
            record.marks.len()
        );
    }
}
