//! The secrets of CHAP, in a file that nobody else may read. They are never printed: not in errors, and
//! not by `Debug`.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Deserializer, de};

use super::{Glob, open_own};

/// The longest file, in bytes.
const MAX_FILE: u64 = 64 << 10;
/// Bytes that a secret has: RFC 7143, section 9.2.1 wants 96 bits at least.
const LENGTHS: std::ops::RangeInclusive<usize> = 12..=255;

/// A secret. Its text is seen by [`reveal`](Self::reveal) alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// This text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if LENGTHS.contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(de::Error::custom("length"))
        }
    }
}

/// Someone with a secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The name that is sent (`CHAP_N`).
    pub user: String,
    /// What is proved.
    pub secret: Secret,
    /// The initiators that may use it; all where there is none.
    #[serde(default, deserialize_with = "glob")]
    pub initiator: Option<Glob>,
}

fn glob<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Glob>, D::Error> {
    Ok(Some(Glob::new(String::deserialize(from)?)))
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Initiators, who prove that they may log in.
    pub initiators: Vec<Account>,
    /// What we prove to those that ask.
    #[serde(default)]
    pub target: Option<Account>,
}

/// Why there are no secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The file can't be read.
    #[error("can't read the secrets {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// The host's word.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("{0} can be read by others: chmod 600 it, and have it owned by who runs the daemon")]
    Exposed(String),
    /// It is too long.
    #[error("{0} is longer than 64 KiB")]
    TooLong(String),
    /// It is not of the form that is wanted. What stands there is not shown.
    #[error(
        "{file}:{line}:{column}: this is not in the form 'initiators: [{{user: …, secret: …}}]', with \
         secrets of 12 to 255 bytes, and maybe 'target: {{user: …, secret: …}}'"
    )]
    Form {
        /// The file.
        file: String,
        /// The line, from 1; 0 where it concerns the file as a whole.
        line: usize,
        /// The column, likewise.
        column: usize,
    },
    /// Who hears our response could answer with it.
    #[error("{0}: the target's secret must be no initiator's")]
    Shared(String),
    /// A user that stands there twice.
    #[error("{0}: two initiators have one user name")]
    Twice(String),
}

impl Secrets {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it can't be read, others can read it, or it is no such file.
    pub fn load(path: &Path) -> Result<Self, SecretsError> {
        let file = path.display().to_string();
        let read = |source| SecretsError::Read {
            file: file.clone(),
            source,
        };
        let opened = open_own(path, OFlags::RDONLY).map_err(read)?;
        let found = opened.metadata().map_err(read)?;
        let is_ours = [0, rustix::process::geteuid().as_raw()].contains(&found.uid());
        if found.mode() & 0o077 != 0 || !is_ours {
            return Err(SecretsError::Exposed(file));
        }
        let mut text = Vec::new();
        opened
            .take(MAX_FILE + 1)
            .read_to_end(&mut text)
            .map_err(read)?;
        if text.len() as u64 > MAX_FILE {
            return Err(SecretsError::TooLong(file));
        }
        Self::parse(&file, &text)
    }

    /// Reads text; `file` is what errors call it.
    ///
    /// # Errors
    /// Where it is not of the form that is wanted.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, SecretsError> {
        let secrets: Self = serde_yaml::from_slice(text).map_err(|error| {
            let at = error.location();
            SecretsError::Form {
                file: file.to_owned(),
                line: at.as_ref().map_or(0, |at| at.line()),
                column: at.as_ref().map_or(0, |at| at.column()),
            }
        })?;
        let mut users: Vec<&str> = secrets
            .initiators
            .iter()
            .map(|of| of.user.as_str())
            .collect();
        users.sort_unstable();
        if users.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(SecretsError::Twice(file.to_owned()));
        }
        let shared = |target: &Account| {
            secrets
                .initiators
                .iter()
                .any(|of| of.secret == target.secret)
        };
        if secrets.target.as_ref().is_some_and(shared) {
            return Err(SecretsError::Shared(file.to_owned()));
        }
        Ok(secrets)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const GOOD: &str = "\
initiators:
  - user: alice
    secret: correct horse battery
    initiator: iqn.2020-01.com.example:*
target: {user: snapmark, secret: another long one}
";

    #[test]
    fn secrets_are_read_and_not_shown() {
        let secrets = Secrets::parse("f", GOOD.as_bytes()).unwrap();
        assert_eq!(
            secrets.initiators[0].secret.reveal(),
            "correct horse battery"
        );
        let shown = format!("{secrets:?}");
        assert!(
            !shown.contains("horse") && shown.contains("alice"),
            "{shown}"
        );
    }

    #[test]
    fn errors_do_not_show_them_either() {
        for bad in [
            "initiators: [{user: a, secret: short}]",
            "initiators: [{user: a, secret: 1234567}]",
            "initiators: [{user: a, secret: [horsehorsehorse]}]",
            "initiators: [{user: a, horsehorsehorse: 1}]",
            "horsehorsehorse",
            "",
            "initiators: [{user: a, secret: horsehorsehorse}, {user: a, secret: horsehorsehorse2}]",
            "initiators: [{user: a, secret: horsehorsehorse}]\ntarget: {user: t, secret: horsehorsehorse}",
        ] {
            let error = Secrets::parse("the-file", bad.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("the-file"), "{error}");
            assert!(
                !error.contains("horse") && !error.contains("12345"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secrets");
        std::fs::write(&file, GOOD).unwrap();
        for (mode, is_good) in [(0o644, false), (0o640, false), (0o600, true)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Secrets::load(&file).is_ok(), is_good, "{mode:o}");
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(Secrets::load(&link).is_err());
    }
}
