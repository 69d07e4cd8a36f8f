//! The slots that queued writes by reference have their data in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::catalog::Catalog;
use super::slots::Use;
use crate::base::{BLOCK, Checksum, DeviceNo, DiskId, Place, checksum};
use crate::device::Device;
use crate::ondisk::journal::{Body, Op, RecordHeader, Reference};
use crate::ondisk::slot_start;

/// Disks that the records before this one have made, and that the catalog does not have.
pub(super) type Created = BTreeSet<DiskId>;

/// A slot without the data that a record says it has.
pub(super) struct Missing {
    pub place: Place,
    /// Why that can't be told; none where it has something else.
    pub error: Option<String>,
}

/// Where they are.
pub(super) struct Lent<'a> {
    pub catalog: &'a Catalog<'a>,
    pub devices: &'a BTreeMap<DeviceNo, Arc<dyn Device>>,
}

impl Lent<'_> {
    /// The first slot that does not hold what a record says, as far as that matters: of what the
    /// catalog has applied, they may hold something else by now.
    pub fn missing(
        &self,
        header: &RecordHeader,
        reference: &Reference,
        created: &Created,
    ) -> Option<Missing> {
        if !self.is_wanted(header, created) {
            return None;
        }
        let mut data = vec![0; reference.segment as usize * BLOCK];
        for (place, sums) in lent_sums(reference) {
            let missing = |error| Some(Missing { place, error });
            let device = self.devices.get(&place.device);
            let Some(device) = device.filter(|_| self.catalog.slots.get(place).is_some()) else {
                return missing(Some("there is no such slot".to_owned()));
            };
            let start = slot_start(place.slot, self.catalog.root.geometry);
            if let Err(error) = device.read_at(&mut data, start) {
                return missing(Some(error.to_string()));
            }
            let mut blocks = data.chunks_exact(BLOCK).zip(sums);
            if blocks.any(|(block, sum)| checksum(block) != *sum) {
                return missing(None);
            }
        }
        None
    }

    /// The first slot of a record that is not lent out, so that no commit can adopt it.
    pub fn not_lent(
        &self,
        header: &RecordHeader,
        reference: &Reference,
        created: &Created,
    ) -> Option<Place> {
        let is_lent = |place: &Place| self.catalog.slots.get(*place) == Some(Use::Pending);
        let mut places = reference.places.iter();
        let place = places.find(|place| !is_lent(place)).copied();
        place.filter(|_| self.is_wanted(header, created))
    }

    /// Whether the disk of a write is there, and has not got it yet.
    pub fn is_wanted(&self, header: &RecordHeader, created: &Created) -> bool {
        match self.catalog.disks.get(&header.disk) {
            Some(disk) => header.seq > disk.applied,
            None => created.contains(&header.disk),
        }
    }

    /// The name of a disk that the catalog knows.
    pub fn disk_name(&self, disk: DiskId) -> Option<String> {
        let disk = self.catalog.disks.get(&disk)?;
        Some(disk.name.clone())
    }

    /// Notes the disk that a record makes.
    pub fn note(&self, header: &RecordHeader, body: &Body, created: &mut Created) {
        if let Body::Op(Op::Create(new)) = body
            && header.seq > self.catalog.marks.applied
        {
            created.insert(new.disk);
        }
    }
}

/// The slots of a write by reference, each with its checksums.
fn lent_sums(reference: &Reference) -> impl Iterator<Item = (Place, &[Checksum])> {
    let first = reference.head as usize;
    let lent = &reference.sums[first..first + reference.lent() as usize];
    let each = lent.chunks_exact(reference.segment as usize);
    reference.places.iter().copied().zip(each)
}

/// The checksums of the blocks of a write by reference that follow its record.
pub(super) fn framed_sums(reference: &Reference) -> impl Iterator<Item = &Checksum> {
    let (head, rest) = reference.sums.split_at(reference.head as usize);
    head.iter().chain(&rest[reference.lent() as usize..])
}
