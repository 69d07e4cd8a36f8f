//! What disks and snapshots are called over iSCSI: `iqn.2026-11.io.snapmark:STORE:DISK`, and
//! `…:DISK:SNAPSHOT`.
//!
//! Such names know small letters, digits, `-`, `.` and `:` only (RFC 7143, section 4.2.7). Any other
//! byte becomes `-xHH`, its number in hexadecimal; so does a `-` that an `x` follows. What the time
//! named, as `2026-11-20T21-30-00Z`, has its two letters small instead.

/// The naming authority's part.
const AUTHORITY: &str = "iqn.2026-11.io.snapmark:";
/// The longest name, in bytes.
pub const LONGEST: usize = 223;

/// The name of a disk, or of a snapshot as `DISK@SNAPSHOT`; nothing where it would be too long.
pub fn target_name(store: &str, file_name: &str) -> Option<String> {
    let name = match file_name.split_once('@') {
        Some((disk, snapshot)) => format!(
            "{AUTHORITY}{}:{}:{}",
            escape(store),
            escape(disk),
            escape_snapshot(snapshot)
        ),
        None => format!("{AUTHORITY}{}:{}", escape(store), escape(file_name)),
    };
    (name.len() <= LONGEST).then_some(name)
}

/// The file name that a target's name stands for, if it is one of this store's.
pub fn file_name(store: &str, target: &str) -> Option<String> {
    let rest = target.strip_prefix(AUTHORITY)?;
    let rest = rest.strip_prefix(&escape(store))?.strip_prefix(':')?;
    let name = match rest.split_once(':') {
        Some((disk, snapshot)) => format!("{}@{}", unescape(disk)?, unescape_snapshot(snapshot)?),
        None => unescape(rest)?,
    };
    // Only as we write it, so that each has one name.
    (target_name(store, &name).as_deref() == Some(target)).then_some(name)
}

fn escape(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut out = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        let is_escape = *byte == b'-' && bytes.get(at + 1) == Some(&b'x');
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' => out.push(char::from(*byte)),
            b'-' if !is_escape => out.push('-'),
            _ => out.push_str(&format!("-x{byte:02x}")),
        }
    }
    out
}

fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = name;
    while let Some(at) = rest.find("-x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let digits = rest.get(at + 2..at + 4)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

fn escape_snapshot(name: &str) -> String {
    if is_time(name, b'T', b'Z') {
        name.to_ascii_lowercase()
    } else if is_time(name, b't', b'z') {
        name.replacen('t', "-x74", 1)
    } else {
        escape(name)
    }
}

fn unescape_snapshot(name: &str) -> Option<String> {
    if is_time(name, b't', b'z') {
        Some(name.to_ascii_uppercase())
    } else {
        unescape(name)
    }
}

/// Whether it is `0000-00-00T00-00-00Z`, with these letters, and maybe a number behind a dot.
fn is_time(name: &str, t: u8, z: u8) -> bool {
    const FORM: &[u8] = b"0000-00-00T00-00-00Z";
    let bytes = name.as_bytes();
    let fits = |(have, form): (&u8, &u8)| match form {
        b'0' => have.is_ascii_digit(),
        b'T' => *have == t,
        b'Z' => *have == z,
        other => have == other,
    };
    let Some((time, rest)) = bytes.split_at_checked(FORM.len()) else {
        return false;
    };
    let number = rest.strip_prefix(b".").unwrap_or(b"0");
    let has_number = rest.is_empty() || (rest[0] == b'.' && !number.is_empty());
    time.iter().zip(FORM).all(fits) && has_number && number.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for name in [
            "vm1.img",
            "VM1.img",
            "Größe_1",
            "a-x",
            "-x41",
            "a:b",
            "vm1.img@before-upgrade",
            "vm1.img@2026-11-20T21-30-00Z",
            "vm1.img@2026-11-20T21-30-00Z.2",
            "vm1.img@2026-11-20t21-30-00z",
            "vm1.img@2026-11-20T21-30-00Z.x",
            "vm1.img@2026-11-20T21-30-00Z.",
            "a:b@c:d",
        ] {
            let target = target_name("lab", name).unwrap();
            assert_eq!(file_name("lab", &target).as_deref(), Some(name), "{target}");
            let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert!(
                target
                    .bytes()
                    .all(|byte| letters(byte) || b".-:".contains(&byte)),
                "{target}"
            );
        }
        let target = target_name("My Lab", "vm1.img@2026-11-20T21-30-00Z").unwrap();
        assert_eq!(
            target,
            "iqn.2026-11.io.snapmark:-x4dy-x20-x4cab:vm1.img:2026-11-20t21-30-00z"
        );
    }

    #[test]
    fn no_two_names_lead_to_one_disk() {
        for other in [
            "iqn.2026-11.io.snapmark:lab:-x61",
            "iqn.2026-11.io.snapmark:lab:a-x2d",
            "iqn.2026-11.io.snapmark:lab:a-x",
            "iqn.2026-11.io.snapmark:lab:a-xzz",
            "iqn.2026-11.io.snapmark:lab:a-x4",
            "iqn.2026-11.io.snapmark:lab:-xc3",
            "iqn.2026-11.io.snapmark:lab",
            "iqn.2026-11.io.snapmark:barn:a",
            "iqn.2026-11.io.snapmark:lab:A",
            "eui.02004567A425678D",
        ] {
            assert_eq!(file_name("lab", other), None, "{other}");
        }
    }

    #[test]
    fn what_is_too_long_has_no_name() {
        assert_eq!(target_name("lab", &"Ü".repeat(100)), None);
    }
}
