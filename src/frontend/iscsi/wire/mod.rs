//! Bytes of the protocol (RFC 7143, section 11): headers, text, and their way through a socket.
//! Knows the form of a PDU and nothing of what it asks for.

mod buffer;
mod header;
mod input;
mod output;
mod request;
mod text;

pub(super) use buffer::Buffer;
pub(super) use header::{BHS, Header, MAX_DATA_SEGMENT, NO_TAG, padded, response};
pub(super) use input::{Input, InputError, Meanwhile};
pub(super) use output::{Digests, Output, Reply, Room};
pub(super) use request::{
    Attribute, DataOut, Function, Login, Logout, LogoutReason, Malformed, NopOut, Request,
    ScsiCommand, Stage, TaskManagement, Text,
};
pub(super) use text::{MAX_TEXT, Pairs, TextError};
