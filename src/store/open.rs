//! Making a catalog, and opening one.

use std::io::IoSlice;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::changes::apply_all;
use super::checkpoint::Writer;
use super::log::Log;
use super::page_alloc::PageAlloc;
use super::pages::Pages;
use super::state::{Content, State, tree_of};
use super::tree::Edit;
use super::{CatalogConfig, CatalogError};
use crate::base::Geometry;
use crate::device::{Device, Step};
use crate::ondisk::{FormatError, Marks, PAGE, Root, Space, TreeKind, TreeRoot, encode_frame};

/// The least bytes that the pages' device can have.
const MIN_PAGES: u64 = 16 * PAGE as u64;

/// A catalog that has been opened.
pub(super) struct Opened {
    pub(super) state: State,
    pub(super) writer: Writer,
}

/// See [`Catalog::create`](super::Catalog::create).
pub(super) fn create(
    pages: &dyn Device,
    log: &dyn Device,
    uuid: [u8; 16],
    geometry: Geometry,
) -> Result<(), CatalogError> {
    check_sizes(pages, log)?;
    let mut root = Root {
        uuid,
        geometry,
        generation: 0,
        commit: 0,
        marks: Marks::default(),
        space: Space::default(),
        trees: [TreeRoot::default(); TreeKind::ALL.len()],
    };
    let mut both = root.encode()?;
    root.generation = 1;
    both.extend(root.encode()?);
    pages.write_at(&[IoSlice::new(&both)], 0)?;
    pages.sync()?;
    let opening = encode_frame(uuid, root.generation, root.commit, &[], geometry)?;
    log.write_at(&[IoSlice::new(&opening)], 0)?;
    Ok(log.sync()?)
}

/// See [`Catalog::open`](super::Catalog::open).
pub(super) fn open(
    pages: Arc<dyn Device>,
    log: Arc<dyn Device>,
    config: CatalogConfig,
) -> Result<Opened, CatalogError> {
    check_sizes(&*pages, &*log)?;
    let root = newest_root(&*pages)?;
    let log = Log::new(log, root.uuid, root.geometry, root.generation);
    let found = log.search()?;
    if let Some(newest) = found.newest.filter(|newest| *newest > root.generation) {
        return Err(CatalogError::LostRoot {
            pages: pages.name().to_owned(),
            log: log.name().to_owned(),
            newest,
            root: root.generation,
        });
    }
    // A program that was killed may have left root and frames in the host's memory alone. Make
    // them durable before anything is built on them.
    pages.sync()?;
    log.sync()?;
    let capacity = pages.len() / PAGE as u64;
    let pages = Arc::new(Pages::new(pages, config.page_cache));
    let mut writer = Writer {
        uuid: root.uuid,
        geometry: root.geometry,
        log,
        alloc: PageAlloc::new(capacity),
        page_map: tree_of(&root, TreeKind::PageMap),
        freed: Vec::new(),
        dirty: 0,
        poison: None,
    };
    writer.page_map.scan(&pages, 0, &mut |stretch, bits| {
        writer.alloc.restore(stretch as u64, bits)?;
        Ok(ControlFlow::Continue(()))
    })?;
    let mut content = Content::new(&root);
    let mut edit = Edit::new(&pages);
    let device = writer.log.name().to_owned();
    let last = writer
        .log
        .replay(&found, root.commit, |offset, header, frame| {
            let changes = header
                .changes(frame, root.geometry)
                .map_err(CatalogError::from);
            changes
                .and_then(|changes| apply_all(&mut content, &mut edit, root.geometry, &changes))
                .map_err(|source| CatalogError::Replay {
                    device: device.clone(),
                    offset,
                    commit: header.commit,
                    source: Box::new(source),
                })
        })?;
    Step::CatalogReplayed.fails()?;
    writer.freed = edit.freed;
    writer.dirty = edit.dirty;
    if last.is_none() {
        // A crash came between the root and the frame that opens its generation.
        writer.log.start(root.generation, root.commit)?;
    }
    let state = State {
        content,
        geometry: root.geometry,
        commit: last.unwrap_or(root.commit),
        publication: 0,
        pages,
    };
    Ok(Opened { state, writer })
}

/// The newest of the roots that are whole.
fn newest_root(pages: &dyn Device) -> Result<Root, CatalogError> {
    let device = || pages.name().to_owned();
    match (read_root(pages, 0)?, read_root(pages, 1)?) {
        (Err(source @ FormatError::NewerFormat { .. }), _)
        | (_, Err(source @ FormatError::NewerFormat { .. })) => {
            let device = device();
            Err(CatalogError::Root { device, source })
        }
        (Ok(even), Ok(odd)) if even.generation > odd.generation => Ok(even),
        (_, Ok(root)) | (Ok(root), Err(_)) => Ok(root),
        (Err(FormatError::Magic { .. }), Err(FormatError::Magic { .. })) => {
            Err(CatalogError::NotAStore { device: device() })
        }
        (Err(first), Err(second)) => {
            let (device, first, second) = (device(), Box::new(first), Box::new(second));
            Err(CatalogError::RootsDamaged {
                device,
                first,
                second,
            })
        }
    }
}

fn read_root(pages: &dyn Device, slot: u64) -> Result<Result<Root, FormatError>, CatalogError> {
    let mut page = [0; PAGE];
    pages.read_at(&mut page, slot * PAGE as u64)?;
    Ok(Root::decode(&page).and_then(|root| {
        if root.generation % 2 == slot {
            return Ok(root);
        }
        Err(FormatError::Mismatch {
            what: "catalog root",
            field: "page for its generation",
            expected: root.generation % 2,
            found: slot,
        })
    }))
}

fn check_sizes(pages: &dyn Device, log: &dyn Device) -> Result<(), CatalogError> {
    for (device, need) in [(pages, MIN_PAGES), (log, Log::MIN)] {
        if device.len() < need {
            return Err(CatalogError::TooSmall {
                device: device.name().to_owned(),
                len: device.len(),
                need,
            });
        }
    }
    Ok(())
}
