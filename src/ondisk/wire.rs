//! Reading and writing little-endian fields, without a panic on any input.

/// Bytes that are not what the format says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the field does.
    #[error("{field} needs {needed} bytes, and {left} are left")]
    Short {
        /// The field.
        field: &'static str,
        /// What it needs.
        needed: usize,
        /// What there is.
        left: usize,
    },
    /// A value that the field can't have.
    #[error("{field} can't be {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// What stands there.
        value: u64,
    },
    /// A text that is not UTF-8.
    #[error("{field} is not UTF-8")]
    Text {
        /// The field.
        field: &'static str,
    },
    /// Bytes after the last field.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
}

/// Takes fields off the front of some bytes.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], WireError> {
        let short = WireError::Short {
            field,
            needed: len,
            left: self.0.len(),
        };
        let (head, rest) = self.0.split_at_checked(len).ok_or(short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(field, N)?);
        Ok(array)
    }

    pub fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub fn i64(&mut self, field: &'static str) -> Result<i64, WireError> {
        Ok(i64::from_le_bytes(self.array(field)?))
    }

    pub fn uuid(&mut self, field: &'static str) -> Result<[u8; 16], WireError> {
        self.array(field)
    }

    pub fn flag(&mut self, field: &'static str) -> Result<bool, WireError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::Value {
                field,
                value: u64::from(value),
            }),
        }
    }

    /// A text with its length in two bytes before it.
    pub fn text(&mut self, field: &'static str) -> Result<String, WireError> {
        let len = usize::from(self.u16(field)?);
        let bytes = self.bytes(field, len)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| WireError::Text { field })
    }

    pub fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(WireError::Trailing(self.0.len()))
        }
    }
}

/// Appends fields.
pub(super) trait Put {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    fn i64(&mut self, value: i64);
    /// A text with its length in two bytes before it; names are checked to be far shorter.
    fn text(&mut self, value: &str);
}

impl Put for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }
    fn u16(&mut self, value: u16) {
        self.extend(value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.extend(value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.extend(value.to_le_bytes());
    }
    fn i64(&mut self, value: i64) {
        self.extend(value.to_le_bytes());
    }
    fn text(&mut self, value: &str) {
        let len = value.len().min(usize::from(u16::MAX));
        self.u16(len as u16);
        self.extend(&value.as_bytes()[..len]);
    }
}
