//! The basic header segment: 48 bytes that begin each PDU, big-endian (RFC 7143, section 11.2).

/// Bytes of a basic header segment.
pub const BHS: usize = 48;
/// The tag that stands for none.
pub const NO_TAG: u32 = u32::MAX;
/// The most data that we take in one PDU, in bytes: what we declare as `MaxRecvDataSegmentLength`.
pub const MAX_DATA_SEGMENT: usize = 256 << 10;

/// Lengths of segments count without padding; on the wire each ends at a multiple of four bytes.
#[must_use]
pub const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// What kind of response a header is of.
pub mod response {
    /// NOP-In.
    pub const NOP_IN: u8 = 0x20;
    /// SCSI Response.
    pub const SCSI: u8 = 0x21;
    /// Task Management Function Response.
    pub const TASK_MANAGEMENT: u8 = 0x22;
    /// Login Response.
    pub const LOGIN: u8 = 0x23;
    /// Text Response.
    pub const TEXT: u8 = 0x24;
    /// SCSI Data-In.
    pub const DATA_IN: u8 = 0x25;
    /// Logout Response.
    pub const LOGOUT: u8 = 0x26;
    /// Ready To Transfer.
    pub const R2T: u8 = 0x31;
    /// Asynchronous Message.
    pub const ASYNC_MESSAGE: u8 = 0x32;
    /// Reject.
    pub const REJECT: u8 = 0x3f;
}

/// A basic header segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(pub [u8; BHS]);

impl Header {
    /// A response of this kind: one PDU, and no task's.
    #[must_use]
    pub fn response(opcode: u8) -> Self {
        let mut header = Self([0; BHS]);
        header.0[0] = opcode;
        header.set_flag(0x80);
        header.set_u32(16, NO_TAG);
        header
    }

    /// The kind of PDU, without the immediate bit.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// Whether it is to be handled out of order, and has no command number of its own.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// Whether it is the last PDU of its sequence.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.0[1] & 0x80 != 0
    }

    /// Bytes of additional header segments.
    #[must_use]
    pub fn ahs_len(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// Bytes of data, without padding.
    #[must_use]
    pub fn data_len(&self) -> usize {
        usize::from(self.0[5]) << 16 | usize::from(self.0[6]) << 8 | usize::from(self.0[7])
    }

    /// Sets the length of the data, which has three bytes.
    pub fn set_data_len(&mut self, len: usize) {
        self.0[5..8].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
    }

    /// Adds flags to the second byte.
    pub fn set_flag(&mut self, flag: u8) {
        self.0[1] |= flag;
    }

    /// Takes flags out of the second byte.
    pub fn clear_flag(&mut self, flag: u8) {
        self.0[1] &= !flag;
    }

    /// The four bytes at this place.
    #[must_use]
    pub fn u32(&self, at: usize) -> u32 {
        self.0[at..at + 4]
            .iter()
            .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
    }

    /// Sets the four bytes at this place.
    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// The logical unit number, as its eight bytes stand there.
    #[must_use]
    pub fn lun(&self) -> u64 {
        u64::from(self.u32(8)) << 32 | u64::from(self.u32(12))
    }

    /// Sets the logical unit number.
    pub fn set_lun(&mut self, lun: u64) {
        self.0[8..16].copy_from_slice(&lun.to_be_bytes());
    }

    /// The initiator's tag of the task.
    #[must_use]
    pub fn task_tag(&self) -> u32 {
        self.u32(16)
    }

    /// The same, of this response.
    #[must_use]
    pub fn for_task(mut self, tag: u32) -> Self {
        self.set_u32(16, tag);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_standard_has_them() {
        let mut header = Header::response(response::R2T).for_task(0x0102_0304);
        header.set_data_len(0x01_0203);
        header.set_lun(0x0001_0000_0000_0000);
        header.0[4] = 2;
        assert_eq!(header.0[..8], [0x31, 0x80, 0, 0, 2, 1, 2, 3]);
        assert_eq!(header.0[8..20], [0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!((header.ahs_len(), header.data_len()), (8, 0x01_0203));
        assert_eq!(header.task_tag(), 0x0102_0304);
        assert!(header.is_final() && !header.is_immediate());
        header.clear_flag(0x80);
        assert!(!header.is_final());
    }

    #[test]
    fn segments_are_padded_to_words() {
        assert_eq!([0, 1, 4, 5].map(padded), [0, 4, 4, 8]);
    }
}
