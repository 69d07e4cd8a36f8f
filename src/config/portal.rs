//! Where an iSCSI target listens.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The port that IANA gave iSCSI.
const PORT: u16 = 3260;

/// An address and a port: `127.0.0.1`, `192.0.2.1:3260`, `::1`, `[::1]:3260`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal(pub SocketAddr);

/// Text that is no portal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address to listen at: write an IP address, and maybe a port, as in 127.0.0.1:3260 or [::1]:3260"
)]
pub struct ParsePortalError(String);

impl FromStr for Portal {
    type Err = ParsePortalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let address = bare.unwrap_or(text).parse::<IpAddr>();
        let portal = match address {
            Ok(address) => Ok(SocketAddr::new(address, PORT)),
            Err(_) => text.parse(),
        };
        portal
            .map(Self)
            .map_err(|_| ParsePortalError(text.to_owned()))
    }
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Portal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Portal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Portal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as 127.0.0.1:3260")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Portal, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_left_out() {
        for (text, printed) in [
            ("127.0.0.1", "127.0.0.1:3260"),
            ("192.0.2.1:860", "192.0.2.1:860"),
            ("::1", "[::1]:3260"),
            ("[::]", "[::]:3260"),
            ("[2001:db8::1]:3261", "[2001:db8::1]:3261"),
        ] {
            let portal: Portal = text.parse().unwrap();
            assert_eq!(portal.to_string(), printed);
        }
        for bad in [
            "",
            "localhost",
            "1.2.3",
            "1.2.3.4:",
            "[::1",
            ":3260",
            "1.2.3.4:99999",
        ] {
            assert!(bad.parse::<Portal>().is_err(), "{bad}");
        }
    }
}
