//! Ways in for the fuzzer: each takes any bytes, and panics where what was understood is not understood
//! as the same again.

use super::login::Parameters;
use super::names::{file_name, target_name};
use super::scsi;
use super::wire::{BHS, Header, Pairs, Request};

/// A basic header segment.
pub fn header(data: &[u8]) {
    let mut bytes = [0; BHS];
    let len = data.len().min(BHS);
    bytes[..len].copy_from_slice(&data[..len]);
    let header = Header(bytes);
    if let Ok(Request::Scsi(command)) = Request::decode(&header) {
        assert_eq!(command.cdb, bytes[32..48]);
    }
}

/// Text of a login or of a text request.
pub fn text(data: &[u8]) {
    if let Ok(said) = Pairs::parse(data) {
        assert_eq!(Pairs::parse(&said.encode()).as_ref(), Ok(&said));
        for is_discovery in [false, true] {
            let mut parameters = Parameters::default();
            let answer = parameters.offer(&said, is_discovery);
            assert!(Pairs::parse(&answer.encode()).is_ok_and(|again| again == answer));
            assert!(
                parameters.first_burst <= parameters.max_burst && parameters.their_segment >= 512
            );
        }
    }
    let text = String::from_utf8_lossy(data);
    if let Some(file) = file_name("lab", &text) {
        assert_eq!(target_name("lab", &file).as_deref(), Some(&*text));
    }
}

/// A command descriptor block.
pub fn command(data: &[u8]) {
    let mut cdb = [0; 16];
    let len = data.len().min(16);
    cdb[..len].copy_from_slice(&data[..len]);
    if let Ok(prepared) = scsi::prepare(&cdb) {
        // A length of four bytes at the most, and never more than 1 MiB of blocks.
        assert!(prepared.data_out <= u64::from(u32::MAX));
    }
}
