//! The main job of Snapmark in half a minute: `cargo run --release --example quickstart`.
//!
//! Makes a store in a temporary directory, mounts it, puts an ext4 on a disk through a loop
//! device, copies a real tree into it, takes snapshots while the copy goes on, deletes files, and
//! proves by checksums what each snapshot holds. A probe writes to another disk of the same mount
//! all the while and measures how long any write waited. Everything is gone again at the end.
//!
//! Without root, loop devices or mkfs.ext4 the same is done on the disk's file itself.
//!
//! With arguments this is the `snapmark` program: so the daemon is a process of its own, as it
//! is in earnest, and nothing has to be installed first.

mod lab;
mod probe;
mod story;
mod tree;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        return snapmark::cli::main();
    }
    match story::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}
