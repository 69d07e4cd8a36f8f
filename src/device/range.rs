//! Range checks that every device shares.

use std::io::IoSlice;

use super::{DeviceError, Operation};

/// Bytes in all of `bufs`.
pub(super) fn total(bufs: &[IoSlice<'_>]) -> u64 {
    bufs.iter().map(|buf| buf.len() as u64).sum()
}

/// Refuses a range that is not within `size` bytes.
pub(super) fn within(
    device: &str,
    size: u64,
    operation: Operation,
    offset: u64,
    len: u64,
) -> Result<(), DeviceError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(DeviceError::OutOfRange {
            operation,
            device: device.to_owned(),
            offset,
            len,
            size,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_past_the_end_is_refused_even_where_the_sum_overflows() {
        let check = |offset, len| within("d", 100, Operation::Read, offset, len);
        assert!(check(0, 100).is_ok());
        assert!(check(100, 0).is_ok());
        for (offset, len) in [(0, 101), (100, 1), (u64::MAX, 1), (1, u64::MAX)] {
            let error = check(offset, len).unwrap_err();
            assert!(matches!(error, DeviceError::OutOfRange { .. }), "{error}");
        }
    }
}
