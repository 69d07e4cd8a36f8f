//! The root of the catalog: pages 0 and 1, written in turn, so that one of them is always whole.

use super::field::{Field, Record, only_zeros};
use super::marks::{MARKS_LEN, SPACE_LEN};
use super::{FormatError, Marks, PAGE, PageRef, Space, TreeKind};
use crate::base::{Checksum, Geometry, checksum};

/// The store format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// The byte of the catalog's pages at which the pages of the roots end.
pub const ROOTS_END: u64 = 2 * PAGE as u64;

/// Mark, checksum and version stay where they are in every later format, so that each program can
/// say that a store is too new for it.
const MAGIC: Field<u64> = Field::FIRST;
/// Of everything after it.
const CRC: Field<u32> = MAGIC.then();
const VERSION: Field<u32> = CRC.then();
const UUID: Field<[u8; 16]> = VERSION.then();
const SEGMENT_BYTES: Field<u64> = UUID.then();
const GENERATION: Field<u64> = SEGMENT_BYTES.then();
const COMMIT: Field<u64> = GENERATION.then();
const MARKS: Field<[u8; MARKS_LEN]> = COMMIT.then();
const SPACE: Field<[u8; SPACE_LEN]> = MARKS.then();
const TREES: usize = SPACE.end();

/// A tree: one after the other in the order of [`TreeKind::ALL`]. Page 0 where it is empty.
const TREE_PAGE: Field<u64> = Field::FIRST;
const TREE_CRC: Field<u32> = TREE_PAGE.then();
const TREE_LEVEL: Field<u32> = TREE_CRC.then();
const TREE_ENTRIES: Field<u64> = TREE_LEVEL.then();
const TREE: usize = TREE_ENTRIES.end();

const END: usize = TREES + TREE * TreeKind::ALL.len();
const _: () = assert!(END <= PAGE);

/// Levels that no tree of 2^64 pages can exceed.
const MAX_LEVEL: u64 = 32;

const ROOT_MAGIC: u64 = u64::from_le_bytes(*b"SNAPMARK");
const WHAT: &str = "catalog root";

/// The root of the catalog, as of one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The store's identity.
    pub uuid: [u8; 16],
    /// The store's segment size.
    pub geometry: Geometry,
    /// The checkpoint's number; the root lies in page `generation % 2`.
    pub generation: u64,
    /// The number of the last commit that it includes.
    pub commit: u64,
    /// The marks.
    pub marks: Marks,
    /// The space counters.
    pub space: Space,
    /// The trees, in the order of [`TreeKind::ALL`].
    pub trees: [TreeRoot; TreeKind::ALL.len()],
}

/// Where a tree starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeRoot {
    /// Its top node; none where it is empty.
    pub top: Option<PageRef>,
    /// The top node's level.
    pub level: u8,
    /// How many entries it has.
    pub entries: u64,
}

impl Root {
    /// The root's page.
    ///
    /// # Errors
    /// Where a number does not fit the format.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut page = vec![0; PAGE];
        MAGIC.put(&mut page, ROOT_MAGIC);
        VERSION.put(&mut page, FORMAT_VERSION);
        UUID.put(&mut page, self.uuid);
        SEGMENT_BYTES.put(&mut page, self.geometry.segment_bytes());
        GENERATION.put(&mut page, self.generation);
        COMMIT.put(&mut page, self.commit);
        page[MARKS.start()..MARKS.end()].copy_from_slice(&self.marks.to_value()?);
        page[SPACE.start()..SPACE.end()].copy_from_slice(&self.space.to_value()?);
        for (tree, to) in self.trees.iter().zip(page[TREES..].chunks_exact_mut(TREE)) {
            if let Some(top) = tree.top {
                TREE_PAGE.put(to, top.page);
                TREE_CRC.put(to, top.crc.0);
                TREE_LEVEL.put(to, u32::from(tree.level));
                TREE_ENTRIES.put(to, tree.entries);
            }
        }
        let crc = checksum(&page[CRC.end()..]);
        CRC.put(&mut page, crc.0);
        Ok(page)
    }

    /// Reads a root's page.
    ///
    /// # Errors
    /// Where it is none, is damaged, or of a newer format.
    pub fn decode(page: &[u8]) -> Result<Self, FormatError> {
        if page.len() != PAGE {
            let (what, need, have) = (WHAT, PAGE, page.len());
            return Err(FormatError::Short { what, need, have });
        }
        let found = MAGIC.get(page);
        if found != ROOT_MAGIC {
            return Err(FormatError::Magic { what: WHAT, found });
        }
        let (stored, computed) = (Checksum(CRC.get(page)), checksum(&page[CRC.end()..]));
        if stored != computed {
            let what = WHAT;
            return Err(FormatError::BadChecksum {
                what,
                stored,
                computed,
            });
        }
        match VERSION.get(page) {
            FORMAT_VERSION => {}
            found if found > FORMAT_VERSION => {
                let known = FORMAT_VERSION;
                return Err(FormatError::NewerFormat { found, known });
            }
            found => {
                let (what, field, value) = (WHAT, "format version", u64::from(found));
                return Err(FormatError::Unknown { what, field, value });
            }
        }
        let bytes = SEGMENT_BYTES.get(page);
        let geometry = Geometry::from_segment_bytes(bytes).map_err(|_| FormatError::Unknown {
            what: WHAT,
            field: "segment size",
            value: bytes,
        })?;
        let mut trees = [TreeRoot::default(); TreeKind::ALL.len()];
        for (tree, from) in trees.iter_mut().zip(page[TREES..].chunks_exact(TREE)) {
            *tree = tree_root(from)?;
        }
        only_zeros(WHAT, &page[END..])?;
        Ok(Self {
            uuid: UUID.get(page),
            geometry,
            generation: GENERATION.get(page),
            commit: COMMIT.get(page),
            marks: Marks::from_value(&page[MARKS.start()..MARKS.end()])?,
            space: Space::from_value(&page[SPACE.start()..SPACE.end()])?,
            trees,
        })
    }
}

fn tree_root(from: &[u8]) -> Result<TreeRoot, FormatError> {
    let page = TREE_PAGE.get(from);
    if page == 0 {
        only_zeros(WHAT, from)?;
        return Ok(TreeRoot::default());
    }
    let level = u64::from(TREE_LEVEL.get(from));
    if level > MAX_LEVEL {
        let (what, field) = (WHAT, "tree level");
        return Err(FormatError::OutOfRange {
            what,
            field,
            value: level,
            limit: MAX_LEVEL,
        });
    }
    let crc = Checksum(TREE_CRC.get(from));
    Ok(TreeRoot {
        top: Some(PageRef { page, crc }),
        level: level as u8,
        entries: TREE_ENTRIES.get(from),
    })
}
