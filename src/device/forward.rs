//! Reads that go forward in small steps, made in large pieces past the host's memory.

use super::{AlignedBuf, Device, DeviceError};
use crate::base::BLOCK;

/// What is read first, and after a jump.
const FIRST: usize = 64 << 10;
/// What is read at a time at the most.
const MOST: usize = 1 << 20;

/// Reads a device for someone who mostly goes forward, record by record, and looks at one or two other
/// places on the way.
///
/// What comes is read ahead, the further the longer it goes on. It comes from the medium, and not
/// through the host's page cache: a page that the host does not have costs more there than the
/// transfer. A piece that can't be read as a whole is left to the host, and only the bytes that
/// were asked for have to be readable.
///
/// It knows nothing of writes: the device has to be left alone meanwhile.
#[derive(Default)]
pub struct ForwardReader {
    /// The one that goes forward, and those for the other places; the one that was not used for longest
    /// goes to the next place.
    pieces: [Piece; 3],
}

/// Bytes of the device.
#[derive(Default)]
struct Piece {
    buf: Option<AlignedBuf>,
    at: u64,
    /// How many there are.
    len: usize,
    /// Whether they could not be read as a whole. That is not tried twice, since a device may take long
    /// to say so.
    unreadable: bool,
    /// When it was last used.
    used: u64,
}

impl ForwardReader {
    /// Fills `out` from `offset` of this device, which has to be the same one each time.
    ///
    /// # Errors
    /// As [`Device::read_at`].
    pub fn read(
        &mut self,
        device: &dyn Device,
        out: &mut [u8],
        offset: u64,
    ) -> Result<(), DeviceError> {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let Some(bytes) = self.bytes_from(device, at) else {
                return device.read_at(&mut out[done..], at);
            };
            let count = bytes.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&bytes[..count]);
            done += count;
        }
        Ok(())
    }

    /// Some bytes from a place on; none where the piece around it can't be read.
    fn bytes_from(&mut self, device: &dyn Device, at: u64) -> Option<&[u8]> {
        let now = 1 + self.pieces.iter().map(|piece| piece.used).max()?;
        let find = |is: &dyn Fn(&Piece) -> bool| self.pieces.iter().position(is);
        let there = find(&|piece| piece.has(at));
        let number = there.or_else(|| find(&|piece| piece.ends_at(at)));
        let piece = match number {
            Some(number) => &mut self.pieces[number],
            None => self.pieces.iter_mut().min_by_key(|piece| piece.used)?,
        };
        if there.is_none() {
            piece.fill(device, at);
        }
        piece.used = now;
        let skipped = usize::try_from(at.checked_sub(piece.at)?).ok()?;
        let bytes = piece.buf.as_deref()?.get(skipped..piece.len)?;
        (!piece.unreadable && !bytes.is_empty()).then_some(bytes)
    }
}

impl Piece {
    fn has(&self, at: u64) -> bool {
        (self.at..self.end()).contains(&at)
    }

    /// Whether reading on here is going forward.
    fn ends_at(&self, at: u64) -> bool {
        self.len > 0 && at == self.end()
    }

    fn end(&self) -> u64 {
        self.at + self.len as u64
    }

    /// Reads what is there.
    fn fill(&mut self, device: &dyn Device, at: u64) {
        let wanted = match self.ends_at(at) && !self.unreadable {
            true => (self.len * 2).min(MOST),
            false => FIRST,
        };
        self.at = at - at % BLOCK as u64;
        let left = device.len().saturating_sub(self.at);
        self.len = usize::try_from(left).map_or(wanted, |left| left.min(wanted));
        let buf = self.buf.get_or_insert_with(|| AlignedBuf::new(MOST));
        let read = device.read_uncached(&mut buf[..self.len], self.at);
        self.unreadable = read.is_err();
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;

    use super::super::{FaultDevice, MemoryDevice, Operation};
    use super::*;

    const LEN: usize = 9 << 20;

    fn device() -> (Arc<MemoryDevice>, Vec<u8>) {
        let bytes: Vec<u8> = (0..LEN + 100).map(|at| (at / 7) as u8).collect();
        let device = MemoryDevice::new("d", bytes.len() as u64);
        device.write_at(&[IoSlice::new(&bytes)], 0).unwrap();
        (Arc::new(device), bytes)
    }

    #[test]
    fn it_gives_what_the_device_has_wherever_it_is_asked() {
        let (device, bytes) = device();
        let mut reader = ForwardReader::default();
        let mut out = vec![0; 6 << 20];
        let mut places: Vec<(usize, usize)> = (0..2000).map(|n| (n * 4160, 4160)).collect();
        places.extend([(0, 1), (LEN, 100), (LEN + 99, 1), (100, 6 << 20), (0, 0)]);
        for (at, len) in places {
            reader
                .read(&*device, &mut out[..len], at as u64)
                .unwrap_or_else(|error| panic!("{at}+{len}: {error}"));
            assert_eq!(out[..len], bytes[at..at + len], "{at}+{len}");
        }
        assert!(
            reader
                .read(&*device, &mut out[..2], bytes.len() as u64 - 1)
                .is_err()
        );
    }

    /// Records of a size, read as the journal's reader does: the head and the rest, then, where the
    /// next one may be instead, at the next page and at the start. How often the device was read.
    fn reads_of(len: usize, page_each: bool) -> u64 {
        let (device, _) = device();
        let device = FaultDevice::new(device);
        let mut reader = ForwardReader::default();
        let mut out = vec![0; len];
        let mut at = 0;
        while at + 2 * len as u64 + 4096 <= LEN as u64 {
            reader.read(&device, &mut out[..128], at).unwrap();
            reader.read(&device, &mut out, at).unwrap();
            for other in [at.next_multiple_of(4096), 0] {
                reader.read(&device, &mut out[..128], other).unwrap();
            }
            at += len as u64;
            if page_each {
                at = at.next_multiple_of(4096);
            }
        }
        device.calls(Operation::Read)
    }

    #[test]
    fn it_reads_large_pieces_and_each_of_them_once() {
        // 64 KiB, twice as much each time up to 1 MiB, and now and then another place.
        for (len, page_each) in [
            (4160, false),
            (4160, true),
            (16_512, true),
            (33_000, true),
            (131_200, false),
            (200, false),
        ] {
            let reads = reads_of(len, page_each);
            assert!(reads <= 30, "{len}: {reads} reads of 9 MiB");
        }
    }

    #[test]
    fn of_what_can_not_be_read_as_a_piece_only_the_bad_bytes_are_lost() {
        let (device, bytes) = device();
        let device = FaultDevice::new(device);
        // At the start, and far from it.
        let bad = [10_000..10_512, 300_000..300_512];
        bad.iter().cloned().for_each(|bytes| device.lose(bytes));
        let mut reader = ForwardReader::default();
        let mut out = [0; 128];
        for at in (0..400_000).step_by(128) {
            for at in [at, 4096] {
                let touches = bad.iter().any(|bad| bad.start < at + 128 && at < bad.end);
                let read = reader.read(&device, &mut out, at);
                assert_eq!(read.is_err(), touches, "{at}");
                if !touches {
                    assert_eq!(out, bytes[at as usize..][..128]);
                }
            }
        }
        // What lies in a bad piece is read as it is asked for, once: the start each time, 64 KiB
        // from there, and the rest from 256 KiB on. All else comes in a few pieces.
        let asked = 400_000 / 128 + 512 + (400_000 - (256 << 10)) / 128;
        let reads = device.calls(Operation::Read);
        assert!(reads <= asked + 16, "{reads}, {asked} asked for");
    }
}
