//! What both sides agree on, key by key (RFC 7143, section 13).

use super::super::wire::{Digests, MAX_DATA_SEGMENT, Pairs};

/// The most bytes that a session moves by one R2T, or in one sequence of Data-In.
const MAX_BURST: u32 = 1 << 20;
/// The most unsolicited bytes that come with a command.
const FIRST_BURST: u32 = 256 << 10;
/// The segment length of a side that declares none.
const DEFAULT_SEGMENT: u32 = 8192;

/// What holds for a connection and its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Digests from the full feature phase on.
    pub digests: Digests,
    /// The most data that the initiator takes in a PDU, in bytes.
    pub their_segment: usize,
    /// Whether unsolicited Data-Out PDUs have to wait for an R2T.
    pub initial_r2t: bool,
    /// Whether data may come with a command.
    pub immediate_data: bool,
    /// The most that one R2T asks for, and one sequence of Data-In has, in bytes.
    pub max_burst: u32,
    /// The most unsolicited data of a command, in bytes.
    pub first_burst: u32,
    /// Whether we have said what we take.
    declared: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            their_segment: DEFAULT_SEGMENT as usize,
            initial_r2t: true,
            immediate_data: true,
            max_burst: 256 << 10,
            first_burst: 64 << 10,
            declared: false,
        }
    }
}

impl Parameters {
    /// Takes what the initiator offers, and adds our answers. Keys of the login that are not about
    /// operation are passed over.
    pub(super) fn negotiate(&mut self, said: &Pairs, is_discovery: bool, answer: &mut Pairs) {
        for (key, value) in said.iter() {
            if let Some(text) = self.answer(key, value, is_discovery) {
                answer.push(key, text);
            }
        }
        // Whatever the order of the keys.
        self.first_burst = self.first_burst.min(self.max_burst);
    }

    /// The answers to what the initiator offers, for the fuzzer.
    pub fn offer(&mut self, said: &Pairs, is_discovery: bool) -> Pairs {
        let mut answer = Pairs::default();
        self.negotiate(said, is_discovery, &mut answer);
        answer
    }

    /// Says what we take, once.
    pub(super) fn declare(&mut self, answer: &mut Pairs) {
        if !std::mem::replace(&mut self.declared, true) {
            answer.push("MaxRecvDataSegmentLength", MAX_DATA_SEGMENT.to_string());
        }
    }

    /// Takes what is offered in the full feature phase: of all keys only the segment's length may
    /// change there.
    pub fn renegotiate(&mut self, key: &str, value: &str) -> Option<String> {
        match key {
            "MaxRecvDataSegmentLength" => self.answer(key, value, false),
            _ if is_negotiated(key) || is_identity(key) => Some("Reject".to_owned()),
            _ => Some("NotUnderstood".to_owned()),
        }
    }

    /// The answer to a key, where it wants one.
    fn answer(&mut self, key: &str, value: &str, is_discovery: bool) -> Option<String> {
        let reject = || Some("Reject".to_owned());
        // Of a session that moves no data.
        let moot = is_discovery && is_about_data(key);
        match key {
            "HeaderDigest" => match digest(value) {
                Some(is_on) => {
                    self.digests.header = is_on;
                    Some(digest_name(is_on))
                }
                None => reject(),
            },
            "DataDigest" => match digest(value) {
                Some(is_on) => {
                    self.digests.data = is_on;
                    Some(digest_name(is_on))
                }
                None => reject(),
            },
            "MaxRecvDataSegmentLength" => match number(value, 512, (1 << 24) - 1) {
                Some(len) => {
                    self.their_segment = len as usize;
                    None
                }
                None => reject(),
            },
            _ if moot => Some("Irrelevant".to_owned()),
            "InitialR2T" => either(value, |theirs| {
                self.initial_r2t = theirs;
                theirs
            }),
            "ImmediateData" => either(value, |theirs| {
                self.immediate_data = theirs;
                theirs
            }),
            "MaxBurstLength" => least(value, 512, (1 << 24) - 1, MAX_BURST, |len| {
                self.max_burst = len;
            }),
            "FirstBurstLength" => least(value, 512, (1 << 24) - 1, FIRST_BURST, |len| {
                self.first_burst = len;
            }),
            "MaxConnections" => least(value, 1, 65535, 1, |_| {}),
            "MaxOutstandingR2T" => least(value, 1, 65535, 1, |_| {}),
            // A session ends with its connection: there is nothing to wait for or to keep.
            "DefaultTime2Wait" => number(value, 0, 3600)
                .map(|time| time.max(2).to_string())
                .or_else(reject),
            "DefaultTime2Retain" => least(value, 0, 3600, 0, |_| {}),
            "ErrorRecoveryLevel" => least(value, 0, 2, 0, |_| {}),
            "DataPDUInOrder" | "DataSequenceInOrder" => either(value, |_| true),
            // Markers went with RFC 7143.
            "IFMarker" | "OFMarker" => either(value, |_| false),
            "IFMarkInt" | "OFMarkInt" => Some("Irrelevant".to_owned()),
            "TaskReporting" => {
                let mut offered = value.split(',');
                offered
                    .any(|word| word == "RFC3720")
                    .then(|| "RFC3720".to_owned())
                    .or_else(reject)
            }
            // RFC 7144: 1 is what RFC 7143 describes.
            "iSCSIProtocolLevel" => least(value, 0, 31, 1, |_| {}),
            _ if is_identity(key) => None,
            _ => Some("NotUnderstood".to_owned()),
        }
    }
}

/// Keys that a login reads elsewhere, or that want no answer.
fn is_identity(key: &str) -> bool {
    const KEYS: [&str; 11] = [
        "InitiatorName",
        "InitiatorAlias",
        "TargetName",
        "SessionType",
        "AuthMethod",
        "CHAP_A",
        "CHAP_I",
        "CHAP_C",
        "CHAP_N",
        "CHAP_R",
        "TargetAlias",
    ];
    KEYS.contains(&key)
}

fn is_about_data(key: &str) -> bool {
    const KEYS: [&str; 8] = [
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxOutstandingR2T",
        "MaxConnections",
        "DataPDUInOrder",
        "DataSequenceInOrder",
    ];
    KEYS.contains(&key)
}

/// Whether both sides agree on a value.
pub fn is_negotiated(key: &str) -> bool {
    const OTHERS: [&str; 11] = [
        "HeaderDigest",
        "DataDigest",
        "DefaultTime2Wait",
        "DefaultTime2Retain",
        "ErrorRecoveryLevel",
        "TaskReporting",
        "iSCSIProtocolLevel",
        "IFMarker",
        "OFMarker",
        "IFMarkInt",
        "OFMarkInt",
    ];
    is_about_data(key) || OTHERS.contains(&key)
}

/// The first digest of a list that we know; whether it is CRC-32C.
fn digest(list: &str) -> Option<bool> {
    list.split(',').find_map(|name| match name {
        "CRC32C" => Some(true),
        "None" => Some(false),
        _ => None,
    })
}

fn digest_name(is_on: bool) -> String {
    if is_on { "CRC32C" } else { "None" }.to_owned()
}

/// A number, decimal or hexadecimal, within bounds.
fn number(text: &str, low: u32, high: u32) -> Option<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let all =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = match hexadecimal {
        Some(digits) => u32::from_str_radix(Some(digits).filter(|digits| all(digits))?, 16).ok()?,
        None => Some(text).filter(|text| all(text))?.parse().ok()?,
    };
    (low..=high).contains(&number).then_some(number)
}

/// The smaller of two numbers.
fn least(text: &str, low: u32, high: u32, ours: u32, set: impl FnOnce(u32)) -> Option<String> {
    match number(text, low, high) {
        Some(theirs) => {
            let agreed = theirs.min(ours);
            set(agreed);
            Some(agreed.to_string())
        }
        None => Some("Reject".to_owned()),
    }
}

/// A yes or no; `agree` says what comes of what they say.
fn either(text: &str, agree: impl FnOnce(bool) -> bool) -> Option<String> {
    let theirs = match text {
        "Yes" => true,
        "No" => false,
        _ => return Some("Reject".to_owned()),
    };
    Some(if agree(theirs) { "Yes" } else { "No" }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(said: &[(&str, &str)], is_discovery: bool) -> (Parameters, Pairs) {
        let (mut parameters, mut answer) = (Parameters::default(), Pairs::default());
        let mut pairs = Pairs::default();
        said.iter().for_each(|(key, value)| pairs.push(key, *value));
        parameters.negotiate(&pairs, is_discovery, &mut answer);
        (parameters, answer)
    }

    #[test]
    fn each_key_has_its_own_rule() {
        for (key, offered, answered) in [
            ("HeaderDigest", "CRC32C,None", Some("CRC32C")),
            ("HeaderDigest", "SHA,None", Some("None")),
            ("DataDigest", "SHA", Some("Reject")),
            ("MaxRecvDataSegmentLength", "0x10000", None),
            ("MaxRecvDataSegmentLength", "511", Some("Reject")),
            ("InitialR2T", "No", Some("No")),
            ("InitialR2T", "no", Some("Reject")),
            ("ImmediateData", "Yes", Some("Yes")),
            ("MaxBurstLength", "16776192", Some("1048576")),
            ("MaxBurstLength", "+5", Some("Reject")),
            ("FirstBurstLength", "4096", Some("4096")),
            ("MaxConnections", "8", Some("1")),
            ("DefaultTime2Wait", "0", Some("2")),
            ("DefaultTime2Retain", "20", Some("0")),
            ("ErrorRecoveryLevel", "2", Some("0")),
            ("DataPDUInOrder", "No", Some("Yes")),
            ("IFMarker", "Yes", Some("No")),
            ("TaskReporting", "FastAbort,RFC3720", Some("RFC3720")),
            ("iSCSIProtocolLevel", "2", Some("1")),
            ("X-com.example.key", "1", Some("NotUnderstood")),
            ("InitiatorAlias", "me", None),
        ] {
            let (_, answer) = negotiated(&[(key, offered)], false);
            assert_eq!(answer.get(key), answered, "{key}={offered}");
        }
        let (_, answer) = negotiated(&[("MaxBurstLength", "512"), ("HeaderDigest", "None")], true);
        assert_eq!(answer.get("MaxBurstLength"), Some("Irrelevant"));
        assert_eq!(answer.get("HeaderDigest"), Some("None"));
    }

    #[test]
    fn unsolicited_data_is_never_more_than_a_burst() {
        let (parameters, _) = negotiated(
            &[("FirstBurstLength", "65536"), ("MaxBurstLength", "8192")],
            false,
        );
        assert_eq!((parameters.first_burst, parameters.max_burst), (8192, 8192));
        assert_eq!(negotiated(&[], false).0, Parameters::default());
    }

    #[test]
    fn what_we_take_is_said_once() {
        let (mut parameters, mut answer) = negotiated(&[], false);
        parameters.declare(&mut answer);
        parameters.declare(&mut answer);
        assert_eq!(answer.encode(), b"MaxRecvDataSegmentLength=262144\0");
        assert_eq!(
            parameters.renegotiate("MaxRecvDataSegmentLength", "512"),
            None
        );
        assert_eq!(parameters.their_segment, 512);
        assert_eq!(
            parameters.renegotiate("InitialR2T", "No").as_deref(),
            Some("Reject")
        );
        assert_eq!(
            parameters.renegotiate("Novel", "1").as_deref(),
            Some("NotUnderstood")
        );
    }
}
