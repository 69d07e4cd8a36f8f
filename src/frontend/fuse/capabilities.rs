//! What is agreed with the kernel at the start.

use fuser::{InitFlags, KernelConfig};

use super::FuseOptions;

/// The largest write or read in one request, in bytes. The kernel has its own limit, 1 MiB unless
/// `fs.fuse.max_pages_limit` says more.
const MAX_REQUEST: u32 = 1 << 20;

/// What is asked for where the kernel offers it. Left out with reasons:
/// - `WRITEBACK_CACHE`: dirty pages in the kernel would be missing from snapshots.
/// - `ATOMIC_O_TRUNC`: an open that truncates sends a `SETATTR` anyway, which goes to a worker.
/// - `POSIX_LOCKS`, `FLOCK_LOCKS`: the kernel keeps locks by itself, as all users are on this host.
/// - `HANDLE_KILLPRIV_V2`, `SETXATTR_EXT`, `SECURITY_CTX`, `CREATE_SUPP_GROUP`, `ALLOW_IDMAP`,
///   `OVER_IO_URING`, `REQUEST_TIMEOUT`, `HAS_RESEND`: they change the protocol in ways that
///   the FUSE library does not follow.
const WANTED: [InitFlags; 5] = [
    // Direct reads and writes are split and sent at once instead of one after the other.
    InitFlags::FUSE_ASYNC_DIO,
    // Shared mappings of files that are open for direct I/O.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    // Pages of a mapping go when a command or another frontend changed the disk.
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_MAX_PAGES,
];

/// Settles capabilities and limits.
pub(super) fn negotiate(config: &mut KernelConfig, options: &FuseOptions) {
    for capability in WANTED {
        if config.add_capabilities(capability).is_err() {
            log::info!("this kernel does not offer {capability:?}; going on without");
        }
    }
    // The setters refuse zero and what is out of range; neither can be here.
    let _ = config.set_max_write(MAX_REQUEST);
    let _ = config.set_max_background(options.max_background.max(1));
}
