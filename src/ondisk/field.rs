//! Fields of fixed-layout records: each knows its offset from the field before it.

use std::marker::PhantomData;

use super::FormatError;

/// The largest number that a 48-bit field holds.
pub(crate) const MAX_48: u64 = (1 << 48) - 1;

/// A value with a fixed number of little-endian bytes.
pub(crate) trait Fixed: Sized {
    const LEN: usize;
    fn put(self, to: &mut [u8]);
    fn get(from: &[u8]) -> Self;
}

macro_rules! fixed {
    ($($number:ty),*) => {$(
        impl Fixed for $number {
            const LEN: usize = size_of::<$number>();
            fn put(self, to: &mut [u8]) {
                to[..Self::LEN].copy_from_slice(&self.to_le_bytes());
            }
            fn get(from: &[u8]) -> Self {
                let mut bytes = [0; Self::LEN];
                bytes.copy_from_slice(&from[..Self::LEN]);
                Self::from_le_bytes(bytes)
            }
        }
    )*};
}
fixed!(u8, u16, u32, u64, u128, i64);

impl<const N: usize> Fixed for [u8; N] {
    const LEN: usize = N;
    fn put(self, to: &mut [u8]) {
        to[..N].copy_from_slice(&self);
    }
    fn get(from: &[u8]) -> Self {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&from[..N]);
        bytes
    }
}

/// A field of a record. Reading and writing index the record's bytes, so the caller has checked
/// their length against the last field's [`end`](Field::end).
pub(crate) struct Field<T> {
    at: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Field<T> {}

impl<T: Fixed> Field<T> {
    /// A record's first field.
    pub(crate) const FIRST: Self = Self::at(0);

    const fn at(at: usize) -> Self {
        Self {
            at,
            of: PhantomData,
        }
    }

    /// The field that follows this one.
    pub(crate) const fn then<U: Fixed>(self) -> Field<U> {
        Field::at(self.end())
    }

    /// The offset of its first byte.
    pub(crate) const fn start(self) -> usize {
        self.at
    }

    /// The offset after its last byte.
    pub(crate) const fn end(self) -> usize {
        self.at + T::LEN
    }

    /// Its value in these bytes.
    pub(crate) fn get(self, record: &[u8]) -> T {
        T::get(&record[self.at..])
    }

    /// Sets it in these bytes.
    pub(crate) fn put(self, record: &mut [u8], value: T) {
        value.put(&mut record[self.at..]);
    }
}

/// The first `need` bytes and what follows, or an error that names the record.
pub(crate) fn split<'a>(
    what: &'static str,
    bytes: &'a [u8],
    need: usize,
) -> Result<(&'a [u8], &'a [u8]), FormatError> {
    bytes.split_at_checked(need).ok_or(FormatError::Short {
        what,
        need,
        have: bytes.len(),
    })
}

/// Adds `len` zero bytes and returns them for filling.
pub(crate) fn grow(out: &mut Vec<u8>, len: usize) -> &mut [u8] {
    let start = out.len();
    out.resize(start + len, 0);
    &mut out[start..]
}

/// A number that must not exceed a limit.
pub(crate) fn bounded(
    what: &'static str,
    field: &'static str,
    value: u64,
    limit: u64,
) -> Result<u64, FormatError> {
    if value > limit {
        return Err(FormatError::OutOfRange {
            what,
            field,
            value,
            limit,
        });
    }
    Ok(value)
}

/// A text that must not exceed a limit.
pub(crate) fn text_len(
    what: &'static str,
    field: &'static str,
    len: usize,
    limit: usize,
) -> Result<usize, FormatError> {
    if len > limit {
        return Err(FormatError::TooLong {
            what,
            field,
            len,
            limit,
        });
    }
    Ok(len)
}

/// Bytes as text.
pub(crate) fn text(
    what: &'static str,
    field: &'static str,
    bytes: &[u8],
) -> Result<String, FormatError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(FormatError::NotUtf8 {
            what,
            field,
            at: error.valid_up_to(),
        }),
    }
}

/// Flags of which only some are known.
pub(crate) fn flags(what: &'static str, value: u8, known: u8) -> Result<u8, FormatError> {
    if value & !known != 0 {
        return Err(FormatError::Unknown {
            what,
            field: "flags",
            value: u64::from(value),
        });
    }
    Ok(value)
}

/// Everything after a record's end must be zero.
pub(crate) fn only_zeros(what: &'static str, rest: &[u8]) -> Result<(), FormatError> {
    match rest.iter().position(|byte| *byte != 0) {
        Some(extra) => Err(FormatError::Trailing { what, extra }),
        None => Ok(()),
    }
}

/// A record of the catalog. The log holds it as it is; a tree holds it padded with zeros to
/// [`Record::MAX`] bytes.
pub trait Record: Sized {
    /// Its name in errors.
    const WHAT: &'static str;
    /// The most bytes that it can have.
    const MAX: usize;

    /// Appends its bytes.
    ///
    /// # Errors
    /// Where a field does not fit the format.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError>;

    /// Reads one from the start of these bytes; returns what follows, too.
    ///
    /// # Errors
    /// Where they are not such a record.
    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError>;

    /// The value that a tree holds for it.
    ///
    /// # Errors
    /// Where a field does not fit the format.
    fn to_value(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::with_capacity(Self::MAX);
        self.encode(&mut out)?;
        out.resize(Self::MAX, 0);
        Ok(out)
    }

    /// The record that a tree's value is.
    ///
    /// # Errors
    /// Where it is none.
    fn from_value(value: &[u8]) -> Result<Self, FormatError> {
        let (record, rest) = Self::decode(value)?;
        only_zeros(Self::WHAT, rest)?;
        Ok(record)
    }
}
