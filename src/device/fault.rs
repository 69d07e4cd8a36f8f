//! A device that fails when it is told to: for tests.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::range::{total, within};
use super::{Device, DeviceError, HostSpace, Operation};

/// Which calls a fault strikes, counted for each kind of operation from 1 when it was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This one alone.
    Nth(u64),
    /// Each whose number is a multiple of this.
    Every(u64),
    /// This one and all after it.
    From(u64),
}

impl When {
    fn strikes(self, call: u64) -> bool {
        match self {
            Self::Nth(n) => call == n,
            Self::Every(n) => n != 0 && call.is_multiple_of(n),
            Self::From(n) => call >= n,
        }
    }
}

/// What happens to a call that is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is done and this error number comes back.
    Fail(i32),
    /// Of a write only the first so many bytes are done, then this error number comes back.
    /// Other operations just fail.
    Short(u64, i32),
    /// It is done, but only after this time.
    Delay(Duration),
}

/// A planned fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is struck: reads, writes, syncs, punches or stats.
    pub operation: Operation,
    /// Which calls.
    pub when: When,
    /// What happens.
    pub effect: Effect,
}

/// A device over another that passes everything on, except where a [`Fault`] is planned.
pub struct FaultDevice {
    inner: Arc<dyn Device>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Faults, each with the number of calls of its kind since it was planned.
    plan: Vec<(Fault, u64)>,
    /// Calls since the start, by operation.
    calls: [u64; 6],
    /// Bytes that can't be read.
    unreadable: Vec<Range<u64>>,
}

impl FaultDevice {
    /// A device over `inner` that works, for now.
    #[must_use]
    pub fn new(inner: Arc<dyn Device>) -> Self {
        Self {
            inner,
            state: Mutex::default(),
        }
    }

    /// Plans a fault. Where several strike one call, the first planned has it.
    pub fn plan(&self, operation: Operation, when: When, effect: Effect) {
        let fault = Fault {
            operation,
            when,
            effect,
        };
        self.state.lock().plan.push((fault, 0));
    }

    /// Makes these bytes unreadable, as a bad sector's are: each read that touches one fails with `EIO`.
    pub fn lose(&self, bytes: Range<u64>) {
        self.state.lock().unreadable.push(bytes);
    }

    /// Forgets all planned faults, and what can't be read.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.plan.clear();
        state.unreadable.clear();
    }

    /// How many calls of this kind there were since the start, those that failed included.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.state.lock().calls[operation as usize]
    }

    /// Counts a call, and says what is to happen to it.
    fn strike(&self, operation: Operation) -> Option<Effect> {
        let mut state = self.state.lock();
        state.calls[operation as usize] += 1;
        let mut effect = None;
        for (fault, calls) in &mut state.plan {
            if fault.operation == operation {
                *calls += 1;
                if fault.when.strikes(*calls) {
                    effect = effect.or(Some(fault.effect));
                }
            }
        }
        effect
    }

    /// Counts a call and fails or delays it where that is planned.
    fn pass(&self, operation: Operation, offset: u64, len: u64) -> Result<(), DeviceError> {
        match self.strike(operation) {
            None => Ok(()),
            Some(Effect::Delay(time)) => {
                std::thread::sleep(time);
                Ok(())
            }
            Some(Effect::Fail(errno) | Effect::Short(_, errno)) => {
                Err(self.error(operation, offset, len, errno))
            }
        }
    }

    fn error(&self, operation: Operation, offset: u64, len: u64, errno: i32) -> DeviceError {
        DeviceError::Host {
            operation,
            device: self.inner.name().to_owned(),
            offset,
            len,
            source: Arc::new(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Device for FaultDevice {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let len = buf.len() as u64;
        self.pass(Operation::Read, offset, len)?;
        let end = offset.saturating_add(len);
        let lost = |bytes: &Range<u64>| bytes.start < end && offset < bytes.end;
        if self.state.lock().unreadable.iter().any(lost) {
            return Err(self.error(Operation::Read, offset, len, libc::EIO));
        }
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DeviceError> {
        let len = total(bufs);
        match self.strike(Operation::Write) {
            None => {}
            Some(Effect::Delay(time)) => std::thread::sleep(time),
            Some(Effect::Fail(errno)) => {
                return Err(self.error(Operation::Write, offset, len, errno));
            }
            Some(Effect::Short(count, errno)) => {
                within(self.name(), self.len(), Operation::Write, offset, len)?;
                self.inner.write_at(&prefix(bufs, count), offset)?;
                return Err(self.error(Operation::Write, offset, len, errno));
            }
        }
        self.inner.write_at(bufs, offset)
    }

    fn sync(&self) -> Result<(), DeviceError> {
        self.pass(Operation::Sync, 0, self.len())?;
        self.inner.sync()
    }

    fn punch(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        self.pass(Operation::Punch, offset, len)?;
        self.inner.punch(offset, len)
    }

    fn allocated(&self) -> Result<u64, DeviceError> {
        self.pass(Operation::Stat, 0, self.len())?;
        self.inner.allocated()
    }

    fn host_space(&self) -> Option<HostSpace> {
        self.inner.host_space()
    }
}

/// The first `count` bytes of `bufs`.
fn prefix<'a>(bufs: &'a [IoSlice<'_>], mut count: u64) -> Vec<IoSlice<'a>> {
    let mut short = Vec::new();
    for buf in bufs {
        let take = usize::try_from(count).map_or(buf.len(), |count| count.min(buf.len()));
        short.push(IoSlice::new(&buf[..take]));
        count -= take as u64;
    }
    short
}

#[cfg(test)]
mod tests {
    use super::super::MemoryDevice;
    use super::*;

    fn device() -> FaultDevice {
        FaultDevice::new(Arc::new(MemoryDevice::new("m", 4096)))
    }

    fn write(device: &FaultDevice, bytes: &[u8]) -> Result<(), DeviceError> {
        let (a, b) = bytes.split_at(bytes.len() / 2);
        device.write_at(&[IoSlice::new(a), IoSlice::new(b)], 0)
    }

    #[test]
    fn faults_strike_the_calls_they_were_planned_for() {
        let device = device();
        write(&device, b"x").unwrap();
        device.plan(Operation::Write, When::Nth(2), Effect::Fail(libc::EIO));
        device.plan(Operation::Read, When::Every(3), Effect::Fail(libc::EIO));
        device.plan(Operation::Sync, When::From(2), Effect::Fail(libc::ENOSPC));
        device.plan(Operation::Punch, When::Nth(1), Effect::Fail(libc::EIO));
        device.plan(Operation::Stat, When::Nth(1), Effect::Fail(libc::EIO));
        let failures = |calls: &dyn Fn() -> Option<i32>| -> Vec<usize> {
            (1..=6).filter(|_| calls().is_some()).collect()
        };
        let errno = |result: Result<(), DeviceError>| result.err().and_then(|e| e.errno());
        assert_eq!(failures(&|| errno(write(&device, b"y"))), [2]);
        assert_eq!(failures(&|| errno(device.read_at(&mut [0], 0))), [3, 6]);
        assert_eq!(failures(&|| errno(device.sync())), [2, 3, 4, 5, 6]);
        assert_eq!(failures(&|| errno(device.punch(9, 1).map(drop))), [1]);
        assert_eq!(failures(&|| errno(device.allocated().map(drop))), [1]);
        assert_eq!(errno(device.sync()), Some(libc::ENOSPC));
        device.heal();
        device.sync().unwrap();
        assert_eq!(device.calls(Operation::Sync), 8);
        assert_eq!(device.calls(Operation::Write), 7);
    }

    #[test]
    fn a_short_write_leaves_a_prefix() {
        let device = device();
        write(&device, b"........").unwrap();
        device.plan(
            Operation::Write,
            When::Nth(1),
            Effect::Short(5, libc::ENOSPC),
        );
        let error = write(&device, b"12345678").unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOSPC));
        let mut back = [0; 8];
        device.read_at(&mut back, 0).unwrap();
        assert_eq!(&back, b"12345...");
    }

    #[test]
    fn a_delayed_call_is_done() {
        let device = device();
        device.plan(
            Operation::Sync,
            When::Nth(1),
            Effect::Delay(Duration::from_millis(20)),
        );
        let start = std::time::Instant::now();
        device.sync().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
