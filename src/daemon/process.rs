//! What the serving process asks of the kernel for itself.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What an administrator should hear of, once it is clear that the process serves.
#[must_use]
pub struct Prepared {
    /// Why the process is not marked as an I/O flusher.
    unmarked: Option<Errno>,
}

impl Prepared {
    /// Says what is missing.
    pub fn report(&self) {
        // Loop devices are root's.
        if let Some(errno) = self
            .unmarked
            .filter(|_| rustix::process::geteuid().is_root())
        {
            log::warn!(
                "not marked as an I/O flusher ({errno}): with a loop device over a disk this process may wait for itself when memory is short; it needs CAP_SYS_RESOURCE, and in a container has to be given it"
            );
        }
    }
}

/// Settles limits and the process's place in memory reclaim, before it has threads. What is not
/// allowed is left as it is: it costs safety margin, not function.
pub fn prepare() -> Prepared {
    raise_open_files();
    let unmarked = mark_io_flusher().err();
    spare_from_oom_killer();
    #[cfg(target_env = "gnu")]
    bound_allocator();
    Prepared { unmarked }
}

/// Gives freed memory back to the system (P10): buffers of a block or more are mapped and unmapped
/// one by one, and few arenas keep what the many threads have freed.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc's knobs have no safe wrapper")]
fn bound_allocator() {
    const MAPPED_FROM: libc::c_int = 64 << 10;
    const ARENAS: libc::c_int = 2;
    // SAFETY: mallopt only sets two numbers of the allocator, and may be called at any time.
    let set = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM) == 1
            && libc::mallopt(libc::M_ARENA_MAX, ARENAS) == 1
    };
    if !set {
        log::debug!("the allocator keeps its defaults");
    }
}

/// As many descriptors as may be had: each thread and each device takes some.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit of open files stays at {limit:?}: {error}");
    }
}

/// Asks to be killed last when memory runs out: with this process all go that have its disks in
/// use, and memory may be short because of what waits for it to be written. Only where nobody
/// has decided otherwise; it needs `CAP_SYS_RESOURCE`.
///
/// Its memory is not locked: without swap none of it but the program itself can go, and that is
/// read back from a file system that is none of its own. Swap on a disk of the store is a circle
/// that locking the cache alone would not break.
fn spare_from_oom_killer() {
    const FILE: &str = "/proc/self/oom_score_adj";
    const LAST: &str = "-900";
    let set = std::fs::read_to_string(FILE).and_then(|now| match now.trim() {
        "0" => std::fs::write(FILE, LAST),
        _ => Ok(()),
    });
    if let Err(error) = set {
        log::debug!("the OOM killer treats this process as any other: {error}");
    }
}

/// The kernel may wait for this process to write dirty pages back (a loop device over one of its
/// disks); its own allocations must then not wait for that same write-back. `PR_SET_IO_FLUSHER`
/// is made for this (prctl(2), Linux 5.6); it needs `CAP_SYS_RESOURCE`.
fn mark_io_flusher() -> Result<(), Errno> {
    rustix::process::configure_io_flusher_behavior(true)
}
