//! Reads over iSCSI from real files: many under way at a time, while blocks are written, moved, damaged
//! and given up.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use common::iscsi::{good, identity, sense, served, session_at, settle};
use common::{Random, noise, seeds};
use snapmark::frontend::iscsi::{Initiator, Transfer};

const BLOCKS: u64 = 4096;
const BLOCK: usize = 4096;
const DEPTH: usize = 48;

/// READ or WRITE (16).
fn cdb(writes: bool, block: u64, blocks: u64) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = if writes { 0x8a } else { 0x88 };
    cdb[2..10].copy_from_slice(&(block * 8).to_be_bytes());
    cdb[10..14].copy_from_slice(&(blocks as u32 * 8).to_be_bytes());
    cdb
}

fn stamp(block: u64, version: u32) -> Vec<u8> {
    let mut bytes = noise(block << 32 | u64::from(version), BLOCK);
    bytes[..8].copy_from_slice(&block.to_le_bytes());
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes
}

enum UnderWay {
    /// Of a block, with the oldest version that may be found.
    Read(u64, u64, Vec<u32>),
    Write(u64, Vec<u8>),
}

/// Each block has versions; a read may find one that was written when it began, or any that came later.
#[test]
fn reads_under_way_see_every_write_that_was_acknowledged() {
    if !common::able(&[]) {
        return;
    }
    // The cache is small: blocks are moved under the reads, in place and, after snapshots, elsewhere.
    let (store, portal) = served(&["--size", "256MiB"]);
    store.make("d", BLOCKS * BLOCK as u64);
    let seed = seeds(1)[0];
    let mut random = Random(seed);
    let mut who = identity("reader", "d");
    who.digests = seed.is_multiple_of(2);
    let mut session = Initiator::log_in(portal, &who).unwrap();
    settle(&mut session);
    let mut acknowledged = vec![0u32; BLOCKS as usize];
    let mut issued = acknowledged.clone();
    let mut writing = vec![false; BLOCKS as usize];
    let mut under_way: HashMap<u32, UnderWay> = HashMap::new();
    let (end, mut snapshots) = (Instant::now() + Duration::from_secs(8), 0);
    let mut reads = 0u64;
    loop {
        let goes_on = Instant::now() < end;
        while goes_on && under_way.len() < DEPTH {
            let block = random.below(BLOCKS);
            let tag = if random.below(3) == 0 && !writing[block as usize] {
                issued[block as usize] += 1;
                writing[block as usize] = true;
                let data = stamp(block, issued[block as usize]);
                let tag = session
                    .start(&cdb(true, block, 1), Transfer::Out(&data))
                    .unwrap();
                under_way.insert(tag, UnderWay::Write(block, data));
                tag
            } else {
                let count = (1 + random.below(4)).min(BLOCKS - block);
                let len = count as usize * BLOCK;
                let tag = session
                    .start(&cdb(false, block, count), Transfer::In(len))
                    .unwrap();
                let least = acknowledged[block as usize..][..count as usize].to_vec();
                under_way.insert(tag, UnderWay::Read(block, count, least));
                tag
            };
            assert_ne!(tag, 0);
        }
        if under_way.is_empty() {
            break;
        }
        let (tag, outcome) = session
            .next_end(|tag| match &under_way[&tag] {
                UnderWay::Read(_, count, _) => Transfer::In(*count as usize * BLOCK),
                UnderWay::Write(_, data) => Transfer::Out(data),
            })
            .unwrap();
        good(&outcome);
        match under_way.remove(&tag).unwrap() {
            UnderWay::Write(block, _) => {
                acknowledged[block as usize] = issued[block as usize];
                writing[block as usize] = false;
            }
            UnderWay::Read(first, count, least) => {
                reads += 1;
                assert_eq!(outcome.data.len(), count as usize * BLOCK);
                for (n, found) in outcome.data.chunks(BLOCK).enumerate() {
                    let block = first + n as u64;
                    let version = u32::from_le_bytes(found[8..12].try_into().unwrap());
                    let possible = least[n]..=issued[block as usize];
                    assert!(
                        possible.contains(&version),
                        "block {block}: {version} of {possible:?}, seed {seed}"
                    );
                    let expected = match version {
                        0 => vec![0; BLOCK],
                        version => stamp(block, version),
                    };
                    assert!(
                        found == expected,
                        "block {block}, version {version}, seed {seed}"
                    );
                }
            }
        }
        if goes_on && random.below(3000) == 0 {
            snapshots += 1;
            store.snapshot("d", &format!("s{snapshots}"));
            if snapshots > 3 {
                let old = format!("delete d@s{}", snapshots - 3);
                store.control(&old).unwrap();
            }
        }
    }
    eprintln!("{reads} reads, {snapshots} snapshots");
    assert!(reads > 1000 && snapshots > 0);
    session.log_out().unwrap();
}

/// A block that is not what was written is no data, and no other read is kept from its own.
#[test]
fn a_damaged_block_is_a_medium_error_and_its_neighbours_are_read() {
    if !common::able(&[]) {
        return;
    }
    let (mut store, portal) = served(&["--size", "64MiB"]);
    store.make("d", 1 << 20);
    let mut session = session_at(portal, "writer", "d");
    for block in 0..16 {
        let data = stamp(block, 1);
        good(
            &session
                .command(&cdb(true, block, 1), Transfer::Out(&data))
                .unwrap(),
        );
    }
    session.log_out().unwrap();
    store.unmount();
    let pool = std::fs::read(store.store().join("pool.img")).unwrap();
    let wanted = stamp(5, 1);
    let at = pool
        .windows(BLOCK)
        .step_by(BLOCK)
        .position(|block| block == wanted);
    let file = OpenOptions::new()
        .write(true)
        .open(store.store().join("pool.img"))
        .unwrap();
    file.write_all_at(b"damage", (at.unwrap() * BLOCK) as u64 + 100)
        .unwrap();
    drop(file);
    store.mount();
    let mut session = session_at(portal, "reader", "d");
    let mut tags = HashMap::new();
    for block in (0..16).chain(0..16) {
        let tag = session
            .start(&cdb(false, block, 1), Transfer::In(BLOCK))
            .unwrap();
        tags.insert(tag, block);
    }
    while !tags.is_empty() {
        let (tag, outcome) = session.next_end(|_| Transfer::In(BLOCK)).unwrap();
        let block = tags.remove(&tag).unwrap();
        if block == 5 {
            assert_eq!(sense(&outcome), (3, 0x11, 0), "unrecovered read error");
        } else {
            good(&outcome);
            assert!(outcome.data == stamp(block, 1), "{block}");
        }
    }
    assert!(store.logged().contains("damaged"));
}

/// What is under way when its disk is reset, made smaller or left comes to an end, and holds up nobody.
#[test]
fn reads_under_way_end_with_their_session() {
    if !common::able(&[]) {
        return;
    }
    let (store, portal) = served(&["--size", "256MiB"]);
    store.make("d", 64 << 20);
    let mut session = session_at(portal, "writer", "d");
    for piece in 0..64 {
        let data = noise(piece, 1 << 20);
        good(
            &session
                .command(&cdb(true, piece * 256, 256), Transfer::Out(&data))
                .unwrap(),
        );
    }
    store.flush();
    let mut random = Random(seeds(1)[0]);
    for round in 0..60 {
        // Not in the host's memory: so they are under way for a while.
        std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        let mut other = session_at(portal, "reader", "d");
        for _ in 0..64 {
            let block = random.below(64 << 8);
            other
                .start(&cdb(false, block, 1), Transfer::In(BLOCK))
                .unwrap();
        }
        other.flush().unwrap();
        match round % 4 {
            // Cut off, and logged in again at once: the new session waits for the reads of the old one.
            0 => drop(other),
            1 => session.reset().unwrap(),
            2 => {
                let file = OpenOptions::new()
                    .write(true)
                    .open(store.disk("d"))
                    .unwrap();
                file.set_len(1 << 20).unwrap();
                file.set_len(64 << 20).unwrap();
            }
            _ => {
                other.socket().shutdown(std::net::Shutdown::Write).unwrap();
            }
        }
        settle(&mut session);
    }
    session.log_out().unwrap();
    drop(store);
}
