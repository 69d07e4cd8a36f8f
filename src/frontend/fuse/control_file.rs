//! A handle of `.control`: lines in, answers out.

use std::fmt::Write;

use parking_lot::Mutex;

use super::Answer;
use crate::control::{CommandError, Commands, ErrorKind, MAX_LINE};

/// Answers that a handle keeps, in bytes; older ones go first.
const KEPT: usize = 64 << 10;

/// A handle of `.control` that was opened for writing.
#[derive(Debug, Default)]
pub(super) struct ControlHandle {
    /// Answers to the lines written on this handle, each ending in a newline. Locked only to
    /// append or to copy, never while a command runs.
    answers: Mutex<String>,
}

impl ControlHandle {
    /// Carries out the lines of one write, in order, up to the first that fails. The last line
    /// may lack its newline.
    pub(super) fn write(&self, commands: &dyn Commands, data: &[u8]) -> Answer<()> {
        for line in data.split(|byte| *byte == b'\n') {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let result = run(commands, line);
            match &result {
                Ok(answer) => self.answer(format_args!("{}", answer.trim_end())),
                Err(error) => self.answer(format_args!("error: {error}")),
            }
            result?;
        }
        Ok(())
    }

    /// The answers so far.
    pub(super) fn answers(&self) -> String {
        self.answers.lock().clone()
    }

    fn answer(&self, text: std::fmt::Arguments<'_>) {
        let mut answers = self.answers.lock();
        // Writing into a String can't fail.
        let _ = writeln!(answers, "{text}");
        while answers.len() > KEPT {
            match answers.find('\n') {
                Some(end) if end + 1 < answers.len() => drop(answers.drain(..=end)),
                _ => break,
            }
        }
    }
}

fn run(commands: &dyn Commands, line: &[u8]) -> Result<String, CommandError> {
    let refuse = |error: CommandError| {
        let shown = &line[..line.len().min(80)];
        commands.refused(&String::from_utf8_lossy(shown), &error);
        error
    };
    if line.len() > MAX_LINE {
        return Err(refuse(CommandError::new(
            ErrorKind::TooLong,
            format!(
                "the line has {} bytes; a command has at most {MAX_LINE}",
                line.len()
            ),
        )));
    }
    match std::str::from_utf8(line) {
        Ok(line) => commands.execute(line.trim()),
        Err(_) => Err(refuse(CommandError::invalid("the line is no UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::VolumeError;

    #[derive(Default)]
    struct Fake {
        seen: Mutex<Vec<String>>,
        refused: Mutex<Vec<String>>,
    }

    impl Commands for Fake {
        fn execute(&self, line: &str) -> Result<String, CommandError> {
            self.seen.lock().push(line.to_owned());
            match line {
                "missing" => Err(VolumeError::NotFound("x".into()).into()),
                "wrong" => Err(CommandError::invalid("no such command")),
                _ => Ok(format!("done {line}")),
            }
        }
        fn refused(&self, line: &str, why: &CommandError) {
            self.refused.lock().push(format!("{line}: {why}"));
        }
        fn history(&self) -> String {
            String::new()
        }
        fn stats(&self) -> String {
            String::new()
        }
        fn status(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn lines_run_in_order_and_answers_can_be_read_back() {
        let (handle, fake) = (ControlHandle::default(), Fake::default());
        assert!(handle.write(&fake, b"a\n\n  b  \nc").is_ok());
        assert_eq!(*fake.seen.lock(), ["a", "b", "c"]);
        assert_eq!(handle.answers(), "done a\ndone b\ndone c\n");
    }

    #[test]
    fn the_first_line_that_fails_ends_the_write_with_its_errno() {
        let (handle, fake) = (ControlHandle::default(), Fake::default());
        let result = handle.write(&fake, b"a\nmissing\nb\n");
        assert_eq!(result.map_err(fuser::Errno::code), Err(libc::ENOENT));
        assert_eq!(*fake.seen.lock(), ["a", "missing"]);
        assert_eq!(handle.answers(), "done a\nerror: there is no \"x\"\n");
        let result = handle.write(&fake, b"wrong\n");
        assert_eq!(result.map_err(fuser::Errno::code), Err(libc::EINVAL));
    }

    #[test]
    fn lines_that_are_no_text_or_too_long_are_refused_unread() {
        let (handle, fake) = (ControlHandle::default(), Fake::default());
        let result = handle.write(&fake, &[b'x'; MAX_LINE + 1]);
        assert_eq!(result.map_err(fuser::Errno::code), Err(libc::ENAMETOOLONG));
        let result = handle.write(&fake, b"\xff\xfe\n");
        assert_eq!(result.map_err(fuser::Errno::code), Err(libc::EINVAL));
        assert!(fake.seen.lock().is_empty());
        assert_eq!(fake.refused.lock().len(), 2);
        assert!(handle.write(&fake, &[b'x'; MAX_LINE]).is_ok());
    }

    #[test]
    fn old_answers_make_room() {
        let (handle, fake) = (ControlHandle::default(), Fake::default());
        for _ in 0..100 {
            assert!(handle.write(&fake, &[b'x'; 1000]).is_ok());
        }
        assert!(handle.answers().len() <= KEPT);
        assert!(handle.answers().starts_with("done x"));
    }
}
