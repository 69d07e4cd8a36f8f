//! The offline check: reads a store with its own eyes, and says what is wrong, where, and which
//! disks and snapshots it touches.
//!
//! It shares the formats with the rest of the program and nothing else, so that it does not
//! inherit the mistakes of the code that keeps the store: it may import `base`, `ondisk`, `config`
//! and `device` alone. It opens nothing for writing. Memory is that of the log, the small records,
//! half a byte for each slot and a bit for each block of 2 TiB at a time; the big trees are gone
//! through in the order of their keys.

mod apply;
mod behind;
mod blame;
mod blocks;
mod catalog;
mod cut;
mod data;
mod devices;
mod files;
mod findings;
mod headers;
mod journal;
mod lent;
mod log;
mod mends;
mod names;
mod overlay;
mod packs;
mod pages;
mod problem;
mod records;
mod repair;
mod report;
mod root;
mod segments;
mod slots;
mod space;
mod totals;
mod tree;
mod versions;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

pub use devices::OpenDevice;
pub use files::{CheckError, Files};
pub use journal::{End, Journal};
pub use problem::{At, Kind, Problem, Severity};
pub use report::{Report, Space, Verdict};

use crate::base::{BLOCK_SIZE, BlockMask, DeviceNo, Place, Slot};
use crate::device::Device;
use blame::Bad;
use catalog::Catalog;
use findings::Findings;
use headers::Opened;
use lent::Lent;
use root::NoRoot;

/// What a store is made of.
pub struct Parts<'a> {
    /// The catalog's pages.
    pub pages: Arc<dyn Device>,
    /// The catalog's log, or why there is none.
    pub log: Result<Arc<dyn Device>, String>,
    /// The journal, or why it can't be opened.
    pub journal: Result<Arc<dyn Device>, String>,
    /// Opens a device of the pool.
    pub open: &'a OpenDevice<'a>,
}

/// How thorough the check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether every block of data is read and compared with its checksum.
    pub data: bool,
}

/// Checks a store. `progress` hears of bytes of data read, and of all that there are.
///
/// # Errors
/// Where there is nothing that can be checked: no catalog, or one of a later format.
pub fn check(
    parts: &Parts<'_>,
    options: Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, CheckError> {
    let mut findings = Findings::default();
    let root = match root::newest(&*parts.pages, &mut findings) {
        Ok(root) => root,
        Err(NoRoot::CouldNotCheck(why)) => return Err(CheckError::NotACatalog(why)),
        Err(NoRoot::Damaged) => return Ok(Report::lost(findings)),
    };
    let log = parts.log.as_deref().map_err(String::as_str);
    let mut catalog = Catalog::read(&*parts.pages, log, root, &mut findings);
    let readable = pages::check(&catalog, &mut findings);
    records::check(&catalog, &mut findings);
    space::check(&catalog, &mut findings);
    let found = versions::check(&mut catalog, readable, &mut findings);
    let devices = devices::open(&catalog, parts.open, &mut findings);
    let reader = match &parts.journal {
        Ok(journal) => {
            let lent = Lent {
                catalog: &catalog,
                devices: &devices,
            };
            headers::open(&**journal, lent, &mut findings).map_err(CheckError::NotACatalog)?
        }
        Err(error) => {
            findings.add(Problem::damage(Kind::Journal, error.clone()));
            Opened::Foreign
        }
    };
    let (mut reader, mut cut) = match reader {
        Opened::Journal(reader) => (Some(reader), None),
        Opened::Lost(cut) => (None, Some(cut)),
        Opened::Foreign => (None, None),
    };
    let journal = reader.as_mut().map(|reader| {
        let (journal, rest) = reader.scan(&mut findings, &mut |_| {});
        cut = rest;
        journal
    });
    let mut read = 0;
    if readable.sums {
        let total = found.blocks * BLOCK_SIZE;
        let devices = Some(&devices).filter(|_| options.data);
        let bad = look_at_blocks(&catalog, devices, &mut |bytes| {
            read += bytes;
            progress(read, total.max(read));
        })
        .map_err(CheckError::Threads)?;
        if !bad.is_empty() {
            blame::report(&catalog, &bad, reader.as_deref_mut(), &mut findings);
        }
    }
    progress(read, read);
    let mut report = Report::new(&catalog, &readable, &found, journal, read, findings);
    // It goes by what the catalog says of the journal.
    report.cut = cut.filter(|_| !report.in_doubt);
    Ok(report)
}

/// Finds blocks without a checksum, and, given the devices, those that differ from theirs.
fn look_at_blocks(
    catalog: &Catalog<'_>,
    devices: Option<&BTreeMap<DeviceNo, Arc<dyn Device>>>,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Bad> {
    let mut unknown: Vec<(Place, BlockMask)> = Vec::new();
    let mut missing = |place, mask| {
        if unknown.len() < blame::MAX_SLOTS {
            unknown.push((place, mask));
        }
    };
    let mut bad = Bad::default();
    match devices {
        None => blocks::each(catalog, &mut |_, _, _, _| {}, &mut missing),
        Some(devices) => {
            let feed = |mut feed: data::Feed| {
                let mut have = |device, group, blocks, sums: &_| {
                    feed.group(device, group, blocks, sums);
                };
                blocks::each(catalog, &mut have, &mut missing);
            };
            let blocks = catalog.root.geometry.blocks() as u64;
            data::read(devices, feed, progress, &mut |block| {
                let slot = Slot(block.block / blocks);
                let place = Place {
                    device: block.device,
                    slot,
                };
                let Some(of) = bad.at(place) else { return };
                let index = (block.block % blocks) as usize;
                match block.error {
                    None => of.wrong.insert(index),
                    Some(error) => {
                        of.unreadable.insert(index);
                        of.error = format!("can't be read: {error}");
                    }
                }
            })?;
        }
    }
    for (place, mask) in unknown {
        if let Some(of) = bad.at(place) {
            of.unknown = of.unknown.or(&mask);
        }
    }
    Ok(bad)
}
