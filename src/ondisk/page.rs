//! A page of the catalog: a node of one of its trees.
//!
//! The header below, then the keys in ascending order, 16 bytes each, then for a leaf the values,
//! for a branch 12 bytes each for its children: page and checksum. The rest is zero. A key of a
//! branch is a lower bound of the keys below that child, save the first, which is not looked at.

use super::field::{Field, Fixed, only_zeros};
use super::{FormatError, TreeKind};
use crate::base::{Checksum, Geometry, checksum};

/// Bytes in a page of the catalog.
pub const PAGE: usize = 4096;

/// Of everything after it.
const CRC: Field<u32> = Field::FIRST;
const MAGIC: Field<u32> = CRC.then();
/// Its own number, so that a misdirected write shows.
const NUMBER: Field<u64> = MAGIC.then();
/// The generation of the root that it was first written for.
const GENERATION: Field<u64> = NUMBER.then();
const KIND: Field<u8> = GENERATION.then();
/// 0 for a leaf.
const LEVEL: Field<u8> = KIND.then();
const COUNT: Field<u16> = LEVEL.then();
const RESERVED: Field<u32> = COUNT.then();
const HEADER: usize = RESERVED.end();

const KEY: usize = size_of::<u128>();
const CHILD_PAGE: Field<u64> = Field::FIRST;
const CHILD_CRC: Field<u32> = CHILD_PAGE.then();
const CHILD: usize = CHILD_CRC.end();

const PAGE_MAGIC: u32 = u32::from_le_bytes(*b"SMPG");
const WHAT: &str = "catalog page";

const _: () = assert!(HEADER == 32);

/// A page, and the checksum that it must have: what a parent knows of its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// Its number.
    pub page: u64,
    /// Its checksum.
    pub crc: Checksum,
}

/// What the page's place in the catalog says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// Its number.
    pub number: u64,
    /// The generation of the root that it was first written for.
    pub generation: u64,
    /// The tree that it is a node of.
    pub kind: TreeKind,
    /// Its height over the leaves, which have 0.
    pub level: u8,
}

/// A page's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The generation of the root that it was first written for.
    pub generation: u64,
    /// Ascending, without repetitions.
    pub keys: Vec<u128>,
    /// As many as keys.
    pub body: PageBody,
}

/// What a page has for its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageBody {
    /// Values of the tree's length, one after the other.
    Leaf(Vec<u8>),
    /// Pages of the level below.
    Branch(Vec<PageRef>),
}

/// How many keys a page of this tree and level can have.
#[must_use]
pub fn page_capacity(kind: TreeKind, level: u8, geometry: Geometry) -> usize {
    let value = if level == 0 {
        kind.value_len(geometry)
    } else {
        CHILD
    };
    (PAGE - HEADER) / (KEY + value)
}

/// Writes a page and returns its checksum. `entries` yields the keys; `body` writes their values
/// or children, which follow the keys.
fn encode(header: &PageHeader, keys: &[u128], page: &mut [u8]) -> usize {
    page.fill(0);
    MAGIC.put(page, PAGE_MAGIC);
    NUMBER.put(page, header.number);
    GENERATION.put(page, header.generation);
    KIND.put(page, header.kind as u8);
    LEVEL.put(page, header.level);
    COUNT.put(page, keys.len() as u16);
    for (key, to) in keys.iter().zip(page[HEADER..].chunks_exact_mut(KEY)) {
        key.put(to);
    }
    HEADER + keys.len() * KEY
}

fn seal(page: &mut [u8]) -> Checksum {
    let crc = checksum(&page[CRC.end()..]);
    CRC.put(page, crc.0);
    crc
}

/// Writes a leaf to `page`, which has [`PAGE`] bytes; returns its checksum. The caller keeps to
/// [`page_capacity`].
pub fn encode_leaf(header: &PageHeader, keys: &[u128], values: &[u8], page: &mut [u8]) -> Checksum {
    let at = encode(header, keys, page);
    page[at..at + values.len()].copy_from_slice(values);
    seal(page)
}

/// Writes a branch to `page`, which has [`PAGE`] bytes; returns its checksum. The caller keeps to
/// [`page_capacity`].
pub fn encode_branch(
    header: &PageHeader,
    keys: &[u128],
    children: impl Iterator<Item = PageRef>,
    page: &mut [u8],
) -> Checksum {
    let at = encode(header, keys, page);
    for (child, to) in children.zip(page[at..].chunks_exact_mut(CHILD)) {
        CHILD_PAGE.put(to, child.page);
        CHILD_CRC.put(to, child.crc.0);
    }
    seal(page)
}

impl Page {
    /// Reads the page that a parent refers to.
    ///
    /// # Errors
    /// Where it is not that page: other bytes than were written, another page, another tree.
    pub fn decode(
        page: &[u8],
        at: PageRef,
        kind: TreeKind,
        level: u8,
        geometry: Geometry,
    ) -> Result<Self, FormatError> {
        if page.len() != PAGE {
            let (what, need, have) = (WHAT, PAGE, page.len());
            return Err(FormatError::Short { what, need, have });
        }
        let computed = checksum(&page[CRC.end()..]);
        for stored in [Checksum(CRC.get(page)), at.crc] {
            if stored != computed {
                let what = WHAT;
                return Err(FormatError::BadChecksum {
                    what,
                    stored,
                    computed,
                });
            }
        }
        expect("mark", u64::from(PAGE_MAGIC), u64::from(MAGIC.get(page)))?;
        expect("number", at.page, NUMBER.get(page))?;
        expect("tree", kind as u64, u64::from(KIND.get(page)))?;
        expect("level", u64::from(level), u64::from(LEVEL.get(page)))?;
        expect("reserved field", 0, u64::from(RESERVED.get(page)))?;
        let count = usize::from(COUNT.get(page));
        let most = page_capacity(kind, level, geometry);
        if count == 0 || count > most {
            return Err(FormatError::OutOfRange {
                what: WHAT,
                field: "count",
                value: count as u64,
                limit: most as u64,
            });
        }
        let (keys, body) = page[HEADER..].split_at(count * KEY);
        let keys: Vec<u128> = keys.chunks_exact(KEY).map(u128::get).collect();
        if let Some(at) = keys.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(FormatError::Unordered {
                what: WHAT,
                at: at + 1,
            });
        }
        let entry = if level == 0 {
            kind.value_len(geometry)
        } else {
            CHILD
        };
        let (body, rest) = body.split_at(count * entry);
        only_zeros(WHAT, rest)?;
        let body = if level == 0 {
            PageBody::Leaf(body.to_vec())
        } else {
            PageBody::Branch(body.chunks_exact(CHILD).map(child).collect())
        };
        Ok(Self {
            generation: GENERATION.get(page),
            keys,
            body,
        })
    }
}

fn child(bytes: &[u8]) -> PageRef {
    PageRef {
        page: CHILD_PAGE.get(bytes),
        crc: Checksum(CHILD_CRC.get(bytes)),
    }
}

fn expect(field: &'static str, expected: u64, found: u64) -> Result<(), FormatError> {
    if expected != found {
        let what = WHAT;
        return Err(FormatError::Mismatch {
            what,
            field,
            expected,
            found,
        });
    }
    Ok(())
}
