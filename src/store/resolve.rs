//! Where a segment's blocks come from: walks its versions from the newest that counts downward.

use std::ops::ControlFlow;

use super::{CatalogError, View};
use crate::base::{BlockMask, Epoch, MapId, SegmentNo};
use crate::ondisk::{Descriptor, Extent, VersionKey};

/// Where some blocks of a segment come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the blocks of a slot.
    Data(Extent),
    /// They are zero.
    Zero,
    /// No version speaks for them: from the map's origin, or zero where it has none.
    Below,
}

/// As of when a segment is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// As the disk is now.
    Live,
    /// As the snapshot that ended this epoch sees it.
    Epoch(Epoch),
}

impl View {
    /// Visits the versions that a segment consists of as of `at`, the newest first, until told to
    /// stop: the one that counts, and those that may show through its gaps.
    ///
    /// # Errors
    /// Where the catalog can't be read.
    pub fn layers(
        &self,
        map: MapId,
        segment: SegmentNo,
        at: At,
        visit: &mut dyn FnMut(VersionKey, &Descriptor) -> ControlFlow<()>,
    ) -> Result<(), CatalogError> {
        let top = match at {
            At::Live => VersionKey {
                map,
                segment,
                death: Epoch::LIVE,
            },
            At::Epoch(epoch) => match self.version_at(map, segment, epoch)? {
                Some((key, _)) => key,
                None => return Ok(()),
            },
        };
        let mut met_top = false;
        self.versions_down(top, &mut |key, descriptor| {
            met_top |= key == top;
            if met_top {
                visit(key, descriptor)
            } else {
                // Nothing is live; what is older does not count.
                ControlFlow::Break(())
            }
        })
    }

    /// Where the `wanted` blocks of a segment come from, as of `at`. The masks of the answer are
    /// disjoint and make up `wanted`.
    ///
    /// # Errors
    /// Where the catalog can't be read.
    pub fn resolve(
        &self,
        map: MapId,
        segment: SegmentNo,
        at: At,
        wanted: BlockMask,
    ) -> Result<Vec<(BlockMask, Source)>, CatalogError> {
        let (mut pieces, mut rest) = (Vec::new(), wanted);
        self.layers(map, segment, at, &mut |_, descriptor| {
            if rest.is_empty() {
                return ControlFlow::Break(());
            }
            let data = rest.and(&descriptor.data);
            let zero = rest.and(&descriptor.zero);
            if let Some(extent) = descriptor.extent().filter(|_| !data.is_empty()) {
                pieces.push((data, Source::Data(extent)));
            }
            if !zero.is_empty() {
                pieces.push((zero, Source::Zero));
            }
            rest = rest.minus(&descriptor.covered());
            ControlFlow::Continue(())
        })?;
        if !rest.is_empty() {
            pieces.push((rest, Source::Below));
        }
        Ok(pieces)
    }

    /// Up to `limit` segments in `from..to`, in order, that the map or what it stands on has
    /// versions of as of `at`. Some of them may hold only zeros.
    ///
    /// # Errors
    /// Where the catalog can't be read.
    pub fn mapped_segments(
        &self,
        map: MapId,
        at: At,
        from: SegmentNo,
        to: SegmentNo,
        limit: usize,
    ) -> Result<Vec<SegmentNo>, CatalogError> {
        let mut found = self.own_segments(map, at, from, to, limit)?;
        if let Some(origin) = self.map(map)?.and_then(|record| record.origin) {
            let blocks = self.geometry().blocks() as u64;
            let end = SegmentNo(origin.limit.0.div_ceil(blocks).min(to.0));
            let below =
                self.mapped_segments(origin.map, At::Epoch(origin.epoch), from, end, limit)?;
            found.extend(below);
            found.sort_unstable();
            found.dedup();
            found.truncate(limit);
        }
        Ok(found)
    }

    /// As [`mapped_segments`](Self::mapped_segments), without what the map stands on.
    ///
    /// # Errors
    /// Where the catalog can't be read.
    pub fn own_segments(
        &self,
        map: MapId,
        at: At,
        from: SegmentNo,
        to: SegmentNo,
        limit: usize,
    ) -> Result<Vec<SegmentNo>, CatalogError> {
        /// Versions looked at in one scan.
        const SCAN: usize = 256;
        let mut found: Vec<SegmentNo> = Vec::new();
        let mut next = VersionKey {
            map,
            segment: from,
            death: Epoch(0),
        };
        'scan: while found.len() < limit && next.segment < to {
            let versions = self.versions_from(next, SCAN)?;
            for (key, descriptor) in &versions {
                if key.segment >= to || found.len() >= limit {
                    break 'scan;
                }
                let counts = match at {
                    At::Live => key.death == Epoch::LIVE,
                    At::Epoch(epoch) => descriptor.birth <= epoch && key.death > epoch,
                };
                if counts && found.last() != Some(&key.segment) {
                    found.push(key.segment);
                }
            }
            match versions.last() {
                Some((last, _)) if versions.len() == SCAN => {
                    next = VersionKey {
                        death: last.death.next(),
                        ..*last
                    }
                }
                _ => break,
            }
            if next.death > Epoch::LIVE {
                next = VersionKey {
                    map,
                    segment: next.segment.next(),
                    death: Epoch(0),
                };
            }
        }
        Ok(found)
    }
}
