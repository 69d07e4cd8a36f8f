//! Progress of what takes longer than a moment, on a terminal only.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// What is done within this time shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// A bar over so many bytes. It draws on standard error, and only where that is a terminal.
pub fn bytes(what: &'static str) -> impl FnMut(u64, u64) {
    let bar = ProgressBar::new(0).with_message(what);
    let style = "{msg} {bar:40} {bytes}/{total_bytes} {eta}";
    // The template is a constant that parses; without it the bar has the plain style.
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        if done >= total {
            bar.finish_and_clear();
        }
    }
}

/// Shows a spinner while `work` takes longer than a moment.
pub fn spinner<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = mpsc::channel::<()>();
    let watch = std::thread::Builder::new().spawn(move || {
        if waiting.recv_timeout(PATIENCE) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
        let spinner = ProgressBar::new_spinner().with_message(what);
        spinner.enable_steady_tick(TICK);
        // Ends when the sender goes.
        let _ = waiting.recv();
        spinner.finish_and_clear();
    });
    let result = work();
    drop(done);
    // Where the host has no thread to give, nothing turns.
    let _ = watch.map(JoinHandle::join);
    result
}
