//! Stores as text that people can read and compare: what is not zero of each device, in hex.
//!
//! ```text
//! device pages 1073741824
//! 0 534e41504d41524b
//! 8192 07*4096
//! ```
//!
//! A line is an offset and bytes, or one byte and how often it stands there.

use std::fmt::Write;
use std::io::IoSlice;
use std::sync::Arc;

use snapmark::device::{Device, Images, MemoryDevice};

/// Bytes in a line.
const LINE: usize = 64;
/// As many of one kind are counted.
const SAME: usize = 16;
const PART: u64 = 1 << 20;

/// The text of a store.
pub fn to_text(images: &Images) -> String {
    let mut text = String::new();
    for (name, device) in images {
        writeln!(text, "device {name} {}", device.len()).unwrap();
        for start in (0..device.len()).step_by(PART as usize) {
            let mut bytes = vec![0; (device.len() - start).min(PART) as usize];
            device.read_at(&mut bytes, start).unwrap();
            lines(&mut text, start, &bytes);
        }
    }
    text
}

fn lines(text: &mut String, start: u64, bytes: &[u8]) {
    let same = |at: usize| {
        bytes[at..]
            .iter()
            .take_while(|it| **it == bytes[at])
            .count()
    };
    let mut at = 0;
    while at < bytes.len() {
        let run = same(at);
        let offset = start + at as u64;
        if run >= SAME {
            if bytes[at] != 0 {
                writeln!(text, "{offset} {:02x}*{run}", bytes[at]).unwrap();
            }
            at += run;
            continue;
        }
        let mut end = at;
        while end < bytes.len() && end - at < LINE && same(end) < SAME {
            end += 1;
        }
        writeln!(text, "{offset} {}", hex(&bytes[at..end])).unwrap();
        at = end;
    }
}

/// The store of a text.
pub fn from_text(text: &str) -> Images {
    let mut images = Images::new();
    let mut device: Option<Arc<MemoryDevice>> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["device", name, len] => {
                let made = Arc::new(MemoryDevice::new(name, len.parse().unwrap()));
                images.insert(name.to_owned(), made.clone());
                device = Some(made);
            }
            [offset, bytes] => {
                let (device, offset) = (device.as_ref().unwrap(), offset.parse().unwrap());
                let bytes = from_hex(bytes);
                device.write_at(&[IoSlice::new(&bytes)], offset).unwrap();
            }
            _ => assert!(line.is_empty(), "{line}"),
        }
    }
    images
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hex digits, or of one byte and a count.
pub fn from_hex(text: &str) -> Vec<u8> {
    let (digits, count) = match text.split_once('*') {
        Some((digits, count)) => (digits, count.parse().unwrap()),
        None => (text, 1),
    };
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
    bytes.repeat(count)
}
