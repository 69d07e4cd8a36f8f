//! The log: commits since the last checkpoint.

use std::io::IoSlice;
use std::sync::Arc;

use super::CatalogError;
use crate::base::Geometry;
use crate::device::Device;
use crate::ondisk::{FormatError, FrameHeader, PAGE, encode_frame};

const PAGE_BYTES: u64 = PAGE as u64;
/// How much of the log is read at a time when it is searched for frames.
const SEARCH: usize = 1 << 20;

/// The log.
///
/// A frame a commit, one behind the other from byte 0, each on pages of its own. A generation
/// starts with a frame without changes that carries the number of the root's commit: it is written
/// once that root is durable, so a log that has it proves that there was such a root. After that
/// the frames' commits are numbered without a gap.
///
/// One frame at most is not known to be durable at any time, the last. Hence, what follows from a
/// frame that does not check: no whole frame of the same generation comes after it, and the commit
/// never returned; or one does, and the log is damaged.
pub(crate) struct Log {
    device: Arc<dyn Device>,
    uuid: [u8; 16],
    geometry: Geometry,
    /// The generation of the root that the frames add to.
    generation: u64,
    /// Where the next frame goes; a multiple of the page size, `<= capacity`.
    tail: u64,
    capacity: u64,
    /// Part of a frame that found no space, or all of it, may lie at `tail`, where the next one
    /// goes.
    torn: bool,
}

/// The frames that a log holds for a root.
pub(crate) struct Found {
    /// Offset and header of each frame of the generation, by offset.
    frames: Vec<(u64, FrameHeader)>,
    /// The newest generation of any frame of this store.
    pub(crate) newest: Option<u64>,
}

impl Log {
    /// The least bytes that a log can have.
    pub(crate) const MIN: u64 = 4 * PAGE_BYTES;

    /// The log of a store, about to go on from a root of this generation.
    pub(crate) fn new(
        device: Arc<dyn Device>,
        uuid: [u8; 16],
        geometry: Geometry,
        generation: u64,
    ) -> Self {
        let capacity = device.len() / PAGE_BYTES * PAGE_BYTES;
        Self {
            device,
            uuid,
            geometry,
            generation,
            tail: 0,
            capacity,
            torn: false,
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> u64 {
        self.tail
    }

    /// Whether the generation has no commits yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.tail <= PAGE_BYTES
    }

    /// Whether a frame of so many bytes fits.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        len as u64 <= self.capacity - self.tail
    }

    /// Appends a frame, which has room, and makes it durable. Where the host has no space for it
    /// ([`CatalogError::NoRoom`]), another one may be appended instead: it goes to the same place.
    pub(crate) fn append(&mut self, frame: &[u8]) -> Result<(), CatalogError> {
        self.write(frame)?;
        self.device.sync()?;
        self.torn = false;
        self.tail += frame.len() as u64;
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), CatalogError> {
        match self.device.write_at(&[IoSlice::new(frame)], self.tail) {
            Err(error) if error.is_no_space() => {
                self.torn = true;
                Err(CatalogError::NoRoom(error))
            }
            done => Ok(done?),
        }
    }

    /// Makes sure that a frame that found no space does not come back with a crash: it may have
    /// been written whole.
    pub(crate) fn withdraw(&mut self) -> Result<(), CatalogError> {
        if self.torn {
            self.write(&[0; PAGE])?;
            self.device.sync()?;
            self.torn = false;
        }
        Ok(())
    }

    /// Starts a generation, whose root is durable and includes this commit.
    pub(crate) fn start(&mut self, generation: u64, commit: u64) -> Result<(), CatalogError> {
        let opening = encode_frame(self.uuid, generation, commit, &[], self.geometry)?;
        (self.generation, self.tail) = (generation, 0);
        // The root is there, and commits would be lost that went to the old generation.
        self.append(&opening).map_err(|error| match error {
            CatalogError::NoRoom(error) => CatalogError::Device(error),
            error => error,
        })
    }

    /// Searches the whole log for frames.
    pub(crate) fn search(&self) -> Result<Found, CatalogError> {
        let mut found = Found {
            frames: Vec::new(),
            newest: None,
        };
        let mut bytes = vec![0; SEARCH];
        let mut offset = 0;
        while offset < self.capacity {
            let len = SEARCH.min((self.capacity - offset) as usize);
            self.device.read_at(&mut bytes[..len], offset)?;
            for page in bytes[..len].chunks_exact(PAGE) {
                match FrameHeader::decode(page) {
                    Ok(header) if header.uuid == self.uuid => {
                        found.newest = found.newest.max(Some(header.generation));
                        if header.generation == self.generation {
                            found.frames.push((offset, header));
                        }
                    }
                    _ => {}
                }
                offset += PAGE_BYTES;
            }
        }
        Ok(found)
    }

    /// Hands each commit after the root's to `apply`, in order, with its offset. Returns the
    /// number of the last one, or `None` where the generation was never started.
    pub(crate) fn replay(
        &mut self,
        found: &Found,
        root_commit: u64,
        mut apply: impl FnMut(u64, FrameHeader, &[u8]) -> Result<(), CatalogError>,
    ) -> Result<Option<u64>, CatalogError> {
        let mut last = None;
        let mut expected = root_commit;
        while let Some(header) = found.at(self.tail, expected) {
            let len = header.frame_len();
            if len > self.capacity - self.tail {
                break;
            }
            let mut frame = vec![0; len as usize];
            self.device.read_at(&mut frame, self.tail)?;
            match header.verify(&frame) {
                Ok(()) => apply(self.tail, header, &frame)?,
                Err(_) => break,
            }
            last = Some(expected);
            expected += 1;
            self.tail += len;
        }
        match found.after(self.tail, expected) {
            Some(later) => Err(CatalogError::LogDamaged {
                device: self.device.name().to_owned(),
                offset: self.tail,
                commit: expected,
                later,
            }),
            None => Ok(last),
        }
    }

    /// Makes what was found in the log durable: the program that wrote it may have been killed
    /// before it could.
    pub(crate) fn sync(&self) -> Result<(), CatalogError> {
        Ok(self.device.sync()?)
    }

    pub(crate) fn name(&self) -> &str {
        self.device.name()
    }

    /// The frame of a commit.
    pub(crate) fn frame(
        &self,
        commit: u64,
        changes: &[crate::ondisk::Change],
    ) -> Result<Vec<u8>, FormatError> {
        encode_frame(self.uuid, self.generation, commit, changes, self.geometry)
    }
}

impl Found {
    fn at(&self, offset: u64, commit: u64) -> Option<FrameHeader> {
        let at = self
            .frames
            .binary_search_by_key(&offset, |(offset, _)| *offset);
        let header = self.frames[at.ok()?].1;
        (header.commit == commit).then_some(header)
    }

    /// The commit of a frame that should not be there, if one at `offset` with the number
    /// `expected` is the one that a crash may have torn.
    fn after(&self, offset: u64, expected: u64) -> Option<u64> {
        let stray = |(at, header): &&(u64, FrameHeader)| {
            *at > offset || (*at == offset && header.commit != expected)
        };
        self.frames
            .iter()
            .find(stray)
            .map(|(_, header)| header.commit)
    }
}
