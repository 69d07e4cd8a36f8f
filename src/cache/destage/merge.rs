//! A version that stays takes in what shows through its gaps of those below it that go.

use super::super::CacheError;
use super::allocate::Allocator;
use super::fetched::Fetched;
use super::moving::{Moving, readable};
use super::segment::{is_thin, new_packed};
use super::work::Work;
use crate::base::{BlockMask, Geometry};
use crate::ondisk::{Change, Descriptor, Extent, VersionKey};
use crate::store::{Pool, View};

/// What merges work with.
pub(super) struct Tools<'a> {
    pub view: &'a View,
    pub pool: &'a Pool,
    pub slots: &'a mut Allocator,
    pub work: &'a mut Work,
    /// Nothing is to be copied: the host has no space for it.
    pub frugal: bool,
    /// What was to be copied could not be read.
    pub unreadable: bool,
}

/// A version that stays, and those below it that go.
///
/// All of them are gathered before anything is copied: a copy reads what lies on the devices, and
/// what another copy of the same commit is about to write is not there yet.
pub(super) struct Merge {
    key: VersionKey,
    /// The version as it will be, but for where its data lies.
    merged: Descriptor,
    /// The versions, newest first, each with the blocks of its own that count: that which stays,
    /// then those that go.
    sources: Vec<(Descriptor, BlockMask)>,
    going: Vec<VersionKey>,
}

impl Merge {
    pub fn into(key: VersionKey, version: Descriptor) -> Self {
        Self {
            key,
            merged: version,
            sources: vec![(version, version.data)],
            going: Vec::new(),
        }
    }

    /// Takes in what shows of `lower`, the next one below.
    pub fn take(&mut self, key: VersionKey, lower: Descriptor, geometry: Geometry) {
        let gaps = BlockMask::full(geometry).minus(&self.merged.covered());
        let shows = lower.data.and(&gaps);
        self.merged.data = self.merged.data.or(&shows);
        self.merged.zero = self.merged.zero.or(&lower.zero.and(&gaps));
        self.sources.push((lower, shows));
        self.going.push(key);
    }

    /// Moves all that counts to one place. Says whether there was one, and all could be read; if
    /// not, nothing changes.
    pub fn plan(self, tools: &mut Tools<'_>) -> Result<bool, CacheError> {
        if self.going.is_empty() {
            return Ok(true);
        }
        let showing = self.sources.iter().filter(|(_, shows)| !shows.is_empty());
        if tools.frugal && showing.count() > 1 {
            return Ok(false);
        }
        let target = self.target();
        let Some(moving) = readable(tools.pool, self.read(&target, tools))? else {
            tools.unreadable = true;
            return Ok(false);
        };
        let to = match target {
            Target::Nowhere => None,
            Target::Here(to) => Some(to),
            Target::New => match new_extent(&self.merged.data, tools) {
                Some(to) => Some(to),
                None => return Ok(false),
            },
        };
        let (data, zero) = (self.merged.data, self.merged.zero);
        for (version, _) in &self.sources {
            match version.extent() {
                Some(from) if Some(from) == to => {
                    tools.work.punch(&from, &version.data.minus(&data));
                }
                Some(_) => tools.work.release(version),
                None => {}
            }
        }
        if let Some(to) = &to {
            tools.work.put(tools.pool, to, moving)?;
        }
        let merged = Descriptor::new(self.merged.birth, to, data, zero);
        let changes = &mut tools.work.changes;
        changes.extend(self.going.into_iter().map(Change::RemoveVersion));
        changes.push(Change::PutVersion(self.key, merged));
        Ok(true)
    }

    /// What has to be moved.
    fn read(&self, target: &Target, tools: &Tools<'_>) -> Result<Moving, CacheError> {
        let (mut moving, nothing) = (Moving::default(), Fetched::default());
        for (version, shows) in &self.sources {
            let stays = |from: &Extent| matches!(target, Target::Here(to) if to == from);
            if let Some(from) = version.extent().filter(|from| !stays(from)) {
                moving.read((tools.pool, tools.view, &nothing), &from, shows)?;
            }
        }
        Ok(moving)
    }

    /// Where all that counts is to lie: in the slot of its own that has the most of it, so that
    /// the fewest blocks move; or where it all lies already; else in a new place.
    ///
    /// What is written to a slot that is in use nobody reads before the commit: in the version's
    /// own slot it was a gap, in that of a lower one it was hidden. So a crash before the commit
    /// does no harm.
    fn target(&self) -> Target {
        let showing = || {
            let sources = self.sources.iter();
            sources.filter(|(_, shows)| !shows.is_empty())
        };
        let place = |version: &Descriptor| version.extent().map_or(Target::Nowhere, Target::Here);
        let own = showing()
            .rev()
            .filter(|(version, _)| version.has_own_slot());
        if let Some((most, _)) = own.max_by_key(|(_, shows)| shows.count()) {
            return place(most);
        }
        let mut packed = showing();
        match (packed.next(), packed.next()) {
            (None, _) => Target::Nowhere,
            (Some((only, _)), None) => place(only),
            _ => Target::New,
        }
    }
}

/// Where what a merge leaves is to lie.
enum Target {
    /// It has no data.
    Nowhere,
    /// Where one of the versions lies.
    Here(Extent),
    New,
}

/// A new place for these blocks, of the slots that nobody was promised.
fn new_extent(blocks: &BlockMask, tools: &mut Tools<'_>) -> Option<Extent> {
    let geometry = tools.view.geometry();
    if is_thin(blocks, geometry) {
        return new_packed(blocks, geometry, tools.slots, tools.work);
    }
    let slot = tools.slots.take_spare()?;
    tools.work.took(slot);
    Some(Extent::own(slot.place))
}
