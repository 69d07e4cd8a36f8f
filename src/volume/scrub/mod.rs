//! The scrub: reads all data of the pool while the store is in use, and compares it with its
//! checksums (P8). One thread owns it; it stops, waits and goes on as it is told.
//!
//! What it looks at, in the order of places, is every block that a version has when it comes by:
//! those of disks, those that only snapshots see, those in packs; and the slots of writes by
//! reference that were queued when it began. What is written meanwhile may be left out.

mod judge;
mod mapped;
mod rate;
mod read;
mod saved;
mod state;
mod suspects;
mod walk;

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use super::volumes::Result;
use super::{ScrubState, ScrubStatus, VolumeError, Volumes};
use crate::base::sync::Mutex;
use crate::base::sync::thread::{self, JoinHandle};
use state::{Ask, Ended, Shared};
use walk::Walk;

/// Settings of the scrub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubConfig {
    /// Bytes a second, unless told otherwise; 0 is no limit.
    pub rate: u64,
    /// Where is kept how far it has come, so that it goes on after a restart.
    pub file: Option<PathBuf>,
}

/// The scrub of a store.
pub struct Scrub {
    config: ScrubConfig,
    shared: Arc<Shared>,
    volumes: Weak<Volumes>,
    /// Locked before the shared state.
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Scrub {
    pub(super) fn new(config: ScrubConfig, volumes: Weak<Volumes>) -> Self {
        Self {
            shared: Arc::new(Shared::new(config.rate)),
            config,
            volumes,
            worker: Mutex::default(),
        }
    }

    /// Begins a scrub, with the rate of the settings or another one.
    ///
    /// # Errors
    /// Where one is running or paused, or no thread can be had.
    pub fn start(&self, rate: Option<u64>) -> Result<()> {
        let mut worker = self.worker.lock();
        self.shared.with(|state| {
            if state.alive {
                let hint = match state.status().state {
                    ScrubState::Paused => "is paused: resume it, or stop it first",
                    _ => "is running: wait for it, or stop it first",
                };
                return Err(VolumeError::Busy(format!("a scrub {hint}")));
            }
            state.begin();
            let now = self.shared.now();
            state.bucket.set(rate.unwrap_or(self.config.rate), now);
            Ok(())
        })?;
        self.spawn(&mut worker)?;
        drop(worker);
        // A kill that comes before it has come anywhere does not end it.
        self.save();
        Ok(())
    }

    /// Lets it wait where it is, until it is resumed.
    ///
    /// # Errors
    /// Where none is running.
    pub fn pause(&self) -> Result<()> {
        self.ask(Ask::Pause, ScrubState::Running)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// Where none is paused.
    pub fn resume(&self) -> Result<()> {
        self.ask(Ask::Run, ScrubState::Paused)
    }

    fn ask(&self, ask: Ask, from: ScrubState) -> Result<()> {
        let asked = self.shared.with(|state| {
            let is = state.status().state;
            if !state.alive || is != from {
                return Err(VolumeError::Invalid(format!(
                    "no scrub is {from}: its state is {is}"
                )));
            }
            state.ask(ask);
            Ok(())
        });
        self.save();
        asked
    }

    /// Ends it; returns when it has ended.
    ///
    /// # Errors
    /// Where there is none to be ended.
    pub fn stop(&self) -> Result<()> {
        let mut worker = self.worker.lock();
        self.shared.with(|state| {
            if !state.alive {
                let is = state.status().state;
                return Err(VolumeError::Invalid(format!(
                    "no scrub is running or paused: its state is {is}"
                )));
            }
            state.ask(Ask::Stop);
            Ok(())
        })?;
        join(worker.take());
        Ok(())
    }

    /// Gives the one that is running or paused another rate, in bytes a second; 0 is no limit.
    ///
    /// # Errors
    /// Where there is none.
    pub fn set_rate(&self, rate: u64) -> Result<()> {
        self.shared.with(|state| {
            if !state.alive {
                return Err(VolumeError::Invalid(
                    "no scrub is running or paused; give the rate when you start one".to_owned(),
                ));
            }
            state.bucket.set(rate, self.shared.now());
            Ok(())
        })
    }

    /// How far it is, and what it has found.
    #[must_use]
    pub fn status(&self) -> ScrubStatus {
        self.shared.with(|state| state.status())
    }

    /// Takes up one that an earlier session of the store has not finished.
    pub(super) fn take_up(&self) {
        let Some(file) = &self.config.file else {
            return;
        };
        match saved::load(file) {
            Ok(None) => {}
            Ok(Some((status, reached))) => {
                let mut worker = self.worker.lock();
                let alive = self.shared.with(|state| {
                    state.restore(status, reached);
                    state.alive
                });
                if alive && let Err(error) = self.spawn(&mut worker) {
                    log::warn!("the scrub does not go on: {error}");
                }
            }
            Err(error) => log::warn!(
                "{}: {error}; what the last scrub found is forgotten",
                file.display()
            ),
        }
    }

    /// Ends its thread; the next session goes on.
    pub(super) fn close(&self) {
        let mut worker = self.worker.lock();
        let alive = self.shared.with(|state| {
            if state.alive {
                state.ask(Ask::Close);
            }
            state.alive
        });
        join(worker.take());
        if alive {
            self.save();
        }
    }

    fn save(&self) {
        save(&self.config, &self.shared);
    }

    fn spawn(&self, worker: &mut Option<JoinHandle<()>>) -> Result<()> {
        // The one before has ended.
        join(worker.take());
        let (volumes, shared) = (self.volumes.clone(), Arc::clone(&self.shared));
        let config = self.config.clone();
        let thread = thread::Builder::new().name("scrub".to_owned());
        let spawned = thread.spawn(move || {
            let saves = (config.clone(), Arc::clone(&shared));
            let save_now = Box::new(move || save(&saves.0, &saves.1));
            let result = Walk::new(volumes, Arc::clone(&shared), save_now).run();
            shared.ended(result);
            log::info!("scrub: {}", shared.with(|state| state.status()));
            save(&config, &shared);
        });
        match spawned {
            Ok(thread) => *worker = Some(thread),
            Err(error) => {
                let why = format!("no thread for it: {error}");
                self.shared.ended(Err(Ended::Failed(why.clone())));
                return Err(VolumeError::Io(why));
            }
        }
        Ok(())
    }
}

fn join(worker: Option<JoinHandle<()>>) {
    if let Some(worker) = worker {
        // A panic was said, and has ended the process where that is not a test's.
        let _ = worker.join();
    }
}

fn save(config: &ScrubConfig, shared: &Shared) {
    let Some(file) = &config.file else { return };
    let _saving = shared.saving.lock();
    let (status, reached) = shared.with(|state| (state.status(), state.reached.clone()));
    if let Err(error) = saved::save(file, status, reached) {
        log::warn!(
            "{}: {error}; after a restart the scrub begins anew",
            file.display()
        );
    }
}

impl Volumes {
    /// The online data check.
    #[must_use]
    pub fn scrub(&self) -> &Scrub {
        &self.scrub
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those who ask and the scrub's thread save at any time.
    #[test]
    fn what_was_so_last_is_what_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let config = ScrubConfig {
            rate: 0,
            file: Some(dir.path().join("scrub.yaml")),
        };
        let shared = Shared::new(0);
        shared.with(state::State::begin);
        for turn in 0..500 {
            let ask = [Ask::Run, Ask::Pause][turn % 2];
            std::thread::scope(|scope| {
                scope.spawn(|| save(&config, &shared));
                scope.spawn(|| save(&config, &shared));
                shared.with(|state| state.ask(ask));
                save(&config, &shared);
            });
            let (saved, _) = saved::load(config.file.as_ref().unwrap()).unwrap().unwrap();
            assert_eq!(saved, shared.with(|state| state.status()), "turn {turn}");
        }
    }
}
