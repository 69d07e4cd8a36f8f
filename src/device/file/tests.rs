use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::device::AlignedBuf;

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_new_file_is_sparse_private_and_reads_as_zeros() {
    let dir = temp();
    let path = dir.path().join("pool.img");
    let device = FileDevice::create(&path, 1 << 30, Fill::Sparse).unwrap();
    assert_eq!(device.len(), 1 << 30);
    assert!(device.allocated().unwrap() < 1 << 20);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let mut buf = [1; 4096];
    device.read_at(&mut buf, (1 << 30) - 4096).unwrap();
    assert_eq!(buf, [0; 4096]);
    let again = FileDevice::create(&path, 1 << 30, Fill::Sparse).unwrap_err();
    assert_eq!(again.errno(), Some(libc::EEXIST));
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), meta.ino());
}

#[test]
fn zeros_are_allocated_at_once() {
    let dir = temp();
    let path = dir.path().join("journal");
    let device = FileDevice::create(&path, (2 << 20) + 100, Fill::Zeros).unwrap();
    assert_eq!(device.len(), (2 << 20) + 100);
    assert!(device.allocated().unwrap() >= 2 << 20);
}

#[test]
fn what_is_written_is_read_back_after_opening_again() {
    let dir = temp();
    let path = dir.path().join("d");
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    {
        let device = FileDevice::create(&path, 1 << 20, Fill::Sparse).unwrap();
        let bufs: Vec<IoSlice<'_>> = bytes.chunks(100).map(IoSlice::new).collect();
        assert!(bufs.len() > 1024);
        device.write_at(&bufs, 4099).unwrap();
        device.sync().unwrap();
    }
    let device = FileDevice::open(&path, OpenMode::READ_ONLY).unwrap();
    let mut back = vec![0; bytes.len()];
    device.read_at(&mut back, 4099).unwrap();
    assert_eq!(back, bytes);
    let refused = device.write_at(&[IoSlice::new(b"x")], 0).unwrap_err();
    assert_eq!(refused.errno(), Some(libc::EBADF));
}

#[test]
fn a_punched_range_reads_as_zeros_and_is_given_back() {
    let dir = temp();
    let device = FileDevice::create(&dir.path().join("d"), 1 << 20, Fill::Zeros).unwrap();
    device
        .write_at(&[IoSlice::new(&vec![7; 1 << 20])], 0)
        .unwrap();
    device.sync().unwrap();
    let before = device.allocated().unwrap();
    if !device.punch(256 << 10, 512 << 10).unwrap() {
        eprintln!("skipped: the file system of the temporary directory has no holes");
        assert!(std::env::var_os("CI").is_none());
        return;
    }
    assert_eq!(before - device.allocated().unwrap(), 512 << 10);
    let mut buf = vec![1; 1 << 20];
    device.read_at(&mut buf, 0).unwrap();
    assert!(buf[..256 << 10].iter().all(|b| *b == 7));
    assert!(buf[256 << 10..768 << 10].iter().all(|b| *b == 0));
    assert!(buf[768 << 10..].iter().all(|b| *b == 7));
    assert!(device.punch(5, 0).unwrap());
}

#[test]
fn ranges_outside_are_refused_before_the_host_is_asked() {
    let dir = temp();
    let device = FileDevice::create(&dir.path().join("d"), 8192, Fill::Sparse).unwrap();
    let outside = |result: Result<(), DeviceError>| {
        assert!(matches!(result, Err(DeviceError::OutOfRange { .. })));
    };
    outside(device.read_at(&mut [0; 2], 8191));
    outside(device.write_at(&[IoSlice::new(b"ab")], 8191));
    outside(device.punch(0, 8193).map(drop));
    assert_eq!(device.len(), 8192);
}

#[test]
fn links_are_followed_only_where_asked_and_odd_files_never() {
    let dir = temp();
    let (file, link) = (dir.path().join("d"), dir.path().join("link"));
    FileDevice::create(&file, 4096, Fill::Sparse).unwrap();
    symlink(&file, &link).unwrap();
    let refused = FileDevice::open(&link, OpenMode::READ_WRITE).unwrap_err();
    assert!(refused.to_string().contains("link"), "{refused}");
    let followed = FileDevice::open(&link, OpenMode::READ_WRITE.following_links()).unwrap();
    assert_eq!(followed.len(), 4096);
    for odd in [dir.path(), Path::new("/dev/null")] {
        let refused = FileDevice::open(odd, OpenMode::READ_ONLY).unwrap_err();
        assert!(refused.to_string().contains("can't open"), "{refused}");
    }
    drop(followed);
    let other = dir.path().join("other");
    std::fs::hard_link(&file, &other).unwrap();
    let refused = FileDevice::open(&file, OpenMode::READ_WRITE).unwrap_err();
    assert!(refused.to_string().contains("hard link"), "{refused}");
    FileDevice::open(&file, OpenMode::READ_ONLY).unwrap();
    FileDevice::open(&file, OpenMode::READ_WRITE.following_links()).unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(FileDevice::open(&fifo, OpenMode::READ_ONLY).is_err());
}

#[test]
fn a_file_is_written_by_one_at_a_time() {
    let dir = temp();
    let path = dir.path().join("d");
    let made = FileDevice::create(&path, 4096, Fill::Sparse).unwrap();
    let second = FileDevice::open(&path, OpenMode::READ_WRITE).unwrap_err();
    assert!(second.to_string().contains("in use"), "{second}");
    drop(made);
    let first = FileDevice::open(&path, OpenMode::READ_WRITE).unwrap();
    let second = FileDevice::open(&path, OpenMode::READ_WRITE.following_links()).unwrap_err();
    assert!(second.to_string().contains("in use"), "{second}");
    FileDevice::open(&path, OpenMode::READ_ONLY).unwrap();
    drop(first);
    FileDevice::open(&path, OpenMode::READ_WRITE).unwrap();
}

#[test]
fn a_file_shortened_behind_our_back_is_an_error_not_a_short_read() {
    let dir = temp();
    let path = dir.path().join("d");
    let device = FileDevice::create(&path, 8192, Fill::Sparse).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let error = device.read_at(&mut [0; 8192], 0).unwrap_err();
    assert!(error.to_string().contains("shortened"), "{error}");
}

#[test]
fn a_failed_sync_is_remembered() {
    let dir = temp();
    let device = FileDevice::create(&dir.path().join("d"), 4096, Fill::Sparse).unwrap();
    device.sync().unwrap();
    device.syncs.run(|| Err(Errno::NOSPC)).unwrap_err();
    assert_eq!(device.sync().unwrap_err().errno(), Some(libc::EIO));
}

/// The host tells one of them alone.
#[test]
fn a_sync_that_fails_fails_for_those_who_sync_meanwhile() {
    let syncs = Syncs::default();
    let (begun, wait) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            syncs.run(|| {
                begun.send(()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(200));
                Err(Errno::IO)
            })
        });
        wait.recv().unwrap();
        assert_eq!(syncs.run(|| Ok(())), Err(Errno::IO));
        assert_eq!(first.join().unwrap(), Err(Errno::IO));
    });
}

/// A loop device over a file, detached when dropped.
struct Loop(PathBuf);

impl Loop {
    /// Nothing where loop devices can't be made here; with `CI` set that is a failure.
    fn over(file: &Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output();
        let path = match output {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }
            other => {
                eprintln!("skipped: needs root and losetup: {other:?}");
                assert!(std::env::var_os("CI").is_none(), "losetup does not work");
                return None;
            }
        };
        Some(Self(path.into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn a_block_device_is_opened_exclusively_and_punched() {
    let dir = temp();
    let backing = dir.path().join("backing");
    FileDevice::create(&backing, 8 << 20, Fill::Zeros).unwrap();
    let Some(looped) = Loop::over(&backing) else {
        return;
    };
    let device = FileDevice::open(&looped.0, OpenMode::READ_WRITE).unwrap();
    assert!(device.is_block_device());
    assert_eq!(device.len(), 8 << 20);
    assert_eq!(device.allocated().unwrap(), 8 << 20);
    let busy = FileDevice::open(&looped.0, OpenMode::READ_WRITE).unwrap_err();
    assert_eq!(busy.errno(), Some(libc::EBUSY));
    FileDevice::open(&looped.0, OpenMode::READ_ONLY).unwrap();

    device
        .write_at(&[IoSlice::new(&vec![7; 1 << 20])], 1 << 20)
        .unwrap();
    device.sync().unwrap();
    let mut buf = vec![1; 1 << 20];
    if device.punch(1 << 20, 512 << 10).unwrap() {
        device.read_at(&mut buf, 1 << 20).unwrap();
        assert!(buf[..512 << 10].iter().all(|b| *b == 0));
        assert!(buf[512 << 10..].iter().all(|b| *b == 7));
    }
    // As on a disk that can discard but not zero.
    device.can_punch.store(false, Ordering::Relaxed);
    assert!(!device.punch(2 << 20, 512 << 10).unwrap());
    drop(device);
}

/// Another content in the host's cache than on the disk, as after a write that the host lost: here
/// the disk is a file that changes beneath a loop device.
#[test]
fn what_the_host_keeps_and_the_disk_has_not_is_forgotten() {
    let dir = temp();
    let backing = dir.path().join("backing");
    drop(FileDevice::create(&backing, 8 << 20, Fill::Zeros).unwrap());
    let Some(looped) = Loop::over(&backing) else {
        return;
    };
    // The host's cache of a block device goes with the last who has it open.
    let _other = File::open(&looped.0).unwrap();
    let device = FileDevice::open(&looped.0, OpenMode::READ_WRITE).unwrap();
    let (start, far) = (0, 4 << 20);
    let read = |at| {
        let mut byte = [9];
        device.read_at(&mut byte, at).unwrap();
        byte[0]
    };
    assert_eq!((read(start), read(far)), (0, 0));
    std::fs::write(&backing, vec![1; 8 << 20]).unwrap();
    assert_eq!(
        (read(start), read(far)),
        (0, 0),
        "it is in the host's cache"
    );
    device.sync_and_forget(4096).unwrap();
    assert_eq!(
        (read(start), read(far)),
        (1, 0),
        "no more than was asked for"
    );
    device.sync_and_forget(device.len()).unwrap();
    assert_eq!((read(start), read(far)), (1, 1));
}

#[test]
fn a_read_past_the_page_cache_gives_what_was_just_written() {
    use crate::device::AlignedBuf;
    let dir = temp();
    let device = FileDevice::create(&dir.path().join("d"), 1 << 20, Fill::Sparse).unwrap();
    let mut buf = AlignedBuf::new(8192);
    for round in 1..4u8 {
        device
            .write_at(&[IoSlice::new(&[round; 8192])], 4096)
            .unwrap();
        device.read_uncached(&mut buf, 4096).unwrap();
        assert!(buf.iter().all(|byte| *byte == round));
    }
    // What is not aligned is read all the same.
    let mut odd = [0; 100];
    device.read_uncached(&mut odd, 4100).unwrap();
    assert_eq!(odd, [3; 100]);
    device.read_uncached(&mut buf, 100).unwrap();
    assert_eq!((buf[0], buf[8191]), (0, 3));
    assert!(device.read_uncached(&mut buf, 1 << 20).is_err());
}

/// Many writes at once, whether the host can do that past its page cache or not; over what it has in
/// memory, and into holes.
#[test]
fn many_writes_at_once_are_seen_by_everyone() {
    let dir = temp();
    let path = dir.path().join("d");
    let device = FileDevice::create(&path, 4 << 20, Fill::Sparse).unwrap();
    device
        .write_at(&[IoSlice::new(&vec![9; 1 << 20])], 1 << 20)
        .unwrap();
    let mut data = AlignedBuf::new(256 * BLOCK);
    for (at, block) in data.chunks_exact_mut(BLOCK).enumerate() {
        block.fill(at as u8);
    }
    let blocks: Vec<&[u8]> = data.chunks_exact(BLOCK).collect();
    // Every other two blocks, backwards.
    let bufs: Vec<[IoSlice<'_>; 2]> = (0..100)
        .map(|at| [IoSlice::new(blocks[at]), IoSlice::new(blocks[at + 100])])
        .collect();
    let offset = |at: usize| ((900 - 4 * at) * BLOCK) as u64;
    let write = |(at, bufs)| Write {
        offset: offset(at),
        bufs,
    };
    let list: Vec<Write<'_>> = bufs
        .iter()
        .map(|bufs| &bufs[..])
        .enumerate()
        .map(write)
        .collect();
    device.write_each(&list).unwrap();
    // And some whose memory or place the host takes through its cache alone.
    let odd = [IoSlice::new(&data[1..4098])];
    let last = (4 << 20) - 4097;
    let list = [
        list[5],
        Write {
            offset: last,
            bufs: &odd,
        },
    ];
    device.write_each(&list).unwrap();
    device.sync().unwrap();
    let taken = device.queue.lock().is_some();
    assert_eq!(taken, device.direct().is_some(), "not many at once");
    let seen = std::fs::read(&path).unwrap();
    for at in 0..100 {
        let found = &seen[offset(at) as usize..][..2 * BLOCK];
        assert_eq!(found[..BLOCK], *blocks[at]);
        assert_eq!(found[BLOCK..], *blocks[at + 100]);
    }
    // What lies between is as it was.
    assert_eq!(seen[300 * BLOCK + 2 * BLOCK..][..2 * BLOCK], [9; 2 * BLOCK]);
    assert_eq!(seen[last as usize..], data[1..4098]);
    assert!(device.write_each(&[]).is_ok());
}

#[test]
fn one_write_of_many_that_fails_is_named() {
    let dir = temp();
    let device = FileDevice::create(&dir.path().join("d"), 1 << 20, Fill::Sparse).unwrap();
    let data = AlignedBuf::new(BLOCK);
    let bufs = [IoSlice::new(&data)];
    let [inside, outside] = [0, 1 << 20].map(|offset| Write {
        offset,
        bufs: &bufs,
    });
    let error = device.write_each(&[inside, outside]).unwrap_err();
    assert!(error.to_string().contains("1048576"), "{error}");
}

#[test]
fn reading_ahead_is_possible_up_to_the_end() {
    let dir = temp();
    let device = FileDevice::create(&dir.path().join("d"), 1 << 20, Fill::Zeros).unwrap();
    assert!(device.prefetch(4096, 1 << 20));
    assert!(device.prefetch(2 << 20, 1));
}
