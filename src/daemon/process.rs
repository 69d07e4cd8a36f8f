//! What the serving process asks of the kernel for itself.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Settles limits and the process's place in memory reclaim. What is not allowed is left as it
/// is: it costs safety margin, not function.
pub fn prepare() {
    raise_open_files();
    mark_io_flusher();
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
