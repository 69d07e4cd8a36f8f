//! Ways in for the fuzzer: each takes any bytes, and panics where what was understood is not understood
//! as the same again.

use std::io::Write;
use std::net::TcpStream;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::login::Parameters;
use super::names::{file_name, target_name};
use super::scsi;
use super::wire::{
    BHS, Digests, Header, Input, InputError, MAX_DATA_SEGMENT, Pairs, Request, padded,
};
use crate::base::checksum;

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

/// PDUs one after the other, until the connection ends wherever the bytes do. The first byte says which
/// digests there are, which are right; what goes in comes out.
pub fn stream(data: &[u8]) {
    // So much a socket takes though nobody reads.
    const MOST: usize = 32 << 10;
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let digests = Digests {
        header: first & 1 != 0,
        data: first & 2 != 0,
    };
    let mut rest = &rest[..rest.len().min(MOST)];
    let (mut sent, mut pdus) = (Vec::new(), Vec::new());
    let add = |sent: &mut Vec<u8>, bytes: &[u8], has_digest: bool| {
        sent.extend_from_slice(bytes);
        if has_digest {
            sent.extend(checksum(bytes).0.to_le_bytes());
        }
    };
    let end = loop {
        let Some((bytes, after)) = rest.split_first_chunk::<BHS>() else {
            sent.extend_from_slice(rest);
            break if rest.is_empty() { "closed" } else { "cut" };
        };
        let header = Header(*bytes);
        let (ahs, len) = (header.ahs_len(), header.data_len());
        if after.len() < ahs {
            sent.extend_from_slice(rest);
            break "cut";
        }
        let (head, after) = rest.split_at(BHS + ahs);
        add(&mut sent, head, digests.header);
        if len > MAX_DATA_SEGMENT {
            break "too long";
        }
        if after.len() < padded(len) {
            sent.extend_from_slice(after);
            pdus.push((header, None));
            break "cut";
        }
        let (padded, after) = after.split_at(padded(len));
        if len > 0 {
            add(&mut sent, padded, digests.data);
        }
        pdus.push((header, Some(&padded[..len])));
        rest = after;
    };
    let pair = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let Ok((ours, theirs)) = pair else { return };
    // It receives from whatever socket this is.
    let (mut ours, theirs) = (TcpStream::from(ours), TcpStream::from(theirs));
    if ours.write_all(&sent).is_err() {
        return;
    }
    drop(ours);
    let mut input = Input::new(theirs);
    input.set_digests(digests);
    let mut error = None;
    for (header, data) in pdus {
        let found = input.header(&mut || ());
        assert!(found.is_ok_and(|found| found.is_some_and(|found| found.0 == header.0)));
        // One way or another.
        let found = match header.0[16] % 3 {
            0 => input.data(&mut || ()).map(<[u8]>::to_vec),
            1 => {
                let mut found = vec![0; header.data_len()];
                input.data_into(&mut found, &mut || ()).map(|()| found)
            }
            _ => input
                .skip_data(&mut || ())
                .map(|()| data.unwrap_or_default().to_vec()),
        };
        match (found, data) {
            (Ok(found), Some(data)) => assert!(found == data),
            (Err(cut), None) => error = Some(cut),
            (found, data) => panic!("{found:?}, and not {data:?}"),
        }
    }
    let error = error.or_else(|| input.header(&mut || ()).err());
    assert!(
        matches!(
            (end, &error),
            ("closed", Some(InputError::Closed))
                | ("cut", Some(InputError::Cut))
                | ("too long", Some(InputError::TooLong(_)))
        ),
        "{end}: {error:?}"
    );
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
