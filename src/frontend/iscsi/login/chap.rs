//! CHAP (RFC 1994, and RFC 7143, section 12.1.3): the initiator proves that it knows a secret, and we
//! do, where it asks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::super::options::{Account, Secrets};
use super::super::wire::Pairs;
use super::Failure;

/// Bytes of our challenge.
const CHALLENGE: usize = 32;
/// The longest challenge that we answer, in bytes.
const LONGEST: usize = 1024;

/// How a response is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::frontend::iscsi) enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    /// The numbers of those that we know, the better ones first.
    pub(in crate::frontend::iscsi) const LIST: &str = "7,5";

    /// The first in a list of numbers that we know.
    pub(in crate::frontend::iscsi) fn choose(list: &str) -> Option<Self> {
        list.split(',').find_map(|number| match number {
            "5" => Some(Self::Md5),
            "7" => Some(Self::Sha256),
            _ => None,
        })
    }

    fn number(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha256 => "7",
        }
    }

    /// The response to a challenge.
    pub(in crate::frontend::iscsi) fn response(
        self,
        id: u8,
        secret: &[u8],
        challenge: &[u8],
    ) -> Vec<u8> {
        match self {
            Self::Md5 => Md5::new()
                .chain_update([id])
                .chain_update(secret)
                .chain_update(challenge)
                .finalize()
                .to_vec(),
            Self::Sha256 => Sha256::new()
                .chain_update([id])
                .chain_update(secret)
                .chain_update(challenge)
                .finalize()
                .to_vec(),
        }
    }
}

/// Where the exchange stands.
#[derive(Debug, Default)]
pub(super) enum Chap {
    /// The initiator is to name the algorithms that it knows.
    #[default]
    Begins,
    /// Our challenge was sent.
    Challenged(Challenge),
    /// It knows the secret.
    Done,
}

#[derive(Debug)]
pub(super) struct Challenge {
    algorithm: Algorithm,
    id: u8,
    bytes: [u8; CHALLENGE],
}

impl Chap {
    /// Takes what the initiator says and adds what we answer.
    pub(super) fn step(
        self,
        said: &Pairs,
        initiator: &str,
        secrets: &Secrets,
        answer: &mut Pairs,
    ) -> Result<Self, Failure> {
        match self {
            Self::Begins => {
                let Some(list) = said.get("CHAP_A") else {
                    return Ok(Self::Begins);
                };
                let algorithm = Algorithm::choose(list).ok_or(Failure::Authentication(
                    "it knows no CHAP algorithm that we do",
                ))?;
                let mut random = [0; CHALLENGE + 1];
                getrandom::fill(&mut random).map_err(|_| Failure::Target("no random numbers"))?;
                let (id, challenge) = (random[CHALLENGE], &random[..CHALLENGE]);
                let mut bytes = [0; CHALLENGE];
                bytes.copy_from_slice(challenge);
                answer.push("CHAP_A", algorithm.number());
                answer.push("CHAP_I", id.to_string());
                answer.push("CHAP_C", hex(&bytes));
                Ok(Self::Challenged(Challenge {
                    algorithm,
                    id,
                    bytes,
                }))
            }
            Self::Challenged(challenge) => {
                challenge.check(said, initiator, secrets)?;
                challenge.answer_theirs(said, secrets, answer)?;
                Ok(Self::Done)
            }
            Self::Done => Ok(Self::Done),
        }
    }
}

impl Challenge {
    fn check(&self, said: &Pairs, initiator: &str, secrets: &Secrets) -> Result<(), Failure> {
        let missing = Failure::Missing("CHAP_N or CHAP_R");
        let (Some(user), Some(response)) = (said.get("CHAP_N"), said.get("CHAP_R")) else {
            return Err(missing);
        };
        let response =
            binary(response).ok_or(Failure::Authentication("its response is no number"))?;
        let account = secrets
            .initiators
            .iter()
            .find(|account| account.user == user);
        // As much work for an unknown user as for a known one.
        let secret = account.map_or("", |account| account.secret.reveal());
        let right = self
            .algorithm
            .response(self.id, secret.as_bytes(), &self.bytes);
        let known = account.is_some_and(|account| may_be(account, initiator));
        if equal(&right, &response) && known {
            Ok(())
        } else {
            Err(Failure::Authentication("wrong user or secret"))
        }
    }

    /// Mutual CHAP: the initiator challenges us too.
    fn answer_theirs(
        &self,
        said: &Pairs,
        secrets: &Secrets,
        answer: &mut Pairs,
    ) -> Result<(), Failure> {
        let (id, challenge) = match (said.get("CHAP_I"), said.get("CHAP_C")) {
            (None, None) => return Ok(()),
            (Some(id), Some(challenge)) => (id, challenge),
            _ => return Err(Failure::Missing("CHAP_I or CHAP_C")),
        };
        let id: u8 = id
            .parse()
            .map_err(|_| Failure::Initiator("CHAP_I is no number up to 255"))?;
        let challenge = binary(challenge)
            .filter(|challenge| (1..=LONGEST).contains(&challenge.len()))
            .ok_or(Failure::Initiator("CHAP_C is no challenge"))?;
        // Else it could have us answer our own challenge, on another connection.
        if challenge == self.bytes {
            return Err(Failure::Authentication("it sent our own challenge back"));
        }
        let Some(target) = &secrets.target else {
            return Err(Failure::Authentication(
                "it asks for mutual CHAP, and the secrets file has no target section",
            ));
        };
        let response = self
            .algorithm
            .response(id, target.secret.reveal().as_bytes(), &challenge);
        answer.push("CHAP_N", target.user.clone());
        answer.push("CHAP_R", hex(&response));
        Ok(())
    }
}

fn may_be(account: &Account, initiator: &str) -> bool {
    account
        .initiator
        .as_ref()
        .is_none_or(|pattern| pattern.matches(initiator))
}

/// Compares in a time that does not tell where they differ.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// A large binary value as it is sent.
pub(in crate::frontend::iscsi) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// A large binary value, in hexadecimal or base64 (RFC 7143, section 6.1).
pub(in crate::frontend::iscsi) fn binary(text: &str) -> Option<Vec<u8>> {
    let (kind, digits) = text.split_at_checked(2)?;
    match kind {
        "0x" | "0X" if digits.len().is_multiple_of(2) && digits.is_ascii() => digits
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect(),
        "0b" | "0B" => STANDARD.decode(digits).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Glob, Secret};

    fn secrets(initiator: Option<&str>) -> Secrets {
        let account = |user: &str, secret: &str, pattern: Option<&str>| Account {
            user: user.to_owned(),
            secret: Secret::new(secret),
            initiator: pattern.map(Glob::new),
        };
        Secrets {
            initiators: vec![account("alice", "twelve bytes and more", initiator)],
            target: Some(account("snapmark", "another twelve bytes", None)),
        }
    }

    fn pairs(of: &[(&str, &str)]) -> Pairs {
        let mut pairs = Pairs::default();
        of.iter().for_each(|(key, value)| pairs.push(key, *value));
        pairs
    }

    /// Our challenge, and the right response to it.
    fn challenge(list: &str) -> (Chap, String) {
        let mut answer = Pairs::default();
        let said = pairs(&[("CHAP_A", list)]);
        let chap = Chap::default()
            .step(&said, "iqn.x", &secrets(None), &mut answer)
            .unwrap();
        let Chap::Challenged(challenge) = &chap else {
            panic!("no challenge");
        };
        assert_eq!(answer.get("CHAP_C"), Some(hex(&challenge.bytes).as_str()));
        let secret = b"twelve bytes and more";
        let right = hex(&challenge
            .algorithm
            .response(challenge.id, secret, &challenge.bytes));
        (chap, right)
    }

    #[test]
    fn who_knows_the_secret_is_let_in() {
        for list in ["5", "7,5", "56,5", "8,7"] {
            let (chap, right) = challenge(list);
            let said = pairs(&[("CHAP_N", "alice"), ("CHAP_R", &right)]);
            let done = chap.step(
                &said,
                "iqn.x",
                &secrets(Some("iqn.*")),
                &mut Pairs::default(),
            );
            assert!(matches!(done, Ok(Chap::Done)), "{list}");
        }
    }

    #[test]
    fn who_does_not_is_not() {
        let (_, other) = challenge("5");
        for (user, response, pattern) in [
            ("alice", Some(other.as_str()), None),
            ("bob", None, None),
            ("alice", None, Some("iqn.other*")),
            ("alice", Some("0x"), None),
            ("alice", Some("0xzz"), None),
            ("alice", Some("12"), None),
        ] {
            let (chap, right) = challenge("5");
            let said = pairs(&[("CHAP_N", user), ("CHAP_R", response.unwrap_or(&right))]);
            let done = chap.step(&said, "iqn.x", &secrets(pattern), &mut Pairs::default());
            assert!(
                matches!(done, Err(Failure::Authentication(_))),
                "{user} {response:?}"
            );
        }
        for list in ["", "56", "6", "1,2"] {
            let said = pairs(&[("CHAP_A", list)]);
            let done = Chap::default().step(&said, "iqn.x", &secrets(None), &mut Pairs::default());
            assert!(matches!(done, Err(Failure::Authentication(_))), "{list:?}");
        }
    }

    #[test]
    fn we_prove_ourselves_too_but_never_with_our_own_challenge() {
        let (chap, right) = challenge("5");
        let said = [
            ("CHAP_N", "alice"),
            ("CHAP_R", right.as_str()),
            ("CHAP_I", "9"),
            ("CHAP_C", "0bAQIDBA=="),
        ];
        let mut answer = Pairs::default();
        chap.step(&pairs(&said), "iqn.x", &secrets(None), &mut answer)
            .unwrap();
        let right = Algorithm::Md5.response(9, b"another twelve bytes", &[1, 2, 3, 4]);
        assert_eq!(answer.get("CHAP_N"), Some("snapmark"));
        assert_eq!(answer.get("CHAP_R"), Some(hex(&right).as_str()));

        let (chap, right) = challenge("5");
        let Chap::Challenged(ours) = &chap else {
            panic!("no challenge");
        };
        let back = hex(&ours.bytes);
        let said = [
            ("CHAP_N", "alice"),
            ("CHAP_R", right.as_str()),
            ("CHAP_I", "9"),
            ("CHAP_C", back.as_str()),
        ];
        let done = chap.step(
            &pairs(&said),
            "iqn.x",
            &secrets(None),
            &mut Pairs::default(),
        );
        assert!(matches!(done, Err(Failure::Authentication(_))));
    }

    #[test]
    fn responses_are_those_of_the_standard() {
        // MD5 of 1, "secret", and four bytes, by md5sum.
        let response = Algorithm::Md5.response(1, b"secret", &[1, 2, 3, 4]);
        assert_eq!(hex(&response), "0xafd81c66f2d5f7fc733e1b2d88bb2630");
    }
}
