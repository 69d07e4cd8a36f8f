//! What can be wrong with bytes that should be a record, with place and numbers.

use crate::base::{Checksum, Epoch};

/// Why bytes are not the record that they should be, or a record has no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Fewer bytes than the record needs.
    #[error("{what} has {have} bytes; {need} are needed")]
    Short {
        /// The record.
        what: &'static str,
        /// Bytes that it needs.
        need: usize,
        /// Bytes that there are.
        have: usize,
    },
    /// Something other than zeros after the record's end.
    #[error("{what} is followed by bytes that are not zero, {extra} bytes after its end")]
    Trailing {
        /// The record.
        what: &'static str,
        /// How far after the end the first of them lies.
        extra: usize,
    },
    /// A text that is too long.
    #[error("{what}: {field} has {len} bytes; at most {limit} are allowed")]
    TooLong {
        /// The record.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its length.
        len: usize,
        /// The longest that can be stored.
        limit: usize,
    },
    /// A text that is not UTF-8.
    #[error("{what}: {field} is not UTF-8 from its byte {at} on")]
    NotUtf8 {
        /// The record.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// The first byte that is not.
        at: usize,
    },
    /// A number that the field can't have.
    #[error("{what}: {field} is {value}; at most {limit} is possible")]
    OutOfRange {
        /// The record.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The largest possible one.
        limit: u64,
    },
    /// A tag, a flag or a number of a kind that this program does not know.
    #[error("{what}: {field} {value:#x} is not known")]
    Unknown {
        /// The record.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A mask with blocks that no segment of the store has.
    #[error("a version's {field} mask has blocks past the {blocks} of a segment")]
    MaskOutside {
        /// Which mask.
        field: &'static str,
        /// Blocks of a segment.
        blocks: usize,
    },
    /// A block that is data and zero at once.
    #[error("a version says of its block {block} that it is data and that it is zero")]
    MaskOverlap {
        /// The first such block.
        block: usize,
    },
    /// Blocks that can't lie in a pack like this.
    #[error(
        "a version in a pack ends at block {end} of {blocks}, has no blocks, or has dead ones \
         that are not zero"
    )]
    BadPacking {
        /// The block after its last one.
        end: usize,
        /// Blocks in a segment.
        blocks: usize,
    },
    /// Data blocks without a place.
    #[error("a version has {blocks} data blocks but no place for them")]
    NoPlace {
        /// How many.
        blocks: usize,
    },
    /// A version that died before it was born.
    #[error("a version was born in epoch {birth} and died in epoch {death}, before that")]
    BirthAfterDeath {
        /// Birth.
        birth: Epoch,
        /// Death.
        death: Epoch,
    },
    /// Not this kind of record at all.
    #[error("{what} starts with {found:#018x}, which is not its mark")]
    Magic {
        /// The record.
        what: &'static str,
        /// What stands in place of its mark.
        found: u64,
    },
    /// The bytes are not those that were written.
    #[error("{what}: the stored checksum is {stored}, the computed one {computed}")]
    BadChecksum {
        /// The record.
        what: &'static str,
        /// What it says.
        stored: Checksum,
        /// What its bytes give.
        computed: Checksum,
    },
    /// A field that is not what the record's place demands.
    #[error("{what}: {field} is {found}, expected {expected}")]
    Mismatch {
        /// The record.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// What its place demands.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// Keys that do not ascend.
    #[error("{what}: key {at} is not greater than the one before it")]
    Unordered {
        /// The record.
        what: &'static str,
        /// Which key.
        at: usize,
    },
    /// Written by a later program.
    #[error(
        "store format {found} is newer than this program knows ({known}); use a newer snapmark"
    )]
    NewerFormat {
        /// The store's.
        found: u32,
        /// Ours.
        known: u32,
    },
}
