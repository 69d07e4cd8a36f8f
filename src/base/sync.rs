//! Locks, condition variables and threads, by one name: those of `parking_lot` and the standard
//! library, or, with the feature `shuttle`, those of a checker that tries out schedules
//! (`tests/races.rs`). Whatever may wait for another thread, or may be overtaken by one, takes
//! them from here. What never waits while it is held may take them where it likes.

#[cfg(not(feature = "shuttle"))]
pub use std::{sync::atomic, thread};

#[cfg(not(feature = "shuttle"))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

#[cfg(feature = "shuttle")]
pub use checked::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(feature = "shuttle")]
pub use shuttle::{sync::atomic, thread};

/// Starts a thread of a scope. Unlike [`thread::Scope::spawn`] it does not panic where the host has
/// none to give.
///
/// # Errors
/// In that case.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> std::io::Result<thread::ScopedJoinHandle<'scope, T>> {
    #[cfg(not(feature = "shuttle"))]
    return thread::Builder::new().spawn_scoped(scope, work);
    #[cfg(feature = "shuttle")]
    return Ok(scope.spawn(work));
}

/// Lets another thread run here where schedules are tried out: beside what the checker does not
/// see, such as a look at a value that is swapped in whole. Else it is nothing.
#[inline(always)]
pub fn turn() {
    #[cfg(feature = "shuttle")]
    thread::yield_now();
}

#[cfg(feature = "shuttle")]
mod checked {
    //! `parking_lot`'s interface, as far as it is used, over the checker's locks.

    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;
    use std::time::Duration;

    use shuttle::sync;

    /// A wait of so long is a safety net, which nothing may need: here it never ends by itself, so
    /// that a wake-up that was forgotten shows as a deadlock. Shorter ones may end at once.
    const NET: Duration = Duration::from_millis(100);

    /// See [`parking_lot::Mutex`].
    #[derive(Default)]
    pub struct Mutex<T>(sync::Mutex<T>);

    /// See [`parking_lot::MutexGuard`].
    pub struct MutexGuard<'a, T> {
        of: &'a Mutex<T>,
        /// Absent only while it waits.
        held: Option<sync::MutexGuard<'a, T>>,
    }

    impl<T> Mutex<T> {
        /// A mutex over a value.
        pub fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        /// Locks it.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            MutexGuard {
                of: self,
                held: Some(held),
            }
        }

        /// The value, which nobody else can see.
        pub fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T> MutexGuard<'_, T> {
        /// Lets go of it for the time of a call.
        pub fn unlocked<R>(guard: &mut Self, call: impl FnOnce() -> R) -> R {
            guard.held = None;
            let returned = call();
            guard.held = guard.of.lock().held;
            returned
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.held.as_ref().expect("only its own calls let go of it")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.held.as_mut().expect("only its own calls let go of it")
        }
    }

    /// See [`parking_lot::Condvar`].
    #[derive(Default)]
    pub struct Condvar(sync::Condvar);

    impl Condvar {
        /// One that nobody waits for.
        pub fn new() -> Self {
            Self(sync::Condvar::new())
        }

        /// Waits to be woken, or for some time.
        pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, time: Duration) {
            if time < NET {
                return MutexGuard::unlocked(guard, super::thread::yield_now);
            }
            let held = guard.held.take().expect("only its own calls let go of it");
            let held = self.0.wait(held).unwrap_or_else(PoisonError::into_inner);
            guard.held = Some(held);
        }

        /// Wakes all that wait.
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// See [`parking_lot::RwLock`].
    #[derive(Default)]
    pub struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        /// A lock over a value.
        pub fn new(value: T) -> Self {
            Self(sync::RwLock::new(value))
        }

        /// Locks it, with others that read.
        pub fn read(&self) -> sync::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        /// Locks it alone.
        pub fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
