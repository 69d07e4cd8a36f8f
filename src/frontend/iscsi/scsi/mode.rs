//! Mode pages (SPC-4, section 7.5; SBC-3, section 6.5): caching, and control. Two bits can be set:
//! the format of sense data (D_SENSE), and write protection (SWP).

use std::sync::atomic::Ordering::Relaxed;

use super::Answer;
use super::cdb::{BLOCK, be16};
use super::nexus::Nexus;
use super::sense::{Sense, code};
use super::unit::Unit;

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const ALL: u8 = 0x3f;
/// Bits of the control page that can be set.
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;

/// Which values are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Current,
    Changeable,
    Default,
}

fn caching(values: Values) -> [u8; 20] {
    let mut page = [0; 20];
    (page[0], page[1]) = (CACHING, 18);
    if values != Values::Changeable {
        // WCE: what was written survives the daemon's death, but power loss only after a sync.
        page[2] = 0x04;
    }
    page
}

fn control(unit: &Unit, values: Values) -> [u8; 12] {
    let mut page = [0; 12];
    (page[0], page[1]) = (CONTROL, 10);
    let is_on = |flag: bool, bit| if flag { bit } else { 0 };
    match values {
        Values::Changeable => {
            page[2] = D_SENSE;
            page[4] = SWP;
        }
        Values::Current | Values::Default => {
            let is_current = values == Values::Current;
            // A task set for each initiator port (TST 001b), whose tasks may be reordered.
            page[2] = 0x20 | is_on(is_current && unit.wants_descriptors(), D_SENSE);
            page[3] = 0x10;
            page[4] = is_on(is_current && unit.software_protected.load(Relaxed), SWP);
            // The busy timeout is not limited.
            page[8..10].fill(0xff);
        }
    }
    page
}

/// MODE SENSE. `is_long` is the form with ten bytes.
pub(super) fn sense(unit: &Unit, cdb: &[u8; 16], is_long: bool) -> Result<Vec<u8>, Sense> {
    let values = match cdb[2] >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Default,
        // SAVING PARAMETERS NOT SUPPORTED
        _ => return Err(Sense::illegal((0x39, 0x00))),
    };
    let (page, subpage) = (cdb[2] & 0x3f, cdb[3]);
    if subpage != 0 && (page != ALL || subpage != 0xff) {
        return Err(Sense::field_in_cdb(3, None));
    }
    let mut pages = Vec::new();
    if matches!(page, CACHING | ALL) {
        pages.extend(caching(values));
    }
    if matches!(page, CONTROL | ALL) {
        pages.extend(control(unit, values));
    }
    if pages.is_empty() {
        return Err(Sense::field_in_cdb(2, Some(5)));
    }
    let descriptor = if cdb[1] & 0x08 == 0 {
        descriptor(unit, is_long && cdb[1] & 0x10 != 0)?
    } else {
        Vec::new()
    };
    let mut answer = header(unit, &descriptor, pages.len(), is_long);
    answer.extend(descriptor);
    answer.extend(pages);
    answer.truncate(if is_long {
        usize::from(be16(&cdb[7..]))
    } else {
        usize::from(cdb[4])
    });
    Ok(answer)
}

fn header(unit: &Unit, descriptor: &[u8], pages: usize, is_long: bool) -> Vec<u8> {
    // DPO and FUA are understood.
    let protected = unit.is_snapshot() || unit.software_protected.load(Relaxed);
    let specific = 0x10 | if protected { 0x80 } else { 0 };
    let len = descriptor.len() + pages;
    if is_long {
        let [high, low] = ((len + 6) as u16).to_be_bytes();
        let long_lba = u8::from(descriptor.len() == 16);
        vec![
            high,
            low,
            0,
            specific,
            long_lba,
            0,
            0,
            descriptor.len() as u8,
        ]
    } else {
        vec![(len + 3) as u8, 0, specific, descriptor.len() as u8]
    }
}

/// How many blocks there are, and of what length.
fn descriptor(unit: &Unit, is_long: bool) -> Result<Vec<u8>, Sense> {
    let capacity = unit.capacity().map_err(|error| Sense::of_read(&error))?;
    let blocks = capacity / BLOCK;
    let mut descriptor = Vec::new();
    if is_long {
        descriptor.extend(blocks.to_be_bytes());
        descriptor.extend([0; 4]);
    } else {
        descriptor.extend(u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
    }
    descriptor.extend((BLOCK as u32).to_be_bytes());
    Ok(descriptor)
}

/// MODE SELECT.
pub(super) fn select(
    unit: &Unit,
    nexus: &Nexus,
    cdb: &[u8; 16],
    list: &[u8],
    is_long: bool,
) -> Answer {
    match changed(unit, cdb, list, is_long) {
        Ok(Some((d_sense, swp))) => {
            let before = (
                unit.descriptor_sense.swap(d_sense, Relaxed),
                unit.software_protected.swap(swp, Relaxed),
            );
            if before != (d_sense, swp) {
                unit.tell_others(&nexus.port, code::MODE_CHANGED);
            }
            Answer::Good
        }
        Ok(None) => Answer::Good,
        Err(sense) => Answer::Check(sense),
    }
}

/// The two bits as a parameter list wants them, if it has the control page.
fn changed(
    unit: &Unit,
    cdb: &[u8; 16],
    list: &[u8],
    is_long: bool,
) -> Result<Option<(bool, bool)>, Sense> {
    // Values can't be saved.
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::field_in_cdb(1, Some(0)));
    }
    if list.is_empty() {
        return Ok(None);
    }
    let head = if is_long { 8 } else { 4 };
    let too_short = || Sense::illegal(code::PARAMETER_LIST_LENGTH);
    if list.len() < head {
        return Err(too_short());
    }
    let descriptors = if is_long {
        usize::from(be16(&list[6..]))
    } else {
        usize::from(list[3])
    };
    let mut at = head + descriptors;
    let mut bits = None;
    while at < list.len() {
        let page = &list[at..];
        if page.len() < 2 || page.len() < 2 + usize::from(page[1]) {
            return Err(too_short());
        }
        let page = &page[..2 + usize::from(page[1])];
        let (now, may): (Vec<u8>, Vec<u8>) = match page[0] & 0x3f {
            CACHING => (
                caching(Values::Current).into(),
                caching(Values::Changeable).into(),
            ),
            CONTROL => (
                control(unit, Values::Current).into(),
                control(unit, Values::Changeable).into(),
            ),
            _ => return Err(Sense::field_in_parameters(at as u16)),
        };
        if page.len() != now.len() {
            return Err(Sense::field_in_parameters(at as u16 + 1));
        }
        let fixed = |n: usize| (page[n] ^ now[n]) & !may[n] != 0;
        if let Some(bad) = (2..page.len()).find(|n| fixed(*n)) {
            return Err(Sense::field_in_parameters((at + bad) as u16));
        }
        if page[0] & 0x3f == CONTROL {
            bits = Some((page[2] & D_SENSE != 0, page[4] & SWP != 0));
        }
        at += page.len();
    }
    Ok(bits)
}
