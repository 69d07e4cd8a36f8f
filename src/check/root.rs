//! The two roots of the catalog.

use super::findings::Findings;
use super::problem::{Kind, Problem};
use crate::device::Device;
use crate::ondisk::{FormatError, PAGE, Root};

/// Why a catalog can't be looked at.
#[derive(Debug)]
pub(super) enum NoRoot {
    /// It is none, or of a later format.
    CouldNotCheck(String),
    /// It was one.
    Damaged,
}

/// The newest root that is whole.
pub(super) fn newest(pages: &dyn Device, findings: &mut Findings) -> Result<Root, NoRoot> {
    let (even, odd) = (read(pages, 0), read(pages, 1));
    for root in [&even, &odd] {
        if let Err(Bad::Format(error @ FormatError::NewerFormat { .. })) = root {
            return Err(NoRoot::CouldNotCheck(format!("{}: {error}", pages.name())));
        }
    }
    match (even, odd) {
        (Ok(even), Ok(odd)) => {
            if even.uuid != odd.uuid || even.geometry != odd.geometry {
                findings.add(
                    Problem::damage(Kind::Root, "the two roots are of different stores")
                        .in_file(pages.name(), 0),
                );
            }
            Ok(if even.generation > odd.generation {
                even
            } else {
                odd
            })
        }
        (Ok(root), Err(other)) | (Err(other), Ok(root)) => {
            let page = (root.generation + 1) % 2;
            let message = format!(
                "root page {page} is not whole ({other}); the other one, of generation {}, counts",
                root.generation
            );
            findings
                .add(Problem::note(Kind::Root, message).in_file(pages.name(), page * PAGE as u64));
            Ok(root)
        }
        (
            Err(Bad::Format(FormatError::Magic { .. })),
            Err(Bad::Format(FormatError::Magic { .. })),
        ) => Err(NoRoot::CouldNotCheck(format!(
            "{} holds no catalog",
            pages.name()
        ))),
        (Err(even), Err(odd)) => {
            let message = format!(
                "both roots are damaged (page 0: {even}; page 1: {odd}): restore the catalog from a copy"
            );
            findings.add(Problem::damage(Kind::Root, message).in_file(pages.name(), 0));
            Err(NoRoot::Damaged)
        }
    }
}

/// Why a page is no root.
#[derive(Debug, thiserror::Error)]
enum Bad {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("{0}")]
    Device(String),
}

fn read(pages: &dyn Device, page: u64) -> Result<Root, Bad> {
    let mut bytes = [0; PAGE];
    pages
        .read_at(&mut bytes, page * PAGE as u64)
        .map_err(|error| Bad::Device(error.to_string()))?;
    let root = Root::decode(&bytes)?;
    if root.generation % 2 != page {
        return Err(Bad::Format(FormatError::Mismatch {
            what: "catalog root",
            field: "page for its generation",
            expected: root.generation % 2,
            found: page,
        }));
    }
    Ok(root)
}
