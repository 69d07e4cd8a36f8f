//! The parts of `contrib/power-loss/run` that a shell is no good for: writing to a store with a
//! record of what was acknowledged when, replaying the log of dm-log-writes, and comparing what a
//! cut left with the record.

#![allow(clippy::unwrap_used, reason = "a test, though run by hand")]

mod log;
mod record;
#[path = "../../tests/common/torture/mod.rs"]
mod torture;
mod verify;
mod write;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "power-loss", about = "Parts of contrib/power-loss/run")]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Makes a store, writes to it and records that
    Write(write::Write),
    /// Lists flushes in a log, spread over it
    Points(log::Points),
    /// Writes to an image what a log says
    Replay(log::Replay),
    /// Serves what a cut left, and compares it with the record
    Verify(verify::Verify),
}

fn main() -> ExitCode {
    let verb = std::env::args().nth(1);
    if verb.is_some_and(|verb| ["init", "mount"].contains(&verb.as_str())) {
        return snapmark::cli::main();
    }
    match Arguments::parse().part {
        Part::Write(part) => part.run(),
        Part::Points(part) => part.run(),
        Part::Replay(part) => part.run(),
        Part::Verify(part) => part.run(),
    }
    ExitCode::SUCCESS
}
