//! Standard output. A reader that leaves early (`| head`) is no failure.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use super::exit::Failure;

/// Prints text as it is.
///
/// # Errors
/// Where it can't be written, except to a pipe whose reader has left.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::io("can't write the output", &error))
        }
        _ => Ok(()),
    }
}

/// Prints a value as indented JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("can't write JSON: {error}")))?;
    print(&(text + "\n"))
}

/// A number of things, as in "1 disk" and "2 disks".
pub fn count(number: u64, what: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {what}{end}")
}

/// Says something beside the output.
pub fn note(text: &str) {
    // Standard error may be closed; there is nowhere left to say so.
    let _ = writeln!(std::io::stderr().lock(), "snapmark: {text}");
}
