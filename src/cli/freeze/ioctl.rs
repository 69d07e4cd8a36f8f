//! The three ioctls that there is no safe wrapper for. All `unsafe` of the CLI is here.
#![allow(unsafe_code)] // ioctl(2) takes what each request says it takes; each is typed below.

use std::ffi::c_int;
use std::fs::File;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, NoArg, Opcode, ioctl, opcode};

/// `FIFREEZE` and `FITHAW` of linux/fs.h. Declared with an int that the kernel does not look at.
const FIFREEZE: Opcode = opcode::read_write::<c_int>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<c_int>(b'X', 120);
/// `LOOP_GET_STATUS64` of linux/loop.h.
const LOOP_GET_STATUS64: Opcode = 0x4C05;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    /// rdevice, offset, sizelimit.
    numbers: [u64; 3],
    /// number, encrypt_type, encrypt_key_size, flags.
    words: [u32; 4],
    /// file_name, crypt_name, encrypt_key.
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);

/// Freezes the file system that this directory lies on: what is dirty is written, and writers wait.
///
/// # Errors
/// EBUSY where it is frozen already, EOPNOTSUPP where it can't be, EPERM without CAP_SYS_ADMIN.
pub fn freeze(directory: &File) -> Result<()> {
    // SAFETY: FIFREEZE neither reads nor writes its argument.
    unsafe { ioctl(directory, NoArg::<FIFREEZE>::new()) }
}

/// Thaws it. One that is not frozen any more is no error.
///
/// # Errors
/// As the kernel gives them.
pub fn thaw(directory: &File) -> Result<()> {
    // SAFETY: FITHAW neither reads nor writes its argument.
    match unsafe { ioctl(directory, NoArg::<FITHAW>::new()) } {
        Err(Errno::INVAL) => Ok(()),
        result => result,
    }
}

/// Device and inode number of the file behind a loop device.
///
/// # Errors
/// ENXIO where it has none.
pub fn backing_file(loop_device: &File) -> Result<(u64, u64)> {
    // SAFETY: LOOP_GET_STATUS64 writes one struct loop_info64, which LoopInfo64 has the layout of
    // (size checked above), and every bit pattern of it is a value.
    let info = unsafe { ioctl(loop_device, Getter::<LOOP_GET_STATUS64, LoopInfo64>::new()) }?;
    Ok((info.device, info.inode))
}
