//! How much of the processor destaging asks for. While nobody waits for it, what others leave: it has
//! the whole cache for a buffer, and whoever writes has an answer to wait for. As soon as someone waits
//! for it, as much as any other thread.

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::gettid;

use crate::base::sync::Mutex;

/// Of a thread that gives way; see sched(7).
const LEAST_FAVOURED: i32 = 19;

/// The nice value of the destage thread.
#[derive(Default)]
pub(super) struct Niceness(Mutex<Option<Thread>>);

struct Thread {
    id: Pid,
    /// Its nice value to begin with.
    usual: i32,
    gives_way: bool,
}

impl Niceness {
    /// The calling thread is the destage thread. Without the right to take back what it once gave up
    /// (`CAP_SYS_NICE`, or the limit `RLIMIT_NICE`) it stays as it is.
    pub fn manage_this_thread(&self) {
        let usual = getpriority_process(None).unwrap_or(0);
        if usual >= LEAST_FAVOURED {
            return;
        }
        let tried = setpriority_process(None, usual + 1);
        if let Err(error) = tried.and_then(|()| setpriority_process(None, usual)) {
            log::debug!("destaging does not give way to writers: {error}");
            return;
        }
        *self.0.lock() = Some(Thread {
            id: gettid(),
            usual,
            gives_way: false,
        });
    }

    /// Nobody waits for destaging.
    pub fn give_way(&self) {
        self.set(true);
    }

    /// Someone does.
    pub fn insist(&self) {
        self.set(false);
    }

    /// The thread has ended, and its number may become another's.
    pub fn end(&self) {
        *self.0.lock() = None;
    }

    fn set(&self, gives_way: bool) {
        let mut thread = self.0.lock();
        let Some(thread) = thread.as_mut().filter(|is| is.gives_way != gives_way) else {
            return;
        };
        let nice = if gives_way {
            LEAST_FAVOURED
        } else {
            thread.usual
        };
        match setpriority_process(Some(thread.id), nice) {
            Ok(()) => thread.gives_way = gives_way,
            Err(error) => log::debug!("the nice value of destaging stays: {error}"),
        }
    }
}
