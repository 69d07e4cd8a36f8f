//! The order of things: which peer is set up when, and whose turn it is.

use std::fs::File;

use anyhow::{Context, Result};

use super::database::Database;
use super::figures::{Figure, Figures, Pair, PeerFigures, RowFigures, UnderLoad, Verdict};
use super::looped::Loop;
use super::machine::Machine;
use super::peers::{Kind, PEERS, Peer, Place, US, openings};
use super::plan::{On, PGBENCH, Plan, Row};
use super::process::{empty_page_cache, go_on, say};
use super::{database, fio, fresh, snapshots};

/// Measures all of these peers that the machine has.
pub fn measure(plan: &Plan, place: &Place, peers: &[&'static Kind]) -> Result<Figures> {
    let mut figures = Figures {
        plan: plan.clone(),
        machine: Machine::look(place, peers),
        our_verdict: Verdict::NotApplicable,
        our_snapshots: Vec::new(),
        many: Vec::new(),
        openings: Vec::new(),
        memory: 0,
        peers: Vec::new(),
        missing: Vec::new(),
    };
    let mut there = Vec::new();
    for kind in peers {
        match kind.missing() {
            Some(why) => figures.missing.push((kind.name, why)),
            None => there.push(*kind),
        }
    }
    let groups = if plan.together { there.len() } else { 1 };
    for group in there.chunks(groups.max(1)) {
        Group::start(plan, place, group, &mut figures)?.run(&mut figures)?;
    }
    Ok(figures)
}

/// Peers that are set up at the same time, and Snapmark beside them.
struct Group<'a> {
    plan: &'a Plan,
    place: &'a Place,
    us: Box<dyn Peer>,
    peers: Vec<(Box<dyn Peer>, PeerFigures)>,
}

impl<'a> Group<'a> {
    /// Sets all up and fills their images. A peer that can't be set up is missing.
    fn start(
        plan: &'a Plan,
        place: &'a Place,
        kinds: &[&'static Kind],
        figures: &mut Figures,
    ) -> Result<Self> {
        let (us, verdict) = prepare(&US, plan, place)?;
        if !matches!(figures.our_verdict, Verdict::Failed(_)) {
            figures.our_verdict = verdict;
        }
        let mut peers = Vec::new();
        for kind in kinds {
            match prepare(kind, plan, place) {
                Ok((peer, verdict)) => {
                    let found = PeerFigures {
                        id: kind.id,
                        name: kind.name,
                        verdict,
                        rows: Vec::new(),
                        snapshots: Vec::new(),
                        errors: Vec::new(),
                    };
                    peers.push((peer, found));
                }
                Err(error) => {
                    go_on()?;
                    say(&format!("  {error:#}"));
                    figures.missing.push((kind.name, format!("{error:#}")));
                }
            }
        }
        Ok(Self {
            plan,
            place,
            us,
            peers,
        })
    }

    fn run(mut self, figures: &mut Figures) -> Result<()> {
        for row in self.plan.jobs() {
            self.row(row)?;
        }
        figures.memory = figures.memory.max(self.us.memory().unwrap_or_default());
        if figures.our_snapshots.is_empty() {
            let us = self.us.as_mut();
            say("Snapmark: snapshots under load");
            let ours =
                loads(us, self.plan, self.place).context("Snapmark: snapshots under load")?;
            figures.our_snapshots = ours;
            if !self.plan.many.is_empty() {
                // One without snapshots.
                let mut fresh = US.start(self.place)?;
                fio::fill(fresh.path(), self.plan.size)?;
                let settle = |peer: &mut dyn Peer| settle(peer, self.place);
                let many = snapshots::many(fresh.as_mut(), self.plan, settle);
                figures.many = many.context("Snapmark: many snapshots")?;
                figures.memory = figures.memory.max(fresh.memory().unwrap_or_default());
                drop(fresh);
                say("Snapmark: opening");
                figures.openings = openings(self.place).context("Snapmark: opening")?;
            }
        }
        for (mut peer, mut found) in self.peers {
            say(&format!("{}: snapshots under load", found.name));
            match loads(peer.as_mut(), self.plan, self.place) {
                Ok(snapshots) => found.snapshots = snapshots,
                Err(error) => found
                    .errors
                    .push(format!("snapshots under load: {error:#}")),
            }
            go_on()?;
            drop(peer);
            let kind = PEERS.iter().find(|kind| kind.id == found.id);
            let has_all = |kind: &&Kind| kind.keeps_data && kind.all_jobs;
            if let Some(kind) = kind.filter(|kind| self.plan.is_full() && has_all(kind)) {
                found.rows.push(database(kind, self.place, self.plan));
                for job in &fresh::JOBS {
                    go_on()?;
                    found
                        .rows
                        .extend(on_fresh(job, kind, self.place, self.plan));
                }
            }
            go_on()?;
            figures.peers.push(found);
        }
        Ok(())
    }

    /// Peers, us, peers, us. A peer that failed a row is left out of the rest of it.
    fn row(&mut self, row: &'static Row) -> Result<()> {
        say(row.name);
        for round in 0..self.plan.pairs {
            let mut theirs = Vec::new();
            for (at, (peer, found)) in self.peers.iter_mut().enumerate() {
                let nothing_to_sync = matches!(found.verdict, Verdict::NotApplicable);
                let all = PEERS
                    .iter()
                    .any(|kind| kind.id == found.id && kind.all_jobs);
                if (row.syncs && nothing_to_sync)
                    || !(row.short || all)
                    || row.beside.is_some_and(|id| id != found.id)
                    || found.row(row).is_some_and(|row| row.error.is_some())
                {
                    continue;
                }
                if round == 0 {
                    found.rows.push(RowFigures {
                        row,
                        pairs: Vec::new(),
                        error: None,
                    });
                }
                match one(row, peer.as_mut(), self.plan, self.place, round) {
                    Ok(figure) => theirs.push((at, figure)),
                    Err(error) => {
                        go_on()?;
                        say(&format!("  {}: {error:#}", found.name));
                        if let Some(row) = found.rows.last_mut() {
                            row.error = Some(format!("{error:#}"));
                        }
                    }
                }
            }
            if theirs.is_empty() {
                continue;
            }
            let us = one(row, self.us.as_mut(), self.plan, self.place, round)?;
            for (at, peer) in theirs {
                let found = &mut self.peers[at].1;
                say(&format!(
                    "  {}: {:.0}, Snapmark: {:.0}",
                    found.name, peer.value, us.value
                ));
                if let Some(row) = found.rows.last_mut() {
                    row.pairs.push(Pair { peer, us });
                }
            }
        }
        Ok(())
    }
}

/// A database's transactions, peer, us, peer, us.
fn database(kind: &Kind, place: &Place, plan: &Plan) -> RowFigures {
    say(PGBENCH.name);
    let mut pairs = Vec::new();
    let measured = (|| {
        let programs = database::programs().context("it is not installed (Debian: postgresql)")?;
        // Ones without snapshots; a server goes before what it stands on.
        let (theirs, ours) = (kind.start(place)?, US.start(place)?);
        let peer = Database::start(programs.clone(), theirs.path()).context("on the peer")?;
        let us = Database::start(programs, ours.path()).context("on Snapmark")?;
        for _ in 0..plan.pairs {
            go_on()?;
            let pair = Pair {
                peer: peer.measure(plan.seconds).context("on the peer")?,
                us: us.measure(plan.seconds).context("on Snapmark")?,
            };
            let (theirs, ours) = (pair.peer.value, pair.us.value);
            say(&format!("  {theirs:.0}, Snapmark: {ours:.0}"));
            pairs.push(pair);
        }
        anyhow::Ok(())
    })();
    let error = measured.err().map(|error| format!("{error:#}"));
    if let Some(error) = &error {
        say(&format!("  {error}"));
    }
    RowFigures {
        row: &PGBENCH,
        pairs,
        error,
    }
}

/// A job on new images, peer, us, peer, us; nothing where the peer has no such thing.
fn on_fresh(job: &fresh::Job, kind: &Kind, place: &Place, plan: &Plan) -> Option<RowFigures> {
    say(job.row.name);
    let mut found = RowFigures {
        row: job.row,
        pairs: Vec::new(),
        error: None,
    };
    // What it moves and leaves behind is not known.
    let figure = |value| Figure {
        value,
        cpu: f64::NAN,
    };
    for round in 0..plan.pairs {
        let run = |kind| job.run(kind, place, plan, round, settle);
        let measured = (|| {
            go_on()?;
            let Some(theirs) = run(kind).context("on the peer")? else {
                return Ok(None);
            };
            let ours = run(&US).context("on Snapmark")?;
            anyhow::Ok(ours.map(|ours| (theirs, ours)))
        })();
        match measured {
            Ok(Some((theirs, ours))) => {
                say(&format!("  {theirs:.0}, Snapmark: {ours:.0}"));
                found.pairs.push(Pair {
                    peer: figure(theirs),
                    us: figure(ours),
                });
            }
            Ok(None) => return None,
            Err(error) => {
                say(&format!("  {error:#}"));
                found.error = Some(format!("{error:#}"));
                break;
            }
        }
    }
    Some(found)
}

/// Snapshots under the plan's loads, where the peer has any.
fn loads(peer: &mut dyn Peer, plan: &Plan, place: &Place) -> Result<Vec<UnderLoad>> {
    let mut found = Vec::new();
    for (number, load) in (1..).step_by(100).zip(plan.loads) {
        settle(peer, place)?;
        match snapshots::under_load(peer, plan, *load, number)? {
            Some(snapshot) => found.push(snapshot),
            None => break,
        }
    }
    Ok(found)
}

/// Sets one up, fills its image, and sees whether it gives back what was written.
fn prepare(kind: &Kind, plan: &Plan, place: &Place) -> Result<(Box<dyn Peer>, Verdict)> {
    go_on()?;
    say(&format!("{}: set up, filled and verified", kind.name));
    let peer = kind.start(place)?;
    if !kind.keeps_data {
        return Ok((peer, Verdict::NotApplicable));
    }
    fio::fill(peer.path(), plan.size).context("it can't be filled")?;
    let verdict = match fio::verify(peer.path(), plan.size) {
        Ok(()) => Verdict::Passed,
        Err(error) => Verdict::Failed(format!("{error:#}")),
    };
    go_on()?;
    if let Verdict::Failed(why) = &verdict {
        say(&format!("  failed: {why}"));
    }
    Ok((peer, verdict))
}

/// One run. Where nothing that earlier ones left behind is to be done any more, nothing of that counts
/// in it; what it leaves behind itself is done before the next, and counts as its work.
fn one(row: &Row, peer: &mut dyn Peer, plan: &Plan, place: &Place, round: usize) -> Result<Figure> {
    settle(peer, place)?;
    let looped = match row.on {
        On::File => None,
        On::Loop => Some(Loop::over(peer.path(), true)?),
    };
    let path = looped.as_ref().map_or(peer.path(), Loop::path);
    if !row.before.is_empty() {
        fio::prepare(row.before, path, plan.size)?;
    }
    if row.cold {
        empty_page_cache()?;
    }
    let busy = fio::busy()?;
    let (value, moved) = fio::measure(row, path, plan.size, plan.seconds, round)?;
    drop(looped);
    settle(peer, place)?;
    let cpu = fio::busy()?.saturating_sub(busy).as_secs_f64() / moved;
    Ok(Figure { value, cpu })
}

/// Returns when all that was written is on the disk, whoever holds it back.
fn settle(peer: &mut dyn Peer, place: &Place) -> Result<()> {
    let image = File::open(peer.path()).context("sync")?;
    image.sync_all().context("sync")?;
    peer.settle()?;
    // A file on a file system of its own, and that on the backing one.
    for dir in [image, File::open(&place.dir)?] {
        rustix::fs::syncfs(dir).context("sync of a file system")?;
    }
    Ok(())
}
