//! The counts of free and pending slots, against the lists.

use super::catalog::{Catalog, MAX_SLOTS};
use super::findings::Findings;
use super::problem::{Kind, Problem, Severity};
use super::slots::Use;
use crate::base::DeviceNo;
use crate::ondisk::{Change, Space};

/// Compares them. To be called before the versions have marked their slots.
pub(super) fn check(catalog: &Catalog<'_>, findings: &mut Findings) {
    let (mut total, mut free, mut pending) = (0u64, 0, catalog.on_both_lists);
    for (number, slots) in catalog.slots.devices() {
        let Some(entry) = catalog.devices.get(&number) else {
            continue;
        };
        if entry.record.slots > MAX_SLOTS {
            let slots = entry.record.slots;
            let message = format!("device {number} is said to have {slots} segments: too many");
            findings.add(of_device(number, message));
        }
        let listed = slots.count(Use::Free);
        if listed != entry.free && catalog.whole {
            let message = format!(
                "device {number} counts {} free segments, and {listed} are on the free list",
                entry.free
            );
            let mend = vec![Change::CountFree(number, listed)];
            let problem = of_device(number, message);
            findings.add(Problem {
                severity: Severity::Repairable,
                mend,
                ..problem
            });
        }
        total = total.saturating_add(entry.record.slots);
        free += listed;
        pending += slots.count(Use::Pending);
    }
    let space = catalog.space;
    let counts = [
        ("in all", space.total, total),
        ("free", space.free, free),
        ("waiting for their hole punch", space.pending, pending),
    ];
    let wrong = counts.into_iter().filter(|(_, says, is)| says != is);
    for (what, says, is) in wrong.filter(|_| catalog.whole) {
        let message = format!("the catalog counts {says} segments {what}, and there are {is}");
        let mend = vec![Change::CountSpace(Space {
            total,
            free,
            pending,
        })];
        findings.add(Problem::mended_by(Kind::Space, message, mend));
    }
}

fn of_device(number: DeviceNo, message: String) -> Problem {
    let mut problem = Problem::damage(Kind::Space, message);
    problem.at.device = Some(number.0);
    problem
}
