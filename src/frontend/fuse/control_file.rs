//! A handle of `.control`: lines in, answers out.

use std::fmt::Write;

use parking_lot::Mutex;

use super::Answer;
use crate::control::{CommandError, Commands, ErrorKind, MAX_LINE};

/// Answers that a handle keeps, in bytes; older ones go first.
const KEPT: usize = 64 << 10;

/// The most that one write may bring. Waiting for a worker, it is held in memory.
const MAX_WRITE: usize = 64 << 10;

/// A handle of `.control` that was opened for writing.
#[derive(Debug, Default)]
pub(super) struct ControlHandle {
    /// Answers to the lines written on this handle, each ending in a newline. Locked only to
    /// append or to copy, never while a command runs.
    answers: Mutex<String>,
}

impl ControlHandle {
    /// Refuses a write that is not to be looked into any further: one that is too long, or that
    /// may be cut in the middle of a line. `delete vm1.img@10` must not delete `vm1.img@1`
    /// because a program writes in blocks, or the kernel splits what is long.
    pub(super) fn admit(&self, commands: &dyn Commands, data: &[u8]) -> Answer<()> {
        let Err(error) = whole_lines(data) else {
            return Ok(());
        };
        commands.refused("", &error);
        self.answer(format_args!("error: {error}"));
        Err(error.into())
    }

    /// Carries out the lines of one write, in order, up to the first that fails.
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
        let old = end_of_old(&answers);
        answers.drain(..old);
    }
}

/// Where the last lines begin that fit into [`KEPT`]; the last one stays, however long.
fn end_of_old(answers: &str) -> usize {
    if answers.len() <= KEPT {
        return 0;
    }
    let over = answers.len() - KEPT;
    // The newline before a line that begins in the part that may stay. The last one ends the text.
    let all_but_last = answers.len() - 1;
    let before = &answers.as_bytes()[over - 1..all_but_last];
    match before.iter().position(|byte| *byte == b'\n') {
        Some(newline) => over + newline,
        None => answers[..all_but_last].rfind('\n').map_or(0, |at| at + 1),
    }
}

/// One line, with or without its newline, or several that all have theirs.
fn whole_lines(data: &[u8]) -> Result<(), CommandError> {
    if data.len() > MAX_WRITE {
        return Err(CommandError::new(
            ErrorKind::TooLong,
            format!(
                "{} bytes were written at once; {MAX_WRITE} are allowed; nothing was done",
                data.len()
            ),
        ));
    }
    let after_last = data.rsplit(|byte| *byte == b'\n').next();
    let tail = after_last.unwrap_or_default();
    if tail.len() < data.len() && !tail.iter().all(u8::is_ascii_whitespace) {
        return Err(CommandError::invalid(
            "the last of several lines has no newline, so it may be cut; nothing was done; end \
             each line with one, and write whole lines at once",
        ));
    }
    Ok(())
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
        fn snapshot(&self, _: &[String], _: Option<&str>, _: bool) -> Result<String, CommandError> {
            Err(CommandError::invalid("not by a line"))
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
        assert!(handle.write(&fake, b"a\n\n  b  \nc\n").is_ok());
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
    fn a_write_that_may_be_cut_in_a_line_is_refused_as_a_whole() {
        let (handle, fake) = (ControlHandle::default(), Fake::default());
        let admit = |data: &[u8]| handle.admit(&fake, data).map_err(fuser::Errno::code);
        for whole in ["", "a", "a\n", "a\nb\n", "a\n\n", "a\n "] {
            assert_eq!(admit(whole.as_bytes()), Ok(()), "{whole:?}");
        }
        assert_eq!(admit(b"delete a\ndelete vm1@1"), Err(libc::EINVAL));
        assert_eq!(admit(&vec![b'\n'; MAX_WRITE]), Ok(()));
        assert_eq!(admit(&vec![b'\n'; MAX_WRITE + 1]), Err(libc::ENAMETOOLONG));
        assert!(fake.seen.lock().is_empty());
        assert_eq!(handle.answers().lines().count(), 2);
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

    #[test]
    fn of_a_long_answer_the_last_lines_stay() {
        let handle = ControlHandle::default();
        handle.answer(format_args!("{}", "ä\n".repeat(1 << 20).trim_end()));
        assert_eq!(handle.answers(), "ä\n".repeat(KEPT / 3));
        let long = "x".repeat(2 * KEPT);
        for _ in 0..2 {
            handle.answer(format_args!("{long}"));
            assert_eq!(handle.answers(), format!("{long}\n"));
        }
        let exactly = "y".repeat(KEPT - 1);
        handle.answer(format_args!("{exactly}"));
        assert_eq!(handle.answers(), format!("{exactly}\n"));
    }
}
