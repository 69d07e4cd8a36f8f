//! What the serving process asks of the kernel for itself.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Settles limits and the process's place in memory reclaim. What is not allowed is left as it
/// is: it costs safety margin, not function.
pub fn prepare() {
    raise_open_files();
    mark_io_flusher();
    #[cfg(target_env = "gnu")]
    bound_allocator();
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

/// The kernel may wait for this process to write dirty pages back (a loop device over one of its
/// disks); its own allocations must then not wait for that same write-back. `PR_SET_IO_FLUSHER`
/// is made for this (prctl(2), Linux 5.6); it needs `CAP_SYS_RESOURCE`.
fn mark_io_flusher() {
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        log::debug!("not marked as an I/O flusher: {error}");
    }
}
