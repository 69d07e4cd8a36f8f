//! Serving a mount until it is unmounted or the process is told to stop.
//!
//! Stopping must lose no acknowledged write, and must always come to an end:
//! 0. Where there is an iSCSI target, its initiators are asked to log out, and cut off where they do not.
//! 1. The mount is unmounted. Where it is in use, it is taken out of the tree: no new users come,
//!    those who have files open are served on until they close them.
//! 2. Everything acknowledged so far is synced, so that a kill from here on costs nothing.
//! 3. After [`GRACE`], or at a second signal, users who are left are cut off: their next request
//!    fails, none is acknowledged and lost.
//! 4. The store is closed: the cache drained, a checkpoint written.
//!
//! An unmount from outside ends in step 4 by itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::background::Readiness;
use super::schedule::Schedules;
use crate::config::ScheduleRule;
use crate::control::Commands;
use crate::frontend::fuse::{FuseOptions, MountError, Session, Unmount, Unmounter};
use crate::frontend::iscsi::{IscsiError, IscsiOptions, IscsiTarget};
use crate::volume::{VolumeError, Volumes};

/// How long users with open files are waited for after a signal. Less than the 90 s after which
/// systemd kills.
pub const GRACE: Duration = Duration::from_secs(60);
/// How often the space that is left is looked at.
const SPACE_LOOK: Duration = Duration::from_secs(2);
/// How long requests under way may take once their users were cut off.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// Why serving failed or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The mount did not come about.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The iSCSI target did not come about.
    #[error(transparent)]
    Iscsi(#[from] IscsiError),
    /// Signals can't be received.
    #[error("can't set up signals: {0}")]
    Signals(io::Error),
    /// Requests could not be taken any more.
    #[error("the connection to the kernel broke: {0}")]
    Session(io::Error),
    /// The store was not closed in order; the journal has what is missing.
    #[error(
        "the store was not closed in order: {0}; nothing acknowledged is lost, the next mount replays the journal"
    )]
    Close(VolumeError),
}

/// What serving waits for.
enum Event {
    /// A signal to stop.
    Stop(i32),
    /// The mount is gone and all requests are answered.
    Ended(io::Result<()>),
}

/// Where a store is served, and how.
#[derive(Debug)]
pub struct Serving<'a> {
    /// Prepared to be mounted at.
    pub mountpoint: &'a Path,
    /// The mount.
    pub fuse: &'a FuseOptions,
    /// The iSCSI target, if there is to be one.
    pub iscsi: Option<IscsiOptions>,
    /// Snapshots that are taken by themselves.
    pub schedules: &'a [ScheduleRule],
    /// The file that says what these have done.
    pub schedules_file: PathBuf,
}

/// Mounts at a prepared mountpoint, tells `readiness`, serves, and closes the store.
///
/// # Errors
/// Where it can't be mounted, or did not end well. The store is closed in any case.
pub fn serve(
    volumes: &Arc<Volumes>,
    commands: Arc<dyn Commands>,
    serving: &Serving<'_>,
    readiness: &mut Readiness,
) -> Result<(), ServeError> {
    let served = mount_and_wait(volumes, commands, serving, readiness);
    notify(NotifyState::Stopping);
    let closed = volumes.close_store().map_err(ServeError::Close);
    served.and(closed)
}

fn mount_and_wait(
    volumes: &Arc<Volumes>,
    commands: Arc<dyn Commands>,
    serving: &Serving<'_>,
    readiness: &mut Readiness,
) -> Result<(), ServeError> {
    // Signals first: one that comes during the mount must not kill half-way.
    let (tell, events) = unbounded();
    let signals = forward_signals(tell.clone()).map_err(ServeError::Signals)?;
    // Dropped on the way out, it ends its sessions.
    let target = match serving.iscsi.clone() {
        Some(options) => Some(IscsiTarget::start(
            Arc::clone(volumes),
            Arc::clone(&commands),
            options,
        )?),
        None => None,
    };
    let mountpoint = serving.mountpoint;
    let session = Session::mount(
        Arc::clone(volumes),
        Arc::clone(&commands),
        mountpoint,
        serving.fuse,
    )?;
    let unmounter = session.unmounter();
    thread::Builder::new()
        .name("session".to_owned())
        .spawn(move || tell.send(Event::Ended(session.wait())))
        .map_err(ServeError::Session)?;
    let file = serving.schedules_file.clone();
    let schedules = Schedules::start(serving.schedules, file, volumes, &commands);
    let schedules = schedules.map_err(ServeError::Session)?;
    let watching = watch_space(volumes).map_err(ServeError::Session)?;
    log::info!("serving at {}", mountpoint.display());
    readiness.ready();
    notify(NotifyState::Ready);
    let event = events.recv();
    // First, since it takes seconds at the most, and users of files may take a minute.
    drop((schedules, target));
    let ended = match event {
        Ok(Event::Ended(ended)) => ended,
        Ok(Event::Stop(signal)) => {
            log::info!("stopping at {}", signal_name(signal));
            notify(NotifyState::Stopping);
            stop(volumes, &unmounter, &events)
        }
        Err(_) => Err(io::Error::other("the serving thread is gone")),
    };
    if ended.is_err() {
        // Nobody serves what may still be mounted: better no mount than one that hangs.
        let _ = unmounter.abort();
        let _ = unmounter.detach();
    }
    signals.close();
    drop(watching);
    ended.map_err(ServeError::Session)
}

/// Has a thread look after the space that is left, until what is returned is dropped.
fn watch_space(volumes: &Arc<Volumes>) -> io::Result<Sender<()>> {
    let (alive, ended) = unbounded::<()>();
    let volumes = Arc::downgrade(volumes);
    thread::Builder::new()
        .name("space".to_owned())
        .spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(SPACE_LOOK) {
                let Some(volumes) = volumes.upgrade() else {
                    break;
                };
                volumes.watch_space();
            }
        })?;
    Ok(alive)
}

/// Ends the mount; see the module.
fn stop(volumes: &Volumes, unmounter: &Unmounter, events: &Receiver<Event>) -> io::Result<()> {
    if !unmount_or_detach(volumes, unmounter) {
        return cut_off(volumes, unmounter, events);
    }
    if let Err(error) = volumes.sync() {
        log::error!("can't sync: {error}");
    }
    match wait_for(events, GRACE) {
        Some(Event::Ended(ended)) => ended,
        Some(Event::Stop(signal)) => {
            log::warn!("{} again: users are cut off", signal_name(signal));
            cut_off(volumes, unmounter, events)
        }
        None => {
            log::warn!(
                "still in use after {} s: users are cut off",
                GRACE.as_secs()
            );
            cut_off(volumes, unmounter, events)
        }
    }
}

/// Takes the mount out of the tree; whether that went well.
fn unmount_or_detach(volumes: &Volumes, unmounter: &Unmounter) -> bool {
    let result = match unmounter.unmount() {
        Ok(Unmount::Busy) => {
            log::warn!(
                "the mount is in use{}; it serves those who are left for {} s or until the next signal",
                open_disks(volumes),
                GRACE.as_secs()
            );
            unmounter.detach()
        }
        result => result,
    };
    match result {
        Ok(Unmount::Done | Unmount::Gone) => true,
        Ok(Unmount::Busy) => false,
        Err(error) => {
            log::error!("can't unmount: {error}");
            false
        }
    }
}

fn open_disks(volumes: &Volumes) -> String {
    let status = volumes.status();
    let open = status.disks.iter().filter(|disk| disk.opens > 0);
    let names: Vec<&str> = open.map(|disk| disk.name.as_str()).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" (open: {})", names.join(", "))
    }
}

fn cut_off(volumes: &Volumes, unmounter: &Unmounter, events: &Receiver<Event>) -> io::Result<()> {
    if let Err(error) = volumes.sync() {
        log::error!("can't sync: {error}");
    }
    if let Err(error) = unmounter.abort() {
        // The end of the process breaks the connection as well, after the store is closed.
        log::info!("can't break the connection: {error}");
        return Ok(());
    }
    let deadline = Instant::now() + LAST_REQUESTS;
    loop {
        match wait_for(events, deadline.saturating_duration_since(Instant::now())) {
            Some(Event::Ended(ended)) => return ended,
            Some(Event::Stop(_)) => {}
            None => return Ok(()),
        }
    }
}

fn wait_for(events: &Receiver<Event>, time: Duration) -> Option<Event> {
    events.recv_timeout(time).ok()
}

fn forward_signals(tell: Sender<Event>) -> io::Result<signal_hook::iterator::Handle> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let handle = signals.handle();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if tell.send(Event::Stop(signal)).is_err() {
                    break;
                }
            }
        })?;
    Ok(handle)
}

fn signal_name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}

/// Tells systemd, where it asked (`Type=notify`).
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        log::debug!("can't notify the service manager: {error}");
    }
}
