//! The pages of the catalog: every one that a root leads to is read, and those that the page map
//! calls used are the same ones.

use super::catalog::Catalog;
use super::findings::Findings;
use super::names;
use super::problem::{Kind, Problem};
use super::tree::Met;
use crate::base::MapId;
use crate::ondisk::{PAGE, PAGE_MAP_PAGES, TreeKind, VersionKey};

/// Which of the big trees can be gone through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readable {
    /// All versions are there.
    pub versions: bool,
    /// All checksums are there.
    pub sums: bool,
    /// All packs are there.
    pub packs: bool,
    /// No page that the trees take comes after this one.
    pub end: u64,
}

/// Reads all trees, page by page.
pub(super) fn check(catalog: &Catalog<'_>, findings: &mut Findings) -> Readable {
    let mut reached = Reached::new(catalog.pages.len() / PAGE as u64);
    let mut readable = Readable {
        versions: true,
        sums: true,
        packs: true,
        end: 0,
    };
    let mut all = true;
    for kind in TreeKind::ALL {
        let whole = tree(catalog, kind, &mut reached, findings);
        match kind {
            TreeKind::Versions => readable.versions = whole,
            TreeKind::Checksums => readable.sums = whole,
            TreeKind::Packs => readable.packs = whole,
            _ => {}
        }
        all &= whole;
    }
    readable.end = reached.end();
    if all {
        page_map(catalog, &reached, findings);
    }
    readable
}

fn tree(
    catalog: &Catalog<'_>,
    kind: TreeKind,
    reached: &mut Reached,
    findings: &mut Findings,
) -> bool {
    let tree = catalog.tree(kind);
    let file = catalog.pages.name();
    let mut whole = true;
    let met = tree.walk((0, u128::MAX), &mut |met| match met {
        Met::Page(page) => {
            let first = reached.insert(page);
            if !first {
                whole = false;
                let message = format!("page {page} belongs to the catalog twice, here to {kind:?}");
                let at = page.saturating_mul(PAGE as u64);
                findings.add(Problem::damage(Kind::Page, message).in_file(file, at));
            }
            first
        }
        Met::Damaged {
            page,
            from,
            to,
            why,
        } => {
            whole = false;
            let at = page.saturating_mul(PAGE as u64);
            let message = format!("page {page}, of {}: {why}", content(kind, from, to));
            let problem = Problem::damage(Kind::Page, message).in_file(file, at);
            findings.add(touched(catalog, kind, from, to, problem));
            true
        }
        Met::Entry(..) => true,
    });
    if whole && met != tree.root.entries {
        let message = format!(
            "the root counts {} entries of {kind:?}, and there are {met}",
            tree.root.entries
        );
        findings.add(Problem::damage(Kind::Root, message));
    }
    whole
}

/// What lies under these keys, in words.
fn content(kind: TreeKind, from: u128, to: u128) -> String {
    match kind {
        TreeKind::Versions => {
            let (from, to) = (VersionKey::from_key(from), VersionKey::from_key(to));
            format!(
                "segments {} of map {} to {} of map {}",
                from.segment, from.map, to.segment, to.map
            )
        }
        TreeKind::Checksums => {
            let of = |key: u128| (key as u64).saturating_mul(64);
            let (device, blocks) = ((from >> 64) as u16, (of(from), of(to).saturating_add(63)));
            format!("checksums from block {} of device {device} on", blocks.0)
        }
        kind => format!("the tree {kind:?}"),
    }
}

/// Adds whom the loss of these keys touches.
fn touched(
    catalog: &Catalog<'_>,
    kind: TreeKind,
    from: u128,
    to: u128,
    mut problem: Problem,
) -> Problem {
    if kind == TreeKind::Versions {
        let maps = MapId((from >> 96) as u32)..=MapId((to >> 96) as u32);
        for map in catalog.maps.range(maps).map(|(id, _)| *id) {
            names::add_map(catalog, map, &mut problem);
        }
    }
    problem
}

fn page_map(catalog: &Catalog<'_>, reached: &Reached, findings: &mut Findings) {
    let mut used = Reached::new(reached.len);
    let mut outside = None;
    catalog
        .tree(TreeKind::PageMap)
        .walk((0, u128::MAX), &mut |met| {
            if let Met::Entry(stretch, value) = met {
                let start = (stretch as u64).saturating_mul(PAGE_MAP_PAGES);
                for (at, byte) in (0u64..).zip(value).filter(|(_, byte)| **byte != 0) {
                    for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                        let page = start.saturating_add(at * 8 + bit);
                        if page >= used.len {
                            outside = Some(page);
                        }
                        used.insert(page);
                    }
                }
            }
            true
        });
    let file = catalog.pages.name();
    if let Some(page) = outside {
        let message = format!("the page map calls page {page} used, and there is no such page");
        findings.add(Problem::damage(Kind::PageMap, message).in_file(file, 0));
    }
    for page in reached.differences(&used).filter(|page| *page > 1) {
        let at = page * PAGE as u64;
        findings.add(if reached.has(page) {
            let message = format!(
                "page {page} is in use, and the page map calls it free: the next checkpoint may \
                 overwrite it"
            );
            Problem::damage(Kind::PageMap, message).in_file(file, at)
        } else {
            let message = format!("page {page} is used by nothing; its space is lost");
            Problem::note(Kind::PageMap, message).in_file(file, at)
        });
    }
}

/// A bit for each page, as far as pages were met: the file is sparse, and far longer.
struct Reached {
    /// Pages that the file has room for.
    len: u64,
    words: Vec<u64>,
}

impl Reached {
    fn new(len: u64) -> Self {
        let words = Vec::new();
        Self { len, words }
    }

    fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or(0)
    }

    fn has(&self, page: u64) -> bool {
        self.word((page / 64) as usize) >> (page % 64) & 1 == 1
    }

    /// Whether it is new, or is no page at all, which reading it will show.
    fn insert(&mut self, page: u64) -> bool {
        if page >= self.len {
            return true;
        }
        let (at, bit) = ((page / 64) as usize, 1 << (page % 64));
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let new = self.words[at] & bit == 0;
        self.words[at] |= bit;
        new
    }

    /// The pages that are in one of the two alone.
    fn differences(&self, other: &Self) -> impl Iterator<Item = u64> {
        let words = self.words.len().max(other.words.len());
        let differ = (0..words).map(|at| (at as u64 * 64, self.word(at) ^ other.word(at)));
        differ
            .filter(|(_, bits)| *bits != 0)
            .flat_map(|(first, bits)| {
                (0..64)
                    .filter(move |bit| bits >> bit & 1 == 1)
                    .map(move |bit| first + bit)
            })
    }

    /// The page after the last one.
    fn end(&self) -> u64 {
        self.words.len() as u64 * 64
    }
}
